"""The edits of the guidance benchmark: scenes that no model was trained on, their prompts, and their inversions."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import _host
import comfy.utils
import numpy as np
import torch
from _chain import conditioning, pictures_of
from _report import FOLDER, defaults
from conftest import load_tiny_model
from reedit.models.diffusion.prompt_tokens import WORDS, PromptTokens
from reedit.models.diffusion.trajectory import Trajectory
from reedit.nodes.autoencoders import load_kl_vae
from reedit.nodes.inversion import ReEditInvert
from reedit.nodes.prompt_words import ReEditPromptWords
from tiny_sd.language import EDIT_KINDS, Edit, caption, make_edit
from tiny_sd.world import random_scene
from torch import Tensor

BATCH = 20
TUNED_ON = 60  # the guider's defaults were chosen on so many of the first edits of seed 5; the others were not seen
KEPT = FOLDER / "guidance"
INVERSION = {
    "steps": 20, "scheduler": "karras", "cfg": 1.0, "method": "anderson", "iterations": 20, "tolerance": 1e-4,
}  # fmt: skip


@dataclass(frozen=True)
class Lot:
    """A batch of edits. samples: the source pictures' latents, as the VAE gave them. source, target: as ReEdit Prompt Words
    marks them by itself. named: the source prompt, of which a hand has named the words that are to be changed.
    """

    edits: tuple[Edit, ...]
    samples: Tensor
    trajectory: Trajectory
    source: Any
    target: Any
    named: Any
    negative: Any

    @property
    def truth(self) -> Tensor:
        """(B, SIZE, SIZE) in 0..1: the pixels that each edit may touch."""
        return torch.from_numpy(np.stack([edit.mask for edit in self.edits]))

    @property
    def boxes(self) -> Tensor:
        """(B, SIZE, SIZE) of 0 and 1: the true object's bounding box, as a careful hand draws it."""
        boxes = torch.zeros_like(self.truth)
        for box, edit in zip(boxes, self.edits, strict=True):
            rows, columns = np.nonzero(edit.mask > 0.5)
            box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = 1.0
        return boxes

    @property
    def sigmas(self) -> Tensor:
        return self.trajectory.sigmas.flip(0)

    @property
    def sources(self) -> Tensor:
        """(B, SIZE, SIZE, 3): the pictures as they were drawn."""
        return pictures_of([edit.before for edit in self.edits])

    def trajectory_of(self, number: int) -> Trajectory:
        """One picture's part of the inversion."""
        residuals = tuple((step[number],) for step in self.trajectory.residuals)
        return replace(self.trajectory, states=self.trajectory.states[:, number : number + 1], residuals=residuals)


def words_for(edit: Edit) -> str:
    """What one would name in the source prompt: the object, or the background."""
    return edit.before.background if edit.subject is None else f"{edit.subject.colour} {edit.subject.shape}"


@cache
def models() -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of the demo family."""
    comfy.utils.set_progress_bar_enabled(False)
    model, clip = load_tiny_model(_host.WEIGHTS, "text_to_image")
    return model, clip, load_kl_vae(_host.WEIGHTS / "tiny_sd_autoencoder.safetensors")


def edit_number(number: int, seed: int) -> Edit:
    """The kinds take turns. No model was trained on these scenes: those of the training have the seeds 0 to 23,999."""
    generator = np.random.default_rng(8_000_000 + 1_000 * seed + number)
    return make_edit(generator, random_scene(generator), EDIT_KINDS[number % len(EDIT_KINDS)])


@cache
def lot(first: int, count: int, seed: int) -> Lot:
    """The edits from `first` on. Their inversion takes longest, and is kept in a file."""
    model, clip, vae = models()
    edits = tuple(edit_number(number, seed) for number in range(first, first + count))
    samples = vae.encode(pictures_of([edit.before for edit in edits]))
    by_itself = [prompt_words(edit) for edit in edits]
    source, target = (stacked([pair[side] for pair in by_itself]) for side in (0, 1))
    named = stacked([prompt_words(edit, words_for(edit))[0] for edit in edits])
    file = KEPT / f"inversion-{seed}-{first}-{count}.pt"
    if not file.exists():
        inverted = ReEditInvert.execute(model, source, {"samples": samples}, **INVERSION)
        save(inverted[3], file)
    trajectory = torch.load(file, weights_only=False)
    return Lot(edits, samples, trajectory, source, target, named, conditioning(clip, [""]))


def prompt_words(edit: Edit, words: str = "") -> Any:
    """ReEdit Prompt Words' outputs for an edit."""
    prompts = {"source": caption(edit.before), "target": caption(edit.after), "words": words}
    return ReEditPromptWords.execute(models()[1], **defaults(ReEditPromptWords) | prompts)


def save(value: Any, file: Path) -> None:
    """Write a file whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(f".{os.getpid()}.part")
    torch.save(value, unfinished)
    unfinished.replace(file)


def stacked(each: list[Any]) -> Any:
    """One CONDITIONING whose batch holds those of single prompts, with all that they carry."""
    entries = [entry for (entry,) in each]
    options = {**entries[0][1], "pooled_output": torch.cat([options["pooled_output"] for _, options in entries])}
    tokens = [options[WORDS] for _, options in entries]
    aligned = [one.from_source for one in tokens if one.from_source is not None]
    options[WORDS] = PromptTokens(
        torch.stack([one.weights for one in tokens]),
        tuple(" ".join(one.words) for one in tokens),
        torch.stack(aligned) if aligned else None,
    )
    return [[torch.cat([embedding for embedding, _ in entries]), options]]
