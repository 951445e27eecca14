"""Writes workflows/*.json from the graphs in edit_chain.py. Run it after changing a node or the chain:

`python tests/comfy/author_workflows.py` with the environment's Python and COMFYUI_PATH set (it asks a real host what its
nodes look like).
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from edit_chain import MODELS, our_chain
from live_server import LiveServer

ROOT = Path(__file__).parents[2]
NOTE = """## Ten edits, three kinds of tool, one latent

Blue groups are **instruction edits**, green ones **masked repaints**, yellow ones **painting by hand** on the decoded
picture. The latent runs through all of them; pixels are encoded once at the start, and once for each time somebody paints.

- Put your picture into *the picture to edit*, then change prompts and boxes: they are written for the demo's picture.
- A box is a white rectangle on a black canvas of 64×64, whatever the size of your picture.
- At the end: the picture, every step side by side, and what moved where nothing should have.
"""


def pack_version() -> str:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    match = re.search(r'^version = "(.+)"$', text, re.MULTILINE)
    assert match is not None
    return match[1]


def mixed_edit_chain(object_info: dict[str, Any]) -> dict[str, Any]:
    writer = our_chain({name: entry["name"] for name, entry in MODELS.items()}, MODELS)
    writer.note(NOTE, (-980, -320), (900, 200))
    return writer.as_saved(object_info, pack_version(), list(MODELS.values()))


WORKFLOWS = {"mixed_edit_chain": mixed_edit_chain}


def as_text(workflow: dict[str, Any]) -> str:
    return json.dumps(workflow, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    host, base_directory = Path(os.environ["COMFYUI_PATH"]), ROOT / "build" / "comfy"
    with tempfile.TemporaryDirectory() as scratch, LiveServer(host, base_directory, Path(scratch)) as server:
        object_info = server.get("/object_info")
    for name, build in WORKFLOWS.items():
        (ROOT / "workflows" / f"{name}.json").write_text(as_text(build(object_info)), encoding="utf-8")


if __name__ == "__main__":
    main()
