"""The templates, opened in the real page: they load whole, nothing hides anything, and they look right."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "workflows"
PACK = "ComfyUI-ReEdit"
NAMES = (
    "undo_and_branch",
    "continue_tomorrow",
    "paint_and_merge",
    "invert_and_reconstruct",
    "prompt_edit",
    "attention_mask",
    "instruct_chain",
    "multi_mask_instruct",
    "reed_round_trip",
    "train_reed",
    "epsilon_decode",
    "train_epsilon",
)  # and test_mixed_edit_chain


@pytest.mark.parametrize("name", NAMES)
def test_a_template_opens_with_room_for_every_node(frontend, name):
    saved = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    frontend.open_templates(PACK)
    frontend.load_template(name, len(saved["nodes"]))
    nodes = frontend.nodes()
    assert Counter(node["type"] for node in nodes) == Counter(node["type"] for node in saved["nodes"])
    assert [node["type"] for node in nodes if not node["registered"]] == []
    assert frontend.faults_of_layout() == []
    frontend.zoom_to()
    frontend.screenshot(f"template_{name}")
