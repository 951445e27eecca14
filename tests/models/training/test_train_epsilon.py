"""From a base and a folder of pictures to an eps-VAE decoder's file."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from random_families import random_vae
from reedit.models.autoencoders.encoder_match import ENCODER_KEY, encoder_marks
from reedit.models.autoencoders.epsilon import EpsilonDecoder
from reedit.models.autoencoders.epsilon_layout import config_of_size, read_epsilon_decoder
from reedit.models.autoencoders.kl_file import read_autoencoder
from reedit.models.autoencoders.kl_network import KLNetwork
from reedit.models.training.pictures import PictureFolder
from reedit.models.training.train_epsilon import train_epsilon
from safetensors.torch import save_file
from small_epsilon import small_settings
from small_training import StopHere, fresh_weights, stop_after, write_autoencoder, write_pictures
from tiny_sd.world import draw, random_scene

DEMO_VAE = Path(sys.modules["tiny_sd"].__file__).parent / "weights" / "tiny_sd_autoencoder.safetensors"
QUICK = small_settings(steps=1, validate_every=1)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    """A folder of sixteen pictures of the demo's world, 64×64."""
    folder, random = tmp_path_factory.mktemp("scenes"), np.random.default_rng(5)
    for number in range(16):
        picture = (255 * draw(random_scene(random))).round().astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{number:02}.png")
    return folder


def test_held_out_pictures_come_nearer(tmp_path, scenes):
    """What it is all for: of the demo's latents, at one step and at three, with all that the paper's training has."""
    settings = small_settings(
        steps=40, batch=2, crop=32, learning_rate=2e-3, warm_up=5, validate_every=10, save_every=40, adversarial=0.02
    )
    rows = train_epsilon(DEMO_VAE, scenes, tmp_path / "epsilon.safetensors", settings, cpu=True)
    for name in ("psnr@1", "psnr@3"):
        assert rows[-1][name] > rows[0][name] + 2, name
    assert rows[-1]["validation"] < 0.7 * rows[0]["validation"]
    assert rows[-1]["velocity"] < rows[0]["velocity"]
    stored = read_epsilon_decoder(tmp_path / "epsilon.safetensors")
    assert stored.about["figures"] == rows[-1]
    assert {tensor.dtype for tensor in stored.tensors.values()} == {torch.float16}  # the base's


def test_the_file_holds_the_averaged_weights_and_what_it_was_made_from(tmp_path, base, pictures):
    output = tmp_path / "out" / "epsilon.safetensors"
    settings = replace(QUICK, gamma=0.8, perceptual=0.1, preconditioned=True)
    rows = train_epsilon(base, pictures, output, settings, cpu=True)
    stored = read_epsilon_decoder(output)
    sizes = config_of_size("tiny", latent_channels=4, ratio=2)
    config = stored.config
    assert config == replace(
        sizes,
        gamma=0.8,
        preconditioned=True,
        picture_variance=config.picture_variance,
        latent_shift=config.latent_shift,
        latent_scale=config.latent_scale,
    )
    assert 0.01 < config.picture_variance < 1 and config.latent_scale not in (0.0, 1.0) and config.latent_shift
    about = stored.about
    assert about["base"] == read_autoencoder(base).fingerprint() and about["figures"] == rows[-1]
    assert type(settings)(**about["settings"]) == settings and about["perceptual"] in ("LPIPS", "MS-SSIM")
    assert json.loads(stored.metadata[ENCODER_KEY]) == encoder_marks(fresh_weights())
    run = output.with_suffix(".run")
    assert sorted(path.name for path in run.iterdir()) == ["log.jsonl", "samples", "state.safetensors"]

    decoder = EpsilonDecoder(config)
    decoder.unet.load_state_dict(stored.tensors)
    folder_rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert folder_rows == rows


def test_the_figures_are_those_of_the_decoder_in_the_file(tmp_path, base, pictures):
    rows = train_epsilon(base, pictures, tmp_path / "epsilon.safetensors", QUICK, cpu=True)
    stored = read_epsilon_decoder(tmp_path / "epsilon.safetensors")
    decoder = EpsilonDecoder(stored.config)
    decoder.unet.load_state_dict(stored.tensors)
    held_out = PictureFolder(pictures, 16, 1, 0).held_out_pictures()
    with torch.no_grad():
        latent = KLNetwork(read_autoencoder(base).in_ldm_layout()).encode(held_out)
    for steps in (1, 3):
        error = (decoder.decode(latent, 0, steps).clamp(0, 1) - held_out).square().mean()
        assert rows[-1][f"psnr@{steps}"] == pytest.approx(-10 * error.log10().item(), abs=2e-3)


def test_a_run_that_is_stopped_goes_on_to_the_same_file(tmp_path, base, pictures):
    settings = small_settings(steps=4)
    rows = train_epsilon(base, pictures, tmp_path / "whole.safetensors", settings, cpu=True)
    with pytest.raises(StopHere):
        train_epsilon(
            base, pictures, tmp_path / "parts.safetensors", settings, tmp_path / "run", stop_after(2), cpu=True
        )
    assert not (tmp_path / "parts.safetensors").exists()
    again = train_epsilon(base, pictures, tmp_path / "parts.safetensors", settings, tmp_path / "run", cpu=True)
    assert again == rows
    whole, parts = (read_epsilon_decoder(tmp_path / f"{name}.safetensors") for name in ("whole", "parts"))
    assert whole.config == parts.config
    assert all(torch.equal(parts.tensors[name], value) for name, value in whole.tensors.items())


@pytest.mark.parametrize("channels", [4, 16])
def test_any_number_of_channels_and_no_quantisers_will_do(tmp_path, pictures, channels):
    weights = {
        name: value.contiguous() for name, value in random_vae(channels).get_sd().items() if "quant_conv" not in name
    }
    save_file(weights, tmp_path / "base.safetensors")
    train_epsilon(tmp_path / "base.safetensors", pictures, tmp_path / "epsilon.safetensors", QUICK, cpu=True)
    assert read_epsilon_decoder(tmp_path / "epsilon.safetensors").config.latent_channels == channels


def test_bad_input_is_refused_before_any_work(tmp_path, base, pictures):
    own = write_pictures(tmp_path / "own", 3)
    write_autoencoder(tmp_path / "base.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    output = tmp_path / "epsilon.safetensors"
    before = sorted(tmp_path.rglob("*"))
    mine = tmp_path / "base.safetensors"
    for given, said in (
        ((base, pictures, output, small_settings(size="S")), r"size is 'S'. Choose one of"),
        ((base, pictures, output, small_settings(crop=18)), r"crop is 18, and this VAE .* needs a multiple of 4"),
        ((base, pictures, output, small_settings(crop=64)), r"holds 0 pictures"),
        ((mine, pictures, mine, QUICK), r"output: .* is the base itself"),
        ((base, pictures, tmp_path / "epsilon.ckpt", QUICK), r"output: .* must end in \.safetensors"),
        ((base, own, own / "epsilon.safetensors", QUICK), r"run: .* lies among the pictures"),
        ((tmp_path / "text.safetensors", pictures, output, QUICK), r"text\.safetensors is not a readable"),
    ):
        with pytest.raises(ValueError, match=said):
            train_epsilon(*given, cpu=True)
        assert sorted(tmp_path.rglob("*")) == before
