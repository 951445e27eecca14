"""From a file and a folder of pictures to a file, and what the host then makes of it."""

import json
import resource

import folder_paths
import nodes as host_nodes
import pytest
import torch
from diffusers import AutoencoderKL
from reedit.models.autoencoders.encoder_match import ENCODER_KEY, encoder_marks
from reedit.models.autoencoders.kl_file import read_autoencoder
from reedit.models.autoencoders.kl_layout import to_ldm_layout
from reedit.models.files import fingerprint
from reedit.models.training.train_reed import train_reed
from reedit.nodes.autoencoders import load_kl_vae
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_training import fresh_weights, small_settings, write_autoencoder, write_pictures

QUICK = small_settings(steps=1, validate_every=1)
DECODER = ("decoder.", "post_quant_conv.")


def metadata_of(path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_file_has_the_bases_layout_precision_and_encoder_and_another_decoder(tmp_path, pictures, layout, dtype):
    base = write_autoencoder(tmp_path / "base.safetensors", layout, dtype)
    before = base.read_bytes()
    train_reed(base, pictures, tmp_path / "out" / "reed.safetensors", QUICK, cpu=True)
    given, written = load_file(base), load_file(tmp_path / "out" / "reed.safetensors")
    assert {name: (value.dtype, value.shape) for name, value in written.items()} == {
        name: (value.dtype, value.shape) for name, value in given.items()
    }
    changed = {name for name in given if not torch.equal(given[name], written[name])}
    assert all(name.startswith(DECODER) for name in changed)
    weights = {name for name in given if name.startswith(DECODER) and name.endswith("weight")}
    assert {name for name in weights if given[name].ndim == 4} <= changed
    assert base.read_bytes() == before
    assert all(value.isfinite().all() for value in written.values())


@pytest.mark.parametrize("prefix", ["first_stage_model.", "vae."])
def test_of_a_checkpoint_the_vae_alone_is_written_without_its_prefix(tmp_path, pictures, prefix):
    others = {"model.diffusion_model.out.0.weight": torch.zeros(4), "cond_stage_model.x": torch.zeros(1)}
    base = write_autoencoder(tmp_path / "checkpoint.safetensors", prefix=prefix, **others)
    train_reed(base, pictures, tmp_path / "reed.safetensors", QUICK, cpu=True)
    assert load_file(tmp_path / "reed.safetensors").keys() == fresh_weights().keys()


def test_what_is_written_is_what_the_run_ended_with(tmp_path, base, pictures):
    """The averaged weights: in the state's own words."""
    train_reed(base, pictures, tmp_path / "reed.safetensors", QUICK, cpu=True)
    state = load_file(tmp_path / "reed.run" / "state.safetensors")
    written = load_file(tmp_path / "reed.safetensors")
    averages = {name.removeprefix("average."): value for name, value in state.items() if name.startswith("average.")}
    expected = to_ldm_layout(fresh_weights("diffusers") | averages)
    assert expected.keys() == written.keys()
    assert all(torch.equal(expected[name], written[name]) for name in expected)


@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
def test_the_host_encodes_with_it_to_the_same_bits_and_decodes_as_diffusers_does(tmp_path, pictures, layout):
    base = write_autoencoder(tmp_path / "base.safetensors", layout)
    train_reed(base, pictures, tmp_path / "reed.safetensors", QUICK, cpu=True)
    before, after = (load_kl_vae(tmp_path / name) for name in ("base.safetensors", "reed.safetensors"))
    pixels = torch.rand(1, 32, 24, 3)
    with torch.inference_mode():
        latent = before.encode(pixels)
        assert torch.equal(after.encode(pixels), latent)
        assert not torch.allclose(after.decode(latent), before.decode(latent), atol=1e-4)
        if layout == "diffusers":
            network = AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
                block_out_channels=(32, 64),
                layers_per_block=1,
            )
            network.load_state_dict(load_file(tmp_path / "reed.safetensors"))
            expected = (network.decode(latent).sample / 2 + 0.5).clamp(0, 1).movedim(1, -1)
            torch.testing.assert_close(after.decode(latent), expected, rtol=1e-4, atol=1e-5)


