"""The picture that an inpainting model is shown, what the mask covers greyed out: made in latent space.

Such a model was trained on the encoded picture with grey in the mask's place. Here the picture is never encoded: its latent
stays as it is outside the mask, a latent of grey stands inside it, and a cell that the mask covers in part is the average
of the two, by the share that is covered. That rule came nearest to encoding the greyed pixels (dev.py bench emilie, which
states by how much they differ).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from ..autoencoders.receptive_field import textured_picture
from ..cells import mask_like_samples

GREY = 0.5
SIDE = 32  # cells of the picture in whose middle the grey is
FIRST, LAST = 8, 24  # its first grey cell, and the first one after the grey


def latent_of_grey(encode: Callable[[Tensor], Tensor], ratio: int) -> Tensor:
    """What an encoder makes of grey that is part of a picture: (1, C, 1, 1).

    encode: pixels (1, H, W, 3) in 0..1 to a latent (1, C, H / ratio, W / ratio); it is called once. A picture of nothing but
    grey would not do: an encoder's group norms make another latent of it than of grey with a picture around it.
    """
    picture = textured_picture(SIDE * ratio, seed=0)
    grey = slice(FIRST * ratio, LAST * ratio)
    picture[:, grey, grey] = GREY
    inner = slice(FIRST + 1, LAST - 1)  # the outermost grey cells see the texture
    return encode(picture)[..., inner, inner].mean((-2, -1), keepdim=True)


def mask_in_pixels(mask: Tensor, height: int, width: int) -> Tensor:
    """A (B, H, W) mask at the size of the picture, bilinear: (B, 1, height, width) in 0..1."""
    return functional.interpolate(mask[:, None], (height, width), mode="bilinear")


def covered_share(mask: Tensor, samples: Tensor) -> Tensor:
    """How much of each cell is greyed out: 0..1, broadcastable to samples (B, C, H, W).

    mask: (B, 1, height, width) in pixels, in 0..1. A pixel is greyed out where it is above a half, so a soft mask covers as
    much as a hard one.
    """
    return mask_like_samples(mask[:, 0].round(), samples)


def masked_latent(samples: Tensor, grey: Tensor, covered: Tensor) -> Tensor:
    """The latent (B, C, H, W) of a picture with grey where it is covered; bit for bit as it was where nothing is.

    grey: (1, C, 1, 1), of latent_of_grey. covered: of covered_share, of 1 mask or of B.
    """
    return torch.lerp(samples, grey.to(samples).expand_as(samples), covered.to(samples))
