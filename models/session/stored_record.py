"""An edit record as tensors and plain values, and back, with every claim of the stored form checked."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from .cell_change import CellChange, cell_count
from .packed_mask import PackedMask, inflate_window
from .record import SOURCE, Edit, EditRecord

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Far above what is edited; they keep a small file from asking for all memory.
MOST_VALUES = 2**28  # of one latent
MOST_PIXELS = 2**26  # of one mask


def pack_record(record: EditRecord) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a record by name, and the rest of it as values that JSON can hold."""
    tensors, edits = {"source": record.source}, []
    for edit in record.edits:
        change, mask = edit.change, edit.packed_mask
        tensors[f"edit.{edit.number}.values"] = change.values.contiguous()
        if change.index is not None:
            tensors[f"edit.{edit.number}.index"] = change.index.contiguous()
        if mask is not None:
            tensors[f"edit.{edit.number}.mask"] = torch.frombuffer(bytearray(mask.data), dtype=torch.uint8)
        edits.append(
            {
                "label": edit.label,
                "tool": edit.tool,
                "parameters": dict(edit.parameters),
                "parent": edit.parent,
                "encoded_pixels": edit.encoded_pixels,
                "shape": change.shape,
                "batch_origin": change.batch_origin,
                "mask": None if mask is None else {"shape": mask.shape, "window": mask.window},
            }
        )
    kept = {"source_encoded_pixels": record.source_encoded_pixels, "current": record.current}
    return tensors, {**kept, "current_digest": record.current_digest, "edits": edits}


def unpack_record(tensors: Mapping[str, Tensor], session: Mapping[str, Any]) -> EditRecord:
    """The record that `pack_record` took apart. ValueError, KeyError or TypeError where anything does not fit."""
    source = tensors["source"]
    _require(source.ndim in (4, 5) and source.numel() > 0 and source.dtype in DTYPES, "the source is no latent")
    _require(bool(source.isfinite().all()), "the source holds NaN or infinite values")
    edits: list[Edit] = []
    for number, stored in enumerate(session["edits"], 1):
        edits.append(_unpack_edit(number, stored, tensors, source, edits))
    current = _number(session["current"], 0, len(edits))
    pixels = _number(session["source_encoded_pixels"])
    record = EditRecord(source, pixels, tuple(edits), current, str(session["current_digest"]))
    _require(record.is_current(record.samples_at(current)), "its latent is not the one that was saved")
    return record


def _unpack_edit(
    number: int, stored: Mapping[str, Any], tensors: Mapping[str, Tensor], source: Tensor, before: list[Edit]
) -> Edit:
    parent = _number(stored["parent"], 0, number - 1)
    known = before[parent - 1].change if parent != SOURCE else None
    known_shape = tuple(source.shape) if known is None else known.shape
    known_dtype = source.dtype if known is None else known.values.dtype
    parameters = stored["parameters"]
    _require(isinstance(parameters, dict), f"the parameters of edit {number} are no parameters")
    change = _unpack_change(number, stored, tensors, known_shape, known_dtype)
    return Edit(
        number=number,
        label=_text(stored["label"]),
        tool=_text(stored["tool"]),
        parameters=MappingProxyType(parameters),
        parent=parent,
        change=change,
        packed_mask=_unpack_mask(number, stored["mask"], tensors, change.shape[0]),
        encoded_pixels=_number(stored["encoded_pixels"]),
    )


def _unpack_change(
    number: int,
    stored: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    known_shape: tuple[int, ...],
    known_dtype: torch.dtype,
) -> CellChange:
    shape = tuple(_number(side, 1) for side in stored["shape"])
    _require(len(shape) in (4, 5) and prod(shape) <= MOST_VALUES, f"the size of edit {number}, {shape}, is no latent's")
    origin = stored["batch_origin"]
    if origin is not None:
        origin = tuple(_number(item, 0, known_shape[0] - 1) for item in origin)
        _require(len(origin) == shape[0], f"the batch of edit {number} has no origin for each item")
    values, index = tensors[f"edit.{number}.values"], tensors.get(f"edit.{number}.index")
    _require(values.ndim == 2 and values.shape[1] == shape[1], f"the values of edit {number} have other channels")
    _require(
        values.dtype in DTYPES and bool(values.isfinite().all()), f"the values of edit {number} are not finite numbers"
    )
    if index is None:
        _require(len(values) == cell_count(shape), f"edit {number} does not hold all its cells")
        return CellChange(shape, None, values, origin)
    from_parent = (known_shape[0] if origin is None else len(origin), *known_shape[1:])
    _require(shape == from_parent and values.dtype == known_dtype, f"edit {number} does not fit its parent")
    _require(
        index.dtype == torch.int32 and index.shape == values.shape[:1], f"the cells of edit {number} are not counted"
    )
    if len(index):
        within = int(index[0]) >= 0 and int(index[-1]) < cell_count(shape)
        _require(within and bool((index.diff() > 0).all()), f"the cells of edit {number} do not lie in its latent")
    return CellChange(shape, index, values, origin)


def _unpack_mask(
    number: int, stored: Mapping[str, Any] | None, tensors: Mapping[str, Tensor], batch: int
) -> PackedMask | None:
    if stored is None:
        return None
    items, height, width = (_number(side, 1) for side in stored["shape"])
    top, bottom, left, right = (_number(side) for side in stored["window"])
    _require(items in (1, batch), f"the mask of edit {number} is for another batch")
    _require(items * height * width <= MOST_PIXELS, f"the mask of edit {number} is too large")
    data = tensors[f"edit.{number}.mask"]
    _require(data.dtype == torch.uint8 and data.ndim == 1, f"the mask of edit {number} is no mask")
    packed = PackedMask((items, height, width), (top, bottom, left, right), data.numpy().tobytes())
    inflate_window(packed)  # to find a fault now, and not when somebody looks at it
    return packed


def _require(holds: bool, fault: str) -> None:
    if not holds:
        raise ValueError(fault)


def _number(value: Any, least: int = 0, most: int = 2**53) -> int:
    _require(type(value) is int and least <= value <= most, f"{value!r:.40} is not a number from {least} to {most}")
    return int(value)


def _text(value: Any) -> str:
    _require(isinstance(value, str), f"{value!r:.40} is no text")
    return str(value)
