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


def keep_outside(samples: Tensor, known: Tensor, cells: Tensor) -> Tensor:
    """`samples` where the mask is above zero, and `known` bit for bit where it is zero."""
    return torch.where(cells.to(samples.device) > 0, samples, known.to(samples))
