"""RPiAE's files: sizes, the published checkpoint's names and shapes, and reading one without running anything in it.

Gong et al., "RPiAE: A Representation-Pivoted Autoencoder" (arXiv 2603.19206). What is built and what its tensors are called
follows the authors' repository (PAPERS.md 5.2); a file that is converted here keeps those names.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ..files import read_tensors, write_beside
from .kl_layout import describe_faults, find_faults

KIND = "RPiAE"  # what a file's metadata says it is
METADATA = "reedit"
AVERAGED = "ema"  # under which key a training's checkpoint holds the averaged weights
ENCODER = "encoder.encoder."  # before the names of the DINOv2 inside
BRIDGE_ENCODER, BRIDGE_DECODER, PIXEL_DECODER = "vb_feature_encoder.", "vb_feature_decoder.", "decoder."
PICKLES = (".pt", ".pth", ".ckpt", ".bin")

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class RPiAEConfig:
    """What an RPiAE is built from; the defaults are the published one's: DINOv2-B with registers, 64 channels, ViT-XL.

    side: of the encoder's input in pixels, cut into patches of `patch`; positions: of the stored position embeddings, in
    patches a side, resampled to the input's. channels: of the latent. Every `decoder_patch` pixels of the output are a cell.
    """

    side: int = 224
    patch: int = 14
    positions: int = 37
    width: int = 768
    layers: int = 12
    heads: int = 12
    registers: int = 4
    mlp_ratio: int = 4
    channels: int = 64
    bridge_layers: int = 6
    bridge_heads: int = 8
    decoder_width: int = 1152
    decoder_layers: int = 28
    decoder_heads: int = 16
    decoder_hidden: int = 4096
    decoder_patch: int = 16

    @property
    def cells(self) -> int:
        """Of a latent, a side."""
        return self.side // self.patch

    @property
    def picture_side(self) -> int:
        """In pixels, of the only size that is decoded."""
        return self.cells * self.decoder_patch

    def check_latent(self, shape: Sequence[int]) -> None:
        """Raise ValueError where a latent is not (B, channels, cells, cells)."""
        wanted = (self.channels, self.cells, self.cells)
        if tuple(shape[1:]) != wanted:
            raise ValueError(
                f"samples has shape {tuple(shape)}, and this RPiAE takes latents of {wanted[0]} channels and "
                f"{wanted[1]}×{wanted[2]} cells, as its own encoder makes them."
            )

    def check(self) -> None:
        """Raise ValueError where no autoencoder can be built, saying which size is wrong."""
        for one in fields(self):
            least = 0 if one.name == "registers" else 1
            if getattr(self, one.name) < least:
                raise ValueError(f"{one.name} is {getattr(self, one.name)}, and must be {least} or more.")
        for whole, part in (
            ("side", "patch"),
            ("width", "heads"),
            ("width", "bridge_heads"),
            ("decoder_width", "decoder_heads"),
        ):
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(
                    f"{whole} is {getattr(self, whole)}, and must be a multiple of {part}, {getattr(self, part)}."
                )


# --- names and shapes -------------------------------------------------------------------------------------------------


def published_shapes(config: RPiAEConfig) -> Shapes:
    """Every tensor of an RPiAE under the name that the authors' checkpoint gives it, and its shape."""
    return {
        **_encoder_shapes(config),
        **_bridge_shapes(config),
        **_pixel_decoder_shapes(config),
    }


