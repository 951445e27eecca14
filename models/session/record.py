"""The record of an edit session: immutable, and so small that it rides in a LATENT under the key "reedit"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from torch import Tensor

from ..cells import check_samples
from .cell_change import CellChange, apply_change, digest, find_change, moved_cells, to_cells, to_samples
from .packed_mask import PackedMask, pack_mask, unpack_mask

KEY = "reedit"
SOURCE = 0  # the number of the source, the parent of the first edit
FOREIGN_TOOL = "unrecorded"
FOREIGN_LABEL = "unrecorded edit"


@dataclass(frozen=True, eq=False)  # tensors have no one answer to ==
class Edit:
    """One edit: what was done (`label`, `tool`, `parameters`), where (`mask`), and what came of it (`change`).

    parent: the number of the edit that this one was made on, or SOURCE. change: against the parent's latent.
    encoded_pixels: how many pixels were sent through the encoder for it.
    """

    number: int
    label: str
    tool: str
    parameters: Mapping[str, Any]
    parent: int
    change: CellChange
    packed_mask: PackedMask | None = None
    encoded_pixels: int = 0

    @property
    def mask(self) -> Tensor | None:
        """Where the edit acted, (B, H, W) float32 in 0..1 of any size with the picture's proportions; None: everywhere."""
        return None if self.packed_mask is None else unpack_mask(self.packed_mask)

    @property
    def batch_origin(self) -> tuple[int, ...] | None:
        """Item i of the batch came from item batch_origin[i] of the parent's; None where the batch stayed as it was."""
        return self.change.batch_origin

    @property
    def changed_cells(self) -> float:
        """The share of cells that differ from the parent's, 0 to 1; 1 where the size changed."""
        return self.change.share

    @property
    def nbytes(self) -> int:
        """The memory that the edit's cells and mask take."""
        return self.change.nbytes + (0 if self.packed_mask is None else self.packed_mask.nbytes)


@dataclass(frozen=True, eq=False)  # tensors have no one answer to ==
class EditRecord:
    """The source latent and every edit since. `current` is the number of the edit whose latent travels with the record.

    source: (B, C, [T,] H, W), copied to the CPU when a record is begun. current_digest: of the latent at `current`, by which
    the record knows whether a latent is the one that it saw last.
    """

    source: Tensor
    source_encoded_pixels: int = 0
    edits: tuple[Edit, ...] = ()
    current: int = SOURCE
    current_digest: str = ""

    def __post_init__(self) -> None:
        if not self.current_digest:
            # A copy, so that a node which writes into its input cannot rewrite history.
            object.__setattr__(self, "source", self.source.detach().to("cpu", copy=True).contiguous())
            object.__setattr__(self, "current_digest", digest(self.samples_at(self.current)))

    @property
    def nbytes(self) -> int:
        """The memory that the session's latents and masks take."""
        return self.source.nbytes + sum(edit.nbytes for edit in self.edits)

    def edit(self, number: int) -> Edit:
        """Edit `number`, from 1. IndexError for a number that is not there."""
        if not 1 <= number <= len(self.edits):
            there = f"it has edits 1 to {len(self.edits)}" if self.edits else "it has no edits yet"
            raise IndexError(f"edit {number} is not in this session; {there}, and 0 is the source.")
        return self.edits[number - 1]

    def path_to(self, number: int) -> tuple[int, ...]:
        """The numbers from SOURCE to `number`, each the parent of the next."""
        path = [number]
        while path[-1] != SOURCE:
            path.append(self.edit(path[-1]).parent)
        return tuple(reversed(path))

    def samples_at(self, number: int) -> Tensor:
        """The latent after edit `number`, bit for bit, on the CPU; SOURCE gives the source. A copy of the record's own."""
        changes = [self.edit(step).change for step in self.path_to(number)[1:]]
        whole = [place for place, change in enumerate(changes) if change.index is None]
        cells, shape = to_cells(self.source), tuple(self.source.shape)
        for change in changes[whole[-1] if whole else 0 :]:
            cells, shape = apply_change(cells, change), change.shape
        return to_samples(cells, shape)

    def with_edit(
        self,
        samples: Tensor,
        label: str,
        tool: str,
        parameters: Mapping[str, Any] | None = None,
        mask: Tensor | None = None,
        encoded_pixels: int = 0,
    ) -> EditRecord:
        """A new record with one edit more, made on the current one.

        mask: (B, H, W) in 0..1; None takes the cells that differ, and where those are all, there is no mask.
        """
        change = find_change(self.samples_at(self.current), samples)
        if mask is None and change.index is not None:
            mask = moved_cells(change)
        edit = Edit(
            number=len(self.edits) + 1,
            label=label,
            tool=tool,
            parameters=MappingProxyType(dict(parameters or {})),
            parent=self.current,
            change=change,
            packed_mask=None if mask is None else pack_mask(mask),
            encoded_pixels=encoded_pixels,
        )
        return replace(self, edits=(*self.edits, edit), current=edit.number, current_digest=digest(samples))

    def without_unrecorded(self) -> EditRecord:
        """The record before its newest edit, if that is the current one, made by a node that keeps no record."""
        newest = self.edits[-1]
        if not self.is_unrecorded or newest.number != self.current:
            return self
        parent = newest.parent
        return replace(self, edits=self.edits[:-1], current=parent, current_digest=digest(self.samples_at(parent)))

    def at(self, number: int) -> EditRecord:
        """The same session, gone to another step: what is edited next becomes a branch from there."""
        if number == self.current:
            return self
        return replace(self, current=number, current_digest=digest(self.samples_at(number)))

    def is_current(self, samples: Tensor) -> bool:
        """Whether a latent is, bit for bit, the one that the record saw last."""
        return self.current_digest == digest(samples)

    @property
    def is_unrecorded(self) -> bool:
        """Whether the current edit was made by a node that keeps no record, and has no name yet."""
        return self.current != SOURCE and self.edit(self.current).tool == FOREIGN_TOOL


def read_record(latent: Mapping[str, Any]) -> EditRecord:
    """The record in a LATENT, or a new one that takes the latent as its source. Does not look for changes."""
    check_samples(latent["samples"])
    record = latent.get(KEY)
    return record if isinstance(record, EditRecord) else EditRecord(source=latent["samples"])


def observe(latent: Mapping[str, Any]) -> EditRecord:
    """The record in a LATENT, brought up to date: a change made by a node that keeps no record is noted as an edit."""
    record = read_record(latent)
    if record.is_current(latent["samples"]):
        return record
    return record.with_edit(latent["samples"], FOREIGN_LABEL, FOREIGN_TOOL)


def with_record(latent: Mapping[str, Any], record: EditRecord, samples: Tensor | None = None) -> dict[str, Any]:
    """A copy of a LATENT that holds the record and the latent at its current step; the input is left as it is.

    samples: that latent, where it is at hand. The list of batch indices is left out where the batch has another length.
    """
    if samples is None:
        at_hand: Tensor | None = latent.get("samples")
        known = at_hand if at_hand is not None and record.is_current(at_hand) else None
        samples = record.samples_at(record.current) if known is None else known
    kept = {key: value for key, value in latent.items() if key != "batch_index" or len(value) == samples.shape[0]}
    return {**kept, "samples": samples, KEY: record}
