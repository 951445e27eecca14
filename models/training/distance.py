"""How far a decoded picture is from what it should be, with a gradient: what trainings minimise."""

from __future__ import annotations

import torch
from kornia.losses import MS_SSIMLoss
from torch import Tensor, nn

from ..metrics.perceptual import load_perceptual_distance


class PictureDistance(nn.Module):
    """squared · MSE + absolute · L1 + perceptual · (LPIPS, or 1 - MS-SSIM where LPIPS's weights are not on this machine).

    `perceptual_name` says which it is, and `note` what would have to be there for LPIPS. Computed in float32. side: that of
    the pictures, in pixels; LPIPS takes none that are too small.
    """

    def __init__(self, squared: float, absolute: float, perceptual: float, side: int) -> None:
        super().__init__()
        self.squared, self.absolute, self.perceptual = squared, absolute, perceptual
        self.perceptual_name, self.note = "none", ""
        self.network: nn.Module | None = None
        if perceptual:
            lpips = load_perceptual_distance()
            if not isinstance(lpips, str) and side < lpips.least_side:
                lpips = f"LPIPS needs pictures of {lpips.least_side} pixels or more on a side."
            if isinstance(lpips, str):
                self.perceptual_name, self.note = "MS-SSIM", lpips
                self.network = MS_SSIMLoss(alpha=1.0, compensation=1.0)
            else:
                self.perceptual_name, self.network = "LPIPS", lpips.network

    def forward(self, picture: Tensor, target: Tensor) -> Tensor:
        """A scalar. picture, target: (B, 3, H, W) in 0..1."""
        with torch.autocast(picture.device.type, enabled=False):
            picture, target = picture.float(), target.float()
            difference = picture - target
            distance = self.squared * difference.square().mean() + self.absolute * difference.abs().mean()
            if self.network is None:
                return distance
            if self.perceptual_name == "LPIPS":
                return distance + self.perceptual * self.network(picture, target, normalize=True).mean()
            return distance + self.perceptual * self.network(picture, target)
