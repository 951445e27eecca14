"""What an inversion leaves behind: the latent at every noise level, and how exact each step is."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .fixed_point import Residual, least
from .inversion_schedule import described

ROUNDING = 2.0**-23  # float32's


@dataclass(frozen=True)
class LatentSpace:
    """What two models have in common that can go on with each other's noisy latents, in the host's own names."""

    latent_format: str
    sampling: str
    channels: int

    def __str__(self) -> str:
        return f"{self.latent_format} latents of {self.channels} channels, {self.sampling} sampling"


@dataclass(frozen=True)
class InversionSettings:
    """How an inversion was made. method: its name. calls: for the whole inversion of a sample, None without a limit."""

    method: str = "anderson"
    iterations: int = 20
    tolerance: float = 1e-5
    calls: int | None = None
    cfg: float = 1.0


@dataclass(frozen=True, eq=False)  # tensors have no one answer to ==
class Trajectory:
    """sigmas: (N + 1,), rising. states: (N + 1, B, C, [T,] H, W) float32 on the CPU, in the model's own scale.

    residuals[step][sample]: those of the step's iterates, in the order of the model calls. states[step + 1] is one update
    beyond the last of them, or the best of them (fixed_point.Solution). measured: of each sample, the relative error of the
    latent that came back when the steps were sampled down again; None where nobody did.
    """

    sigmas: Tensor
    states: Tensor
    residuals: tuple[tuple[tuple[Residual, ...], ...], ...]
    space: LatentSpace
    settings: InversionSettings = field(default_factory=InversionSettings)
    measured: tuple[float, ...] | None = None

    @property
    def steps(self) -> int:
        """N, the inversion's steps."""
        return len(self.residuals)

    @property
    def batch(self) -> int:
        """B, the samples that were inverted at once."""
        return self.states.shape[1]

    def calls(self, step: int) -> int:
        """How often the model was called in a step, for all samples at once."""
        return max(len(history) for history in self.residuals[step])

    @property
    def total_calls(self) -> int:
        """How often the model was called in all steps, for all samples at once."""
        return sum(self.calls(step) for step in range(self.steps))

    def remaining(self, step: int, sample: int) -> Residual:
        """The best residual that was seen in a step."""
        return least(self.residuals[step][sample])

    @property
    def tolerance(self) -> float:
        """The relative residual at which a step has converged: with a tolerance of 0, float32's rounding."""
        return max(self.settings.tolerance, 4 * ROUNDING)

    def converged(self, step: int, sample: int) -> bool:
        """Whether a step's residual came within the tolerance."""
        return self.remaining(step, sample).relative <= self.tolerance

    def open_steps(self) -> list[int]:
        """The steps at which not every sample has converged."""
        return [step for step in range(self.steps) if not all(self.converged(step, s) for s in range(self.batch))]

    def step_errors(self, sample: int) -> list[float]:
        """What each step is expected to miss, relative to the latent.

        An Euler step from the x that was found leaves out exactly f(x) - x: the residual is the error. The latent grows with
        sigma, and on the way down the error shrinks as the latent does, so that relative to it the error stays.
        """
        return [self.remaining(step, sample).relative for step in range(self.steps)]

    def predicted_error(self, sample: int) -> float:
        """The relative error, root mean square, of the latent that euler will bring back down the same steps.

        The steps' errors point in different directions, so their squares add up. An estimate, and mostly a few times too
        large, since the x of a step is one update better than the last residual that was seen.
        """
        return math.hypot(*self.step_errors(sample))

    def at(self, sigma: float) -> Tensor:
        """The latent at a noise level, (B, C, [T,] H, W): an Euler step is a straight line in sigma. Clamped to both ends."""
        sigma = min(max(sigma, float(self.sigmas[0])), float(self.sigmas[-1]))
        step = int(torch.searchsorted(self.sigmas[1:-1], sigma))
        low, high = (float(level) for level in self.sigmas[step : step + 2])
        if sigma in (low, high):  # exactly the state, not nearly
            return self.states[step if sigma == low else step + 1]
        return torch.lerp(self.states[step], self.states[step + 1], (sigma - low) / (high - low))

    def check_fits(self, space: LatentSpace, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless the trajectory is of latents of this space and of this shape, (B, C, [T,] H, W)."""
        if self.space != space:
            raise ValueError(
                f"trajectory was made with another kind of model: {self.space}; this one has {space}. "
                "Invert again with this model."
            )
        if tuple(self.states.shape[1:]) != tuple(shape):
            raise ValueError(
                f"trajectory is of a latent of {tuple(self.states.shape[1:])}, but this one is {tuple(shape)}. "
                "Invert this latent."
            )

    def check_sigmas(self, sigmas: Tensor) -> None:
        """Raise ValueError unless the trajectory passes these rising sigmas."""
        if self.sigmas.shape != sigmas.shape or not torch.allclose(self.sigmas, sigmas, rtol=1e-4, atol=0):
            raise ValueError(
                f"trajectory passes the sigmas {described(self.sigmas)}, but this inversion {described(sigmas)}. "
                "Use the same scheduler and number of steps, or disconnect it."
            )
