"""The figure and the sheet: what is in them is told by what changes when the numbers do."""

import math

import pytest
import torch
from reedit.models.metrics.round_trip import Figures, RoundTrip
from reedit.models.metrics.round_trip_plot import plot_round_trips, round_trip_figure, round_trip_sheet
from reedit.models.metrics.timeline_thumbnail import make_thumbnail


def figures(psnr: float, ssim: float | None = 0.9) -> Figures:
    return Figures(10 ** (-psnr / 10), psnr, ssim, psnr + 10, 12.0, 50.0, (0.0, 0.0, 0.0))


def trip(name: str, passes: int, batch: int = 1, psnr: float = 30.0, ssim: float | None = 0.9) -> RoundTrip:
    originals = torch.rand(batch, 16, 24, 3)
    rows = [tuple(figures(psnr - number, ssim) for _ in range(batch)) for number in range(passes)]
    shown = {number: tuple(originals * 0.5)[:4] for number in {1, passes}}
    return RoundTrip(name, originals, rows, shown, tuple(originals * 0.5))


@pytest.mark.filterwarnings("error")  # matplotlib warns when a figure cannot be laid out
@pytest.mark.parametrize(("passes", "batch", "psnr"), [(1, 1, 30.0), (2, 3, math.inf), (25, 1, 30.0), (200, 20, 30.0)])
def test_tests_of_any_length_are_laid_out(passes, batch, psnr):
    plot = plot_round_trips([trip("VAE", passes, batch, psnr), trip("other VAE", passes, batch)])
    assert plot.ndim == 3 and plot.shape[-1] == 3 and plot.dtype == torch.float32
    assert 0 <= float(plot.min()) < float(plot.max()) <= 1


def panel(figure, title: str):
    (axes,) = [axes for axes in figure.axes if axes.get_title(loc="left") == title]
    return axes


def test_the_panels_show_the_means_of_both():
    shown = round_trip_figure([trip("VAE", 3, 2), trip("other VAE", 3, 2, psnr=20)])
    for title, heights in (
        ("PSNR, against the original", [[30, 29, 28], [20, 19, 18]]),
        ("SSIM, against the original", [[0.9] * 3] * 2),
        ("PSNR, against the pass before", [[40, 39, 38], [30, 29, 28]]),
        ("Energy above half Nyquist", [[12] * 3] * 2),
    ):
        axes = panel(shown, title)
        drawn = [line for line in axes.lines if line.get_label() in ("VAE", "other VAE")]
        assert [list(line.get_ydata()) for line in drawn] == heights
        assert [list(line.get_xdata()) for line in drawn] == [[1, 2, 3]] * 2
        names = [text.get_text() for text in axes.get_legend().texts]
        assert names[-2:] == ["VAE", "other VAE"]
    names = [text.get_text() for text in panel(shown, "Spectrum").get_legend().texts]
    assert names == ["original", "VAE, pass 3", "other VAE, pass 3"]


def test_single_pictures_have_thin_lines_where_there_are_not_too_many():
    counts = {}
    for batch in (1, 5, 20):
        axes = panel(round_trip_figure([trip("VAE", 3, batch)]), "PSNR, against the original")
        counts[batch] = len(axes.lines)
    assert counts == {1: 1, 5: 6, 20: 1}


def test_what_cannot_be_measured_is_said():
    axes = panel(round_trip_figure([trip("VAE", 2, ssim=None)]), "SSIM, against the original")
    assert "nothing to measure" in axes.texts[0].get_text()
    axes = panel(round_trip_figure([trip("VAE", 2, psnr=math.inf)]), "PSNR, against the original")
    assert axes.texts[0].get_text() == "identical"


def test_the_sheet_has_a_row_for_each_picture_and_vae():
    """Each thumbnail stands where its row and column say, found by its own pixels."""
    one, other = trip("VAE", 2, 2), trip("other VAE", 2, 2)
    other.originals = one.originals
    sheet = round_trip_sheet([one, other], 96)
    rows = [
        (picture[index], trip.shown[1][index], trip.shown[2][index])
        for index in range(2)
        for picture, trip in ((one.originals, one), (one.originals, other))
    ]
    height, width = 64, 96  # of a thumbnail; 16×24 shown four times as large
    tall, wide = (sheet.shape[0] - 8) // 4, (sheet.shape[1] - 8) // 3
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            expected = torch.tensor(list(make_thumbnail(picture, 96).tobytes())).reshape(height, width, 3) / 255
            bottom, left = (row + 1) * tall, 8 + column * wide
            assert torch.allclose(sheet[bottom - height : bottom, left : left + width], expected, atol=1e-6)


def test_large_pictures_are_scaled_down():
    one = trip("VAE", 1)
    one.originals = torch.rand(1, 300, 600, 3)
    one.shown = {1: tuple(one.originals)}
    sheet = round_trip_sheet([one], 128)
    assert sheet.shape[1] == 2 * (128 + 8) + 8 and sheet.shape[0] < 64 + 40
