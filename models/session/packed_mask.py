"""Masks as a session keeps them: a window of 8-bit values, compressed, since a hundred of them are kept at a time."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class PackedMask:
    """A mask of (B, H, W) in 0..1, to 1/255. Zero and one stay exact, and what is above zero never becomes zero.

    window: (top, bottom, left, right) of the part outside which the mask is zero. data: that part's 8-bit values, deflated.
    """

    shape: tuple[int, int, int]
    window: tuple[int, int, int, int]
    data: bytes

    @property
    def nbytes(self) -> int:
        """The memory that the mask takes, packed."""
        return len(self.data)


def pack_mask(mask: Tensor) -> PackedMask:
    """Pack a mask of (B, H, W) in 0..1."""
    batch, height, width = mask.shape
    plain = mask.detach().to("cpu", torch.float32)
    rows, columns = (plain.amax((0, 2)) > 0).nonzero(), (plain.amax((0, 1)) > 0).nonzero()
    window = (0, 0, 0, 0)
    if len(rows):
        window = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    top, bottom, left, right = window
    inside = plain[:, top:bottom, left:right]
    levels = (inside * 255).round().clamp(0, 255)
    levels = torch.where(inside > 0, levels.clamp(min=1), levels).to(torch.uint8)
    return PackedMask((batch, height, width), window, zlib.compress(levels.numpy().tobytes(), 1))


def unpack_mask(packed: PackedMask) -> Tensor:
    """The mask as (B, H, W) float32 in 0..1. ValueError where data and shape do not belong together."""
    batch, height, width = packed.shape
    top, bottom, left, right = packed.window
    mask = torch.zeros(batch, height, width)
    mask[:, top:bottom, left:right] = torch.from_numpy(inflate_window(packed).astype(np.float32) / 255)
    return mask


def inflate_window(packed: PackedMask) -> np.ndarray:
    """The 8-bit values inside the window, (B, height, width). ValueError where data and shape do not belong together."""
    batch, height, width = packed.shape
    top, bottom, left, right = packed.window
    if not (0 <= top <= bottom <= height and 0 <= left <= right <= width):
        raise ValueError(f"a mask's window {packed.window} does not lie in its {height}×{width}")
    size = batch * (bottom - top) * (right - left)
    try:
        values = zlib.decompressobj().decompress(packed.data, size + 1)  # bounded, whatever a file claims
    except zlib.error as error:
        raise ValueError(f"a mask cannot be inflated ({error})") from error
    if len(values) != size:
        raise ValueError("a mask holds more or fewer values than its window")
    return np.frombuffer(values, np.uint8).reshape(batch, bottom - top, right - left)
