"""What the EMILIE benchmark says about each way: of the chains edit by edit, of the masked edits and of the five at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from _emilie_chain import KINDS, Chain, chain_edits, truth_after
from _emilie_world import autoencoder, hard_masks
from reedit.models.metrics.similarity import SimilarityMaps
from reedit.models.metrics.spectrum import fine_detail
from tiny_sd.judge import RIGHT_INSIDE
from tiny_sd.language import EDIT_KINDS
from torch import Tensor

SHOWN = (1, 5, 15, 25)  # edits of a chain
PSNR, SSIM, ENERGY = "PSNR, dB", "SSIM", "energy above half Nyquist, of the truth's"
LEAST_ERROR = 1e-10  # squared; 100 dB, far below what 8 bits can show

Result = dict[str, Tensor]


def decibels(squared_errors: Tensor) -> Tensor:
    """PSNR of pictures in 0..1."""
    return -10 * squared_errors.clamp(min=LEAST_ERROR).log10()


def shown_edits(length: int) -> list[int]:
    return [number for number in SHOWN if number <= length]


def chain_psnr(chain: Chain, result: Result, number: int, seed: int) -> Tensor:
    """(B,): of each picture after an edit, against the exact one."""
    pictures, truth = decoded(chain, result, number), truth_after(chain_edits(0, len(result["samples"]), seed), number)
    return decibels((pictures - truth).square().mean((1, 2, 3)))


def decoded(chain: Chain, result: Result, number: int) -> Tensor:
    """The pictures after an edit, (B, SIZE, SIZE, 3) in 0..1."""
    with torch.inference_mode():
        return autoencoder(chain.reed).decode(result["samples"][:, number - 1].contiguous()).clamp(0, 1)


def chain_figures(chain: Chain, result: Result, seed: int) -> dict[str, Any]:
    """By the number of the edit. Of PSNR and SSIM the mean of the scenes, of all and by kind of edit."""
    edits = chain_edits(0, len(result["samples"]), seed)
    outside = 1 - hard_masks(edits)
    first = decoded(chain, result, 1)
    kinds = np.asarray([edit.kind for edit in edits])
    figures: dict[str, Any] = {}
    for number in shown_edits(result["samples"].shape[1]):
        pictures, truth = decoded(chain, result, number), truth_after(edits, number)
        error = (pictures - truth).square().mean(-1)
        psnr = decibels(error.mean((1, 2))).numpy()
        pairs = zip(pictures, truth, strict=True)
        ssim = np.asarray([SimilarityMaps(picture[None], other[None]).ssim() for picture, other in pairs])
        figures[str(number)] = {
            PSNR: float(psnr.mean()),
            SSIM: float(ssim.mean()),
            ENERGY: fine_detail(pictures) / fine_detail(truth),
            "PSNR outside of the mask, dB": float(decibels((error * outside).sum((1, 2)) / outside.sum((1, 2))).mean()),
            "PSNR against its own first edit, dB": float(decibels((pictures - first).square().mean((1, 2, 3))).mean()),
            "deviation of the latents": float(result["samples"][:, number - 1].std()),
            "by kind": {
                kind: {PSNR: float(psnr[kinds == kind].mean()), SSIM: float(ssim[kinds == kind].mean())}
                for kind in KINDS
                if kind in kinds
            },
        }
    return figures


def chain_lead(ours: Chain, other: Chain, results: dict[Any, Result], seed: int) -> dict[str, dict[str, float]]:
    """By how many dB of PSNR ours leads, scene by scene: the mean, and its standard error."""
    leads = {}
    for number in shown_edits(results[ours]["samples"].shape[1]):
        each = chain_psnr(ours, results[ours], number, seed) - chain_psnr(other, results[other], number, seed)
        leads[str(number)] = {"lead, dB": float(each.mean()), "standard error": float(each.std() / len(each) ** 0.5)}
    return leads


def masked_figures(result: Result) -> dict[str, Any]:
    """The figures of all masked edits, and by kind of edit."""
    count = len(result["right inside"])
    kinds = np.asarray([EDIT_KINDS[number % len(EDIT_KINDS)] for number in range(count)])
    everything = _masked(result, torch.ones(count, dtype=torch.bool))
    by_kind = {kind: _masked(result, torch.from_numpy(kinds == kind)) for kind in EDIT_KINDS if kind in kinds}
    return {**everything, "by kind": by_kind}


def _masked(result: Result, which: Tensor) -> dict[str, float]:
    # Of the mean error: what did not change at all has no PSNR of its own.
    change = decibels(result["squared change in the ring"][which].mean())
    return {
        "edit success": float((result["right inside"][which] >= RIGHT_INSIDE).float().mean()),
        "right pixels inside": float(result["right inside"][which].mean()),
        "PSNR outside, dB": float(decibels(result["squared error outside"][which]).mean()),
        "PSNR in the ring, dB": float(decibels(result["squared error in the ring"][which]).mean()),
        "PSNR in the ring against the VAE's own, dB": float(change),
        "wrong pixels in the ring": float(result["wrong in the ring"][which].mean()),
    }


def five_figures(result: Result) -> dict[str, Any]:
    right = result["right inside"] >= RIGHT_INSIDE
    figures: dict[str, Any] = {
        "edit success": float(right.float().mean()),
        "by instruction": right.float().mean(0).tolist(),
        "right pixels inside": float(result["right inside"].mean()),
    }
    if "squared error" in result:
        figures["PSNR of the whole picture, dB"] = float(decibels(result["squared error"]).mean())
    return figures


def print_chains(figures: dict[str, Any]) -> None:
    """A line for each chain: PSNR, SSIM and energy, each at the edits shown."""
    if not figures:
        return
    numbers = list(next(iter(figures.values())))
    width = max(len(name) for name in figures)
    print(f"\n{'after edits ' + ', '.join(numbers):{width}}   PSNR, dB; outside; SSIM; energy above half Nyquist")
    for name, by_edit in figures.items():
        columns = [
            " ".join(f"{by_edit[number][figure]:{form}}" for number in numbers)
            for figure, form in (
                (PSNR, "5.2f"),
                ("PSNR outside of the mask, dB", "5.2f"),
                (SSIM, ".3f"),
                (ENERGY, ".2f"),
            )
        ]
        print(f"{name:{width}}   " + "   ".join(columns))


def print_masked(figures: dict[str, Any]) -> None:
    if not figures:
        return
    width = max(len(name) for name in figures)
    kinds = " ".join(f"{kind:>10}" for kind in EDIT_KINDS)
    print(f"\n{'':{width}} success inside outside  ring  (VAE)  wrong {kinds}")
    for name, entry in figures.items():
        by_kind = " ".join(f"{found['edit success']:10.2f}" for found in entry["by kind"].values())
        print(
            f"{name:{width}} {entry['edit success']:7.2f} {entry['right pixels inside']:6.2f} "
            f"{entry['PSNR outside, dB']:7.2f} {entry['PSNR in the ring, dB']:5.2f} "
            f"{entry['PSNR in the ring against the VAE' + chr(39) + 's own, dB']:6.2f} "
            f"{entry['wrong pixels in the ring']:6.3f} {by_kind}"
        )


def print_five(figures: dict[str, Any]) -> None:
    for name, entry in figures.items():
        each = " ".join(f"{share:.2f}" for share in entry["by instruction"])
        psnr = entry.get("PSNR of the whole picture, dB")
        print(f"{name:60} success {entry['edit success']:.2f} ({each})" + ("" if psnr is None else f", {psnr:.2f} dB"))
