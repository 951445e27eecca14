"""How far a masked-out picture made in latent space is from the encoded masked pixels that the host's node makes.

Beside it, what the host's node costs in a chain of latents, which it has decoded, masked and encoded: it too differs from
what it would have made of the true pixels, and the picture itself is encoded anew each time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import _host
import nodes as host
import numpy as np
import torch
from reedit.models.cells import touched_cells
from reedit.models.diffusion.masked_picture import GREY, covered_share, latent_of_grey, mask_in_pixels, masked_latent
from reedit.models.metrics.similarity import masked_psnr
from reedit.nodes.autoencoders import load_kl_vae
from reedit.nodes.vae_checks import pixels_per_cell
from scipy import ndimage
from tiny_sd.world import SIZE, draw, random_scene
from torch import Tensor

SCENES = 20
TRIPS = 5
SOFTNESS = 3.0  # pixels, of the soft masks' Gaussian
LEAST_PIXELS = 64  # under a mask
NO_CONDITIONING = [[torch.zeros(1, 1, 1), {}]]

# How the share of a cell that is covered becomes the share of grey in it.
RULES: dict[str, Callable[[Tensor], Tensor]] = {
    "average": lambda covered: covered,
    "any pixel": lambda covered: (covered > 0).float(),
    "half": lambda covered: (covered >= 0.5).float(),
    "all pixels": lambda covered: (covered == 1).float(),
    "smoothed": lambda covered: torch.nn.functional.avg_pool2d(covered, 3, 1, 1, count_include_pad=False),
}


def box(generator: np.random.Generator) -> np.ndarray:
    width, height = generator.integers(10, 36, 2)
    left, top = generator.integers(0, SIZE - width), generator.integers(0, SIZE - height)
    mask = np.zeros((SIZE, SIZE), np.float32)
    mask[top : top + height, left : left + width] = 1.0
    return mask


def disc(generator: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE]
    radius, (across, down) = generator.uniform(6, 18), generator.uniform(8, SIZE - 8, 2)
    return ((x - across) ** 2 + (y - down) ** 2 < radius**2).astype(np.float32)


def soft(generator: np.random.Generator) -> np.ndarray:
    return ndimage.gaussian_filter(disc(generator), SOFTNESS)


MASKS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {"box": box, "disc": disc, "soft disc": soft}


def draw_masks(kind: str, generator: np.random.Generator) -> Tensor:
    """One for each scene, (SCENES, SIZE, SIZE)."""
    masks: list[np.ndarray] = []
    while len(masks) < SCENES:
        mask = MASKS[kind](generator)
        if mask.round().sum() >= LEAST_PIXELS:
            masks.append(mask)
    return torch.from_numpy(np.stack(masks))


def hosts_node(vae: Any, pixels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The masked latent and the picture's latent that the host's InpaintModelConditioning makes of pixels."""
    positive, _, latent = host.InpaintModelConditioning().encode(NO_CONDITIONING, NO_CONDITIONING, pixels, vae, mask)
    return positive[0][1]["concat_latent_image"], latent["samples"]


def relative_error(samples: Tensor, reference: Tensor, cells: Tensor) -> float | None:
    """The root mean square of the difference in some cells, over that of the whole reference; None without such cells.

    Not over the reference's in the same cells, since grey has small latents. cells: (B, 1, H, W) bool.
    """
    if not bool(cells.any()):
        return None
    difference = (samples - reference)[cells.expand_as(reference)]
    return (difference.square().mean() / reference.square().mean()).sqrt().item()


def regions(covered: Tensor) -> dict[str, Tensor]:
    """The cells inside the mask, those it covers in part, their neighbours outside it, and all others."""
    touched = covered > 0
    neighbours = touched_cells(torch.nn.functional.max_pool2d(touched.float(), 3, 1, 1)[:, 0], *covered.shape[-2:])
    return {
        "inside": covered == 1,
        "rim": touched & (covered < 1),
        "beside": neighbours & ~touched,
        "outside": ~neighbours,
    }


def figures(vae: Any, samples: Tensor, reference: Tensor, shown: Tensor, where: dict[str, Tensor]) -> dict[str, Any]:
    """Relative errors by region, and the PSNR of the decoded masked picture against the decoded reference, `shown`."""
    everywhere = torch.ones(1, *shown.shape[1:3], dtype=torch.bool)
    decoded = vae.decode(samples).clamp(0, 1)
    pairs = zip(decoded, shown, strict=True)
    each = [masked_psnr(one[None], other[None], everywhere) for one, other in pairs]
    errors = {name: relative_error(samples, reference, cells) for name, cells in where.items()}
    return {**errors, "decoded_psnr": float(np.mean([value for value in each if value is not None]))}


def one_kind(vae: Any, pixels: Tensor, mask: Tensor) -> dict[str, Any]:
    """The figures of each rule, of a latent of nothing but grey, and of the host's trip, for masks of one kind."""
    latents = vae.encode(pixels)
    reference, _ = hosts_node(vae, pixels, mask)
    shown = vae.decode(reference).clamp(0, 1)
    ratio = pixels_per_cell(vae)
    covered = covered_share(mask_in_pixels(mask, *pixels.shape[1:3]), latents)
    where = regions(covered)
    grey = latent_of_grey(vae.encode, ratio)
    middle = latents.shape[-1] // 2
    flat = vae.encode(torch.full_like(pixels[:1], GREY))[..., middle : middle + 1, middle : middle + 1]
    ways = {name: masked_latent(latents, grey, rule(covered)) for name, rule in RULES.items()}
    ways["average, flat grey"] = masked_latent(latents, flat, covered)
    ways["trip"], _ = hosts_node(vae, vae.decode(latents).clamp(0, 1), mask)
    return {name: figures(vae, samples, reference, shown, where) for name, samples in ways.items()}


def drift_of_trips(vae: Any, pixels: Tensor, mask: Tensor) -> list[float]:
    """The relative change of the picture's latent after each of TRIPS of the host's node. Ours is handed on as it came."""
    first = latents = vae.encode(pixels)
    changes = []
    for _ in range(TRIPS):
        _, latents = hosts_node(vae, vae.decode(latents).clamp(0, 1), mask)
        changes.append(((latents - first).norm() / first.norm()).item())
    return changes


def measure(seed: int) -> dict[str, Any]:
    """By kind of mask and way: relative errors by region and the PSNR, in dB, of the decoded masked picture.

    All against the host's InpaintModelConditioning on the true pixels. "average" is what ReEdit Latent Conditioning does;
    "trip" is what the host's node makes of the decoded latent.
    """
    generator = np.random.default_rng(seed)
    vae = load_kl_vae(_host.WEIGHTS / "tiny_sd_autoencoder.safetensors")
    with torch.inference_mode():
        pixels = torch.from_numpy(np.stack([draw(random_scene(generator)) for _ in range(SCENES)]))
        masks = {kind: draw_masks(kind, generator) for kind in MASKS}
        kinds = {kind: one_kind(vae, pixels, mask) for kind, mask in masks.items()}
        return {"scenes": SCENES, "masks": kinds, "trips": drift_of_trips(vae, pixels, masks["box"])}
