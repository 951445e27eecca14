"""DDIM's step with noise: eta of Song et al. (arXiv 2010.02502, equation 16), as AIDI edits with it (PAPERS.md 3.3).

A noisy latent is x = a(sigma) x0 + sigma n, with a = 1 for eps, v and EDM models in the host's scale and a = 1 - sigma for
flow models. A part of the old noise n is replaced by as much new noise, so the noise level stays right for every eta, and
eta may differ from cell to cell.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Scale = Callable[[Tensor], Tensor]  # of the clean latent in a noisy one, at a noise level: a(sigma)


def added_noise(eta: float | Tensor, sigma_from: Tensor, sigma_to: Tensor, scale: Scale = torch.ones_like) -> Tensor:
    """s = eta (sigma_to / sigma_from) sqrt(sigma_from² - sigma_to² a_from² / a_to²): the new noise's standard deviation.

    eta: 0..1, a number or a tensor. sigma_from, sigma_to: (), falling. The result has eta's shape and is at most sigma_to;
    it is 0 on the step to sigma 0, and where sigma does not fall.
    """
    kept = sigma_to * scale(sigma_from) / scale(sigma_to)
    # Not a number: a flow model's step from 1 to 1, where neither sigma holds any of the clean latent.
    return eta * (sigma_to / sigma_from) * (sigma_from**2 - kept**2).nan_to_num().clamp(min=0).sqrt()


def stochastic_step(
    x: Tensor,
    denoised: Tensor,
    noise: Tensor,
    sigma_from: Tensor,
    sigma_to: Tensor,
    eta: float | Tensor,
    scale: Scale = torch.ones_like,
) -> Tensor:
    """The latent at sigma_to, a_to D + sqrt(sigma_to² - s²) n + s z, from x at sigma_from: n is the noise that x holds.

    x, denoised (D), noise (z): (B, C, [T,] H, W), in the model's own scale; z with deviation 1. sigma_from, sigma_to: (),
    falling. eta: 0..1, a number or cells that broadcast to x. Where eta is 0 the result is bit for bit that of Euler's step.
    """
    direction = (x - denoised) / sigma_from
    added = added_noise(eta, sigma_from, sigma_to, scale)
    # Where all noise is new, a device that rounds carelessly comes below 0. Where none is, the root is sigma_to exactly.
    old = (sigma_to**2 - added**2).clamp(min=0).sqrt()
    held = (x - scale(sigma_from) * denoised) / sigma_from
    return x + direction * (sigma_to - sigma_from) + (old - sigma_to) * held + added * noise
