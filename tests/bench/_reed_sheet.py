"""The REED benchmark as pictures: curves over the passes of each arm, and a contact sheet."""

from __future__ import annotations

from io import BytesIO

from _reed_arms import ARMS
from _reed_chain import Case, Result, shown_passes
from _reed_figures import finite_mean
from _reed_pictures import pictures_of
from _report import FOLDER
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from reedit.models.files import write_beside
from reedit.models.metrics.panels import as_picture, draw_line, name_panel
from reedit.models.metrics.round_trip import measure_originals
from reedit.models.metrics.timeline import contact_strip
from reedit.models.metrics.timeline_thumbnail import to_image
from torch import Tensor

# Okabe and Ito's palette, which colour-blind people can tell apart.
PALETTE = ("#000000", "#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#d55e00", "#0072b2")
COLOURS = dict(zip(ARMS, PALETTE, strict=True))
PANELS = {
    "psnr": ("PSNR, against the original", "dB"),
    "ssim": ("SSIM, against the original", "1 is identical"),
    "step_psnr": ("PSNR, against the pass before", "dB: rises as it settles"),
    "fine_detail": ("Energy above half Nyquist", "grey levels²"),
}
PICTURES_SHOWN = 3  # on a sheet


def write(name: str, picture: Tensor) -> None:
    png = BytesIO()
    to_image(picture).save(png, "PNG")
    write_beside(FOLDER / f"{name}.png", png.getvalue())


def draw_curves(name: str, title: str, results: dict[Case, Result], seed: int) -> None:
    """The mean of the pictures over the passes. results: of the arms, on the same pictures."""
    figure = Figure(figsize=(13, 8), dpi=100, layout="constrained")
    panels = figure.subplots(2, 2).flatten()
    for axes, (measure, (heading, unit)) in zip(panels, PANELS.items(), strict=True):
        for case, result in results.items():
            values = {number: finite_mean(column) for number, column in enumerate(result[measure].T, 1)}
            draw_line(axes, values, case.arm, color=COLOURS[case.arm], linewidth=2)
        axes.set_xlabel("pass", fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        name_panel(axes, heading, unit, 1)
        axes.get_legend().remove()
    case, result = next(iter(results.items()))
    original = measure_originals(pictures_of(case.kind, len(result["psnr"]), seed)).fine_detail
    panels[3].axhline(original, color="black", linestyle="--", linewidth=1.2, label="original")
    panels[3].set_ylim(bottom=0)
    handles, labels = panels[3].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=14)
    write(name, as_picture(figure))


def draw_sheet(name: str, results: dict[Case, Result], seed: int, enlarged: int) -> None:
    """A row for each arm; for each of some pictures the original, and what it was after the passes shown."""
    first, result = next(iter(results.items()))
    passes = shown_passes(result["psnr"].shape[1])
    originals = pictures_of(first.kind, min(PICTURES_SHOWN, len(result["psnr"])), seed)
    shown, labels = [], []
    for case, result in results.items():
        for index, original in enumerate(originals):
            shown.append(original)
            labels.append(f"original; {case.arm}:")
            for place, number in enumerate(passes):
                shown.append(result["pictures"][index, place].float() / 255)
                labels.append(f"pass {number}: {float(result['psnr'][index, number - 1]):.1f} dB")
    shown = [picture.repeat_interleave(enlarged, 0).repeat_interleave(enlarged, 1) for picture in shown]
    write(name, contact_strip(shown, labels, len(originals) * (1 + len(passes))))
