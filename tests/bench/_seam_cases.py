"""What is painted where for `dev.py bench seams`, and how a seam is measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import skimage.data
import skimage.transform
import torch
from reedit.models.cells import touched_cells
from scipy import ndimage
from tiny_sd.world import SIZE, draw, random_scene
from torch import Tensor

SIDE = 2 * SIZE  # of every picture, in pixels
RIM = 2  # pixels on each side of the mask's border
RING = 8  # pixels outside the mask
SQUARE = np.ones((3, 3))


def drawings(count: int, seed: int) -> Tensor:
    """Pictures of two by two drawn scenes each, (count, SIDE, SIDE, 3)."""
    generator = np.random.default_rng(seed)
    rows = [np.concatenate([draw(random_scene(generator)) for _ in range(2)], axis=1) for _ in range(2 * count)]
    return torch.from_numpy(np.stack([np.concatenate(rows[i : i + 2]) for i in range(0, 2 * count, 2)]))


def photographs() -> Tensor:
    """Four photographs, cropped to a square and made smaller, (4, SIDE, SIDE, 3)."""
    pictures = []
    for photograph in (skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee(), skimage.data.rocket()):
        height, width = photograph.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = photograph[top : top + side, left : left + side]
        pictures.append(skimage.transform.resize(square, (SIDE, SIDE), anti_aliasing=True))
    return torch.from_numpy(np.stack(pictures)).float()


def shapes() -> dict[str, np.ndarray]:
    """Masks of (SIDE, SIDE) bool: on the grid of cells and off it, round and thin."""
    y, x = np.mgrid[:SIDE, :SIDE]
    return {
        "box on the grid": (y >= 40) & (y < 64) & (x >= 48) & (x < 76),
        "box off the grid": (y >= 41) & (y < 67) & (x >= 50) & (x < 77),
        "disc": (y - 61.7) ** 2 + (x - 65.2) ** 2 < 14**2,
        "thin stroke": (np.abs((y - 60) - 0.5 * (x - 60)) < 1.7) & (np.abs(x - 60) < 24),
    }


def paints(decoded: Tensor, other: Tensor) -> dict[str, Tensor]:
    """What the brush leaves, (1, SIDE, SIDE, 3): lighter and darker than any surroundings, another picture, and a glaze."""
    return {
        "light": torch.tensor([0.95, 0.9, 0.8]).expand_as(decoded),
        "dark": torch.tensor([0.05, 0.1, 0.12]).expand_as(decoded),
        "picture": other,
        "glaze": 0.6 * decoded + 0.4 * torch.tensor([0.9, 0.2, 0.6]),
    }


@dataclass
class Case:
    """A picture and what is painted on it. latent: (1, C, h, w). decoded, target: without and with the paint, 8-bit."""

    latent: Tensor
    decoded: Tensor
    target: Tensor
    mask: Tensor  # (1, SIDE, SIDE) float32, 0 or 1

    @property
    def cells(self) -> Tensor:
        return touched_cells(self.mask, *self.latent.shape[-2:])


def paint_on(latent: Tensor, decoded: Tensor, paint: Tensor, mask: np.ndarray) -> Case:
    where = torch.from_numpy(mask)[None]
    target = (torch.where(where[..., None], paint, decoded) * 255).round() / 255
    return Case(latent, decoded, target, where.float())


def psnr(error: np.ndarray) -> float:
    return float(-10 * np.log10(np.square(error).mean() + 1e-12))


def measure_seam(picture: Tensor, target: Tensor, mask: np.ndarray) -> dict[str, float]:
    """The seam of a decoded picture against its target, both (1, SIDE, SIDE, 3).

    Colour step: the mean error just inside the mask's border less that just outside, absolute, mean of channels; in 8-bit
    levels. Gradient error: the mean absolute difference of the pictures' gradients there, across rows and across columns.
    """
    error = (picture - target)[0].numpy()
    inside = mask & ndimage.binary_dilation(~mask, SQUARE, iterations=RIM)
    outside = ~mask & ndimage.binary_dilation(mask, SQUARE, iterations=RIM)
    ring = ~mask & ndimage.binary_dilation(mask, SQUARE, iterations=RING)
    rim = inside | outside
    across_columns = np.abs(np.diff(error, axis=1)).mean(-1)[rim[:, 1:] & rim[:, :-1]]
    across_rows = np.abs(np.diff(error, axis=0)).mean(-1)[rim[1:] & rim[:-1]]
    return {
        "colour step": float(255 * np.abs(error[inside].mean(0) - error[outside].mean(0)).mean()),
        "gradient error, horizontal": float(255 * across_columns.mean()),
        "gradient error, vertical": float(255 * across_rows.mean()),
        "PSNR inside, dB": psnr(error[mask]),
        "PSNR of a ring outside, dB": psnr(error[ring]),
    }
