"""Training from inside the host: on the demo family's VAE and pictures of its drawn world, a few steps each."""

import json
import logging
from dataclasses import fields, replace
from pathlib import Path

import comfy.model_management
import comfy.sd
import comfy.utils
import nodes as host_nodes
import numpy as np
import pytest
import torch
from comfy.ldm.wan.vae import WanVAE
from comfy.model_management import InterruptProcessingException
from comfy.taesd.taehv import TAEHV
from comfy.taesd.taesd import TAESD
from PIL import Image
from random_families import SD15_VAE, random_vae
from reedit.models.autoencoders.encoder_match import ENCODER_KEY, find_mismatch
from reedit.models.autoencoders.kl_layout import read_config
from reedit.models.training.reed import REEDSettings
from reedit.nodes.autoencoders import ReEditLoadREEDVAE, build_host_vae, load_kl_vae
from reedit.nodes.training import ReEditTrainREED
from safetensors import safe_open
from safetensors.torch import load_file, save_file

NAMES = ("vae", "samples", "log", "file")
QUICK = {
    "steps": 4,
    "batch": 1,
    "crop": 32,
    "learning_rate": 1e-3,
    "warm_up": 0,
    "first_passes": 2,
    "last_passes": 2,
    "perceptual": 0.0,
    "average_decay": 0.5,
    "held_out": 1,
    "validate_every": 2,
}


@pytest.fixture(autouse=True)
def folders(training_folders):
    return training_folders


@pytest.fixture(autouse=True)
def hook(progress_hook):
    return progress_hook


def train(vae, name="reed", pictures="my_pictures", **settings) -> dict:
    outputs = ReEditTrainREED.execute(vae, pictures, name, **{**QUICK, **settings})
    return dict(zip(NAMES, outputs.result, strict=True))


def copy_of(vae) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in vae.get_sd().items()}


def rows_of(folder: Path, name: str) -> list[dict]:
    lines = (folder / "output" / "reedit" / "training" / name / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_it_trains_the_decoder_and_nothing_else(base, scenes, folders):
    before = copy_of(base)
    outputs = train(base)
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.get_sd().items())
    assert not any(parameter.grad is not None for parameter in base.first_stage_model.parameters())
    trained = outputs["vae"].get_sd()
    assert trained.keys() == before.keys()
    for name, tensor in trained.items():
        moved = name.startswith(("decoder.", "post_quant_conv."))
        # A key's bias adds the same to all scores of a softmax, and so it has no gradient but for rounding.
        if "attn" not in name:
            assert torch.equal(tensor, before[name]) != moved, name
    assert torch.equal(outputs["vae"].encode(scenes), base.encode(scenes))
    assert not torch.equal(outputs["vae"].decode(base.encode(scenes)), base.decode(base.encode(scenes)))
    loaded = ReEditLoadREEDVAE.execute("reed.safetensors")[0]
    assert outputs["file"] == "reed.safetensors" and torch.equal(
        loaded.decode(base.encode(scenes)), outputs["vae"].decode(base.encode(scenes))
    )


def test_enough_steps_bring_pictures_through_more_passes(base, folders):
    """What it is all for, seen on a picture that was not trained on. At learning rate 0 the decoder stays the base's."""
    train(base, "untrained", steps=1, learning_rate=0.0)
    train(base, "trained", steps=30, batch=2, validate_every=30)
    before, after = (rows_of(folders, name)[-1]["psnr@25"] for name in ("untrained", "trained"))
    assert after > before + 1


def test_the_file_says_what_it_was_made_from(base, folders):
    train(base, seed=3)
    with safe_open(folders / "vae" / "reed.safetensors", framework="pt") as file:
        metadata = file.metadata()
    about = json.loads(metadata["reedit"])
    assert about["kind"] == "REED decoder" and about["settings"]["seed"] == 3 and about["figures"]["step"] == 4
    assert find_mismatch(json.loads(metadata[ENCODER_KEY]), base.get_sd()) is None


