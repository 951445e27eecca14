"""Checks of latents and pictures against the VAE that is to work on them, before it does."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..models.autoencoders.encoder_match import ENCODER_PARTS
from ..models.autoencoders.kl_layout import read_config
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


def check_picture_vae(vae: Any, name: str) -> None:
    """Raise ValueError for the VAE of a model of sounds or solids, and the host's own error for one that failed to load.

    One of videos takes a picture as a video of one frame; Qwen-Image's is such a one.
    """
    vae.throw_exception_if_invalid()
    if vae.latent_dim not in (2, 3) or vae.output_channels not in (3, 4):
        kind = type(vae.first_stage_model).__name__
        raise ValueError(f"{name} ({kind}) is no VAE of pictures. Connect one of a model of pictures or videos.")


def check_one_each(pictures: Tensor, latents: Tensor, name: str) -> None:
    """Raise ValueError where a VAE made several frames of one latent frame."""
    if len(pictures) != len(latents):
        raise ValueError(
            f"{name} gave {len(pictures)} pictures for {len(latents)} latent(s): it is made for videos alone. Connect the "
            "VAE of an image model."
        )


def encoding_vae(vae: Any) -> Any:
    """The VAE that makes the latents: of one that ReEdit made of another that is the other, its base."""
    return getattr(vae, "base_vae", vae)


def encoder_of(vae: Any, name: str = "base_vae") -> dict[str, Tensor]:
    """The encoder of a KL autoencoder in a host VAE object: its tensors and those of its quant_conv, by their ldm names.

    They are the VAE's own tensors, not copies. Raises ValueError for a VAE of any other kind: of video, a tiny one, one
    whose latents are not what its encoder makes.
    """
    vae.throw_exception_if_invalid()
    weights = {key: value for key, value in vae.get_sd().items() if key.startswith(ENCODER_PARTS)}
    kind = type(vae.first_stage_model).__name__
    try:
        config = read_config(weights, "encoder")
    except ValueError as error:
        raise ValueError(
            f"{name} ({kind}) has no encoder that the decoder of a KL autoencoder of pictures goes with. Connect a VAE like "
            "those of SD1.5, SDXL or Flux, the one that the decoder was trained for."
        ) from error
    # Flux 2's are folded to four times the channels and normalised, after the encoder.
    if (vae.latent_channels, pixels_per_cell(vae)) != (config.latent_channels, config.ratio):
        raise ValueError(
            f"{name} ({kind}) makes latents of {vae.latent_channels} channels at ratio {pixels_per_cell(vae)} from what its "
            f"encoder gives, which has {config.latent_channels} at ratio {config.ratio}. No decoder can be put on it here."
        )
    return weights


def check_picture(pixels: Tensor, name: str = "pixels") -> Tensor:
    """Check an IMAGE, (B, H, W, 3 or 4) in 0..1, and return its three colour channels. ValueError for anything else."""
    if pixels.ndim != 4 or pixels.shape[-1] not in (3, 4):
        raise ValueError(f"{name} has shape {tuple(pixels.shape)}; a picture of (B, H, W, 3) is needed.")
    if not bool(pixels.isfinite().all()):
        raise ValueError(f"{name} holds NaN or infinite values. The node before it failed.")
    return pixels[..., :3]
