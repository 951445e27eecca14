"""Guidance that is strong where an edit belongs and leaves the rest alone (AIDI, arXiv 2309.04907, section 3.3, figure 2)."""

from __future__ import annotations

from torch import Tensor


def guidance_scale(mask: Tensor, cfg: float, outside: float = 1.0) -> Tensor:
    """The guidance of each cell, w* = (w_E - w) · M + w. mask: M in 0..1. cfg: w_E, inside. outside: w."""
    return (cfg - outside) * mask + outside


def denoised_towards(x: Tensor, sigma: float, state: Tensor, sigma_of_state: float) -> Tensor:
    """The prediction with which Euler's step from x, at sigma, arrives at `state`, at the lower sigma_of_state."""
    return x - (x - state) * (sigma / (sigma - sigma_of_state))
