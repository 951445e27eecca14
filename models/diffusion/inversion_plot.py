"""How exact an inversion is, as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from .inversion_text import corrected, number, verdict, worst_residual
from .trajectory import Trajectory

WARNING, CALM = "#d55e00", "#0072b2"  # Okabe and Ito's palette, which colour-blind people can tell apart
CALM_BAR, WARNING_BAR, WORDS = "#b8cfdf", "#f6d3b5", "#555555"
LOWEST, HIGHEST = 1e-9, 100.0  # what a logarithmic axis shows of 0 and of infinity
LABELLED_LINES = 5  # steps that did not converge and whose lines are named; more would lie on each other
LABELLED_TICKS = 16


def plot_inversion(trajectory: Trajectory) -> Tensor:
    """The figure of `inversion_figure` as a picture, (H, W, 3) float32 in 0..1, 1000 pixels wide."""
    canvas = FigureCanvasAgg(inversion_figure(trajectory))
    canvas.draw()
    return torch.from_numpy(np.asarray(canvas.buffer_rgba())[..., :3].astype(np.float32) / 255)


def inversion_figure(trajectory: Trajectory) -> Figure:
    """Panels, one below the other: residual over model call; calls and what is left of each step; the error to expect.

    Residuals are relative, of the worst item of the batch, on logarithmic axes that end at 1e-9 (0 stands there) and 100
    (infinity). What did not converge has the colour WARNING, which nothing else has.
    """
    figure = Figure(figsize=(10, 11.5), dpi=100, layout=ConstrainedLayoutEngine(hspace=0.04))
    iterations, steps, errors = figure.subplots(3, 1, height_ratios=(3, 3, 2))
    missed = set(trajectory.open_steps())
    _draw_iterations(figure, iterations, trajectory, missed)
    _draw_steps(steps, trajectory, missed)
    _draw_errors(errors, trajectory)
    colour = WARNING if missed else "black"
    figure.suptitle(verdict(trajectory), x=0.01, ha="left", fontsize=14, color=colour)
    return figure


def _draw_iterations(figure: Figure, axes: Axes, trajectory: Trajectory, missed: set[int]) -> None:
    """A line for each step, in the colour of its sigma; those that did not converge are thick, marked and named."""
    sigmas = trajectory.sigmas[1:].tolist()
    norm = LogNorm(min(sigmas) / 1.05, max(sigmas) * 1.05)
    palette = colormaps["viridis"]
    every: list[float] = []
    for step in sorted(range(trajectory.steps), key=lambda step: step in missed):  # the thick ones on top
        residuals = [_worst_at(trajectory, step, call) for call in range(trajectory.calls(step))]
        look: dict[str, Any] = {"linewidth": 1.1, "alpha": 0.6, "marker": ".", "markersize": 5}
        if step in missed:
            look = {
                "linewidth": 2.2,
                "marker": "o",
                "markersize": 5,
                "markeredgecolor": WARNING,
                "markeredgewidth": 1.5,
            }
        axes.plot(range(1, len(residuals) + 1), shown(residuals), color=palette(norm(sigmas[step])), **look)
        every += residuals
    _name(axes, "Residual at each model call of a step", every, trajectory)
    most = max(trajectory.calls(step) for step in range(trajectory.steps))
    _count(axes, range(1, most + 1), "model call within its step")
    axes.set_xlim(0.6, most + max(0.6, 0.1 * most))
    _name_lines(axes, trajectory, missed)
    bar = figure.colorbar(ScalarMappable(norm, palette), cax=axes.inset_axes((1.02, 0, 0.015, 1)))
    _label_sigmas(bar, sigmas)


def _worst_at(trajectory: Trajectory, step: int, call: int) -> float:
    """The relative residual of the worst item at a call; an item that has ended stays at its last."""
    return max(history[min(call, len(history) - 1)].relative for history in trajectory.residuals[step])


def _name_lines(axes: Axes, trajectory: Trajectory, missed: set[int]) -> None:
    """The number of each step that did not converge, of the worst only, at its line's end and clear of the one above."""
    worst = sorted(missed, key=lambda step: worst_residual(trajectory, step), reverse=True)[:LABELLED_LINES]
    ends = {step: shown([_worst_at(trajectory, step, trajectory.calls(step) - 1)])[0] for step in worst}
    bottom, top = np.log(axes.get_ylim())
    (left, right), place = axes.get_xlim(), 1.0
    for step in sorted(worst, key=lambda step: ends[step], reverse=True):
        place = min(place - 0.05, (math.log(ends[step]) - bottom) / (top - bottom))
        axes.annotate(
            f"step {step + 1}",
            (trajectory.calls(step), ends[step]),
            (trajectory.calls(step) + 0.025 * (right - left), place),
            textcoords=axes.get_xaxis_transform(),
            va="center",
            color=WARNING,
            arrowprops={"arrowstyle": "-", "color": WARNING, "linewidth": 0.8, "relpos": (0, 0.5), "shrinkA": 0},
        )


