"""Ten edits of one drawn picture, with their exact outcome: as our graph, and as the graph of core nodes people use today.

Boxes are (left, top, width, height) on a canvas of 64; our nodes and the host's bring such masks to the latent's size, so
the same workflow runs on a picture of any square size.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parents[1]))

from tiny_sd.language import caption
from tiny_sd.world import COLOURS, SIZE, Scene, SceneObject, draw
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
}
DEMO_MODELS = {
    "instruct": "tiny_sd_instruct_pix2pix.safetensors",
    "repaint": "tiny_sd_text_to_image.safetensors",
    "vae": "tiny_sd_autoencoder.safetensors",
}
TOOLS = {"instruct": "instruction edit", "repaint": "masked repaint", "paint": "painted by hand"}
SAMPLING = {"steps": 20, "sampler_name": "euler", "scheduler": "karras", "denoise": 1.0}
CFG = {"instruct": 3.0, "repaint": 5.0}

CIRCLE: Box = (40, 0, 24, 24)
SQUARE: Box = (44, 44, 20, 20)
BOTTOM_LEFT: Box = (0, 44, 20, 20)
SOURCE = Scene(
    "grass",
    1.0,
    (
        SceneObject("circle", "red", "large", 11.0, 51.0, 13.0),
        SceneObject("square", "blue", "small", 8.5, 53.5, 53.5),
    ),
)


@dataclass(frozen=True)
class ChainEdit:
    """One edit, with the picture it should give: a scene, and strokes on it."""

    tool: str
    label: str
    box: Box
    after: Scene
    strokes: tuple[tuple[Box, str], ...] = ()

    @property
    def prompt(self) -> str:
        """An instruction says what to change; a repaint is told the whole picture, as it should be."""
        return caption(self.after) if self.tool == "repaint" else self.label

    @property
    def colour(self) -> str:
        """Of a painted edit: its last stroke's."""
        return self.strokes[-1][1]


def _scene(*objects: SceneObject) -> Scene:
    return replace(SOURCE, objects=objects)


def edits() -> list[ChainEdit]:
    """The chain, with the scene and the strokes that each edit should leave."""
    circle, square = SOURCE.objects
    purple = replace(circle, colour="purple")
    triangle = replace(square, shape="triangle")
    orange = replace(triangle, colour="orange")
    cross = SceneObject("cross", "white", "small", 8.0, 10.0, 54.0)
    red_cross = replace(cross, colour="red")
    yellow = SceneObject("square", "yellow", "small", 8.0, 10.0, 54.0)
    plate, window = ((4, 48, 12, 12), "white"), ((4, 52, 12, 4), "blue")
    return [
        ChainEdit("instruct", "make the circle purple", CIRCLE, _scene(purple, square)),
        ChainEdit("instruct", "turn the square into a triangle", SQUARE, _scene(purple, triangle)),
        ChainEdit("paint", "paint a white plate", plate[0], _scene(purple, triangle), (plate,)),
        ChainEdit("instruct", "paint the triangle orange", SQUARE, _scene(purple, orange), (plate,)),
        ChainEdit("paint", "paint a blue stripe", window[0], _scene(purple, orange), (plate, window)),
        ChainEdit("repaint", "repaint: a white cross", BOTTOM_LEFT, _scene(purple, orange, cross)),
        ChainEdit("instruct", "make the cross red", BOTTOM_LEFT, _scene(purple, orange, red_cross)),
        ChainEdit("instruct", "remove the circle", CIRCLE, _scene(orange, red_cross)),
        ChainEdit("repaint", "repaint: a yellow square", BOTTOM_LEFT, _scene(orange, yellow)),
        ChainEdit("instruct", "make the triangle blue", SQUARE, _scene(replace(orange, colour="blue"), yellow)),
    ]


