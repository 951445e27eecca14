"""Drift: how far each edit of a session has moved what it was not asked to touch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..cells import mask_to_cells
from ..session.record import SOURCE, Edit, EditRecord
from .comparison import (
    Comparison,
    EditedPixels,
    first_comparable,
    items_of,
    origin_of_items,
    shape_at,
    spread_over_frames,
)
from .perceptual import PerceptualDistance
from .similarity import MS_SSIM_SIDE, MS_SSIM_WINDOW, WINDOW, SimilarityMaps, colour_shift, masked_psnr
from .spectrum import SpectrumCurve, fine_detail, radial_power

_UNTRACED_MASK = (
    "mask has one picture for each of the source's batch, but an edit made another batch of it. Give one mask for all."
)
_NEW_BEGINNING = "This edit made pictures of another size or another batch: the steps after it are compared with it."


@dataclass(frozen=True)
class PartDrift:
    """How one part of a picture differs from what it is compared with; `None` where there is nothing to measure.

    share: of the picture's pixels, 0 to 1. psnr: dB. colour_shift: mean of red, green and blue, 8-bit grey levels, signed.
    """

    share: float
    psnr: float | None
    ssim: float | None
    ms_ssim: float | None
    colour_shift: tuple[float, float, float] | None


@dataclass(frozen=True)
class StepDrift:
    """How a step differs from what it is compared with. inside, outside: of what counts as edited.

    compared_with: "source", "step 3" or "reference". lpips: of the whole picture. latent_change_outside: the largest
    absolute change, latent units, of a cell of which nothing was edited. not_measured: why a figure is None, by its name.
    """

    compared_with: str
    inside: PartDrift | None = None
    outside: PartDrift | None = None
    lpips: float | None = None
    latent_change_outside: float | None = None
    not_measured: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EditDrift:
    """What one edit did. Changes are in latent units, against the edit's parent; `None` where there is nothing to measure.

    changed_cells: share of cells that differ at all. outside_mask_max_abs_latent_change: the largest change where the
    mask is zero. untouched_psnr: dB, against what `total` is compared with, over the pixels that no edit so far was allowed
    to touch. fine_detail: see there. total: all edits up to this one together.
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
    total: StepDrift


def measure(
    record: EditRecord,
    pictures: Sequence[Tensor] | None,
    comparison: Comparison | None = None,
    after_each: Callable[[], object] = lambda: None,
) -> list[EditDrift]:
    """One row for each edit of a record.

    pictures: the decoded source and the decoded latent after every edit, each (B, H, W, 3) in 0..1, a video's frames as
    pictures of the batch; None measures latents only. after_each: called after every edit, for a progress bar.
    """
    rows, edited = [], EditedPixels(record)
    for edit in record.edits:
        rows.append(_measure_edit(record, edit, pictures, comparison or Comparison(), edited))
        after_each()
    return rows


def _measure_edit(
    record: EditRecord, edit: Edit, pictures: Sequence[Tensor] | None, comparison: Comparison, edited: EditedPixels
) -> EditDrift:
    before, after = record.samples_at(edit.parent), record.samples_at(edit.number)
    if edit.batch_origin is not None:
        before = before[list(edit.batch_origin)]
    psnr = detail = None
    if pictures is not None:
        picture = pictures[edit.number]
        detail = fine_detail(picture)
        reference, _ = _reference_for(record, edit.number, pictures, comparison)
        if reference is not None:
            since = SOURCE if comparison.reference is not None else first_comparable(record, edit.number)
            height, width = picture.shape[1:3]
            untouched = ~edited.between(since, edit.number, edit.number, height, width)
            psnr = masked_psnr(picture, reference, spread_over_frames(untouched, len(picture)))
    return EditDrift(
        number=edit.number,
        label=edit.label,
        tool=edit.tool,
        encoded_pixels=edit.encoded_pixels,
        changed_cells=edit.changed_cells,
        max_abs_latent_change=float((after - before).abs().max()) if before.shape == after.shape else float("nan"),
        outside_mask_max_abs_latent_change=outside_mask_change(edit, before, after),
        untouched_psnr=psnr,
        fine_detail=detail,
        total=measure_step(record, edit.number, pictures, comparison, edited),
    )


