"""Tiles: those of the pack's two nodes, and the host's own with a VAE from the pack's loader."""

import comfy.model_management
import comfy.sd
import comfy.utils
import nodes as host_nodes
import pytest
import torch
from reedit.models.autoencoders.receptive_field import textured_picture
from reedit.models.session.record import KEY
from reedit.nodes.autoencoders import ReEditDecode, ReEditEncode, load_kl_vae


@pytest.fixture(scope="module")
def picture(scenes):
    """A picture of 128×192 pixels, dark in one corner and light in another."""
    rows = torch.cat([torch.cat([scenes[0], scenes[1], scenes[2]], 1), torch.cat([scenes[3], scenes[0], scenes[1]], 1)])
    light = torch.linspace(0.3, 1, 128)[:, None, None] * torch.linspace(0.3, 1, 192)[:, None]
    return (rows * light)[None]


def test_tiles_change_nothing_but_the_rounding(tiny_vae, picture):
    (whole,) = ReEditEncode.execute(picture, tiny_vae).result
    (tiled,) = ReEditEncode.execute(picture, tiny_vae, "refuse", 64).result
    torch.testing.assert_close(tiled["samples"], whole["samples"], atol=1e-4, rtol=1e-4)
    assert tiled[KEY].source_encoded_pixels == whole[KEY].source_encoded_pixels == 128 * 192
    shown, passed = ReEditDecode.execute(whole, tiny_vae, 64).result
    expected, _ = ReEditDecode.execute(whole, tiny_vae).result
    assert shown.shape == expected.shape == picture.shape and passed["samples"] is whole["samples"]
    assert 255 * (shown - expected).abs().max() < 0.05


def test_the_hosts_tiles_change_the_colours(tiny_vae, picture):
    """Why the pack has tiles of its own: should the host's ever do as well, these can go."""
    (latent,) = host_nodes.VAEEncode().encode(tiny_vae, picture)
    (tiled,) = host_nodes.VAEDecodeTiled().decode(tiny_vae, latent, 64, 16)
    off = 255 * (tiled - tiny_vae.decode(latent["samples"]))
    assert off[:, :64, :64].mean((0, 1, 2)).abs().max() > 0.5


def test_a_picture_that_is_one_tile_is_worked_on_whole(tiny_vae, scenes):
    (latent,) = ReEditEncode.execute(scenes, tiny_vae, "refuse", 64).result
    assert torch.equal(latent["samples"], tiny_vae.encode(scenes))
    assert torch.equal(ReEditDecode.execute(latent, tiny_vae, 64).result[0], tiny_vae.decode(latent["samples"]))


def test_what_came_in_is_not_changed(tiny_vae, picture):
    before = picture.clone()
    (latent,) = ReEditEncode.execute(picture, tiny_vae, "refuse", 64).result
    kept = latent["samples"].clone()
    ReEditDecode.execute(latent, tiny_vae, 64)
    assert torch.equal(picture, before) and torch.equal(latent["samples"], kept)


def test_progress_is_shown_and_an_interrupt_is_heeded(tiny_vae, picture, monkeypatch):
    seen = []

    def hook(value, total, preview, **rest):
        seen.append((value, total))
        if value > 5:
            raise comfy.model_management.InterruptProcessingException

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0)
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_PERCENT", 0)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        ReEditEncode.execute(picture, tiny_vae, "refuse", 64)
    assert seen[0][0] == 1 and seen[-1][0] == 6 < seen[-1][1]


def test_a_vae_of_another_kind_goes_through_the_hosts_tiles():
    """A tiny autoencoder: the host has it, and it has no norms, so that its tiles fit."""
    vae = comfy.sd.VAE(sd={"taesd_decoder.1.weight": torch.zeros(64, 4, 3, 3)})
    for parameter in vae.first_stage_model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    pixels = textured_picture(96, seed=4)
    (latent,) = ReEditEncode.execute(pixels, vae, "refuse", 64).result
    assert torch.equal(latent["samples"], vae.encode_tiled(pixels, tile_x=64, tile_y=64, overlap=16))
    shown, _ = ReEditDecode.execute(latent, vae, 64).result
    assert torch.equal(shown, vae.decode_tiled(latent["samples"], tile_x=8, tile_y=8, overlap=2))


def test_a_video_vae_goes_through_the_hosts_tiles(narrow_wan_vae):
    shown, _ = ReEditDecode.execute({"samples": torch.randn(1, 16, 1, 8, 12)}, narrow_wan_vae, 64).result
    assert shown.shape == (1, 64, 96, 3)


# --- the host's own, with a VAE of ratio 4 ----------------------------------------------------------------------------


def test_the_hosts_tiled_nodes_give_the_right_sizes(tiny_vae, picture):
    (latent,) = host_nodes.VAEEncodeTiled().encode(tiny_vae, picture, 64, 16)
    assert latent["samples"].shape == (1, 4, 32, 48)
    (decoded,) = host_nodes.VAEDecodeTiled().decode(tiny_vae, latent, 64, 16)
    assert decoded.shape == picture.shape and bool(decoded.isfinite().all())


def test_the_hosts_way_out_of_a_full_memory_gives_the_right_sizes(weights_folder, picture, monkeypatch):
    """The first call of the network runs out of memory, as on a small card; the host then tries with tiles."""
    vae = load_kl_vae(weights_folder / "tiny_sd_autoencoder.safetensors")
    for name, given, shape in (
        ("encode", picture, (1, 4, 32, 48)),
        ("decode", torch.randn(1, 4, 32, 48), picture.shape),
    ):
        network, calls = getattr(vae.first_stage_model, name), []

        def small_memory(values, network=network, calls=calls):
            calls.append(values.shape)
            if len(calls) == 1:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return network(values)

        monkeypatch.setattr(vae.first_stage_model, name, small_memory)
        assert getattr(vae, name)(given).shape == shape
        assert len(calls) > 1
