"""Attention maps against torch's own attention, and masks against what they promise."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from reedit.models.diffusion import attention_maps
from reedit.models.diffusion.attention_maps import RunningMap, blurred, queries_per_side, soft_mask, word_attention
from scipy import ndimage
from torch.nn import functional


def random_attention(batch: int = 2, heads: int = 3, queries: int = 35, keys: int = 11, depth: int = 8):
    return torch.randn(batch, heads, queries, depth), torch.randn(batch, heads, keys, depth)


def by_torch(query, key, weights):
    """scaled_dot_product_attention whose values are the words' weights gives each query's attention to the words."""
    values = weights[:, None, :, None].expand(-1, query.shape[1], -1, query.shape[3])
    return functional.scaled_dot_product_attention(query, key, values)[..., 0].mean(1)


@pytest.mark.parametrize("chunk", [1, 200, 2**22])
def test_equals_torchs_own_attention_whatever_the_chunks(chunk, monkeypatch):
    monkeypatch.setattr(attention_maps, "CHUNK", chunk)
    query, key = random_attention()
    weights = torch.rand(2, 11)
    torch.testing.assert_close(word_attention(query, key, weights), by_torch(query, key, weights))


def test_all_words_together_have_all_the_attention():
    query, key = random_attention()
    torch.testing.assert_close(word_attention(query, key, torch.ones(2, 11)), torch.ones(2, 35))


def test_half_precision_is_computed_in_float32():
    query, key = random_attention()
    weights = torch.rand(2, 11)
    rounded = word_attention(query.half(), key.half(), weights)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, by_torch(query.half().float(), key.half().float(), weights))


def test_large_logits_of_half_precision_do_not_overflow():
    query, key = random_attention()
    assert torch.isfinite(word_attention(query.half() * 1e3, key.half() * 1e3, torch.ones(2, 11))).all()


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((64, 64), (16, 16)),  # Stable Diffusion 1.5 at 512 pixels: the papers' maps
        ((128, 128), (32, 32)),  # SDXL at 1024
        ((128, 72), (32, 18)),
        ((32, 32), (16, 16)),  # 256 pixels: a quarter would leave eight
        ((16, 16), (16, 16)),  # the demo family
        ((4, 4), (4, 4)),
        ((65, 67), (17, 17)),  # as UNets round when they halve: up
    ],
)
def test_queries_are_a_quarter_of_the_latent_but_never_too_few(size, grid):
    assert queries_per_side(*size) == grid


def test_a_detail_of_ones_own_is_kept():
    assert queries_per_side(64, 64, 8) == (8, 8)


def test_the_running_map_is_the_mean_of_all_that_was_added():
    maps = torch.rand(4, 2, 6)
    found = RunningMap()
    assert found.mean() is None
    for attention in maps:
        found.add(attention, (2, 3))
    torch.testing.assert_close(found.mean(), maps.mean(0).view(2, 1, 2, 3))


@given(low=some.floats(0, 0.8), width=some.floats(0.05, 0.2), seed=some.integers(0, 99))
def test_the_mask_is_exactly_0_up_to_low_and_1_from_high(low, width, seed):
    attention = (
        torch.rand(2, 1, 6, 7, generator=torch.Generator().manual_seed(seed)) * 1e-3
    )  # its scale does not matter
    mask = soft_mask(attention, (6, 7), low, low + width)
    relative = attention / attention.amax((2, 3), keepdim=True)
    assert (mask[relative <= low] == 0).all()
    assert (mask[relative >= low + width + 1e-6] == 1).all()
    assert ((mask >= 0) & (mask <= 1)).all()


def test_a_brighter_cell_never_has_a_lower_mask():
    attention = torch.linspace(0, 1, 50).view(1, 1, 5, 10)
    assert (soft_mask(attention, (5, 10), 0.2, 0.9).flatten().diff() >= 0).all()


def test_attention_nowhere_gives_an_empty_mask():
    assert not soft_mask(torch.zeros(1, 1, 4, 4), (8, 8), 0.4, 0.7).any()


def test_blur_is_a_gaussian():
    values = torch.rand(1, 1, 20, 24)
    expected = ndimage.gaussian_filter(values[0, 0].numpy(), 1.5, mode="mirror", radius=5)
    torch.testing.assert_close(blurred(values, 1.5)[0, 0], torch.from_numpy(expected), atol=1e-5, rtol=1e-4)


def test_blur_wider_than_the_picture_is_as_wide_as_it_can_be():
    assert torch.isfinite(blurred(torch.rand(1, 1, 4, 4), 20.0)).all()
