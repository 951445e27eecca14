"""The eps-VAE benchmark as pictures: quality over the steps at each compression, drift over the passes, a contact sheet."""

from __future__ import annotations

from typing import Any

import torch
from _epsilon_arms import STEPS
from _epsilon_quality import DETERMINISTIC, FRECHET, SHARPNESS, steps_name
from _reed_sheet import write
from matplotlib.figure import Figure
from reedit.models.metrics.panels import as_picture, draw_line, name_panel
from reedit.models.metrics.timeline import contact_strip
from torch import Tensor

PANELS = {
    "PSNR, dB": "higher is nearer",
    "SSIM": "1 is identical",
    FRECHET: "lower is likelier",
    SHARPNESS: "1 is the original's",
}
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito's
PICTURES_SHOWN, ENLARGED = 4, 2


def draw_quality(tables: dict[str, dict[str, Any]]) -> None:
    """tables: by compression, the figures by decoder. The deterministic decoder is a dashed line."""
    figure = Figure(figsize=(13, 8), dpi=100, layout="constrained")
    panels = figure.subplots(2, 2).flatten()
    for axes, (measure, unit) in zip(panels, PANELS.items(), strict=True):
        for colour, (title, figures) in zip(COLOURS, tables.items(), strict=False):
            values = {steps: figures[steps_name(steps)][measure] for steps in STEPS}
            draw_line(axes, values, f"eps-VAE, {title}", color=colour, linewidth=2, marker="o")
            axes.axhline(figures[DETERMINISTIC][measure], color=colour, linestyle="--", label=f"deterministic, {title}")
        axes.set_xlabel("steps", fontsize=9)
        name_panel(axes, measure, unit, 1)
        axes.get_legend().remove()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle("Decoding as denoising", x=0.01, ha="left", fontsize=14)
    write("epsilon", as_picture(figure))


def draw_drift(figures: dict[str, Any]) -> None:
    figure = Figure(figsize=(13, 5), dpi=100, layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, measure in zip(panels, ("PSNR, dB", "Fréchet distance"), strict=True):
        for colour, (name, rows) in zip(COLOURS, figures.items(), strict=True):
            draw_line(axes, {int(number): row[measure] for number, row in rows.items()}, name, color=colour, marker="o")
        axes.set_xlabel("pass", fontsize=9)
        name_panel(axes, measure, "against the original", 1)
        axes.get_legend().remove()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle("Encoding and decoding again and again", x=0.01, ha="left", fontsize=14)
    write("epsilon_drift", as_picture(figure))


def draw_sheet(name: str, made: dict[str, Tensor]) -> None:
    """A row for each of some pictures: the original, and what each decoder made of its latent."""
    shown, labels = [], []
    for number in range(PICTURES_SHOWN):
        original = made["original"][number]
        for title, pictures in made.items():
            error = float((pictures[number] - original).square().mean())
            labels.append(title if not error else f"{title}: {-10 * torch.tensor(error).log10():.1f} dB")
            picture = pictures[number].movedim(0, -1)
            shown.append(picture.repeat_interleave(ENLARGED, 0).repeat_interleave(ENLARGED, 1))
    write(name, contact_strip(shown, labels, len(made)))
