"""The templates about sessions, opened in the real page: they load whole, nothing hides anything, and they look right."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from reedit.models.session.storage import SUFFIX, save_session

FOLDER = Path(__file__).parents[2] / "workflows"
PACK = "ComfyUI-ReEdit"


@pytest.mark.parametrize("name", ["undo_and_branch", "continue_tomorrow", "paint_and_merge"])
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


def test_a_saved_session_dropped_on_the_page_opens_its_graph(frontend, tmp_path):
    """What the page does with a file that is dropped; it reads the graph from the file's header."""
    saved = json.loads((FOLDER / "undo_and_branch.json").read_text(encoding="utf-8"))
    file = tmp_path / f"session{SUFFIX}"
    save_session(file, {"samples": torch.zeros(1, 4, 16, 16)}, {"workflow": json.dumps(saved), "prompt": "{}"})
    frontend.drop(file, len(saved["nodes"]))
    assert Counter(node["type"] for node in frontend.nodes()) == Counter(node["type"] for node in saved["nodes"])
