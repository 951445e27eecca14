"""How far an edit moved the meaning of a picture, patch by patch: by the tokens of a vision model.

Gong et al., "RPiAE: A Representation-Pivoted Autoencoder" (arXiv 2603.19206), measures what an encoder keeps by its frozen
copy's tokens; here they compare two pictures. Tokens of DINOv2 say what is in a patch, and little of how it was stored.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class SemanticDrift:
    """The figures of one pair of pictures: 0 is the same meaning, 1 is no likeness, 2 the opposite.

    drift: the mean over the mask, or over the picture where there is none; outside: the mean over the rest, None without a
    mask; most: the largest of a patch, and most_at: its row and column; patches: rows and columns.
    """

    drift: float
    outside: float | None
    most: float
    most_at: tuple[int, int]
    patches: tuple[int, int]


def patch_drift(source: Tensor, edited: Tensor) -> Tensor:
    """1 - cosine of the two tokens of every patch, (B, N) float32 in 0..2. source, edited: tokens, (B, N, C).

    A source of one picture goes with every edited one. Raises ValueError where the shapes do not go together.
    """
    if source.shape[1:] != edited.shape[1:] or len(source) not in (1, len(edited)):
        raise ValueError(f"tokens of shape {tuple(source.shape)} and {tuple(edited.shape)} cannot be compared.")
    cosine = functional.cosine_similarity(source.float(), edited.float(), dim=-1)
    return (1 - cosine).clamp(0, 2)


def mask_share(mask: Tensor, rows: int, columns: int) -> Tensor:
    """The share of each patch that a mask covers, (B, rows, columns) in 0..1. mask: (B, H, W) in 0..1."""
    return functional.adaptive_avg_pool2d(mask.float()[:, None], (rows, columns))[:, 0]


def weighted_mean(drift: Tensor, share: Tensor) -> float | None:
    """The mean over patches, each weighed by its share; None where the shares are all 0. Both (rows, columns)."""
    whole = share.sum()
    return float((drift * share).sum() / whole) if whole > 0 else None


def summarise(drift: Tensor, share: Tensor | None) -> SemanticDrift:
    """The figures of one pair. drift, share: (rows, columns); share: from `mask_share`, or None for no mask."""
    rows, columns = drift.shape
    place = int(drift.argmax())
    inside, outside = (drift.mean().item(), None) if share is None else _inside_and_outside(drift, share)
    return SemanticDrift(inside, outside, float(drift.max()), (place // columns, place % columns), (rows, columns))


def _inside_and_outside(drift: Tensor, share: Tensor) -> tuple[float, float | None]:
    """Raises ValueError where a mask covers no patch."""
    inside = weighted_mean(drift, share)
    if inside is None:
        raise ValueError("mask covers no patch, so there is nothing inside it.")
    return inside, weighted_mean(drift, 1 - share)
