"""The RPiAE benchmark as a picture: where edits moved the meaning, and where noise did."""

from __future__ import annotations

from collections.abc import Callable

import torch
from _reed_sheet import write
from _rpiae_drift import Pairs
from matplotlib.figure import Figure
from reedit.models.metrics.panels import as_picture
from reedit.models.metrics.semantic_drift import patch_drift
from torch import Tensor

SHOWN = 4  # edits, one of each kind


def draw_heat_maps(pairs: Pairs, noised: Tensor, tokens: Callable[[Tensor], Tensor]) -> None:
    """A row for each of some edits: before, after, its drift; before with noise, and its drift. One scale for all."""
    before, after, worn = (part[:SHOWN] for part in (pairs.before, pairs.after, noised))
    with torch.inference_mode():
        seen, edited, worn_out = (tokens(part) for part in (before, after, worn))
    side = round(seen.shape[1] ** 0.5)
    drifts = [patch_drift(seen, other).unflatten(1, (side, side)) for other in (edited, worn_out)]
    most = float(max(drift.max() for drift in drifts))
    figure = Figure(figsize=(11, 2.3 * SHOWN), dpi=100, layout="constrained")
    panels = figure.subplots(SHOWN, 5)
    titles = ("before", "after the edit", "drift by the edit", "noise of the same MSE", "drift by the noise")
    for row, axes in enumerate(panels):
        shown = (before[row], after[row], drifts[0][row], worn[row].clamp(0, 1), drifts[1][row])
        for one, title, picture in zip(axes, titles, shown, strict=True):
            one.set_axis_off()
            if row == 0:
                one.set_title(title, fontsize=10)
            if picture.ndim == 3:
                one.imshow(picture.movedim(0, -1).numpy())
            else:
                heat = one.imshow(picture.numpy(), cmap="inferno", vmin=0, vmax=most)
    figure.colorbar(heat, ax=panels, label="1 - cosine", shrink=0.5)
    write("rpiae_drift", as_picture(figure))
