"""A name for every step of a session: the same for the same latents come by in the same way, in any run and any process."""

from __future__ import annotations

import hashlib
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from .cell_change import digest
from .record import Edit, EditRecord

LENGTH = 32  # letters
# Of edits that were named before: a record and its successors share them. An edit's ancestors are always the same.
_known: WeakKeyDictionary[Edit, str] = WeakKeyDictionary()


def step_names(record: EditRecord) -> list[str]:
    """The name of the source and of every edit. Two edits share one if they change the same step in the same way.

    Made of the changes, not of whole latents: naming a new edit costs no more than what it changed.
    """
    names = [digest(record.source)[:LENGTH]]
    for edit in record.edits:
        if edit not in _known:
            _known[edit] = _name_edit(edit, names[edit.parent])
        names.append(_known[edit])
    return names


def _name_edit(edit: Edit, parent: str) -> str:
    change = edit.change
    hashed = hashlib.sha256(f"{parent} {change.shape} {change.batch_origin} {change.values.dtype}".encode())
    hashed.update(_bytes_of(change.values))
    if change.index is not None:
        hashed.update(_bytes_of(change.index))
    return hashed.hexdigest()[:LENGTH]


def _bytes_of(values: Tensor) -> memoryview:
    return values.contiguous().reshape(-1).view(torch.uint8).numpy().data
