"""Edits as groups of nodes: what the graphs of all shipped workflows are put together from.

Boxes are (left, top, width, height) on a canvas of 64; our nodes and the host's bring such masks to the latent's size, so
the same workflow runs on a picture of any square size.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parents[1]))

from tiny_sd.language import caption
from tiny_sd.world import COLOURS, SIZE, Scene
from workflow_writer import Link, WorkflowWriter

Box = tuple[int, int, int, int]
PICTURE = "example.png"  # stands in every ComfyUI's input folder
MODELS = {
    "instruct": {
        "name": "instruct-pix2pix-00-22000.safetensors",
        "url": "https://huggingface.co/timbrooks/instruct-pix2pix/resolve/main/instruct-pix2pix-00-22000.safetensors",
        "directory": "checkpoints",
    },
    "repaint": {
        "name": "v1-5-pruned-emaonly-fp16.safetensors",
        "url": "https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/"
        "v1-5-pruned-emaonly-fp16.safetensors",
        "directory": "checkpoints",
    },
    "vae": {
        "name": "vae-ft-mse-840000-ema-pruned.safetensors",
        "url": "https://huggingface.co/stabilityai/sd-vae-ft-mse-original/resolve/main/"
        "vae-ft-mse-840000-ema-pruned.safetensors",
        "directory": "vae",
    },
    "dinov2": {
        "name": "dinov2-with-registers-base.safetensors",
        "url": "https://huggingface.co/facebook/dinov2-with-registers-base/resolve/main/model.safetensors",
        "directory": "clip_vision",
    },
    # The published file's address inside its repository is not known here.
    "rpiae": {"name": "rpiae_stage3_1_c64_ema.pt", "directory": "vae"},
    # What the templates train_reed and train_epsilon write; nowhere to be had.
    "reed": {"name": "reed.safetensors", "directory": "vae"},
    "epsilon": {"name": "epsilon.safetensors", "directory": "vae"},
}
DEMO_MODELS = {
    "instruct": "tiny_sd_instruct_pix2pix.safetensors",
    "repaint": "tiny_sd_text_to_image.safetensors",
    "vae": "tiny_sd_autoencoder.safetensors",
    "reed": "tiny_sd_reed_decoder.safetensors",
    "epsilon": "tiny_sd_epsilon_decoder.safetensors",
    "dinov2": "tiny_sd_dinov2.safetensors",
    "rpiae": "tiny_sd_rpiae.safetensors",
}
TOOLS = {"instruct": "instruction edit", "repaint": "masked repaint", "paint": "painted by hand"}
SAMPLING = {"steps": 20, "sampler_name": "euler", "scheduler": "karras", "denoise": 1.0}
CFG = {"instruct": 7.5, "repaint": 5.0}
DEMO_CFG = CFG | {"instruct": 3.0}
# InstructPix2Pix's own, for the text and for the picture, and what the demo's small model wants.
SCALES = {"text_scale": 7.5, "image_scale": 1.5}
DEMO_SCALES = {"text_scale": 3.0, "image_scale": 1.0}
# Lines of the templates' notes.
DRAWN_FOR = """- Prompts and boxes are written for a drawn scene, a red circle at the top right and a blue square at the
  bottom right on grass, and not for *example.png*: change both for your picture."""
VISION_MODEL = """- The vision model is `model.safetensors` of facebook/dinov2-with-registers-base, under the name that is
  asked for, in *models/clip_vision*."""
BOXES = """- A box is a white rectangle on a black canvas of 64×64, for a square picture of any size. For another one give the
  canvas your picture's proportions, 96×64 for one of 3:2."""


@dataclass(frozen=True)
class ChainEdit:
    """One edit, with the picture it should give: a scene, and strokes on it."""

    tool: str
    label: str
    box: Box
    after: Scene
    strokes: tuple[tuple[Box, str], ...] = ()
    seed: int | None = None  # of a sampler; None: the number of the edit

    @property
    def prompt(self) -> str:
        """An instruction says what to change; a repaint is told the whole picture, as it should be."""
        return caption(self.after) if self.tool == "repaint" else self.label

    @property
    def colour(self) -> str:
        """Of a painted edit: its last stroke's."""
        return self.strokes[-1][1]