def outside_mask_change(edit: Edit, before: Tensor, after: Tensor) -> float | None:
    """The largest absolute change of a latent in the cells where the edit's mask is zero; None without such cells."""
    mask = edit.mask
    if mask is None or before.shape != after.shape:
        return None
    cells = mask_to_cells(mask, *before.shape[-2:]).to(before.device)
    return _largest_change(before, after, (cells == 0)[:, 0])


def _largest_change(before: Tensor, after: Tensor, where: Tensor) -> float | None:
    """The largest absolute change over the marked cells; None if there are none. where: (1 or B, H, W) bool."""
    if not bool(where.any()):
        return None
    change = (after - before).abs().flatten(1, -3).amax(1)
    return float(change[where.expand_as(change)].max())


def measure_step(
    record: EditRecord,
    number: int,
    pictures: Sequence[Tensor] | None,
    comparison: Comparison,
    edited: EditedPixels | None = None,
) -> StepDrift:
    """How far one step is from the reference, or without one from the first step on the way to it that has its size.

    pictures: as for `measure`. edited: the record's, where it is at hand.
    """
    edited = edited or EditedPixels(record)
    first = first_comparable(record, number)
    reasons: dict[str, str] = {}
    latent_change = _latent_change_outside(edited, number, first, comparison.mask, reasons)
    name = "source" if first == SOURCE else f"step {first}"
    name = name if comparison.reference is None else "reference"
    if pictures is None:
        reasons["pictures"] = "Without a VAE only the latents are measured."
        return StepDrift(name, latent_change_outside=latent_change, not_measured=reasons)
    picture = pictures[number]
    reference, why = _reference_for(record, number, pictures, comparison)
    if reference is None:
        reasons["pictures"] = why
        return StepDrift(name, latent_change_outside=latent_change, not_measured=reasons)
    since = first if comparison.reference is None else SOURCE
    height, width = picture.shape[1:3]
    inside = edited.inside(number, height, width, since, comparison.mask)
    parts: dict[str, PartDrift | None] = {"inside": None, "outside": None}
    if inside is None:
        reasons["inside and outside"] = _UNTRACED_MASK
    else:
        inside = spread_over_frames(inside, len(picture))
        maps = SimilarityMaps(picture, reference)
        for part, where in (("inside", inside), ("outside", ~inside)):
            parts[part] = _measure_part(part, picture, reference, where, maps, reasons)
    lpips = _perceptual_distance(picture, reference, comparison.perceptual, reasons)
    return StepDrift(name, parts["inside"], parts["outside"], lpips, latent_change, reasons)


def _reference_for(
    record: EditRecord, number: int, pictures: Sequence[Tensor], comparison: Comparison
) -> tuple[Tensor | None, str]:
    """What a step's pictures are compared with, of the same shape, or None and the reason why there is nothing."""
    picture, reference = pictures[number], comparison.reference
    if reference is None:
        first = first_comparable(record, number)
        if first == number != SOURCE:
            return None, _NEW_BEGINNING
        items = origin_of_items(record, number, first)
        assert items is not None  # or it would not be comparable
        return items_of(pictures[first], items, shape_at(record, first)[0]), ""
    if reference.shape[1:3] != picture.shape[1:3]:
        sizes = [f"{image.shape[2]}×{image.shape[1]}" for image in (picture, reference)]
        return None, f"The picture is {sizes[0]} at this step, and reference is {sizes[1]}."
    if len(reference) == 1:
        return reference.expand_as(picture), ""
    items = origin_of_items(record, number)
    if items is None:
        return None, "reference is a batch, but an edit made another batch of the source's. Give one reference for all."
    return items_of(reference, items, shape_at(record, SOURCE)[0]), ""


