"""Loading autoencoders; pixels to latent and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.sd
import folder_paths
import torch
from comfy_api.v0_0_2 import io
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..models.autoencoders.kl_layout import KLConfig, find_faults, read_config, to_ldm_layout, with_quantisers
from ..models.session.record import EditRecord, observe, with_record
from .vae_checks import check_latent_fits, check_picture, pixels_per_cell

WEIGHT_FILES = (".safetensors", ".sft")  # nothing is ever unpickled


def host_architecture(config: KLConfig) -> dict[str, Any]:
    """An autoencoder's sizes, as the host's KL autoencoder is told them."""
    return {
        "double_z": True,
        "z_channels": config.latent_channels,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": config.width,
        "ch_mult": list(config.multipliers),
        "num_res_blocks": config.blocks,
        # The host names attention by the resolution at which it stands.
        "attn_resolutions": [256 // 2**level for level in config.attention_levels],
        "dropout": 0.0,
    }


def build_host_vae(weights: dict[str, Tensor], config: KLConfig) -> comfy.sd.VAE:
    """The host's own VAE object around an autoencoder of any size, so that its nodes and its memory management take it."""
    architecture = host_architecture(config)
    vae = comfy.sd.VAE(sd=weights, config={"params": {"ddconfig": architecture, "embed_dim": config.latent_channels}})
    vae.latent_channels = config.latent_channels
    vae.downscale_ratio = vae.upscale_ratio = config.ratio
    # The host's estimates are for a width of 128 and a ratio of 8; memory goes with the widest feature map in pixels.
    share, cell = config.width / 128, config.ratio**2
    encode_memory, decode_memory = vae.memory_used_encode, vae.memory_used_decode
    vae.memory_used_encode = lambda shape, dtype: encode_memory(shape, dtype) * share
    vae.memory_used_decode = lambda shape, dtype: decode_memory(shape, dtype) * share * cell / 64
    return vae


def load_kl_vae(path: Path, base_vae: Any = None) -> comfy.sd.VAE:
    """Load a KL autoencoder from a safetensors file. `base_vae` lends its encoder to a file that holds a decoder only.

    Raises ValueError, naming the file and the fault, before anything is built from a file that is not what it should be.
    """
    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path.name} is not a readable safetensors file ({error}). Is the download whole?") from error
    try:
        weights = to_ldm_layout(stored)
        if not any(name.startswith("encoder.") for name in weights):
            if base_vae is None:
                raise ValueError("it holds a decoder only. Connect base_vae: the VAE whose encoder goes with it.")
            kept = ("encoder.", "quant_conv.")
            weights |= {name: value for name, value in base_vae.get_sd().items() if name.startswith(kept)}
        config = read_config(weights)
        weights = with_quantisers(weights, config.latent_channels)
        vae = build_host_vae(weights, config)
        faults = find_faults(weights, vae.first_stage_model.state_dict())
    except ValueError as error:
        raise ValueError(f"{path.name} cannot be used as a VAE: {error}") from error
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise ValueError(f"{path.name} cannot be used as a VAE: {'; '.join(faults[:5])}{more}.")
    return vae


class ReEditLoadREEDVAE(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        files = [name for name in folder_paths.get_filename_list("vae") if name.lower().endswith(WEIGHT_FILES)]
        return io.Schema(
            node_id="ReEditLoadREEDVAE",
            display_name="Load REED-VAE",
            category="ReEdit/autoencoders",
            description="Loads a KL autoencoder of any width and depth, a REED-VAE among them, in ldm or diffusers layout.",
            search_aliases=["load vae", "vae loader", "reed"],
            inputs=[
                io.Combo.Input(
                    "vae_name", options=files, tooltip="A safetensors file in the host's folder models/vae."
                ),
                io.Vae.Input(
                    "base_vae",
                    optional=True,
                    tooltip="Only for a file that holds a decoder alone: the VAE whose encoder it was trained for.",
                ),
            ],
            outputs=[io.Vae.Output(tooltip="Works in every node that takes a VAE, the host's own included.")],
        )

    @classmethod
    def execute(cls, vae_name: str, base_vae: Any = None) -> io.NodeOutput:
        return io.NodeOutput(load_kl_vae(Path(folder_paths.get_full_path_or_raise("vae", vae_name)), base_vae))


def fit_to_cells(pixels: Tensor, ratio: int, fit: str) -> Tensor:
    """A picture whose sides are multiples of `ratio`: refused, cropped around its centre, or padded with its edge."""
    height, width = pixels.shape[1:3]
    over_height, over_width = height % ratio, width % ratio
    if not over_height and not over_width:
        return pixels
    if fit == "crop":
        top, left = over_height // 2, over_width // 2
        if height < ratio or width < ratio:
            raise ValueError(f"pixels is {width}×{height}, smaller than one latent cell of this VAE ({ratio}×{ratio}).")
        return pixels[:, top : top + height - over_height, left : left + width - over_width]
    if fit == "pad":
        padding = (0, -width % ratio, 0, -height % ratio)
        return torch.nn.functional.pad(pixels.movedim(-1, 1), padding, mode="replicate").movedim(1, -1)
    raise ValueError(
        f"pixels is {width}×{height}, and this VAE needs multiples of {ratio}: {width - over_width}×{height - over_height} "
        "fits. Set fit to crop or pad, or resize the picture before."
    )


class ReEditEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReEditEncode",
            display_name="ReEdit Encode",
            category="ReEdit/autoencoders",
            description="Turns a picture into a latent once, at the start of an edit session, and starts its record.",
            search_aliases=["vae encode", "start session"],
            inputs=[
                io.Image.Input("pixels", tooltip="The picture to edit."),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the models that will edit."),
                io.Combo.Input(
                    "fit",
                    options=["refuse", "crop", "pad"],
                    default="refuse",
                    tooltip="What to do with a picture whose sides are no multiples of the VAE's ratio: "
                    "stop, crop it around its centre, or repeat its right and bottom edge.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="The latent, with the session's record in it.")],
        )

    @classmethod
    def execute(cls, pixels: Tensor, vae: Any, fit: str = "refuse") -> io.NodeOutput:
        picture = fit_to_cells(check_picture(pixels), pixels_per_cell(vae), fit)
        samples = vae.encode(picture)
        encoded_pixels = picture.shape[0] * picture.shape[1] * picture.shape[2]
        return io.NodeOutput(with_record({}, EditRecord(samples, source_encoded_pixels=encoded_pixels)))


class ReEditDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReEditDecode",
            display_name="ReEdit Decode",
            category="ReEdit/autoencoders",
            description="Decodes a latent for looking at, and passes the latent on: the next edit chains from the latent, "
            "never from the picture.",
            search_aliases=["vae decode", "latent passthrough"],
            inputs=[
                io.Latent.Input("samples", tooltip="The latent to look at."),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the latent."),
            ],
            outputs=[
                io.Image.Output(tooltip="The picture."),
                io.Latent.Output(tooltip="The latent, as it came in, with its record brought up to date."),
            ],
        )

    @classmethod
    def execute(cls, samples: dict[str, Any], vae: Any) -> io.NodeOutput:
        check_latent_fits(samples["samples"], vae)
        record = observe(samples)
        return io.NodeOutput(decode_pictures(vae, samples["samples"]), with_record(samples, record))


def decode_pictures(vae: Any, samples: Tensor) -> Tensor:
    """A latent as (B, H, W, 3) in 0..1; a video's frames become pictures of the batch."""
    pictures = vae.decode(samples)
    return pictures.flatten(0, 1) if pictures.ndim == 5 else pictures