def test_a_decoder_alone_goes_over_its_base_and_no_other(tmp_path, base, pictures):
    train_reed(base, pictures, tmp_path / "whole.safetensors", QUICK, cpu=True)
    train_reed(base, pictures, tmp_path / "decoder.safetensors", QUICK, decoder_only=True, cpu=True)
    assert all(name.startswith(DECODER) for name in load_file(tmp_path / "decoder.safetensors"))
    base_vae, whole = load_kl_vae(base), load_kl_vae(tmp_path / "whole.safetensors")
    over_base = load_kl_vae(tmp_path / "decoder.safetensors", base_vae)
    pixels = torch.rand(1, 16, 16, 3)
    with torch.inference_mode():
        latent = base_vae.encode(pixels)
        assert torch.equal(over_base.encode(pixels), latent)
        assert torch.equal(over_base.decode(latent), whole.decode(latent))
    other = tmp_path / "other.safetensors"
    save_file({name: value.contiguous() for name, value in fresh_weights(seed=1).items()}, other)
    with pytest.raises(ValueError, match=r"decoder\.safetensors .* trained with another encoder"):
        load_kl_vae(tmp_path / "decoder.safetensors", load_kl_vae(other))


def test_the_metadata_tells_what_it_was_made_of_and_how(tmp_path, base, pictures):
    settings = small_settings(steps=2, perceptual=0.1)
    rows = train_reed(base, pictures, tmp_path / "reed.safetensors", settings, cpu=True)
    metadata = metadata_of(tmp_path / "reed.safetensors")
    about = json.loads(metadata["reedit"])
    assert about["base"] == fingerprint({name: value.contiguous() for name, value in fresh_weights().items()})
    assert type(settings)(**about["settings"]) == settings and about["figures"] == rows[-1]
    assert about["kind"] == "REED decoder" and about["perceptual"] in ("LPIPS", "MS-SSIM")
    assert json.loads(metadata[ENCODER_KEY]) == encoder_marks(fresh_weights())


def test_the_fingerprint_is_of_the_numbers_and_not_of_the_file(tmp_path):
    one = read_autoencoder(write_autoencoder(tmp_path / "a.safetensors"))
    for number, how in enumerate(({"layout": "diffusers"}, {"prefix": "first_stage_model."})):
        other = read_autoencoder(write_autoencoder(tmp_path / f"{number}.safetensors", **how))
        assert other.fingerprint() == one.fingerprint()
    rounded = read_autoencoder(write_autoencoder(tmp_path / "b.safetensors", dtype=torch.float16))
    assert rounded.fingerprint() != one.fingerprint()


# --- what is refused before work starts -------------------------------------------------------------------------------


def refused(tmp_path, base, pictures, said: str, settings=QUICK, output: str = "reed.safetensors", **more) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=said):
        train_reed(base, pictures, tmp_path / output, settings, cpu=True, **more)
    assert sorted(tmp_path.rglob("*")) == before  # nothing was begun


def test_a_video_vae_is_refused(tmp_path, pictures):
    weights = {name: value[:, :, None] if value.ndim == 4 else value for name, value in fresh_weights().items()}
    save_file({name: value.contiguous() for name, value in weights.items()}, tmp_path / "video.safetensors")
    refused(
        tmp_path,
        tmp_path / "video.safetensors",
        pictures,
        r"video\.safetensors cannot be trained: .* it is a video VAE",
    )


def test_a_lora_a_truncated_file_and_no_file_are_refused(tmp_path, pictures):
    save_file({"lora_unet_down.lora_up.weight": torch.zeros(4, 4)}, tmp_path / "lora.safetensors")
    refused(tmp_path, tmp_path / "lora.safetensors", pictures, r"lora\.safetensors cannot be used .* no KL autoencoder")
    whole = write_autoencoder(tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path, tmp_path / "cut.safetensors", pictures, r"cut\.safetensors is not a readable safetensors file")
    refused(tmp_path, tmp_path / "none.safetensors", pictures, r"none\.safetensors is not a readable safetensors file")


