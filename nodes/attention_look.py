"""Looking at where a model sees a prompt's words in a picture, at a few noise levels, before or without any sampling."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from torch import Tensor

from ..models.diffusion.attention_maps import RunningMap
from ..models.diffusion.prompt_tokens import WORDS
from ..models.diffusion.trajectory import Trajectory
from .attention_capture import AttentionCapture, can_be_read
from .inversion_sampler import is_flow

# Noise over picture, in standard deviations, between which words are seen best: above, the model guesses where things are; on
# the demo family the mask's overlap with the true object is 0.3 at 8, 0.5 at 3, and 0.65 to 0.7 from 2 down to 0.3.
LEAST_NOISE, MOST_NOISE = 0.4, 2.0


def check_can_look(model: Any, *conditionings: list[list[Any]]) -> None:
    """Raise ValueError unless a MODEL's attention can be read, and one of the CONDITIONINGs says which words are meant."""
    if not can_be_read(model.model):
        raise ValueError(
            f"model is a {type(model.model).__name__}, whose attention to its prompt ReEdit cannot read. UNets with "
            "cross-attention (SD1.5, SD2, SDXL), SD3 and Flux can be read; for others give a mask of your own."
        )
    meant = [options[WORDS].words for entries in conditionings for _, options in entries if WORDS in options]
    if not any(meant):
        raise ValueError(
            "source and target do not say which of their words are meant. Make them with ReEdit Prompt Words, or give a mask "
            "of your own."
        )


def check_picture(samples: Tensor) -> None:
    if samples.ndim != 4:
        raise ValueError(
            f"samples has shape {tuple(samples.shape)}; masks from attention are for pictures, (B, C, H, W), not for video."
        )


def noise_levels(sampling: Any, count: int) -> list[float]:
    """The sigmas to look at: in even ratios of noise to picture."""
    ratios = torch.logspace(0, 1, count + 2, base=MOST_NOISE / LEAST_NOISE)[1:-1] * LEAST_NOISE
    sigmas = ratios / (1 + ratios) if is_flow(sampling) else ratios
    return sigmas.clamp(float(sampling.sigma_min), float(sampling.sigma_max)).tolist()


def noisy_latents(
    sampling: Any, levels: list[float], latent: Tensor, trajectory: Trajectory | None, seed: int
) -> list[tuple[float, Tensor]]:
    """The picture at these noise levels: as the trajectory passed them, or under one noise. latent: in the model's scale."""
    if trajectory is not None:
        return [(sigma, trajectory.at(sigma).to(latent)) for sigma in levels]
    generator = torch.Generator().manual_seed(seed)  # of the CPU: the same numbers on every device
    noise = torch.randn(latent.shape, generator=generator).to(latent)
    return [(sigma, sampling.noise_scaling(latent.new_tensor(sigma), noise, latent)) for sigma in levels]


def look(
    model: Any,
    conditioning: list[dict[str, Any]],
    capture: AttentionCapture,
    states: list[tuple[float, Tensor]],
    model_options: dict[str, Any],
    progress: Any = None,
) -> Tensor:
    """The mean map, (B, 1, rows, columns), of one call of the model for each state. ValueError where it shows nothing.

    progress: a bar of the host's.
    """
    found = RunningMap()
    capture.maps, capture.replacing, capture.latents = {0: found}, None, {}
    for sigma, x in states:
        comfy.model_management.throw_exception_if_processing_interrupted()
        timestep = x.new_full((len(x),), sigma)
        comfy.samplers.calc_cond_batch(model, [conditioning], x, timestep, model_options)
        if progress is not None:
            progress.update(1)
    capture.maps = {}
    return seen(found, capture)


def seen(found: RunningMap, capture: AttentionCapture) -> Tensor:
    """The map that was found. ValueError where the model has no attention of the resolution that was asked for."""
    attention = found.mean()
    if attention is None:
        grids = ", ".join(f"{columns}×{rows}" for rows, columns in sorted(capture.grids)) or "no resolution at all"
        raise ValueError(
            f"The model attends to its prompt at {grids}, not at what detail asks for (width×height). Choose another detail."
        )
    return attention
