"""Graphs around RPiAE: how far an edit moved the meaning, the autoencoder itself, and one of one's own."""

from __future__ import annotations

from chain_builder import BOXES, PICTURE, VISION_MODEL, ChainBuilder
from instruct_workflows import PURPLE, Instructed
from reed_workflows import PICTURES
from session_workflows import Described
from workflow_writer import Link, WorkflowWriter

SEMANTIC_DRIFT_NOTE = f"""## Did the edit change what it should, and nothing else?

*ReEdit Semantic Drift* asks a vision model (DINOv2) what it sees in every patch of the source and of the edit. Here the
same instruction is carried out twice, inside a mask and without one; the heat maps show what became something else.

- Put your picture into *the picture to edit*, and move the box under *what all edits share*.
{BOXES}
{VISION_MODEL} Any other DINOv2 will do.
- *drift* is to be large inside the mask, and *drift_outside* small. Noise and softness hardly count; another face does.
"""

RPIAE_NOTE = """## An autoencoder that knows what it sees

An RPiAE makes its latent of a vision model's tokens. The picture goes through it and back, beside the original; then
something is painted on it, and the RPiAE's own encoder says where the picture means something else.

- Get `rpiae_stage3_1_c64_ema.pt` of qihoo360/RPiAE from Hugging Face into *models/vae*. Or make one: *train_rpiae*.
- It works at one size, 256×256 as published. *fit* set to crop brings any picture to it.
- Its latents are its own: no image model works in them. For editing keep the VAE of your model.
"""

TRAIN_RPIAE_NOTE = f"""## Make an RPiAE on your own pictures

Three *ReEdit Train RPiAE* in a row are its three stages: the vision model is trained along with a decoder and held near
what it was; a bridge brings its tokens to few channels; the decoder is trained once more behind the bridge.

{VISION_MODEL}
- Put pictures into a folder of ComfyUI's input folder, and write its name into *pictures* of all three.
- As it is, each stage takes a few quick steps at 64 px, which shows that all is in place: the picture is still a blur.
- Then in earnest: *crop* 256, *patches* 16, *channels* 64, *decoder* XL, *learning_rate* 0.0002, *steps* 80000,
  *adversarial_start* 40000, as large a *batch* as your card holds; *warm_up* 5000, under the advanced inputs; and another
  *name* in each, since a run goes on only with the settings that it began with.
"""


def semantic_drift(models: dict[str, str], described: Described = None) -> WorkflowWriter:
    """One instruction, in a mask and without, and how far each moved the meaning.

    models: the files of "instruct", "vae" and "dinov2".
    """
    build = ChainBuilder({name: file for name, file in models.items() if name != "dinov2"}, described)
    writer = build.writer
    source = build.encode()
    parts = Instructed(build)
    encoder = add_dinov2(writer, models, described, (-980, 1220))
    before = writer.add("ReEditDecode", (-520, 1080), (380, 80), "the source", samples=source, vae=build.vae).out()
    instruction = parts.text(PURPLE, 660, 0, "the instruction")
    for row, (title, mask) in enumerate((("in the mask", parts.circle), ("without a mask", None))):
        y = row * 640
        writer.group(f"the edit {title}", (640, y - 70, 1100, 620), "#3f789e")
        edited = parts.edited(instruction, source, 2, 1040, y, mask)
        after = writer.add("ReEditDecode", (1380, y + 200), (300, 80), "", samples=edited, vae=build.vae).out()
        writer.group(f"what it moved: {title}", (1760, y - 70, 1320, 620), "#a55")
        pictures = {"source": before, "edited": after, "encoder": encoder, "mask": parts.circle}
        drift = writer.add("ReEditSemanticDrift", (1780, y), (700, 530), f"drift {title}", **pictures)
        prefix = f"reedit/semantic_drift_{title.replace(' ', '_')}"
        writer.add("SaveImage", (2500, y), (560, 330), f"heat map {title}", images=drift.out(0), filename_prefix=prefix)
        writer.add("PreviewAny", (2500, y + 390), (560, 140), f"figures {title}", source=drift.out(4))
    return writer


def add_dinov2(
    writer: WorkflowWriter, models: dict[str, str], described: Described, position: tuple[float, float]
) -> Link:
    entry = (described or {}).get("dinov2")
    properties = {"models": [entry]} if entry else None
    return writer.add(
        "ReEditLoadDINOv2", position, (420, 100), "the vision model", properties, model_name=models["dinov2"]
    ).out()


