"""How exact an inversion is, in a few sentences, and what to change where it did not converge."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, Context

from .fixed_point import Residual
from .inversion import stalled
from .trajectory import Trajectory

NAMED = 3  # steps that are named; more are counted
LARGE_RATIO = 2.5  # of the sigmas of a step: above it the fixed point is hard to find (PAPERS.md 3.4, item 8)
HALF_ROUNDING = 1e-3  # a half-precision model's own rounding, at the most
FLAT = 3  # evaluations at that rounding before it counts as the reason


def verdict(trajectory: Trajectory) -> str:
    """The first sentence: whether every step converged, and to which residual (relative; rounded up)."""
    open_steps, steps = trajectory.open_steps(), trajectory.steps
    if not open_steps:
        where = "its one step" if steps == 1 else f"all {steps} steps"
        return f"Converged in {where}: residual {number(max(_left(trajectory)))} or less."
    worst = _worst_first(trajectory, open_steps)[0]
    if not corrected(trajectory):
        count = "1 step" if steps == 1 else f"{steps} steps"
        return f"Uncorrected ({trajectory.settings.method}, {count}): its error is not known."
    where = "its one step" if steps == 1 else f"{len(open_steps)} of {steps} steps"
    return f"Did not converge in {where} ({'worst: ' if len(open_steps) > 1 else ''}{_named(trajectory, worst)})."


def describe(trajectory: Trajectory) -> str:
    """Whether it converged, what it cost, the error to expect, and what to change: a line for each."""
    open_steps = trajectory.open_steps()
    lines = [verdict(trajectory)]
    if corrected(trajectory):
        lines += [
            _others(trajectory, open_steps),
            f"The residual is what sampling a step will miss, relative to the latent; the tolerance is "
            f"{number(trajectory.tolerance)}.",
        ]
    lines += [_items(trajectory), _cost(trajectory), _expected(trajectory), *_advice(trajectory, open_steps)]
    return "\n".join(line for line in lines if line)


def corrected(trajectory: Trajectory) -> bool:
    """Whether the residuals tell the error. Euler's only one is seen before its only update: it tells nothing if large."""
    return trajectory.settings.method != "euler" or not trajectory.open_steps()


def worst_residual(trajectory: Trajectory, step: int) -> float:
    """The relative residual that is left after a step, of the batch's worst item."""
    return max(trajectory.remaining(step, sample).relative for sample in range(trajectory.batch))


def number(value: float, digits: int = 2) -> str:
    """Rounded up: what is above the tolerance reads so, and "or less" is true."""
    if not math.isfinite(value):
        return "infinite"
    rounded = float(Context(prec=digits, rounding=ROUND_CEILING).create_decimal(f"{value:.6g}"))
    if rounded == 0 or rounded >= 0.01:
        return f"{rounded:.2g}"
    mantissa, _, exponent = f"{rounded:.1e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def decibels(error: float) -> str:
    """A relative error in dB: how far it stands below the latent."""
    return "exact" if error == 0 else f"{-20 * math.log10(error):.0f} dB"


def step_name(trajectory: Trajectory, step: int) -> str:
    """A step by its number, from 1, and by the sigma that it leads to. step: from 0."""
    return f"step {step + 1}, sigma {float(trajectory.sigmas[step + 1]):.3g}"


def _left(trajectory: Trajectory) -> list[float]:
    return [worst_residual(trajectory, step) for step in range(trajectory.steps)]


def _worst_first(trajectory: Trajectory, steps: list[int]) -> list[int]:
    return sorted(steps, key=lambda step: worst_residual(trajectory, step), reverse=True)


def _named(trajectory: Trajectory, step: int) -> str:
    return f"{step_name(trajectory, step)}, residual {number(worst_residual(trajectory, step))}"


def _others(trajectory: Trajectory, open_steps: list[int]) -> str:
    """The worst steps after the one that `verdict` names, and how many more there are."""
    others = _worst_first(trajectory, open_steps)[1:]
    if not others:
        return ""
    names = "; ".join(_named(trajectory, step) for step in others[: NAMED - 1])
    more = f"; and {len(others) - NAMED + 1} more" if len(others) >= NAMED else ""
    return f"The next worst: {names}{more}."


def _items(trajectory: Trajectory) -> str:
    """Which item of a batch is worst, where some converged and some did not."""
    missed = {
        sample: max(trajectory.remaining(step, sample).relative for step in range(trajectory.steps))
        for sample in range(trajectory.batch)
        if not all(trajectory.converged(step, sample) for step in range(trajectory.steps))
    }
    if not missed or len(missed) == trajectory.batch:
        return ""
    worst = max(missed, key=lambda sample: missed[sample])
    return f"Of the batch's {trajectory.batch} items, {len(missed)} did not converge; the worst is item {worst + 1}."


def _cost(trajectory: Trajectory) -> str:
    steps, calls = trajectory.steps, trajectory.total_calls
    took = "1 step" if steps == 1 else f"{steps} steps"
    text = (
        f"{took} took {calls} model call{'' if calls == 1 else 's'}: {calls / steps:.3g} a step, where sampling takes 1"
    )
    each = sum(len(history) for step in trajectory.residuals for history in step) / (steps * trajectory.batch)
    if each < calls / steps:
        text += f" (each item ends when it has converged, after {each:.3g} a step on average)"
    return f"{text}."


