"""Encoding and decoding in tiles, for pictures whose feature maps would not fit the device's memory at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.sd
import comfy.utils
from torch import Tensor

from ..models.autoencoders.tiles import can_run_in_tiles, decode_in_tiles, encode_in_tiles
from .vae_checks import encoding_vae, pixels_per_cell

TILE_CELLS = 64  # where another node asks for tiles and names no size: the host's own
TILE_TOOLTIP = (
    "0 works on the whole picture at once. Otherwise the side, in pixels, of the tiles that it is worked on in, which takes "
    "less of the device's memory. The result is the same with the VAEs of SD, SDXL and Flux; others go through ComfyUI's own "
    "tiles."
)


def encode_picture(vae: Any, pixels: Tensor, tile_size: int = 0) -> Tensor:
    """A picture (B, H, W, 3) in 0..1 as a latent. tile_size: in pixels; 0 for the whole picture at once.

    A VAE that is no KL autoencoder of pictures goes through the host's own tiles, whose colours may differ.
    """
    vae = encoding_vae(vae)
    if not tile_size or max(pixels.shape[1:3]) <= tile_size:
        return vae.encode(pixels)
    ratio = pixels_per_cell(vae)
    tile = max(1, tile_size // ratio)
    if not _ours(vae):
        return vae.encode_tiled(pixels, tile_x=tile * ratio, tile_y=tile * ratio, overlap=tile * ratio // 4)
    picture = vae.process_input(pixels.movedim(-1, 1)).to(vae.vae_dtype)
    _load(vae, vae.memory_used_encode, picture.shape, tile * ratio)
    progress = comfy.utils.ProgressBar(1)
    latent = encode_in_tiles(vae.first_stage_model, picture, ratio, tile, vae.device, progress.update_absolute)
    return latent.to(vae.output_device, vae.vae_output_dtype())


def decode_picture(vae: Any, samples: Tensor, tile_size: int = 0) -> Tensor:
    """A latent as the VAE's picture, (B, H, W, 3) in 0..1, or (B, T, H, W, 3) of a video. See `encode_picture`."""
    ratio = pixels_per_cell(vae)
    tile = max(1, tile_size // ratio)
    if not tile_size or max(samples.shape[-2:]) <= tile:
        return vae.decode(samples)
    if not _ours(vae):
        return vae.decode_tiled(samples, tile_x=tile, tile_y=tile, overlap=tile // 4)
    latent = samples.to(vae.vae_dtype)
    _load(vae, vae.memory_used_decode, latent.shape, tile)
    progress = comfy.utils.ProgressBar(1)
    picture = decode_in_tiles(vae.first_stage_model, latent, tile, vae.device, progress.update_absolute)
    return vae.process_output(picture.to(vae.output_device, vae.vae_output_dtype())).movedim(1, -1)


def _ours(vae: Any) -> bool:
    # One of another class decodes in a way of its own, and in tiles of its own.
    return type(vae) is comfy.sd.VAE and vae.latent_dim == 2 and can_run_in_tiles(vae.first_stage_model)


def _load(vae: Any, memory_used: Callable[[tuple[int, ...], Any], float], shape: tuple[int, ...], tile: int) -> None:
    """Bring the VAE onto its device with room for a tile, and for the maps of the latent's size, which are made whole.

    memory_used: the host's estimate of the bytes that a tensor of some shape takes. shape: the input's; tile: in its pixels.
    """
    height, width = shape[-2:]
    one_tile = memory_used((1, shape[1], min(height, tile), min(width, tile)), vae.vae_dtype)
    cells = memory_used((1, *shape[1:]), vae.vae_dtype) / pixels_per_cell(vae) ** 2
    comfy.model_management.load_models_gpu([vae.patcher], memory_required=one_tile + cells)
