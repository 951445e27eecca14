"""Taking back, outside of an edit's mask, what the edit did to a latent by accident.

After VAE-LFA (arXiv 2605.08250): edits of a whole picture shift the low frequencies of its latent a little in each round, and
a moving average of the rounds before tells what they were. Here the reference is a latent, not statistics, and is computed
from the session's record, in which the masks also tell which changes were meant.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor

from ..cells import brightest_in_cells
from .cell_change import apply_change, digest, find_change, to_cells, to_samples
from .packed_mask import pack_mask
from .record import SOURCE, EditRecord

ALIGN_TOOL = "align"
LOW_FREQUENCIES, LOW_STATISTICS = "low frequencies", "low-frequency mean and std"
STATISTICS, EXACT_CELLS = "mean and std", "exact cells"
METHODS = (LOW_FREQUENCIES, LOW_STATISTICS, STATISTICS, EXACT_CELLS)
LEAST_STD = 1e-6  # latent units: a channel flatter than this has no contrast to match
LEAST_WEIGHT = 1e-12


def count_edits(record: EditRecord) -> int:
    """How many edits lead to the record's current step, alignments not counted."""
    return sum(record.edit(step).tool != ALIGN_TOOL for step in record.path_to(record.current)[1:])


def latents_along(record: EditRecord, path: tuple[int, ...]) -> Iterator[Tensor]:
    """The latent of each step of a path from SOURCE, in one pass, on the CPU."""
    cells, shape = to_cells(record.source), tuple(record.source.shape)
    for step in path:
        if step != SOURCE:
            change = record.edit(step).change
            cells, shape = apply_change(cells, change), change.shape
        yield to_samples(cells, shape)


