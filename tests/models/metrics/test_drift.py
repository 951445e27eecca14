import math

import lpips
import pytest
import torch
from reedit.models.metrics.comparison import Comparison
from reedit.models.metrics.drift import measure, measure_step, spectrum_curves
from reedit.models.metrics.drift_text import describe
from reedit.models.metrics.perceptual import PerceptualDistance
from reedit.models.metrics.similarity import masked_psnr
from reedit.models.session.record import SOURCE, EditRecord
from skimage.metrics import structural_similarity

RATIO = 4  # pixels in a cell's side, in these made-up sessions


def half_mask(size: int = 8) -> torch.Tensor:
    """The left half."""
    mask = torch.zeros(1, size, size)
    mask[:, :, : size // 2] = 1.0
    return mask


def pictures_of(record: EditRecord) -> list[torch.Tensor]:
    """A decoder of our own: the first three channels, enlarged, a latent of 0 grey."""
    latents = [record.samples_at(number) for number in range(len(record.edits) + 1)]
    return [
        (0.5 + latent[:, :3].repeat_interleave(RATIO, 2).repeat_interleave(RATIO, 3).movedim(1, -1)).clamp(0, 1)
        for latent in latents
    ]


@pytest.fixture
def session() -> EditRecord:
    """Two edits of the left half; the second one also brightens the right half's red by 0.04, which it should not."""
    source = 0.1 * torch.randn(1, 4, 16, 16)
    first = source.clone()
    first[..., :8] += 0.1
    second = first.clone()
    second[..., :8] -= 0.3
    second[:, 0, :, 8:] += 0.04
    record = EditRecord(source).with_edit(first, "brighter", "a tool", mask=half_mask(16), encoded_pixels=5)
    return record.with_edit(second, "darker", "another", mask=half_mask(16))


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
    assert first.total.latent_change_outside == 0.0
    assert math.isclose(second.total.latent_change_outside, 0.25, rel_tol=1e-5)


def test_inside_and_outside_are_measured_apart(session):
    """Against a shift of one channel by 0.04 outside, and scikit-image's SSIM of each half cut out."""
    pictures = pictures_of(session)
    first, second = (row.total for row in measure(session, pictures))
    assert first.compared_with == second.compared_with == "source"
    assert first.outside.psnr == math.inf and first.outside.ssim == 1.0
    assert first.outside.colour_shift == (0, 0, 0)
    assert math.isclose(second.outside.psnr, 10 * math.log10(3 / 0.04**2), abs_tol=1e-3)
    assert second.outside.colour_shift == pytest.approx((0.04 * 255, 0, 0), abs=1e-3)
    for part, columns in ((second.inside, slice(0, 32)), (second.outside, slice(32, 64))):
        halves = [picture[0, :, columns].numpy() for picture in (pictures[0], pictures[2])]
        expected = structural_similarity(
            *halves, data_range=1.0, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert math.isclose(part.ssim, expected, abs_tol=1e-5) and part.share == 0.5
    # The whole picture is the two halves together.
    whole = masked_psnr(pictures[2], pictures[0], torch.ones(1, 64, 64, dtype=torch.bool))
    errors = [10 ** (-part.psnr / 10) for part in (second.inside, second.outside)]
    assert math.isclose(whole, -10 * math.log10(sum(errors) / 2), abs_tol=1e-3)


def test_a_mask_of_the_users_own_says_what_counts_as_edited(session):
    top = half_mask(64).mT
    total = measure_step(session, 2, pictures_of(session), Comparison(mask=top))
    cut = [picture[:, 32:] for picture in pictures_of(session)]
    expected = masked_psnr(cut[2], cut[0], torch.ones(1, 32, 64, dtype=torch.bool))
    assert math.isclose(total.outside.psnr, expected, abs_tol=1e-4)
    latents = [session.samples_at(step)[:, :, 8:] for step in (SOURCE, 2)]
    assert total.latent_change_outside == float((latents[1] - latents[0]).abs().max())


def test_a_reference_takes_the_sources_place(session):
    pictures = pictures_of(session)
    reference = (pictures[0] + 0.1).clamp(max=1)
    total = measure_step(session, SOURCE, pictures, Comparison(reference=reference))
    assert total.compared_with == "reference" and total.inside is not None
    assert total.outside.psnr == masked_psnr(pictures[0], reference, ~half_mask(64).bool())
    rows = measure(session, pictures, Comparison(reference=reference))
    assert rows[1].untouched_psnr == masked_psnr(pictures[2], reference, ~half_mask(64).bool())
    other_size = measure_step(session, 2, pictures, Comparison(reference=torch.zeros(1, 32, 64, 3)))
    assert other_size.outside is None and "64×64" in other_size.not_measured["pictures"]
    assert other_size.latent_change_outside is not None


def test_an_edit_without_a_mask_leaves_nothing_outside(session):
    record = session.with_edit(session.samples_at(2) + 0.01, "everywhere", "a tool")
    pictures = pictures_of(record)
    for total in (row.total for row in measure(record, pictures)):
        assert total.outside is None and total.latent_change_outside is None and total.inside.share == 1.0
        assert {"outside", "latent_change_outside", "inside.ms_ssim", "lpips"} == set(total.not_measured)
    assert measure(record, pictures)[1].untouched_psnr is not None  # up to there, there is an outside


def test_after_a_change_of_size_comparison_begins_anew(session):
    larger = session.samples_at(2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    record = session.with_edit(larger, "upscale", "a tool")
    edited = larger.clone()
    edited[..., 16:] += 0.2
    record = record.with_edit(edited, "right", "a tool", mask=1 - half_mask(32))
    pictures = pictures_of(record)
    upscale, right = measure(record, pictures)[2:]
    assert upscale.untouched_psnr is None and upscale.outside_mask_max_abs_latent_change is None
    assert upscale.total.inside is None and "another size" in upscale.total.not_measured["pictures"]
    assert right.total.compared_with == "step 3" and right.untouched_psnr == math.inf
    assert right.total.outside.psnr == math.inf and right.total.latent_change_outside == 0.0
    assert math.isclose(right.total.inside.psnr, masked_psnr(pictures[4], pictures[3], (1 - half_mask(128)).bool()))
    names = [curve.name for curve in spectrum_curves(record, pictures, Comparison())]
    assert names == ["step 3", "step 4"]
    # Against the original, all that was ever done counts: the edit that changed the size was allowed to touch everything.
    against_original = measure_step(record, 4, pictures, Comparison(reference=pictures[3]))
    assert against_original.outside is None and against_original.inside.share == 1.0


def test_each_item_of_a_changed_batch_is_compared_with_its_own_source():
    source = 0.1 * torch.randn(2, 4, 16, 16)
    record = EditRecord(source).with_edit(source[[1, 0, 1, 0]].contiguous(), "repeated", "a tool")
    edited = record.samples_at(1)
    edited[..., :8] += 0.2
    record = record.with_edit(edited, "left", "a tool", mask=half_mask(16))
    repeated, left = measure(record, pictures_of(record))
    assert repeated.total.outside.psnr == math.inf and repeated.outside_mask_max_abs_latent_change == 0.0
    assert left.total.outside.psnr == math.inf and left.total.inside.psnr < 20
    for reference, same in ((pictures_of(record)[0], True), (pictures_of(record)[0].flip(0), False)):
        psnr = measure_step(record, 2, pictures_of(record), Comparison(reference=reference)).outside.psnr
        assert (psnr == math.inf) == same


def test_a_videos_frames_are_pictures_of_its_item():
    source = 0.1 * torch.randn(2, 4, 3, 16, 16)
    edited = source.clone()
    edited[1, :, :, :, :8] += 0.2
    masks = torch.cat([torch.zeros(1, 16, 16), half_mask(16)])
    record = EditRecord(source).with_edit(edited, "second item", "a tool", mask=masks)
    frames = [latent.movedim(2, 1).flatten(0, 1) for latent in (source, edited)]
    pictures = pictures_of(EditRecord(frames[0]).with_edit(frames[1], "", ""))
    (row,) = measure(record, pictures)
    assert row.total.outside.psnr == math.inf and row.total.inside.share == 0.25
    assert row.total.inside.psnr == masked_psnr(
        pictures[1][3:], pictures[0][3:], half_mask(64).bool().expand(3, -1, -1)
    )


def test_steps_of_the_spectrum_are_spread_over_the_way(session):
    record = session
    for _ in range(8):
        record = record.with_edit(record.samples_at(record.current) * 0.9, "x", "t")
    curves = spectrum_curves(record, pictures_of(record), Comparison())
    assert [curve.name for curve in curves] == ["source", "step 1", "step 4", "step 7", "step 10"]
    assert float(curves[-1].power.sum()) < float(curves[1].power.sum())
    names = [curve.name for curve in spectrum_curves(session.at(1), pictures_of(session), Comparison())]
    assert names == ["source", "step 1"]
    reference = Comparison(reference=torch.rand(1, 64, 64, 3))
    names = [curve.name for curve in spectrum_curves(session, pictures_of(session), reference)]
    assert names == ["reference", "source", "step 1", "step 2"]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_lpips_is_of_the_whole_picture_where_it_is_large_enough(session):
    network = lpips.LPIPS(pretrained=False, net="alex", pnet_rand=True, verbose=False)
    pictures = pictures_of(session)
    total = measure_step(session, 2, pictures, Comparison(perceptual=PerceptualDistance(network, 64)))
    expected = network(*(2 * picture.movedim(-1, 1) - 1 for picture in (pictures[2], pictures[0])))
    assert math.isclose(total.lpips, float(expected), rel_tol=1e-4) and "lpips" not in total.not_measured
    total = measure_step(session, 2, pictures, Comparison(perceptual=PerceptualDistance(network, 65)))
    assert total.lpips is None and "65 pixels or more; the picture is 64×64" in total.not_measured["lpips"]


def test_progress_is_told_after_every_edit(session):
    told = []
    measure(session, None, after_each=lambda: told.append(1))
    assert len(told) == 2


def test_the_summary_says_what_was_measured_and_why_not(session):
    words = describe(measure_step(session, 2, pictures_of(session), Comparison()), 2)
    assert "Step 2, compared with the source." in words and "50.0 % of the picture" in words
    assert "+10.20 red, +0.00 green" in words and "MS-SSIM needs sides of more than 160 pixels" in words
    assert "no cell of the latent changed" in describe(measure_step(session, 1, None, Comparison()), 1)
    assert "Without a VAE" in describe(measure_step(session, 1, None, Comparison()), 1)
