"""Loading autoencoders; pixels to latent and back."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.utils
import folder_paths
import torch
from comfy_api.v0_0_2 import io
from torch import Tensor

from ..models.autoencoders.encoder_match import ENCODER_PARTS, encoder_marks, find_mismatch, read_marks
from ..models.autoencoders.kl_file import read_autoencoder
from ..models.autoencoders.kl_layout import (
    KLConfig,
    describe_faults,
    find_faults,
    find_misfit,
    read_config,
    with_quantisers,
)
from ..models.session.record import SOURCE, EditRecord, observe, with_record
from .history import describe_session
from .tiled_vae import TILE_TOOLTIP, decode_picture, encode_picture
from .vae_checks import check_latent_fits, check_picture, encoder_of, encoding_vae, pixels_per_cell

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


def build_host_vae(
    weights: dict[str, Tensor],
    config: KLConfig,
    encoder_config: KLConfig | None = None,
    dtype: torch.dtype | None = None,
) -> comfy.sd.VAE:
    """The host's own VAE object around an autoencoder of any size, so that its nodes and its memory management take it.

    encoder_config: where the encoder's sizes are others than the decoder's. dtype: in which it computes; None leaves the
    choice to the host, which makes it by the device.
    """
    encoder_config = encoder_config or config
    channels = config.latent_channels
    architecture = {
        "ddconfig": host_architecture(encoder_config),
        "decoder_ddconfig": host_architecture(config),
        "embed_dim": channels,
    }
    vae = comfy.sd.VAE(sd=with_quantisers(weights, channels), config={"params": architecture}, dtype=dtype)
    for name in ("quant_conv", "post_quant_conv"):
        if f"{name}.weight" not in weights:
            # A convolution with the identity does round, where a graphics card multiplies in a shorter format.
            setattr(vae.first_stage_model, name, torch.nn.Identity())
    vae.latent_channels = channels
    vae.downscale_ratio = vae.upscale_ratio = config.ratio
    # The host's estimates are for a width of 128 and a ratio of 8; memory goes with the widest feature map in pixels.
    encoder_share, decoder_share = (part.width * part.multipliers[0] / 128 for part in (encoder_config, config))
    cell = config.ratio**2 / 64
    encode_memory, decode_memory = vae.memory_used_encode, vae.memory_used_decode
    vae.memory_used_encode = lambda shape, dtype: encode_memory(shape, dtype) * encoder_share
    vae.memory_used_decode = lambda shape, dtype: decode_memory(shape, dtype) * decoder_share * cell
    return vae


def load_kl_vae(path: Path, base_vae: Any = None, dtype: torch.dtype | None = None) -> comfy.sd.VAE:
    """Load a KL autoencoder from a safetensors file. `base_vae` lends its encoder to a file that holds a decoder only.

    base_vae is not changed. dtype: in which the VAE computes; None is the base's where there is one in use, so that the
    latents are the base's to the bit, and otherwise the host's choice. Raises ValueError, naming the file and the fault,
    before anything is built from a file that is not what it should be.
    """
    base_vae = encoding_vae(base_vae)
    stored = read_autoencoder(path)
    try:
        weights = stored.in_ldm_layout()
        if any(name.startswith("encoder.") for name in weights):
            vae = _build_checked(weights, dtype)
            if base_vae is not None:
                _report_base_unused(path.name, weights, base_vae)
            return vae
        if base_vae is None:
            raise ValueError("it holds a decoder only. Connect base_vae: the VAE whose encoder goes with it.")
        encoder = encoder_of(base_vae)
        check_encoder_fits(weights, encoder, read_marks(stored.metadata))
        decoder = {name: value for name, value in weights.items() if not name.startswith(ENCODER_PARTS)}
        vae = _build_checked(decoder | encoder, dtype or base_vae.vae_dtype)
    except ValueError as error:
        raise ValueError(f"{path.name} cannot be used as a VAE: {error}") from error
    vae.memory_used_encode = base_vae.memory_used_encode  # by it the host splits batches, which can change last bits
    share_encoder(vae, encoder)
    return vae


def check_encoder_fits(weights: dict[str, Tensor], encoder: dict[str, Tensor], marks: dict[str, float] | None) -> None:
    """Raise ValueError if a decoder does not go with this encoder: by its shape, and by `marks` of its own."""
    advice = "Connect as base_vae the VAE that this decoder was trained for."
    misfit = find_misfit(read_config(weights), read_config(encoder, "encoder"))
    if misfit:
        raise ValueError(f"it does not go with the encoder of base_vae: {misfit}. {advice}")
    mismatch = find_mismatch(marks, encoder) if marks is not None else None
    if mismatch:
        raise ValueError(f"its decoder was trained with another encoder than that of base_vae: {mismatch}. {advice}")


def share_encoder(vae: comfy.sd.VAE, encoder: dict[str, Tensor]) -> None:
    """Let a VAE use the tensors of `encoder` instead of its own copies of them, while both lie in the same memory.

    The host never writes into a weight: it moves weights to a device by making new ones there.
    """
    network = vae.first_stage_model
    own = network.state_dict()
    alike = {
        name: lent
        for name, lent in encoder.items()
        if name in own and (lent.dtype, lent.device) == (own[name].dtype, own[name].device)
    }
    for part in (network.encoder, network.quant_conv):
        part.requires_grad_(False)  # a tensor that was made in inference mode cannot have a gradient outside it
    network.load_state_dict(alike, strict=False, assign=True)


def _build_checked(weights: dict[str, Tensor], dtype: torch.dtype | None) -> comfy.sd.VAE:
    """The host's VAE object of these tensors, encoder and decoder. Raises ValueError, saying what is wrong with them."""
    config, encoder_config = read_config(weights), read_config(weights, "encoder")
    misfit = find_misfit(config, encoder_config)
    if misfit:
        raise ValueError(f"{misfit}. Get the file again.")
    vae = build_host_vae(weights, config, encoder_config, dtype)
    faults = find_faults(weights, vae.first_stage_model.state_dict())
    if faults:
        raise ValueError(f"{describe_faults(faults)}.")
    return vae


