"""Five masked instructions: in one sampling run, and one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import _host  # noqa: F401
import nodes as host
import numpy as np
import torch
from _chain import conditioning, pictures_of
from _emilie_world import FIVE, IMAGE_SCALE, STEPS, TEXT_SCALE, autoencoder, instruct_model, sampled
from comfy_extras.nodes_custom_sampler import DualCFGGuider
from comfy_extras.nodes_ip2p import InstructPixToPixConditioning
from reedit.nodes.instruct import ReEditInstructGuider, ReEditInstruction
from reedit.nodes.picture_conditioning import INSTRUCT, with_picture
from tiny_sd.judge import edit_verdict
from tiny_sd.language import Edit
from tiny_sd.world import BACKGROUNDS, COLOURS, SHAPES, SIZES, Scene, SceneObject, object_mask
from torch import Tensor

ONE, OURS, HOST, PIXELS, SINGLY = (
    "one pass",
    "five passes",
    "five passes, host's nodes on the latent",
    "five passes, host's nodes through pixels",
    "each alone, from the source",
)
INSTRUCTIONS = 5
REPEATS = 3
THREE_WAY = 1.5  # an image scale at which the unconditional prediction is wanted too


@dataclass(frozen=True)
class Case:
    way: str

    def __str__(self) -> str:
        return f"five instructions, {self.way}"


def plan(number: int) -> tuple[Edit, ...]:
    """Five edits of one scene in a row, the first four each of one small object, the last of what no object covers.

    Each edit's `before` is the `after` of the one in front of it. The model was trained on scenes of at most three objects.
    """
    generator = np.random.default_rng(number)
    objects = []
    for shape, (x, y) in zip(generator.permutation(SHAPES), ((16, 16), (48, 16), (16, 48), (48, 48)), strict=True):
        radius, (right, down) = generator.uniform(*SIZES["small"]), generator.uniform(-3, 3, 2)
        objects.append(
            SceneObject(str(shape), str(generator.choice(list(COLOURS))), "small", float(radius), x + right, y + down)
        )
    background, then = (str(kind) for kind in generator.permutation(BACKGROUNDS)[:2])
    scene = Scene(background, float(generator.uniform(0.85, 1.15)), tuple(objects))
    edits = []
    for item in objects:
        colour = str(generator.choice([name for name in COLOURS if name != item.colour]))
        changed = tuple(replace(item, colour=colour) if other is item else other for other in scene.objects)
        after = replace(scene, objects=changed)
        edits.append(Edit("colour", f"make the {item.shape} {colour}", scene, after, item, object_mask(item)))
        scene = after
    free = 1 - np.clip(sum(object_mask(item) for item in objects), 0, 1)
    after = replace(scene, background=then)
    return (*edits, Edit("background", f"change the background to {then}", scene, after, None, free))


@dataclass(frozen=True)
class Batch:
    """Scenes with five edits each. masks and positives: of each instruction, for all scenes. The masks are disjoint."""

    plans: tuple[tuple[Edit, ...], ...]
    picture: Tensor
    samples: Tensor
    masks: tuple[Tensor, ...]
    positives: tuple[Any, ...]
    negative: Any

    @property
    def latent(self) -> dict[str, Any]:
        return {"samples": self.samples}


def batch(first: int, count: int, seed: int) -> Batch:
    plans = tuple(plan(1_000_000 * seed + FIVE + number) for number in range(first, first + count))
    picture, (_, clip) = pictures_of([edits[0].before for edits in plans]), instruct_model()
    return Batch(
        plans,
        picture,
        autoencoder().encode(picture),
        tuple(
            torch.from_numpy(np.stack([edits[n].mask > 0.5 for edits in plans])).float() for n in range(INSTRUCTIONS)
        ),
        tuple(conditioning(clip, [edits[n].instruction for edits in plans]) for n in range(INSTRUCTIONS)),
        conditioning(clip, [""] * count),
    )


def one_pass(given: Batch, model: Any, steps: int, seed: int, image_scale: float = IMAGE_SCALE) -> Tensor:
    scales = {"text_scale": TEXT_SCALE, "image_scale": image_scale}
    marked = reduce(
        lambda others, pair: ReEditInstruction.execute(*pair, **scales, others=others)[0],
        zip(given.positives, given.masks, strict=True),
        None,
    )
    guider = ReEditInstructGuider.execute(model, marked, given.negative, given.latent, **scales)[0]
    return sampled(guider, given.latent, steps, seed)["samples"]


def our_pass(given: Batch, model: Any, latent: dict[str, Any], number: int, steps: int, seed: int, scale: float) -> Any:
    scales = {"text_scale": TEXT_SCALE, "image_scale": scale, "mask": given.masks[number]}
    guider = ReEditInstructGuider.execute(model, given.positives[number], given.negative, latent, **scales)[0]
    return sampled(guider, latent, steps, seed)


def five_passes(given: Batch, model: Any, steps: int, seed: int, image_scale: float = IMAGE_SCALE) -> Tensor:
    latent = given.latent
    for number in range(INSTRUCTIONS):
        latent = our_pass(given, model, latent, number, steps, seed + number, image_scale)
    return latent["samples"]


def each_alone(given: Batch, model: Any, steps: int, seed: int, image_scale: float = IMAGE_SCALE) -> Tensor:
    """(B, INSTRUCTIONS, C, h, w): each instruction carried out on the source. Here no error is handed on."""
    ends = [
        our_pass(given, model, given.latent, number, steps, seed + number, image_scale)["samples"]
        for number in range(INSTRUCTIONS)
    ]
    return torch.stack(ends, 1)


def host_passes(given: Batch, model: Any, steps: int, seed: int, image_scale: float = IMAGE_SCALE) -> Tensor:
    """The host's guider and its noise mask. It has no node that takes the picture as a latent: we hand it in."""
    samples = given.samples
    for number, mask in enumerate(given.masks):
        positive, middle = (with_picture(INSTRUCT, text, samples) for text in (given.positives[number], given.negative))
        samples = host_pass(model, (positive, middle, given.negative), samples, mask, steps, seed + number, image_scale)
    return samples


