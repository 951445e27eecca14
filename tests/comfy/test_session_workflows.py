"""Undo, branches, files and painting, through the shipped workflows in a real host."""

from __future__ import annotations

import json

import demo
import numpy as np
import pytest
from chain_builder import PICTURE, box_mask
from edit_chain import BOTTOM_LEFT, CIRCLE, SQUARE, truth
from reedit.models.session.record import KEY
from reedit.models.session.storage import load_session
from saved_workflows import run_shipped
from session_workflows import CROSS, PURPLE, SESSION, YELLOW
from tiny_sd.world import COLOURS


@pytest.fixture(scope="module", autouse=True)
def picture(server):
    demo.save_picture(truth(None), server.folder("input") / PICTURE)


def shown_picture(server, outputs: dict, title: str) -> np.ndarray:
    return demo.open_picture(server.output_file(outputs[title]["images"][0]))


@pytest.fixture(scope="module")
def branched(server):
    return run_shipped("undo_and_branch", server)


@pytest.fixture(scope="module")
def session(server, branched):
    """The session that the first workflow saved."""
    return load_session(server.folder("output") / f"{SESSION}.reedit.safetensors")


def test_both_branches_are_kept_and_saved(session):
    record = session[KEY]
    assert [(edit.label, edit.parent) for edit in record.edits] == [
        (PURPLE.label, 0),
        (CROSS.label, 1),
        (YELLOW.label, 1),
    ]
    assert record.current == 3 and record.is_current(session["samples"])
    assert {edit.tool for edit in record.edits} == {"KSampler"}
    assert record.edit(2).parameters["positive.text"] == CROSS.prompt


def test_outside_its_box_each_edit_left_the_latent_bit_for_bit(session):
    record = session[KEY]
    for edit, plan in zip(record.edits, (PURPLE, CROSS, YELLOW), strict=True):
        before, after = record.samples_at(edit.parent).numpy(), record.samples_at(edit.number).numpy()
        cells = box_mask(plan.box)[::4, ::4]  # four pixels to a cell, and boxes that lie on whole cells
        assert np.array_equal(before[..., ~cells], after[..., ~cells]) and not np.array_equal(before, after)


def test_the_undone_cross_is_gone_and_the_square_is_there(server, branched):
    cross, square = (shown_picture(server, branched, f"with the {what}") for what in ("cross", "yellow square"))
    left, top, width, height = BOTTOM_LEFT
    boxes = [picture[top : top + height, left : left + width] for picture in (cross, square)]
    white, yellow = (
        (np.abs(box - colour).max(-1) < 0.3).mean()
        for box, colour in zip(boxes, (COLOURS["white"], COLOURS["yellow"]), strict=True)
    )
    assert white > 0.1 and yellow > 0.1
    far = ~(box_mask(BOTTOM_LEFT) | box_mask(CIRCLE) | box_mask(SQUARE))
    assert demo.psnr(cross, square, far) > 25


def test_a_saved_session_goes_on_another_day(server, branched, session):
    outputs = run_shipped("continue_tomorrow", server)
    continued = shown_picture(server, outputs, "continued")
    away = ~(box_mask(SQUARE) | box_mask(BOTTOM_LEFT))
    assert demo.psnr(continued, shown_picture(server, branched, "with the cross"), away) > 25
    left, top, width, height = SQUARE
    green = np.abs(continued[top : top + height, left : left + width] - COLOURS["green"]).max(-1) < 0.25
    assert green.mean() > 0.3


def test_painting_comes_back_and_an_unpainted_canvas_is_no_edit(server):
    outputs = run_shipped("paint_and_merge", server)
    rows = json.loads(outputs["ReEditDriftMeter"]["text"][0])
    assert [row["tool"] for row in rows] == ["ReEditMergePixels", "KSampler"]
    assert [row["outside_mask_max_abs_latent_change"] for row in rows] == [0.0, 0.0]
    assert rows[0]["encoded_pixels"] == 64 * 64  # the least window is larger than this picture
