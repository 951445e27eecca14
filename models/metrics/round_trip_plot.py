"""The round-trip test as pictures: the curves over the passes, and a contact sheet of some of the passes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from .panels import BLUE, VERMILION, as_picture, draw_line, draw_spectra, draw_spectrum_change, name_panel, say
from .round_trip import Figures, RoundTrip, mean_spectrum, measure_originals
from .timeline import contact_strip
from .timeline_thumbnail import make_thumbnail

_COLOURS = (BLUE, VERMILION)
_THIN_LINES = 12  # pictures whose own lines are drawn beside the mean; more would be a cloud
_MARKED = 30  # passes; the marks of more would lie on each other

Value = Callable[[Figures], float | None]


def plot_round_trips(trips: Sequence[RoundTrip]) -> Tensor:
    """The figure of `round_trip_figure` as a picture, (H, W, 3) float32 in 0..1."""
    return as_picture(round_trip_figure(trips))


def round_trip_figure(trips: Sequence[RoundTrip]) -> Figure:
    """Panels over the passes (PSNR, SSIM, change from pass to pass, fine detail) and the spectra below.

    trips: of one or two VAEs, on the same pictures, with the same number of passes, at least one. Thick lines are means,
    thin ones pictures.
    """
    figure = Figure(figsize=(13, 11), dpi=100, layout="constrained")
    grid = figure.subplots(3, 2)
    originals = trips[0].originals
    _draw_panel(grid[0, 0], trips, lambda one: one.psnr, "PSNR, against the original", "dB")
    _draw_panel(grid[0, 1], trips, lambda one: one.ssim, "SSIM, against the original", "1 is identical")
    _draw_panel(
        grid[1, 0], trips, lambda one: one.step_psnr, "PSNR, against the pass before", "dB: rises as it settles"
    )
    original = measure_originals(originals).fine_detail
    grid[1, 1].axhline(original, color="black", linestyle="--", linewidth=1.2, label="original")
    _draw_panel(grid[1, 1], trips, lambda one: one.fine_detail, "Energy above half Nyquist", "grey levels²")
    grid[1, 1].set_ylim(bottom=0)
    curves = [mean_spectrum("original", originals)]
    curves += [mean_spectrum(f"{trip.name}, pass {len(trip.figures)}", trip.last) for trip in trips]
    looks: list[dict[str, Any]] = [{"color": "black", "linestyle": "--", "linewidth": 1.2}]
    looks += [{"color": colour, "linewidth": 1.6} for colour in _COLOURS[: len(trips)]]
    draw_spectra(grid[2, 0], curves, looks)
    draw_spectrum_change(grid[2, 1], curves, looks)
    figure.suptitle(_title(trips), x=0.01, ha="left", fontsize=14)
    return figure


def _title(trips: Sequence[RoundTrip]) -> str:
    batch, passes = len(trips[0].originals), len(trips[0].figures)
    times = "once" if passes == 1 else f"{passes} times"
    what = "a picture" if batch == 1 else f"{batch} pictures (thick: the mean)"
    return f"Encoding and decoding {what} {times}"


def _draw_panel(axes: Axes, trips: Sequence[RoundTrip], value: Value, title: str, unit: str) -> None:
    """A figure over the passes: the mean of each VAE, and thin lines for single pictures where there are not too many."""
    values: list[float] = []
    most = len(trips[0].figures)
    for trip, colour in zip(trips, _COLOURS, strict=False):
        if 1 < len(trip.originals) <= _THIN_LINES:
            for of_one in zip(*trip.figures, strict=True):
                heights = {number: value(one) for number, one in enumerate(of_one, 1)}
                draw_line(axes, heights, "", color=colour, linewidth=0.7, alpha=0.45)
        means = {number: value(mean) for number, mean in enumerate(trip.means, 1)}
        mark = "o" if most <= _MARKED else ""
        values += draw_line(axes, means, trip.name, color=colour, linewidth=2, marker=mark, markersize=4)
    name_panel(axes, title, unit, 4)
    axes.set_xlim(0.5, most + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel("pass", fontsize=9)
    if not values:
        say(axes, "nothing to measure: SSIM's window is larger than the pictures")
    elif all(map(math.isinf, values)):
        say(axes, "identical")


def round_trip_sheet(trips: Sequence[RoundTrip], thumbnail: int = 256) -> Tensor:
    """The contact sheet, (height, width, 3) float32 in 0..1: a row for each picture and VAE, first the original.

    trips: as for `round_trip_figure`. The columns are the passes that are in `shown`. thumbnail: the longer side of a
    picture, in pixels.
    """
    passes = sorted(trips[0].shown)
    pictures, labels = [], []
    for index in range(len(trips[0].shown[passes[0]])):
        for trip in trips:
            which = "" if len(trip.originals) == 1 else f"picture {index + 1}, "
            pictures.append(trip.originals[index])
            labels.append(f"{which}original")
            for number in passes:
                pictures.append(trip.shown[number][index])
                labels.append(f"{which}{trip.name}, pass {number}: {_psnr_text(trip.figures[number - 1][index].psnr)}")
    thumbnails = [np.asarray(make_thumbnail(picture, thumbnail), np.float32) / 255 for picture in pictures]
    return contact_strip([torch.from_numpy(picture) for picture in thumbnails], labels, len(passes) + 1)


def _psnr_text(psnr: float) -> str:
    return "identical" if math.isinf(psnr) else f"{psnr:.1f} dB"
