"""The smallest RPiAE training that has all that a real one has."""

from pathlib import Path
from typing import Any

import torch
from reedit.models.autoencoders.dinov2 import StoredDINOv2, build_network, stored_tensors
from reedit.models.training.rpiae import DECODER, RPiAESettings
from reedit.models.training.train_rpiae import train_rpiae

SIZES = {"width": 16, "layers": 1, "heads": 2, "registers": 2, "mlp_ratio": 2, "patch": 4, "positions": 3}

SMALL = {
    "steps": 6,
    "batch": 1,
    "crop": 16,
    "patches": 4,
    "learning_rate": 1e-3,
    "warm_up": 1,
    "average_decay": 0.9,
    "held_out": 1,
    "validate_every": 2,
    "save_every": 3,
    "channels": 3,
    "bridge_layers": 1,
    "decoder": "tiny",
    "perceptual": 0.0,
    "pivot_constant": 2,
    "adversarial_start": 1,
    "penalty_every": 2,
    "discriminator_width": 8,
}


def small_settings(**changes: Any) -> RPiAESettings:
    return RPiAESettings(**{**SMALL, **changes})


def small_dinov2(**sizes: Any) -> StoredDINOv2:
    sizes = {**SIZES, **sizes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return StoredDINOv2(sizes["heads"], stored_tensors(build_network(**sizes)))


def write_dinov2(path: Path, **sizes: Any) -> Path:
    small_dinov2(**sizes).save(path)
    return path


def train_stages(folder: Path, pictures: Path, **changes: Any) -> dict[str, Path]:
    """All three stages, each from the file of the one before. The files by stage."""
    base, written = write_dinov2(folder / "dinov2.safetensors"), {}
    for stage in ("pivot", "bridge", DECODER):
        output = folder / f"{stage}.safetensors"
        train_rpiae(base, pictures, output, small_settings(stage=stage, **changes), cpu=True)
        base = written[stage] = output
    return written
