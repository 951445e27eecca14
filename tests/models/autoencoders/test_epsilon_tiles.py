"""Reference: the network at once, on the whole picture. Differences are in grey levels of 255."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from reedit.models.autoencoders.epsilon import EpsilonDecoder
from reedit.models.autoencoders.epsilon_layout import EpsilonConfig
from reedit.models.autoencoders.epsilon_tiles import velocity_in_tiles

CPU = torch.device("cpu")
SMALL = EpsilonConfig(
    width=16,
    blocks=1,
    latent_channels=4,
    ratio=4,
    multipliers=(1, 1, 2),
    attention_levels=(2,),
    head_channels=16,
    norm_groups=8,
)
SIZES = [
    SMALL,
    EpsilonConfig(16, 2, 8, 2, (1, 2, 2, 1), (1, 3), 8, 4),  # the network halves more often than the encoder did
    EpsilonConfig(16, 1, 16, 8, (1, 2), (), 16, 16),  # and here less often
    replace(SMALL, preconditioned=True),
]
OFF = 0.01  # grey levels. Up to 0.005 was found, on pictures of random networks, which reach far beyond 0 to 255


def decoder_of(config):
    torch.manual_seed(3)
    decoder = EpsilonDecoder(config).eval().requires_grad_(False)
    for parameter in decoder.parameters():
        if parameter.ndim == 1:  # fresh norms have weights of 1 and biases of 0, which would hide a mistake with them
            parameter += 0.3 * torch.randn_like(parameter)
    decoder.unet.conv_out.weight *= 5  # the picture is made of noise and velocity, about equally
    return decoder


def latent_of(config, batch=2, height=13, width=9):
    """Latents that are brighter on one side, so that tiles differ from the whole in mean and variance."""
    latent = torch.randn(batch, config.latent_channels, height, width) * torch.linspace(0, 2, width)
    latent[0] += torch.linspace(-1, 1, height)[:, None]
    return latent


def decode_in_tiles(decoder, latent, tile, steps=2, advance=None):
    velocity = partial(velocity_in_tiles, decoder, tile=tile, device=CPU, advance=advance)
    return decoder.decode(latent, 7, steps, velocity)


def levels_apart(found, expected):
    return 255 * float((found - expected).abs().max())


@pytest.mark.parametrize("config", SIZES, ids=["equal", "deeper", "shallower", "preconditioned"])
@pytest.mark.parametrize("tile", [8, 20, 64])
def test_tiles_give_what_the_whole_gives(config, tile):
    decoder, latent = decoder_of(config), latent_of(config, height=13 if config.ratio < 8 else 7)
    whole = decoder.decode(latent, 7, 2)
    assert levels_apart(decode_in_tiles(decoder, latent, tile), whole) < OFF
    assert levels_apart(whole[0], whole[1]) > 255  # the network says something, and not the same of every latent


def test_ten_steps_do_not_add_up_the_rounding():
    decoder, latent = decoder_of(SMALL), latent_of(SMALL, batch=1)
    assert levels_apart(decode_in_tiles(decoder, latent, 24, 10), decoder.decode(latent, 7, 10)) < OFF


def test_a_tile_that_sees_only_itself_would_be_another_picture():
    """What the method is for: the network on a quarter of the picture, with the same noise, is far from the whole's."""
    decoder, latent = decoder_of(SMALL), latent_of(SMALL, 1, 8, 8)
    time, noise = torch.ones(1), torch.randn(1, 3, 32, 32)
    condition = decoder.condition(latent)
    whole = decoder.velocity(noise, time, condition)[..., :16, :16]
    alone = decoder.velocity(noise[..., :16, :16], time, condition[..., :16, :16])
    tiled = velocity_in_tiles(decoder, noise, time, condition, 16, CPU)[..., :16, :16]
    assert float((alone - whole).abs().max()) > 0.1
    assert float((tiled - whole).abs().max()) < 1e-4


def test_each_picture_has_its_own_time():
    decoder, latent = decoder_of(SMALL), latent_of(SMALL, 2, 8, 8)
    time, noise = torch.tensor([1.0, 0.3]), torch.randn(2, 3, 32, 32)
    condition = decoder.condition(latent)
    found = velocity_in_tiles(decoder, noise, time, condition, 12, CPU)
    torch.testing.assert_close(found, decoder.velocity(noise, time, condition), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float16, 11), (torch.bfloat16, 8)])
def test_in_shorter_formats_the_difference_is_their_rounding(dtype, bits):
    decoder, latent = decoder_of(SMALL), latent_of(SMALL, 1, 8, 8)
    time, noise, condition = torch.ones(1), torch.randn(1, 3, 32, 32), decoder.condition(latent)
    exact = decoder.velocity(noise, time, condition)
    decoder.to(dtype)
    whole = decoder.velocity(noise, time, condition)
    tiled = velocity_in_tiles(decoder, noise, time, condition, 12, CPU)
    assert tiled.dtype == torch.float32
    assert (tiled - exact).norm() < 1.5 * (whole - exact).norm()  # the tiles are no worse than the format
    assert (tiled - whole).norm() < 8 * 2.0**-bits * whole.norm()


def test_nothing_that_came_in_is_changed():
    decoder, latent = decoder_of(SMALL), latent_of(SMALL, 1, 8, 8)
    time, noise, condition = torch.ones(1), torch.randn(1, 3, 32, 32), decoder.condition(latent)
    given = [noise, condition, *decoder.parameters()]
    before = [value.clone() for value in given]
    velocity_in_tiles(decoder, noise, time, condition, 12, CPU)
    assert all(torch.equal(value, old) for value, old in zip(given, before, strict=True))


@pytest.mark.parametrize("config", SIZES, ids=["equal", "deeper", "shallower", "preconditioned"])
def test_progress_counts_every_tile_and_ends_at_the_total(config):
    seen = []
    decode_in_tiles(decoder_of(config), latent_of(config, height=7), 24, 1, lambda *counts: seen.append(counts))
    assert [done for done, _ in seen] == list(range(1, seen[-1][1] + 1))
    assert len({total for _, total in seen}) == 1
