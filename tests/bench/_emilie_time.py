"""What the instruct guider costs beside its model calls, against the host's DualCFGGuider at the same calls.

Both ways make the same calls of the model with the same rows, so the time inside of them is one and the same, and is taken
over both. Time is that of the thread, on one thread: other programs do not count.
"""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from typing import Any

import _host  # noqa: F401
import torch
from _chain import conditioning, pictures_of
from _emilie_chain import chain_edits
from _emilie_world import SAMPLER, autoencoder, hard_masks, instruct_model, sigmas
from _real_size import sd15_instruct_model
from _report import defaults
from comfy_extras.nodes_custom_sampler import DualCFGGuider, KSamplerSelect, RandomNoise, SamplerCustomAdvanced
from reedit.nodes.instruct import ReEditInstructGuider
from reedit.nodes.picture_conditioning import INSTRUCT, with_picture
from torch import Tensor

OURS, HOST = "ReEdit Instruct Guider", "DualCFGGuider"
REAL_SIZE = "SD1.5's real network, 256×256"
DEMO_STEPS, DEMO_REPEATS, REAL_STEPS, REAL_REPEATS = 10, 5, 1, 2


@dataclass(frozen=True)
class Subject:
    """A model with pictures to edit. sigmas: of the sampling run. masks: (B, H, W), what is used where there is a mask."""

    model: Any
    samples: Tensor
    masks: Tensor
    sigmas: Tensor
    positive: Any
    negative: Any

    def run(self, way: str, masked: bool, calls: Calls) -> float:
        """Sample once, at the guider's own default scales. Returns the thread's seconds, of which `calls` notes its part."""
        model, widgets = self.model.clone(), defaults(ReEditInstructGuider)
        model.set_model_unet_function_wrapper(calls)
        noise, sampler = RandomNoise.execute(0)[0], KSamplerSelect.execute(SAMPLER)[0]
        latent: dict[str, Any] = {"samples": self.samples}
        gc.collect()
        started = time.thread_time()
        if way == OURS:
            mask = self.masks if masked else None
            guider = ReEditInstructGuider.execute(model, self.positive, self.negative, latent, **widgets, mask=mask)[0]
        else:
            scales = (widgets["text_scale"], widgets["image_scale"], "regular")
            pair = (with_picture(INSTRUCT, prompt, self.samples) for prompt in (self.positive, self.negative))
            guider = DualCFGGuider.execute(model, *pair, self.negative, *scales)[0]
            latent = {**latent, "noise_mask": self.masks[:, None]} if masked else latent
        SamplerCustomAdvanced.execute(noise, guider, sampler, self.sigmas, latent)
        return time.thread_time() - started


class Calls:
    """A model function wrapper that notes of each call its rows and its seconds."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.seconds: list[float] = []

    def __call__(self, apply_model: Any, arguments: dict[str, Any]) -> Tensor:
        started = time.thread_time()
        output = apply_model(arguments["input"], arguments["timestep"], **arguments["c"])
        self.seconds.append(time.thread_time() - started)
        self.rows.append(len(arguments["input"]))
        return output


def demo_subject(batch: int, seed: int) -> Subject:
    """The demo model with the first scenes of the chains."""
    model, clip = instruct_model()
    edits = chain_edits(0, batch, seed)
    samples = autoencoder().encode(pictures_of([edit.before for edit in edits]))
    positive, negative = conditioning(clip, [edit.instruction for edit in edits]), conditioning(clip, [""] * batch)
    return Subject(model, samples, hard_masks(edits), sigmas(DEMO_STEPS), positive, negative)


def real_subject() -> Subject:
    """InstructPix2Pix for SD1.5 at its real size, with random weights. A small picture: a larger one only takes the network
    longer, and the guider's share of the time is then smaller still."""
    generator = torch.Generator().manual_seed(0)
    samples, embedding = (torch.randn(shape, generator=generator) for shape in ((1, 4, 32, 32), (1, 77, 768)))
    mask = torch.zeros(1, 256, 256)
    mask[:, 64:192, 64:192] = 1.0
    levels = torch.tensor([14.6, *[1.0] * (REAL_STEPS - 1), 0.0])
    return Subject(sd15_instruct_model(), samples, mask, levels, [[embedding, {}]], [[torch.zeros_like(embedding), {}]])


def compared(subject: Subject, masked: bool, repeats: int) -> dict[str, Any]:
    """Seconds of a sampling run, the least of some runs by turns, and what ours takes of the host's."""
    outside: dict[str, list[float]] = {OURS: [], HOST: []}
    inside: list[float] = []
    rows: dict[str, list[int]] = {}
    for repeat in range(repeats):
        for way in (OURS, HOST) if repeat % 2 else (HOST, OURS):
            calls = Calls()
            seconds = subject.run(way, masked, calls)
            rows[way] = calls.rows
            outside[way].append(seconds - sum(calls.seconds))
            inside.append(sum(calls.seconds))
    ours, host, network = (min(times) for times in (outside[OURS], outside[HOST], inside))
    return {
        f"{OURS}: rows of the calls": rows[OURS],
        f"{HOST}: rows of the calls": rows[HOST],
        "same rows": rows[OURS] == rows[HOST],
        "inside of the calls": network,
        f"{OURS}: outside": ours,
        f"{HOST}: outside": host,
        "ours over DualCFGGuider": (network + ours) / (network + host),
    }


def measure(seed: int) -> dict[str, dict[str, Any]]:
    """Of the demo model, one picture and ten, and of SD1.5's real size: without a mask and with one."""
    torch.set_num_threads(1)
    figures: dict[str, dict[str, Any]] = {}
    with torch.inference_mode():
        subjects = {
            "demo model, one picture": (demo_subject(1, seed), DEMO_REPEATS),
            "demo model, ten pictures": (demo_subject(10, seed), DEMO_REPEATS),
            REAL_SIZE: (real_subject(), REAL_REPEATS),
        }
        for name, (subject, repeats) in subjects.items():
            figures[name] = {
                "with a mask" if masked else "without a mask": compared(subject, masked, repeats)
                for masked in (False, True)
            }
    return figures
