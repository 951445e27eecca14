"""Training an eps-VAE decoder from inside the host, of the demo family's latents, a few steps each.

What all trainings share (stopping, folders, log, samples) is tested with ReEditTrainREED, in test_training.py.
"""

import json
import logging
from dataclasses import fields, replace
from pathlib import Path

import comfy.model_management
import comfy.utils
import numpy as np
import pytest
import torch
from comfy.model_management import InterruptProcessingException
from comfy.taesd.taesd import TAESD
from PIL import Image
from reedit.models.autoencoders.encoder_match import ENCODER_KEY, find_mismatch
from reedit.models.autoencoders.epsilon_layout import read_epsilon_decoder
from reedit.models.training.epsilon import EpsilonSettings
from reedit.nodes.epsilon import ReEditLoadEpsilonVAE
from reedit.nodes.training import SHOWN_EPSILON, ReEditTrainEpsilonVAE
from safetensors.torch import load_file, save_file

NAMES = ("vae", "samples", "log", "file")
QUICK = {
    "size": "tiny",
    "steps": 4,
    "batch": 1,
    "crop": 32,
    "learning_rate": 1e-3,
    "warm_up": 0,
    "perceptual": 0.0,
    "average_decay": 0.5,
    "held_out": 1,
    "validate_every": 2,
    "discriminator_width": 8,
}


@pytest.fixture(autouse=True)
def folders(training_folders):
    return training_folders


@pytest.fixture(autouse=True)
def hook(progress_hook):
    return progress_hook


def train(vae, name="epsilon", pictures="my_pictures", **settings) -> dict:
    given = ReEditTrainEpsilonVAE.execute(vae, pictures, name, **{**QUICK, **settings})
    return dict(zip(NAMES, given.result, strict=True))


def test_it_trains_a_decoder_of_the_vaes_latents_which_the_loader_loads(base, scenes, folders, hook):
    before = {name: tensor.clone() for name, tensor in base.get_sd().items()}
    outputs = train(base)
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.get_sd().items())
    assert outputs["file"] == "epsilon.safetensors"
    latent = base.encode(scenes)
    assert torch.equal(outputs["vae"].encode(scenes), latent)
    loaded = ReEditLoadEpsilonVAE.execute("epsilon.safetensors", base, steps=3, seed=0)[0]
    picture = loaded.decode(latent)
    assert picture.shape == scenes.shape and torch.equal(outputs["vae"].decode(latent), picture)
    assert not torch.allclose(picture[0], picture[1], atol=1e-3)
    assert [value for value, _, preview in hook if preview is not None] == [2, 4]
    assert outputs["log"].splitlines()[1].startswith("step 4  adversarial ")
    written = Image.open(folders / "output" / "reedit" / "training" / "epsilon" / "samples" / "0000004.png")
    assert np.array_equal(np.asarray(written, np.float32) / 255, outputs["samples"][0].numpy())


def test_the_file_says_what_it_was_made_from(base, folders):
    train(base, seed=3, adversarial=0.0)
    stored = read_epsilon_decoder(folders / "vae" / "epsilon.safetensors")
    assert stored.about["settings"]["seed"] == 3 and stored.about["figures"]["step"] == 4
    assert find_mismatch(json.loads(stored.metadata[ENCODER_KEY]), base.get_sd()) is None


