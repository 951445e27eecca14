"""Checks of latents and pictures against the VAE that is to work on them, before it does."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..models.cells import check_samples


def pixels_per_cell(vae: Any) -> int:
    """The side, in pixels, of the square that one latent cell stands for."""
    return int(vae.spacial_compression_encode())


def check_latent_fits(samples: Tensor, vae: Any) -> None:
    """Raise ValueError if the VAE cannot decode this latent."""
    check_samples(samples)
    vae.throw_exception_if_invalid()
    if samples.shape[1] != vae.latent_channels:
        raise ValueError(
            f"samples has {samples.shape[1]} channels, but this VAE decodes latents of {vae.latent_channels}. "
            "Use the VAE that belongs to the model that made the latent."
        )


def check_picture(pixels: Tensor, name: str = "pixels") -> Tensor:
    """Check an IMAGE, (B, H, W, 3 or 4) in 0..1, and return its three colour channels. ValueError for anything else."""
    if pixels.ndim != 4 or pixels.shape[-1] not in (3, 4):
        raise ValueError(f"{name} has shape {tuple(pixels.shape)}; a picture of (B, H, W, 3) is needed.")
    if not bool(pixels.isfinite().all()):
        raise ValueError(f"{name} holds NaN or infinite values. The node before it failed.")
    return pixels[..., :3]
