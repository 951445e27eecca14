"""Inversion of Euler sampling, exact up to a residual that is known (AIDI, arXiv 2309.04907, section 3.2; PAPERS.md 3.2).

In sigma space, with the denoised prediction D of any kind of model: the sampler's step from s_hi down to s_lo is
x_lo = x + (s_lo - s_hi) (x - D(x, s_hi)) / s_hi. Its inverse is the fixed point of
f(x) = x_lo + (s_hi - s_lo) (x - D(x, s_hi)) / s_hi, and f(x) - x is exactly what that step of the sampler will miss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .fixed_point import Ended, Method, NotFinite, Residual, anderson, damped, empirical, plain, solve, within
from .trajectory import InversionSettings

# denoise(x, sigma, samples) -> D, like x: x is (A, ...) in the model's own scale, sigma () on its device, and samples says
# which A of the whole batch these are.
Denoise = Callable[[Tensor, Tensor, list[int]], Tensor]
Residuals = tuple[tuple[Residual, ...], ...]  # of one step: each sample's, in the order of the calls
Guess = Callable[[Tensor, Sequence[float], int, Sequence[Tensor]], Tensor]
AfterCall = Callable[[int, int, float], None]  # (step, item of the batch, its relative residual)

METHODS: dict[str, Callable[[int], Method]] = {
    "anderson": anderson,
    "empirical": lambda window: empirical(),
    "damped": lambda window: damped(),
    "plain": lambda window: plain(),
    "euler": lambda window: plain(),  # one call a step: the uncorrected DDIM inversion
}
STALLED = 8  # evaluations without a tenth of improvement: what is left is the model's own rounding


def invert_step(
    denoise: Denoise, x: Tensor, low: Tensor, high: Tensor, guess: Tensor, method: Method, ended: Ended
) -> tuple[Tensor, Residuals]:
    """The x at `high` from which one Euler step leads to x (B, ...) at `low`, and the residuals on the way to it."""

    def step_back(y: Tensor, samples: list[int]) -> Tensor:
        start = x if len(samples) == len(x) else x[samples]
        return start + (y - denoise(y, high, samples)) / high * (high - low)

    solution = solve(step_back, guess, method, ended)
    return solution.x, tuple(tuple(history) for history in solution.residuals)


def first_guess(x: Tensor, levels: Sequence[float], step: int, slopes: Sequence[Tensor]) -> Tensor:
    """Where to look first: along the last slope, bent by half of how it changed over the logarithm of sigma.

    levels: the sigmas. slopes: of the steps before this one, the last at the end. Half, since the whole would carry on the
    slopes' own errors too.
    """
    if not slopes:
        return x
    low, high = levels[step : step + 2]
    slope = slopes[-1]
    if len(slopes) > 1 and levels[step - 1] > 0:
        slope = slope + (slope - slopes[-2]) * (0.5 * math.log(high / low) / math.log(low / levels[step - 1]))
    return x + slope * (high - low)


def last_latent(x: Tensor, *_: object) -> Tensor:
    """DDIM inversion's guess: the latent that the step starts from. With one call a better guess would be a correction."""
    return x


