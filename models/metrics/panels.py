"""What the figures of this folder have in common: panels, lines over whole numbers, spectra, colours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from .spectrum import SpectrumCurve

BLUE, VERMILION = "#0072b2", "#d55e00"  # Okabe and Ito's palette, which colour-blind people can tell apart


def as_picture(figure: Figure) -> Tensor:
    """A figure as a picture, (H, W, 3) float32 in 0..1."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return torch.from_numpy(np.asarray(canvas.buffer_rgba())[..., :3].astype(np.float32) / 255)


def draw_line(
    axes: Axes, figures: Mapping[int, float | None], label: str, linestyle: str = "-", **look: Any
) -> list[float]:
    """A line over whole numbers, broken where there is no value; what is infinite stands on the upper edge, "identical".

    Returns the values that there are.
    """
    known = {number: value for number, value in figures.items() if value is not None and value == value}
    finite = {number: value for number, value in known.items() if math.isfinite(value)}
    endless = [number for number in known if number not in finite]
    if finite:
        heights = [finite.get(number, math.nan) for number in figures]
        axes.plot(list(figures), heights, linestyle=linestyle, label=label, **look)
    if endless:
        upper_edge = axes.get_xaxis_transform()
        look = {**look, "marker": "^", "linestyle": "none"}
        axes.plot(endless, [1] * len(endless), clip_on=False, transform=upper_edge, label="identical", **look)
    return list(known.values())


def name_panel(axes: Axes, title: str, unit: str, columns: int) -> None:
    """Title, unit, grid, and the legend beside the title in so many columns."""
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_ylabel(unit)
    axes.grid(alpha=0.3)
    named = {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True) if label}
    if named:
        above: dict[str, Any] = {
            "loc": "lower right",
            "bbox_to_anchor": (1, 0.99),
            "borderaxespad": 0.1,
            "frameon": False,
        }
        axes.legend(named.values(), named.keys(), ncols=columns, fontsize=8, columnspacing=1, handlelength=1.8, **above)


def no_closer_than(axes: Axes, reach: float) -> None:
    """Show at least ±reach, so that rounding does not look like drift."""
    lower, upper = axes.get_ylim()
    axes.set_ylim(min(lower, -reach), max(upper, reach))


def say(axes: Axes, words: str) -> None:
    """Words in the middle of a panel, in place of a scale."""
    axes.text(0.5, 0.5, words, ha="center", va="center", transform=axes.transAxes, color="#555555")
    axes.set_yticks([])


def draw_spectra(axes: Axes, curves: Sequence[SpectrumCurve], looks: Sequence[Mapping[str, Any]]) -> None:
    """Power over frequency. looks: of each curve."""
    for curve, look in zip(curves, looks, strict=True):
        axes.plot(curve.frequencies.numpy(), curve.power.numpy(), label=curve.name, **look)
    if curves:
        axes.set_yscale("log", nonpositive="mask")
    _finish_spectrum(axes, "Spectrum", "power, grey levels²", curves)


def draw_spectrum_change(axes: Axes, curves: Sequence[SpectrumCurve], looks: Sequence[Mapping[str, Any]]) -> None:
    """Each later spectrum over the first, in dB: curves that lie on each other in `draw_spectra` come apart here."""
    for curve, look in list(zip(curves, looks, strict=True))[1:]:
        if curve.power.shape == curves[0].power.shape:
            change = 10 * (curve.power / curves[0].power).log10()
            axes.plot(curve.frequencies.numpy(), change.numpy(), label=curve.name, **look)
    if axes.lines:
        axes.axhline(0, color="black", linestyle="--", linewidth=1)
        no_closer_than(axes, 1)
    _finish_spectrum(axes, "Change of the spectrum", "dB: below 0 lost, above 0 added", axes.lines)


def _finish_spectrum(axes: Axes, title: str, unit: str, drawn: Sequence[object]) -> None:
    name_panel(axes, title, unit, 5)
    axes.set_xlim(0, 0.5)
    axes.set_xlabel("frequency, cycles per pixel", fontsize=9)
    if not drawn:
        say(axes, "nothing to measure")