def test_the_log_and_the_samples_are_those_of_the_run(base, folders, hook):
    outputs = train(base)
    rows = rows_of(folders, "reed")
    assert [row["step"] for row in rows] == [2, 4]
    for line, row in zip(outputs["log"].splitlines(), rows, strict=True):
        read = dict(zip(line.split()[::2], map(float, line.split()[1::2]), strict=True))
        assert read == pytest.approx(row, rel=1e-5)
    samples = folders / "output" / "reedit" / "training" / "reed" / "samples"
    assert sorted(file.name for file in samples.iterdir()) == ["0000002.png", "0000004.png"]
    written = np.asarray(Image.open(samples / "0000004.png"), np.float32) / 255
    assert np.array_equal(outputs["samples"][0].numpy(), written)
    shown = [preview for _, _, preview in hook if preview is not None]
    assert [(value, total) for value, total, preview in hook if preview] == [(2, 4), (4, 4)]
    assert all(kind == "JPEG" for kind, *_ in shown) and np.allclose(np.asarray(shown[1][1]) / 255, written, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_base_of_another_precision_gets_a_file_of_that_precision(weights_folder, scenes, folders, dtype):
    base = load_kl_vae(weights_folder / "tiny_sd_autoencoder.safetensors", dtype=dtype)
    outputs = train(base, steps=1)
    assert {tensor.dtype for tensor in load_file(folders / "vae" / "reed.safetensors").values()} == {dtype}
    assert outputs["vae"].vae_dtype == dtype
    assert torch.equal(outputs["vae"].encode(scenes[:1]), base.encode(scenes[:1]))


def test_a_vae_without_quantisers(scenes, folders):
    """Sixteen channels and no convolutions around the latent, as SD3 and Flux have it."""
    weights = {name: tensor for name, tensor in random_vae(16).get_sd().items() if "quant_conv" not in name}
    base = build_host_vae(weights, read_config(weights))
    outputs = train(base, steps=1)
    assert load_file(folders / "vae" / "reed.safetensors").keys() == weights.keys()
    assert torch.equal(outputs["vae"].encode(scenes), base.encode(scenes))


@pytest.mark.slow
def test_the_hosts_own_loader_takes_a_trained_vae_of_real_size(scenes, folders):
    base = random_vae(4, sizes=SD15_VAE)
    outputs = train(base, steps=1, validate_every=1, checkpointing=True)
    (loaded,) = host_nodes.VAELoader().load_vae(outputs["file"])
    latent = base.encode(scenes[:1])
    assert torch.equal(loaded.encode(scenes[:1]), latent)
    assert torch.equal(loaded.decode(latent), outputs["vae"].decode(latent))


# --- stopping and going on --------------------------------------------------------------------------------------------


def test_a_run_that_is_cancelled_again_and_again_ends_where_one_does_that_is_not(base, folders, caplog):
    """The host's cancel button is pressed whenever progress is first shown: each run gets one step further."""
    expected = train(base, "at_once")
    comfy.utils.set_progress_bar_global_hook(lambda *_, **__: comfy.model_management.interrupt_current_processing())
    for _ in range(QUICK["steps"]):
        with caplog.at_level(logging.WARNING), pytest.raises(InterruptProcessingException):
            train(base)
        assert not (folders / "vae" / "reed.safetensors").exists()
        assert not comfy.model_management.processing_interrupted()
    assert str(folders / "output" / "reedit" / "training" / "reed") in caplog.text
    outputs = train(base)
    assert outputs["log"] == expected["log"] and torch.equal(outputs["samples"], expected["samples"])
    wanted = load_file(folders / "vae" / "at_once.safetensors")
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in outputs["vae"].get_sd().items())


def test_runs_of_one_process_do_not_touch_each_other(base, folders):
    """Accelerate keeps its state for as long as the process lives."""
    first = train(base, "first")
    train(base, "second", steps=1, crop=16, precision="bfloat16", checkpointing=True)
    assert train(base, "third")["log"] == first["log"]
    again = train(base, "first", **QUICK)  # finished: nothing is left to do, and the file is written once more
    assert again["log"] == first["log"] and torch.equal(again["samples"], first["samples"])


def test_a_run_of_other_settings_is_not_gone_on_with(base, folders):
    train(base)
    written = (folders / "vae" / "reed.safetensors").read_bytes()
    words = r"training/reed holds a run with another crop \(32, and now 64\).*name says: another name is another run"
    with pytest.raises(ValueError, match=words):
        train(base, crop=64)
    assert (folders / "vae" / "reed.safetensors").read_bytes() == written
    train(base, "sizes/reed_64", steps=1, crop=64)
    assert (folders / "vae" / "sizes" / "reed_64.safetensors").is_file()
    assert len(rows_of(folders, "sizes/reed_64")) == 1


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_step(monkeypatch):
    """Fails if a step of training is taken."""
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_: pytest.fail("work has begun"))


def tiny_vae_of_another_kind():
    return comfy.sd.VAE(sd=TAESD().state_dict())


def video_vae():
    return comfy.sd.VAE(sd=TAEHV(latent_channels=16).state_dict())