def pixel_passes(given: Batch, model: Any, steps: int, seed: int, image_scale: float = IMAGE_SCALE) -> Tensor:
    """The host's nodes alone, which take a picture and give one."""
    vae, picture, samples = autoencoder(), given.picture, given.samples
    for number, mask in enumerate(given.masks):
        both = (given.positives[number], given.negative)
        positive, middle, _ = InstructPixToPixConditioning.execute(*both, picture, vae).result
        samples = host.VAEEncode().encode(vae, picture)[0]["samples"]
        samples = host_pass(model, (positive, middle, given.negative), samples, mask, steps, seed + number, image_scale)
        picture = host.VAEDecode().decode(vae, {"samples": samples})[0]
    return samples


def host_pass(model: Any, prompts: Any, samples: Tensor, mask: Tensor, steps: int, seed: int, scale: float) -> Tensor:
    guider = DualCFGGuider.execute(model, *prompts, TEXT_SCALE, scale, "regular")[0]
    latent = host.SetLatentNoiseMask().set_mask({"samples": samples}, mask)[0]
    return sampled(guider, latent, steps, seed)["samples"]


WAYS: dict[str, Callable[..., Tensor]] = {
    ONE: one_pass,
    OURS: five_passes,
    HOST: host_passes,
    PIXELS: pixel_passes,
    SINGLY: each_alone,
}


def run(case: Case, first: int, count: int, seed: int, steps: int) -> dict[str, Tensor]:
    """ "right inside": (count, INSTRUCTIONS), of each instruction; "squared error": (count,) of whole pictures; "samples"."""
    torch.set_num_threads(1)
    with torch.inference_mode():
        given = batch(first, count, seed)
        samples = WAYS[case.way](given, instruct_model()[0], steps, first)
        if case.way == SINGLY:
            right = [right_inside(given, samples[:, number].contiguous())[:, number] for number in range(INSTRUCTIONS)]
            return {"samples": samples, "right inside": torch.stack(right, 1)}
        truth = pictures_of([edits[-1].after for edits in given.plans])
        error = (autoencoder().decode(samples).clamp(0, 1) - truth).square().mean((1, 2, 3))
        return {"samples": samples, "right inside": right_inside(given, samples), "squared error": error}


def right_inside(given: Batch, samples: Tensor) -> Tensor:
    """(B, INSTRUCTIONS): the share of right pixels inside each instruction's mask, against the scene after all five."""
    pictures = autoencoder().decode(samples).clamp(0, 1).numpy()
    return torch.tensor(
        [
            [edit_verdict(picture, replace(edit, after=edits[-1].after)).right_inside for edit in edits]
            for picture, edits in zip(pictures, given.plans, strict=True)
        ]
    )


def cost(seed: int, scenes: int, image_scale: float, steps: int = STEPS // 2) -> dict[str, dict[str, float]]:
    """Of each way: the rows that the model saw in one run, and the thread's seconds, the least of some runs by turns."""
    torch.set_num_threads(1)
    figures: dict[str, dict[str, float]] = {}
    with torch.inference_mode():
        given = batch(0, scenes, seed)
        for _ in range(REPEATS):
            for way in (ONE, OURS, HOST):
                rows: list[int] = []
                model = instruct_model()[0].clone()
                model.set_model_unet_function_wrapper(counting(rows))
                started = time.thread_time()
                WAYS[way](given, model, steps, 0, image_scale)
                seconds = time.thread_time() - started
                before = figures.get(way, {"time, s": seconds})
                figures[way] = {
                    "rows": sum(rows),
                    "calls": len(rows),
                    "time, s": min(seconds, before["time, s"]),
                }
    for way in figures:
        figures[way]["one pass over it, time"] = figures[ONE]["time, s"] / figures[way]["time, s"]
        figures[way]["one pass over it, rows"] = figures[ONE]["rows"] / figures[way]["rows"]
    return figures


def counting(rows: list[int]) -> Callable[..., Tensor]:
    """A model function wrapper that notes how many rows each call has."""

    def call(apply_model: Any, arguments: dict[str, Any]) -> Tensor:
        rows.append(len(arguments["input"]))
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    return call