def error_of(trajectory: Trajectory) -> float:
    """The latent's relative error, of the batch's worst item: measured, or else predicted; NaN where it is not known."""
    if trajectory.measured is not None:
        return max(trajectory.measured)
    if not corrected(trajectory):
        return math.nan
    return max(trajectory.predicted_error(sample) for sample in range(trajectory.batch))


def _expected(trajectory: Trajectory) -> str:
    worst = ", for the worst item of the batch" if trajectory.batch > 1 else ""
    error = error_of(trajectory)
    if trajectory.measured is not None:
        return (
            f"Checked: sampling the same steps with euler brought the latent back with a relative error of {number(error)} "
            f"({decibels(error)}){worst}."
        )
    if not corrected(trajectory):
        return (
            f"{trajectory.settings.method} looks once and takes what it sees: its error is not known, since the residual "
            f"(up to {number(max(_left(trajectory)))}) is seen before the only update."
        )
    if not error < 1:
        return "Sampling these steps will not bring the latent back: the error to expect is as large as the latent."
    return (
        f"Sampling the same steps with euler should bring the latent back with a relative error of about {number(error)} "
        f"({decibels(error)}){worst}."
    )


def _advice(trajectory: Trajectory, open_steps: list[int]) -> list[str]:
    """A line for each reason for which steps did not converge, that of the worst step first."""
    reasons: dict[str, list[int]] = {}
    for step in _worst_first(trajectory, open_steps):
        worst = max(range(trajectory.batch), key=lambda sample: trajectory.remaining(step, sample).relative)
        reasons.setdefault(_reason(trajectory, step, worst), []).append(step)
    lines = []
    for reason, steps in reasons.items():
        numbers = ", ".join(str(step + 1) for step in sorted(steps[:NAMED]))
        more = f" and {len(steps) - NAMED} more" if len(steps) > NAMED else ""
        where = f" (step{'s' if len(steps) > 1 else ''} {numbers}{more})" if len(reasons) > 1 else ""
        lines.append(f"What to change{where}: {_remedy(trajectory, reason, steps)}")
    return lines


def _reason(trajectory: Trajectory, step: int, sample: int) -> str:
    """Why an item of the batch did not converge in a step: a word for `_remedy`."""
    settings, history = trajectory.settings, trajectory.residuals[step][sample]
    if settings.method == "euler":
        return "euler"
    if _still_falling(history):
        return "iterations" if settings.calls is None or len(history) >= settings.iterations else "calls"
    if float(trajectory.sigmas[step]) == 0:
        return "zero"
    if _at_rounding(history):
        return "rounding"
    if settings.cfg > 1:
        return "guidance"
    if _ratio(trajectory, step) > 1.01 * LARGE_RATIO:  # the steps that were divided come near it
        return "ratio"
    return "method" if settings.method != "anderson" else "steps"


def _remedy(trajectory: Trajectory, reason: str, steps: list[int]) -> str:
    settings = trajectory.settings
    left = max(worst_residual(trajectory, step) for step in steps)
    ratio = max(_ratio(trajectory, step) for step in steps)
    solver = "" if settings.method == "anderson" else " Choose the method anderson, too."
    return {
        "euler": "euler corrects nothing. Choose the method anderson.",
        "iterations": f"the residual was still falling when the iterations were spent. Raise iterations above "
        f"{settings.iterations}.",
        "calls": f"the residual was still falling when the budget of model calls was spent. Raise calls above "
        f"{settings.calls}, or set it to 0.",
        "zero": "the last step of sampling, down to sigma 0, leaves out what the model takes for noise, and this picture has "
        "detail that it never makes. Set clean_at to lowest sigma; in a graph with FlipSigmas, take the 0 off the sigmas.",
        "rounding": f"the residual stopped falling at {number(left)}, which is about the model's own rounding. A tolerance "
        f"of {number(2 * left, digits=1)} is what it can do; in float32 it can do more.",
        "guidance": f"guidance makes steps hard to invert, and the residual stopped falling. Lower cfg from "
        f"{settings.cfg:g}: 1 is exact.{solver}",
        "ratio": f"sigma grows {ratio:.3g}-fold in one step, which may have no exact inverse. Lower largest_ratio to "
        f"{LARGE_RATIO:g}, or take the karras scheduler, whose steps are even.{solver}",
        "method": f"{settings.method} does not converge on this model. Choose the method anderson.",
        "steps": "the residual stopped falling, even with anderson. Take more steps, which makes each of them easier, or a "
        "history of 5.",
    }[reason]


def _still_falling(history: tuple[Residual, ...]) -> bool:
    """Whether more evaluations would have helped: one of the last two is the best, and it is no accident of the first."""
    sizes = [residual.absolute for residual in history]
    best = sizes.index(min(sizes))
    recent = best >= len(sizes) - 2 and (best > 0 or len(sizes) == 1)
    return recent and math.isfinite(sizes[-1]) and not stalled(history)


def _at_rounding(history: tuple[Residual, ...]) -> bool:
    """Whether the residual has come down to what half precision's rounding makes, and stays there."""
    best = min(residual.relative for residual in history)
    recent = [residual.relative for residual in history[-FLAT:]]
    return len(recent) == FLAT and best <= HALF_ROUNDING and max(recent) <= 5 * best


def _ratio(trajectory: Trajectory, step: int) -> float:
    low, high = trajectory.sigmas[step : step + 2].tolist()
    return high / low if low > 0 else math.inf
