"""The templates that edit by instruction, in a real host: each edit comes out, and what no mask touches stays."""

from __future__ import annotations

import json
from dataclasses import replace

import demo
import numpy as np
import pytest
from chain_builder import PICTURE, box_mask
from edit_chain import CIRCLE, SQUARE, truth
from instruct_workflows import ALL_AT_ONCE, GREEN, ONE_BY_ONE, PURPLE, YELLOW
from saved_workflows import run_shipped
from tiny_sd.judge import object_verdict
from tiny_sd.world import Scene, SceneObject, draw


def picture(server, outputs: dict, name: str) -> np.ndarray:
    return demo.open_picture(server.output_file(outputs[name]["images"][0]))


def run(server, name: str, texts: dict[str, str] | None = None, scene: Scene | None = None) -> dict:
    demo.save_picture(truth(None) if scene is None else draw(scene), server.folder("input") / PICTURE)
    return run_shipped(name, server, texts or {})


@pytest.fixture(scope="module")
def chained(server):
    return run(server, "instruct_chain")


def test_each_instruction_of_the_chain_is_carried_out(server, chained):
    shown = picture(server, chained, "four instructions")
    assert [object_verdict(shown, item) for item in ONE_BY_ONE.objects] == [(True, True)] * 2
    assert demo.psnr(shown, draw(ONE_BY_ONE)) > 25


def test_what_the_masks_keep_stays_bit_for_bit(chained):
    """The first edit is of the whole picture; the last one is not masked, but aligned."""
    _, *masked = json.loads(chained["ReEditDriftMeter"]["text"][0])
    assert [row["label"] for row in masked] == [PURPLE, GREEN, YELLOW]
    assert [row["outside_mask_max_abs_latent_change"] for row in masked] == [0.0] * 3


def test_the_printed_line_leaves_noise_beside_the_mask(server, chained):
    shown, kept = picture(server, chained, "as printed"), ~box_mask(CIRCLE)
    assert demo.psnr(shown[kept], truth(None)[kept]) < 15


@pytest.fixture(scope="module")
def at_once(server):
    return run(server, "multi_mask_instruct")


def test_three_instructions_are_carried_out_in_one_run(server, at_once):
    shown = picture(server, at_once, "all at once")
    assert [object_verdict(shown, item) for item in ALL_AT_ONCE.objects] == [(True, True)] * 2
    background = ~(box_mask(CIRCLE) | box_mask(SQUARE))
    assert demo.psnr(shown[background], draw(ALL_AT_ONCE)[background]) > 20


def test_another_picture_with_other_instructions(server):
    """What a new user does: other things in the same places, and other words."""
    triangle = SceneObject("triangle", "white", "large", 12.0, 51.0, 12.0)
    cross = SceneObject("cross", "green", "small", 8.5, 53.5, 53.5)
    scene = Scene("brick", 1.0, (triangle, cross))
    wanted = replace(scene, background="water", objects=(triangle, replace(cross, colour="red")))
    texts = {
        "instruction 1.text": "make the triangle white",  # as it is already
        "instruction 2.text": "make the cross red",
        "instruction 3.text": f"change the background to {wanted.background}",
    }
    shown = picture(server, run(server, "multi_mask_instruct", texts, scene), "all at once")
    assert [object_verdict(shown, item) for item in wanted.objects] == [(True, True)] * 2
    background = ~(box_mask(CIRCLE) | box_mask(SQUARE))
    assert demo.psnr(shown[background], draw(wanted)[background]) > 18
