import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reedit.models.cells import (
    brightest_in_cells,
    check_mask,
    check_samples,
    like_samples,
    mask_to_cells,
    touched_cells,
)


def test_mask_cells_are_area_means():
    mask = torch.zeros(1, 16, 16)
    mask[:, 0:4, 0:8] = 1.0
    mask[:, 4:6, 0:4] = 1.0
    cells = mask_to_cells(mask, 4, 4)
    expected = torch.zeros(1, 1, 4, 4)
    expected[..., 0, 0:2] = 1.0
    expected[..., 1, 0] = 0.5
    torch.testing.assert_close(cells, expected)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**31))
def test_cells_without_a_masked_pixel_are_exactly_zero(height, width, rows, columns, seed):
    """For any size of mask and grid, growing or shrinking: a cell is zero exactly where no masked pixel falls into it."""
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.rand(1, height, width, generator=generator) > 0.8).float()
    assert torch.equal(mask_to_cells(mask, rows, columns) > 0, touched_cells(mask, rows, columns))


def test_video_latents_get_a_time_dimension():
    assert like_samples(torch.zeros(1, 1, 4, 4), torch.zeros(1, 16, 3, 4, 4)).shape == (1, 1, 1, 4, 4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_refused(value):
    samples = torch.zeros(1, 4, 8, 8)
    samples[0, 0, 0, :2] = value
    with pytest.raises(ValueError, match=r"samples holds 2 values that are NaN or infinite.*--fp32-vae"):
        check_samples(samples)


def test_a_latent_of_odd_shape_is_refused():
    with pytest.raises(ValueError, match=r"samples has shape \(4, 8\); a latent of \(B, C, H, W\)"):
        check_samples(torch.zeros(4, 8))


@pytest.mark.parametrize("size", [(16, 16), (64, 64), (512, 512), (8, 8)])
def test_a_mask_of_another_size_is_welcome(size):
    assert check_mask(torch.ones(1, *size), 1, 16, 16).shape == (1, *size)


def test_a_mask_of_other_proportions_is_refused():
    with pytest.raises(ValueError, match=r"mask is 128×64 .* other proportions.*latent 16×16.*crop or pad"):
        check_mask(torch.ones(1, 64, 128), 1, 16, 16)


def test_a_mask_of_another_batch_is_refused():
    with pytest.raises(ValueError, match=r"mask is a batch of 3, but there are 2 pictures: give 1 mask or 2"):
        check_mask(torch.ones(3, 64, 64), 2, 16, 16)


def test_an_empty_mask_is_refused():
    with pytest.raises(ValueError, match=r"mask is zero everywhere, so nothing could be edited. Paint"):
        check_mask(torch.zeros(1, 64, 64), 1, 16, 16)


def test_a_mask_with_nan_is_refused():
    with pytest.raises(ValueError, match="mask holds NaN"):
        check_mask(torch.full((1, 64, 64), float("nan")), 1, 16, 16)


def test_the_brightest_pixel_of_each_cell():
    mask = torch.zeros(1, 8, 12)
    mask[0, 0, 0], mask[0, 3, 3], mask[0, 4, 11] = 0.5, 0.25, 1.0
    cells = brightest_in_cells(mask, torch.zeros(1, 4, 2, 3))
    assert cells.tolist() == [[[[0.5, 0.0, 0.0], [0.0, 0.0, 1.0]]]]
    assert brightest_in_cells(mask, torch.zeros(1, 4, 5, 2, 3)).shape == (1, 1, 1, 2, 3)
    assert torch.equal(brightest_in_cells(cells[:, 0], torch.zeros(1, 4, 8, 12))[0, 0, ::4, ::4], cells[0, 0])
