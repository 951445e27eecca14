"""What a decode costs against the deterministic decoder of the same size: operations, seconds in the same run, memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _host  # noqa: F401
import torch
from _epsilon_arms import STEPS, Compression, decoder_parameters, deterministic, epsilon
from _reed_size import LiveTensors
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

REPEATS = 7
TIMED = (1, 3)  # steps
SIDES = {64: 8, 256: 1}  # pixels, and how many pictures at once
MEMORY_SIDES = (64, 256, 512)


def operations(decode: Callable[[Tensor], Tensor], latent: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        decode(latent)
    return counter.get_total_flops()


def seconds(decode: Callable[[Tensor], Tensor], latent: Tensor) -> float:
    started = time.perf_counter()
    with torch.inference_mode():
        decode(latent)
    return time.perf_counter() - started


def peak(decode: Callable[[Tensor], Tensor], latent: Tensor) -> int:
    """The most bytes of tensors that are alive at once while it decodes, weights and the latent left out."""
    live = LiveTensors()
    with torch.no_grad(), live:
        decode(latent)
    return live.peak


def measure(compression: Compression, weights: Path) -> dict[str, Any]:
    """Every figure by the number of steps is a ratio to the deterministic decoder, which is decoded with in turn."""
    plain = deterministic(compression, weights)
    channels, ratio = plain.config.latent_channels, plain.config.ratio
    networks = {steps: epsilon(compression, weights, steps) for steps in STEPS}
    figures: dict[str, Any] = {
        "parameters of the deterministic decoder": decoder_parameters(plain),
        "parameters of the eps-VAE decoder": decoder_parameters(networks[1]),
        "operations of the deterministic decoder, 64 px": operations(
            plain.decode, torch.zeros(1, channels, 64 // ratio, 64 // ratio)
        ),
    }
    for side, batch in SIDES.items():
        latent = torch.randn(batch, channels, side // ratio, side // ratio)
        base = operations(plain.decode, latent)
        figures[f"operations, {batch} × {side} px"] = {
            str(steps): operations(network.decode, latent) / base for steps, network in networks.items()
        }
        shares: dict[int, list[float]] = {steps: [] for steps in TIMED}
        for _ in range(REPEATS):
            for steps in TIMED:
                shares[steps].append(seconds(networks[steps].decode, latent) / seconds(plain.decode, latent))
        figures[f"time, {batch} × {side} px"] = {
            str(steps): statistics.median(found) for steps, found in shares.items()
        }
    for side in MEMORY_SIDES:
        latent = torch.randn(1, channels, side // ratio, side // ratio)
        figures[f"memory at most, {side} px, MiB"] = {
            "deterministic": peak(plain.decode, latent) / 2**20,
            "eps-VAE": peak(networks[1].decode, latent) / 2**20,
        }
    return figures
