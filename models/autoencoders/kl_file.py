"""KL autoencoders in files: reading one, and writing a trained decoder in the layout that its base has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from ..files import fingerprint, opened, write_beside
from .kl_layout import DECODER_PARTS, PREFIXES, ldm_names, to_ldm_layout


@dataclass(frozen=True, eq=False)  # tensors have no one answer to ==
class StoredAutoencoder:
    """The tensors of an autoencoder under the names and in the shapes of its file, a checkpoint's prefix taken off.

    metadata: what else the file says.
    """

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def in_ldm_layout(self) -> dict[str, Tensor]:
        """The tensors under their ldm names."""
        return to_ldm_layout(self.tensors)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of its decoder."""
        names = ldm_names(self.tensors)
        return next(self.tensors[name].dtype for name, ldm in names.items() if ldm == "decoder.conv_in.weight")

    def fingerprint(self) -> str:
        """The sha256 of the tensors in the ldm layout: the same for every file that holds the same numbers."""
        return fingerprint({name: tensor.contiguous().cpu() for name, tensor in self.in_ldm_layout().items()})

    def with_decoder(self, trained: Mapping[str, Tensor]) -> StoredAutoencoder:
        """A copy whose decoder has the trained numbers, in the layout and the precision that the base's have.

        trained: every tensor of the decoder and of its quantiser, where the base has one, under its ldm name.
        """
        replaced = dict(self.tensors)
        for name, ldm_name in ldm_names(self.tensors).items():
            if ldm_name.startswith(DECODER_PARTS):
                base = self.tensors[name]
                replaced[name] = trained[ldm_name].detach().reshape(base.shape).to(base.dtype).cpu()
        return StoredAutoencoder(replaced)

    def decoder_only(self) -> StoredAutoencoder:
        """A copy without the encoder: a third smaller, for one who has the base."""
        names = ldm_names(self.tensors)
        return StoredAutoencoder(
            {name: self.tensors[name] for name, ldm in names.items() if ldm.startswith(DECODER_PARTS)}
        )

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Write the file beside and rename it. OSError where it cannot be written: what was there before is there still."""
        tensors = {name: tensor.contiguous() for name, tensor in self.tensors.items()}
        write_beside(path, save(tensors, {"format": "pt", **metadata}))


def read_autoencoder(path: Path) -> StoredAutoencoder:
    """The autoencoder of a safetensors file, a whole checkpoint too; of that only the autoencoder's tensors are read.

    Raises ValueError that names the file and what is wrong with it.
    """
    with opened(path) as file:
        try:
            names = ldm_names(file.keys())
        except ValueError as error:
            raise ValueError(f"{path.name} cannot be used as a VAE: {error}") from error
        tensors = {name: file.get_tensor(name) for name in names}
        metadata = file.metadata() or {}
    return StoredAutoencoder(
        {
            next(name.removeprefix(p) for p in PREFIXES if name.startswith(p)): tensor
            for name, tensor in tensors.items()
        },
        metadata,
    )