def _report_base_unused(file_name: str, weights: dict[str, Tensor], base_vae: Any) -> None:
    """Log that a whole VAE needs no base, and whether its latents are those of the base that was connected."""
    try:
        mismatch = find_mismatch(encoder_marks(weights), encoder_of(base_vae))
    except ValueError as error:
        mismatch = str(error)
    said = f"ReEdit: {file_name} holds a whole VAE, so base_vae is not used."
    if mismatch:
        logging.warning("%s Its encoder is another one, and so are its latents: %s", said, mismatch)
    else:
        logging.info("%s Its encoder is the same one.", said)


DTYPES = {"auto": None, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


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
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default="auto",
                    optional=True,
                    tooltip="The precision in which the VAE computes. auto: that of base_vae for a decoder alone, so that "
                    "latents stay the same to the bit; otherwise what the host chooses for the device.",
                ),
            ],
            outputs=[io.Vae.Output(tooltip="Works in every node that takes a VAE, the host's own included.")],
        )

    @classmethod
    def execute(cls, vae_name: str, base_vae: Any = None, dtype: str = "auto") -> io.NodeOutput:
        path = Path(folder_paths.get_full_path_or_raise("vae", vae_name))
        return io.NodeOutput(load_kl_vae(path, base_vae, DTYPES[dtype]))


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


def _tile_size_input() -> io.Int.Input:
    return io.Int.Input("tile_size", default=0, min=0, max=8192, step=64, optional=True, tooltip=TILE_TOOLTIP)


def fit_to_side(pixels: Tensor, side: int, fit: str) -> Tensor:
    """A picture for a VAE that takes squares of one size alone: cropped or padded to a square around it, and scaled.

    It is left as it is for `refuse`: the VAE says what it takes.
    """
    height, width = pixels.shape[1:3]
    picture = pixels.movedim(-1, 1)
    if fit == "pad":
        over = max(height, width)
        picture = torch.nn.functional.pad(picture, (0, over - width, 0, over - height), mode="replicate")
    if fit == "refuse" or picture.shape[-2:] == (side, side):
        return picture.movedim(1, -1)
    return comfy.utils.common_upscale(picture, side, side, "lanczos", "center").movedim(1, -1)


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
                    "stop, crop it around its centre, or repeat its right and bottom edge. For an RPiAE, which takes one "
                    "size alone, the square that comes out is scaled to it.",
                ),
                _tile_size_input(),
            ],
            outputs=[io.Latent.Output(tooltip="The latent, with the session's record in it.")],
        )

    @classmethod
    def execute(cls, pixels: Tensor, vae: Any, fit: str = "refuse", tile_size: int = 0) -> io.NodeOutput:
        picture = check_picture(pixels)
        if side := getattr(vae, "picture_side", None):
            picture = fit_to_side(picture, side, fit)
        else:
            picture = fit_to_cells(picture, pixels_per_cell(vae), fit)
        samples = encode_picture(vae, picture, tile_size)
        encoded_pixels = picture.shape[0] * picture.shape[1] * picture.shape[2]
        record = EditRecord(samples, source_encoded_pixels=encoded_pixels)
        return io.NodeOutput(with_record({}, record), ui=describe_session(record, {SOURCE: picture}))


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
                _tile_size_input(),
            ],
            outputs=[
                io.Image.Output(tooltip="The picture."),
                io.Latent.Output(tooltip="The latent, as it came in, with its record brought up to date."),
            ],
        )

    @classmethod
    def execute(cls, samples: dict[str, Any], vae: Any, tile_size: int = 0) -> io.NodeOutput:
        check_latent_fits(samples["samples"], vae)
        record = observe(samples)
        pictures = decode_pictures(vae, samples["samples"], tile_size)
        shown = describe_session(record, {record.current: pictures})
        return io.NodeOutput(pictures, with_record(samples, record), ui=shown)


def decode_pictures(vae: Any, samples: Tensor, tile_size: int = 0) -> Tensor:
    """A latent as (B, H, W, 3) in 0..1; a video's frames become pictures of the batch. tile_size: see `decode_picture`."""
    pictures = decode_picture(vae, samples, tile_size)
    return pictures.flatten(0, 1) if pictures.ndim == 5 else pictures