def box_mask(box: Box) -> np.ndarray:
    """(SIZE, SIZE) bool: the pixels of a box."""
    left, top, width, height = box
    mask = np.zeros((SIZE, SIZE), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def colour_number(name: str) -> int:
    red, green, blue = (round(255 * channel) for channel in COLOURS[name])
    return red << 16 | green << 8 | blue


class ChainBuilder:
    """What all graphs share: loaders, masks, prompts and samplers, laid out edit by edit.

    models: the file of "vae" and of "instruct" and "repaint" as far as the graph needs them; described: with their addresses.
    guided: whether anything is sampled with guidance, and so needs a negative prompt. cfg: by tool, for these models.
    """

    COLUMNS, COLUMN, ROW, WIDTH, HEIGHT = 3, 1580, 760, 1520, 690

    def __init__(
        self,
        models: dict[str, str],
        described: dict[str, dict[str, str]] | None = None,
        guided: bool = True,
        cfg: dict[str, float] = CFG,
    ) -> None:
        self.writer, self.cfg = WorkflowWriter(), cfg
        properties = {name: {"models": [entry]} for name, entry in (described or {}).items()}
        self.writer.group("models and picture", (-1000, -80, 940, 1220), "#888")
        add = self.writer.add
        self.model: dict[str, Link] = {}
        self.clip: dict[str, Link] = {}
        self.negative: dict[str, Link] = {}
        known = [name for name in ("instruct", "repaint") if name in models]
        for row, name in enumerate(known):
            loader = add(
                "CheckpointLoaderSimple",
                (-980, row * 330),
                (420, 120),
                "the model" if len(known) == 1 else f"model for {TOOLS[name]}s",
                properties.get(name),
                ckpt_name=models[name],
            )
            self.model[name], self.clip[name] = loader.out(0), loader.out(1)
            if guided:
                self.negative[name] = add(
                    "CLIPTextEncode", (-520, row * 330), (380, 160), "negative prompt", text="", clip=loader.out(1)
                ).out()
        self.vae = add(
            "ReEditLoadREEDVAE", (-980, 680), (420, 90), "", properties.get("vae"), vae_name=models["vae"]
        ).out()

    @cached_property
    def canvas(self) -> Link:
        """What masks are drawn on; a graph without boxes has none."""
        title = "black canvas: masks are drawn on 64×64"
        size = {"width": 64, "height": 64}
        return self.writer.add("SolidMask", (-980, 830), (420, 130), title, value=0.0, **size).out()

    @cached_property
    def picture(self) -> Link:
        """The picture to edit; a graph that goes on with a saved session has none."""
        return self.writer.add("LoadImage", (-520, 620), (380, 420), "the picture to edit", image=PICTURE).out()

    def corner(self, index: int) -> tuple[float, float]:
        return (index % self.COLUMNS * self.COLUMN, index // self.COLUMNS * self.ROW)

    def frame(self, index: int, edit: ChainEdit) -> tuple[float, float]:
        """Draw the group of edit `index` and return its upper left corner."""
        x, y = self.corner(index)
        colour = {"instruct": "#3f789e", "repaint": "#8a8", "paint": "#b58b2a"}[edit.tool]
        title = f"{index + 1}. {TOOLS[edit.tool]}: {edit.label}"
        self.writer.group(title, (x - 20, y - 70, self.WIDTH, self.HEIGHT), colour)
        return x, y

    def mask(self, box: Box, x: float, y: float) -> Link:
        left, top, width, height = box
        white = self.writer.add("SolidMask", (x, y + 300), (270, 110), "", value=1.0, width=width, height=height)
        return self.writer.add(
            "MaskComposite",
            (x, y + 460),
            (270, 130),
            "where to edit",
            destination=self.canvas,
            source=white.out(),
            x=left,
            y=top,
            operation="add",
        ).out()

    def prompt(self, edit: ChainEdit, x: float, y: float) -> Link:
        return self.writer.add(
            "CLIPTextEncode", (x, y), (330, 160), "", text=edit.prompt, clip=self.clip[edit.tool]
        ).out()

    def sample(self, edit: ChainEdit, number: int, x: float, y: float, **inputs: Any) -> Link:
        seed = number if edit.seed is None else edit.seed
        return self.writer.add(
            "KSampler", (x, y), (290, 270), "", seed=seed, cfg=self.cfg[edit.tool], **SAMPLING, **inputs
        ).out()

    def paint(self, edit: ChainEdit, picture: Link, mask: Link, x: float, y: float) -> Link:
        """A flat colour put on a picture with core nodes, as a person would with a brush."""
        colour = self.writer.add(
            "EmptyImage",
            (x, y),
            (270, 130),
            "the paint",
            width=64,
            height=64,
            batch_size=1,
            color=colour_number(edit.colour),
        )
        return self.writer.add(
            "ImageCompositeMasked",
            (x, y + 190),
            (270, 150),
            "painting",
            destination=picture,
            source=colour.out(),
            x=0,
            y=0,
            resize_source=True,
            mask=mask,
        ).out()

    def encode(self) -> Link:
        """The picture to edit, as the latent that a session begins with."""
        inputs = {"pixels": self.picture, "vae": self.vae, "fit": "crop"}
        return self.writer.add("ReEditEncode", (-980, 1010), (420, 80), "", **inputs).out()

    def step(self, index: int, edit: ChainEdit, latent: Link) -> Link:
        """One edit of a latent with our nodes, in a frame of its own. Returns the latent after it."""
        x, y = self.frame(index, edit)
        mask = self.mask(edit.box, x, y)
        add = self.writer.add
        if edit.tool == "paint":
            decoded = add("ReEditDecode", (x, y), (270, 80), samples=latent, vae=self.vae)
            painted = self.paint(edit, decoded.out(0), mask, x + 330, y)
            inputs = {"samples": decoded.out(1), "pixels": painted, "vae": self.vae, "label": edit.label, "mask": mask}
            return add("ReEditMergePixels", (x + 680, y), (400, 330), **inputs).out()
        positive, negative = self.prompt(edit, x, y), self.negative[edit.tool]
        model = self.model[edit.tool]
        if edit.tool == "instruct":
            inputs = {"model": model, "positive": positive, "negative": negative, "samples": latent}
            conditioning = add("ReEditLatentConditioning", (x + 370, y), (300, 110), **inputs)
            positive, negative, latent = (conditioning.out(slot) for slot in range(3))
        model = add("ReEditGradientMask", (x + 370, y + 300), (300, 100), model=model, mask=mask).out()
        sampling = {"model": model, "positive": positive, "negative": negative, "latent_image": latent}
        seed = index + 1 if edit.seed is None else edit.seed
        sampled = self.sample(edit, seed, x + 720, y, **sampling)
        return add("ReEditCommit", (x + 1060, y), (400, 130), samples=sampled, label=edit.label, mask=mask).out()
