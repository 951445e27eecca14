"""Makes the thumbnails of the workflows: runs each with the demo's models and keeps its timeline.

`python tests/comfy/picture_workflows.py` with the environment's Python and COMFYUI_PATH set.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from chain_builder import PICTURE
from demo import ROOT, save_picture
from edit_chain import truth
from live_server import LiveServer
from PIL import Image
from saved_workflows import FOLDER, run_shipped

# In this order: "continue_tomorrow" opens what the one before it saved.
NAMES = ("mixed_edit_chain", "undo_and_branch", "continue_tomorrow", "paint_and_merge")
LARGEST = 900  # pixels


def main() -> None:
    host, base_directory = Path(os.environ["COMFYUI_PATH"]), ROOT / "build" / "comfy"
    with tempfile.TemporaryDirectory() as scratch, LiveServer(host, base_directory, Path(scratch)) as server:
        save_picture(truth(None), server.folder("input") / PICTURE)
        for name in NAMES:
            (shown,) = run_shipped(name, server)["ReEditTimeline"]["images"]
            picture = Image.open(server.output_file(shown)).convert("RGB")
            picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
            picture.save(FOLDER / f"{name}.jpg", quality=88)


if __name__ == "__main__":
    main()
