"""Makes web/pictures/round_trip.jpg: the contact sheet of the template reed_round_trip, run with the demo's models.

`python tests/comfy/picture_round_trip.py VAE REED`, two files of the host's folder models/vae, with the environment's Python
and COMFYUI_PATH set.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from chain_builder import PICTURE
from demo import ROOT, save_picture
from edit_chain import truth
from live_server import LiveServer
from PIL import Image
from reed_workflows import reed_round_trip

WIDTH = 1000  # pixels


def main() -> None:
    base, reed = sys.argv[1:]
    graph = reed_round_trip({"vae": base, "reed": reed})
    (sheet,) = [node for node in graph.nodes if node.title == "the contact sheet"]
    host, base_directory = Path(os.environ["COMFYUI_PATH"]), ROOT / "build" / "comfy"
    with tempfile.TemporaryDirectory() as scratch, LiveServer(host, base_directory, Path(scratch)) as server:
        save_picture(truth(None), server.folder("input") / PICTURE)
        (shown,) = server.run(graph.as_queued())[str(sheet.number)]["images"]
        picture = Image.open(server.output_file(shown)).convert("RGB")
    height = round(picture.height * WIDTH / picture.width)
    picture.resize((WIDTH, height), Image.Resampling.LANCZOS).save(
        ROOT / "web" / "pictures" / "round_trip.jpg", quality=88
    )


if __name__ == "__main__":
    main()
