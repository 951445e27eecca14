import pytest
import torch
from reedit.models.autoencoders.kl_layout import to_ldm_layout
from reedit.models.session.record import KEY
from reedit.nodes.autoencoders import ReEditDecode, ReEditEncode, load_kl_vae
from safetensors.torch import load_file, save_file


@pytest.fixture
def vae_file(weights_folder):
    return weights_folder / "tiny_sd_autoencoder.safetensors"


def test_encode_starts_a_record_and_decode_passes_the_latent_through(tiny_vae, scenes):
    (latent,) = ReEditEncode.execute(scenes, tiny_vae).result
    assert latent["samples"].shape == (4, 4, 16, 16)
    assert latent[KEY].source_encoded_pixels == 4 * 64 * 64
    picture, passed = ReEditDecode.execute(latent, tiny_vae).result
    assert picture.shape == scenes.shape
    assert passed["samples"] is latent["samples"] and passed[KEY] is latent[KEY]
    error = (picture - scenes).square().mean()
    assert -10 * torch.log10(error) > 34


def test_encoding_is_the_hosts_and_deterministic(tiny_vae, scenes):
    (latent,) = ReEditEncode.execute(scenes, tiny_vae).result
    assert torch.equal(latent["samples"], tiny_vae.encode(scenes))


def test_a_picture_that_does_not_fit_is_refused_cropped_or_padded(tiny_vae):
    picture = torch.rand(1, 66, 71, 3)
    with pytest.raises(ValueError, match=r"pixels is 71×66, and this VAE needs multiples of 4: 68×64 fits. Set fit"):
        ReEditEncode.execute(picture, tiny_vae)
    (cropped,) = ReEditEncode.execute(picture, tiny_vae, "crop").result
    assert torch.equal(cropped["samples"], tiny_vae.encode(picture[:, 1:65, 1:69]))
    (padded,) = ReEditEncode.execute(picture, tiny_vae, "pad").result
    assert padded["samples"].shape[-2:] == (17, 18)


def test_a_picture_with_alpha_loses_it_and_a_grey_one_is_refused(tiny_vae, scenes):
    with_alpha = torch.cat([scenes, torch.zeros_like(scenes[..., :1])], -1)
    (latent,) = ReEditEncode.execute(with_alpha, tiny_vae).result
    assert torch.equal(latent["samples"], tiny_vae.encode(scenes))
    with pytest.raises(ValueError, match=r"pixels has shape \(4, 64, 64, 1\)"):
        ReEditEncode.execute(scenes[..., :1], tiny_vae)


def test_a_latent_of_other_channels_is_refused(tiny_vae):
    with pytest.raises(ValueError, match=r"samples has 16 channels, but this VAE decodes latents of 4"):
        ReEditDecode.execute({"samples": torch.zeros(1, 16, 8, 8)}, tiny_vae)


def test_a_latent_with_nan_is_refused(tiny_vae):
    with pytest.raises(ValueError, match="samples holds 256 values that are NaN"):
        ReEditDecode.execute({"samples": torch.full((1, 4, 8, 8), float("nan"))}, tiny_vae)


def test_a_file_that_is_no_vae_is_named(tmp_path):
    file = tmp_path / "lora.safetensors"
    save_file({"lora_up.weight": torch.zeros(4, 4)}, file)
    with pytest.raises(ValueError, match=r"lora\.safetensors cannot be used as a VAE: it holds no KL autoencoder"):
        load_kl_vae(file)


def test_a_truncated_file_is_named(tmp_path, vae_file):
    file = tmp_path / "half.safetensors"
    file.write_bytes(vae_file.read_bytes()[:100_000])
    with pytest.raises(
        ValueError, match=r"half\.safetensors is not a readable safetensors file.*Is the download whole"
    ):
        load_kl_vae(file)


def test_a_file_of_another_kind_is_named(tmp_path):
    file = tmp_path / "picture.safetensors"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" * 100)
    with pytest.raises(ValueError, match=r"picture\.safetensors is not a readable safetensors file"):
        load_kl_vae(file)


def test_a_file_with_a_tensor_missing_says_which(tmp_path, vae_file):
    weights = load_file(vae_file)
    del weights["encoder.mid_block.resnets.0.conv1.weight"]
    file = tmp_path / "gap.safetensors"
    save_file(weights, file)
    with pytest.raises(ValueError, match=r"gap\.safetensors .*encoder\.mid\.block_1\.conv1\.weight is missing"):
        load_kl_vae(file)


def test_a_decoder_alone_takes_the_encoder_of_the_base_vae(tmp_path, vae_file, tiny_vae, scenes):
    decoder = {name: value for name, value in to_ldm_layout(load_file(vae_file)).items() if "encoder" not in name}
    decoder = {name: value.contiguous() for name, value in decoder.items() if not name.startswith("quant_conv")}
    file = tmp_path / "decoder.safetensors"
    save_file(decoder, file)
    with pytest.raises(ValueError, match="holds a decoder only. Connect base_vae"):
        load_kl_vae(file)
    vae = load_kl_vae(file, tiny_vae)
    assert torch.equal(vae.encode(scenes), tiny_vae.encode(scenes))
    latent = tiny_vae.encode(scenes)
    torch.testing.assert_close(vae.decode(latent), tiny_vae.decode(latent))


def test_the_hosts_own_nodes_take_the_vae(tiny_vae, scenes):
    import nodes as host_nodes

    (latent,) = host_nodes.VAEEncode().encode(tiny_vae, scenes)
    (picture,) = host_nodes.VAEDecode().decode(tiny_vae, latent)
    assert picture.shape == scenes.shape
    (tiled,) = host_nodes.VAEDecodeTiled().decode(tiny_vae, latent, 64, 16)
    assert tiled.shape == scenes.shape
