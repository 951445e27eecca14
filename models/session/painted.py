"""Finding what was painted on a picture."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

NEIGHBOURS = np.ones((3, 3))  # pixels that touch at a corner belong together


def lay_over(layer: Tensor, decoded: Tensor) -> Tensor:
    """A layer with an alpha channel, (B, H, W, 4), laid over a picture, (B, H, W, 3): all in 0..1, and not premultiplied."""
    alpha = layer[..., 3:]
    return layer[..., :3] * alpha + decoded * (1 - alpha)


def painted_mask(decoded: Tensor, painted: Tensor, threshold: float) -> Tensor:
    """Where two pictures differ by more than `threshold` in any channel: (B, H, W) float32, 0 or 1.

    decoded, painted: (B, H, W, 3) in 0..1. threshold: in the same unit; 2/255 lets 8-bit rounding pass unnoticed.
    """
    return ((painted - decoded).abs().amax(-1) > threshold).float()


def without_specks(mask: Tensor, minimum_area: int) -> Tensor:
    """A (B, H, W) mask of 0 and 1 without its connected regions of fewer than `minimum_area` pixels."""
    return torch.stack([_without_specks(plane, minimum_area) for plane in mask])


def _without_specks(plane: Tensor, minimum_area: int) -> Tensor:
    regions, _ = ndimage.label(plane.cpu().numpy() > 0, NEIGHBOURS)
    large = np.bincount(regions.ravel()) >= minimum_area
    large[0] = False  # what belongs to no region
    return torch.from_numpy(large[regions]).to(plane)
