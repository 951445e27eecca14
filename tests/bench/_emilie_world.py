"""What the EMILIE benchmark edits and with what: drawn scenes that no model was trained on, and the demo family."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import _host
import comfy.samplers
import comfy.utils
import numpy as np
import torch
from _report import FOLDER
from comfy_extras.nodes_custom_sampler import KSamplerSelect, RandomNoise, SamplerCustomAdvanced
from conftest import load_tiny_model
from reedit.nodes.autoencoders import load_kl_vae
from safetensors.torch import load_file, save_file
from tiny_sd.language import Edit, make_edit
from tiny_sd.world import random_scene
from torch import Tensor

KEPT = FOLDER / "emilie"
SAMPLER, SCHEDULER, STEPS = "euler_ancestral", "karras", 20  # the sampler that InstructPix2Pix was published with
# The demo model's: 7.5 and 1.5 are InstructPix2Pix's own, whose training was another.
TEXT_SCALE, IMAGE_SCALE = 3.0, 1.0
# Each part's scenes begin so far behind 1,000,000 times the seed. The models were trained on the seeds 0 to 23,999.
CHAIN, MASKED, FIVE = 0, 100_000, 200_000


@cache
def instruct_model() -> tuple[Any, Any]:
    """MODEL and CLIP of the demo family's InstructPix2Pix."""
    comfy.utils.set_progress_bar_enabled(False)
    return load_tiny_model(_host.WEIGHTS, "instruct_pix2pix")


def reed_decoder() -> Path | None:
    """The demo family's REED decoder; None where it has none."""
    return next(iter(sorted(_host.WEIGHTS.glob("*reed*.safetensors"))), None)


@cache
def autoencoder(reed: bool = False) -> Any:
    """The demo family's VAE, or the one with the REED decoder."""
    vanilla = _host.WEIGHTS / "tiny_sd_autoencoder.safetensors"
    if not reed:
        return load_kl_vae(vanilla)
    file = reed_decoder()
    assert file is not None
    return load_kl_vae(file, load_kl_vae(vanilla))


@cache
def sigmas(steps: int) -> Tensor:
    """From pure noise down to 0."""
    sampling = instruct_model()[0].get_model_object("model_sampling")
    return comfy.samplers.calculate_sigmas(sampling, SCHEDULER, steps)


def sampled(guider: Any, latent: dict[str, Any], steps: int, noise_seed: int) -> dict[str, Any]:
    """The host's SamplerCustomAdvanced, the same for every way."""
    noise, sampler = RandomNoise.execute(noise_seed)[0], KSamplerSelect.execute(SAMPLER)[0]
    return SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas(steps), latent)[0]


def drawn_edit(number: int, kind: str) -> Edit:
    """An edit of the given kind on a scene, both drawn at random."""
    generator = np.random.default_rng(number)
    return make_edit(generator, random_scene(generator), kind)


def inverse_instruction(edit: Edit) -> str:
    """What takes an edit back, as the training says such things. ValueError for a removal, which nothing takes back."""
    item = edit.subject
    if edit.kind == "background":
        return f"change the background to {edit.before.background}"
    if item is None or edit.kind == "removal":
        raise ValueError("a removal has no inverse instruction")
    if edit.kind == "colour":
        return f"make the {item.shape} {item.colour}"
    (changed,) = set(edit.after.objects) - set(edit.before.objects)
    return f"turn the {changed.shape} into a {item.shape}"


def hard_masks(edits: tuple[Edit, ...]) -> Tensor:
    """(B, SIZE, SIZE) of 0 and 1: the pixels that each edit may touch."""
    return torch.from_numpy(np.stack([edit.mask > 0.5 for edit in edits])).float()


def save(tensors: dict[str, Tensor], file: Path) -> None:
    """Write a file whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(f".{os.getpid()}.part")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, unfinished)
    unfinished.replace(file)


def load(file: Path) -> dict[str, Tensor]:
    return load_file(file)