def _latent_change_outside(
    edited: EditedPixels, number: int, first: int, mask: Tensor | None, reasons: dict[str, str]
) -> float | None:
    """The largest change since step `first` of the cells of which nothing counts as edited."""
    if first == number != SOURCE:
        reasons["latent_change_outside"] = _NEW_BEGINNING
        return None
    record = edited.record
    after, items = record.samples_at(number), origin_of_items(record, number, first)
    before = record.samples_at(first)[list(items or ())]
    height, width = after.shape[-2:]
    inside = edited.inside(number, height, width, first, mask)
    change = None if inside is None else _largest_change(before, after, ~inside)
    if change is None:
        reasons["latent_change_outside"] = _UNTRACED_MASK if inside is None else "No cell is wholly outside."
    return change


def _measure_part(
    part: str, picture: Tensor, reference: Tensor, where: Tensor, maps: SimilarityMaps, reasons: dict[str, str]
) -> PartDrift | None:
    """One part of a picture. Adds to `reasons` what could not be measured of it."""
    psnr, shift = masked_psnr(picture, reference, where), colour_shift(picture, reference, where)
    if psnr is None:
        reasons[part] = {
            "inside": "No pixel counts as edited.",
            "outside": "Every pixel counts as edited: an edit without a mask, or all masks together, cover the picture.",
        }[part]
        return None
    everywhere = bool(where.all())
    ssim, ms_ssim = maps.ssim(None if everywhere else where), maps.ms_ssim(None if everywhere else where)
    if ssim is None:
        reasons[f"{part}.ssim"] = f"No window of {WINDOW}×{WINDOW} pixels lies wholly {part}."
    if ms_ssim is None and min(maps.size) <= MS_SSIM_SIDE:
        reasons[f"{part}.ms_ssim"] = (
            f"MS-SSIM needs sides of more than {MS_SSIM_SIDE} pixels; the picture is {maps.size[1]}×{maps.size[0]}."
        )
    elif ms_ssim is None:
        reasons[f"{part}.ms_ssim"] = (
            f"On MS-SSIM's coarsest scale no window ({MS_SSIM_WINDOW} pixels across) lies wholly {part}."
        )
    return PartDrift(float(where.float().mean()), psnr, ssim, ms_ssim, shift)


def _perceptual_distance(
    picture: Tensor, reference: Tensor, distance: PerceptualDistance | str, reasons: dict[str, str]
) -> float | None:
    if isinstance(distance, str):
        reasons["lpips"] = distance
    elif min(picture.shape[1:3]) < distance.least_side:
        reasons["lpips"] = (
            f"LPIPS needs sides of {distance.least_side} pixels or more; "
            f"the picture is {picture.shape[2]}×{picture.shape[1]}."
        )
    else:
        return distance(picture, reference)
    return None


def spectrum_curves(
    record: EditRecord, pictures: Sequence[Tensor], comparison: Comparison, steps: int = 4
) -> list[SpectrumCurve]:
    """The spectra of what the current step is compared with, and of up to `steps` steps on the way to it, the last included.

    pictures: as for `measure`.
    """
    path = record.path_to(record.current)
    first = first_comparable(record, record.current)
    reference, _ = _reference_for(record, record.current, pictures, comparison)
    start = "reference"
    if comparison.reference is None or reference is None:
        reference, start = pictures[first], "source" if first == SOURCE else f"step {first}"
    later = path[path.index(first) + 1 :] if start != "reference" else path
    places = torch.linspace(0, len(later) - 1, min(steps, len(later))).round().int().tolist()
    curves = [SpectrumCurve(start, *radial_power(reference))]
    for number in (later[place] for place in places):
        name = "source" if number == SOURCE else f"step {number}"
        curves.append(SpectrumCurve(name, *radial_power(pictures[number])))
    return curves