def truth(edit: ChainEdit | None) -> np.ndarray:
    """The exact picture after an edit (None: the source), (SIZE, SIZE, 3) float32 in 0..1."""
    picture = draw(SOURCE if edit is None else edit.after)
    for (left, top, width, height), colour in () if edit is None else edit.strokes:
        picture[top : top + height, left : left + width] = COLOURS[colour]
    return picture


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
    """What both graphs share: loaders, masks, prompts and samplers, laid out edit by edit."""

    COLUMNS, COLUMN, ROW, WIDTH, HEIGHT = 3, 1580, 760, 1520, 690

    def __init__(self, models: dict[str, str], described: dict[str, dict[str, str]] | None = None) -> None:
        self.writer = WorkflowWriter()
        properties = {name: {"models": [entry]} for name, entry in (described or {}).items()}
        self.writer.group("models and picture", (-1000, -80, 940, 1220), "#888")
        add = self.writer.add
        self.model: dict[str, Link] = {}
        self.clip: dict[str, Link] = {}
        self.negative: dict[str, Link] = {}
        for row, name in enumerate(("instruct", "repaint")):
            loader = add(
                "CheckpointLoaderSimple",
                (-980, row * 330),
                (420, 120),
                f"model for {TOOLS[name]}s",
                properties.get(name),
                ckpt_name=models[name],
            )
            self.model[name], self.clip[name] = loader.out(0), loader.out(1)
            self.negative[name] = add(
                "CLIPTextEncode", (-520, row * 330), (380, 160), "negative prompt", text="", clip=loader.out(1)
            ).out()
        self.vae = add(
            "ReEditLoadREEDVAE", (-980, 680), (420, 90), "", properties.get("vae"), vae_name=models["vae"]
        ).out()
        self.picture = add("LoadImage", (-520, 620), (380, 420), "the picture to edit", image=PICTURE).out()
        self.canvas = add(
            "SolidMask",
            (-980, 830),
            (420, 130),
            "black canvas: masks are drawn on 64×64",
            value=0.0,
            width=64,
            height=64,
        ).out()

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

    def sample(self, edit: ChainEdit, seed: int, x: float, y: float, **inputs: Any) -> Link:
        return self.writer.add(
            "KSampler", (x, y), (290, 270), "", seed=seed, cfg=CFG[edit.tool], **SAMPLING, **inputs
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


def our_chain(models: dict[str, str], described: dict[str, dict[str, str]] | None = None) -> WorkflowWriter:
    """The latent is the document: one encode at the start, and one for each time somebody paints."""
    build = ChainBuilder(models, described)
    add = build.writer.add
    latent = add("ReEditEncode", (-980, 1010), (420, 80), "", pixels=build.picture, vae=build.vae, fit="refuse").out()
    for index, edit in enumerate(edits()):
        x, y = build.frame(index, edit)
        mask = build.mask(edit.box, x, y)
        if edit.tool == "paint":
            decoded = add("ReEditDecode", (x, y), (270, 80), samples=latent, vae=build.vae)
            painted = build.paint(edit, decoded.out(0), mask, x + 330, y)
            latent = add(
                "ReEditMergePixels",
                (x + 680, y),
                (400, 170),
                samples=decoded.out(1),
                pixels=painted,
                vae=build.vae,
                label=edit.label,
                mask=mask,
            ).out()
            continue
        positive, negative = build.prompt(edit, x, y), build.negative[edit.tool]
        if edit.tool == "instruct":
            conditioning = add(
                "ReEditLatentConditioning",
                (x + 370, y),
                (300, 110),
                model=build.model[edit.tool],
                positive=positive,
                negative=negative,
                samples=latent,
            )
            positive, negative, latent = (conditioning.out(slot) for slot in range(3))
        model = add("ReEditGradientMask", (x + 370, y + 300), (300, 100), model=build.model[edit.tool], mask=mask).out()
        sampled = build.sample(
            edit, index + 1, x + 720, y, model=model, positive=positive, negative=negative, latent_image=latent
        )
        latent = add("ReEditCommit", (x + 1060, y), (400, 130), samples=sampled, label=edit.label, mask=mask).out()
    x, y = build.corner(len(edits()))
    build.writer.group("what came of it", (x - 20, y - 70, 2255, 900), "#a55")
    last = add("ReEditDecode", (x, y), (270, 80), samples=latent, vae=build.vae)
    add("SaveImage", (x, y + 140), (400, 320), "the picture now", images=last.out(0), filename_prefix="reedit/final")
    timeline = add("ReEditTimeline", (x + 450, y), (860, 800), "", samples=last.out(1), vae=build.vae, columns=4)
    steps = (x, y + 510)
    add("SaveImage", steps, (400, 290), "every step", images=timeline.out(1), filename_prefix="reedit/step")
    add("ReEditDriftMeter", (x + 1355, y), (860, 800), samples=last.out(1), vae=build.vae)
    return build.writer


def round_trip_chain(models: dict[str, str]) -> WorkflowWriter:
    """The same ten edits with core nodes: each decodes to pixels, the next one encodes them again.

    The VAE alone comes from our loader, since the host's own knows one width.
    """
    build = ChainBuilder(models)
    add = build.writer.add
    picture = build.picture
    latent = add("VAEEncode", pixels=picture, vae=build.vae).out()
    add("SaveLatent", samples=latent, filename_prefix="round_trip/latent_00")
    for index, edit in enumerate(edits()):
        mask = build.mask(edit.box, 0, 0)
        if edit.tool == "paint":
            picture = build.paint(edit, picture, mask, 0, 0)
        else:
            positive, negative = build.prompt(edit, 0, 0), build.negative[edit.tool]
            if edit.tool == "instruct":
                conditioning = add(
                    "InstructPixToPixConditioning", positive=positive, negative=negative, vae=build.vae, pixels=picture
                )
                positive, negative = conditioning.out(0), conditioning.out(1)
            masked = add("SetLatentNoiseMask", samples=latent, mask=mask).out()
            model = build.model[edit.tool]
            sampled = build.sample(
                edit, index + 1, 0, 0, model=model, positive=positive, negative=negative, latent_image=masked
            )
            picture = add("VAEDecode", samples=sampled, vae=build.vae).out()
        latent = add("VAEEncode", pixels=picture, vae=build.vae).out()
        add("SaveImage", images=picture, filename_prefix=f"round_trip/after_{index + 1:02d}")
        add("SaveLatent", samples=latent, filename_prefix=f"round_trip/latent_{index + 1:02d}")
    return build.writer
