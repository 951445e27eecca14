"""Keeping an edit's gradient inside a mask (EMILIE, arXiv 2309.00613, section 4.2 and algorithm 1, line 9).

EMILIE reads a diffusion model as an energy-based one: the step towards the prediction is the gradient, and the mask zeroes
it outside. In terms of the denoised prediction D(x, sigma) the gradient is (x - D) / sigma; zeroing the edit's part of it
means that outside the mask the prediction is the known latent.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mask_denoised(denoised: Tensor, known: Tensor, cells: Tensor) -> Tensor:
    """m·D + (1 - m)·known: the prediction inside the mask, the known latent outside.

    denoised, known: (B, C, [T,] H, W) in the model's own scale. cells: 0..1, broadcastable to them.
    """
    known = known.to(denoised)
    return torch.lerp(known, denoised, cells.to(denoised))


def keep_outside(samples: Tensor, known: Tensor, cells: Tensor, noise_mask: Tensor | None = None) -> Tensor:
    """`samples` where the mask is above zero, and `known` bit for bit where it is zero.

    noise_mask: what else has kept the latent, broadcastable to the cells. A sampler brings that back up to rounding only.
    """
    if noise_mask is not None:
        cells = cells * noise_mask.to(cells)
    return torch.where(cells.to(samples.device) > 0, samples, known.to(samples))


def known_for_run(known: Tensor, latent_image: Tensor, whose: str) -> Tensor:
    """What is kept in a run on `latent_image`, with its batch. ValueError, which says whose it is, where they do not fit.

    known: (B, C, [T,] H, W); latents of fewer pictures are repeated, and a picture for a model of videos is one frame.
    """
    if known.ndim == 4 and latent_image.ndim == 5:
        known = known.unsqueeze(2)
    if known.shape[1:] != latent_image.shape[1:] or len(latent_image) % len(known):
        raise ValueError(
            f"samples of {whose} is {tuple(known.shape)}, but the sampler works on {tuple(latent_image.shape)}. "
            "Give both the same latent."
        )
    return known.repeat(len(latent_image) // len(known), *[1] * (known.ndim - 1))
