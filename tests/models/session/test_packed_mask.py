import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reedit.models.session.packed_mask import PackedMask, pack_mask, unpack_mask


@settings(deadline=None, max_examples=80)
@given(st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)), st.integers(0, 2**31), st.floats(0, 1))
def test_a_mask_comes_back_to_an_8_bit_level_and_zero_and_one_exactly(shape, seed, density):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(shape, generator=generator)
    mask[torch.rand(shape, generator=generator) > density] = 0.0
    mask[torch.rand(shape, generator=generator) > 0.9] = 1.0
    again = unpack_mask(pack_mask(mask))
    assert (again - mask).abs().max() <= 1 / 255
    assert torch.equal(again == 0, mask == 0) and torch.equal(again[mask == 1], mask[mask == 1])
    assert torch.equal(unpack_mask(pack_mask(again)), again)  # packed once, it stays as it is


def test_a_box_on_a_large_picture_takes_little():
    mask = torch.zeros(1, 2048, 2048)
    mask[:, 300:900, 500:1100] = 1.0
    assert pack_mask(mask).nbytes < 4096


@pytest.mark.parametrize("window", [(0, 3, 0, 2), (0, 2, 0, 5), (2, 1, 0, 2), (-1, 2, 0, 2)])
def test_a_window_that_does_not_fit_is_refused(window):
    with pytest.raises(ValueError, match="mask"):
        unpack_mask(PackedMask((1, 4, 4), window, pack_mask(torch.ones(1, 2, 2)).data))
