"""RPiAE in the host: loading one as a VAE."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.sd
import folder_paths
import torch
from comfy_api.v0_0_2 import io
from torch import Tensor

from ..models.autoencoders.kl_layout import KLConfig
from ..models.autoencoders.rpiae_layout import PICKLES, RPiAEConfig, read_rpiae
from .autoencoders import DTYPES, WEIGHT_FILES, host_architecture
from .vae_checks import check_picture

if TYPE_CHECKING:  # transformers takes seconds to import, and the host starts without it
    from ..models.autoencoders.rpiae import RPiAE

PIVOT = "pivot"  # the stage of a training after which the bridge is still fresh


class RPiAEVAE(comfy.sd.VAE):
    """The host's VAE object of an RPiAE, for square pictures of its one size. path: of its file; about: what that says."""

    def __init__(self, network: RPiAE, path: Path, about: Mapping[str, Any], dtype: torch.dtype | None = None) -> None:
        # The host's constructor knows its own networks alone: it is given the smallest of them, whose place is taken then.
        smallest = KLConfig(32, (1,), 1, network.config.channels, ())
        architecture = {"ddconfig": host_architecture(smallest), "embed_dim": network.config.channels}
        management = comfy.model_management
        dtype = dtype or management.vae_dtype(management.vae_device(), [torch.bfloat16, torch.float32])
        super().__init__(sd=smallest_weights(smallest), config={"params": architecture}, dtype=dtype)
        self.path, self.about = path, about
        self.first_stage_model = network.to(dtype)
        # All of it or nothing: torch's attention reads its weights where they lie, and the host cannot bring them one by one.
        self.disable_offload = True
        management.archive_model_dtypes(self.first_stage_model)
        self.patcher = comfy.model_patcher.ModelPatcher(
            self.first_stage_model, load_device=self.device, offload_device=management.vae_offload_device()
        )
        self.size = None
        self.model_size()
        self.latent_channels = network.config.channels
        self.downscale_ratio = self.upscale_ratio = network.config.decoder_patch
        self.crop_input = False  # the check below speaks of the picture as it came
        self.process_input = lambda image: image
        self.process_output = lambda image: image.clamp_(0, 1)
        self.memory_used_encode = lambda shape, dtype: memory_used(network.config, dtype)
        self.memory_used_decode = self.memory_used_encode

    @property
    def config(self) -> RPiAEConfig:
        return self.first_stage_model.config

    @property
    def picture_side(self) -> int:
        """Of the pictures that it takes, in pixels."""
        return self.config.picture_side

    def encode(self, pixel_samples: Tensor) -> Tensor:
        """Pictures, (B, side, side, 3) in 0..1, to latents. Raises ValueError for any other size."""
        self._check_trained()
        check_side(pixel_samples, self.config)
        return super().encode(pixel_samples)

    def decode(self, samples_in: Tensor, vae_options: Any = None) -> Tensor:
        """Latents to pictures, (B, side, side, 3) in 0..1. vae_options: of other VAEs' networks, and not used."""
        self._check_trained()
        self.config.check_latent(samples_in.shape)
        return super().decode(samples_in)

    def encode_tiled(self, pixels: Tensor, *sizes: Any, **named: Any) -> Tensor:
        """As `encode`: all that an RPiAE takes is one tile."""
        return self.encode(pixels)

    def decode_tiled(self, samples: Tensor, *sizes: Any, **named: Any) -> Tensor:
        return self.decode(samples)

    def tokens(self, pixels: Tensor) -> Tensor:
        """The encoder's tokens of square pictures, (B, H, W, 3) in 0..1: (B, cells², width) on the host's own device."""
        comfy.model_management.load_models_gpu(
            [self.patcher], memory_required=len(pixels) * memory_used(self.config, self.vae_dtype), force_full_load=True
        )
        picture = pixels.movedim(-1, 1).to(self.device, self.vae_dtype)
        return self.first_stage_model.tokens(picture).to(self.output_device)

    def _check_trained(self) -> None:
        if self.about.get("stage") == PIVOT:
            raise ValueError(
                "This RPiAE has been trained for the pivot stage alone: it has no latents yet. Train its bridge and then its "
                "decoder, with vae connected to ReEdit Train RPiAE."
            )