def mix(one: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    """one + weight · (other - one); bit for bit `one` where the weight is 0, and `other` where it is 1."""
    mixed = torch.where(weight == 0, one, torch.lerp(one, other, weight))
    return torch.where(weight == 1, other, mixed)


def reference_at(record: EditRecord, number: int, memory: float) -> Tensor:
    """What the picture is meant to be after edit `number`, float32 on the CPU, with the shape of that edit's latent.

    r_0 is the source. An edit that was meant to act in the mask m and made the latent z gives
        r_k = m · z + (1 - m) · r_(k-1):
    each cell is as it was when it was last meant to change. Of an edit without a mask, which moved every cell, nobody knows
    which changes were meant:
        r_k = memory · r_(k-1) + (1 - memory) · z,
    so 0 takes all of them as meant, 1 none, and between them the reference is a moving average over the rounds. An edit that
    gave the latent another shape begins the reference anew.
    """
    path = record.path_to(number)
    reference: Tensor | None = None
    for step, latent in zip(path, latents_along(record, path), strict=True):
        samples = latent.float()
        if reference is None or reference.shape != samples.shape:
            reference = samples
            continue
        mask = record.edit(step).mask
        meant = torch.tensor(1 - memory) if mask is None else brightest_in_cells(mask, samples)
        reference = mix(reference, samples, meant)
    assert reference is not None  # a path holds at least the source
    return reference


def low_pass(samples: Tensor, weight: Tensor, radius: float) -> Tensor:
    """The weighted mean around each cell, by a Gaussian whose standard deviation is `radius` cells; each frame by itself.

    samples: (B, C, [T,] H, W) float32. weight: 0..1, broadcastable to them; cells of weight 0, and what lies beyond the
    border, do not count (a normalised convolution). The result is finite everywhere.
    """

    def blurred(values: Tensor) -> Tensor:
        planes = values.movedim(2, 1).flatten(0, 1) if values.ndim == 5 else values
        side = 2 * math.ceil(3 * radius) + 1
        planes = gaussian_blur2d(planes, (side, side), (radius, radius), border_type="constant")
        return planes.unflatten(0, (values.shape[0], -1)).movedim(1, 2) if values.ndim == 5 else planes

    weight = weight.to(samples).expand(samples.shape[0], 1, *samples.shape[2:])
    return blurred(samples * weight) / blurred(weight).clamp_min(LEAST_WEIGHT)


def statistics(samples: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted mean and standard deviation of each channel of each picture, (B, C, [1,] 1, 1)."""
    sides = tuple(range(2, samples.ndim))
    share = weight.to(samples).expand(samples.shape[0], 1, *samples.shape[2:])
    share = share / share.sum(sides, keepdim=True).clamp_min(LEAST_WEIGHT)
    mean = (samples * share).sum(sides, keepdim=True)
    return mean, (((samples - mean) ** 2) * share).sum(sides, keepdim=True).sqrt()


def match_statistics(samples: Tensor, reference: Tensor, weight: Tensor) -> Tensor:
    """What to add to `samples` for each channel to have the reference's mean and std over the weighted cells."""
    mean, std = statistics(samples, weight)
    wanted_mean, wanted_std = statistics(reference, weight)
    # Stretching what is flat would only make noise of it.
    scale = torch.where(torch.minimum(std, wanted_std) < LEAST_STD, 1.0, wanted_std / std.clamp_min(LEAST_STD))
    return (samples - mean) * (scale - 1) + (wanted_mean - mean)


def align(
    samples: Tensor, reference: Tensor, mask: Tensor | None, method: str, strength: float = 1.0, radius: float = 1.0
) -> Tensor:
    """A latent brought back to its reference outside of a mask; bit-identical where the mask is 1, or strength 0.

    samples, reference: (B, C, [T,] H, W). mask: (B, H, W) in 0..1, of any size with the picture's proportions: the change
    fades to 0 where it rises to 1. None: no cell is excluded. With w = 1 - mask and s = strength,
        low frequencies             z - s · w · L(z - r), L the low pass over cells by their w
        low-frequency mean and std  z + s · w · (A(Lz) - Lz), A giving each channel of Lz the mean and std of Lr
        mean and std                z + s · w · (A(z) - z)
        exact cells                 z + s · w · (r - z)
    ValueError for another method, a strength outside 0..1, a radius of 0 or less, and latents of two shapes.
    """
    if samples.shape != reference.shape:
        raise ValueError(
            f"the latent has shape {tuple(samples.shape)}, but what it is to be aligned to has {tuple(reference.shape)}."
        )
    check_settings(method, strength, radius)
    plain, reference = samples.float(), reference.to(samples.device, torch.float32)
    outside = torch.ones_like(plain[:, :1]) if mask is None else 1 - brightest_in_cells(mask, samples)
    if method == EXACT_CELLS:
        aligned = mix(plain, reference, strength * outside)
    else:
        if method == LOW_FREQUENCIES:
            correction = -low_pass(plain - reference, outside, radius)
        elif method == LOW_STATISTICS:
            smooth = low_pass(plain, outside, radius)
            correction = match_statistics(smooth, low_pass(reference, outside, radius), outside)
        else:
            correction = match_statistics(plain, reference, outside)
        aligned = plain + strength * outside * correction
    return torch.where(strength * outside == 0, samples, aligned.to(samples.dtype))


def check_settings(method: str, strength: float, radius: float, memory: float = 1.0, every: int = 1) -> None:
    """Raise ValueError that names the setting which is out of range."""
    if method not in METHODS:
        raise ValueError(f"method is “{method}”; there are {', '.join(METHODS)}.")
    for name, value in (("strength", strength), ("memory", memory)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; give a number from 0 to 1.")
    if not (math.isfinite(radius) and radius > 0):
        raise ValueError(f"radius is {radius} latent cells; give a number above 0.")
    if every < 1:
        raise ValueError(f"every is {every}; give 1 to act at each edit, 2 at each second one, and so on.")


def note_alignment(
    record: EditRecord, samples: Tensor, parameters: Mapping[str, Any], mask: Tensor | None = None
) -> EditRecord:
    """The record with its current edit's latent aligned: part of that edit where it is the newest.

    Of an older one, which others may have been made on, it becomes an edit of its own. parameters: noted beside the edit's.
    mask: (B, H, W), where the edit was meant to act; None leaves what is noted of it.
    """
    if record.current != len(record.edits):
        return record.with_edit(samples, ALIGN_TOOL, ALIGN_TOOL, parameters, mask)
    newest = record.edits[-1]
    edit = replace(
        newest,
        parameters=MappingProxyType({**newest.parameters, **parameters}),
        change=find_change(record.samples_at(newest.parent), samples),
        packed_mask=newest.packed_mask if mask is None else pack_mask(mask),
    )
    return replace(record, edits=(*record.edits[:-1], edit), current_digest=digest(samples))