def _linear(name: str, out_width: int, in_width: int) -> Shapes:
    return {f"{name}.weight": (out_width, in_width), f"{name}.bias": (out_width,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _encoder_shapes(config: RPiAEConfig) -> Shapes:
    """Transformers' DINOv2 with registers, whose last norm has neither weight nor bias here."""
    width, hidden = config.width, config.width * config.mlp_ratio
    shapes: Shapes = {
        "embeddings.cls_token": (1, 1, width),
        "embeddings.mask_token": (1, width),
        "embeddings.register_tokens": (1, config.registers, width),
        "embeddings.position_embeddings": (1, config.positions**2 + 1, width),
        "embeddings.patch_embeddings.projection.weight": (width, 3, config.patch, config.patch),
        "embeddings.patch_embeddings.projection.bias": (width,),
    }
    for layer in range(config.layers):
        block = f"encoder.layer.{layer}"
        shapes |= _norm(f"{block}.norm1", width) | _norm(f"{block}.norm2", width)
        for part in ("attention.query", "attention.key", "attention.value", "output.dense"):
            shapes |= _linear(f"{block}.attention.{part}", width, width)
        shapes |= {f"{block}.layer_scale{number}.lambda1": (width,) for number in (1, 2)}
        shapes |= _linear(f"{block}.mlp.fc1", hidden, width) | _linear(f"{block}.mlp.fc2", width, hidden)
    return {ENCODER + name: shape for name, shape in shapes.items()}


def _bridge_shapes(config: RPiAEConfig) -> Shapes:
    """The names are those of torch's MultiheadAttention and TransformerEncoderLayer."""
    width, channels = config.width, config.channels
    encoder = _norm("norm1", width) | _norm("norm2", width) | _attention("attn", width)
    for name, out_width in (("skip_proj", width), ("proj2.0", width), ("proj2.3", width), ("to_moments", 2 * channels)):
        encoder |= _linear(name, out_width, width)
    decoder = _linear("in_proj", width, channels) | _linear("out_proj", width, width)
    for layer in range(config.bridge_layers):
        block = f"net.{layer}"
        decoder |= _attention(f"{block}.self_attn", width)
        decoder |= _linear(f"{block}.linear1", 4 * width, width) | _linear(f"{block}.linear2", width, 4 * width)
        decoder |= _norm(f"{block}.norm1", width) | _norm(f"{block}.norm2", width)
    return {
        **{BRIDGE_ENCODER + name: shape for name, shape in encoder.items()},
        **{BRIDGE_DECODER + name: shape for name, shape in decoder.items()},
    }


def _attention(name: str, width: int) -> Shapes:
    return {
        f"{name}.in_proj_weight": (3 * width, width),
        f"{name}.in_proj_bias": (3 * width,),
        **_linear(f"{name}.out_proj", width, width),
    }


def _pixel_decoder_shapes(config: RPiAEConfig) -> Shapes:
    """A masked autoencoder's decoder, with a class token of its own."""
    width, hidden = config.decoder_width, config.decoder_hidden
    shapes: Shapes = {
        "trainable_cls_token": (1, 1, width),
        "decoder_pos_embed": (1, config.cells**2 + 1, width),
        **_linear("decoder_embed", width, config.width),
        **_norm("decoder_norm", width),
        **_linear("decoder_pred", 3 * config.decoder_patch**2, width),
    }
    for layer in range(config.decoder_layers):
        block = f"decoder_layers.{layer}"
        for part in ("attention.query", "attention.key", "attention.value", "output.dense"):
            shapes |= _linear(f"{block}.attention.{part}", width, width)
        shapes |= _linear(f"{block}.intermediate.dense", hidden, width) | _linear(
            f"{block}.output.dense", width, hidden
        )
        shapes |= _norm(f"{block}.layernorm_before", width) | _norm(f"{block}.layernorm_after", width)
    return {PIXEL_DECODER + name: shape for name, shape in shapes.items()}


# --- files ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)  # tensors have no one answer to ==
class StoredRPiAE:
    """An RPiAE's file: its sizes, its tensors under the published names, and what else the file says."""

    config: RPiAEConfig
    tensors: Mapping[str, Tensor]
    about: Mapping[str, Any]

    def save(self, path: Path) -> None:
        """Write a safetensors file beside and rename it. OSError where it cannot be written; the old one is there still."""
        said = {**self.about, "kind": KIND, "config": asdict(self.config)}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        write_beside(path, save(tensors, {"format": "pt", METADATA: json.dumps(said)}))


def read_rpiae(path: Path) -> StoredRPiAE:
    """The RPiAE in a file: safetensors, or the published checkpoint, of which nothing but tensors is read.

    Raises ValueError that names the file and what is wrong with it: code inside (none of it is run), tensors that are missing
    or that no RPiAE has, shapes that are not the sizes', NaN.
    """
    if path.suffix.lower() in PICKLES:
        return rpiae_of(path.name, _read_pickle(path), {})
    return rpiae_of(path.name, *read_tensors(path))


def rpiae_of(file: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> StoredRPiAE:
    """The RPiAE in what was read from a file of this name. Raises ValueError as `read_rpiae` does."""
    try:
        about = json.loads(metadata.get(METADATA, "{}"))
        if not isinstance(about, dict) or about.pop("kind", KIND) != KIND:
            raise ValueError("its metadata says that it holds something else.")
        config = _config_of(about.pop("config", None))
        _check(tensors, config)
    except (ValueError, RuntimeError) as error:  # torch says of no 8-bit floating-point number whether it is finite
        raise ValueError(f"{file} cannot be used as an RPiAE: {error}") from error
    return StoredRPiAE(config, tensors, about)


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path.name} cannot be used as an RPiAE: it is a pickle that holds more than tensors, which could be code. None "
            "of it was run. Use a file from a source that you trust, as safetensors."
        ) from error
    except (OSError, EOFError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path.name} cannot be read ({error}). Is the download whole?") from error
    tensors = loaded.get(AVERAGED, loaded) if isinstance(loaded, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ValueError(
            f"{path.name} cannot be used as an RPiAE: it is no dictionary of tensors, and holds none under {AVERAGED!r}."
        )
    return tensors


def _config_of(said: Any) -> RPiAEConfig:
    """The sizes that a file of ours says; the published ones where it says none."""
    if said is None:
        return RPiAEConfig()
    try:
        config = RPiAEConfig(**{name: int(value) for name, value in said.items()})
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"its metadata does not say the sizes ({error}).") from error
    config.check()
    return config


def _check(tensors: Mapping[str, Tensor], config: RPiAEConfig) -> None:
    """Raise ValueError where these are not just the tensors of an RPiAE of these sizes, naming them."""
    shapes = published_shapes(config)
    expected = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    faults = find_faults(tensors, expected)
    faults += [f"{name} is in no RPiAE of these sizes" for name in sorted(tensors.keys() - expected.keys())]
    if faults:
        raise ValueError(f"{describe_faults(faults)}. Get the file again.")
