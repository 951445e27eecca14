"""How alike two pictures are, over a part of them: PSNR, SSIM, MS-SSIM and the shift of their colours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from kornia.filters import gaussian_blur2d
from kornia.metrics import psnr as kornia_psnr
from kornia.metrics import ssim as kornia_ssim
from torch import Tensor
from torch.nn import functional

WINDOW = 11  # pixels: the side of SSIM's Gaussian window (Wang et al. 2004, section III.C)
WINDOW_SIGMA = 1.5
LUMINANCE_CONSTANT = 0.01**2  # (K1·L)² for a data range L of 1
SCALE_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # MS-SSIM's five scales (Wang et al. 2003, section 4)
MS_SSIM_SIDE = (WINDOW - 1) * 2 ** (len(SCALE_EXPONENTS) - 1)  # pixels; a picture's sides must exceed it
MS_SSIM_WINDOW = WINDOW * 2 ** (len(SCALE_EXPONENTS) - 1)  # pixels: what the window spans on the coarsest scale


def masked_psnr(picture: Tensor, reference: Tensor, where: Tensor) -> float | None:
    """PSNR in dB over the marked pixels, for values in 0..1; None where no pixel is marked.

    picture, reference: (B, H, W, C). where: (B, H, W) bool. Equal pictures give infinity.
    """
    if not bool(where.any()):
        return None
    return float(kornia_psnr(picture[where].float(), reference[where].float(), 1.0))


def colour_shift(picture: Tensor, reference: Tensor, where: Tensor) -> tuple[float, float, float] | None:
    """The mean of picture - reference over the marked pixels, for red, green and blue, in 8-bit grey levels.

    picture, reference: (B, H, W, 3) in 0..1. where: (B, H, W) bool. None where no pixel is marked.
    """
    if not bool(where.any()):
        return None
    red, green, blue = (255 * (picture[where].double() - reference[where].double()).mean(0)).tolist()
    return red, green, blue


class SimilarityMaps:
    """SSIM of two pictures, window by window, on each scale: computed once, then averaged over any part of them.

    picture, reference: (B, H, W, C) in 0..1. A window counts for a part only where it lies wholly in it, so that what
    happens in one part cannot change the figure of another. The pictures are halved by averaging 2×2 pixels, and a last odd
    row or column by itself.
    """

    def __init__(self, picture: Tensor, reference: Tensor) -> None:
        self.size = picture.shape[1:3]
        one, other = picture.float().movedim(-1, 1).contiguous(), reference.float().movedim(-1, 1).contiguous()
        count = len(SCALE_EXPONENTS) if min(self.size) > MS_SSIM_SIDE else 1
        # For each scale, the map to average: contrast and structure on all but the last, where luminance joins in.
        self.scales: list[Tensor] = []
        self.full: Tensor | None = None  # SSIM on the first scale; None for a picture smaller than the window
        for scale in range(count if min(self.size) >= WINDOW else 0):
            similarity = kornia_ssim(one, other, WINDOW, max_val=1.0, eps=0.0, padding="valid")
            self.full = similarity if self.full is None else self.full
            last = scale == len(SCALE_EXPONENTS) - 1
            self.scales.append(similarity if last else similarity / _luminance(one, other))
            one, other = (functional.avg_pool2d(image, 2, ceil_mode=True) for image in (one, other))

    def ssim(self, where: Tensor | None = None) -> float | None:
        """SSIM (Wang et al. 2004), -1 to 1. where: (B, H, W) bool, None for everywhere. None where no window fits."""
        if self.full is None:
            return None
        means = _means([self.full], where)
        return None if means is None else float(means.mean())

    def ms_ssim(self, where: Tensor | None = None) -> float | None:
        """MS-SSIM (Wang et al. 2003), 0 to 1. where: (B, H, W) bool, None for everywhere.

        None for pictures whose smaller side is MS_SSIM_SIDE pixels or less, and where on some scale no window fits.
        """
        if len(self.scales) < len(SCALE_EXPONENTS):
            return None
        means = _means(self.scales, where)
        if means is None:
            return None
        exponents = means.new_tensor(SCALE_EXPONENTS)[:, None, None]
        return float(means.relu().pow(exponents).prod(0).mean())


def _luminance(one: Tensor, other: Tensor) -> Tensor:
    """The first factor of SSIM, for windows that lie wholly in the picture."""
    margin = WINDOW // 2
    one, other = (
        gaussian_blur2d(image, (WINDOW, WINDOW), (WINDOW_SIGMA, WINDOW_SIGMA))[..., margin:-margin, margin:-margin]
        for image in (one, other)
    )
    return (2 * one * other + LUMINANCE_CONSTANT) / (one.square() + other.square() + LUMINANCE_CONSTANT)


def _means(maps: Sequence[Tensor], where: Tensor | None) -> Tensor | None:
    """The mean of each scale's map over the windows that lie wholly in `where`: (scales, items, C).

    Pictures of the batch in which no window fits on some scale are left out; None where that leaves none.
    """
    if where is None:
        return torch.stack([values.mean((-2, -1)) for values in maps])
    elsewhere = (~where)[:, None].float()
    sums, counts = [], []
    for values in maps:
        # Rows, then columns: 22 comparisons for each pixel where the square at once takes 121.
        reached = functional.max_pool2d(functional.max_pool2d(elsewhere, (WINDOW, 1), 1), (1, WINDOW), 1)
        inside = (reached == 0).to(values.dtype)
        sums.append((values * inside).sum((-2, -1)))
        counts.append(inside.sum((-2, -1)))
        elsewhere = functional.max_pool2d(elsewhere, 2, ceil_mode=True)
    fits = (torch.stack(counts) > 0).all(0)[:, 0]
    if not bool(fits.any()):
        return None
    return torch.stack(sums)[:, fits] / torch.stack(counts)[:, fits]
