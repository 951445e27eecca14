"""A decoder put onto the encoder of another VAE: by ReEditLoadREEDVAE, from a file that holds the decoder alone."""

import json
import logging

import comfy.model_management
import comfy.sd
import folder_paths
import nodes as host_nodes
import pytest
import torch
from diffusers import AutoencoderKL
from reedit.models.autoencoders.encoder_match import ENCODER_KEY, encoder_marks
from reedit.models.autoencoders.kl_layout import to_ldm_layout
from reedit.nodes.autoencoders import DTYPES, ReEditLoadREEDVAE, load_kl_vae
from safetensors.torch import load_file, save_file

FLOATS = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture
def vae_file(weights_folder):
    return weights_folder / "tiny_sd_autoencoder.safetensors"


@pytest.fixture
def weights(vae_file):
    return {name: value.float() for name, value in to_ldm_layout(load_file(vae_file)).items()}


def fresh_weights(widths=(32, 64, 96), channels=4, quantiser=True, **settings):
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        latent_channels=channels,
        use_quant_conv=quantiser,
        use_post_quant_conv=quantiser,
        **settings,
    )
    return to_ldm_layout(autoencoder.state_dict())


def keep(weights, file, dtype=torch.float32, metadata=None):
    save_file({name: value.to(dtype).contiguous() for name, value in weights.items()}, file, metadata)
    return file


def keep_decoder(weights, file, dtype=torch.float32, marked=None):
    """A file as training writes it: the decoder and its quantiser, with the marks of the encoder it was trained with."""
    decoder = {name: value for name, value in weights.items() if name.startswith(("decoder.", "post_quant_conv."))}
    metadata = None if marked is None else {ENCODER_KEY: json.dumps(encoder_marks(marked))}
    return keep(decoder, file, dtype, metadata)


def encode(vae, pixels):
    (latent,) = host_nodes.VAEEncode().encode(vae, pixels)
    return latent["samples"]


@pytest.mark.parametrize("stored", FLOATS)
@pytest.mark.parametrize("computing", FLOATS)
def test_latents_are_the_bases_to_the_bit(tmp_path, vae_file, weights, scenes, stored, computing):
    base = load_kl_vae(vae_file, dtype=computing)
    decoder = {name: value + 0.01 if name.startswith("decoder.") else value for name, value in weights.items()}
    vae = load_kl_vae(keep_decoder(decoder, tmp_path / "decoder.safetensors", stored, weights), base)
    assert vae.vae_dtype == base.vae_dtype == computing
    pixels = scenes[:2, :16, :24]  # a CPU takes its time over the shorter formats
    latent = encode(base, pixels)
    assert torch.equal(encode(vae, pixels), latent)
    assert not torch.equal(vae.decode(latent), base.decode(latent))


def test_the_base_is_not_changed(tmp_path, weights, scenes, vae_file):
    base = load_kl_vae(vae_file)
    before = {name: value.clone() for name, value in base.get_sd().items()}
    latent = encode(base, scenes)
    decoded = base.decode(latent)
    other = {name: value * 1.1 if name.startswith("decoder.") else value for name, value in weights.items()}
    vae = load_kl_vae(keep_decoder(other, tmp_path / "decoder.safetensors"), base)
    vae.decode(encode(vae, scenes))
    del vae
    assert torch.equal(base.decode(latent), decoded)
    after = base.get_sd()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def test_the_encoder_lies_in_memory_once(tmp_path, vae_file, weights):
    base = load_kl_vae(vae_file)
    vae = load_kl_vae(keep_decoder(weights, tmp_path / "decoder.safetensors"), base)
    places = {name: value.data_ptr() for name, value in base.get_sd().items()}
    for name, value in vae.get_sd().items():
        shared = name.startswith(("encoder.", "quant_conv."))
        assert (value.data_ptr() == places[name]) == shared, name


@pytest.mark.parametrize("base_in_inference_mode", [False, True])
@pytest.mark.parametrize("loaded_in_inference_mode", [False, True])
def test_it_does_not_matter_in_which_mode_the_two_were_loaded(
    tmp_path, vae_file, weights, scenes, base_in_inference_mode, loaded_in_inference_mode
):
    file = keep_decoder(weights, tmp_path / "decoder.safetensors")
    with torch.inference_mode(base_in_inference_mode):
        base = load_kl_vae(vae_file)
    with torch.inference_mode(loaded_in_inference_mode):
        vae = load_kl_vae(file, base)
    assert torch.equal(encode(vae, scenes), encode(base, scenes))


