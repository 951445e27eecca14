"""Rough pictures of a session's steps without a decoder: every cell in a colour that is a linear function of its values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..session.cell_change import apply_change, to_cells, to_samples
from ..session.record import SOURCE, EditRecord

_RIDGE = 1e-4  # of the values' own size: keeps the fit steady where a picture is of one colour


def fit_colours(samples: Tensor, picture: Tensor) -> Tensor:
    """The map from a cell's values to its colour, (C + 1, 3), that fits one picture best; its last row is a constant.

    samples: (B, C, [T,] H, W). picture: (B, h, w, 3) in 0..1 of the same; of a batch or a video the first is looked at.
    """
    first = samples[:1, :, 0] if samples.ndim == 5 else samples[:1]
    height, width = first.shape[-2:]
    small = interpolate(picture[:1].detach().cpu().double().movedim(-1, 1), (height, width), mode="area")
    values, colours = _with_constant(to_cells(first).double()), to_cells(small)
    square = values.T @ values
    ridge = _RIDGE * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype)
    return torch.linalg.solve(square + ridge, values.T @ colours).float()


def rough_pictures(record: EditRecord, colours: Tensor, wanted: Iterable[int]) -> dict[int, Tensor]:
    """These steps' pictures by number, each (H, W, 3) in 0..1, one pixel for each cell; the first of a batch or a video.

    Only cells that an edit changed are coloured anew, so that a session of hundreds of edits takes a moment.
    """
    wanted = list(wanted)
    channels = len(colours) - 1
    needed = sorted({step for number in wanted for step in record.path_to(number)})
    cells: dict[int, Tensor] = {}
    shapes: dict[int, tuple[int, ...]] = {}
    for number in needed:
        if number == SOURCE:
            values, shape = to_cells(record.source), tuple(record.source.shape)
            cells[number] = _colour(values, colours)
        else:
            edit = record.edit(number)
            shape = edit.change.shape
            if shape[1] != channels:
                raise ValueError(f"step {number} has {shape[1]} channels; the colours were fitted to {channels}.")
            change = replace(edit.change, shape=_coloured(shape), values=_colour(edit.change.values, colours))
            cells[number] = apply_change(cells[edit.parent].clone(), change)
        shapes[number] = _coloured(shape)
    return {number: _first_picture(to_samples(cells[number], shapes[number])) for number in wanted}


def _with_constant(values: Tensor) -> Tensor:
    return torch.cat([values, values.new_ones(len(values), 1)], 1)


def _colour(values: Tensor, colours: Tensor) -> Tensor:
    return (_with_constant(values.float()) @ colours).clamp(0, 1)


def _coloured(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], 3, *shape[2:])


def _first_picture(samples: Tensor) -> Tensor:
    return (samples[0, :, 0] if samples.ndim == 5 else samples[0]).movedim(0, -1)
