"""The drift of a session as a picture."""

from __future__ import annotations

import math
from textwrap import shorten

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from .drift import EditDrift


def plot_drift(rows: list[EditDrift]) -> Tensor:
    """Three curves over the edits: latent change outside the mask, PSNR where nothing was edited, fine detail.

    Returns (H, W, 3) float32 in 0..1. A curve with nothing to show says so.
    """
    figure = Figure(figsize=(9, 7.5), dpi=100, layout="constrained")
    panels = (
        (
            "largest latent change outside the mask",
            "latent units",
            [row.outside_mask_max_abs_latent_change for row in rows],
        ),
        ("picture where no edit was allowed, against the source", "PSNR, dB", [row.untouched_psnr for row in rows]),
        ("fine detail (energy above half Nyquist)", "grey levels²", [row.fine_detail for row in rows]),
    )
    numbers = [row.number for row in rows]
    for axes, (title, unit, values) in zip(figure.subplots(3, 1, sharex=True), panels, strict=True):
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_ylabel(unit)
        axes.grid(alpha=0.3)
        shown = [(number, value) for number, value in zip(numbers, values, strict=True) if value is not None]
        finite = [(number, value) for number, value in shown if math.isfinite(value)]
        if finite:
            axes.plot(*zip(*finite, strict=True), marker="o")
        else:
            axes.text(0.5, 0.5, "unchanged" if shown else "nothing to measure", ha="center", transform=axes.transAxes)
    labels = [f"{row.number}. {shorten(row.label, 28, placeholder='…')}" for row in rows]
    axes.set_xticks(numbers or [0], labels or ["no edit yet"], fontsize=8, rotation=25, ha="right")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return torch.from_numpy(np.asarray(canvas.buffer_rgba())[..., :3].astype(np.float32) / 255)
