"""Three-way guidance: its shares and scales against the equation written out cell by cell."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reedit.models.diffusion.instruct_guidance import (
    cells_of_others,
    guidance_scales,
    guided_by_picture,
    guided_by_text,
    shares,
    union,
    whole_shares,
)

values = st.floats(0, 1, width=32, allow_subnormal=False)


def random_masks(count: int, seed: int = 0) -> torch.Tensor:
    masks = torch.rand(count, 2, 1, 5, 6, generator=torch.Generator().manual_seed(seed))
    masks[:, :, :, 0] = 0.0  # a row that no mask touches
    return masks


@given(st.lists(values, min_size=1, max_size=6))
@settings(max_examples=200, deadline=None)
def test_the_shares_of_a_cell_never_exceed_it_and_keep_their_proportions(cell):
    masks = torch.tensor(cell).reshape(-1, 1, 1, 1, 1)
    found = shares(masks)
    assert found.sum() <= 1 + 1e-6 and bool((found <= masks).all())
    if sum(cell) <= 1:
        assert torch.equal(found, masks)
    else:
        torch.testing.assert_close(found * masks.sum(), masks)


def test_masks_that_meet_in_a_cell_share_it_by_what_they_cover_of_it():
    """A thing's rim: the thing covers 3 of 4 pixels, the background the fourth, and both may edit the whole cell."""
    masks, areas = torch.ones(2, 1, 1, 1, 1), torch.tensor([0.75, 0.25]).reshape(2, 1, 1, 1, 1)
    assert shares(masks, areas).flatten().tolist() == [0.75, 0.25]
    alone = torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1, 1)
    assert shares(alone, alone * areas).flatten().tolist() == [1.0, 0.0]
    faint = torch.full((2, 1, 1, 1, 1), 0.3)
    torch.testing.assert_close(shares(faint, faint * areas).sum(), torch.tensor(0.6))


@given(st.lists(values, min_size=1, max_size=6))
@settings(max_examples=200, deadline=None)
def test_whole_shares_fill_every_cell(cell):
    masks = torch.tensor(cell).reshape(-1, 1, 1, 1, 1)
    found = whole_shares(masks)
    assert float(found.sum()) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(found * masks.sum(), masks if masks.any() else torch.zeros_like(masks))


@given(st.lists(values, min_size=2, max_size=6))
@settings(max_examples=200, deadline=None)
def test_what_others_have_is_hidden_but_never_a_cell_of_one_s_own(cell):
    masks = torch.tensor(cell).reshape(-1, 1, 1, 1, 1)
    found = cells_of_others(masks).flatten().tolist()
    for own, hidden, rest in zip(cell, found, [sum(cell) - own for own in cell], strict=True):
        assert -1e-6 <= hidden <= 1 - own + 1e-6
        if own == 0:
            assert hidden == pytest.approx(min(1.0, rest), abs=1e-5)


def test_a_single_instruction_has_every_cell_of_a_prediction_that_is_held_later():
    assert torch.equal(whole_shares(random_masks(1)), torch.ones(1, 2, 1, 5, 6))


def test_the_union_is_how_far_a_cell_is_edited_at_all():
    masks = torch.tensor([0.0, 0.3, 0.7]).reshape(3, 1, 1, 1, 1)
    assert union(masks).item() == pytest.approx(1.0) and union(masks[:2]).item() == pytest.approx(0.3)


@pytest.mark.parametrize("dimensions", [4, 5])
def test_the_prediction_is_the_equation_written_out_for_each_cell(dimensions):
    """D = D_un + s_I (D_img - D_un) + sum of s_T,k m_k (D_k - D_img), with the scales of the instruction where it acts."""
    masks = torch.zeros(2, 1, 1, 2, 2)
    masks[0, ..., 0, 0], masks[1, ..., 1, :] = 1.0, 0.5
    text_scales, image_scales, image_scale = (7.5, 3.0), (1.2, 2.0), 1.5
    predictions = torch.randn(4, 1, 3, 2, 2, generator=torch.Generator().manual_seed(1)).double()
    if dimensions == 5:
        masks, predictions = masks[..., None, :, :], predictions[..., None, :, :]
    unconditional, picture, *texts = predictions
    scales = guidance_scales(shares(masks.double()), text_scales, image_scales, image_scale)
    base = guided_by_picture(unconditional, picture, scales)
    found = guided_by_text(base, picture, texts, scales.texts)
    for row in range(2):
        for column in range(2):
            cell = (..., row, column)
            first, second = masks[0][cell].item(), masks[1][cell].item()
            s_picture = first * 1.2 + second * 2.0 + (1 - first - second) * 1.5
            expected = unconditional[cell] + s_picture * (picture[cell] - unconditional[cell])
            expected = expected + first * 7.5 * (texts[0][cell] - picture[cell])
            expected = expected + second * 3.0 * (texts[1][cell] - picture[cell])
            torch.testing.assert_close(found[cell], expected)


def test_equal_scales_are_that_scale_in_every_cell_without_rounding():
    scales = guidance_scales(shares(random_masks(3)), (5.0,) * 3, (1.0,) * 3, 1.0)
    assert torch.equal(scales.picture, torch.ones_like(scales.picture)) and not scales.needs_unconditional


def test_what_has_no_weight_is_not_needed():
    white, half = torch.ones(1, 1, 1, 2, 2), torch.full((1, 1, 1, 2, 2), 0.5)
    without_picture = guidance_scales(white, (2.0,), (2.0,), 1.0)
    assert without_picture.needs_unconditional and not without_picture.needs_picture
    text_alone = guidance_scales(white, (1.0,), (1.0,), 1.0)
    assert not text_alone.needs_unconditional and not text_alone.needs_picture
    outside_too = guidance_scales(half, (1.0,), (1.0,), 1.0)
    assert not outside_too.needs_unconditional and outside_too.needs_picture
