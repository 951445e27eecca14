"""The pictures of the REED benchmark, none of which a training has seen: scenes of the drawn world, and photographs."""

from __future__ import annotations

from functools import cache

import _host  # noqa: F401
import numpy as np
import skimage.data
import skimage.transform
import torch
from tiny_sd.world import SIZE, draw, random_scene
from torch import Tensor

SCENES, LARGE, SMALL = "scenes", "photographs, 256 px", "photographs, 64 px"
LARGE_SIDE = 256
ABOUT = {
    SCENES: "Drawn scenes that no training has seen, of the kind that the demo autoencoder was trained on.",
    LARGE: "Photographs of scikit-image: astronaut, chelsea, coffee, rocket and motorcycle, the middle square made 256 px "
    "wide. The demo autoencoder was not trained to hold photographs: it loses much of them at once.",
    SMALL: "The same photographs made 128 px wide and cut into four, which is the size that the autoencoder knows.",
}


@cache
def pictures_of(kind: str, count: int, seed: int) -> Tensor:
    """The first `count` pictures of a kind, (B, side, side, 3) in 0..1; of photographs there are only so many."""
    if kind == SCENES:
        return scenes(count, seed)
    if kind == LARGE:
        return photographs(LARGE_SIDE)[:count]
    quarters = photographs(2 * SIZE).unfold(1, SIZE, SIZE).unfold(2, SIZE, SIZE)  # (B, 2, 2, 3, SIZE, SIZE)
    # The first quarter of each photograph, then the second of each.
    return quarters.movedim(0, 2).flatten(0, 2).movedim(1, -1).contiguous()[:count]


def scenes(count: int, seed: int) -> Tensor:
    """(count, SIZE, SIZE, 3). Trainings draw theirs with one number as the seed: with two, none of theirs can come."""
    generator = np.random.default_rng((seed, 25))
    return torch.from_numpy(np.stack([draw(random_scene(generator)) for _ in range(count)]))


def photographs(side: int) -> Tensor:
    """(5, side, side, 3), with 8 bits as a file has them."""
    names = (skimage.data.astronaut, skimage.data.chelsea, skimage.data.coffee, skimage.data.rocket)
    pictures = []
    for photograph in (*(load() for load in names), skimage.data.stereo_motorcycle()[0]):
        height, width = photograph.shape[:2]
        square = min(height, width)
        top, left = (height - square) // 2, (width - square) // 2
        middle = photograph[top : top + square, left : left + square]
        pictures.append(skimage.transform.resize(middle, (side, side), anti_aliasing=True))
    return (255 * torch.from_numpy(np.stack(pictures)).float()).round() / 255
