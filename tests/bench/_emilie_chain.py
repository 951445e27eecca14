"""Alternating inverse edits (REED-VAE's protocol, arXiv 2504.18989): change something, change it back, and so on.

Image iteration is what the host's own InstructPixToPixConditioning forces: each edit takes a picture and gives one. Latent
iteration is EMILIE's: the latent of one edit is the picture of the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import _host  # noqa: F401
import nodes as host
import torch
from _chain import conditioning, pictures_of
from _emilie_world import (
    CHAIN,
    IMAGE_SCALE,
    TEXT_SCALE,
    autoencoder,
    drawn_edit,
    hard_masks,
    instruct_model,
    inverse_instruction,
    sampled,
)
from comfy_extras.nodes_custom_sampler import DualCFGGuider
from comfy_extras.nodes_ip2p import InstructPixToPixConditioning
from reedit.models.session.alignment import STATISTICS
from reedit.nodes.alignment import ReEditAlign
from reedit.nodes.autoencoders import ReEditEncode
from reedit.nodes.instruct import ReEditInstructGuider
from tiny_sd.language import Edit
from torch import Tensor

KINDS = ("colour", "shape", "background")  # a removal has no inverse
LATENT, IMAGE = "latent iteration", "image iteration"


# What ReEdit Align is told after each edit: the mask, or nothing, and then the settings that its help page has for that.
BY_MASK, BY_ITSELF = "aligned outside of the mask", "aligned, with no mask known"
ALIGNMENTS: dict[str, dict[str, Any]] = {
    BY_MASK: {},
    BY_ITSELF: {"method": STATISTICS, "strength": 0.15, "memory": 0.85},
}


@dataclass(frozen=True)
class Chain:
    """carried: what goes from one edit to the next. masked: each edit is held inside the pixels that it may touch.

    aligned: one of ALIGNMENTS, or nothing.
    """

    carried: str
    masked: bool
    aligned: str = ""
    reed: bool = False

    def __str__(self) -> str:
        words = [self.carried, "masked" if self.masked else "no mask", self.aligned]
        return ", ".join([word for word in words if word] + ["REED decoder"] * self.reed)


def chain_edits(first: int, count: int, seed: int) -> tuple[Edit, ...]:
    """The kinds take turns."""
    return tuple(
        drawn_edit(1_000_000 * seed + CHAIN + number, KINDS[number % len(KINDS)])
        for number in range(first, first + count)
    )


def truth_after(edits: tuple[Edit, ...], number: int) -> Tensor:
    """(B, SIZE, SIZE, 3): what the pictures are after edit `number`, the first of which is 1."""
    return pictures_of([edit.after if number % 2 else edit.before for edit in edits])


def instructions(edits: tuple[Edit, ...], number: int) -> list[str]:
    return [edit.instruction if number % 2 else inverse_instruction(edit) for edit in edits]


def image_edit(chain: Chain, picture: Tensor, texts: list[str], masks: Tensor, steps: int, noise_seed: int) -> Tensor:
    """One edit of pictures with the host's nodes alone: the latent, before it is decoded."""
    model, clip = instruct_model()
    vae = autoencoder(chain.reed)
    positive, negative = conditioning(clip, texts), conditioning(clip, [""] * len(texts))
    middle, with_picture, _ = InstructPixToPixConditioning.execute(positive, negative, picture, vae).result
    guider = DualCFGGuider.execute(model, middle, with_picture, negative, TEXT_SCALE, IMAGE_SCALE, "regular")[0]
    latent = host.VAEEncode().encode(vae, picture)[0]
    if chain.masked:
        latent = host.SetLatentNoiseMask().set_mask(latent, masks)[0]
    return sampled(guider, latent, steps, noise_seed)["samples"]


def latent_edit(
    chain: Chain, latent: dict[str, Any], texts: list[str], masks: Tensor, steps: int, noise_seed: int
) -> dict[str, Any]:
    """One edit of the latent with our nodes."""
    model, clip = instruct_model()
    positive, negative = conditioning(clip, texts), conditioning(clip, [""] * len(texts))
    values = {"text_scale": TEXT_SCALE, "image_scale": IMAGE_SCALE}
    mask = masks if chain.masked else None
    guider = ReEditInstructGuider.execute(model, positive, negative, latent, mask=mask, **values)[0]
    edited = sampled(guider, latent, steps, noise_seed)
    if not chain.aligned:
        return edited
    told = masks if chain.aligned == BY_MASK else None
    return ReEditAlign.execute(edited, mask=told, **ALIGNMENTS[chain.aligned])[0]


def run(chain: Chain, first: int, count: int, seed: int, edits: int, steps: int) -> dict[str, Tensor]:
    """{"samples": (count, edits, C, h, w)}: the latents after each edit."""
    torch.set_num_threads(1)
    with torch.inference_mode():
        planned = chain_edits(first, count, seed)
        masks, vae = hard_masks(planned), autoencoder(chain.reed)
        picture = pictures_of([edit.before for edit in planned])
        latent = ReEditEncode.execute(picture, vae)[0]
        after = []
        for number in range(1, edits + 1):
            arguments = (instructions(planned, number), masks, steps, 1_000 * first + number)
            if chain.carried == LATENT:
                latent = latent_edit(chain, latent, *arguments)
                after.append(latent["samples"])
                continue
            after.append(image_edit(chain, picture, *arguments))
            picture = host.VAEDecode().decode(vae, {"samples": after[-1]})[0]
    return {"samples": torch.stack(after, 1)}
