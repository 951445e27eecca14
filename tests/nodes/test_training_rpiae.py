"""Training an RPiAE from inside the host, a few steps of each stage.

What all trainings share (stopping, folders, log, samples) is tested with ReEditTrainREED, in test_training.py.
"""

from dataclasses import fields

import folder_paths
import pytest
import torch
from random_rpiae import write_dinov2
from reedit.models.autoencoders.rpiae_layout import read_rpiae
from reedit.models.training.rpiae import BRIDGE, DECODER, STAGES, RPiAESettings
from reedit.nodes.dinov2 import load_vision
from reedit.nodes.rpiae import ReEditLoadRPiAE
from reedit.nodes.semantic_drift import ReEditSemanticDrift
from reedit.nodes.training_rpiae import SHOWN, ReEditTrainRPiAE

NAMES = ("vae", "samples", "log", "file")
QUICK = {
    "steps": 4,
    "batch": 1,
    "crop": 32,
    "patches": 8,
    "channels": 4,
    "bridge_layers": 1,
    "decoder": "tiny",
    "learning_rate": 1e-3,
    "warm_up": 0,
    "perceptual": 0.0,
    "average_decay": 0.5,
    "held_out": 1,
    "validate_every": 2,
    "adversarial_start": 2,
    "discriminator_width": 8,
}


@pytest.fixture(autouse=True)
def folders(training_folders):
    folder_paths.filename_list_cache.pop("vae", None)
    yield training_folders
    folder_paths.filename_list_cache.pop("vae", None)


@pytest.fixture(autouse=True)
def hook(progress_hook):
    return progress_hook


@pytest.fixture
def vision(folders):
    return load_vision(write_dinov2(folders / "dinov2.safetensors"))


def train(base, name="rpiae", **settings) -> dict:
    given = ReEditTrainRPiAE.execute(base, "my_pictures", name, **{**QUICK, **settings})
    return dict(zip(NAMES, given.result, strict=True))


def test_three_nodes_in_a_row_make_an_rpiae_which_the_loader_loads(vision, folders, hook):
    base = vision
    for stage in STAGES:
        outputs = train(base, stage, stage=stage)
        assert outputs["file"] == f"{stage}.safetensors" and outputs["vae"].about["stage"] == stage
        assert outputs["log"].splitlines()[-1].startswith("step 4 ")
        base = outputs["vae"]
    assert [value for value, _, preview in hook if preview is not None] == [2, 4] * 3
    pixels = torch.rand(1, 32, 32, 3)
    loaded = ReEditLoadRPiAE.execute("decoder.safetensors")[0]
    latent = loaded.encode(pixels)
    assert latent.shape == (1, 4, 8, 8) and torch.equal(base.encode(pixels), latent)
    assert torch.equal(loaded.decode(latent), base.decode(latent))
    before, after = (read_rpiae(folders / "vae" / f"{stage}.safetensors") for stage in (BRIDGE, DECODER))
    assert torch.equal(
        after.tensors["vb_feature_decoder.in_proj.weight"], before.tensors["vb_feature_decoder.in_proj.weight"]
    )


def test_after_the_pivot_stage_its_encoder_measures(vision):
    vae = train(vision)["vae"]
    pixels = torch.rand(1, 32, 32, 3)
    with pytest.raises(ValueError, match="pivot stage alone"):
        vae.encode(pixels)
    assert ReEditSemanticDrift.execute(pixels, pixels.flip(1), vae)[2] > 0


def test_a_run_goes_on_and_other_settings_are_another_run(vision):
    rows = train(vision)["log"]
    assert train(vision)["log"] == rows  # it is at its end
    with pytest.raises(ValueError, match="another pivot"):
        train(vision, pivot=0.5)


def test_every_setting_is_a_widget_once():
    schema = ReEditTrainRPiAE.define_schema()
    assert [one.id for one in schema.inputs[:3]] == ["base", "pictures", "name"]
    ids = [one.id for one in schema.inputs[3:]]
    assert sorted(ids) == sorted(one.name for one in fields(RPiAESettings))
    assert tuple(ids[: len(SHOWN)]) == SHOWN


def test_what_will_not_do_is_refused_before_any_work(vision, folders, tiny_vae):
    (folders / "vae").mkdir(exist_ok=True)
    (folders / "vae" / "other.safetensors").write_bytes(b"something")
    without = load_vision(write_dinov2(folders / "plain.safetensors", registers=0))
    pivot = train(vision, "pivot")["vae"]
    for base, name, changes, said in (
        (tiny_vae, "a", {}, "base .VAE. is nothing that an RPiAE is trained from"),
        (without, "a", {}, "without registers"),
        (vision, "a", {"stage": BRIDGE}, "train pivot first"),
        (vision, "other", {}, "is no file that this node wrote"),
        (pivot, "pivot", {"stage": BRIDGE}, "is the file that is connected as base"),
        (pivot, "a", {"stage": BRIDGE, "crop": 64}, "makes pictures of 32"),
        (vision, "../a", {}, "name"),
    ):
        with pytest.raises(ValueError, match=said):
            train(base, name, **changes)
    assert not (folders / "output" / "reedit" / "training" / "a").exists()
