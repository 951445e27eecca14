"""What decoded scenes are like: nearness to the original, sharpness, how likely as scenes, and how far seeds differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import _host  # noqa: F401
import numpy as np
import torch
from _epsilon_arms import STEPS, Compression, deterministic, epsilon, in_batches
from _reed_features import features, frechet_distance
from _reed_pictures import scenes
from kornia.filters import spatial_gradient
from reedit.models.metrics.round_trip import mean_figures, measure_picture
from torch import Tensor

SEEDS = 8
SEED_SCENES = 20  # pictures that are decoded with every seed
EDGES = 0.05  # the share of a picture's pixels that count as its edges: the steepest
DETERMINISTIC = "deterministic"
FRECHET, SHARPNESS, VARIANCE = "Fréchet distance", "edge sharpness", "standard deviation over seeds, grey levels"


def steps_name(steps: int) -> str:
    return f"{steps} step" if steps == 1 else f"{steps} steps"


def steepness(pictures: Tensor) -> Tensor:
    """The length of the grey gradient in each pixel, (B, H, W), of (B, 3, H, W)."""
    slopes = spatial_gradient(pictures.mean(1, keepdim=True), "diff", 1)  # (B, 1, 2, H, W)
    return slopes.square().sum(2).sqrt()[:, 0]


def edge_sharpness(decoded: Tensor, originals: Tensor) -> float:
    """How steep the decoded pictures are at the originals' edges, as a share of how steep those are: blur makes it less."""
    steep = steepness(originals)
    count = int(EDGES * steep[0].numel())
    edges = steep.flatten(1).topk(count).indices
    found, wanted = (steepness(pictures).flatten(1).gather(1, edges).mean() for pictures in (decoded, originals))
    return float(found / wanted)


def quality(decoded: Tensor, originals: Tensor, original_features: np.ndarray) -> dict[str, Any]:
    """Of pictures (B, 3, H, W) in 0..1."""
    pairs = zip(decoded.movedim(1, -1), originals.movedim(1, -1), strict=True)
    figures = mean_figures([measure_picture(picture, original, original) for picture, original in pairs])
    return {
        "PSNR, dB": figures.psnr,
        "SSIM": figures.ssim,
        FRECHET: frechet_distance(original_features, features(decoded.movedim(1, -1))),
        SHARPNESS: edge_sharpness(decoded, originals),
        "energy above half Nyquist, grey levels²": figures.fine_detail,
    }


def seed_variance(compression: Compression, steps: int, latents: Tensor, weights: Path) -> float:
    """The standard deviation of a pixel over seeds, the mean over pixels, in 8-bit grey levels."""
    decoded = torch.stack(
        [
            in_batches(epsilon(compression, weights, steps, seed).decode, latents[:SEED_SCENES]).clamp(0, 1)
            for seed in range(SEEDS)
        ]
    )
    return float(255 * decoded.var(0).mean().sqrt())


def measure(compression: Compression, weights: Path, count: int, seed: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Figures by decoder ("deterministic", "1 step", …), and the pictures that each made, (count, 3, H, W) in 0..1."""
    originals = scenes(count, seed).movedim(-1, 1).contiguous()
    known = features(originals.movedim(1, -1))
    latents = in_batches(deterministic(compression, weights).encode, originals)
    made = {DETERMINISTIC: in_batches(deterministic(compression, weights).decode, latents).clamp(0, 1)}
    for steps in STEPS:
        made[steps_name(steps)] = in_batches(epsilon(compression, weights, steps).decode, latents).clamp(0, 1)
    figures = {name: quality(decoded, originals, known) for name, decoded in made.items()}
    for steps in STEPS:
        figures[steps_name(steps)][VARIANCE] = seed_variance(compression, steps, latents, weights)
    others = features(scenes(count, seed + 1))
    about = quality(originals, originals, known)
    figures["the originals"] = {**about, "SSIM": 1.0, FRECHET: frechet_distance(known, others)}
    return figures, {"original": originals, **made}


def print_table(title: str, figures: dict[str, Any]) -> None:
    print(f"\n{title}\n{'':16}   PSNR   SSIM  Fréchet  edges  energy  seeds")
    for name, row in figures.items():
        distance = float("nan") if row[FRECHET] is None else row[FRECHET]
        values = [
            row["PSNR, dB"],
            row["SSIM"],
            distance,
            row[SHARPNESS],
            row["energy above half Nyquist, grey levels²"],
        ]
        print(f"{name:16} {'{:6.2f} {:6.3f} {:8.4f} {:6.3f} {:7.1f}'.format(*values)} {row.get(VARIANCE, 0):6.2f}")
