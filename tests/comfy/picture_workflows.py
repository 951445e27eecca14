"""Makes the thumbnails of the workflows: runs each with the demo's models and keeps its timeline, or its report.

`python tests/comfy/picture_workflows.py [NAME …]` with the environment's Python and COMFYUI_PATH set.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from chain_builder import PICTURE
from demo import ROOT, save_picture, save_training_pictures
from edit_chain import truth
from live_server import LiveServer
from PIL import Image
from reed_workflows import PICTURES as TRAINING_PICTURES
from saved_workflows import FOLDER, run_shipped

# By the node whose picture it is. In this order: "continue_tomorrow" opens what the one before it saved.
SHOWN = {
    "mixed_edit_chain": "ReEditTimeline",
    "undo_and_branch": "ReEditTimeline",
    "continue_tomorrow": "ReEditTimeline",
    "paint_and_merge": "ReEditTimeline",
    "invert_and_reconstruct": "ReEditInversionReport",
    "prompt_edit": "timeline: edited by prompt",
    "attention_mask": "ReEditTimeline",
    "instruct_chain": "ReEditTimeline",
    "multi_mask_instruct": "ReEditTimeline",
    "reed_round_trip": "the contact sheet",
    "train_reed": "the curves of both",
    "epsilon_decode": "five decodes",
    "train_epsilon": "pictures it was not trained on",
    "semantic_drift": "heat map without a mask",
    "rpiae": "where it means something else",
    "train_rpiae": "pivot",
    "many_tools_one_latent": "ReEditTimeline",
}
# What is changed first, for a picture that shows something.
CHANGES = {"train_epsilon": {"ReEditTrainEpsilonVAE.steps": "300", "ReEditTrainEpsilonVAE.perceptual": "0"}}
LARGEST = 900  # pixels


def main() -> None:
    host, base_directory = Path(os.environ["COMFYUI_PATH"]), ROOT / "build" / "comfy"
    with tempfile.TemporaryDirectory() as scratch, LiveServer(host, base_directory, Path(scratch)) as server:
        save_picture(truth(None), server.folder("input") / PICTURE)
        save_training_pictures(server.folder("input") / TRAINING_PICTURES)
        for name in sys.argv[1:] or SHOWN:
            (shown,) = run_shipped(name, server, CHANGES.get(name))[SHOWN[name]]["images"]
            picture = Image.open(server.output_file(shown)).convert("RGB")
            if enlarged := LARGEST // 2 // max(picture.size):  # the demo's pictures are small
                picture = picture.resize([enlarged * side for side in picture.size], Image.Resampling.NEAREST)
            picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
            picture.save(FOLDER / f"{name}.jpg", quality=88)


if __name__ == "__main__":
    main()
