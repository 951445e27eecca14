"""Twenty-five edits of drawn scenes with three kinds of tool, done three ways in the host, a batch of scenes at a time.

The ways: the latent as the document, with our nodes; a pixel round trip for each edit, with the host's; and crop and stitch
with the host's nodes: the box and its surroundings are cut out of the picture, edited, and only the box is put back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nodes as host
import numpy as np
import torch
from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion
from comfy_extras.nodes_images import ImageCrop
from comfy_extras.nodes_ip2p import InstructPixToPixConditioning
from comfy_extras.nodes_mask import ImageCompositeMasked
from conftest import load_tiny_model
from reedit.nodes.autoencoders import ReEditDecode, ReEditEncode, load_kl_vae
from reedit.nodes.emilie import ReEditGradientMask, ReEditLatentConditioning
from reedit.nodes.merge_pixels import ReEditMergePixels
from reedit.nodes.session import ReEditCommit
from tiny_sd.language import caption, make_edit
from tiny_sd.world import COLOURS, SHAPES, SIZE, Scene, SceneObject, draw, random_scene
from torch import Tensor

TOOLS = ("instruct", "paint", "blend")
SAMPLING = {"steps": 8, "sampler_name": "euler", "scheduler": "karras"}
CFG = {"instruct": 3.0, "blend": 5.0}
CONTEXT = 8  # pixels around a box that crop and stitch cuts out with it
# (left, top, width, height) in pixels; what lies in none of them is never edited.
BOXES = ((4, 4, 20, 20), (36, 8, 20, 16), (8, 32, 16, 24), (36, 36, 20, 20))


@dataclass
class Models:
    vae: Any
    instruct: tuple[Any, Any]  # MODEL, CLIP
    text_to_image: tuple[Any, Any]

    def of(self, tool: str) -> tuple[Any, Any]:
        return self.instruct if tool == "instruct" else self.text_to_image


@dataclass
class PlannedEdit:
    """One edit of the chain, the same box for all scenes of the batch, with a prompt or a colour for each."""

    tool: str
    box: tuple[int, int, int, int]
    texts: list[str]
    colours: Tensor  # (B, 3)
    seed: int

    @property
    def mask(self) -> Tensor:
        """(1, SIZE, SIZE): the box; of a blended edit its rim is softer."""
        left, top, width, height = self.box
        mask = torch.zeros(1, SIZE, SIZE)
        mask[:, top : top + height, left : left + width] = 1.0
        if self.tool == "blend":
            inner = mask.clone()
            inner[:, top + 4 : top + height - 4, left + 4 : left + width - 4] = 2.0
            mask = inner / 2
        return mask


def plan(seed: int, scenes: int, edits: int) -> tuple[list[Scene], list[PlannedEdit]]:
    """The scenes and what is done to them."""
    generator = np.random.default_rng(seed)
    drawn = [random_scene(generator) for _ in range(scenes)]
    names = list(COLOURS)
    planned = []
    for number in range(edits):
        tool = TOOLS[number % len(TOOLS)]
        box = BOXES[generator.integers(len(BOXES))]
        if tool == "instruct":
            texts = [make_edit(generator, scene, "colour").instruction for scene in drawn]
        else:
            texts = [caption(with_object_in(generator, scene, box)) for scene in drawn]
        colours = torch.tensor([COLOURS[names[generator.integers(len(names))]] for _ in drawn])
        planned.append(PlannedEdit(tool, box, texts, colours, seed + number))
    return drawn, planned


def with_object_in(generator: np.random.Generator, scene: Scene, box: tuple[int, int, int, int]) -> Scene:
    """The scene with one object more, in the middle of a box."""
    left, top, width, height = box
    shape, colour = str(generator.choice(SHAPES)), str(generator.choice(list(COLOURS)))
    item = SceneObject(shape, colour, "small", 8.0, left + width / 2, top + height / 2)
    return replace(scene, objects=(item, *scene.objects[:1]))


def pictures_of(scenes: list[Scene]) -> Tensor:
    return torch.from_numpy(np.stack([draw(scene) for scene in scenes]))


def conditioning(clip: Any, texts: list[str]) -> list[list[Any]]:
    """One CONDITIONING whose batch holds a text for each scene."""
    each = [host.CLIPTextEncode().encode(clip, text)[0][0] for text in texts]
    options = {**each[0][1], "pooled_output": torch.cat([entry[1]["pooled_output"] for entry in each])}
    return [[torch.cat([entry[0] for entry in each]), options]]


def brush(edit: PlannedEdit, picture: Tensor) -> Tensor:
    """A flat colour painted into the box, with the host's node."""
    paint = edit.colours[:, None, None, :].expand(-1, SIZE, SIZE, -1)
    masks = edit.mask.expand(len(picture), -1, -1)
    return ImageCompositeMasked.execute(picture, paint, 0, 0, False, masks).result[0]