def smallest_weights(config: KLConfig) -> dict[str, Tensor]:
    """Tensors of a KL autoencoder that the host builds without a word."""
    from ..models.autoencoders.kl_layout import to_ldm_layout
    from ..models.autoencoders.kl_network import build_autoencoder

    autoencoder: Any = build_autoencoder(config)
    return to_ldm_layout(autoencoder.state_dict())


def check_side(pixels: Tensor, config: RPiAEConfig) -> None:
    """Raise ValueError where pictures are not of the one size that an RPiAE gives back."""
    check_picture(pixels)
    height, width = pixels.shape[1:3]
    side = config.picture_side
    if (height, width) != (side, side):
        raise ValueError(
            f"pixels is {width}×{height}, and this RPiAE takes pictures of {side}×{side} alone, and gives them back at that "
            f"size. Crop the picture to a square and scale it to {side}×{side} before, or set fit of ReEdit Encode to crop."
        )


def memory_used(config: RPiAEConfig, dtype: torch.dtype) -> float:
    """Bytes that one picture takes in its largest layer, besides the weights: tokens, MLP and attention of the wider part."""
    tokens = config.cells**2 + 1 + config.registers
    width, hidden, heads = max(
        (config.decoder_width, config.decoder_hidden, config.decoder_heads),
        (config.width, config.width * config.mlp_ratio, config.heads),
    )
    values = tokens * (6 * width + 2 * hidden) + 2 * heads * tokens**2 + 6 * config.picture_side**2
    return values * comfy.model_management.dtype_size(dtype)


def load_rpiae_vae(path: Path, dtype: torch.dtype | None = None) -> RPiAEVAE:
    """The RPiAE in a file as the host's VAE object. Raises ValueError that names the file and what is wrong with it."""
    from ..models.autoencoders.rpiae import load_rpiae

    stored = read_rpiae(path)
    return RPiAEVAE(load_rpiae(stored), path, stored.about, dtype)


def write_converted(path: Path) -> Path:
    """The tensors of a torch file as a safetensors file beside it, which loads without unpickling. Its path.

    Raises ValueError where another file of that name is there.
    """
    target = path.with_suffix(WEIGHT_FILES[0])
    if target.exists():
        raise ValueError(f"convert: {target.name} is there already. Choose it as vae_name, or remove it first.")
    read_rpiae(path).save(target)
    logging.info("ReEdit: %s was converted to %s", path.name, target)
    return target


class ReEditLoadRPiAE(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        names = folder_paths.get_filename_list("vae")
        return io.Schema(
            node_id="ReEditLoadRPiAE",
            display_name="Load RPiAE",
            category="ReEdit/autoencoders",
            description="Loads an RPiAE: an autoencoder whose latent comes from a vision model's tokens. It works at one "
            "size, 256×256 as published, with latents of its own, and says how an edit moved the meaning.",
            search_aliases=["load vae", "vae loader", "rae", "representation autoencoder", "dinov2"],
            inputs=[
                io.Combo.Input(
                    "vae_name",
                    options=[name for name in names if name.lower().endswith((*WEIGHT_FILES, *PICKLES))],
                    tooltip="A file in the host's folder models/vae: safetensors, or the published checkpoint "
                    "(rpiae_stage3_1_c64_ema.pt), of which nothing but tensors is read.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default="auto",
                    optional=True,
                    tooltip="The precision in which it computes. auto: what the host chooses for the device.",
                ),
                io.Boolean.Input(
                    "convert",
                    default=False,
                    optional=True,
                    tooltip="Write a torch file (.pt) once more as safetensors, beside it. Choose that file from then on.",
                ),
            ],
            outputs=[io.Vae.Output(tooltip="Works in every node that takes a VAE, the host's own included.")],
        )

    @classmethod
    def execute(cls, vae_name: str, dtype: str = "auto", convert: bool = False) -> io.NodeOutput:
        path = Path(folder_paths.get_full_path_or_raise("vae", vae_name))
        if convert and path.suffix.lower() in PICKLES:
            path = write_converted(path)
        return io.NodeOutput(load_rpiae_vae(path, DTYPES[dtype]))
