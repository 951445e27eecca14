import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_sessions import same_bits
from reedit.models.session.alignment import (
    ALIGN_TOOL,
    EXACT_CELLS,
    LOW_FREQUENCIES,
    LOW_STATISTICS,
    METHODS,
    STATISTICS,
    align,
    check_settings,
    count_edits,
    latents_along,
    low_pass,
    note_alignment,
    reference_at,
)
from reedit.models.session.record import FOREIGN_LABEL, FOREIGN_TOOL, EditRecord
from scipy.ndimage import gaussian_filter

SIZE = 16


def left_half(height: int = SIZE, width: int = SIZE) -> torch.Tensor:
    mask = torch.zeros(1, height, width)
    mask[..., : width // 2] = 1.0
    return mask


def latent(*shape: int) -> torch.Tensor:
    return torch.randn(*(shape or (2, 4, SIZE, SIZE)))


@pytest.fixture(params=[(2, 4, SIZE, SIZE), (2, 3, 5, SIZE, SIZE)], ids=["picture", "video"])
def reference(request) -> torch.Tensor:
    return latent(*request.param)


def offset_like(reference: torch.Tensor) -> torch.Tensor:
    return torch.arange(1.0, reference.shape[1] + 1).reshape(1, -1, *[1] * (reference.ndim - 2))


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_offset_per_channel_goes_outside_and_stays_inside(reference, method):
    """With the offset everywhere, each method's correction is that offset: in closed form, nothing of it is left."""
    drifted = reference + offset_like(reference)
    aligned = align(drifted, reference, left_half(), method)
    torch.testing.assert_close(aligned[..., SIZE // 2 :], reference[..., SIZE // 2 :], atol=2e-5, rtol=0)
    assert same_bits(aligned[..., : SIZE // 2].contiguous(), drifted[..., : SIZE // 2].contiguous())


@pytest.mark.parametrize("method", METHODS)
def test_the_edit_does_not_leak_into_the_correction(reference, method):
    """Whatever is done inside the mask, the outside is corrected as if the edit were not there."""
    drifted = reference + offset_like(reference)
    edited = drifted.clone()
    edited[..., : SIZE // 2] = 50 * torch.randn_like(edited[..., : SIZE // 2])
    outside = [align(samples, reference, left_half(), method)[..., SIZE // 2 :] for samples in (drifted, edited)]
    torch.testing.assert_close(*outside, atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_strength_and_a_grey_mask_scale_the_correction(reference, method):
    drifted = reference + offset_like(reference)
    aligned = align(drifted, reference, torch.full((1, SIZE, SIZE), 0.25), method, strength=0.5)
    torch.testing.assert_close(
        drifted - aligned, (0.375 * offset_like(reference)).expand_as(drifted), atol=2e-5, rtol=0
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_latent_that_did_not_move_is_left_as_it_is_bit_for_bit(reference, method):
    for mask in (None, left_half(), torch.rand(2, SIZE, SIZE)):
        assert same_bits(align(reference.clone(), reference, mask, method), reference)


@pytest.mark.parametrize("method", METHODS)
def test_strength_zero_and_a_white_mask_change_nothing(reference, method):
    drifted = reference + latent(*reference.shape)
    assert same_bits(align(drifted, reference, None, method, strength=0.0), drifted)
    assert same_bits(align(drifted, reference, torch.ones(1, 64, 64), method), drifted)


def test_slow_drift_goes_and_fine_detail_stays():
    """A plane wave of frequency f goes through a Gaussian with exp(-2 (pi f sigma)²): that share of it is taken back."""
    side, radius = 64, 1.5
    reference, place = latent(1, 4, side, side), torch.arange(side)
    waves = {f: torch.cos(2 * math.pi * f * place).expand(1, 4, side, side) for f in (1 / 32, 0.5)}
    middle = slice(side // 4, -side // 4)  # at the border a wave is cut off
    for frequency, wave in waves.items():
        left = (align(reference + wave, reference, None, LOW_FREQUENCIES, radius=radius) - reference)[
            ..., middle, middle
        ]
        share = float((left * wave[..., middle, middle]).sum() / wave[..., middle, middle].square().sum())
        assert share == pytest.approx(1 - math.exp(-2 * (math.pi * frequency * radius) ** 2), abs=0.01)
    both = align(reference + sum(waves.values()), reference, None, LOW_FREQUENCIES, radius=radius) - reference
    left = (both - waves[0.5])[..., middle, middle]
    assert left.std() < 0.05 * waves[1 / 32].std()


def test_low_pass_is_scipys_gaussian_and_a_weighted_mean_under_a_mask():
    samples, weight = torch.randn(1, 1, 20, 24), torch.rand(1, 1, 20, 24)

    def scipys(values: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(gaussian_filter(values[0, 0].numpy(), 2.0, mode="constant", radius=6))

    torch.testing.assert_close(
        low_pass(samples, weight, 2.0)[0, 0], scipys(samples * weight) / scipys(weight), atol=1e-5, rtol=1e-5
    )


def test_a_videos_frames_are_smoothed_one_by_one():
    video = latent(2, 3, 5, SIZE, SIZE)
    weight = 1 - left_half()[:, None, None] * 0.5
    for frame in range(5):
        alone = low_pass(video[:, :, frame], weight[:, :, 0], 2.0)
        torch.testing.assert_close(low_pass(video, weight, 2.0)[:, :, frame], alone)


def test_mean_and_std_are_the_references_over_the_cells_outside():
    reference, drifted = latent(), 1.7 * latent() + 0.4
    outside = align(drifted, reference, left_half(), STATISTICS)[..., SIZE // 2 :]
    wanted = reference[..., SIZE // 2 :]
    torch.testing.assert_close(outside.mean((2, 3)), wanted.mean((2, 3)), atol=1e-5, rtol=0)
    torch.testing.assert_close(outside.std((2, 3)), wanted.std((2, 3)), atol=1e-4, rtol=0)


def test_low_statistics_leave_the_high_frequencies():
    reference, drifted = latent(1, 4, 64, 64), 1.7 * latent(1, 4, 64, 64) + 0.4
    added = align(drifted, reference, None, LOW_STATISTICS, radius=2.0) - drifted
    smooth = low_pass(drifted, torch.ones(1, 1, 64, 64), 2.0)
    for channel in range(4):  # an affine map of the low frequencies, so nothing but them
        rows = torch.stack([smooth[0, channel].flatten(), torch.ones(64 * 64)], 1)
        found = torch.linalg.lstsq(rows, added[0, channel].flatten()[:, None])
        torch.testing.assert_close(rows @ found.solution, added[0, channel].flatten()[:, None], atol=1e-4, rtol=0)
    aligned, wanted = smooth + added, low_pass(reference, torch.ones(1, 1, 64, 64), 2.0)
    torch.testing.assert_close(aligned.mean((2, 3)), wanted.mean((2, 3)), atol=1e-5, rtol=0)
    torch.testing.assert_close(aligned.std((2, 3)), wanted.std((2, 3)), atol=1e-5, rtol=0)


def test_a_flat_channel_gets_its_mean_and_stays_flat():
    drifted = torch.zeros(1, 4, SIZE, SIZE)
    aligned = align(drifted, latent(1, 4, SIZE, SIZE) + 3, None, STATISTICS)
    assert aligned.std((2, 3)).max() < 1e-5 and aligned.mean() > 2


def test_exact_cells_are_the_references_bit_for_bit(reference):
    reference[..., -1] = -0.0
    aligned = align(reference + latent(*reference.shape), reference, left_half(), EXACT_CELLS)
    assert same_bits(aligned[..., SIZE // 2 :].contiguous(), reference[..., SIZE // 2 :].contiguous())


@st.composite
def cases(draw):
    """(samples, reference, mask): any rank, batch, channels, size and dtype; mask cells 0, 1 and in between."""
    batch, dtype = draw(st.integers(1, 3)), draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
    shape = [batch, draw(st.integers(1, 5)), *draw(st.sampled_from([[], [1], [3]]))]
    shape += [draw(st.integers(1, 9)), draw(st.integers(1, 9))]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    samples, reference = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    mask = torch.rand(draw(st.sampled_from([1, batch])), *shape[-2:], generator=generator) * 3 - 1
    return samples, reference, mask.clamp(0, 1)


@settings(max_examples=150, deadline=None)
@given(case=cases(), method=st.sampled_from(METHODS), strength=st.floats(0, 1), radius=st.floats(0.1, 20))
def test_any_latent_comes_out_finite_with_its_masked_cells_untouched(case, method, strength, radius):
    samples, reference, mask = case
    before = samples.clone()
    aligned = align(samples, reference, mask, method, strength, radius)
    assert same_bits(samples, before)
    assert aligned.dtype == samples.dtype and aligned.shape == samples.shape and bool(torch.isfinite(aligned).all())
    white = (mask == 1)[:, None].expand(samples.shape[0], *samples.shape[1:2], *mask.shape[1:])
    white = white[:, :, None].expand(samples.shape) if samples.ndim == 5 else white
    assert same_bits(aligned[white], samples[white])


def edited(record: EditRecord, mask: torch.Tensor | None, tool: str = "KSampler") -> EditRecord:
    return record.with_edit(latent(*record.source.shape), "edit", tool, mask=mask)


@pytest.mark.parametrize("memory", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("shape", [(1, 2, 3, 4), (1, 2, 2, 3, 4)], ids=["picture", "video"])
def test_the_reference_is_the_moving_average_of_the_paper_and_the_masks(shape, memory):
    """Against the recurrence, cell by cell in plain Python."""
    record, masks = EditRecord(latent(*shape)), [None, torch.rand(1, 3, 4), None, torch.rand(1, 3, 4).round()]
    for mask in masks:
        record = edited(record, mask)
    flat = [step.movedim(1, -1).reshape(-1, 3, 4, 2).tolist() for step in latents_along(record, record.path_to(4))]
    found = reference_at(record, 4, memory).movedim(1, -1).reshape(-1, 3, 4, 2)
    for frame in range(found.shape[0]):
        for row in range(3):
            for column in range(4):
                for channel in range(2):
                    expected = flat[0][frame][row][column][channel]
                    for number in range(1, 5):
                        kept = record.edit(number).mask  # as the record packs it
                        m = 1 - memory if masks[number - 1] is None else float(kept[0, row, column])
                        z = flat[number][frame][row][column][channel]
                        expected = m * z + (1 - m) * expected
                    assert float(found[frame, row, column, channel]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("memory", [0.0, 0.5, 1.0])
def test_a_cell_is_as_it_was_when_it_was_last_meant_to_change(memory):
    source = EditRecord(latent())
    record = edited(edited(source, left_half()), 1 - left_half())
    record = edited(record, left_half())
    reference = reference_at(record, 3, memory)
    assert same_bits(reference[..., : SIZE // 2].contiguous(), record.samples_at(3)[..., : SIZE // 2].contiguous())
    assert same_bits(reference[..., SIZE // 2 :].contiguous(), record.samples_at(2)[..., SIZE // 2 :].contiguous())


def test_without_memory_an_edit_without_a_mask_was_meant_everywhere():
    record = edited(edited(edited(EditRecord(latent()), left_half()), None), left_half())
    reference = reference_at(record, 3, memory=0.0)
    assert same_bits(reference[..., SIZE // 2 :].contiguous(), record.samples_at(2)[..., SIZE // 2 :].contiguous())
    forgotten_never = reference_at(record, 3, memory=1.0)
    assert same_bits(forgotten_never[..., SIZE // 2 :].contiguous(), record.source[..., SIZE // 2 :].contiguous())


def test_the_latents_along_a_path_are_the_records():
    record = edited(edited(edited(EditRecord(latent()), left_half()).at(0), None), None)
    path = record.path_to(3)
    assert path == (0, 2, 3)
    for step, samples in zip(path, latents_along(record, path), strict=True):
        assert same_bits(samples, record.samples_at(step))


def test_another_size_begins_the_reference_anew():
    larger = latent(2, 4, 2 * SIZE, 2 * SIZE)
    record = edited(EditRecord(latent()), None).with_edit(larger, "upscale", "LatentUpscale")
    assert same_bits(reference_at(record, 2, memory=1.0), larger)


def test_an_alignment_is_part_of_the_newest_edit():
    record = edited(EditRecord(latent()), left_half())
    aligned = latent()
    after = note_alignment(record, aligned, {"align.method": STATISTICS})
    (edit,) = after.edits
    assert (edit.label, edit.tool, edit.number) == ("edit", "KSampler", 1)
    assert dict(edit.parameters) == {"align.method": STATISTICS} and torch.equal(edit.mask, left_half())
    assert after.is_current(aligned) and same_bits(after.samples_at(1), aligned)
    assert not record.is_current(aligned)  # the record that came in is as it was


def test_an_alignment_of_an_older_edit_is_an_edit_of_its_own():
    record = edited(edited(EditRecord(latent()), None).at(0), None).at(1)
    aligned = latent()
    after = note_alignment(record, aligned, {"align.method": STATISTICS}, left_half())
    assert [edit.parent for edit in after.edits] == [0, 0, 1] and after.current == 3
    assert after.edits[2].tool == ALIGN_TOOL and torch.equal(after.edits[2].mask, left_half())
    assert same_bits(after.samples_at(1), record.samples_at(1)) and same_bits(after.samples_at(3), aligned)
    assert count_edits(after) == 1  # of the path 0, 1, 3 only edit 1 is an edit


def test_a_foreign_edit_stays_one_so_that_a_commit_can_name_it():
    record = EditRecord(latent()).with_edit(latent(), FOREIGN_LABEL, FOREIGN_TOOL)
    after = note_alignment(record, latent(), {}, left_half())
    assert after.is_unrecorded and after.without_unrecorded().edits == ()


@pytest.mark.parametrize(
    ("named", "wrong"),
    [
        ("method", {"method": "colour"}),
        ("strength", {"strength": 1.5}),
        ("strength", {"strength": math.nan}),
        ("memory", {"memory": -0.1}),
        ("radius", {"radius": 0.0}),
        ("radius", {"radius": math.inf}),
        ("every", {"every": 0}),
    ],
)
def test_a_setting_out_of_range_is_named(named, wrong):
    with pytest.raises(ValueError, match=f"^{named} is"):
        check_settings(**{"method": STATISTICS, "strength": 1.0, "radius": 2.0, **wrong})


def test_latents_of_two_shapes_cannot_be_aligned():
    with pytest.raises(ValueError, match="shape"):
        align(latent(1, 4, 8, 8), latent(1, 4, 8, 9), None, STATISTICS)
