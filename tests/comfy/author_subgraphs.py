"""Writes subgraphs/*.json from blueprints.py. Run it after changing a node or a chain:

`python tests/comfy/author_subgraphs.py` with the environment's Python and COMFYUI_PATH set (it asks a real host what its
nodes look like).
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from author_workflows import ROOT, as_text, pack_version
from blueprint_writer import BlueprintWriter
from blueprints import instruction_edit, masked_repaint, prompt_edit
from live_server import LiveServer

FOLDER = ROOT / "subgraphs"  # where ComfyUI looks for them
BLUEPRINTS = [instruction_edit(), prompt_edit(), masked_repaint()]


def file_of(blueprint: BlueprintWriter) -> Path:
    """ComfyUI shows a blueprint under its file's name."""
    return FOLDER / f"{blueprint.name}.json"


def main() -> None:
    host, base_directory = Path(os.environ["COMFYUI_PATH"]), ROOT / "build" / "comfy"
    with tempfile.TemporaryDirectory() as scratch, LiveServer(host, base_directory, Path(scratch)) as server:
        object_info = server.get("/object_info")
    FOLDER.mkdir(exist_ok=True)
    for blueprint in BLUEPRINTS:
        text = as_text(blueprint.as_blueprint(object_info, pack_version()))
        file_of(blueprint).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
