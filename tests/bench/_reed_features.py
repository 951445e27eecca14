"""The feature net of the REED benchmark's Fréchet distance, and the distance.

No pretrained network can be had offline. A classifier trained on the drawn world was tried: its distances did not grow with
blur. Random convolutions' do (Naeem et al., ICML 2020, use a random net where ImageNet's features do not fit).
"""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import _host  # noqa: F401
import numpy as np
import scipy.linalg
import torch
from _reed_pictures import scenes
from tiny_sd.world import SIZE
from torch import Tensor
from torch.nn import functional

FEATURES = 64
WIDTHS = (3, 64, 64, FEATURES)
STRIDE = SIZE // 2  # between patches of a larger picture
REFERENCE_SCENES = 200
ABOUT = (
    f"{FEATURES} features: three 3×3 convolutions of stride 2 and {FEATURES} channels with fixed random weights (He et "
    f"al. 2015, seed 0), a ReLU after each, averaged over the picture; each in units of its standard deviation over "
    f"{REFERENCE_SCENES} drawn scenes. Of pictures larger than {SIZE} px: of every patch of {SIZE} px, half a patch apart."
)


@cache
def weights() -> tuple[Tensor, ...]:
    """Of each convolution, (out, in, 3, 3)."""
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(after, before, 3, 3, generator=generator) * math.sqrt(2 / (9 * before))
        for before, after in pairwise(WIDTHS)
    )


def raw_features(pictures: Tensor) -> Tensor:
    """(B, FEATURES) of (B, 3, H, W) in 0..1."""
    values = 2 * pictures - 1
    for weight in weights():
        values = functional.relu(functional.conv2d(values, weight, stride=2, padding=1))
    return values.mean((2, 3))


@cache
def units() -> Tensor:
    """(FEATURES,): the standard deviation of each feature over drawn scenes."""
    return raw_features(scenes(REFERENCE_SCENES, seed=0).movedim(-1, 1)).std(0).clamp(min=1e-6)


def features(pictures: Tensor) -> np.ndarray:
    """(patches, FEATURES) of pictures (B, H, W, 3) in 0..1; a picture of SIZE is one patch."""
    cut = pictures.unfold(1, SIZE, STRIDE).unfold(2, SIZE, STRIDE)  # (B, rows, columns, 3, SIZE, SIZE)
    parts = [raw_features(part) / units() for part in cut.flatten(0, 2).split(50)]
    return torch.cat(parts).double().numpy()


def frechet_distance(one: np.ndarray, other: np.ndarray) -> float | None:
    """Between the normal distributions of two sets of features (Heusel et al. 2017, equation 6), each (count, features).

    None where a set is not larger than its number of features, which is too few for its covariance.
    """
    if min(len(one), len(other)) <= one.shape[1]:
        return None
    covariances = [np.cov(values, rowvar=False) for values in (one, other)]
    # The trace of (C1 C2)^½, by way of a matrix that is symmetric.
    values, vectors = scipy.linalg.eigh(covariances[0])
    root = vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T
    shared = np.sqrt(np.clip(scipy.linalg.eigvalsh(root @ covariances[1] @ root), 0, None)).sum()
    difference = one.mean(0) - other.mean(0)
    return float(difference @ difference + sum(np.trace(matrix) for matrix in covariances) - 2 * shared)
