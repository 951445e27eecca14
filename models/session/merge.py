"""Bringing painted pixels back into a latent: windows around them are encoded, and every other cell stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

LEAST_SIDE = 24  # cells of a window: in smaller ones an encoder's group norms see too little (dev.py bench seams)


@dataclass(frozen=True)
class Window:
    """A rectangle of latent cells in one picture of a batch; the ends are exclusive."""

    item: int
    top: int
    bottom: int
    left: int
    right: int

    @property
    def area(self) -> int:
        """In cells."""
        return (self.bottom - self.top) * (self.right - self.left)

    def cells(self, latent: Tensor) -> Tensor:
        """Its part of a latent, (1, C, height, width): a view."""
        return latent[self.item : self.item + 1, :, self.top : self.bottom, self.left : self.right]

    def pixels(self, picture: Tensor, ratio: int) -> Tensor:
        """Its part of a picture, (1, height, width, C): a view. ratio: pixels on the side of a cell."""
        rows = slice(self.top * ratio, self.bottom * ratio)
        return picture[self.item : self.item + 1, rows, self.left * ratio : self.right * ratio]


def merge_weights(cells: Tensor, feather: int) -> Tensor:
    """How much of each cell is taken from the encoder: (B, 1, H, W) float32, 1 in the marked cells and 0 far from them.

    cells: (B, 1, H, W) bool. feather: how many cells around the marked ones change with them. The first of these is taken
    whole, since an autoencoder writes an edge into the cells on both its sides; beyond, the weight falls off linearly.
    """
    weights = grown = cells.float()
    for step in range(feather):
        grown = functional.max_pool2d(grown, 3, stride=1, padding=1)
        weights = torch.maximum(weights, grown * (feather - step) / feather)
    return weights


def find_windows(weights: Tensor, context: int, least_side: int = LEAST_SIDE) -> list[Window]:
    """The windows to encode: one around each connected region of weights above 0, `context` cells larger on each side.

    weights: (B, 1, H, W). least_side: of a window, in cells. Windows are joined where one costs no more than two. At the
    picture's border a window is moved inward rather than made smaller.
    """
    windows = []
    for item, plane in enumerate(weights[:, 0].cpu().numpy() > 0):
        near = ndimage.binary_dilation(plane, np.ones((3, 3)), iterations=context // 2) if context > 1 else plane
        regions, _ = ndimage.label(near, np.ones((3, 3)))
        boxes = [
            Window(item, rows.start, rows.stop, columns.start, columns.stop)
            for rows, columns in ndimage.find_objects(np.where(plane, regions, 0))
        ]
        windows += _joined(boxes, context, least_side, *plane.shape)
    return windows


def _joined(boxes: list[Window], context: int, least_side: int, height: int, width: int) -> list[Window]:
    """The windows of the boxes, any of them joined whose common window is no larger than their own together."""

    def widen(start: int, stop: int, size: int) -> tuple[int, int]:
        length = min(size, max(least_side, stop - start + 2 * context))
        first = min(max(0, (start + stop - length) // 2), size - length)
        return first, first + length

    def window_of(box: Window) -> Window:
        return Window(box.item, *widen(box.top, box.bottom, height), *widen(box.left, box.right, width))

    kept: list[Window] = []
    waiting = list(boxes)
    while waiting:
        box = waiting.pop()
        for other in kept:
            union = _union([box, other])
            if window_of(union).area <= window_of(box).area + window_of(other).area:
                kept.remove(other)
                waiting.append(union)
                break
        else:
            kept.append(box)
    if len(kept) > 1 and window_of(_union(kept)).area <= sum(window_of(box).area for box in kept):
        kept = [_union(kept)]
    return [window_of(box) for box in kept]


def _union(boxes: list[Window]) -> Window:
    return Window(
        boxes[0].item,
        min(box.top for box in boxes),
        max(box.bottom for box in boxes),
        min(box.left for box in boxes),
        max(box.right for box in boxes),
    )


def merge_window(
    samples: Tensor,
    target: Tensor,
    weights: Tensor,
    window: Window,
    encode: Callable[[Tensor], Tensor],
    before: Tensor | None = None,
) -> Tensor:
    """A window's cells with the paint in them, (1, C, height, width): samples·(1 − weights) + new cells·weights.

    samples: (B, C, H, W), the latent. target: (B, H·ratio, W·ratio, 3) in 0..1, the picture with the paint on it.
    weights: (B, 1, H, W), see `merge_weights`. encode: pixels (B, H, W, 3) to a latent.
    before: the picture without the paint; with it the new cells are samples + encode(target) − encode(before), so that what
    was not painted loses nothing in the encoder. Without it they are encode(target), moved to the level of the latent: a
    window of a picture has other means in its group norms than the whole, and that shows in the unpainted cells.
    """
    ratio = target.shape[1] // samples.shape[-2]
    old, weight = window.cells(samples).float(), window.cells(weights).to(samples.device)
    pixels = window.pixels(target, ratio)
    if before is None:
        new = encode(pixels).to(old)
        unpainted = (weight == 0).to(old)
        new = new + ((old - new) * unpainted).sum((2, 3), keepdim=True) / unpainted.sum().clamp(min=1)
    else:
        painted, plain = encode(torch.cat([pixels, window.pixels(before, ratio).to(pixels)])).to(old).chunk(2)
        new = old + painted - plain
    return torch.lerp(old, new, weight).to(samples.dtype)


def put_window(merged: Tensor, cells: Tensor, weights: Tensor, window: Window) -> None:
    """Write a window's cells into `merged`, in place, where the weights are above 0."""
    place = window.cells(merged)
    place.copy_(torch.where(window.cells(weights).to(merged.device) > 0, cells, place))
