"""Three-way guidance by a picture and by instructions, each instruction inside its mask.

InstructPix2Pix (arXiv 2211.09800, equation 3) guides by two scales, one for the picture and one for the text. EMILIE (arXiv
2309.00613, section 4.2) zeroes the edit's gradient outside of a mask: here that is the term of the text, so that outside the
picture's own term is left. Several instructions are several such terms, each with its own mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

LEAST_SUM = torch.finfo(torch.float32).tiny  # of masks that count: below it a division loses its digits


def union(masks: Tensor) -> Tensor:
    """min(1, sum of all): how far each cell is edited at all. masks: (K, B, 1, [1,] H, W) in 0..1."""
    return masks.sum(0).clamp(max=1)


def shares(masks: Tensor, areas: Tensor | None = None) -> Tensor:
    """What part of each cell each mask has: where masks overlap, they share the cell, min(1, sum of all m) · a_k / sum of a.

    masks: (K, B, 1, [1,] H, W) in 0..1, as are the shares: how far each instruction may edit the cell. areas: the same shape,
    how much of the cell each mask covers, by which masks that meet in a cell share it. Without them, the masks themselves.
    """
    areas = masks if areas is None else areas
    total = areas.sum(0)
    return areas * torch.where(total >= LEAST_SUM, union(masks) / total.clamp(min=LEAST_SUM), 0)


def cells_of_others(masks: Tensor, areas: Tensor | None = None) -> Tensor:
    """How far each cell belongs to other instructions alone: their shares, where the instruction's own mask is not.

    Shapes as in `shares`.
    """
    parts = shares(masks, areas)
    return (parts.sum(0) - parts) * (1 - masks)


def whole_shares(masks: Tensor) -> Tensor:
    """m_k / sum of all: the whole of every cell, for a prediction that is held inside the masks once more.

    Shapes as in `shares`. Cells that no mask touches are shared equally, so a single instruction has every cell.
    """
    total = masks.sum(0)
    return torch.where(total >= LEAST_SUM, masks / total.clamp(min=LEAST_SUM), 1 / len(masks))


@dataclass(frozen=True)
class GuidanceScales:
    """How strongly each cell is guided. picture: s_I, (B, 1, [1,] H, W). texts: each s_T times the share, (K, B, …)."""

    picture: Tensor
    texts: Tensor

    @cached_property  # asking a GPU at every step would make it wait
    def needs_unconditional(self) -> bool:
        """Whether D_un has any weight, 1 - s_I."""
        return bool((self.picture != 1).any())

    @cached_property  # asking a GPU at every step would make it wait
    def needs_picture(self) -> bool:
        """Whether D_img has any weight, s_I less the texts' scales."""
        return bool((self.picture != self.texts.sum(0)).any())


def guidance_scales(
    parts: Tensor, text_scales: Sequence[float], image_scales: Sequence[float], image_scale: float
) -> GuidanceScales:
    """The scales of each cell. parts: the instructions' shares, (K, B, 1, [1,] H, W). text_scales, image_scales: K of each.

    image_scale: of the cells, or the parts of cells, that no instruction has.
    """
    shape = (-1,) + (1,) * (parts.ndim - 1)
    texts, images = (parts.new_tensor(scales).reshape(shape) for scales in (text_scales, image_scales))
    # As differences from image_scale: where all scales are alike, rounding leaves that scale as it is.
    picture = image_scale + (parts * (images - image_scale)).sum(0)
    return GuidanceScales(picture, parts * texts)


def guided_by_picture(unconditional: Tensor, picture: Tensor, scales: GuidanceScales) -> Tensor:
    """D_un + s_I (D_img - D_un). Predictions: (B, C, [T,] H, W)."""
    return torch.lerp(unconditional, picture, scales.picture)


def guided_by_text(base: Tensor, picture: Tensor, texts: Sequence[Tensor], scales: Tensor) -> Tensor:
    """base + sum over k of s_k (D_k - D_img). base and predictions: (B, C, [T,] H, W). scales: (K, B, 1, [1,] H, W)."""
    for text, scale in zip(texts, scales, strict=True):
        base = torch.addcmul(base, scale, text - picture)
    return base
