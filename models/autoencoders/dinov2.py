"""DINOv2 of any size, with registers or without: its file as transformers publishes it, checked and built.

Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision" (TMLR 2024); Darcet et al., "Vision Transformers
Need Registers" (ICLR 2024). A file says its sizes by its tensors' shapes, all but the number of attention heads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ..files import read_tensors, write_beside
from .kl_layout import describe_faults, find_faults

# Of the pictures that it sees, in 0..1: ImageNet's.
PICTURE_MEAN, PICTURE_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HEAD_CHANNELS = 64  # of every DINOv2 that was published, S to g
HEADS = "num_attention_heads"  # the entry of a file's metadata that says otherwise
PREFIXES = ("", "dinov2.", "dinov2_with_registers.", "backbone.", "model.")
# Names in the parts of a layer: as files have them, until release 4 of transformers the network too; and since.
_LAYER_NAMES = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "mlp.weights_out": "mlp.down_proj",
}
_JOINED = "mlp.weights_in"  # in files; since release 5 the network keeps its two halves apart
_HALVES = ("mlp.gate_proj", "mlp.up_proj")


@dataclass(frozen=True, eq=False)  # tensors have no one answer to ==
class StoredDINOv2:
    """A DINOv2's file: its attention heads, and its tensors under the names that files have."""

    heads: int
    tensors: Mapping[str, Tensor]

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.tensors["embeddings.cls_token"].shape[-1]

    @property
    def registers(self) -> int:
        """How many register tokens stand between the class token and the patches'; 0 where it has none."""
        tokens = self.tensors.get("embeddings.register_tokens")
        return 0 if tokens is None else tokens.shape[1]

    @property
    def patch(self) -> int:
        """The side of a patch, in pixels."""
        return self.tensors["embeddings.patch_embeddings.projection.weight"].shape[-1]

    @property
    def positions(self) -> int:
        """Patches a side of the pictures that its position embeddings are made for."""
        return math.isqrt(self.tensors["embeddings.position_embeddings"].shape[1] - 1)

    @property
    def layers(self) -> int:
        """Of the transformer."""
        return len({name.split(".")[2] for name in self.tensors if name.startswith("encoder.layer.")})

    @property
    def swiglu(self) -> bool:
        """Whether its MLPs are gated, as those of size g."""
        return f"encoder.layer.0.{_JOINED}.weight" in self.tensors

    @property
    def mlp_ratio(self) -> int:
        """How many times as wide as the tokens the MLPs are; of gated ones what they are called by."""
        return 4 if self.swiglu else self.tensors["encoder.layer.0.mlp.fc1.weight"].shape[0] // self.width

    def sizes(self) -> dict[str, Any]:
        """What `build_network` is told."""
        names = ("width", "layers", "heads", "registers", "mlp_ratio", "patch", "positions", "swiglu")
        return {name: getattr(self, name) for name in names}

    def save(self, path: Path) -> None:
        """Write a safetensors file beside and rename it. OSError where it cannot be written; the old one is there still."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        write_beside(path, save(tensors, {"format": "pt", HEADS: str(self.heads)}))


def read_dinov2(path: Path) -> StoredDINOv2:
    """The DINOv2 in a safetensors file. Raises ValueError that names the file and what is wrong with it."""
    return dinov2_of(path.name, *read_tensors(path))


def dinov2_of(file: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> StoredDINOv2:
    """The DINOv2 in what was read from a file of this name. Raises ValueError that names it and what is wrong with it."""
    try:
        return _stored(tensors, metadata.get(HEADS))
    except ValueError as error:
        raise ValueError(f"{file} cannot be used as a DINOv2: {error}") from error


def _stored(tensors: Mapping[str, Tensor], heads: str | None) -> StoredDINOv2:
    prefix = next((one for one in PREFIXES if f"{one}embeddings.cls_token" in tensors), None)
    needed = [f"{prefix}embeddings.{name}" for name in ("position_embeddings", "patch_embeddings.projection.weight")]
    if prefix is None or any(name not in tensors for name in needed):
        raise ValueError(
            "it has no embeddings.cls_token with position and patch embeddings. Get the model as transformers has it, "
            "facebook/dinov2-base or facebook/dinov2-with-registers-base say, file model.safetensors."
        )
    own = {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith((f"{prefix}embeddings.", f"{prefix}encoder.", f"{prefix}layernorm."))
    }
    width = own["embeddings.cls_token"].shape[-1]
    if heads is not None and not (heads.isdecimal() and int(heads) and width % int(heads) == 0):
        raise ValueError(f"its metadata says {heads!r} attention heads, and its tokens are {width} wide.")
    stored = StoredDINOv2(int(heads) if heads else max(1, width // HEAD_CHANNELS), own)
    if not any(name in own for name in ("encoder.layer.0.mlp.fc1.weight", f"encoder.layer.0.{_JOINED}.weight")):
        raise ValueError("it has no encoder.layer.0.mlp of DINOv2's kind. DINOv3 and other models do not fit here.")
    with torch.device("meta"):
        expected = stored_tensors(build_network(**stored.sizes()))
    faults = find_faults(own, expected)
    faults += [f"{name} is in no DINOv2 of these sizes" for name in sorted(own.keys() - expected.keys())]
    if faults:
        raise ValueError(f"{describe_faults(faults)}. Get the file again.")
    return stored


# --- the network ------------------------------------------------------------------------------------------------------


def build_network(
    width: int,
    layers: int,
    heads: int,
    registers: int,
    mlp_ratio: int,
    patch: int,
    positions: int,
    swiglu: bool = False,
) -> Any:
    """Transformers' network of these sizes, weights fresh: with registers where there are any."""
    # It takes seconds to import, and the host, whose nodes are named from here, starts without it.
    from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    sizes: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "mlp_ratio": mlp_ratio,
        "patch_size": patch,
        "image_size": positions * patch,
        "use_swiglu_ffn": swiglu,
    }
    if registers:
        return Dinov2WithRegistersModel(Dinov2WithRegistersConfig(num_register_tokens=registers, **sizes))
    return Dinov2Model(Dinov2Config(**sizes))


def load_dinov2(stored: StoredDINOv2) -> Any:
    """The network of a file, in the precision of its tensors. Its patches' tokens come after 1 + `registers` others."""
    with torch.device("meta"):
        network = build_network(**stored.sizes())
    tensors = {}
    for name in network.state_dict():
        published, half = published_name(name)
        tensor = stored.tensors[published]
        tensors[name] = tensor if half is None else tensor.chunk(2)[half].contiguous()
    network.load_state_dict(tensors, assign=True)
    return network.requires_grad_(False).eval()


def stored_tensors(network: Any) -> dict[str, Tensor]:
    """A network's tensors under the names that files have; a last norm without weight and bias is written as 1 and 0."""
    stored: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        published, half = published_name(name)
        stored[published] = torch.cat([stored[published], tensor]) if half else tensor
    position = stored["embeddings.position_embeddings"]
    stored.setdefault("layernorm.weight", torch.ones_like(position[0, 0]))
    stored.setdefault("layernorm.bias", torch.zeros_like(position[0, 0]))
    return stored


def published_name(name: str) -> tuple[str, int | None]:
    """What files call a tensor of the network, and which half of theirs it is where they join two."""
    for half, own in enumerate(_HALVES):
        if f".{own}." in name:
            return name.replace(own, _JOINED), half
    for published, own in _LAYER_NAMES.items():
        name = name.replace(f".{own}.", f".{published}.")
    return name, None
