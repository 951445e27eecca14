"""The templates that edit by prompt, in a real host: the word that changed changes the picture, and only there."""

from __future__ import annotations

import json

import demo
import numpy as np
import pytest
from chain_builder import PICTURE
from edit_chain import truth
from guidance_workflows import CIRCLE, REPAINTED, SOURCE, SQUARE, TARGET
from saved_workflows import run_shipped
from tiny_sd.judge import object_verdict
from tiny_sd.language import caption
from tiny_sd.world import Scene, SceneObject, draw, object_mask

EDITED, AGAIN = "edited by prompt", "with new noise"
OTHER = Scene("sand", 1.0, (SceneObject("cross", "blue", "large", 12.0, 20.0, 40.0),))


def picture(server, outputs: dict, name: str) -> np.ndarray:
    return demo.open_picture(server.output_file(outputs[name]["images"][0]))


def overlap(found: np.ndarray, item) -> float:
    true = object_mask(item) > 0.5
    return (found & true).sum() / (found | true).sum()


@pytest.fixture(scope="module")
def edited(server):
    demo.save_picture(truth(None), server.folder("input") / PICTURE)
    return run_shipped("prompt_edit", server)


@pytest.mark.parametrize("name", [EDITED, AGAIN])
def test_the_word_that_changed_changes_the_picture(server, edited, name):
    circle, square = TARGET.objects
    shown = picture(server, edited, name)
    assert object_verdict(shown, circle) == (True, True)
    assert object_verdict(shown, square) == (True, True)
    assert not object_verdict(shown, CIRCLE)[0]


def test_it_changes_where_the_mask_says(server, edited):
    mask = picture(server, edited, f"mask: {EDITED}").mean(-1) > 0.5
    assert overlap(mask, CIRCLE) > 0.5
    assert overlap(mask, SQUARE) == 0


@pytest.mark.parametrize("name", [EDITED, AGAIN])
def test_and_nowhere_else(server, edited, name):
    (row,) = json.loads(edited[f"drift: {name}"]["text"][0])
    assert row["total"]["latent_change_outside"] == 0.0
    outside = object_mask(CIRCLE) == 0
    source, shown = truth(None), picture(server, edited, name)
    assert demo.psnr(source[outside], shown[outside]) > 27  # the VAE's own is 36 dB


def test_the_words_are_named(edited):
    assert "red" in edited["the words that are meant"]["text"][0]


def test_a_new_user_changes_only_the_two_prompts(server):
    """Another picture, with other things at other places: nothing but the two texts is touched."""
    demo.save_picture(draw(OTHER), server.folder("input") / PICTURE)
    target = Scene(OTHER.background, OTHER.brightness, (SceneObject("cross", "red", "large", 12.0, 20.0, 40.0),))
    texts = {"the two prompts.source": caption(OTHER), "the two prompts.target": caption(target)}
    outputs = run_shipped("prompt_edit", server, texts)
    shown = picture(server, outputs, EDITED)
    assert object_verdict(shown, target.objects[0]) == (True, True)
    outside = object_mask(OTHER.objects[0]) == 0
    assert demo.psnr(draw(OTHER)[outside], shown[outside]) > 27


def test_a_mask_from_words_is_of_use_to_core_nodes(server):
    demo.save_picture(truth(None), server.folder("input") / PICTURE)
    outputs = run_shipped("attention_mask", server)
    assert overlap(picture(server, outputs, "where the words are").mean(-1) > 0.5, SQUARE) > 0.5
    shown = picture(server, outputs, "repainted")
    circle, square = REPAINTED.objects
    assert object_verdict(shown, circle) == (True, True)
    assert object_verdict(shown, square)[0]
    outside = object_mask(SQUARE) == 0
    assert demo.psnr(draw(SOURCE)[outside], shown[outside]) > 24