def test_a_decoder_alone_cannot_be_a_base(tmp_path, pictures):
    decoder = {name: value.contiguous() for name, value in fresh_weights().items() if name.startswith(DECODER)}
    save_file(decoder, tmp_path / "decoder.safetensors")
    said = r"decoder\.safetensors cannot be trained: encoder\..* is missing"
    refused(tmp_path, tmp_path / "decoder.safetensors", pictures, said)


def test_weights_that_are_no_numbers_are_refused(tmp_path, pictures):
    weights = {name: value.contiguous() for name, value in fresh_weights().items()}
    weights["decoder.conv_in.bias"] = torch.full_like(weights["decoder.conv_in.bias"], float("inf"))
    save_file(weights, tmp_path / "nan.safetensors")
    said = r"nan\.safetensors cannot be trained: decoder\.conv_in\.bias holds NaN or infinite values"
    refused(tmp_path, tmp_path / "nan.safetensors", pictures, said)


def test_settings_and_pictures_that_will_not_do_are_refused(tmp_path, base, pictures):
    refused(tmp_path, base, pictures, r"batch is 0, and must be 1 or more", small_settings(batch=0))
    refused(tmp_path, base, pictures, r"crop is 17, and this VAE needs a multiple of 2", small_settings(crop=17))
    refused(tmp_path, base, pictures, r"holds 0 pictures .* Left out 12: .* and 7 more", small_settings(crop=64))
    (tmp_path / "empty").mkdir()
    refused(tmp_path, base, tmp_path / "empty", r"pictures: .*empty holds 0 pictures")
    refused(tmp_path, base, tmp_path / "none", r"pictures: there is no folder .*none")


def test_places_that_would_do_harm_are_refused(tmp_path, pictures):
    base = write_autoencoder(tmp_path / "base.safetensors")
    refused(tmp_path, base, pictures, r"output: .*base\.safetensors is the base itself", output="base.safetensors")
    refused(tmp_path, base, pictures, r"output: .*reed\.ckpt must end in \.safetensors", output="reed.ckpt")
    (tmp_path / "folder.safetensors").mkdir()
    refused(tmp_path, base, pictures, r"output: .* is a folder", output="folder.safetensors")
    own = write_pictures(tmp_path / "own", 2)
    refused(tmp_path, base, own, r"run: .*own/reed\.run lies among the pictures", output="own/reed.safetensors")


def test_a_disk_that_fills_while_the_file_is_written_leaves_the_old_one(tmp_path):
    stored = read_autoencoder(write_autoencoder(tmp_path / "base.safetensors"))
    output = tmp_path / "reed.safetensors"
    output.write_bytes(b"the old one")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # Python ignores the signal, so writing fails half-way
    try:
        with pytest.raises(OSError, match=str(output)):
            stored.save(output, {"about": "it"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert output.read_bytes() == b"the old one"
    assert {path.name for path in tmp_path.iterdir()} == {"base.safetensors", "reed.safetensors"}
    stored.save(output, {"about": "it"})
    assert metadata_of(output) == {"format": "pt", "about": "it"}
    assert torch.equal(load_file(output)["decoder.conv_in.bias"], stored.tensors["decoder.conv_in.bias"])


# --- real size --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_file_of_stable_diffusions_size_goes_through_training_and_the_stock_loader(tmp_path, pictures, monkeypatch):
    """83.7 million numbers in half precision, one step at the smallest crop, then the host's own Load VAE."""
    from random_families import SD15_VAE, random_vae

    tensors = {
        name: value.half().contiguous()
        for name, value in random_vae(4, sizes=SD15_VAE).first_stage_model.state_dict().items()
    }
    save_file(tensors, tmp_path / "base.safetensors")
    del tensors
    train_reed(tmp_path / "base.safetensors", pictures, tmp_path / "reed.safetensors", QUICK, cpu=True)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "vae", ([str(tmp_path)], {".safetensors"}))
    with torch.inference_mode():
        pixels = torch.rand(1, 16, 16, 3)
        latents = []
        for name in ("base.safetensors", "reed.safetensors"):
            (vae,) = host_nodes.VAELoader().load_vae(name)
            latents.append(vae.encode(pixels))
            decoded = vae.decode(latents[0])
            assert decoded.shape == (1, 16, 16, 3) and decoded.isfinite().all()
            del vae
    assert torch.equal(*latents)