class CallBudget:
    """Shares out a number of model calls among the steps of each sample's inversion: hard steps borrow from easy ones.

    A step ends at the tolerance, and what it leaves goes to those after it. It may take up to twice its fair share of what is
    there, but always leaves three quarters of an equal share to each step after it.
    """

    def __init__(self, settings: InversionSettings, steps: int, batch: int):
        if settings.calls is not None and settings.calls < steps:
            raise ValueError(
                f"A budget of {settings.calls} calls is too small for {steps} steps: each takes at least 1."
            )
        self.settings = settings
        self.steps = steps
        self.spent = [0 for _ in range(batch)]

    def end_of_step(self, step: int) -> Ended:
        """When each sample's step ends. Counts the calls that are made."""
        usual = within(1 if self.settings.method == "euler" else self.settings.iterations, self.settings.tolerance)
        before = list(self.spent)

        def ended(sample: int, residuals: Sequence[Residual]) -> bool:
            self.spent[sample] = before[sample] + len(residuals)
            return (
                usual(sample, residuals) or stalled(residuals) or len(residuals) >= self._allowed(step, before[sample])
            )

        return ended

    def _allowed(self, step: int, spent: int) -> float:
        if self.settings.calls is None:
            return math.inf
        left, following = self.settings.calls - spent, self.steps - step - 1
        reserve = max(1, 3 * self.settings.calls // (4 * self.steps))
        return max(1, min(2 * left // (following + 1), left - reserve * following))


def tell(after_call: AfterCall, step: int, ended: Ended) -> Ended:
    """The same ends of a step, and the newest residual is told each time."""

    def told(sample: int, residuals: Sequence[Residual]) -> bool:
        after_call(step, sample, residuals[-1].relative)
        return ended(sample, residuals)

    return told


def reachable(tolerance: float, dtype: torch.dtype) -> float:
    """The tolerance, but no less than a model that computes in this dtype can meet: a quarter of its rounding. 0 stays 0.

    A half-precision model's residual stops falling at about a tenth of its rounding: 1e-4 in float16, 8e-4 in bfloat16.
    """
    return max(tolerance, torch.finfo(dtype).eps / 4) if tolerance > 0 else tolerance


def stalled(residuals: Sequence[Residual]) -> bool:
    """Whether the last evaluations have brought nothing more."""
    if len(residuals) <= STALLED:
        return False
    best = min(residual.absolute for residual in residuals[:-STALLED])
    return min(residual.absolute for residual in residuals[-STALLED:]) > 0.9 * best


def invert(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    settings: InversionSettings,
    window: int = 3,
    guesses: Tensor | None = None,
    guess_by: Guess | None = None,
    after_step: Callable[[int, Tensor], None] = lambda step, x: None,
    after_call: AfterCall = lambda step, sample, residual: None,
) -> tuple[list[Tensor], tuple[Residuals, ...]]:
    """Invert x (B, ...), the latent at sigmas[0], up the rising sigmas (N + 1,): the N + 1 states, and each step's residuals.

    Float32 throughout, whatever the model computes in. window: Anderson's. guesses: (N + 1, B, ...), the states of an earlier
    inversion to start from. guess_by: without one first_guess, but last_latent for euler. Raises NotFinite where the model
    gives no finite numbers; it says at which step. after_call is told what each model call found.
    """
    method = METHODS[settings.method](window)
    guess_by = guess_by or (last_latent if settings.method == "euler" else first_guess)
    levels = sigmas.tolist()
    budget = CallBudget(settings, len(sigmas) - 1, len(x))
    states, residuals = [x.float()], []
    slopes: list[Tensor] = []
    for step in range(len(sigmas) - 1):
        low, high = sigmas[step], sigmas[step + 1]
        guess = guess_by(states[-1], levels, step, slopes)
        if guesses is not None:
            guess = guesses[step + 1].to(guess) + (states[-1] - guesses[step].to(guess))
        try:
            ended = tell(after_call, step, budget.end_of_step(step))
            found, history = invert_step(denoise, states[-1], low, high, guess, method, ended)
        except NotFinite as error:
            raise NotFinite(
                error.sample,
                f"The model gave infinity or no number for item {error.sample + 1} of the batch, in step {step + 1} of "
                f"{len(sigmas) - 1} (sigma {levels[step + 1]:.4g}).",
            ) from error
        slopes = [*slopes[-1:], (found - states[-1]) / (high - low)]
        states.append(found)
        residuals.append(history)
        after_step(step, found)
    return states, tuple(residuals)


def relative_errors(
    denoise: Denoise, states: Sequence[Tensor], sigmas: Tensor, before_step: Callable[[int], None] = lambda step: None
) -> tuple[float, ...]:
    """How exact an inversion is: its last state sampled back with Euler steps, one call each, against its first.

    Of each sample, the root mean square of the difference relative to the first state's.
    """
    x, samples = states[-1], list(range(len(states[-1])))
    for step in reversed(range(len(sigmas) - 1)):
        before_step(step)
        low, high = sigmas[step], sigmas[step + 1]
        x = x + (x - denoise(x, high, samples)) / high * (low - high)
    missed, known = (values.flatten(1).double().norm(dim=1) for values in (x - states[0], states[0]))
    return tuple((missed / known).tolist())
