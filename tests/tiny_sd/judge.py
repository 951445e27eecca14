"""Reads pictures of the drawn world without a trained judge: is the asked object there, did an edit come out as it should."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from .language import Edit
from .world import COLOURS, SHAPES, SceneObject, draw, object_mask

COLOUR_DISTANCE = 0.25  # Euclidean in RGB of 0..1; the palette's nearest two colours are 0.41 apart
LEAST_AREA = 40  # pixels; the smallest object of the world covers about 60
PIXEL_ERROR = 0.2  # largest channel error of a pixel that counts as right
RIGHT_INSIDE, RIGHT_OUTSIDE = 0.8, 0.95  # shares of right pixels an edit needs inside and outside its mask


def colour_regions(picture: np.ndarray, colour: str) -> list[np.ndarray]:
    """The connected regions of a colour, largest first, each (SIZE, SIZE) bool. picture: (SIZE, SIZE, 3) in 0..1."""
    distance = np.linalg.norm(picture - np.asarray(COLOURS[colour], np.float32), axis=-1)
    labels, count = ndimage.label(distance < COLOUR_DISTANCE)
    regions = [labels == number for number in range(1, count + 1)]
    return sorted((region for region in regions if region.sum() >= LEAST_AREA), key=np.sum, reverse=True)


def shape_of(region: np.ndarray) -> str:
    """The shape that overlaps a region best, over small shifts and sizes (intersection over union)."""
    rows, columns = np.nonzero(region)
    middle_x, middle_y = (columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2
    extent = max(np.ptp(columns), np.ptp(rows)) + 1
    best, best_overlap = "", -1.0
    for shape in SHAPES:
        item = SceneObject(shape, "red", "small", 1.0, middle_x, middle_y)
        # Half the extent is the radius of a circle or cross; squares and triangles are inscribed in a larger one.
        for radius in extent / 2 * np.array([0.9, 1.0, 1.1, 1.2]):
            for shift in (-0.15, 0.0, 0.15):
                drawn = object_mask(replace(item, radius=float(radius), y=middle_y + shift * float(radius))) > 0.5
                overlap = (drawn & region).sum() / max(1, (drawn | region).sum())
                if overlap > best_overlap:
                    best, best_overlap = shape, float(overlap)
    return best


def object_verdict(picture: np.ndarray, asked: SceneObject) -> tuple[bool, bool]:
    """(a region of the asked colour is there, and one of them has the asked shape)."""
    regions = colour_regions(picture, asked.colour)
    return bool(regions), any(shape_of(region) == asked.shape for region in regions[:3])


@dataclass(frozen=True)
class EditVerdict:
    """How an edited picture compares with its exact outcome. matches: both shares of right pixels reach their mark."""

    psnr: float
    right_inside: float
    right_outside: float

    @property
    def matches(self) -> bool:
        return self.right_inside >= RIGHT_INSIDE and self.right_outside >= RIGHT_OUTSIDE


def edit_verdict(picture: np.ndarray, edit: Edit) -> EditVerdict:
    """Compare an edited picture, (SIZE, SIZE, 3) in 0..1, with the exact one."""
    truth = draw(edit.after)
    right = np.abs(picture - truth).max(-1) < PIXEL_ERROR
    inside = edit.mask > 0.5
    psnr = -10 * np.log10(max(float(((picture - truth) ** 2).mean()), 1e-10))
    return EditVerdict(float(psnr), float(right[inside].mean()), float(right[~inside].mean()))
