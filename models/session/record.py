"""The record of an edit session: immutable, and so small that it rides in a LATENT under the key "reedit"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ..cells import check_samples

KEY = "reedit"
SOURCE = 0  # the number of the source, the parent of the first edit
FOREIGN_TOOL = "unrecorded"


@dataclass(frozen=True)
class Edit:
    """One edit: what was done (`label`, `tool`, `parameters`), where (`mask`), and what came of it (`samples`).

    samples: the whole latent after the edit, (B, C, [T,] H, W). mask: (B, H, W) float32 in 0..1 or None for everywhere.
    parent: the number of the edit that this one was made on, or SOURCE. encoded_pixels: pixels sent through the encoder.
    """

    number: int
    label: str
    tool: str
    parameters: Mapping[str, Any]
    mask: Tensor | None
    samples: Tensor
    parent: int
    encoded_pixels: int = 0


@dataclass(frozen=True)
class EditRecord:
    """The source latent and every edit since. `current` is the number of the edit whose latent travels with the record."""

    source: Tensor
    source_encoded_pixels: int = 0
    edits: tuple[Edit, ...] = ()
    current: int = field(default=SOURCE)

    def samples_at(self, number: int) -> Tensor:
        """The latent after edit `number`; SOURCE gives the source. IndexError for a number that is not there."""
        if number == SOURCE:
            return self.source
        if not 1 <= number <= len(self.edits):
            raise IndexError(f"edit {number} is not in this session; it has edits 1 to {len(self.edits)}.")
        return self.edits[number - 1].samples

    def with_edit(
        self,
        samples: Tensor,
        label: str,
        tool: str,
        parameters: Mapping[str, Any] | None = None,
        mask: Tensor | None = None,
        encoded_pixels: int = 0,
    ) -> EditRecord:
        """A new record with one edit more, made on the current one."""
        edit = Edit(
            number=len(self.edits) + 1,
            label=label,
            tool=tool,
            parameters=MappingProxyType(dict(parameters or {})),
            mask=mask,
            samples=samples,
            parent=self.current,
            encoded_pixels=encoded_pixels,
        )
        return replace(self, edits=(*self.edits, edit), current=edit.number)

    def is_current(self, samples: Tensor) -> bool:
        """Whether a latent is, bit for bit, the one that the record saw last."""
        known = self.samples_at(self.current)
        return known.shape == samples.shape and torch.equal(known.to(samples), samples)


def read_record(latent: Mapping[str, Any]) -> EditRecord:
    """The record in a LATENT, or a new one that takes the latent as its source. Does not look for changes."""
    check_samples(latent["samples"])
    record = latent.get(KEY)
    return record if isinstance(record, EditRecord) else EditRecord(source=latent["samples"])


def observe(latent: Mapping[str, Any]) -> EditRecord:
    """The record in a LATENT, brought up to date: a change made by a node that keeps no record is noted as an edit.

    The mask of such an edit is the cells that moved, (B, H, W) on the latent's grid.
    """
    record = read_record(latent)
    if record.is_current(latent["samples"]):
        return record
    samples, before = latent["samples"], record.samples_at(record.current)
    moved = None
    if samples.shape == before.shape:
        moved = (samples != before.to(samples)).flatten(1, -3).any(1).float()
    return record.with_edit(samples, label="unrecorded edit", tool=FOREIGN_TOOL, mask=moved)


def with_record(latent: Mapping[str, Any], record: EditRecord) -> dict[str, Any]:
    """A copy of a LATENT that holds the record and the record's current samples; the input is left as it is."""
    return {**latent, "samples": record.samples_at(record.current), KEY: record}
