"""The drift of a session as a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from textwrap import shorten
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from .drift import EditDrift, PartDrift
from .panels import (
    BLUE,
    VERMILION,
    as_picture,
    draw_line,
    draw_spectra,
    draw_spectrum_change,
    name_panel,
    no_closer_than,
    say,
)
from .spectrum import SpectrumCurve

_CHANNELS = (("red", "#cc3311"), ("green", "#228833"), ("blue", "#3355bb"))
_DETAIL = "#7b4fa3"
_LABELLED = 10  # edits whose labels fit under a panel; more are numbered
_LABEL_LENGTH = 28

Value = Callable[[EditDrift], float | None]


def plot_drift(
    rows: Sequence[EditDrift], curves: Sequence[SpectrumCurve] = (), path: Collection[int] | None = None
) -> Tensor:
    """The figure of `drift_figure` as a picture, (H, W, 3) float32 in 0..1."""
    return as_picture(drift_figure(rows, curves, path))


def drift_figure(
    rows: Sequence[EditDrift], curves: Sequence[SpectrumCurve] = (), path: Collection[int] | None = None
) -> Figure:
    """Panels over the edits (latent change, PSNR, SSIM, colours, detail, LPIPS or changed cells) and the spectra below.

    path: the numbers of the steps on the way to the current one, which lines join; edits of other branches are drawn pale.
    None: all. A panel with nothing to show says so.
    """
    figure = Figure(figsize=(13, 14), dpi=100, layout="constrained")
    grid = figure.subplots(4, 2)
    panels = [_Panel(axes, rows, path) for axes in grid[:3].flat]
    _draw_latent(panels[0])
    _draw_parts(panels[1], "PSNR", "dB", (("", "psnr", "-"),))
    _draw_parts(panels[2], "Structure", "1 is identical", (("SSIM", "ssim", "-"), ("MS-SSIM", "ms_ssim", ":")))
    _draw_colour(panels[3])
    _draw_detail(panels[4])
    _draw_perception(panels[5])
    draw_spectra(grid[3, 0], curves, _looks(len(curves)))
    draw_spectrum_change(grid[3, 1], curves, _looks(len(curves)))
    against = " and ".join(dict.fromkeys(row.total.compared_with for row in rows)) or "source"
    title = f"Drift after each edit, against the {against}{'; pale: on another branch' if panels[0].branches else ''}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=14)
    return figure


class _Panel:
    """One panel with the edits along it."""

    def __init__(self, axes: Axes, rows: Sequence[EditDrift], path: Collection[int] | None) -> None:
        self.axes = axes
        self.rows = rows
        self.on_path = [row for row in rows if path is None or row.number in path]
        self.branches = [row for row in rows if path is not None and row.number not in path]
        self.values: list[float] = []  # all that was measured

    def curve(self, value: Value, label: str, colour: str, style: str = "-") -> None:
        """A line over the edits, broken where there is no value; what is infinite stands on the upper edge."""
        for rows, line, alpha in ((self.on_path, style, 1.0), (self.branches, "none", 0.35)):
            figures = {row.number: value(row) for row in rows}
            fill = colour if style == "-" else "white"
            look: dict[str, Any] = {"color": colour, "alpha": alpha, "markersize": 4, "markerfacecolor": fill}
            drawn = draw_line(self.axes, figures, label, linestyle=line, marker="o", **look)
            self.values += drawn
            if any(map(math.isfinite, drawn)):
                label = ""  # once in the legend is enough

    def finish(self, title: str, unit: str, columns: int = 3) -> None:
        """Title, ticks and the legend beside the title. A panel that shows nothing, or nothing but one value, says so."""
        axes = self.axes
        name_panel(axes, title, unit, columns)
        if not self.values:
            say(axes, "nothing to measure" if self.rows else "no edit yet")
        elif all(math.isinf(value) for value in self.values):
            say(axes, "identical")
        numbers = [row.number for row in self.rows]
        if not numbers:
            axes.set_xticks([])
            return
        axes.set_xlim(min(numbers) - 0.5, max(numbers) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(numbers) <= _LABELLED:
            axes.set_xticks(numbers)

    def label_edits(self) -> None:
        """Name the edits along the panel, where there are not too many."""
        if 0 < len(self.rows) <= _LABELLED:
            labels = [f"{row.number}. {shorten(row.label, _LABEL_LENGTH, placeholder='…')}" for row in self.rows]
            self.axes.set_xticks([row.number for row in self.rows], labels, fontsize=8, rotation=20, ha="right")


def _draw_latent(panel: _Panel) -> None:
    panel.curve(lambda row: row.outside_mask_max_abs_latent_change, "each edit, outside its mask", BLUE)
    panel.curve(lambda row: row.total.latent_change_outside, "all edits, outside", "#555555", ":")
    panel.finish("Largest latent change", "latent units")
    if panel.values:
        panel.axes.set_ylim(bottom=0)
        if max(panel.values) == 0:
            say(panel.axes, "0: bit-identical")


def _part_value(part: str, figure: str) -> Value:
    def value(row: EditDrift) -> float | None:
        measured: PartDrift | None = getattr(row.total, part)
        return None if measured is None else getattr(measured, figure)

    return value


def _draw_parts(panel: _Panel, title: str, unit: str, figures: Sequence[tuple[str, str, str]]) -> None:
    """Curves of figures of both parts. figures: name for the legend, name in `PartDrift`, line style."""
    for name, figure, style in figures:
        for part, colour in (("outside", BLUE), ("inside", VERMILION)):
            panel.curve(_part_value(part, figure), f"{name} {part}".strip(), colour, style)
    panel.finish(title, unit, columns=4)


def _draw_colour(panel: _Panel) -> None:
    for part, style in (("outside", "-"), ("inside", ":")):
        for index, (name, colour) in enumerate(_CHANNELS):
            panel.curve(_shift_value(part, index), name if part == "outside" else "", colour, style)
        if panel.values:
            panel.axes.plot([], [], style, color="#555555", label=part)
    if panel.values:
        panel.axes.axhline(0, color="#888888", linewidth=0.8)
        no_closer_than(panel.axes, 1)
    panel.finish("Colour shift", "grey levels of 255", columns=5)


def _shift_value(part: str, channel: int) -> Value:
    def value(row: EditDrift) -> float | None:
        measured: PartDrift | None = getattr(row.total, part)
        return None if measured is None or measured.colour_shift is None else measured.colour_shift[channel]

    return value


def _draw_detail(panel: _Panel) -> None:
    panel.curve(lambda row: row.fine_detail, "energy above half Nyquist", _DETAIL)
    panel.finish("Fine detail of the whole picture", "grey levels²")
    if panel.values:
        panel.axes.set_ylim(bottom=0)
    panel.label_edits()


def _draw_perception(panel: _Panel) -> None:
    """LPIPS where it could be measured, and otherwise how much of the latent each edit changed."""
    panel.curve(lambda row: row.total.lpips, "LPIPS", _DETAIL)
    if panel.values:
        panel.finish("Perceptual distance of the whole picture", "0 is identical")
    else:
        panel.curve(lambda row: 100 * row.changed_cells, "against the step before it", _DETAIL)
        panel.finish("Cells that each edit changed", "%")
        if panel.values:
            panel.axes.set_ylim(-3, 103)
    panel.label_edits()


def _looks(count: int) -> list[dict[str, Any]]:
    """The look of each curve: what all are compared with dashed and black, then from dark to bright."""
    later = [
        {"color": colormaps["viridis"](place), "linewidth": 1.4} for place in np.linspace(0.15, 0.85, max(0, count - 1))
    ]
    return [{"color": "black", "linestyle": "--", "linewidth": 1.4}, *later] if count else []
