"""Single edits held inside a mask, with the host's nodes and with ours, and with masks that are not as they should be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import _host  # noqa: F401
import nodes as host
import numpy as np
import torch
from _chain import conditioning, pictures_of
from _emilie_world import (
    IMAGE_SCALE,
    MASKED,
    SAMPLER,
    SCHEDULER,
    TEXT_SCALE,
    autoencoder,
    drawn_edit,
    hard_masks,
    instruct_model,
    sampled,
)
from comfy_extras.nodes_custom_sampler import DualCFGGuider
from comfy_extras.nodes_ip2p import InstructPixToPixConditioning
from reedit.nodes.emilie import ReEditGradientMask, ReEditLatentConditioning
from reedit.nodes.instruct import ReEditInstructGuider
from reedit.nodes.instruct_guider import PREDICTION, RESULT, TEXT_TERM
from scipy import ndimage
from tiny_sd.judge import PIXEL_ERROR, edit_verdict
from tiny_sd.language import EDIT_KINDS, Edit
from torch import Tensor

HOST_KSAMPLER = "host: noise mask, KSampler"
HOST_DUAL = "host: noise mask, DualCFGGuider"
GRADIENT_MASK = "ReEdit Gradient Mask, KSampler"
OURS = {mask_on: f"ReEdit Instruct Guider, mask on {mask_on}" for mask_on in (TEXT_TERM, PREDICTION, RESULT)}
NO_MASK = "no mask at all, DualCFGGuider"
EXACT = "exact"
RING = 4  # pixels around the mask, in which an edit bleeds
NOISE_BAND, NOISE_SHARE = 4, 0.1  # pixels to either side of the rim; which share of them is flipped


@dataclass(frozen=True)
class Case:
    way: str
    mask: str = EXACT

    def __str__(self) -> str:
        return self.way if self.way == NO_MASK else f"{self.way}, {self.mask} mask"


def masked_edits(first: int, count: int, seed: int) -> tuple[Edit, ...]:
    """The kinds take turns."""
    return tuple(
        drawn_edit(1_000_000 * seed + MASKED + number, EDIT_KINDS[number % len(EDIT_KINDS)])
        for number in range(first, first + count)
    )


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Pixels to the rim of a mask of 0 and 1: positive outside, negative inside."""
    return ndimage.distance_transform_edt(mask == 0) - ndimage.distance_transform_edt(mask > 0)


def noisy(mask: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    flipped = (np.abs(signed_distance(mask)) <= NOISE_BAND) & (generator.random(mask.shape) < NOISE_SHARE)
    return np.where(flipped, 1 - mask, mask)


# What becomes of a hard, exact mask.
MASKS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    EXACT: lambda mask, generator: mask,
    "2 px dilated": lambda mask, generator: signed_distance(mask) <= 2,
    "4 px dilated": lambda mask, generator: signed_distance(mask) <= 4,
    "2 px eroded": lambda mask, generator: signed_distance(mask) < -2,
    "noisy": noisy,
    "2 px soft": lambda mask, generator: ndimage.gaussian_filter(mask, 2.0),
    "4 px soft": lambda mask, generator: ndimage.gaussian_filter(mask, 4.0),
}


SOFT = [name for name in MASKS if name.endswith("soft")]


def masks_for(quality: str, edits: tuple[Edit, ...], seed: int) -> Tensor:
    """(B, SIZE, SIZE) in 0..1."""
    generator = np.random.default_rng(seed)
    changed = [MASKS[quality](mask, generator).astype(np.float32) for mask in hard_masks(edits).numpy()]
    return torch.from_numpy(np.stack(changed))


def with_host(
    case: Case, picture: Tensor, positive: Any, negative: Any, masks: Tensor, steps: int, seed: int
) -> Tensor:
    """The host's nodes alone."""
    model, _ = instruct_model()
    middle, with_picture, _ = InstructPixToPixConditioning.execute(positive, negative, picture, autoencoder()).result
    latent = host.VAEEncode().encode(autoencoder(), picture)[0]
    if case.way != NO_MASK:
        latent = host.SetLatentNoiseMask().set_mask(latent, masks)[0]
    if case.way == HOST_KSAMPLER:
        return ksampled(model, middle, with_picture, latent, steps, seed)
    guider = DualCFGGuider.execute(model, middle, with_picture, negative, TEXT_SCALE, IMAGE_SCALE, "regular")[0]
    return sampled(guider, latent, steps, seed)["samples"]


