"""Spectra against closed forms."""

import math

import pytest
import torch
from kornia.filters import filter2d
from reedit.models.metrics.spectrum import fine_detail, radial_power


def grey_picture(grey: torch.Tensor) -> torch.Tensor:
    """(B, H, W) as a picture whose three channels are alike."""
    return grey[..., None].expand(*grey.shape, 3)


def wave(cycles_down: int, cycles_across: int, height: int, width: int, amplitude: float = 0.1) -> torch.Tensor:
    phase = cycles_down * torch.arange(height)[:, None] / height + cycles_across * torch.arange(width) / width
    return grey_picture(0.5 + amplitude * torch.cos(2 * math.pi * phase)[None])


def test_fine_detail_is_the_energy_above_half_nyquist():
    """A cosine of amplitude a has the power a²/2 (Parseval), all of it on its own side of half the Nyquist frequency."""
    for cycles, expected in ((8, 0.0), (24, 0.5 * 25.5**2)):
        assert math.isclose(fine_detail(wave(0, cycles, 64, 64)), expected, rel_tol=1e-4, abs_tol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 96), (65, 80)])
def test_white_noise_has_its_variance_at_every_frequency(height, width):
    frequencies, power = radial_power(grey_picture(0.5 + 0.1 * torch.randn(200, height, width)))
    side = min(height, width)
    assert torch.equal(frequencies, torch.arange(1, side // 2 + 1) / side)
    assert torch.allclose(power, torch.full_like(power, 25.5**2), rtol=0.1)
    assert math.isclose(float(power[side // 8 :].mean()), 25.5**2, rel_tol=0.01)


@pytest.mark.parametrize(("down", "across"), [(0, 20), (12, 16), (31, 0)])
def test_a_cosine_stands_at_its_frequency(down, across):
    """And the rings hold all of its power a²/2 (Parseval), which a window of mean square 1 keeps."""
    frequencies, power = radial_power(wave(down, across, 64, 64))
    assert math.isclose(float(frequencies[power.argmax()]), math.hypot(down, across) / 64, abs_tol=1e-6)
    rows = torch.fft.fftfreq(64)
    ring = (64 * (rows[:, None].square() + rows.square()).sqrt()).round().long()
    cells = torch.bincount(ring.flatten())[1 : len(power) + 1]
    energy = float((power * cells).sum()) / 64**2
    # One cycle short of Nyquist a part of the window's two neighbours lies in the corners above it.
    assert math.isclose(energy, 0.5 * 25.5**2, rel_tol=1e-3 if down < 31 else 0.2)


def test_a_blur_lowers_each_frequency_by_its_transfer_function():
    """Of the binomial kernel (1, 2, 1)/4 in both directions it is cos²(πf) in each."""
    noise = 0.5 + 0.1 * torch.randn(100, 64, 64)
    kernel = torch.tensor([[1.0, 2.0, 1.0]])
    blurred = filter2d(noise[:, None], (kernel.T @ kernel)[None] / 16, border_type="circular")[:, 0]
    frequencies, before = radial_power(grey_picture(noise))
    _, after = radial_power(grey_picture(blurred))
    angles = torch.linspace(0, math.pi / 2, 1000)
    rows, columns = frequencies[:, None] * angles.sin(), frequencies[:, None] * angles.cos()
    transfer = (torch.cos(math.pi * rows) * torch.cos(math.pi * columns)).pow(4)
    assert torch.allclose(after / before, transfer.mean(-1), rtol=0.12, atol=0.004)


def test_a_step_from_border_to_border_does_not_hide_the_high_frequencies():
    """A ramp has no detail: without the window its jump at the border would stand far above a faint noise."""
    ramp = torch.linspace(0, 1, 128).expand(1, 128, 128)
    noise = 0.001 * torch.randn(1, 128, 128)
    _, power = radial_power(grey_picture(ramp + noise))
    assert torch.allclose(power[32:], torch.full_like(power[32:], 0.255**2), rtol=0.5)
