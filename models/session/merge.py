"""Bringing painted pixels back into a latent: only the cells that were painted change."""

from __future__ import annotations

import torch
from torch import Tensor

from ..cells import like_samples


def painted_mask(decoded: Tensor, painted: Tensor, threshold: float) -> Tensor:
    """Where two pictures differ by more than `threshold` in any channel: (B, H, W) float32, 0 or 1.

    decoded, painted: (B, H, W, 3) in 0..1. threshold: in the same unit; 2/255 lets 8-bit rounding pass unnoticed.
    """
    return ((painted - decoded).abs().amax(-1) > threshold).float()


def merge_cells(samples: Tensor, encoded: Tensor, cells: Tensor) -> Tensor:
    """`encoded` in the marked cells, `samples` bit for bit in all others.

    samples, encoded: (B, C, [T,] H, W). cells: (B or 1, 1, H, W) bool.
    """
    return torch.where(like_samples(cells, samples), encoded.to(samples), samples)
