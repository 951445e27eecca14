"""Corrected decoding in the host: what stock nodes get from it, in one piece and in tiles, over a REED-VAE and an eps-VAE."""

import comfy.model_management
import nodes as host_nodes
import pytest
import torch
from reedit.models.metrics.similarity import masked_psnr
from reedit.nodes.autoencoders import ReEditDecode, ReEditEncode, load_kl_vae
from reedit.nodes.correction import ReEditCorrectDecoding
from reedit.nodes.round_trip import ReEditRoundTripTest


def correct(vae, corrections=1):
    return ReEditCorrectDecoding.execute(vae, corrections)[0]


def decode(vae, samples):
    return host_nodes.VAEDecode().decode(vae, {"samples": samples})[0]


def test_the_hosts_decode_is_the_one_of_the_latent_that_is_read_rightly(tiny_vae, scenes):
    latent = tiny_vae.encode(scenes)
    plain = tiny_vae.decode(latent)
    expected = tiny_vae.decode(latent + latent - tiny_vae.encode(plain))
    corrected = decode(correct(tiny_vae), latent)
    torch.testing.assert_close(corrected, expected, rtol=0, atol=1e-5)
    off = (tiny_vae.encode(plain) - latent).square().mean()
    assert (tiny_vae.encode(corrected) - latent).square().mean() < off / 4
    assert torch.equal(tiny_vae.decode(latent), plain)  # it stays as it was
    assert torch.equal(decode(correct(tiny_vae, 0), latent), plain)


def test_encoding_is_the_vaes_own(tiny_vae, scenes):
    vae = correct(tiny_vae)
    assert torch.equal(host_nodes.VAEEncode().encode(vae, scenes)[0]["samples"], tiny_vae.encode(scenes))
    (ours,), (plain,) = (ReEditEncode.execute(scenes, one, "refuse", 32).result for one in (vae, tiny_vae))
    assert torch.equal(ours["samples"], plain["samples"])


def test_in_tiles_it_is_the_same_picture(tiny_vae, scenes):
    vae, latent = correct(tiny_vae), {"samples": tiny_vae.encode(scenes[:1])}
    whole = ReEditDecode.execute(latent, vae)[0]
    assert float((ReEditDecode.execute(latent, vae, 32)[0] - whole).abs().max()) < 1e-3
    assert float((host_nodes.VAEDecodeTiled().decode(vae, latent, 32, 16)[0] - whole).abs().max()) < 1e-3


def test_ten_passes_of_the_round_trip_test_leave_more(tiny_vae, scenes, weights_folder):
    reed = load_kl_vae(weights_folder / "tiny_sd_reed_decoder.safetensors", tiny_vae)
    marked, found = torch.ones(2, 64, 64, dtype=torch.bool), {}
    for name, vae in (("plain", tiny_vae), ("corrected", correct(tiny_vae)), ("REED, corrected", correct(reed))):
        last = ReEditRoundTripTest.execute(scenes[:2], vae, None, 10)[4]
        found[name] = masked_psnr(last, scenes[:2], marked)
    assert found["corrected"] > found["plain"] + 6
    assert found["REED, corrected"] > found["plain"] + 6


def test_it_can_be_interrupted(tiny_vae, scenes):
    latent = tiny_vae.encode(scenes[:1])
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        decode(correct(tiny_vae), latent)


def test_bad_input_is_refused(tiny_vae):
    for corrections in (-1, 9):
        with pytest.raises(ValueError, match=f"corrections is {corrections}, and must be 0 to 8"):
            correct(tiny_vae, corrections)
    with pytest.raises(ValueError, match="samples has 8 channels"):
        decode(correct(tiny_vae), torch.zeros(1, 8, 4, 4))


@pytest.mark.parametrize("name", ["narrow_wan_vae", "narrow_layered_vae"])
def test_a_videos_vae_takes_pictures_one_by_one(request, scenes, name):
    """As Qwen-Image's is: two latents of one frame each, against what the VAE itself makes of each alone, alpha included."""
    vae = request.getfixturevalue(name)
    latents = torch.cat([vae.encode(scene[None]) for scene in scenes[:2]])
    corrected = correct(vae).decode(latents)
    for latent, picture in zip(latents.split(1), corrected, strict=True):
        plain = vae.decode(latent)
        expected = vae.decode(latent + latent - vae.encode(plain[0]))
        assert float((expected - plain).abs().max()) > 0.05
        torch.testing.assert_close(picture[None], expected, rtol=0, atol=1e-4)
    assert decode(correct(vae), latents).shape[:3] == (2, 64, 64)
    tiled = ReEditDecode.execute({"samples": latents}, correct(vae), 32)[0]
    assert tiled.shape[:3] == (2, 64, 64)


def test_what_is_no_picture_is_refused(narrow_wan_vae, tiny_vae, monkeypatch):
    with pytest.raises(ValueError, match="samples is a video of 2 latent frames"):
        correct(narrow_wan_vae).decode(torch.randn(1, 16, 2, 8, 8))
    monkeypatch.setattr(narrow_wan_vae.first_stage_model, "decode", lambda latent: torch.zeros(1, 3, 4, 64, 64))
    with pytest.raises(ValueError, match="vae gave 4 pictures for 1 latent"):
        correct(narrow_wan_vae).decode(torch.randn(1, 16, 1, 8, 8))
    monkeypatch.setattr(tiny_vae, "latent_dim", 1)
    with pytest.raises(
        ValueError, match=r"vae \(\w+\) is no VAE of pictures. Connect one of a model of pictures or videos"
    ):
        correct(tiny_vae)