def test_a_decoder_of_another_encoder_is_refused(tmp_path):
    """Same shapes, other values: only the marks tell. Without them it is loaded, as there is nothing to tell it by."""
    other = fresh_weights()
    base = load_kl_vae(keep(other, tmp_path / "base.safetensors"))
    trained = fresh_weights()
    with pytest.raises(
        ValueError,
        match=r"reed\.safetensors cannot .*trained with another encoder than that of base_vae: .*"
        r"root mean square of encoder\..* Connect as base_vae the VAE",
    ):
        load_kl_vae(keep_decoder(trained, tmp_path / "reed.safetensors", marked=trained), base)
    assert load_kl_vae(keep_decoder(trained, tmp_path / "bare.safetensors"), base).latent_channels == 4


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"channels": 16}, "its decoder takes latents of 16 channels, and the encoder makes 4"),
        ({"widths": (32, 64)}, r"its decoder makes 2×2 pixels of a latent cell \(2 levels\), and the encoder .*4×4"),
    ],
)
def test_a_decoder_of_other_latents_is_refused(tmp_path, tiny_vae, sizes, said):
    trained = fresh_weights(**sizes)
    file = keep_decoder(trained, tmp_path / "reed.safetensors", marked=trained)
    with pytest.raises(ValueError, match=f"reed.safetensors cannot be used .*encoder of base_vae: {said}.*Connect as"):
        load_kl_vae(file, tiny_vae)


def test_a_decoder_may_be_wider_and_deeper_than_the_encoder(tmp_path, tiny_vae, scenes):
    trained = fresh_weights((64, 64, 128), layers_per_block=2)
    vae = load_kl_vae(keep_decoder(trained, tmp_path / "wide.safetensors"), tiny_vae)
    latent = encode(tiny_vae, scenes)
    assert torch.equal(encode(vae, scenes), latent)
    reference = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(64, 64, 128),
        layers_per_block=2,
    )
    reference.load_state_dict(_in_diffusers_names(reference, trained))
    expected = reference.decode(latent).sample.movedim(1, -1) / 2 + 0.5
    torch.testing.assert_close(vae.decode(latent), expected.clamp(0, 1), atol=2e-5, rtol=1e-4)


def _in_diffusers_names(reference, ldm):
    names = to_ldm_layout({name: torch.tensor(float(i)) for i, name in enumerate(reference.state_dict())})
    originals = list(reference.state_dict().items())
    return {
        originals[int(index)][0]: ldm[name].reshape(originals[int(index)][1].shape) for name, index in names.items()
    }


def without_numbers(**shapes):
    """A host VAE object of another kind, which the host tells by the tensors named here. The numbers are whatever."""
    return comfy.sd.VAE(sd={name.replace("__", "."): torch.zeros(shape) for name, shape in shapes.items()})


OTHER_KINDS = {
    "tiny": {"taesd_decoder__1__weight": (64, 4, 3, 3)},
    "pixels": {"pixel_space_vae": ()},
    "wan": {
        "decoder__middle__0__residual__0__gamma": (32, 1, 1, 1),
        "decoder__head__0__gamma": (8, 1, 1, 1),
        "encoder__conv1__weight": (8, 3, 3, 3, 3),
        "decoder__head__2__weight": (3, 8, 3, 3, 3),
    },
    "flux 2": {
        "decoder__conv_in__weight": (512, 32, 3, 3),
        "post_quant_conv__weight": (32, 32, 1, 1),
        "bn__running_mean": (128,),
    },
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_a_base_of_another_kind_is_refused(tmp_path, weights, kind):
    file = keep_decoder(weights, tmp_path / "decoder.safetensors")
    with pytest.raises(
        ValueError, match=r"decoder\.safetensors cannot be used as a VAE: base_vae \(\w+\) (has no|makes)"
    ):
        load_kl_vae(file, without_numbers(**OTHER_KINDS[kind]))


def test_a_whole_file_of_two_parts_that_do_not_fit_is_refused(tmp_path, weights):
    encoder = {
        name: value for name, value in fresh_weights(channels=8).items() if "decoder" not in name and "post" not in name
    }
    decoder = {name: value for name, value in weights.items() if name.startswith(("decoder.", "post_quant_conv."))}
    file = keep(encoder | decoder, tmp_path / "patched.safetensors")
    with pytest.raises(
        ValueError, match=r"patched\.safetensors .*takes latents of 4 channels, and the encoder makes 8"
    ):
        load_kl_vae(file)


def test_the_node_takes_a_precision(tmp_path, weights, monkeypatch):
    keep(weights, tmp_path / "whole.safetensors")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "vae", ([str(tmp_path)], {".safetensors"}))
    (vae,) = ReEditLoadREEDVAE.execute("whole.safetensors").result
    assert vae.vae_dtype == comfy.model_management.vae_dtype(vae.device, vae.working_dtypes)
    (short,) = ReEditLoadREEDVAE.execute("whole.safetensors", dtype="bf16").result
    assert short.vae_dtype == torch.bfloat16
    decoder = keep_decoder(weights, tmp_path / "decoder.safetensors")
    (swapped,) = ReEditLoadREEDVAE.execute(decoder.name, short).result
    assert swapped.vae_dtype == torch.bfloat16
    (chosen,) = ReEditLoadREEDVAE.execute(decoder.name, short, "fp32").result
    assert chosen.vae_dtype == torch.float32 and short.vae_dtype == torch.bfloat16


