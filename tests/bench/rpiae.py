"""`dev.py bench rpiae`: what holding an encoder near its pivot keeps, what it gains, and how well its tokens tell an edit.

Goals from issue 9. Writes build/bench/rpiae.json and rpiae*.png.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _host
import _rpiae_drift
import torch
from _epsilon_arms import in_batches
from _epsilon_sheet import draw_sheet
from _reed_pictures import scenes
from _report import goal, write_report
from _rpiae_probe import probe
from _rpiae_sheet import draw_heat_maps
from reedit.models.autoencoders.dinov2 import PICTURE_DEVIATION, PICTURE_MEAN, load_dinov2, read_dinov2
from reedit.models.autoencoders.rpiae import RPiAE, load_rpiae
from reedit.models.autoencoders.rpiae_layout import StoredRPiAE
from reedit.models.metrics.round_trip import mean_figures, measure_picture
from reedit.models.training.rpiae import BRIDGE, DECODER, PIVOT
from tiny_sd.train_rpiae import DEMO, FOLDER, FREE, FROZEN, RUNS, kept
from tiny_sd.train_vision_encoder import FILE
from torch import Tensor

NAMES = {
    FROZEN: "frozen encoder",
    FREE: "fine-tuned without pivot",
    PIVOT: "fine-tuned with pivot",
    DECODER: "bridged to few channels",
}
DROP, GAIN = 2.0, 3.0  # points of accuracy, dB
EDITS, QUIET = 0.9, 0.1  # the AUC of edits, and how far from 0.5 that of noise may be
DRIFT_PAIRS = 200
KINDS = (
    "It is the changes of the background (figures: AUC by kind of edit): a vision model that was taught labels alone sees "
    "another ground under the objects as well, and its tokens for grounds are near to one another."
)


def network_of(name: str, weights: Path) -> RPiAE:
    stored = kept(name, weights)
    # float32: what is kept in half of it is measured, not the arithmetic.
    return load_rpiae(
        StoredRPiAE(stored.config, {key: one.float() for key, one in stored.tensors.items()}, stored.about)
    )


def round_trip(network: RPiAE, bridged: bool) -> Callable[[Tensor], Tensor]:
    """Pictures through the encoder and the pixel decoder, behind the bridge or without it."""
    if bridged:
        return lambda pictures: network.decode(network.encode(pictures))
    return lambda pictures: network.draw(network.tokens(pictures))


def representation(network: RPiAE, bridged: bool) -> Callable[[Tensor], Tensor]:
    """What a probe reads, (B, patches, C): the latent's cells, or the tokens."""
    if bridged:
        return lambda pictures: network.encode(pictures).flatten(2).mT
    return network.tokens


def dinov2_tokens(weights: Path) -> Callable[[Tensor], Tensor]:
    """The demo's vision model as it was before any RPiAE."""
    stored = read_dinov2(weights / FILE.name)
    network = load_dinov2(stored).float()
    mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in (PICTURE_MEAN, PICTURE_DEVIATION))

    def tokens(pictures: Tensor) -> Tensor:
        return network((pictures - mean) / deviation).last_hidden_state[:, 1 + stored.registers :]

    return tokens


def measure_arms(weights: Path, count: int, seed: int) -> tuple[dict[str, dict[str, Any]], dict[str, Tensor]]:
    """Figures of each arm, and the pictures that it made."""
    originals = scenes(count, seed).movedim(-1, 1).contiguous()
    figures, made = {}, {"original": originals}
    for name, title in NAMES.items():
        network, bridged = network_of(name, weights), name == DECODER
        pictures = in_batches(round_trip(network, bridged), originals).clamp(0, 1)
        pairs = zip(pictures.movedim(1, -1), originals.movedim(1, -1), strict=True)
        mean = mean_figures([measure_picture(picture, original, original) for picture, original in pairs])
        read = probe(representation(network, bridged), seed)
        figures[title] = {
            "PSNR, dB": mean.psnr,
            "SSIM": mean.ssim,
            "probe, colour, %": read["colour"],
            "probe, shape, %": read["shape"],
            "numbers of a picture": network.config.cells**2
            * (network.config.channels if bridged else network.config.width),
        }
        made[title] = pictures
    return figures, made


