"""The smallest eps-VAE training that has all that a real one has."""

from pathlib import Path
from typing import Any

from reedit.models.autoencoders.epsilon_layout import EpsilonConfig
from reedit.models.training.epsilon import EpsilonSettings, EpsilonTask, build_decoder
from reedit.models.training.loop import train
from reedit.models.training.pictures import PictureFolder
from reedit.models.training.run_folder import RunFolder
from small_training import fresh_network

CONFIG = EpsilonConfig(
    width=8,
    blocks=1,
    latent_channels=4,
    ratio=2,
    multipliers=(1, 2),
    attention_levels=(1,),
    head_channels=8,
    norm_groups=4,
    latent_scale=2.0,
)

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
    "size": "tiny",
    "perceptual": 0.0,
    "penalty_every": 2,
    "discriminator_width": 8,
}


def small_settings(**changes: Any) -> EpsilonSettings:
    return EpsilonSettings(**{**SMALL, **changes})


def small_task(**changes: Any) -> EpsilonTask:
    settings = small_settings(**changes)
    return EpsilonTask(fresh_network(), build_decoder(CONFIG, settings.seed), settings)


def run_small(folder: Path, pictures: Path, on_step: Any = None, **changes: Any) -> tuple[EpsilonTask, list[dict]]:
    """A whole run on the CPU, from fresh weights: the task with what it trained, and the log."""
    task = small_task(**changes)
    settings = task.settings
    held = PictureFolder(pictures, settings.crop, settings.held_out, settings.seed)
    rows = train(task, held, RunFolder(folder), {"base": "small"}, on_step or (lambda progress: None), cpu=True)
    return task, rows
