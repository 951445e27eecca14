import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from reedit.models.session.merge import Window, find_windows, merge_weights, merge_window, put_window

SIDE = 20  # cells


def marked(*boxes: tuple[int, int, int, int], side: int = SIDE) -> torch.Tensor:
    """(1, 1, side, side) bool: boxes of (top, bottom, left, right)."""
    cells = torch.zeros(1, 1, side, side, dtype=torch.bool)
    for top, bottom, left, right in boxes:
        cells[..., top:bottom, left:right] = True
    return cells


def average(pixels: torch.Tensor) -> torch.Tensor:
    """An encoder in which a cell is the mean of its own two by two pixels, and no other."""
    return torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 2)


def merge(samples, target, weights, context=1, encode=average, before=None):
    merged = samples.clone()
    for window in find_windows(weights, context, 1):
        put_window(merged, merge_window(samples, target, weights, window, encode, before), weights, window)
    return merged


def test_weights_are_whole_beside_the_marked_cells_and_fall_off_from_there():
    weights = merge_weights(marked((8, 10, 8, 10)), 3)
    assert weights[0, 0, 9, 4:11].tolist() == torch.tensor([0, 1 / 3, 2 / 3, 1, 1, 1, 1]).tolist()
    assert torch.equal(merge_weights(marked((8, 10, 8, 10)), 0).bool(), marked((8, 10, 8, 10)))


def test_a_window_has_its_context_on_all_sides_and_keeps_its_size_at_the_border():
    weights = merge_weights(marked((8, 10, 5, 8)), 0)
    assert find_windows(weights, 3, 1) == [Window(0, 5, 13, 2, 11)]
    corner = merge_weights(marked((0, 2, 17, 20)), 0)
    assert find_windows(corner, 3, 1) == [Window(0, 0, 8, 11, 20)]


def test_a_window_is_no_larger_than_the_picture():
    assert find_windows(torch.ones(1, 1, 6, 9), 4) == [Window(0, 0, 6, 0, 9)]


def test_a_window_has_the_least_side_around_its_middle():
    weights = merge_weights(marked((8, 10, 8, 11)), 0)
    assert find_windows(weights, 1, 10) == [Window(0, 4, 14, 4, 14)]
    assert find_windows(weights, 9, 10) == find_windows(weights, 9, 1)


def test_regions_far_apart_have_their_own_windows_and_near_ones_share():
    far = merge_weights(marked((1, 3, 1, 3), (17, 19, 17, 19)), 0)
    assert sorted(window.area for window in find_windows(far, 2, 1)) == [36, 36]
    near = merge_weights(marked((8, 10, 5, 7), (8, 10, 10, 12)), 0)
    assert find_windows(near, 2, 1) == [Window(0, 6, 12, 3, 14)]


def test_each_picture_of_a_batch_has_its_own_windows():
    weights = torch.cat([marked((2, 4, 2, 4)), marked(), marked((9, 12, 9, 12))]).float()
    assert find_windows(weights, 1, 1) == [Window(0, 1, 5, 1, 5), Window(2, 8, 13, 8, 13)]


@settings(max_examples=60, deadline=None)
@given(
    arrays(bool, (2, 1, 13, 17), elements=st.booleans(), fill=st.just(False)),
    st.integers(0, 5),
    st.integers(0, 3),
    st.booleans(),
)
def test_every_cell_of_weight_zero_stays_bit_for_bit_and_every_other_is_encoded(cells, context, feather, difference):
    torch.manual_seed(0)
    samples, target = torch.randn(2, 3, 13, 17), torch.rand(2, 26, 34, 3)
    before = torch.rand_like(target) if difference else None
    weights = merge_weights(torch.from_numpy(np.ascontiguousarray(cells)), feather)
    kept = samples.clone()
    merged = merge(samples, target, weights, context, before=before)
    changed = (weights > 0).expand_as(samples)
    assert torch.equal(merged[~changed], samples[~changed]) and torch.equal(samples, kept)
    assert (merged != samples)[changed].all()
    windows = find_windows(weights, context, 1)
    if windows:  # windows never cost more than encoding each whole picture that has one
        assert sum(window.area for window in windows) <= 13 * 17 * len({window.item for window in windows})


def test_cells_come_from_the_encoder_at_the_level_of_the_latent():
    """An encoder off by a constant, as a window's is: the constant is found on the unpainted cells and taken away."""
    before, target = torch.rand(1, 40, 40, 3), torch.rand(1, 40, 40, 3)
    weights = merge_weights(marked((8, 10, 8, 10)), 0)
    target = torch.where((weights[:, 0] > 0).repeat_interleave(2, 1).repeat_interleave(2, 2)[..., None], target, before)
    shift = torch.tensor([0.3, -2.0, 5.0])[:, None, None]
    merged = merge(average(before), target, weights, 3, lambda pixels: average(pixels) + shift)
    assert torch.allclose(merged, average(target), atol=1e-5)


def test_difference_adds_what_the_paint_changed_and_no_more():
    samples, before = torch.randn(1, 3, SIDE, SIDE), torch.rand(1, 40, 40, 3)
    target = before.clone()
    target[:, 16:20, 16:20] += 0.25
    merged = merge(samples, target, merge_weights(marked((8, 10, 8, 10)), 2), 2, before=before)
    expected = samples.clone()
    expected[..., 8:10, 8:10] += 0.25
    assert torch.allclose(merged, expected, atol=1e-6)


def test_a_latent_of_half_precision_keeps_its_precision():
    samples = torch.randn(1, 3, SIDE, SIDE, dtype=torch.float16)
    weights = merge_weights(marked((8, 10, 8, 10)), 1)
    merged = merge(samples, torch.rand(1, 40, 40, 3), weights)
    assert merged.dtype == torch.float16
    assert torch.equal(merged != samples, (weights > 0).expand_as(samples))
