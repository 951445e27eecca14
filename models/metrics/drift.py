"""Drift: how far each edit of a session has moved what it was not asked to touch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from kornia.metrics import psnr as kornia_psnr
from torch import Tensor

from ..cells import mask_to_cells, touched_cells
from ..session.record import Edit, EditRecord


@dataclass(frozen=True)
class EditDrift:
    """What one edit did. Changes are in latent units, against the edit's parent; `None` where there is nothing to measure.

    changed_cells: share of cells that differ at all. outside_mask_max_abs_latent_change: the largest change where the
    mask is zero. untouched_psnr: dB, against the source's picture, over the pixels that no edit so far was allowed to touch.
    """

    number: int
    label: str
    tool: str
    encoded_pixels: int
    changed_cells: float
    max_abs_latent_change: float
    outside_mask_max_abs_latent_change: float | None
    untouched_psnr: float | None
    fine_detail: float | None


def outside_mask_change(edit: Edit, before: Tensor, after: Tensor) -> float | None:
    """The largest absolute change of a latent in the cells where the edit's mask is zero; None without such cells."""
    if edit.mask is None or before.shape != after.shape:
        return None
    cells = mask_to_cells(edit.mask, *before.shape[-2:]).to(before.device)
    outside = (cells == 0).expand(before.shape[0], 1, -1, -1)
    if not bool(outside.any()):
        return None
    change = (after - before).abs().flatten(1, -3).amax(1, keepdim=True)
    return float(change[outside].max())


def untouched_pixels(record: EditRecord, number: int, height: int, width: int) -> Tensor:
    """(B, height, width) bool: the pixels that no edit on the way to `number` was allowed to touch, by its mask."""
    batch = record.source.shape[0]
    untouched = torch.ones(batch, height, width, dtype=torch.bool)
    while number:
        edit = record.edits[number - 1]
        if edit.mask is None:
            return torch.zeros_like(untouched)
        untouched &= ~touched_cells(edit.mask, height, width)[:, 0].cpu()
        number = edit.parent
    return untouched


def masked_psnr(picture: Tensor, reference: Tensor, where: Tensor) -> float | None:
    """PSNR in dB over the marked pixels, for values in 0..1; None where no pixel is marked.

    picture, reference: (B, H, W, C). where: (B, H, W) bool. Equal pictures give infinity.
    """
    if not bool(where.any()):
        return None
    return float(kornia_psnr(picture[where].float(), reference[where].float(), 1.0))


def fine_detail(picture: Tensor) -> float:
    """Spectral energy above half the Nyquist frequency, per pixel, in (8-bit grey levels)². It falls as a picture blurs.

    picture: (B, H, W, 3) in 0..1.
    """
    grey = 255 * picture.float().mean(-1)
    spectrum = torch.fft.fft2(grey, norm="ortho").abs().square()
    rows = torch.fft.fftfreq(grey.shape[-2]).abs()[:, None]
    columns = torch.fft.fftfreq(grey.shape[-1]).abs()[None, :]
    return float(spectrum[:, torch.maximum(rows, columns) > 0.25].sum() / grey.numel())


def measure(record: EditRecord, pictures: list[Tensor] | None) -> list[EditDrift]:
    """One row for each edit of a record.

    pictures: the decoded source and the decoded latent after every edit, each (B, H, W, 3) in 0..1; None measures latents
    only. An edit that changed the picture's size has no comparison with its parent.
    """
    rows = []
    for edit in record.edits:
        before, after = record.samples_at(edit.parent), record.samples_at(edit.number)
        same_shape = before.shape == after.shape
        change = (after - before).abs() if same_shape else None
        psnr = detail = None
        if pictures is not None:
            picture, source = pictures[edit.number], pictures[0]
            detail = fine_detail(picture)
            if picture.shape == source.shape:
                psnr = masked_psnr(picture, source, untouched_pixels(record, edit.number, *picture.shape[1:3]))
        rows.append(
            EditDrift(
                number=edit.number,
                label=edit.label,
                tool=edit.tool,
                encoded_pixels=edit.encoded_pixels,
                changed_cells=float((change.flatten(1, -3).amax(1) > 0).float().mean()) if change is not None else 1.0,
                max_abs_latent_change=float(change.max()) if change is not None else float("nan"),
                outside_mask_max_abs_latent_change=outside_mask_change(edit, before, after),
                untouched_psnr=psnr,
                fine_detail=detail,
            )
        )
    return rows
