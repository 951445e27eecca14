"""Reference: the network at once, on the whole picture, as the host computes it."""

from types import SimpleNamespace

import pytest
import torch
from reedit.models.autoencoders.kl_layout import KLConfig, to_ldm_layout
from reedit.models.autoencoders.kl_network import build_autoencoder
from reedit.models.autoencoders.receptive_field import textured_picture
from reedit.models.autoencoders.tiles import can_run_in_tiles, decode_in_tiles, encode_in_tiles, split_evenly
from reedit.nodes.autoencoders import build_host_vae

CPU = torch.device("cpu")
SIZES = [
    KLConfig(32, (1, 2, 2), 1, 4, ()),
    KLConfig(32, (1, 1, 2, 4), 2, 16, (3,)),  # attention beside the middle one
    KLConfig(64, (1, 1), 3, 8, ()),
    KLConfig(64, (1, 2), 1, 4, (0,)),
]


def network_of(config, quantisers=True):
    torch.manual_seed(3)
    weights = to_ldm_layout(build_autoencoder(config, quantisers).state_dict())
    for name, value in weights.items():
        if "norm" in name:  # fresh norms have weights of 1 and biases of 0, which would hide a mistake with them
            value += 0.3 * torch.randn_like(value)
    return build_host_vae(weights, config).first_stage_model


def inputs(config, batch=2):
    """Two pictures that are brighter on one side, so that tiles differ from the whole in mean and variance."""
    picture = (
        textured_picture(13 * config.ratio, seed=1).movedim(-1, 1)[..., : 9 * config.ratio, :].repeat(batch, 1, 1, 1)
    )
    picture = picture * torch.linspace(0, 1, picture.shape[-1])
    picture[1:] = 1 - picture[1:]
    return picture * 2 - 1


@pytest.mark.parametrize("config", SIZES, ids=str)
@pytest.mark.parametrize("tile", [1, 4, 7])
def test_tiles_give_what_the_whole_gives(config, tile):
    network, picture = network_of(config), inputs(config)
    latent = network.encode(picture)
    torch.testing.assert_close(encode_in_tiles(network, picture, config.ratio, tile, CPU), latent, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        decode_in_tiles(network, latent, tile, CPU), network.decode(latent), atol=1e-4, rtol=1e-4
    )


def test_a_network_without_quantisers():
    network, picture = network_of(SIZES[0], quantisers=False), inputs(SIZES[0])
    latent = network.encode(picture)
    torch.testing.assert_close(encode_in_tiles(network, picture, 4, 5, CPU), latent, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(decode_in_tiles(network, latent, 5, CPU), network.decode(latent), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float16, 11), (torch.bfloat16, 8)])
def test_in_shorter_formats_the_difference_is_their_rounding(dtype, bits):
    network, picture = network_of(SIZES[0]).to(dtype), inputs(SIZES[0], batch=1).to(dtype)
    latent = network.encode(picture)
    exact = network.decode(latent)
    for found, whole in (
        (encode_in_tiles(network, picture, 4, 5, CPU), latent),
        (decode_in_tiles(network, latent, 5, CPU), exact),
    ):
        assert found.dtype == dtype
        assert (found - whole).float().norm() < 4 * 2.0**-bits * whole.float().norm()


def test_nothing_that_came_in_is_changed():
    network, picture = network_of(SIZES[0]), inputs(SIZES[0])
    before, weights = picture.clone(), {name: value.clone() for name, value in network.state_dict().items()}
    latent = encode_in_tiles(network, picture, 4, 5, CPU)
    kept = latent.clone()
    decode_in_tiles(network, latent, 5, CPU)
    assert torch.equal(picture, before) and torch.equal(latent, kept)
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("config", SIZES[:2], ids=str)
def test_progress_counts_every_tile_and_ends_at_the_total(config):
    network, picture = network_of(config), inputs(config)
    for work in (
        lambda advance: encode_in_tiles(network, picture, config.ratio, 5, CPU, advance),
        lambda advance: decode_in_tiles(network, network.encode(picture), 5, CPU, advance),
    ):
        seen: list[tuple[int, int]] = []
        work(lambda done, total, seen=seen: seen.append((done, total)))
        assert [done for done, _ in seen] == list(range(1, seen[-1][1] + 1))
        assert len({total for _, total in seen}) == 1


def test_spans_cover_the_length_and_are_about_equal():
    for length in range(1, 40):
        for longest in range(1, 12):
            spans = split_evenly(length, longest)
            assert [cell for start, end in spans for cell in range(start, end)] == list(range(length))
            sizes = [end - start for start, end in spans]
            assert max(sizes) <= longest and max(sizes) - min(sizes) <= 1 and len(spans) == -(-length // longest)


def test_other_networks_are_known_as_such():
    assert can_run_in_tiles(network_of(SIZES[1])) and can_run_in_tiles(network_of(SIZES[0], quantisers=False))
    assert not can_run_in_tiles(torch.nn.Conv2d(3, 3, 1)) and not can_run_in_tiles(None)
    folded = network_of(SIZES[0])
    folded.bn = torch.nn.BatchNorm2d(16)  # as in Flux 2's
    assert not can_run_in_tiles(folded)
    timed = network_of(SIZES[0])
    timed.decoder.up[0].block[0].time_stack = torch.nn.Conv2d(3, 3, 1)  # as in Stable Video Diffusion's decoder
    assert not can_run_in_tiles(timed)
    assert not can_run_in_tiles(SimpleNamespace(encoder=SimpleNamespace(mid=1), decoder=SimpleNamespace(mid=1)))