def rpiae(models: dict[str, str], described: Described = None) -> WorkflowWriter:
    """A picture through an RPiAE and back, something painted on it, and what its encoder says of that.

    models: the file of "rpiae".
    """
    writer = WorkflowWriter()
    add = writer.add
    writer.group("the RPiAE, and a picture", (-1000, -70, 460, 900), "#888")
    vae = add("ReEditLoadRPiAE", (-980, 0), (420, 120), "", vae_name=models["rpiae"]).out()
    picture = add("LoadImage", (-980, 190), (420, 400), "the picture", image=PICTURE).out()
    latent = add("ReEditEncode", (-980, 650), (420, 120), "", pixels=picture, vae=vae, fit="crop").out()

    writer.group("through it and back", (-520, -70, 760, 900), "#3f789e")
    decoded = add("ReEditDecode", (-500, 0), (320, 100), "", samples=latent, vae=vae).out()
    stitching = {"direction": "right", "match_image_size": True, "spacing_width": 4, "spacing_color": "white"}
    beside = add("ImageStitch", (-500, 160), (320, 150), "", image1=decoded, image2=picture, **stitching).out()
    prefix = "reedit/rpiae"
    add("SaveImage", (-160, 0), (380, 420), "through it, and the original", images=beside, filename_prefix=prefix)

    writer.group("paint on it, and ask where it means something else", (260, -70, 1500, 900), "#a55")
    size = {"width": 64, "height": 64}
    canvas = add("SolidMask", (280, 0), (280, 110), "canvas of 64×64", value=0.0, **size).out()
    white = add("SolidMask", (280, 170), (280, 110), "", value=1.0, width=20, height=20).out()
    on_canvas = {"destination": canvas, "source": white, "x": 36, "y": 8, "operation": "add"}
    mask = add("MaskComposite", (280, 340), (280, 130), "where to paint", **on_canvas).out()
    colour = add("EmptyImage", (600, 0), (280, 130), "the paint", **size, batch_size=1, color=0x8030C0).out()
    over = {"destination": decoded, "source": colour, "x": 0, "y": 0, "resize_source": True, "mask": mask}
    painted = add("ImageCompositeMasked", (600, 190), (280, 150), "", **over).out()
    pictures = {"source": decoded, "edited": painted, "encoder": vae, "mask": mask}
    drift = add("ReEditSemanticDrift", (920, 0), (480, 560), "", **pictures)
    prefix = "reedit/rpiae_drift"
    add(
        "SaveImage", (1420, 0), (320, 330), "where it means something else", images=drift.out(0), filename_prefix=prefix
    )
    return writer


HEIGHT = 1430  # of the groups of train_rpiae
# Each stage takes seconds on one processor. The sizes are those of the demo's vision model too.
TRIAL = {
    "steps": 8,
    "batch": 2,
    "crop": 64,
    "patches": 8,
    "channels": 16,
    "decoder": "tiny",
    "learning_rate": 0.001,
    "warm_up": 0,
    "adversarial_start": 1000,
}


def train_rpiae(models: dict[str, str], described: Described = None) -> WorkflowWriter:
    """A vision model, the three stages of an RPiAE on it, and a picture through what comes out.

    models: the file of "dinov2".
    """
    writer = WorkflowWriter()
    add = writer.add
    writer.group("the vision model, and a picture to test it on", (-1000, -70, 460, HEIGHT), "#888")
    base = add_dinov2(writer, models, described, (-980, 0))
    picture = add("LoadImage", (-980, 190), (420, 480), "the picture to test", image=PICTURE).out()
    for column, stage in enumerate(("pivot", "bridge", "decoder")):
        x = -520 + column * 560
        writer.group(f"{column + 1}. {stage}", (x, -70, 520, HEIGHT), "#3f789e")
        training = add("ReEditTrainRPiAE", (x + 20, 0), (480, 1140), stage, base=base, pictures=PICTURES)
        training.inputs |= {"name": f"rpiae_{stage}", **TRIAL, "stage": stage}
        add("PreviewAny", (x + 20, 1200), (480, 130), f"log: {stage}", source=training.out(2))
        base = training.out(0)
    writer.group("a picture through it", (1180, -70, 520, HEIGHT), "#a55")
    latent = add("ReEditEncode", (1200, 0), (480, 120), "", pixels=picture, vae=base, fit="crop").out()
    decoded = add("ReEditDecode", (1200, 180), (480, 100), "", samples=latent, vae=base).out()
    add("SaveImage", (1200, 340), (480, 640), "through it", images=decoded, filename_prefix="reedit/train_rpiae")
    return writer
