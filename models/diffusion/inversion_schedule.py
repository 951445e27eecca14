"""The noise levels that an inversion passes, upwards, and how it treats sigma 0 (PAPERS.md 3.4, items 6 and 8).

A step that the sampler takes to sigma 0 gives back the model's prediction, D(x, sigma), which leaves out what the model takes
for noise: there need be no x whose prediction has a picture's finest detail, and then that step cannot be inverted. So a
clean latent is taken to live at the model's lowest noise level, as Stable Diffusion's own DDIM schedule takes it.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

FLIPPED_ZERO = 1e-4  # what the host's FlipSigmas writes in place of a 0


def inversion_sigmas(
    sigmas: Tensor, sigma_min: float, down_to_zero: bool = False, largest_ratio: float = math.inf
) -> Tensor:
    """The sigmas, (N + 1,), rising, that invert a sampler's falling ones.

    sigma_min: the model's lowest noise level, where the clean latent lives: the result begins there, whatever the last sigma
    is; with down_to_zero it begins with 0 and goes on there. largest_ratio: steps whose sigmas' ratio is larger are divided
    into equal ratios, since over a large step the fixed point is hard to find, and may not exist. The sampler has to take
    the same steps: give it these sigmas, flipped. Raises ValueError for sigmas that do not fall, or fewer than two, or where
    no step above sigma_min is left.
    """
    check_falling(sigmas)
    if largest_ratio <= 1:
        raise ValueError(f"largest_ratio is {largest_ratio}; it must be above 1.")
    levels = sorted(float(sigma) for sigma in sigmas if sigma > 0)
    if levels[0] > sigma_min * 1.001:
        levels.insert(0, sigma_min)
    if len(levels) < 2 and not down_to_zero:
        raise ValueError(
            f"sigmas are {described(sigmas)}: nothing lies above {sigma_min:.4g}, the model's lowest noise level, where the "
            "clean latent lives already. Start from a higher sigma."
        )
    divided = levels[:1]
    for low, high in itertools.pairwise(levels):
        parts = max(1, math.ceil(math.log(high / low) / math.log(largest_ratio) - 1e-6))
        divided += [low * (high / low) ** (part / parts) for part in range(1, parts)] + [high]
    return torch.tensor([0.0, *divided] if down_to_zero else divided)


def check_falling(sigmas: Tensor) -> None:
    """Raise ValueError unless the sigmas are a sampler's: (N + 1,), N of 1 or more, finite, falling, none negative."""
    check_values(sigmas)
    if not bool((sigmas[1:] < sigmas[:-1]).all()):
        raise ValueError(
            f"sigmas must fall from one to the next, as a scheduler makes them, but they are {described(sigmas)}. "
            "Connect the scheduler's sigmas themselves, not flipped."
        )


def check_values(sigmas: Tensor) -> None:
    """Raise ValueError for fewer than two sigmas, and for any that is negative, infinite or no number."""
    if sigmas.ndim != 1 or len(sigmas) < 2:
        raise ValueError(f"sigmas has {sigmas.numel()} value(s); an inversion needs at least 2: one step.")
    if not bool(torch.isfinite(sigmas).all()) or float(sigmas.min()) < 0:
        raise ValueError(
            f"sigmas holds a value that is negative or no number: {described(sigmas)}. "
            "A scheduler may fail at few steps: take more, or another one."
        )


def check_rising(sigmas: Tensor) -> None:
    """Raise ValueError unless the sigmas are a sampler's, flipped."""
    if len(sigmas) > 1 and bool((sigmas[1:] < sigmas[:-1]).all()):
        raise ValueError("sigmas fall, but an inversion goes upwards. Put FlipSigmas in front.")
    check_values(sigmas)
    if not bool((sigmas[1:] > sigmas[:-1]).all()):
        raise ValueError(
            f"sigmas must rise from one to the next, as FlipSigmas makes them, but are {described(sigmas)}."
        )


def described(sigmas: Tensor) -> str:
    """The sigmas as a person reads them, the middle of long ones left out."""
    values = [f"{float(sigma):.4g}" for sigma in sigmas]
    return ", ".join(values if len(values) <= 8 else [*values[:4], "…", *values[-3:]])