def test_a_file_of_flux_2_is_refused(tmp_path, weights):
    file = keep(weights | {"bn.running_mean": torch.zeros(16)}, tmp_path / "flux2.safetensors")
    with pytest.raises(ValueError, match=r"flux2\.safetensors .*folded and normalised, as Flux 2's.*Use Load VAE"):
        load_kl_vae(file)


def test_a_whole_file_does_not_use_the_base_and_says_so(tmp_path, vae_file, tiny_vae, scenes, caplog):
    caplog.set_level(logging.INFO)
    vae = load_kl_vae(vae_file, tiny_vae)
    assert torch.equal(encode(vae, scenes), encode(tiny_vae, scenes))
    assert "holds a whole VAE, so base_vae is not used. Its encoder is the same one." in caplog.text
    other = load_kl_vae(keep(fresh_weights(), tmp_path / "other.safetensors"), tiny_vae)
    assert not torch.equal(encode(other, scenes), encode(tiny_vae, scenes))
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "other.safetensors holds a whole VAE, so base_vae is not used. Its encoder is another one" in warning.message


@pytest.mark.parametrize(("name", "bits"), [("fp16", 11), ("bf16", 8)])
def test_a_shorter_format_differs_by_what_it_rounds(vae_file, tiny_vae, scenes, name, bits):
    """Some twenty layers each round the weights and what goes through them, by at most 2^-bits."""
    vae = load_kl_vae(vae_file, dtype=DTYPES[name])
    assert all(value.dtype == DTYPES[name] for value in vae.get_sd().values())
    pixels = scenes[:1, 16:48, 16:48]
    latent = encode(tiny_vae, pixels)
    for found, exact in ((encode(vae, pixels), latent), (vae.decode(latent), tiny_vae.decode(latent))):
        error = float((found - exact).norm() / exact.norm())
        assert 0 < error < 10 * 2.0**-bits


def test_an_autoencoder_without_quantisers_is_kept_without(tmp_path, scenes):
    """Flux has none: latents are what the encoder gives, and what the host saves has the layout that was loaded."""
    weights = fresh_weights(channels=16, quantiser=False)
    file = keep(weights, tmp_path / "flux.safetensors")
    vae = load_kl_vae(file)
    assert vae.get_sd().keys() == weights.keys()
    swapped = load_kl_vae(keep_decoder(weights, tmp_path / "decoder.safetensors", marked=weights), vae)
    assert torch.equal(encode(swapped, scenes), encode(vae, scenes))


def test_at_standard_width_it_is_the_vae_that_the_hosts_loader_gives(tmp_path, scenes, monkeypatch):
    """Random numbers in the sizes of Stable Diffusion's: a whole file, and its decoder over the host's VAE."""
    weights = fresh_weights((128, 256, 512, 512), layers_per_block=2)
    whole = keep(weights, tmp_path / "whole.safetensors", torch.float16)
    decoder = keep_decoder(weights, tmp_path / "decoder.safetensors", torch.float16, marked=weights)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "vae", ([str(tmp_path)], {".safetensors"}))
    (stock,) = host_nodes.VAELoader().load_vae("whole.safetensors")
    pixels = scenes[:1]
    latent, picture = encode(stock, pixels), stock.decode(encode(stock, pixels))
    for vae in (load_kl_vae(whole), load_kl_vae(decoder, stock)):
        assert torch.equal(encode(vae, pixels), latent)
        assert torch.equal(vae.decode(latent), picture)
