"""EMILIE's update as printed, with DDPM's coefficients, and the edit that ReEdit makes: in figures and as a picture.

`python tests/bench/_emilie_printed.py` draws web/pictures/printed_update.jpg anew, with COMFYUI_PATH set.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import _host
import torch
from _chain import conditioning, pictures_of
from _emilie_world import (
    IMAGE_SCALE,
    SAMPLER,
    STEPS,
    TEXT_SCALE,
    autoencoder,
    drawn_edit,
    hard_masks,
    instruct_model,
    sigmas,
)
from comfy_extras import nodes_custom_sampler as custom
from reedit.models.cells import touched_cells
from reedit.models.diffusion.printed_update import AS_PRINTED, OF_DDPM
from reedit.models.metrics.timeline import contact_strip
from reedit.models.metrics.timeline_thumbnail import to_image
from reedit.nodes.instruct import ReEditInstructGuider
from reedit.nodes.printed_update import ReEditPrintedUpdate
from tiny_sd.judge import edit_verdict
from tiny_sd.language import EDIT_KINDS, Edit
from torch import Tensor

PICTURE = _host.TESTS.parent / "web" / "pictures" / "printed_update.jpg"
SCENES = 8
FIRST = 300_000  # of this part's scenes, behind 1,000,000 times the seed
GUIDER = "ReEdit Instruct Guider"
PRINTED_WAYS = {  # by their titles in the picture: the coefficients, and whether there is a mask
    "as printed": (AS_PRINTED, True),
    "of DDPM": (OF_DDPM, True),
    "as printed, no mask": (AS_PRINTED, False),
    "of DDPM, no mask": (OF_DDPM, False),
}
SHOWN = ("colour", "background")  # one edit of each kind
COLUMNS = 4
ENLARGED = 3  # each pixel, on each side


@cache
def edits_of(seed: int) -> tuple[Edit, ...]:
    """The kinds take turns."""
    first = 1_000_000 * seed + FIRST
    return tuple(drawn_edit(first + number, EDIT_KINDS[number % len(EDIT_KINDS)]) for number in range(SCENES))


@cache
def source_latents(seed: int) -> Tensor:
    with torch.inference_mode():
        return autoencoder().encode(pictures_of([edit.before for edit in edits_of(seed)]))


@cache
def edited(seed: int) -> dict[str, Tensor]:
    """Each way's latents: from the same noise, through the same levels, at the same scales and with the same masks.

    The updates lay the mask where the paper lays it, on the whole prediction; the guider does as it does by default.
    """
    (model, clip), edits = instruct_model(), edits_of(seed)
    masks, latent = hard_masks(edits), {"samples": source_latents(seed)}

    def sampled(sampler: Any, mask: Tensor | None) -> Tensor:
        guider = ReEditInstructGuider.execute(
            model, positive, negative, latent, text_scale=TEXT_SCALE, image_scale=IMAGE_SCALE, mask=mask
        )[0]
        noise = custom.RandomNoise.execute(seed)[0]
        return custom.SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas(STEPS), latent)[0]["samples"]

    with torch.inference_mode():
        positive = conditioning(clip, [edit.instruction for edit in edits])
        negative = conditioning(clip, [""] * len(edits))
        ends = {GUIDER: sampled(custom.KSamplerSelect.execute(SAMPLER)[0], masks)}
        for title, (coefficients, masked) in PRINTED_WAYS.items():
            sampler = ReEditPrintedUpdate.execute(coefficients, seed, masks if masked else None)[0]
            ends[title] = sampled(sampler, None)
        return ends


@cache
def decoded(seed: int) -> dict[str, Tensor]:
    """Each way's pictures, (B, SIZE, SIZE, 3) in 0..1."""
    with torch.inference_mode():
        return {way: autoencoder().decode(samples) for way, samples in edited(seed).items()}


def psnr(error: Tensor, where: Tensor) -> float:
    """In dB, over all marked pixels. error: (B, H, W), squared, the mean of the channels. where: (B, H, W) bool."""
    return float(-10 * torch.log10(error[where].double().mean()))


def measure(seed: int) -> dict[str, dict[str, float]]:
    """For each way: psnr_inside and psnr_outside of the masks in dB, against the exact pictures; and deviation_outside.

    That is the latents' root mean square in the cells that no mask touches, divided by that of the sources' latents there.
    """
    source, masks = source_latents(seed), hard_masks(edits_of(seed))
    inside = masks > 0
    untouched = ~touched_cells(masks, *source.shape[-2:]).expand_as(source)
    truth = pictures_of([edit.after for edit in edits_of(seed)])
    usual = source[untouched].square().mean()
    figures = {}
    for way, samples in edited(seed).items():
        error = ((decoded(seed)[way] - truth) ** 2).mean(-1)
        figures[way] = {
            "psnr_inside": psnr(error, inside),
            "psnr_outside": psnr(error, ~inside),
            "deviation_outside": float((samples[untouched].square().mean() / usual).sqrt()),
        }
    return figures


def draw(file: Path = PICTURE, seed: int = 6) -> None:
    """Write the picture: for each kind in SHOWN two rows about the first edit that comes out right with the guider."""
    edits, ways = edits_of(seed), decoded(seed)
    shown, labels = [], []
    for kind in SHOWN:
        number = next(
            number
            for number, edit in enumerate(edits)
            if edit.kind == kind and edit_verdict(ways[GUIDER][number].numpy(), edit).matches
        )
        edit = edits[number]
        before, after = pictures_of([edit.before, edit.after])
        mask = hard_masks((edit,))[0, :, :, None].expand(-1, -1, 3)
        row = {f"“{edit.instruction}”": before, "as it should be": after, "the mask": mask}
        row |= {way: pictures[number] for way, pictures in ways.items()}
        shown += [picture.repeat_interleave(ENLARGED, 0).repeat_interleave(ENLARGED, 1) for picture in row.values()]
        labels += row
    to_image(contact_strip(shown, labels, COLUMNS)).save(file, quality=88)


if __name__ == "__main__":
    draw()
