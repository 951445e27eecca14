import math

import torch
from reedit.models.metrics.drift import fine_detail, masked_psnr, measure, untouched_pixels
from reedit.models.metrics.drift_plot import plot_drift
from reedit.models.metrics.timeline import contact_strip
from reedit.models.session.record import EditRecord


def half_mask() -> torch.Tensor:
    mask = torch.zeros(1, 8, 8)
    mask[:, :, :4] = 1.0
    return mask


def test_change_outside_the_mask_is_found_and_none_is_exactly_zero():
    source = torch.randn(1, 4, 8, 8)
    inside = source.clone()
    inside[..., :4] += 1.0
    outside = inside.clone()
    outside[0, 1, 2, 6] += 0.25
    record = (
        EditRecord(source).with_edit(inside, "a", "t", mask=half_mask()).with_edit(outside, "b", "t", mask=half_mask())
    )
    first, second = measure(record, None)
    assert first.outside_mask_max_abs_latent_change == 0.0 and first.changed_cells == 0.5
    assert math.isclose(second.outside_mask_max_abs_latent_change, 0.25, rel_tol=1e-5)


def test_psnr_of_a_known_error():
    """A constant error of 0.1 is 20 dB by definition."""
    picture, where = torch.full((1, 4, 4, 3), 0.5), torch.zeros(1, 4, 4, dtype=torch.bool)
    where[:, :2] = True
    other = picture.clone()
    other[:, :2] += 0.1
    other[:, 2:] = 0.0  # not looked at
    assert math.isclose(masked_psnr(other, picture, where), 20.0, abs_tol=1e-3)
    assert masked_psnr(picture, picture, where) == math.inf
    assert masked_psnr(picture, other, ~torch.ones_like(where)) is None


def test_untouched_pixels_follow_the_branch():
    source = torch.zeros(1, 4, 4, 4)
    left, right = half_mask(), 1 - half_mask()
    record = EditRecord(source).with_edit(source, "left", "t", mask=left)
    assert torch.equal(untouched_pixels(record, 1, 8, 8), right.bool())
    record = record.with_edit(source, "right", "t", mask=right)
    assert not untouched_pixels(record, 2, 8, 8).any()
    assert torch.equal(untouched_pixels(record, 1, 8, 8), right.bool())
    assert not untouched_pixels(record.with_edit(source, "everywhere", "t"), 3, 8, 8).any()


def test_fine_detail_is_the_energy_above_half_nyquist():
    """A cosine of amplitude a has the power a²/2 (Parseval), all of it on its own side of half the Nyquist frequency."""
    x = torch.arange(64.0)
    for cycles, expected in ((8, 0.0), (24, 0.5 * 25.5**2)):
        wave = 0.5 + 0.1 * torch.cos(2 * math.pi * cycles * x / 64)
        picture = wave.expand(1, 64, 64)[..., None].expand(1, 64, 64, 3)
        assert math.isclose(fine_detail(picture), expected, rel_tol=1e-4, abs_tol=1e-4)


def test_an_edit_that_changes_the_size_is_reported_without_comparison():
    record = EditRecord(torch.zeros(1, 4, 4, 4)).with_edit(torch.zeros(1, 4, 8, 8), "upscale", "t", mask=half_mask())
    (row,) = measure(record, [torch.zeros(1, 16, 16, 3), torch.zeros(1, 32, 32, 3)])
    assert row.outside_mask_max_abs_latent_change is None and row.untouched_psnr is None


def test_pictures_of_a_session_without_edits_can_be_drawn():
    assert plot_drift([]).shape[-1] == 3
    strip = contact_strip([torch.rand(16, 24, 3)], ["source"], 6)
    assert strip.ndim == 3 and float(strip.min()) >= 0 and float(strip.max()) <= 1


def test_a_strip_shows_each_picture_under_its_label():
    pictures = [torch.full((64, 64, 3), value) for value in (0.0, 0.5, 1.0)]
    strip = contact_strip(pictures, ["source", "1. a label that is long enough for a second line", "2. short"], 2)
    for value in (0.0, 0.5, 1.0):  # each picture stands there at twice its size
        assert int((strip.sub(value).abs().amax(-1) < 1 / 255).sum()) >= 128 * 128
