"""The sizes of eps-VAE decoders, and their files: what can be known without building one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from ..files import opened, write_beside

KIND = "epsilon decoder"  # what a file's metadata says it is
METADATA = "reedit"


@dataclass(frozen=True)
class EpsilonConfig:
    """What a decoder is built from and what its numbers mean.

    width: channels at the picture's size; multipliers: of it at each level, each half as large as the one before; blocks: a
    level; attention_levels: 0 is the picture's size. ratio: pixels a cell of the latent; gamma: the picture's scale in the
    flow (table 5f: 0.6 is best, 1 is none). picture_variance: of pictures in -1..1; latent_shift and latent_scale bring
    latents to mean 0 and variance 1: (latent - shift) · scale. preconditioned: the network says only what of the velocity
    cannot be told from x_t alone (ours; the paper's says all of it).
    """

    width: int
    blocks: int
    latent_channels: int
    ratio: int
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    attention_levels: tuple[int, ...] = (2, 3, 4)
    head_channels: int = 64
    norm_groups: int = 32
    gamma: float = 0.6
    picture_variance: float = 0.25
    latent_shift: float = 0.0
    latent_scale: float = 1.0
    preconditioned: bool = False

    @property
    def cells(self) -> int:
        """A latent's sides must be multiples of it, or be padded, for the maps to be halved at every level."""
        return max(1, 2 ** (len(self.multipliers) - 1) // self.ratio)

    def check(self) -> None:
        """Raise ValueError where no decoder can be built, saying which size is wrong."""
        positive = ("width", "blocks", "latent_channels", "ratio", "head_channels", "norm_groups", "gamma")
        for name in (*positive, "picture_variance", "latent_scale"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, and must be more than 0.")
        if not self.multipliers or any(multiplier < 1 for multiplier in self.multipliers):
            raise ValueError(f"multipliers are {self.multipliers}, and each must be 1 or more.")
        if self.width % self.norm_groups:
            raise ValueError(f"width is {self.width}, and must be a multiple of norm_groups, {self.norm_groups}.")
        if self.ratio & (self.ratio - 1):
            raise ValueError(f"ratio is {self.ratio}, and must be a power of two.")

    def check_latent(self, shape: Sequence[int]) -> None:
        """Raise ValueError where a latent of this shape is none that the decoder takes."""
        if len(shape) == 5:
            raise ValueError(
                f"samples has shape {tuple(shape)}, a video's latent. An eps-VAE decoder takes pictures' latents, "
                "(batch, channels, height, width): decode it with the video model's own VAE."
            )
        if len(shape) != 4 or shape[1] != self.latent_channels:
            raise ValueError(
                f"samples has shape {tuple(shape)}, and this decoder takes latents of {self.latent_channels} channels at a "
                f"ratio of {self.ratio}. Use the decoder that was trained for the VAE that made the latent."
            )


# Table 6. Where attention stands is not said: with it here, the counts of parameters are the paper's (table 8) to 0.02 %,
# but for B, whose 20.63 M nothing that is said leads to (22.27 M here). The tiny ones are for pictures of 64 px, as the demo
# family's: they have the parameters of its autoencoders' decoders, at a ratio of 4 and of 8, to 2 %, and take their time:
# narrow where the maps are large, and with attention in the middle alone. As few channels must not be normed one by one: with
# 16 groups they learn several times as slowly.
_TINY: dict[str, Any] = {"width": 16, "blocks": 2, "attention_levels": (), "head_channels": 16, "norm_groups": 4}
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {**_TINY, "multipliers": (1, 2, 4)},
    "tiny, 4 levels": {**_TINY, "multipliers": (1, 2, 2, 4)},
    "B": {"width": 64, "blocks": 2},
    "M": {"width": 96, "blocks": 2, "attention_levels": (3, 4)},
    "L": {"width": 128, "blocks": 2},
    "XL": {"width": 128, "blocks": 4},
    "H": {"width": 256, "blocks": 2},
}


def config_of_size(size: str, latent_channels: int, ratio: int) -> EpsilonConfig:
    """The sizes under one of the names in SIZES. Raises ValueError for another name."""
    if size not in SIZES:
        raise ValueError(f"size is {size!r}. Choose one of {', '.join(SIZES)}.")
    return EpsilonConfig(latent_channels=latent_channels, ratio=ratio, **SIZES[size])


@dataclass(frozen=True, eq=False)  # tensors have no one answer to ==
class StoredEpsilonDecoder:
    """A decoder's file: its sizes, its tensors under diffusers' names, and what else the file says.

    about: what it was made from and how. metadata: other entries, such as the marks of the encoder that it belongs to.
    """

    config: EpsilonConfig
    tensors: Mapping[str, Tensor]
    about: Mapping[str, Any]
    metadata: Mapping[str, str]

    def save(self, path: Path) -> None:
        """Write the file beside and rename it. OSError where it cannot be written: what was there before is there still."""
        said = {"kind": KIND, "config": asdict(self.config), **self.about}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        write_beside(path, save(tensors, {"format": "pt", **self.metadata, METADATA: json.dumps(said)}))


def read_epsilon_decoder(path: Path) -> StoredEpsilonDecoder:
    """The decoder in a safetensors file. Raises ValueError that names the file and what is wrong with it."""
    with opened(path) as file:
        try:
            metadata = file.metadata() or {}
            said = json.loads(metadata.pop(METADATA, "{}"))
            if not isinstance(said, dict) or said.pop("kind", None) != KIND:
                raise ValueError("it holds no eps-VAE decoder. Choose a file that ReEdit Train eps-VAE wrote.")
            config = _read_config(said.pop("config", None))
        except ValueError as error:
            raise ValueError(f"{path.name} cannot be used as an eps-VAE decoder: {error}") from error
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    metadata.pop("format", None)
    return StoredEpsilonDecoder(config, tensors, said, metadata)


def _read_config(said: Any) -> EpsilonConfig:
    """The sizes that a file's metadata gives. Raises ValueError where they are none."""
    kinds = {one.name: str(one.type) for one in fields(EpsilonConfig)}
    try:
        if set(said) != set(kinds):
            raise ValueError(", ".join(sorted(set(said) ^ set(kinds))))
        values: dict[str, Any] = {}
        for name, value in said.items():
            if kinds[name].startswith("tuple"):
                values[name] = tuple(int(one) for one in value)
            else:
                values[name] = {"int": int, "bool": bool}.get(kinds[name], float)(value)
        config = EpsilonConfig(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"its metadata does not say the decoder's sizes ({error}).") from error
    config.check()
    return config