def _label_sigmas(bar: Colorbar, sigmas: Sequence[float]) -> None:
    places = sorted({sigmas[round(place * (len(sigmas) - 1))] for place in np.linspace(0, 1, 6)})
    bar.set_ticks(places, labels=[f"{place:.3g}" for place in places])
    bar.minorticks_off()
    bar.set_label("sigma of the step")


def _draw_steps(axes: Axes, trajectory: Trajectory, missed: set[int]) -> None:
    """Bars of model calls, and over them, on an axis of their own, what is left of the residual."""
    numbers = np.arange(1, trajectory.steps + 1)
    warned = np.array([step in missed for step in range(trajectory.steps)])
    calls = [trajectory.calls(step) for step in range(trajectory.steps)]
    axes.bar(numbers, calls, 0.7, color=np.where(warned, WARNING_BAR, CALM_BAR))
    axes.set_ylabel("model calls")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_ylim(0, 1.15 * max(calls))
    left = axes.twinx()
    residuals = [worst_residual(trajectory, step) for step in range(trajectory.steps)]
    for chosen, colour, label in ((~warned, CALM, "converged"), (warned, WARNING, "did not converge")):
        if chosen.any():
            left.plot(numbers[chosen], np.array(shown(residuals))[chosen], "o", color=colour, markersize=6, label=label)
    _name(left, "Each step: model calls (bars), residual left (points)", residuals, trajectory)
    _count(axes, range(1, trajectory.steps + 1), "step, and its sigma below")
    axes.set_xticks(
        ticks := axes.get_xticks(), [f"{tick}\n{trajectory.sigmas[tick]:.2g}" for tick in ticks], fontsize=9
    )


def _draw_errors(axes: Axes, trajectory: Trajectory) -> None:
    """The error of the latent that sampling will bring back: for each item of a batch, or how that of one adds up."""
    if not corrected(trajectory) and trajectory.measured is None:
        axes.set_title("Error of the latent to expect", loc="left", fontsize=11)
        axes.text(0.5, 0.5, "not known: uncorrected", ha="center", va="center", transform=axes.transAxes, color=WORDS)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    if trajectory.batch == 1:
        errors = list(accumulate(trajectory.step_errors(0), math.hypot))
        numbers = range(1, trajectory.steps + 1)
        title, name = "Error of the latent to expect, added up over the steps", "step"
        axes.plot(numbers, shown(errors), color=CALM, marker=".", linewidth=1.5)
    else:
        errors = [trajectory.predicted_error(sample) for sample in range(trajectory.batch)]
        numbers = range(1, trajectory.batch + 1)
        title, name = "Error of the latent to expect, of each item of the batch", "item of the batch"
        colours = [CALM if _converged(trajectory, sample) else WARNING for sample in range(trajectory.batch)]
        axes.bar(numbers, shown(errors), 0.7, color=colours)
    found = f"{'worst' if trajectory.batch > 1 else 'total'}: {number(max(errors))}"
    if trajectory.measured is not None:
        where = numbers if trajectory.batch > 1 else [trajectory.steps]
        axes.plot(where, shown(trajectory.measured), "D", color="black", markersize=5)
        errors = [*errors, *trajectory.measured]
        found += f"; measured (black): {number(max(trajectory.measured))}"
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_title(found, loc="right", fontsize=11)
    _scale(axes, errors)
    axes.set_ylabel("relative error")
    _count(axes, numbers, name)


def _converged(trajectory: Trajectory, sample: int) -> bool:
    return all(trajectory.converged(step, sample) for step in range(trajectory.steps))


def _name(axes: Axes, title: str, residuals: Sequence[float], trajectory: Trajectory) -> None:
    """Title, the axis of the residuals and the line of the tolerance, in a panel that shows residuals."""
    limit = trajectory.tolerance
    axes.axhline(limit, color="black", linestyle="--", linewidth=1.2, label=f"tolerance {number(limit)}")
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_ylabel("relative residual")
    _scale(axes, [limit, *residuals])
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1, 1),
        borderaxespad=0.1,
        frameon=False,
        ncols=4,
        fontsize=9,
        handlelength=1.8,
    )


def _count(axes: Axes, numbers: Sequence[int], name: str) -> None:
    """An axis of whole numbers from 1, thinned out where there are many."""
    axes.set_xticks(list(numbers)[:: math.ceil(len(numbers) / LABELLED_TICKS)])
    axes.set_xlim(numbers[0] - 0.6, numbers[-1] + 0.6)
    axes.set_xlabel(name)


def _scale(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis over all the values, with room above and below, and two decades at least."""
    low, high = min(shown(values)), max(shown(values))
    axes.set_yscale("log")
    axes.set_ylim(min(low, high / 20) / 2.5, high * 2.5)
    axes.grid(alpha=0.3)


def shown(values: Sequence[float]) -> list[float]:
    """The values within what a logarithmic axis can show."""
    return [min(max(value, LOWEST), HIGHEST) for value in values]
