"""Graphs around REED-VAE: is its decoder worth using, on your own pictures?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chain_builder import PICTURE
from session_workflows import Described
from workflow_writer import Link, WorkflowWriter

REED_ROUND_TRIP_NOTE = """## Which VAE survives many edits?

*ReEdit Round-Trip Test* encodes and decodes your picture 25 times with each of two VAEs, and draws what is left of it: the
VAE that you use now, and the same with a decoder that was trained as REED-VAE and whose decoding is corrected.

- Put your own picture into *the picture to test*, choose your VAE, and the REED decoder that was trained for it.
- The template *train_reed* trains one. Without one, choose any other VAE there: the two need nothing in common.
- *Correct VAE Decoding* lets the encoder check what was decoded, and needs no training: it works with your VAE as well.
  Bypass it (Ctrl+B) to see what the REED decoder does alone.
- Judge by the pass that you expect to need, in the summary and on the sheet. On the first pass a REED decoder may be a little
  behind.
"""


def reed_round_trip(models: dict[str, str], described: Described = None, corrections: int = 2) -> WorkflowWriter:
    """Twenty-five round trips of one picture with a VAE, and with its REED decoder, corrected, beside it.

    models: the files of "vae", and of "reed", a decoder or a whole VAE.
    """
    writer = WorkflowWriter()
    add = writer.add
    properties = {name: {"models": [entry]} for name, entry in (described or {}).items() if "url" in entry}

    writer.group("the picture, and two VAEs", (-1000, -70, 460, 900), "#888")
    base = add(
        "ReEditLoadREEDVAE",
        (-980, 0),
        (420, 90),
        "the VAE that you use now",
        properties.get("vae"),
        vae_name=models["vae"],
    ).out()
    reed = add(
        "ReEditLoadREEDVAE",
        (-980, 150),
        (420, 90),
        "with its REED decoder",
        properties.get("reed"),
        vae_name=models["reed"],
        base_vae=base,
    ).out()
    corrected = add(
        "ReEditCorrectDecoding", (-980, 300), (420, 60), "checked by its encoder", vae=reed, corrections=corrections
    ).out()
    picture = add("LoadImage", (-980, 420), (420, 380), "the picture to test", image=PICTURE).out()

    writer.group("the test", (-520, -70, 620, 900), "#3f789e")
    inputs = {"images": picture, "vae": base, "other_vae": corrected, "passes": 25, "eight_bit": True}
    test = add("ReEditRoundTripTest", (-500, 0), (580, 800), "", **inputs)
    _results(writer, test.out(0), test.out(1), test.out(3))
    return writer


def _results(writer: WorkflowWriter, plot: Link, sheet: Link, summary: Link) -> None:
    writer.group("what came of it", (120, -70, 1420, 900), "#a55")
    for index, (title, pictures) in enumerate((("the curves", plot), ("the contact sheet", sheet))):
        prefix = f"reedit/round_trip_{title.replace(' ', '_')}"
        position = (140 + index * 700, 0)
        writer.add("SaveImage", position, (680, 600), title, images=pictures, filename_prefix=prefix)
    writer.add("PreviewAny", (140, 640), (1380, 160), "in words", source=summary)


TRAIN_REED_NOTE = """## Make a REED-VAE of your own VAE

*ReEdit Train REED* trains the decoder of your VAE, on your pictures, to survive many encode-decode passes. The latents stay
what they are. *ReEdit Round-Trip Test* then shows the new VAE beside the old one.

- Put pictures into a folder of ComfyUI's input folder, and write its name into *pictures*.
- As it is, this takes a few steps on small crops, which shows that all is in place and teaches the decoder nothing yet.
- Then in earnest, with a graphics card: *crop* 256 to 512 for SD1.5 and 512 for SDXL and Flux, thousands of *steps*, and
  another *name*, since a run goes on only with the settings that it began with.
- Cancel whenever you like. Run it again as it is, and it goes on.
"""
PICTURES = "my_pictures"  # a folder in the host's input folder
TRIAL = {"steps": 8, "batch": 2, "crop": 64}  # under a minute on one processor, with the demo's small VAE


@dataclass(frozen=True)
class Trained:
    """A training in a graph: the VAE that it starts from, the picture that it is tested on, and the VAE that it makes."""

    base: Link
    picture: Link
    vae: Link


def add_training(
    writer: WorkflowWriter,
    models: dict[str, str],
    described: Described,
    titles: tuple[str, str],
    kind: str,
    name: str,
    trial: dict[str, Any],
) -> Trained:
    """A VAE, a picture, and a training node with all that it gives.

    models: the file of "vae". titles: of the VAE and of the training's group. trial: the settings for a first try.
    """
    add = writer.add
    properties = {model: {"models": [entry]} for model, entry in (described or {}).items()}

    writer.group("your VAE, and a picture to test it on", (-1000, -70, 460, 1180), "#888")
    base = add(
        "ReEditLoadREEDVAE", (-980, 0), (420, 120), titles[0], properties.get("vae"), vae_name=models["vae"]
    ).out()
    picture = add("LoadImage", (-980, 190), (420, 480), "the picture to test", image=PICTURE).out()

    writer.group(titles[1], (-520, -70, 1100, 1180), "#3f789e")
    training = add(kind, (-500, 0), (480, 1080), "", vae=base, pictures=PICTURES, name=name)
    training.inputs |= trial  # one may be called size, as the node's own on the canvas
    add("PreviewImage", (0, 0), (560, 480), "pictures it was not trained on", images=training.out(1))
    add("PreviewAny", (0, 540), (560, 320), "the log", source=training.out(2))
    add("PreviewAny", (0, 920), (560, 150), "the file in models/vae", source=training.out(3))
    return Trained(base, picture, training.out(0))


def train_reed(models: dict[str, str], described: Described = None) -> WorkflowWriter:
    """A VAE, the decoder that is trained for it, and 25 round trips with both.

    models: the file of "vae".
    """
    writer = WorkflowWriter()
    titles = ("the VAE to start from", "train its decoder")
    trained = add_training(writer, models, described, titles, "ReEditTrainREED", "reed", TRIAL)

    writer.group("before and after", (600, -70, 1100, 1180), "#a55")
    inputs = {"images": trained.picture, "vae": trained.base, "other_vae": trained.vae, "passes": 25, "eight_bit": True}
    test = writer.add("ReEditRoundTripTest", (620, 0), (520, 1080), "", **inputs)
    prefix = "reedit/train_reed"
    writer.add("SaveImage", (1160, 0), (520, 640), "the curves of both", images=test.out(0), filename_prefix=prefix)
    writer.add("PreviewAny", (1160, 700), (520, 370), "in words", source=test.out(3))
    return writer
