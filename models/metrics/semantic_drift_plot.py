"""A picture of where the meaning of a picture moved."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from .panels import as_picture
from .semantic_drift import SemanticDrift

LEAST_SCALE = 0.1  # the colours' range: below it, what moved is hardly more than noise, and is to look like nothing


def plot_semantic_drift(
    source: Tensor, edited: Tensor, drift: Tensor, found: SemanticDrift, mask: Tensor | None = None
) -> Tensor:
    """Source, edit and heat map side by side, (H, W, 3) float32 in 0..1.

    source, edited: (H, W, 3) in 0..1; drift: (rows, columns) of them; mask: (H, W) in 0..1, drawn as an outline.
    """
    height, width = edited.shape[:2]
    figure = Figure(figsize=(13, 1.0 + 3.9 * min(2.0, height / width)), dpi=100, layout="constrained")
    before, after, heat = figure.subplots(1, 3)
    before.imshow(_array(source.clamp(0, 1)))
    before.set_title("source")
    after.imshow(_array(edited.clamp(0, 1)))
    after.set_title("edited")
    heat.imshow(_array(edited.clamp(0, 1).mean(-1)), cmap="gray", vmin=-0.3, vmax=1.3)
    scale = max(LEAST_SCALE, found.most)
    shown = heat.imshow(
        _array(drift), cmap="inferno", vmin=0, vmax=scale, alpha=0.75, extent=(-0.5, width - 0.5, height - 0.5, -0.5)
    )
    figure.colorbar(shown, ax=heat, label="1 - cosine")
    said = f"mean {found.drift:.3f}"
    if mask is not None:
        outside = "" if found.outside is None else f", outside {found.outside:.3f}"
        said = f"inside {found.drift:.3f}{outside}"
        if 0 < float(mask.mean()) < 1:
            for axes in (after, heat):
                axes.contour(_array(mask), levels=[0.5], colors="#00c8ff", linewidths=1.5)
    heat.set_title(f"semantic drift: {said}")
    for axes in (before, after, heat):
        axes.set_axis_off()
    return as_picture(figure)


def _array(picture: Tensor) -> np.ndarray:
    return picture.float().cpu().numpy()
