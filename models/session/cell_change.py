"""What one edit changed of a latent, cell by cell: so that a session stores an unchanged cell once, and not once per edit."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, eq=False)  # tensors have no one answer to ==
class CellChange:
    """The difference between two latents: the cells whose bits differ, with what they hold afterwards.

    shape: of the latent afterwards, (B, C, [T,] H, W). index: (n,) int32, ascending positions in the flattened
    (B, [T,] H, W), or None where every cell is stored. values: (n, C). Both on the CPU. batch_origin: item i of the batch
    came from item batch_origin[i] of the parent's batch; None where the batch is as long as it was, or nothing is known.
    """

    shape: tuple[int, ...]
    index: Tensor | None
    values: Tensor
    batch_origin: tuple[int, ...] | None = None

    @property
    def share(self) -> float:
        """The share of the latent's cells that are stored here, 0 to 1."""
        return self.values.shape[0] / cell_count(self.shape)

    @property
    def nbytes(self) -> int:
        """The memory that the stored cells and their places take."""
        return self.values.nbytes + (0 if self.index is None else self.index.nbytes)


def cell_count(shape: tuple[int, ...]) -> int:
    """The number of cells of a latent of (B, C, [T,] H, W)."""
    return shape[0] * torch.Size(shape[2:]).numel()


def to_cells(samples: Tensor) -> Tensor:
    """(B, C, [T,] H, W) as (B·[T·]H·W, C), a copy on the CPU that shares nothing with the latent."""
    cells = samples.detach().to("cpu").movedim(1, -1).reshape(-1, samples.shape[1])
    return cells.clone() if cells.data_ptr() == samples.data_ptr() else cells


def to_samples(cells: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `to_cells`."""
    # Not contiguous(): it leaves odd strides on sides of length 1.
    return cells.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1).clone(memory_format=torch.contiguous_format)


def digest(samples: Tensor) -> str:
    """A fingerprint of a latent's bits, shape and dtype."""
    plain = samples.detach().to("cpu").contiguous()
    hashed = hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)}".encode())
    hashed.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()


def _bits(values: Tensor) -> Tensor:
    """The same memory as integers: so that -0.0 and 0.0 differ."""
    return values.reshape(-1).view(_BITS[values.element_size()]).reshape(values.shape)


def find_batch_origin(before: Tensor, after: Tensor) -> tuple[int, ...] | None:
    """Where each item of a batch came from, if the batch's length changed: by equal bits, otherwise as a repeat counts.

    None where the length is the same, or where an item's origin cannot be known.
    """
    if before.shape[0] == after.shape[0] or before.shape[1:] != after.shape[1:] or before.dtype != after.dtype:
        return None
    known = {digest(item): number for number, item in reversed(list(enumerate(before)))}
    repeats = after.shape[0] % before.shape[0] == 0
    origin = [known.get(digest(item), number % before.shape[0] if repeats else -1) for number, item in enumerate(after)]
    return None if -1 in origin else tuple(origin)


def find_change(before: Tensor, after: Tensor) -> CellChange:
    """What `after` changed of `before`; both (B, C, [T,] H, W). A change of size or dtype stores the whole latent."""
    origin, shape, cells = find_batch_origin(before, after), tuple(after.shape), to_cells(after)
    if origin is not None:
        before = before[list(origin)]
    if before.shape != after.shape or before.dtype != after.dtype:
        return CellChange(shape, None, cells)
    differs = (_bits(before.detach().to("cpu")) != _bits(after.detach().to("cpu"))).any(1).flatten()
    if bool(differs.all()):
        return CellChange(shape, None, cells, origin)
    index = differs.nonzero()[:, 0]
    return CellChange(shape, index.int(), cells[index], origin)


def apply_change(cells: Tensor, change: CellChange) -> Tensor:
    """The cells after a change, from those before it; `cells` (n, C) may be written to."""
    if change.index is None:
        return change.values.clone()
    if change.batch_origin is not None:
        per_item = cell_count(change.shape) // change.shape[0]
        cells = cells.reshape(-1, per_item, cells.shape[1])[list(change.batch_origin)].flatten(0, 1)
    return cells.index_copy_(0, change.index.long(), change.values)


def moved_cells(change: CellChange) -> Tensor:
    """Where a change acted: (B, H, W) float32, 1 in the cells that differ (in any frame of a video), otherwise 0."""
    moved = torch.zeros(cell_count(change.shape))
    moved[slice(None) if change.index is None else change.index.long()] = 1.0
    return moved.reshape(change.shape[0], -1, *change.shape[-2:]).amax(1)