def arm_goals(figures: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    frozen, free, pivot = (figures[NAMES[name]] for name in (FROZEN, FREE, PIVOT))
    goals = [
        goal(
            "PSNR gained by fine-tuning with the pivot over the frozen encoder",
            pivot["PSNR, dB"] - frozen["PSNR, dB"],
            "at least",
            GAIN,
            "dB",
        )
    ]
    for name in ("colour", "shape"):
        lost = frozen[f"probe, {name}, %"] - pivot[f"probe, {name}, %"]
        without = frozen[f"probe, {name}, %"] - free[f"probe, {name}, %"]
        said = f"probe of {name}: points lost with the pivot (without: {without:.1f})"
        goals.append(goal(said, lost, "at most", DROP, "points"))
    return goals


def drift_goals(drift: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    goals = []
    for name, figures in drift.items():
        edits, noise = (
            figures["AUC, edited patches against untouched ones"],
            figures["AUC of the same patches under noise"],
        )
        goals.append(goal(f"semantic drift by {name}: AUC on edits", edits, "at least", EDITS, "", KINDS))
        why = (
            "A round trip's error lies where objects and their edges are, which are the patches that edits touch: so patches "
            "do not drift alike under it. How much they drift: figures, mean drift under noise."
        )
        said = f"semantic drift by {name}: distance of the AUC from 0.5 under noise of equal MSE"
        goals.append(goal(said, abs(noise - 0.5), "at most", QUIET, "", why))
    return goals


def print_table(figures: dict[str, dict[str, Any]]) -> None:
    print(f"\n{'':26}   PSNR   SSIM  colour  shape  numbers")
    for name, row in figures.items():
        psnr, ssim, colour, shape, numbers = row.values()
        print(f"{name:26} {psnr:6.2f} {ssim:6.3f} {colour:6.1f}% {shape:5.1f}% {numbers:8}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--count", type=int, default=200, help="scenes; fewer for a quick try")
    parser.add_argument("--weights", type=Path, default=_host.WEIGHTS, help="the folder with the files and logs")
    options = parser.parse_args()
    weights, count, seed = options.weights.resolve(), options.count, options.seed
    files = [FILE.name, DEMO.name, *(f"{FOLDER.name}/{name}.safetensors" for name in (FROZEN, FREE, PIVOT))]
    missing = [file for file in files if not (weights / file).exists()]
    if missing:
        raise SystemExit(f"These files are not there: {', '.join(missing)}. Train them: tests/tiny_sd/README.md")
    started = time.perf_counter()
    figures, made = measure_arms(weights, count, seed)
    print_table(figures)
    draw_sheet("rpiae_sheet", made)
    pairs = _rpiae_drift.Pairs(min(count, DRIFT_PAIRS), seed)
    noised = _rpiae_drift.worn(pairs, weights)
    encoders = {
        "the demo's DINOv2": dinov2_tokens(weights),
        "the demo's RPiAE": network_of(DECODER, weights).tokens,
    }
    drift = {name: _rpiae_drift.measure(tokens, pairs, noised) for name, tokens in encoders.items()}
    draw_heat_maps(pairs, noised, encoders["the demo's RPiAE"])
    logs = {
        name: (weights / FOLDER.name / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[-1] for name in RUNS
    }
    all_figures = {
        "arms": figures,
        "semantic drift": drift,
        "noise": f"the error of {_rpiae_drift.PASSES} round trips of the demo's VAE, scaled to each edit's MSE",
        "last rows of the logs": logs,
        "stages of the bridged one": [PIVOT, BRIDGE, DECODER],
        "the benchmark's own time, minutes": (time.perf_counter() - started) / 60,
    }
    write_report("rpiae", seed, all_figures, arm_goals(figures) + drift_goals(drift))


if __name__ == "__main__":
    main()
