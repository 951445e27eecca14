"""How long it takes to merge painted pixels, against encoding the whole picture in the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import _host
import comfy.ldm.models.autoencoder
import skimage.data
import skimage.transform
import torch
from _report import goal
from reedit.models.autoencoders.kl_layout import KLConfig
from reedit.models.session.record import KEY
from reedit.nodes.autoencoders import build_host_vae, host_architecture, load_kl_vae
from reedit.nodes.merge_pixels import ReEditMergePixels, encoder_context
from reedit.nodes.vae_checks import pixels_per_cell
from torch import Tensor

# The way of blending, and the share of the picture's area that is painted.
Merges = Sequence[tuple[str, float]]
MERGES: Merges = (("feathered", 0.01), ("feathered", 0.1), ("feathered", 0.5), ("difference", 0.1), ("hard", 0.1))
SD15 = KLConfig(width=128, multipliers=(1, 2, 4, 4), blocks=2, latent_channels=4, attention_levels=())


def real_size_vae(seed: int) -> Any:
    """A VAE of SD1.5's size with random weights, scaled so that values keep their size from layer to layer."""
    with torch.device("meta"):
        model = comfy.ldm.models.autoencoder.AutoencoderKL(
            ddconfig=host_architecture(SD15), embed_dim=SD15.latent_channels
        )
    generator = torch.Generator().manual_seed(seed)

    def value(name: str, tensor: Tensor) -> Tensor:
        if tensor.ndim > 1:
            return torch.randn(tensor.shape, generator=generator) / tensor[0].numel() ** 0.5
        return torch.ones(tensor.shape) if name.endswith("weight") else torch.zeros(tensor.shape)

    return build_host_vae({name: value(name, tensor) for name, tensor in model.state_dict().items()}, SD15)


def photograph(side: int) -> Tensor:
    """A photograph, (1, side, side, 3) in 0..1."""
    picture = skimage.transform.resize(skimage.data.astronaut(), (side, side), anti_aliasing=True)
    return torch.from_numpy(picture).float()[None]


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def painted_square(picture: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The picture with a square of `share` of its area painted anywhere, on the grid of cells or not; and the mask."""
    side = picture.shape[1]
    length = round(side * share**0.5)
    top, left = torch.randint(0, side - length + 1, (2,), generator=generator).tolist()
    mask = torch.zeros(1, side, side)
    mask[:, top : top + length, left : left + length] = 1.0
    return torch.where(mask[..., None] > 0, torch.tensor([0.9, 0.2, 0.3]), picture), mask


def figures_of(vae: Any, side: int, repeats: int, seed: int, merges: Merges = MERGES) -> dict[str, Any]:
    """Times of a full encode and of merges in one run, interleaved: the fastest of each, since other programs only slow.

    The medians stand beside them.
    """
    generator = torch.Generator().manual_seed(seed)
    picture = photograph(side)
    latent = {"samples": vae.encode(picture)}
    measuring = seconds(lambda: encoder_context(vae))
    works: dict[str, Callable[[], Any]] = {"full encode": lambda: vae.encode(picture)}
    windows = {}
    for blend, share in merges:
        painted, mask = painted_square(picture, share, generator)
        inputs = {"samples": latent, "pixels": painted, "vae": vae, "mask": mask, "blend": blend, "decoded": picture}

        def merge(inputs: dict[str, Any] = inputs) -> Any:
            return ReEditMergePixels.execute(**inputs)[0]

        name = f"{blend}, {share:.0%}"
        works[name] = merge
        windows[name] = merge()[KEY].edits[0].encoded_pixels / side**2
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            times[name].append(seconds(work))
    full = times.pop("full encode")
    return {
        "picture, px": side,
        "parameters": sum(weight.numel() for weight in vae.first_stage_model.parameters()),
        "context, cells": encoder_context(vae),
        "pixels per cell": pixels_per_cell(vae),
        "measuring the context once, s": measuring,
        "full encode, s": min(full),
        "merges": {
            name: {
                "s": min(taken),
                "times faster than a full encode": min(full) / min(taken),
                "times faster, by medians": statistics.median(full) / statistics.median(taken),
                "encoded pixels, share of the picture": windows[name],
            }
            for name, taken in times.items()
        },
    }


def time_goal(figures: dict[str, Any]) -> dict[str, Any]:
    """Five times faster than a full encode at a tenth of the area, with the node's default blend."""
    merge = figures["merges"]["feathered, 10%"]
    size = f"{figures['parameters'] / 1e6:.1f} M parameters, {figures['picture, px']} px"
    why = (
        f"the window, with the {figures['context, cells']} cells of context that the encoder needs on each side, is "
        f"{merge['encoded pixels, share of the picture']:.0%} of the picture; of a larger picture it is a smaller share"
    )
    measured = merge["times faster than a full encode"]
    return goal(f"merge of 10 % of the area against a full encode ({size})", measured, "at least", 5.0, "×", why)


def measure(seed: int) -> dict[str, Any]:
    """Merge times with the demo VAE and with one of SD1.5's real size, and the goals: "goals", as `write_report` takes."""
    with torch.inference_mode():
        real = real_size_vae(seed)
        figures = {
            "demo VAE": figures_of(load_kl_vae(_host.WEIGHTS / "tiny_sd_autoencoder.safetensors"), 256, 9, seed),
            "SD1.5's size": figures_of(real, 512, 4, seed),
            "SD1.5's size, a larger picture": figures_of(real, 768, 2, seed, [("feathered", 0.1)]),
        }
    return {**figures, "goals": [time_goal(each) for each in figures.values()]}


if __name__ == "__main__":
    import json

    print(json.dumps(measure(7), indent=1))