def wan_vae():
    with torch.device("meta"):
        shapes = WanVAE(dim=96, z_dim=16).state_dict()
    return comfy.sd.VAE(sd={name: torch.zeros(1).expand(tensor.shape) for name, tensor in shapes.items()})


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"vae": tiny_vae_of_another_kind}, r"vae \(TAESD\) cannot be trained: it holds no KL autoencoder"),
        ({"vae": video_vae}, r"vae \(TAEHV\) is the VAE of a model of videos"),
        ({"vae": wan_vae}, r"vae \(WanVAE\) is the VAE of a model of videos"),
        ({"pictures": "nowhere"}, "pictures: there is no folder .*nowhere"),
        ({"pictures": "empty"}, "pictures: .*empty holds 0 pictures"),
        ({"pictures": "../input/my_pictures"}, "pictures: .*is not a file's name in ComfyUI's folder input"),
        ({"pictures": "my_pictures/../../output"}, "pictures: .*is not a file's name in ComfyUI's folder input"),
        ({"pictures": ""}, "pictures: '' is not a file's name"),
        ({"pictures": "elsewhere"}, "pictures: 'elsewhere' is not a file's name in ComfyUI's folder input"),
        ({"name": "../reed"}, "name: .* is not a file's name in ComfyUI's folder vae"),
        ({"name": " "}, "name: '' is not a file's name"),
        ({"crop": 96}, "pictures: .* holds 0 pictures .*0.png is 64 pixels on its shorter side"),
        ({"crop": 34}, "crop is 34, and this VAE needs a multiple of 4"),
        ({"last_passes": 1}, "last_passes is 1, and must be first_passes .2. or more"),
        ({"precision": "float8"}, "precision is 'float8'"),
    ],
)
def test_errors_name_the_input_and_come_before_the_work(base, folders, no_step, inputs, words):
    (folders / "input" / "empty").mkdir()
    (folders / "elsewhere").mkdir()
    (folders / "input" / "elsewhere").symlink_to(folders / "elsewhere")
    built = {name: value() if callable(value) else value for name, value in inputs.items()}
    with pytest.raises(ValueError, match=words):
        train(**{"vae": base, **built})
    assert not (folders / "output").exists() and not (folders / "vae").exists()


@pytest.mark.parametrize("there", ["a base", "another training's", "no safetensors file"])
def test_a_file_of_somebody_elses_is_never_replaced(base, folders, no_step, there):
    file = folders / "vae" / "reed.safetensors"
    file.parent.mkdir()
    metadata = {"a base": None, "another training's": {"reedit": json.dumps({"kind": "another"})}}
    if there in metadata:
        save_file({name: tensor.contiguous() for name, tensor in base.get_sd().items()}, file, metadata[there])
    else:
        file.write_bytes(b"something else")
    before = file.read_bytes()
    with pytest.raises(ValueError, match="name: .*reed.safetensors is there already"):
        train(base)
    assert file.read_bytes() == before


def test_a_trained_vae_can_be_trained_further_but_not_over_itself(base, folders):
    first = train(base)["vae"]
    before = (folders / "vae" / "reed.safetensors").read_bytes()
    with pytest.raises(ValueError, match="name: .*is the file of the VAE that is connected as vae"):
        train(first)
    assert (folders / "vae" / "reed.safetensors").read_bytes() == before
    train(first, "further", steps=1)
    assert (folders / "vae" / "further.safetensors").is_file()


# --- widgets ----------------------------------------------------------------------------------------------------------


def test_there_is_a_widget_for_every_setting_and_it_offers_what_the_setting_allows():
    widgets = {item.id: item for item in ReEditTrainREED.define_schema().inputs}
    assert list(widgets)[:3] == ["vae", "pictures", "name"]
    assert set(list(widgets)[3:]) == {one.name for one in fields(REEDSettings)}
    free = REEDSettings(first_passes=1)  # nothing of it limits another setting
    for one in fields(REEDSettings):
        offered = widgets[one.name]
        assert offered.default == one.default and one.metadata["help"] in offered.tooltip
        if isinstance(one.default, bool):
            continue
        ends = offered.options if isinstance(one.default, str) else (offered.min, offered.max)
        for value in ends:
            passes = {"last_passes": value} if one.name == "first_passes" else {}
            replace(free, **{one.name: value, **passes}).check()
        if not isinstance(one.default, str):
            assert offered.min <= one.default <= offered.max
            assert isinstance(offered.step, type(one.default)) and offered.step > 0


def test_the_seed_stays_as_it_was_set():
    """Unless told otherwise, the host's frontend changes a seed after each run, and no run could go on."""
    (seed,) = [item for item in ReEditTrainREED.define_schema().inputs if item.id == "seed"]
    assert seed.as_dict()["control_after_generate"] is False
