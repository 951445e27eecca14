"""Pixels and latent cells: masks brought to a latent's grid, latents and pictures checked before work starts.

A cell is one position of a latent's last two dimensions; it stands for a square of pixels whose side is the VAE's ratio.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

ASPECT_TOLERANCE = 0.02  # relative: what rounding to whole cells can explain


def check_samples(samples: Tensor, name: str = "samples") -> None:
    """Raise ValueError for a latent that no ReEdit node can work on: not (B, C, [T,] H, W), or holding NaN or infinity."""
    if getattr(samples, "is_nested", False):
        raise ValueError(f"{name} is a nested latent (several streams in one). Split it and edit the picture's stream.")
    if samples.ndim not in (4, 5):
        raise ValueError(
            f"{name} has shape {tuple(samples.shape)}; a latent of (B, C, H, W) or (B, C, T, H, W) is needed."
        )
    if not bool(torch.isfinite(samples).all()):
        count = int((~torch.isfinite(samples)).sum())
        raise ValueError(
            f"{name} holds {count} values that are NaN or infinite. The step before it failed: "
            "look at its picture, and try a higher precision (--fp32-vae, or a float32 model)."
        )


def check_mask(mask: Tensor, batch: int, height: int, width: int, name: str = "mask") -> Tensor:
    """Check a MASK against what it is for and return it as (B, H, W) float32 in 0..1.

    mask: (H, W) or (B, H, W). batch, height, width: of the picture or latent. A mask of another size is welcome as long as
    it has the same proportions: it is resized by its users. ValueError for other proportions, for a batch that is neither
    1 nor `batch`, for NaN, and for a mask that is zero everywhere (no edit could happen).
    """
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim == 4 and mask.shape[1] == 1:  # noise_mask's layout
        mask = mask[:, 0]
    if mask.ndim != 3:
        raise ValueError(f"{name} has shape {tuple(mask.shape)}; (B, H, W) is needed.")
    mask = mask.float()
    if not bool(torch.isfinite(mask).all()):
        raise ValueError(f"{name} holds NaN or infinite values. Make it anew.")
    if mask.shape[0] not in (1, batch):
        raise ValueError(
            f"{name} is a batch of {mask.shape[0]}, but there are {batch} pictures: give 1 mask or {batch}."
        )
    proportions, wanted = mask.shape[2] / mask.shape[1], width / height
    # A latent's grid is coarse: half a cell of rounding is allowed on top.
    if abs(proportions - wanted) > ASPECT_TOLERANCE * wanted + 0.5 / min(height, width):
        raise ValueError(
            f"{name} is {mask.shape[2]}×{mask.shape[1]} (width×height), which has other proportions than the picture "
            f"(latent {width}×{height}). A mask of the same proportions is resized; crop or pad this one first."
        )
    if not bool(mask.any()):
        raise ValueError(f"{name} is zero everywhere, so nothing could be edited. Paint the part to edit white.")
    return mask.clamp(0, 1)


def mask_to_cells(mask: Tensor, height: int, width: int) -> Tensor:
    """Average a (B, H, W) mask over each cell: (B, 1, height, width) float32. Exactly 0 where no pixel is masked."""
    return functional.adaptive_avg_pool2d(mask[:, None].float(), (height, width))


def touched_cells(mask: Tensor, height: int, width: int) -> Tensor:
    """The cells in which any pixel of a (B, H, W) mask is above zero: (B, 1, height, width) bool."""
    if mask.shape[-2:] == (height, width):  # pooling a large mask to its own size takes long and does nothing
        return mask[:, None] > 0
    return functional.adaptive_max_pool2d(mask[:, None].float(), (height, width)) > 0


def brightest_in_cells(mask: Tensor, samples: Tensor) -> Tensor:
    """The largest value of a (B, H, W) mask in each cell of a latent, on its device and with its dimensions.

    For edits that have to reach every cell of a thing: its rim covers cells in part, and an average leaves half of the old.
    """
    return like_samples(functional.adaptive_max_pool2d(mask[:, None].float(), samples.shape[-2:]), samples)


def mask_like_samples(mask: Tensor, samples: Tensor) -> Tensor:
    """A (B, H, W) mask averaged over the cells of a latent, on its device and with its dimensions. Exactly 0 outside."""
    return like_samples(mask_to_cells(mask, *samples.shape[-2:]), samples)


def like_samples(cells: Tensor, samples: Tensor) -> Tensor:
    """(B, 1, H, W) cells on the device of a latent, with a time dimension where the latent has one."""
    cells = cells.to(samples.device)
    return cells[:, :, None] if samples.ndim == 5 else cells
