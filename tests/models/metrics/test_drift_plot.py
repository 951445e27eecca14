"""The figure: what is in it is told by what changes when the numbers do."""

import math

import pytest
import torch
from reedit.models.metrics.drift import EditDrift, PartDrift, StepDrift
from reedit.models.metrics.drift_plot import drift_figure, plot_drift
from reedit.models.metrics.spectrum import SpectrumCurve


def row(number: int, psnr: float | None = 30.0, lpips: float | None = None) -> EditDrift:
    part = PartDrift(0.5, psnr, 0.9, None, (1.0, -2.0, 0.5))
    total = StepDrift("source", part, part, lpips, 0.0)
    return EditDrift(number, f"edit {number} of a session", "a tool", 0, 0.1, 0.5, 0.0, psnr, 20.0, total)


@pytest.mark.parametrize("edits", [0, 1, 3, 25, 100])
@pytest.mark.filterwarnings("error")  # matplotlib warns when a figure cannot be laid out
def test_sessions_of_any_length_are_laid_out(edits):
    curve = SpectrumCurve("source", torch.linspace(0.1, 0.5, 8), torch.rand(8))
    plot = plot_drift([row(number + 1) for number in range(edits)], [curve, curve])
    assert plot.ndim == 3 and plot.shape[-1] == 3 and plot.dtype == torch.float32
    assert 0 <= float(plot.min()) < float(plot.max()) <= 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("psnr", [math.inf, None, math.nan])
def test_what_is_endless_or_not_measured_can_be_drawn(psnr):
    assert not torch.equal(plot_drift([row(1, psnr), row(2)]), plot_drift([row(1), row(2)]))
    plot_drift([row(1, psnr)])


def drawn(figure, title: str) -> list[tuple[list[float], list[float]]]:
    """The points of each curve with more than one place in a panel."""
    (axes,) = [axes for axes in figure.axes if axes.get_title(loc="left") == title]
    lines = [line for line in axes.lines if line.get_marker() != "None" and len(line.get_xdata())]
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in lines]


def test_the_panels_show_the_figures():
    rows = [row(1), row(2, 20.0), row(3, math.inf)]
    figure = drift_figure(rows)
    (numbers, heights), *_ = drawn(figure, "PSNR")
    assert numbers == [1, 2, 3] and heights[:2] == [30.0, 20.0] and math.isnan(heights[2])
    assert ([3], [1]) in drawn(figure, "PSNR")  # on the upper edge
    assert [heights[0] for _, heights in drawn(figure, "Colour shift")] == [1.0, -2.0, 0.5] * 2
    assert [heights for _, heights in drawn(figure, "Cells that each edit changed")] == [[10.0] * 3]
    perception = drift_figure([row(1, lpips=0.2)])
    assert drawn(perception, "Perceptual distance of the whole picture") == [([1], [0.2])]


def test_edits_of_another_branch_are_points_apart():
    figure = drift_figure([row(1), row(2, 20.0), row(3, 10.0)], path=(0, 1, 3))
    for way, branch in zip(*[iter(drawn(figure, "PSNR"))] * 2, strict=True):
        assert way == ([1, 3], [30.0, 10.0]) and branch == ([2], [20.0])


def test_the_change_of_the_spectrum_is_in_decibels():
    frequencies = torch.linspace(0.1, 0.5, 8)
    curves = [SpectrumCurve(name, frequencies, torch.full((8,), power)) for name, power in (("a", 4.0), ("b", 0.4))]
    (axes,) = [axes for axes in drift_figure([], curves).axes if axes.get_title(loc="left") == "Change of the spectrum"]
    assert axes.lines[0].get_ydata() == pytest.approx([-10.0] * 8)
