"""The small pictures on the timeline."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from ..cells import mask_to_cells

_LINE = 2  # pixels
_SHADOW_SPREAD = 2.0  # pixels, standard deviation
_SHADOW_STRENGTH = 3.0  # how much darker than the blurred line itself: at 1 it would hardly be seen


def to_image(picture: Tensor) -> Image.Image:
    """A picture (H, W, 3) in 0..1 in 8 bit."""
    return Image.fromarray((picture.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8).numpy())


def make_thumbnail(picture: Tensor, size: int) -> Image.Image:
    """A picture (H, W, 3) in 0..1 whose longer side is brought to `size` pixels, or near it.

    A larger one is scaled down with Lanczos' filter. A smaller one is shown in whole multiples, so that its own pixels can be
    seen as they are.
    """
    image = to_image(picture)
    longer = max(image.size)
    if longer > size:
        smaller = [max(1, round(side * size / longer)) for side in image.size]
        return image.resize((smaller[0], smaller[1]), Image.Resampling.LANCZOS)
    return enlarge(image, size // longer)


def enlarge(image: Image.Image, factor: int) -> Image.Image:
    """Each pixel `factor` times in both directions."""
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def outline_mask(thumbnail: Image.Image, mask: Tensor) -> Image.Image:
    """A copy of a thumbnail with a mask's outline, where it falls to half of its strongest: a light line on a dark shadow.

    mask: (H, W) in 0..1, of any size with the picture's proportions. A mask that covers all outlines nothing.
    """
    fitted = mask_to_cells(mask[None], thumbnail.height, thumbnail.width)[0, 0].cpu().numpy()
    inside = fitted > fitted.max() / 2
    if inside.all() or not inside.any():
        return thumbnail
    line = inside & ~ndimage.binary_erosion(inside, np.ones((3, 3)), iterations=_LINE)
    shadow = ndimage.gaussian_filter(line.astype(np.float32), _SHADOW_SPREAD) * _SHADOW_STRENGTH
    pixels = np.asarray(thumbnail, np.float32) * (1 - shadow.clip(0, 0.8))[..., None]
    pixels[line] = 255
    return Image.fromarray(pixels.round().astype(np.uint8))


def dim(thumbnail: Image.Image, ground: tuple[int, int, int], share: float) -> Image.Image:
    """A thumbnail, faded into the ground's colour by a share of 0..1."""
    return Image.blend(thumbnail, Image.new("RGB", thumbnail.size, ground), share)
