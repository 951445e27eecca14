"""Trained on 64 px: what the decoders make of larger pictures, which are mosaics of scenes, and of them in tiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import _host  # noqa: F401
import torch
from _epsilon_arms import Compression, deterministic, epsilon, in_batches
from _epsilon_quality import DETERMINISTIC, edge_sharpness, steps_name
from _reed_pictures import scenes
from reedit.models.autoencoders.epsilon_tiles import velocity_in_tiles
from reedit.models.metrics.round_trip import mean_figures, measure_picture
from tiny_sd.world import SIZE
from torch import Tensor

SIDES = (64, 128, 256, 512)
PIXELS = 3 * 512**2  # of each size as many pixels, so that figures are as sure
TILED_SIDE, TILES = 512, (128, 192)
SHOWN_STEPS = (1, 3)


def mosaics(side: int, seed: int) -> Tensor:
    """Pictures of `side` pixels, (B, 3, side, side), each of whole scenes beside each other."""
    across, count = side // SIZE, PIXELS // side**2
    drawn = scenes(count * across**2, seed + 2).view(count, across, across, SIZE, SIZE, 3)
    return drawn.permute(0, 5, 1, 3, 2, 4).reshape(count, 3, side, side)


def measure(compression: Compression, weights: Path, seed: int) -> dict[str, Any]:
    """By the side in pixels and the decoder: PSNR, SSIM, edge sharpness."""
    figures: dict[str, Any] = {}
    plain = deterministic(compression, weights)
    for side in SIDES:
        originals = mosaics(side, seed)
        at_once = max(1, 20 * 64**2 // side**2)
        latents = in_batches(plain.encode, originals, at_once)
        decoders = {DETERMINISTIC: plain} | {
            steps_name(steps): epsilon(compression, weights, steps) for steps in SHOWN_STEPS
        }
        for name, network in decoders.items():
            decoded = in_batches(network.decode, latents, at_once).clamp(0, 1)
            pairs = zip(decoded.movedim(1, -1), originals.movedim(1, -1), strict=True)
            found = mean_figures([measure_picture(picture, original, original) for picture, original in pairs])
            sharpness = edge_sharpness(decoded, originals)
            figures.setdefault(f"{side} px", {})[name] = {
                "PSNR, dB": found.psnr,
                "SSIM": found.ssim,
                "edge sharpness": sharpness,
            }
    return figures


def measure_tiles(compression: Compression, weights: Path, seed: int) -> dict[str, float]:
    """By the tile's side: the largest difference from the picture that was decoded whole, in 8-bit grey levels."""
    network = epsilon(compression, weights, 3)
    decoder = network.decoder
    with torch.inference_mode():
        latent = network.encode(mosaics(TILED_SIDE, seed)[:1])
        whole = decoder.decode(latent, 0, 3)
        differences = {}
        for tile in TILES:

            def in_tiles(noised: Tensor, time: Tensor, condition: Tensor, tile: int = tile) -> Tensor:
                return velocity_in_tiles(decoder, noised, time, condition, tile, noised.device)

            differences[f"tiles of {tile} px"] = float(
                255 * (decoder.decode(latent, 0, 3, in_tiles) - whole).abs().max()
            )
    return differences