def test_a_run_that_is_cancelled_again_and_again_ends_where_one_does_that_is_not(base, folders, caplog):
    """The host's cancel button is pressed whenever progress is first shown: each run gets one step further."""
    expected = train(base, "at_once")
    comfy.utils.set_progress_bar_global_hook(lambda *_, **__: comfy.model_management.interrupt_current_processing())
    for _ in range(QUICK["steps"]):
        with caplog.at_level(logging.WARNING), pytest.raises(InterruptProcessingException):
            train(base)
        assert not (folders / "vae" / "epsilon.safetensors").exists()
    assert "ReEdit Train eps-VAE was stopped" in caplog.text
    outputs = train(base)
    assert outputs["log"] == expected["log"] and torch.equal(outputs["samples"], expected["samples"])
    one, other = (load_file(folders / "vae" / f"{name}.safetensors") for name in ("at_once", "epsilon"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_trained_eps_vae_can_stand_where_its_base_did(base, folders):
    """Its latents are the base's, and a decoder is trained of them."""
    train(train(base, steps=1)["vae"], "again", steps=1)
    one, other = (read_epsilon_decoder(folders / "vae" / f"{name}.safetensors") for name in ("epsilon", "again"))
    assert one.about["base"] == other.about["base"] and one.config == other.config


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_step(monkeypatch):
    """Fails if a step of training is taken."""
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_: pytest.fail("work has begun"))


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"pictures": "nowhere"}, "pictures: there is no folder .*nowhere"),
        ({"name": "../epsilon"}, "name: .* is not a file's name in ComfyUI's folder vae"),
        ({"crop": 34}, "crop is 34, and this VAE with a decoder of size tiny needs a multiple of 4"),
        ({"crop": 96}, "pictures: .* holds 0 pictures .*0.png is 64 pixels on its shorter side"),
        ({"size": "S"}, "size is 'S'. Choose one of tiny"),
        ({"discriminator_width": 12}, "discriminator_width is 12, and must be a multiple of 8"),
        ({"latent_shift": 0.5}, "latent_shift is 0.5, and latent_scale is 0"),
    ],
)
def test_errors_name_the_input_and_come_before_the_work(base, folders, no_step, inputs, words):
    with pytest.raises(ValueError, match=words):
        train(base, **inputs)
    assert not (folders / "output").exists() and not (folders / "vae").exists()


def test_a_vae_that_is_no_kl_autoencoder_is_refused(folders, no_step):
    tiny = comfy.sd.VAE(sd=TAESD().state_dict())
    with pytest.raises(ValueError, match=r"vae \(TAESD\) cannot be trained: it holds no KL autoencoder"):
        train(tiny)


@pytest.mark.parametrize("there", ["a VAE", "no safetensors file"])
def test_a_file_of_somebody_elses_is_never_replaced(base, folders, no_step, there):
    file: Path = folders / "vae" / "epsilon.safetensors"
    file.parent.mkdir()
    if there == "a VAE":
        save_file({name: tensor.contiguous() for name, tensor in base.get_sd().items()}, file)
    else:
        file.write_bytes(b"something else")
    before = file.read_bytes()
    with pytest.raises(ValueError, match="name: .*epsilon.safetensors is there already, and is no file that this node"):
        train(base)
    assert file.read_bytes() == before


# --- widgets ----------------------------------------------------------------------------------------------------------


def test_there_is_a_widget_for_every_setting_and_it_offers_what_the_setting_allows():
    widgets = {item.id: item for item in ReEditTrainEpsilonVAE.define_schema().inputs}
    assert list(widgets)[: 3 + len(SHOWN_EPSILON)] == ["vae", "pictures", "name", *SHOWN_EPSILON]
    assert set(list(widgets)[3:]) == {one.name for one in fields(EpsilonSettings)}
    free = EpsilonSettings(latent_scale=1.0)  # nothing of it limits another setting
    for one in fields(EpsilonSettings):
        offered = widgets[one.name]
        assert offered.default == one.default and one.metadata["help"] in offered.tooltip
        if isinstance(one.default, bool):
            continue
        for value in offered.options if isinstance(one.default, str) else (offered.min, offered.max):
            replace(free, **{one.name: value}).check()
        if not isinstance(one.default, str):
            assert offered.min <= one.default <= offered.max
            assert isinstance(offered.step, type(one.default)) and offered.step > 0
    assert widgets["seed"].as_dict()["control_after_generate"] is False  # with another seed no run could go on
