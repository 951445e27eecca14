"""The inversion benchmark as a picture."""

from __future__ import annotations

from _report import FOLDER
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLOURS = ("#999999", "#e69f00", "#56b4e9", "#cc79a7", "#0072b2")  # Okabe and Ito's palette


def draw(by_schedule: dict[str, list[float]], by_steps: dict[str, dict[str, list[float]]], extents: list[str]) -> None:
    """Write inversion.png. Values are the relative latent error in dB.

    by_schedule: schedule -> FlipSigmas, plain, ours. by_steps: guidance -> method -> one value for each of `extents`.
    """
    figure = Figure(figsize=(14, 9), dpi=100, layout="constrained")
    top, *below = figure.subplot_mosaic([["schedules"] * 2, list(by_steps)]).values()
    columns = zip(*by_schedule.values(), strict=True)
    names = ("FlipSigmas and euler", "plain iteration", "ReEdit (anderson)")
    chosen = (COLOURS[0], COLOURS[1], COLOURS[-1])
    _bars(top, list(by_schedule), dict(zip(names, map(list, columns), strict=True)), chosen)
    top.set_title("Invert, then sample back with the host's euler: 100 model calls in all, guidance 1, ten steps")
    for axes, (title, rows) in zip(below, by_steps.items(), strict=True):
        _bars(axes, extents, rows, COLOURS)
        axes.set_title(f"karras, {title}: 100 model calls in all")
    FigureCanvasAgg(figure).print_png(FOLDER / "inversion.png")


def _bars(axes, groups: list[str], rows: dict[str, list[float]], colours: tuple[str, ...]) -> None:
    width = 0.8 / len(rows)
    for number, (name, values) in enumerate(rows.items()):
        places = [group + (number - (len(rows) - 1) / 2) * width for group in range(len(values))]
        axes.bar(places, values, width, label=name, color=colours[number % len(colours)])
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylabel("relative latent error, dB (lower is better)")
    axes.invert_yaxis()
    axes.legend(fontsize=8)
