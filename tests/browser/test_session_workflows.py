"""A saved session in the real page."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import torch
from reedit.models.session.storage import SUFFIX, save_session

FOLDER = Path(__file__).parents[2] / "workflows"


def test_a_saved_session_dropped_on_the_page_opens_its_graph(frontend, tmp_path):
    """What the page does with a file that is dropped; it reads the graph from the file's header."""
    saved = json.loads((FOLDER / "undo_and_branch.json").read_text(encoding="utf-8"))
    file = tmp_path / f"session{SUFFIX}"
    save_session(file, {"samples": torch.zeros(1, 4, 16, 16)}, {"workflow": json.dumps(saved), "prompt": "{}"})
    frontend.drop(file, len(saved["nodes"]))
    assert Counter(node["type"] for node in frontend.nodes()) == Counter(node["type"] for node in saved["nodes"])
