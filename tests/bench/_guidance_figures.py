"""What the guidance benchmark says about a way to edit: success inside, PSNR outside, their product, and the mask's IoU."""

from __future__ import annotations

from typing import Any

import numpy as np
from tiny_sd.judge import RIGHT_INSIDE
from tiny_sd.language import EDIT_KINDS

RESAMPLED = 2000  # draws of the edits, with replacement
LEAST_ERROR = 1e-10  # squared; 100 dB, far below what 8 bits can show

Result = dict[str, Any]


def decibels(squared_errors: Any) -> np.ndarray:
    """PSNR of pictures in 0..1."""
    return -10 * np.log10(np.maximum(squared_errors, LEAST_ERROR))


def successes(result: Result) -> np.ndarray:
    return np.asarray(result["right inside"]) >= RIGHT_INSIDE


def product(result: Result, which: Any = slice(None)) -> float:
    """Edit success times PSNR outside in dB, of some of the edits."""
    return float(successes(result)[which].mean() * decibels(result["squared error outside"])[which].mean())


def summary(result: Result) -> dict[str, Any]:
    """The figures of all edits, and the main ones by kind of edit."""
    kinds = np.asarray(result["kind"])
    figures = {**_figures(result, kinds == kinds), "by kind": {k: _figures(result, kinds == k) for k in EDIT_KINDS}}
    changes = result["largest change where the mask is 0"]
    return figures if changes is None else {**figures, "largest change where the mask is 0": max(changes)}


def _figures(result: Result, which: np.ndarray) -> dict[str, Any]:
    figures = {
        "edit success": float(successes(result)[which].mean()),
        "right pixels inside": float(np.asarray(result["right inside"])[which].mean()),
        "PSNR outside, dB": float(decibels(result["squared error outside"])[which].mean()),
        # Of the mean error: a picture that did not change at all has no PSNR.
        "PSNR outside against the VAE's own, dB": float(
            decibels(np.asarray(result["squared error outside, against the VAE's own"])[which].mean())
        ),
        "success × PSNR outside": product(result, which),
    }
    if result["IoU"] is not None:
        figures["IoU of the mask"] = float(np.asarray(result["IoU"])[which].mean())
    return figures


def lead(ours: Result, other: Result, seed: int) -> dict[str, float]:
    """By how much ours leads on the product, with a 90 % interval from edits drawn again, both ways alike (bootstrap)."""
    generator = np.random.default_rng(seed)
    count = len(ours["kind"])
    drawn = generator.integers(0, count, (RESAMPLED, count))
    leads = [product(ours, which) - product(other, which) for which in drawn]
    low, high = np.percentile(leads, [5, 95])
    return {"lead": product(ours) - product(other), "from": float(low), "to": float(high)}


def print_table(results: dict[Any, Result]) -> None:
    """A line for each case, with its success by kind."""
    width = max(len(str(case)) for case in results)
    kinds = " ".join(f"{kind:>10}" for kind in EDIT_KINDS)
    print(f"{'':{width}} success inside outside  (VAE) product   IoU {kinds}")
    for case, result in results.items():
        print(f"{case!s:{width}} {line(result)}")


def line(result: Result) -> str:
    figures = summary(result)
    against_vae, iou = figures["PSNR outside against the VAE's own, dB"], figures.get("IoU of the mask")
    return (
        f"{figures['edit success']:7.2f} {figures['right pixels inside']:6.2f} {figures['PSNR outside, dB']:7.2f}"
        f" {against_vae:6.1f} {figures['success × PSNR outside']:7.2f} {'' if iou is None else format(iou, '.2f'):>5} "
        + " ".join(f"{figures['by kind'][kind]['edit success']:10.2f}" for kind in EDIT_KINDS)
    )
