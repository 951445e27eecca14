"""Where a model looks for a word: attention of image cells to a prompt's tokens, gathered over layers and steps.

AIDI (arXiv 2309.04907, section 3.3) takes its soft masks from cross-attention maps, as Prompt-to-Prompt's local blend does
(arXiv 2208.01626): layers of one resolution, mean over heads, layers and steps.
"""

from __future__ import annotations

import math

import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor
from torch.nn import functional

COARSEST = (
    4  # latent cells to a side of one query: 16 x 16 queries for 512 pixels in Stable Diffusion, as in the papers
)
FEWEST_QUERIES = 12  # on the shorter side: a coarser map cannot tell one object from the next
CHUNK = 2**22  # attention logits that exist at one time


def queries_per_side(height: int, width: int, cells: int | None = None) -> tuple[int, int]:
    """The grid of queries, (rows, columns), at which a latent of (height, width) cells is to be read.

    cells: latent cells to a side of one query; None: the coarsest up to COARSEST that leaves FEWEST_QUERIES.
    """
    if cells is None:
        cells = COARSEST
        while cells > 1 and min(height, width) < FEWEST_QUERIES * cells:
            cells //= 2
    return math.ceil(height / cells), math.ceil(width / cells)


def word_attention(query: Tensor, key: Tensor, weights: Tensor) -> Tensor:
    """How much each query attends to the words that are meant, (B, N) float32: softmax(q·k / √D) · weights, mean over heads.

    query: (B, heads, N, D), of the image's cells. key: (B, heads, T, D), of the text's tokens, over all of which attention is
    shared out. weights: (B, T) in 0..1. Works through the queries in chunks, so the map of all tokens is never there at once.
    """
    batch, heads, count, depth = query.shape
    rows = max(1, CHUNK // (batch * heads * key.shape[2]))
    key = key.float().transpose(-1, -2) * depth**-0.5
    weights = weights.to(query.device, torch.float32)[:, None, :, None]
    parts = [
        (torch.softmax(part.float() @ key, dim=-1) @ weights).mean(dim=1)[..., 0] for part in query.split(rows, dim=2)
    ]
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0].reshape(batch, count)


class RunningMap:
    """The mean of the maps that were added, from any layers and steps, all on one grid of queries."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._count = 0

    def add(self, attention: Tensor, grid: tuple[int, int]) -> None:
        """attention: (B, N), N being grid's rows · columns, in that order."""
        found = attention.view(len(attention), 1, *grid)
        self._sum = found if self._sum is None else self._sum + found
        self._count += 1

    def mean(self) -> Tensor | None:
        """(B, 1, rows, columns) float32, or None before anything was added."""
        return None if self._sum is None else self._sum / self._count


def soft_mask(attention: Tensor, size: tuple[int, int], low: float, high: float, blur: float = 0.0) -> Tensor:
    """A map of attention, (B, 1, rows, columns), as a mask of `size`, (B, 1, height, width) in 0..1.

    Resized, blurred by a Gaussian of `blur` cells, and divided by each map's largest value; then a smooth step, exactly 0 up
    to `low` and exactly 1 from `high` on. A map that is zero everywhere gives an empty mask.
    """
    resized = functional.interpolate(attention, size, mode="bilinear", align_corners=False)
    if blur > 0:
        resized = blurred(resized, blur)
    largest = resized.amax((2, 3), keepdim=True)
    relative = resized / largest.clamp(min=torch.finfo(resized.dtype).tiny)
    step = ((relative - low) / max(high - low, 1e-6)).clamp(0, 1)
    return step * step * (3 - 2 * step)


def blurred(mask: Tensor, sigma: float) -> Tensor:
    """A (B, 1, H, W) mask under a Gaussian of standard deviation `sigma`, in cells, mirrored at the border."""
    reach = min(math.ceil(3 * sigma), min(mask.shape[-2:]) - 1)
    return gaussian_blur2d(mask, (2 * reach + 1, 2 * reach + 1), (sigma, sigma), border_type="reflect")
