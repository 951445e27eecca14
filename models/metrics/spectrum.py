"""Where in the spectrum a picture's energy is: blur takes it from the high frequencies, artefacts add to them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)  # tensors have no one answer to ==
class SpectrumCurve:
    """The radially averaged power spectrum of one picture; see `radial_power`."""

    name: str
    frequencies: Tensor
    power: Tensor


def _grey(picture: Tensor) -> Tensor:
    """(B, H, W, 3) in 0..1 as (B, H, W) in 8-bit grey levels."""
    return 255 * picture.float().mean(-1)


def fine_detail(picture: Tensor) -> float:
    """Spectral energy above half the Nyquist frequency, per pixel, in (8-bit grey levels)². It falls as a picture blurs.

    picture: (B, H, W, 3) in 0..1.
    """
    grey = _grey(picture)
    spectrum = torch.fft.fft2(grey, norm="ortho").abs().square()
    rows = torch.fft.fftfreq(grey.shape[-2]).abs()[:, None]
    columns = torch.fft.fftfreq(grey.shape[-1]).abs()[None, :]
    return float(spectrum[:, torch.maximum(rows, columns) > 0.25].sum() / grey.numel())


def radial_power(picture: Tensor) -> tuple[Tensor, Tensor]:
    """The power spectrum averaged over rings of equal frequency, as REED-VAE draws one (arXiv 2504.18989, Figure 3).

    How the paper averages and fades is not known to us.

    picture: (B, H, W, 3) in 0..1. Returns two (n,) tensors: the frequencies in cycles per pixel, up to Nyquist's 0.5, in
    steps of one cycle over the smaller side; and the mean power of each ring in (8-bit grey levels)², the mean of the batch,
    so scaled that white noise has its variance in every ring. The picture's mean is taken off and a Hann window fades its
    borders out: without it the step from one border to the opposite one would hide the high frequencies.
    """
    grey = _grey(picture)
    height, width = grey.shape[-2:]
    window = torch.hann_window(height)[:, None] * torch.hann_window(width)[None, :]
    window = window.to(grey) / window.square().mean().sqrt()
    faded = (grey - grey.mean((-2, -1), keepdim=True)) * window
    power = torch.fft.fft2(faded, norm="ortho").abs().square().mean(0)
    rows, columns = torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None, :]
    side = min(height, width)
    ring = (side * (rows.square() + columns.square()).sqrt()).round().long().flatten()
    rings = torch.arange(1, side // 2 + 1)
    total = torch.bincount(ring, power.cpu().flatten())
    return rings / side, (total / torch.bincount(ring))[rings].float()
