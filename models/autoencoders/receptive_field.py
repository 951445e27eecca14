"""How far an encoder looks: the context that a window of a picture needs to be encoded as within the whole picture."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

SIDE = 24  # cells of the test picture
PATCH = 2  # cells of it that are exchanged
CUT_OFF = 0.1  # share of the response that may lie beyond the context


def textured_picture(side: int, seed: int) -> Tensor:
    """A picture of noise whose amplitude falls as 1/frequency, as that of photographs does: (1, side, side, 3) in 0..1."""
    generator = torch.Generator().manual_seed(seed)
    frequency = torch.fft.fftfreq(side)
    radius = torch.hypot(frequency[:, None], frequency[None, :]).clamp(min=1 / side)
    spectrum = torch.fft.fft2(torch.randn(3, side, side, generator=generator)) / radius
    noise = torch.fft.ifft2(spectrum).real
    noise = (noise - noise.mean((1, 2), keepdim=True)) / noise.std((1, 2), keepdim=True)
    return (0.5 + 0.18 * noise).clamp(0, 1).movedim(0, -1)[None]


def distance_from_patch() -> Tensor:
    """For each cell of the test picture, how many cells it lies outside the patch in its middle: (SIDE, SIDE) int."""
    first = (SIDE - PATCH) // 2
    position = torch.arange(SIDE)
    outside = torch.maximum(first - position, position - (first + PATCH - 1)).clamp(min=0)
    return torch.maximum(outside[:, None], outside[None, :])


def response_by_distance(encode: Callable[[Tensor], Tensor], ratio: int) -> Tensor:
    """How much the latent at each distance, in cells, answers to a change of the picture: (SIDE // 2,) float64.

    encode: pixels (1, H, W, 3) in 0..1 to a latent (1, C, H / ratio, W / ratio). Two encodes of a textured picture, one
    with a patch in its middle exchanged, are compared: the root mean square over channels, summed over the cells of one
    distance. Group norms and attention let the patch reach every cell a little. That floor, the median far from the patch,
    is left out: no context within reach would cure it.
    """
    side, first = SIDE * ratio, (SIDE - PATCH) // 2 * ratio
    patch = slice(first, first + PATCH * ratio)
    picture = textured_picture(side, seed=0)
    changed = picture.clone()
    changed[:, patch, patch] = textured_picture(side, seed=1)[:, patch, patch]
    difference = (encode(changed) - encode(picture)).double().cpu()
    response = difference.square().mean(1)[0].sqrt()
    distance = distance_from_patch()
    floor = response[distance >= SIDE // 2 - 3].median()
    local = (response - floor).clamp(min=0)
    return torch.stack([local[distance == cells].sum() for cells in range(SIDE // 2)])


def measure_context(encode: Callable[[Tensor], Tensor], ratio: int) -> int:
    """The effective receptive field of an encoder: the context, in cells, that holds nine tenths of its response.

    The theoretical field of most encoders is the whole picture. The effective one (Luo et al., arXiv:1701.04128) is the part
    of it that matters. See `response_by_distance`, which takes the same arguments.
    """
    response = response_by_distance(encode, ratio)
    beyond = response.sum() - response.cumsum(0)
    return int((beyond > CUT_OFF * response.sum()).sum())
