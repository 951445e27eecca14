"""The smallest autoencoder and the shortest run that have all that a real one has."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from reedit.models.autoencoders.kl_layout import KLConfig, to_ldm_layout
from reedit.models.autoencoders.kl_network import KLNetwork, build_autoencoder
from reedit.models.training.loop import train
from reedit.models.training.pictures import PictureFolder
from reedit.models.training.reed import REEDSettings, REEDTask
from reedit.models.training.run_folder import RunFolder
from safetensors.torch import save_file

CONFIG = KLConfig(32, (1, 2), 1, 4, ())


def fresh_weights(layout: str = "ldm", seed: int = 0, quantisers: bool = True) -> dict[str, torch.Tensor]:
    """A small autoencoder's tensors, under the names and in the shapes of a layout: "ldm" or "diffusers"."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weights = build_autoencoder(CONFIG, quantisers).state_dict()
    return to_ldm_layout(weights) if layout == "ldm" else weights


def fresh_network(seed: int = 0) -> KLNetwork:
    return KLNetwork(fresh_weights(seed=seed))


def write_autoencoder(
    path: Path, layout: str = "ldm", dtype: torch.dtype = torch.float32, prefix: str = "", **others: torch.Tensor
) -> Path:
    """others: tensors of another part of the checkpoint, by name."""
    tensors = {prefix + name: value.to(dtype).contiguous() for name, value in fresh_weights(layout).items()}
    save_file(tensors | others, path)
    return path


def write_pictures(folder: Path, count: int, width: int = 20, height: int = 24) -> Path:
    """Smooth colours and some noise, another picture for each number."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        random = np.random.default_rng(number)
        coarse = Image.fromarray(random.integers(0, 256, (3, 3, 3), np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32)
        noisy = (smooth + random.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number:03}.png")
    return folder


SMALL = {
    "steps": 6,
    "batch": 1,
    "crop": 16,
    "learning_rate": 1e-3,
    "warm_up": 1,
    "average_decay": 0.9,
    "held_out": 1,
    "validate_every": 2,
    "save_every": 3,
    "first_passes": 2,
    "last_passes": 4,
    "increment": 1,
    # The chain grows at every validation but the first at each length.
    "plateau_window": 1,
    "plateau_improvement": 1.0,
    "perceptual": 0.0,
}


def small_settings(**changes: Any) -> REEDSettings:
    return REEDSettings(**{**SMALL, **changes})


def run_small(folder: Path, pictures: Path, on_step: Any = None, **changes: Any) -> tuple[REEDTask, list[dict]]:
    """A whole run on the CPU, from fresh weights: the task with what it trained, and the log."""
    settings = small_settings(**changes)
    task = REEDTask(fresh_network(), settings)
    held = PictureFolder(pictures, settings.crop, settings.held_out, settings.seed)
    rows = train(task, held, RunFolder(folder), {"base": "small"}, on_step or (lambda progress: None), cpu=True)
    return task, rows


class StopHere(Exception):
    """What an interrupt raises in on_step."""


def stop_after(step: int):
    def on_step(progress):
        if progress.step == step:
            raise StopHere

    return on_step
