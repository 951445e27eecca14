"""Which way a model takes a picture beside its noise, asked of the model itself, and a CONDITIONING that carries one."""

from __future__ import annotations

import inspect
from typing import Any

import comfy.model_base
import torch
from torch import Tensor

from ..models.cells import check_mask, check_samples
from ..models.diffusion.masked_picture import covered_share, latent_of_grey, mask_in_pixels, masked_latent
from .vae_checks import check_latent_fits, pixels_per_cell

Conditioning = list[list[Any]]

# The three ways. InstructPix2Pix and inpainting models read the picture in channels beside the noise, inpainting models a
# mask as well; edit models with reference latents read it as more tokens.
INSTRUCT, INPAINT, REFERENCE = "instruct", "inpaint", "reference"
PICTURE, MASK, REFERENCES = "concat_latent_image", "concat_mask", "reference_latents"  # the host's keys

WHAT_TO_LOAD = (
    "Load an InstructPix2Pix model (for Stable Diffusion 1.5, SDXL or CosXL Edit), an inpainting model (Stable Diffusion "
    "or Flux Fill) or an edit model with reference latents (Flux Kontext, Flux 2, Qwen-Image-Edit)."
)
PROBED_CELLS = 8  # to a side, of the latent that a model is asked about


def with_values(conditioning: Conditioning, values: dict[str, Any]) -> Conditioning:
    """A copy of a CONDITIONING with the values set in each of its entries."""
    return [[embedding, {**options, **values}] for embedding, options in conditioning]


def with_picture(
    kind: str, conditioning: Conditioning, samples: Tensor, mask: Tensor | None = None, masked: Tensor | None = None
) -> Conditioning:
    """A copy of a CONDITIONING whose entries carry the picture, the way that a model of this kind reads it.

    kind: what picture_kind returned. samples: the picture's latent (B, C, [T,] H, W), unscaled, as a LATENT holds it: the
    host's models apply the scale of their family. For INPAINT, masked is the latent without what the mask covers and mask
    is (B, 1, height, width) in 0..1, in pixels; both are needed. A reference goes in front of those already there.
    """
    if kind == INPAINT:
        if mask is None or masked is None:
            raise ValueError("An inpainting model needs the mask and the latent of the masked picture.")
        return with_values(conditioning, {PICTURE: masked, MASK: mask})
    if kind == INSTRUCT:
        return with_values(conditioning, {PICTURE: samples})
    if kind != REFERENCE:
        raise ValueError(f"There is no way {kind!r} to give a picture to a model.")
    return [
        [embedding, {**options, REFERENCES: [samples, *options.get(REFERENCES, ())]}]
        for embedding, options in conditioning
    ]


def without_picture(conditioning: Conditioning) -> Conditioning:
    """A copy of a CONDITIONING that carries no picture of any kind."""
    return [
        [embedding, {key: value for key, value in options.items() if key not in (PICTURE, MASK, REFERENCES)}]
        for embedding, options in conditioning
    ]


def masked_picture(samples: Tensor, mask: Tensor | None, vae: Any) -> tuple[Tensor, Tensor]:
    """What an inpainting model reads: the mask (B, 1, height, width) in pixels, and the latent with grey in its place.

    samples: (B, C, H, W). mask: a MASK, or a latent's noise mask. ValueError where one of the two inputs is not connected or
    does not fit.
    """
    if mask is None:
        raise ValueError(
            "model is an inpainting model, and there is no mask. Connect mask, or set a noise mask on the latent."
        )
    if vae is None:
        raise ValueError(
            "model is an inpainting model, which is shown grey under the mask. Connect vae: the model's own."
        )
    check_latent_fits(samples, vae)
    checked = check_mask(mask, samples.shape[0], *samples.shape[-2:])
    ratio = pixels_per_cell(vae)
    grey = latent_of_grey(vae.encode, ratio)
    if grey.ndim != samples.ndim:
        raise ValueError("vae encodes videos, but the model works on pictures. Use the VAE that belongs to the model.")
    in_pixels = mask_in_pixels(checked, samples.shape[-2] * ratio, samples.shape[-1] * ratio)
    return in_pixels, masked_latent(samples, grey, covered_share(in_pixels, samples))


def check_channels(channels: int, samples: Tensor) -> None:
    check_samples(samples)
    if samples.shape[1] != channels:
        raise ValueError(
            f"samples has {samples.shape[1]} channels, but this model works on latents of {channels}. "
            "Encode the picture with the VAE that belongs to the model."
        )


def check_takes_picture(model: Any, samples: Tensor) -> str:
    """picture_kind(model). ValueError also for a latent that is not of this model's family."""
    kind = picture_kind(model)
    latent_format = model.get_model_object("latent_format")
    check_channels(latent_format.latent_channels, samples)
    if samples.ndim != latent_format.latent_dimensions + 2:
        raise ValueError(
            f"samples has {samples.ndim} dimensions, {tuple(samples.shape)}, but this model works on latents of "
            f"{latent_format.latent_dimensions + 2}. Encode the picture with the VAE that belongs to the model."
        )
    return kind


def picture_kind(model: Any) -> str:
    """INSTRUCT, INPAINT or REFERENCE: which way a MODEL takes a picture. ValueError that names the model if it does not."""
    base = model.model
    name = type(base).__name__
    if isinstance(base, comfy.model_base.IP2P):
        return INSTRUCT
    latent_format = model.get_model_object("latent_format")
    if latent_format.latent_dimensions == 2:
        beside = channels_beside_noise(base, latent_format.latent_channels)
        if beside > latent_format.latent_channels:
            return INPAINT
        if beside:
            raise ValueError(
                f"model is a {name} that takes a control picture (edges, depth), not one to edit. {WHAT_TO_LOAD}"
            )
    if reads_references(base, latent_format):
        return REFERENCE
    what = "takes no picture beside its noise in a way that this node knows"
    if latent_format.latent_dimensions == 3:
        what = "works on latents of videos and reads no reference latents by itself"
    raise ValueError(f"model is a {name}, which {what}. {WHAT_TO_LOAD}")


def probe(latent_format: Any) -> Tensor:
    """A small empty latent of a model's family."""
    extra = [1] * (latent_format.latent_dimensions - 2)
    return torch.zeros(1, latent_format.latent_channels, *extra, PROBED_CELLS, PROBED_CELLS)


def channels_beside_noise(base: Any, channels: int) -> int:
    """How many channels a model of pictures wants beside its noise, when it is given a picture and a mask."""
    latent = torch.zeros(1, channels, PROBED_CELLS, PROBED_CELLS)
    beside = base.concat_cond(noise=latent, concat_latent_image=latent, concat_mask=latent[:, :1], device=latent.device)
    return 0 if beside is None else int(beside.shape[1])


def reads_references(base: Any, latent_format: Any) -> bool:
    """Whether a model hands reference latents on to its network, and the network reads them.

    Both are asked, since some models (Chroma) inherit the first without the second. Some networks (Krea 2) read them only
    when told a method, and that of Lumina and Z-Image only where it was made for pictures (Omni, which has a place for what
    SigLIP sees).
    """
    if "ref_latents" not in base.extra_conds_shapes(reference_latents=[probe(latent_format)]):
        return False
    network = base.diffusion_model
    calls = [getattr(network, name) for name in ("forward", "_forward") if hasattr(network, name)]
    named = any("ref_latents" in inspect.signature(call).parameters for call in calls)
    wanting = [name for name in ("default_ref_method", "siglip_embedder") if getattr(network, name, name) is None]
    return named and not wanting
