"""Data of which everything is known in closed form: the denoiser, the sampler's steps and the exact way of a latent.

Clean values are normal, each element with its own mean and deviation v. At noise level s, with n normal of deviation 1,
    eps, v and EDM models:  x = x0 + s n          flow models:  x = (1 - s) x0 + s n
In both x = a x0 + s n, with a = 1 or 1 - s, and everything is linear in x.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Scale = Callable[[Tensor], Tensor]  # of the clean value at a noise level: a(s)
SCALES: dict[str, Scale] = {"noise": torch.ones_like, "flow": lambda sigma: 1 - sigma}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class GaussianData:
    """mean, deviation: (B, ...). Keeps the samples of every call."""

    def __init__(self, kind: str, mean: Tensor, deviation: Tensor):
        self.scale, self.mean, self.deviation = SCALES[kind], mean, deviation
        self.calls: list[list[int]] = []

    def of(self, samples: Sequence[int]) -> tuple[Tensor, Tensor]:
        return self.mean[list(samples)], self.deviation[list(samples)]

    def draw(self, seed: int = 0) -> Tensor:
        return self.mean + self.deviation * torch.randn(self.mean.shape, generator=seeded(seed))

    def gain(self, sigma: Tensor, deviation: Tensor) -> Tensor:
        """Of the best prediction of x0: the covariance of x0 and x, divided by the variance of x."""
        scale = self.scale(sigma)
        return deviation**2 * scale / (scale**2 * deviation**2 + sigma**2)

    def denoise(self, x: Tensor, sigma: Tensor, samples: Sequence[int]) -> Tensor:
        """E[x0 | x]"""
        self.calls.append(list(samples))
        mean, deviation = self.of(samples)
        return mean + self.gain(sigma, deviation) * (x - self.scale(sigma) * mean)

    def flow_to(self, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """The probability flow's x at high from that at low: it keeps x's place, measured in deviations of x."""
        shares = [(self.scale(s) ** 2 * self.deviation**2 + s**2).sqrt() for s in (low, high)]
        return self.scale(high) * self.mean + (x - self.scale(low) * self.mean) * shares[1] / shares[0]

    def step_back(self, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """The y with y = x + (high - low) (y - D(y, high)) / high: one linear equation an element, in float64."""
        low, high, mean, deviation = low.double(), high.double(), self.mean.double(), self.deviation.double()
        share, gain = (high - low) / high, self.gain(high, deviation)
        return (x.double() - share * mean * (1 - gain * self.scale(high))) / (1 - share * (1 - gain))


class TwoPeaks:
    """Each element is -1 or 1, with a deviation of its own: between the peaks the denoiser is steep, D' up to 1/s^2."""

    def __init__(self, deviation: Tensor):
        self.deviation = deviation

    def draw(self, seed: int = 0) -> Tensor:
        noise = torch.randn(self.deviation.shape, generator=seeded(seed))
        return torch.randint(0, 2, noise.shape, generator=seeded(seed + 1)) * 2 - 1 + noise * self.deviation

    def denoise(self, x: Tensor, sigma: Tensor, samples: Sequence[int]) -> Tensor:
        """E[x0 | x]: the mean of both peaks' predictions, weighted by how likely each is."""
        variance = self.deviation[list(samples)] ** 2
        upper = torch.sigmoid(2 * x / (variance + sigma**2))
        share = variance / (variance + sigma**2)
        return share * x + (1 - share) * (2 * upper - 1)


def sample_down(denoise: Callable[[Tensor, Tensor, Sequence[int]], Tensor], x: Tensor, rising: Tensor) -> Tensor:
    """Euler's method from the last of the rising sigmas down to the first."""
    for high, low in itertools.pairwise(rising.flip(0)):
        x = x + (low - high) * (x - denoise(x, high, range(len(x)))) / high
    return x


def relative(x: Tensor, expected: Tensor) -> float:
    return float((x.double() - expected.double()).norm() / expected.double().norm())
