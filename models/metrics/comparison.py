"""With what a step of a session can be compared, and which of its pixels count as edited."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..cells import touched_cells
from ..session.record import SOURCE, EditRecord
from .perceptual import PerceptualDistance

NO_PERCEPTUAL_DISTANCE = "LPIPS was not asked for."


@dataclass(frozen=True, eq=False)  # tensors have no one answer to ==
class Comparison:
    """What the steps of a session are compared with, and where.

    reference: (1 or the source's batch, H, W, 3) in 0..1, compared with instead of the session's own first picture.
    mask: (1 or the source's batch, h, w) in 0..1, of any size with the picture's proportions: what counts as edited. None:
    what the edits' own masks say. perceptual: LPIPS, or a sentence that says why there is none.
    """

    reference: Tensor | None = None
    mask: Tensor | None = None
    perceptual: PerceptualDistance | str = NO_PERCEPTUAL_DISTANCE


def shape_at(record: EditRecord, number: int) -> tuple[int, ...]:
    """The shape of a step's latent."""
    return tuple(record.source.shape) if number == SOURCE else record.edit(number).change.shape


def origin_of_items(record: EditRecord, number: int, since: int = SOURCE) -> tuple[int, ...] | None:
    """For each item of a step's batch, the item of step `since`'s batch that it came from.

    None where an edit between them changed the batch's length in a way that tells nothing of it.
    """
    items = tuple(range(shape_at(record, number)[0]))
    for step in reversed(_edits_between(record, since, number)):
        edit = record.edit(step)
        if edit.batch_origin is not None:
            items = tuple(edit.batch_origin[item] for item in items)
        elif _is_another_batch(record, step):
            return None
    return items


def first_comparable(record: EditRecord, number: int) -> int:
    """The first step on the way to `number` that has its size, and to whose batch its own can be traced."""
    size = shape_at(record, number)[1:]
    for step in record.path_to(number):
        if shape_at(record, step)[1:] == size and origin_of_items(record, number, step) is not None:
            return step
    return number


def last_alike(record: EditRecord, number: int) -> int:
    """The last step on the way to the current one with the size and batch of `number`; `number` itself if not on that way.

    So all steps in a row are judged over the same pixels, and what one edit changes is not outside before that edit.
    """
    path = record.path_to(record.current)
    last = number
    for step in path[path.index(number) + 1 :] if number in path else ():
        if record.edit(step).batch_origin is not None or shape_at(record, step) != shape_at(record, number):
            break
        last = step
    return last


class EditedPixels:
    """Which pixels the edits of a session were allowed to touch, by their masks. Each mask is unpacked once for each size."""

    def __init__(self, record: EditRecord) -> None:
        self.record = record
        self.known: dict[tuple[int, int, int], Tensor | None] = {}

    def by_edit(self, number: int, height: int, width: int) -> Tensor | None:
        """(1 or B, height, width) bool: what one edit was allowed to touch; None for everything.

        That is what an edit without a mask touches, and one that put another batch in the place of its parent's.
        """
        key = (number, height, width)
        if key not in self.known:
            mask = None if _is_another_batch(self.record, number) else self.record.edit(number).mask
            self.known[key] = None if mask is None else touched_cells(mask, height, width)[:, 0].cpu()
        return self.known[key]

    def between(self, since: int, until: int, at: int, height: int, width: int) -> Tensor:
        """(B, height, width) bool: what the edits after `since` up to `until` were allowed to touch.

        B is the batch of step `at`, which lies on the way from `since` to `until`, with no change of the batch after it.
        """
        items = list(range(shape_at(self.record, at)[0]))
        edited = torch.zeros(len(items), height, width, dtype=torch.bool)
        for step in reversed(_edits_between(self.record, since, until)):
            touched = self.by_edit(step, height, width)
            if touched is None:
                return torch.ones_like(edited)
            edited |= touched if len(touched) == 1 else touched[items]
            origin = self.record.edit(step).batch_origin
            items = items if origin is None else [origin[item] for item in items]
        return edited

    def inside(self, number: int, height: int, width: int, since: int, mask: Tensor | None) -> Tensor | None:
        """(B, height, width) bool: what counts as edited at a step, which is compared with step `since`.

        mask: that of a `Comparison`. None where its items cannot be traced to the step's batch.
        """
        if mask is None:
            return self.between(since, last_alike(self.record, number), number, height, width)
        touched = touched_cells(mask, height, width)[:, 0].cpu()
        if len(touched) == 1:
            return touched.expand(shape_at(self.record, number)[0], -1, -1)
        items = origin_of_items(self.record, number)
        return None if items is None else touched[list(items)]


def untouched_pixels(record: EditRecord, number: int, height: int, width: int) -> Tensor:
    """(B, height, width) bool: the pixels that no edit on the way to `number` was allowed to touch, by its mask."""
    return ~EditedPixels(record).between(SOURCE, number, number, height, width)


def spread_over_frames(per_item: Tensor, pictures: int) -> Tensor:
    """What is known of each item of a batch, for each of its pictures: a video's frames are pictures of the batch."""
    return per_item.repeat_interleave(pictures // len(per_item), dim=0)


def items_of(pictures: Tensor, items: tuple[int, ...], batch: int) -> Tensor:
    """The pictures of some items of a batch, each item with all its frames. pictures: (batch · frames, H, W, 3)."""
    if items == tuple(range(batch)):
        return pictures
    return pictures.unflatten(0, (batch, -1))[list(items)].flatten(0, 1)


def _is_another_batch(record: EditRecord, number: int) -> bool:
    """Whether an edit changed the batch's length in a way that tells nothing of where its items came from."""
    edit = record.edit(number)
    return edit.batch_origin is None and shape_at(record, number)[0] != shape_at(record, edit.parent)[0]


def _edits_between(record: EditRecord, since: int, number: int) -> tuple[int, ...]:
    """The edits after `since` up to `number`, on whose way `since` lies."""
    path = record.path_to(number)
    return path[path.index(since) + 1 :]
