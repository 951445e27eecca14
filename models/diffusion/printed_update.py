"""EMILIE's update as the paper prints it (Joseph et al., arXiv 2309.00613, algorithm 1, line 9), for reference.

    z_to = z_from - m eps(z_from) + s n,    n normal of deviation 1 and s DDPM's posterior deviation

with m the mask and z the noisy latent in DDPM's own scale, sqrt(abar) x0 + sqrt(1 - abar) n. Two things are amiss. The line
has none of the coefficients of DDPM's step (Ho et al., arXiv 2006.11239, algorithm 2), which takes off a part of the noise
that fits the step, and not all of it each time. And where m is 0 nothing is ever taken off, so what began as noise stays
noise, though it is the picture that should stay there (PAPERS.md 4.4).

The host's scale is x = z / sqrt(abar) with abar = 1 / (1 + sigma²), for eps, v and EDM models alike.
"""

from __future__ import annotations

from torch import Tensor

AS_PRINTED, OF_DDPM = "as printed", "of DDPM"  # the coefficients of the update


def posterior_deviation(sigma_from: Tensor, sigma_to: Tensor) -> Tensor:
    """s = sqrt((1 - abar_to) / (1 - abar_from) (1 - abar_from / abar_to)), the noise that DDPM adds, in z's scale.

    sigma_from, sigma_to: (), falling, sigma_from above 0. Returns (): 0 on the step to sigma 0, and where sigma stays.
    """
    # Written in sigmas: 1 - abar loses its digits in float32 where sigma is small.
    variance = sigma_to**2 / (1 + sigma_to**2) * (1 - (sigma_to / sigma_from) ** 2)
    return variance.clamp(min=0).sqrt()


def printed_update(
    x: Tensor,
    denoised: Tensor,
    noise: Tensor,
    sigma_from: Tensor,
    sigma_to: Tensor,
    cells: float | Tensor = 1.0,
    coefficients: str = AS_PRINTED,
) -> Tensor:
    """The latent at sigma_to from x at sigma_from, in the host's scale, with eps = (x - D) / sigma_from.

    as printed:  z_to = z - m eps + s n
    of DDPM:     z_to = (z - m beta / sqrt(1 - abar_from) eps) / sqrt(alpha) + s n
    where alpha = abar_from / abar_to and beta = 1 - alpha are those of a schedule that has these two levels as neighbours.

    x, denoised (D), noise (n): (B, C, [T,] H, W), n with deviation 1. sigma_from, sigma_to: (), falling, sigma_from above 0.
    cells (m): 0..1, a number or cells that broadcast to x.

    Where m is 1, "of DDPM" is DDPM's ancestral step. Where m is 0 the model has no say, and exactly this comes out at sigma 0
    (where z is x) after steps through the sigmas, for a start x_T of any distribution:
        as printed:  z_T plus normal noise of variance sum of s²
        of DDPM:     x_T plus normal noise of variance sum of sigma_to² (1 - sigma_to² / sigma_from²)
    So with DDPM's coefficients the noise of the start is all there, of deviation sigma_max, and the steps add up to as much
    again: dividing by sqrt(alpha) undoes the shrinking of a picture of which nothing is left.
    """
    size_from, size_to = ((1 + sigma**2).sqrt() for sigma in (sigma_from, sigma_to))
    z, eps = x / size_from, (x - denoised) / sigma_from
    if coefficients == AS_PRINTED:
        z = z - cells * eps
    else:
        beta_by_root = (sigma_from**2 - sigma_to**2) / (sigma_from * size_from)
        z = (z - cells * beta_by_root * eps) * size_from / size_to
    return (z + posterior_deviation(sigma_from, sigma_to) * noise) * size_to


def falls_to_its_end(sigmas: Tensor) -> bool:
    """Whether the sigmas, (steps + 1,), never rise, and reach 0 at their end if at all: else DDPM has no such step."""
    return bool(((sigmas[1:] <= sigmas[:-1]) & (sigmas[:-1] > 0)).all())