def sample(model: Any, edit: PlannedEdit, positive: Any, negative: Any, latent: dict[str, Any]) -> dict[str, Any]:
    arguments = (model, edit.seed, SAMPLING["steps"], CFG[edit.tool], SAMPLING["sampler_name"], SAMPLING["scheduler"])
    return host.KSampler().sample(*arguments, positive, negative, latent)[0]


def our_way(models: Models, pictures: Tensor, edits: list[PlannedEdit]) -> dict[str, Any]:
    """The LATENT after all edits, with its session."""
    latent = ReEditEncode.execute(pictures, models.vae)[0]
    for edit in edits:
        if edit.tool == "paint":
            picture, latent = ReEditDecode.execute(latent, models.vae).result
            painted = brush(edit, picture)
            # Boxes are painted over again and again: so only what the paint changed is added.
            latent = ReEditMergePixels.execute(
                latent, painted, models.vae, mask=edit.mask, blend="difference", decoded=picture
            )[0]
            continue
        model, clip = models.of(edit.tool)
        positive, negative = conditioning(clip, edit.texts), conditioning(clip, [""] * len(pictures))
        if edit.tool == "instruct":
            model = ReEditGradientMask.execute(model, edit.mask)[0]
            positive, negative, latent = ReEditLatentConditioning.execute(model, positive, negative, latent).result
            sampled = sample(model, edit, positive, negative, latent)
        else:
            model = DifferentialDiffusion.execute(model).result[0]
            masked = host.SetLatentNoiseMask().set_mask(latent, edit.mask)[0]
            sampled = sample(model, edit, positive, negative, masked)
        latent = ReEditCommit.execute(sampled, edit.tool, edit.tool, edit.mask)[0]
        latent.pop("noise_mask", None)  # meant for that sampler alone
    return latent


def pixel_edit(models: Models, edit: PlannedEdit, picture: Tensor, mask: Tensor) -> Tensor:
    """An instruction or a blended edit of a picture with the host's nodes alone: encode, sample under a mask, decode."""
    model, clip = models.of(edit.tool)
    positive, negative = conditioning(clip, edit.texts), conditioning(clip, [""] * len(picture))
    latent = host.VAEEncode().encode(models.vae, picture)[0]
    if edit.tool == "instruct":
        positive, negative, _ = InstructPixToPixConditioning.execute(positive, negative, picture, models.vae).result
    else:
        model = DifferentialDiffusion.execute(model).result[0]
    masked = host.SetLatentNoiseMask().set_mask(latent, mask)[0]
    return host.VAEDecode().decode(models.vae, sample(model, edit, positive, negative, masked))[0]


def round_trip_way(models: Models, pictures: Tensor, edits: list[PlannedEdit]) -> Tensor:
    """The picture after all edits, each of which takes and gives a whole picture."""
    for edit in edits:
        if edit.tool == "paint":
            pictures = brush(edit, pictures)
        else:
            pictures = pixel_edit(models, edit, pictures, edit.mask)
    return host.VAEDecode().decode(models.vae, host.VAEEncode().encode(models.vae, pictures)[0])[0]


def crop_and_stitch_way(models: Models, pictures: Tensor, edits: list[PlannedEdit]) -> Tensor:
    """The picture after all edits, each made on a crop of which only the box is put back."""
    for edit in edits:
        if edit.tool == "paint":
            pictures = brush(edit, pictures)
            continue
        left, top, width, height = edit.box
        x, y = max(0, left - CONTEXT), max(0, top - CONTEXT)
        right, bottom = min(SIZE, left + width + CONTEXT), min(SIZE, top + height + CONTEXT)
        crop = ImageCrop.execute(pictures, right - x, bottom - y, x, y).result[0]
        mask = edit.mask[:, y:bottom, x:right]
        part = pixel_edit(models, edit, crop, mask)
        everywhere = mask.expand(len(pictures), -1, -1)
        pictures = ImageCompositeMasked.execute(pictures, part, x, y, False, everywhere).result[0]
    return pictures


def load_models(weights: Path) -> Models:
    vae = load_kl_vae(weights / "tiny_sd_autoencoder.safetensors")
    return Models(vae, load_tiny_model(weights, "instruct_pix2pix"), load_tiny_model(weights, "text_to_image"))
