"""The demo family: its world is exact, its judge is right about exact pictures, and its models do what MEASURED.md says."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_sd import differences, measure
from tiny_sd.judge import edit_verdict, object_verdict, shape_of
from tiny_sd.language import EDIT_KINDS, caption, make_edit
from tiny_sd.train_diffusion import WorldTokens, load_autoencoder
from tiny_sd.world import SHAPES, SceneObject, draw, object_mask, random_scene

SEEDS = range(7_000_000, 7_000_040)


@pytest.fixture(scope="module")
def drawn_scenes():
    return [random_scene(np.random.default_rng(seed)) for seed in SEEDS]


@pytest.mark.parametrize("kind", EDIT_KINDS)
def test_an_edit_changes_the_picture_inside_its_mask_only(drawn_scenes, kind):
    for seed, scene in zip(SEEDS, drawn_scenes, strict=True):
        edit = make_edit(np.random.default_rng(seed), scene, kind)
        before, after = draw(edit.before), draw(edit.after)
        assert np.array_equal(before[edit.mask == 0], after[edit.mask == 0])
        assert not np.allclose(before, after)


def test_no_two_objects_touch(drawn_scenes):
    for scene in drawn_scenes:
        assert np.sum([object_mask(item) for item in scene.objects], axis=0).max() <= 1.0


def test_the_area_of_a_circle_is_pi_r_squared():
    mask = object_mask(SceneObject("circle", "red", "large", 12.0, 32.0, 31.5))
    assert abs(mask.sum() - np.pi * 12.0**2) < 2


def test_the_world_is_the_same_from_the_same_seed():
    one, other = (random_scene(np.random.default_rng(3)) for _ in range(2))
    assert one == other and np.array_equal(draw(one), draw(other))


def test_every_word_has_tokens_of_its_own(drawn_scenes):
    words = WorldTokens()
    unknown = len(words.known)
    for seed, scene in zip(SEEDS, drawn_scenes, strict=True):
        assert unknown not in words(caption(scene))
        for kind in EDIT_KINDS:
            assert unknown not in words(make_edit(np.random.default_rng(seed), scene, kind).instruction)
    assert unknown in words("photograph")


def test_the_judge_is_right_about_exact_pictures(drawn_scenes):
    for seed, scene in zip(SEEDS, drawn_scenes, strict=True):
        picture = draw(scene)
        for item in scene.objects:
            assert object_verdict(picture, item) == (True, True)
        edit = make_edit(np.random.default_rng(seed), scene, "colour")
        assert edit_verdict(draw(edit.after), edit).matches
        assert not edit_verdict(draw(edit.before), edit).matches


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_are_told_apart(shape):
    for radius in (7.0, 10.0, 14.0):
        assert shape_of(object_mask(SceneObject(shape, "red", "small", radius, 30.0, 33.0)) > 0.5) == shape


def test_the_models_do_what_was_measured(drawn_scenes, weights_folder):
    """On other scenes than those of the measurement, and fewer: so with a margin for chance (three standard errors)."""
    measured = json.loads((weights_folder / "measured.json").read_text(encoding="utf-8"))
    autoencoder, scenes = load_autoencoder(), drawn_scenes[:24]

    def least(share: float, count: int) -> float:
        return share - 3 * (max(share * (1 - share), 0.01) / count) ** 0.5

    colour = measure.measure_edits(autoencoder, scenes, "colour")
    assert colour["matches"] >= least(measured["instruct_pix2pix"]["colour"]["matches"], len(scenes))
    drawn = measure.measure_text_to_image(autoencoder, scenes)
    assert drawn["asked_colour"] >= least(measured["text_to_image"]["asked_colour"], drawn["objects"])
    passes = measure.measure_autoencoder(autoencoder, np.stack([draw(scene) for scene in scenes]))
    assert abs(passes["psnr_pass_1"] - measured["autoencoder"]["psnr_pass_1"]) < 1.0


def test_committed_weights_stay_small(weights_folder):
    assert sum(file.stat().st_size for file in weights_folder.glob("*.safetensors")) < 40e6


def test_an_unknown_token_has_the_embedding_of_no_word(text_to_image):
    _, clip = text_to_image
    encode = clip.encode_from_tokens_scheduled
    one, other, known = (encode(clip.tokenize(text))[0][0] for text in ("photograph", "telescope", "circle"))
    assert torch.equal(one, other) and not torch.equal(one, known)


def test_a_decoder_that_is_kept_as_a_difference_comes_back(tmp_path, monkeypatch):
    """Each number to half a step of its channel's, which is a 127th of the channel's largest difference."""
    monkeypatch.setattr(differences, "RESTORED_FOLDER", tmp_path / "restored")
    base = {"weight": torch.randn(8, 4, 3, 3), "bias": torch.randn(8), "same": torch.ones(3)}
    moves = {name: 0.01 * torch.randn_like(tensor) * (name != "same") for name, tensor in base.items()}
    trained = {name: tensor + moves[name] for name, tensor in base.items()}
    for name, tensors in (("base", base), ("trained", trained)):
        save_file(tensors, tmp_path / name, {"said": name})
    differences.write_difference(tmp_path / "trained", tmp_path / "base", tmp_path / "kept")
    file = differences.restored(tmp_path / "kept", tmp_path / "base")
    found = load_file(file)
    assert found.keys() == trained.keys()
    for name, move in moves.items():
        largest = move.abs().amax(tuple(range(1, move.dim())), keepdim=True) if move.dim() > 1 else move.abs().max()
        assert bool(((found[name] - trained[name]).abs() <= largest / 127 / 2 + 1e-6).all()), name
    with safe_open(file, framework="pt") as opened:
        assert opened.metadata() == {"said": "trained"}
    before = file.stat().st_mtime_ns
    assert differences.restored(tmp_path / "kept", tmp_path / "base").stat().st_mtime_ns == before
