"""Masks from a prompt's words, on drawn scenes of which the true places are known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from comfy_extras.nodes_mask import MaskToImage
from host_graph import counted_rows, inverted, prompt
from reedit.nodes.attention_look import LEAST_NOISE, MOST_NOISE, noise_levels
from reedit.nodes.guidance import ReEditAttentionMask
from tiny_sd.language import caption
from tiny_sd.world import draw, object_mask, random_scene

SETTINGS = {"calls": 3, "low": 0.4, "high": 0.7, "blur": 0.0, "seed": 0}


@pytest.fixture(scope="module")
def world(tiny_vae):
    """Scenes that no model was trained on, with two objects each: (scenes, latents)."""
    generator = np.random.default_rng(5_100_000)
    drawn = [scene for scene in (random_scene(generator) for _ in range(20)) if len(scene.objects) == 2][:6]
    with torch.inference_mode():
        return drawn, tiny_vae.encode(torch.from_numpy(np.stack([draw(scene) for scene in drawn])))


@pytest.fixture
def mask_of(text_to_image, world):
    def make(number, words, **settings):
        model, clip = text_to_image
        latent = {"samples": world[1][number : number + 1]}
        return ReEditAttentionMask.execute(
            model, clip, latent, caption(world[0][number]), words, **{**SETTINGS, **settings}
        )[0]

    return make


def overlap(mask, item) -> float:
    found, true = mask[0].numpy() > 0.5, object_mask(item) > 0.5
    return (found & true).sum() / (found | true).sum()


def test_a_word_is_found_where_its_object_stands(mask_of, world):
    """Each scene's two objects by their colour and shape; by chance a mask of their size overlaps by some hundredths."""
    overlaps = [
        (
            overlap(mask_of(number, f"{item.colour} {item.shape}"), item),
            overlap(mask_of(number, f"{item.colour} {item.shape}"), other),
        )
        for number, scene in enumerate(world[0])
        for item, other in (scene.objects, scene.objects[::-1])
    ]
    own, others = np.mean(overlaps, axis=0)
    assert own > 0.5
    assert others < 0.1


def test_the_background_is_all_but_the_objects(mask_of, world):
    found = [mask_of(number, scene.background)[0].numpy() > 0.5 for number, scene in enumerate(world[0])]
    true = [sum(object_mask(item) for item in scene.objects) < 0.5 for scene in world[0]]
    assert np.mean([(a & b).sum() / (a | b).sum() for a, b in zip(found, true, strict=True)]) > 0.7


def test_the_mask_has_the_pictures_size_and_is_of_use_to_the_host(mask_of, world):
    mask = mask_of(0, world[0][0].objects[0].shape)
    assert mask.shape == (1, 64, 64)
    assert MaskToImage.execute(mask)[0].shape == (1, 64, 64, 3)


def test_the_seed_decides(mask_of, world):
    word = world[0][0].objects[0].shape
    first, again, other = (mask_of(0, word, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_each_call_is_one_call_of_the_model(mask_of, world, text_to_image):
    with counted_rows(text_to_image[0]) as rows:
        mask_of(0, world[0][0].objects[0].shape, calls=5)
    assert rows == [1] * 5


def test_with_its_trajectory_the_seed_does_not_matter(mask_of, world, text_to_image):
    model, clip = text_to_image
    latent = {"samples": world[1][:1]}
    trajectory = inverted(model, prompt(clip, caption(world[0][0])), latent)[3]
    word = world[0][0].objects[0].shape
    first, second = (mask_of(0, word, seed=seed, trajectory=trajectory) for seed in (1, 2))
    assert torch.equal(first, second)


def test_levels_lie_evenly_between_little_and_much_noise(text_to_image):
    sampling = text_to_image[0].get_model_object("model_sampling")
    levels = noise_levels(sampling, 4)
    ratios = [high / low for low, high in itertools.pairwise(levels)]
    assert levels[0] > LEAST_NOISE
    assert levels[-1] < MOST_NOISE
    assert ratios == pytest.approx([ratios[0]] * 3)


@pytest.mark.parametrize(
    ("words", "settings", "message"),
    [
        ("", {}, "words is empty"),
        ("elephant", {}, "'elephant' in words is not in prompt"),
        ("circle", {"low": 0.5, "high": 0.5}, "low must be below high"),
    ],
)
def test_what_is_refused(mask_of, words, settings, message):
    with pytest.raises(ValueError, match=message):
        mask_of(0, words, **settings)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (torch.zeros(1, 4, 16, 16), "empty latent"),
        (torch.ones(1, 8, 16, 16), "channels"),
        (torch.ones(1, 4, 1, 16, 16), "not for video"),
        (torch.full((1, 4, 16, 16), torch.nan), "NaN"),
    ],
)
def test_latents_that_are_no_pictures_of_this_model(text_to_image, samples, message):
    model, clip = text_to_image
    with pytest.raises(ValueError, match=message):
        ReEditAttentionMask.execute(model, clip, {"samples": samples}, "a circle", "circle", **SETTINGS)


def test_the_model_is_left_as_it_was(mask_of, world, text_to_image):
    mask_of(0, world[0][0].objects[0].shape)
    assert text_to_image[0].model_options["transformer_options"] == {}