def with_ours(
    case: Case, picture: Tensor, positive: Any, negative: Any, masks: Tensor, steps: int, seed: int
) -> Tensor:
    model, _ = instruct_model()
    latent = {"samples": autoencoder().encode(picture)}
    if case.way == GRADIENT_MASK:
        model = ReEditGradientMask.execute(model, masks)[0]
        positive, negative, latent = ReEditLatentConditioning.execute(model, positive, negative, latent).result
        return ksampled(model, positive, negative, latent, steps, seed)
    mask_on = next(mask_on for mask_on, way in OURS.items() if way == case.way)
    values = {"text_scale": TEXT_SCALE, "image_scale": IMAGE_SCALE, "mask_on": mask_on, "mask": masks}
    guider = ReEditInstructGuider.execute(model, positive, negative, latent, **values)[0]
    return sampled(guider, latent, steps, seed)["samples"]


def ksampled(model: Any, positive: Any, negative: Any, latent: dict[str, Any], steps: int, seed: int) -> Tensor:
    arguments = (model, seed, steps, TEXT_SCALE, SAMPLER, SCHEDULER)
    return host.KSampler().sample(*arguments, positive, negative, latent)[0]["samples"]


def run(case: Case, first: int, count: int, seed: int, steps: int) -> dict[str, Tensor]:
    """Figures of each edit of a batch, (count,) each; "samples", the latents; and "masks", as they were given."""
    torch.set_num_threads(1)
    with torch.inference_mode():
        edits = masked_edits(first, count, seed)
        _, clip = instruct_model()
        picture = pictures_of([edit.before for edit in edits])
        positive = conditioning(clip, [edit.instruction for edit in edits])
        negative = conditioning(clip, [""] * count)
        masks = masks_for(case.mask, edits, first)
        way = with_host if case.way in (HOST_KSAMPLER, HOST_DUAL, NO_MASK) else with_ours
        samples = way(case, picture, positive, negative, masks, steps, first)
        return {"samples": samples, "masks": masks, **measured(edits, picture, samples)}


def measured(edits: tuple[Edit, ...], before: Tensor, samples: Tensor) -> dict[str, Tensor]:
    """Of each edit: the share of right pixels inside, the squared errors outside and in the ring around the exact mask.

    Against the exact picture; and in the ring also against what the VAE makes of the picture before, which is what stands
    there where nothing bleeds. "wrong in the ring": the share of its pixels that are no longer right.
    """
    vae = autoencoder()
    pictures, unchanged = vae.decode(samples).clamp(0, 1), vae.decode(vae.encode(before)).clamp(0, 1)
    truth, masks = pictures_of([edit.after for edit in edits]), hard_masks(edits).numpy()
    distances = torch.from_numpy(np.stack([signed_distance(mask) for mask in masks]))
    outside, ring = distances > 0, (distances > 0) & (distances <= RING)
    error, change = (pictures - truth).square().mean(-1), (pictures - unchanged).square().mean(-1)
    wrong = ((pictures - truth).abs().amax(-1) >= PIXEL_ERROR).float()
    verdicts = [edit_verdict(picture.numpy(), edit) for picture, edit in zip(pictures, edits, strict=True)]
    return {
        "right inside": torch.tensor([verdict.right_inside for verdict in verdicts]),
        "squared error outside": means(error, outside),
        "squared error in the ring": means(error, ring),
        "squared change in the ring": means(change, ring),
        "wrong in the ring": means(wrong, ring),
    }


def means(values: Tensor, where: Tensor) -> Tensor:
    """Each picture's mean over some of its pixels. values, where: (B, H, W)."""
    return torch.stack([value[place].mean() for value, place in zip(values, where, strict=True)])
