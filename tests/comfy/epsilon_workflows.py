"""Graphs around eps-VAE: one latent decoded as denoising in a few ways, and a decoder of one's own."""

from __future__ import annotations

from chain_builder import PICTURE
from reed_workflows import add_training
from session_workflows import Described
from workflow_writer import Link, WorkflowWriter

EPSILON_DECODE_NOTE = """## Decode by denoising

An eps-VAE decoder makes a latent a picture in one to three steps of denoising. Here one latent is decoded with the VAE's own
decoder and with an eps-VAE in one, three and ten steps, and in three from another seed; the pictures stand side by side.

- Put your own picture into *the picture*, choose your VAE, and the eps-VAE decoder that was trained for it.
- None is published: the template *train_epsilon* trains one.
- The latent is the same for all of them: what you edit stays as it is, whichever decoder you look at it with.
- ComfyUI's own *VAE Decode* takes an eps-VAE too; steps and seed are then those of *Load eps-VAE*.
- Keep the seed while you edit, so that what changes between two pictures is the edit.
"""


def epsilon_decode(models: dict[str, str], described: Described = None) -> WorkflowWriter:
    """One latent, decoded with the VAE's own decoder and with an eps-VAE's.

    models: the files of "vae", and of "epsilon", an eps-VAE decoder that was trained for it.
    """
    writer = WorkflowWriter()
    add = writer.add
    properties = {name: {"models": [entry]} for name, entry in (described or {}).items() if "url" in entry}

    writer.group("the picture and its latent", (-1000, -70, 460, 1010), "#888")
    base = add(
        "ReEditLoadREEDVAE",
        (-980, 0),
        (420, 120),
        "the VAE that you use",
        properties.get("vae"),
        vae_name=models["vae"],
    ).out()
    epsilon = add(
        "ReEditLoadEpsilonVAE",
        (-980, 180),
        (420, 200),
        "its eps-VAE decoder",
        decoder_name=models["epsilon"],
        base_vae=base,
        steps=3,
        seed=0,
    ).out()
    picture = add("LoadImage", (-980, 440), (420, 330), "the picture", image=PICTURE).out()
    latent = add("ReEditEncode", (-980, 800), (420, 80), "", pixels=picture, vae=base, fit="crop").out()

    writer.group("one latent, decoded in five ways", (-520, -70, 400, 1010), "#3f789e")
    plain = add("ReEditDecode", (-500, 0), (360, 100), "the VAE's own decoder", samples=latent, vae=base).out()
    one, ten, other = (
        add(
            "ReEditEpsilonDecode",
            (-500, 160 + row * 200),
            (360, 140),
            title,
            samples=latent,
            vae=epsilon,
            steps=steps,
            seed=seed,
        ).out()
        for row, (title, steps, seed) in enumerate(
            (("1 step", 1, 0), ("10 steps", 10, 0), ("3 steps, another seed", 3, 1))
        )
    )
    three = add("VAEDecode", (-500, 780), (360, 80), "3 steps: ComfyUI's own node", samples=latent, vae=epsilon).out()

    writer.group("side by side", (-100, -70, 1100, 1010), "#a55")
    upper = _beside(writer, "the picture, the VAE's own, 1 step", 0, picture, plain, one)
    lower = _beside(writer, "3 steps, 10 steps, 3 steps from another seed", 1, three, ten, other)
    sheet = _stitch(writer, (-80, 780), "both rows", upper, lower, "down")
    add("SaveImage", (280, 0), (700, 860), "five decodes", images=sheet, filename_prefix="reedit/epsilon_decode")
    return writer


def _stitch(
    writer: WorkflowWriter, position: tuple[float, float], title: str, one: Link, other: Link, direction: str
) -> Link:
    inputs = {"direction": direction, "match_image_size": True, "spacing_width": 4, "spacing_color": "white"}
    return writer.add("ImageStitch", position, (320, 150), title, image1=one, image2=other, **inputs).out()


def _beside(writer: WorkflowWriter, title: str, row: int, *pictures: Link) -> Link:
    """Three pictures in a row, by two nodes."""
    left = _stitch(writer, (-80, row * 400), "", pictures[0], pictures[1], "right")
    return _stitch(writer, (-80, row * 400 + 190), title, left, pictures[2], "right")


TRAIN_EPSILON_NOTE = """## Make an eps-VAE decoder for your own VAE

*ReEdit Train eps-VAE* trains a new decoder for the latents of your VAE, on your pictures, that makes a picture by denoising.
The latents stay what they are. The picture below is then decoded with it, beside the VAE's own decoder.

- Put pictures into a folder of ComfyUI's input folder, and write its name into *pictures*.
- As it is, this takes a few quick steps of the tiniest size, which shows that all is in place: the pictures are still noise.
- Then in earnest, with a graphics card: *size* B or M, *crop* 128 to 256, *learning_rate* 0.0001, *steps* in the hundreds of
  thousands; *warm_up* 1000, under the advanced inputs; and another *name*, since a run goes on only with the settings that
  it began with.
- Cancel whenever you like. Run it again as it is, and it goes on.
"""
# Under a minute on one processor.
TRIAL = {
    "size": "tiny",
    "steps": 8,
    "batch": 2,
    "crop": 64,
    "learning_rate": 0.001,
    "warm_up": 0,
    "adversarial_start": 1000,
    "preconditioned": True,
}


def train_epsilon(models: dict[str, str], described: Described = None) -> WorkflowWriter:
    """A VAE, the eps-VAE decoder that is trained for it, and a picture decoded with both.

    models: the file of "vae".
    """
    writer = WorkflowWriter()
    titles = ("the VAE whose latents are decoded", "train a decoder that denoises")
    trained = add_training(writer, models, described, titles, "ReEditTrainEpsilonVAE", "epsilon", TRIAL)
    inputs = {"pixels": trained.picture, "vae": trained.base, "fit": "crop"}
    latent = writer.add("ReEditEncode", (-980, 740), (420, 80), "", **inputs).out()

    writer.group("the VAE's own decoder, and the new one", (600, -70, 1000, 1180), "#a55")
    inputs = {"samples": latent, "vae": trained.base}
    plain = writer.add("ReEditDecode", (620, 0), (320, 100), "the VAE's own decoder", **inputs).out()
    inputs = {"samples": latent, "vae": trained.vae, "steps": 3, "seed": 0}
    denoised = writer.add("ReEditEpsilonDecode", (620, 160), (320, 140), "the new one", **inputs).out()
    beside = _stitch(writer, (620, 360), "side by side", plain, denoised, "right")
    prefix = "reedit/train_epsilon"
    writer.add("SaveImage", (980, 0), (600, 640), "both", images=beside, filename_prefix=prefix)
    return writer
