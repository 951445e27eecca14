"""What every training from a base autoencoder and a folder of pictures begins and ends with."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from ..autoencoders.encoder_match import ENCODER_KEY, encoder_marks
from ..autoencoders.kl_file import StoredAutoencoder, read_autoencoder
from ..autoencoders.kl_network import KLNetwork
from .distance import PictureDistance
from .pictures import PictureFolder
from .settings import TrainingSettings

SUFFIXES = (".safetensors", ".sft")  # that loaders list

logger = logging.getLogger(__name__)


def check_start(base: Any, pictures: Path, output: Path, settings: TrainingSettings, run: Path | None) -> Path:
    """The folder that the run resumes from and logs to: the one that is given, or the output's name with ".run".

    Raises ValueError where a setting is out of its range, where the output would not be found, or where output or run would
    harm what the run is made from.
    """
    settings.check()
    run = output.with_name(f"{output.stem}.run") if run is None else run
    if output.suffix.lower() not in SUFFIXES:
        raise ValueError(f"output: {output} must end in {SUFFIXES[0]}, or no loader would list it.")
    if output.is_dir():
        raise ValueError(f"output: {output} is a folder. Give the file to write.")
    if isinstance(base, Path) and output.resolve() == base.resolve():
        raise ValueError(f"output: {output} is the base itself. Give another name: a run that goes on needs the base.")
    if run.resolve().is_relative_to(pictures.resolve()):
        raise ValueError(f"run: {run} lies among the pictures, and its samples would be trained on. Put it elsewhere.")
    return run


def load_base(base: Path | StoredAutoencoder) -> tuple[StoredAutoencoder, KLNetwork]:
    """The base's tensors, and the network they are of. Raises ValueError that names the file where they are of none."""
    stored = read_autoencoder(base) if isinstance(base, Path) else base
    try:
        return stored, KLNetwork(stored.in_ldm_layout())
    except ValueError as error:
        name = base.name if isinstance(base, Path) else "the base"
        raise ValueError(f"{name} cannot be trained: {error}") from error


def open_pictures(pictures: Path, settings: TrainingSettings) -> PictureFolder:
    """The training pictures; the log names those that are left out."""
    folder = PictureFolder(pictures, settings.crop, settings.held_out, settings.seed)
    if folder.skipped:
        logger.warning(folder.describe_skipped())
    return folder


def tell_start(folder: PictureFolder, distance: PictureDistance) -> None:
    """Say in the log what is trained on, and which perceptual distance it is."""
    logger.info(
        "%d pictures to train on, %d held out; perceptual distance: %s. %s",
        len(folder.training),
        len(folder.held_out),
        distance.perceptual_name,
        distance.note,
    )


def made_from(
    identity: Mapping[str, Any], settings: TrainingSettings, distance: PictureDistance, rows: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """What a file's metadata says of its training: its base, how it was trained, and the last figures.

    identity: as `loop.train` is given it, with the base's fingerprint as "base".
    """
    return {
        "base": identity["base"],
        "settings": asdict(settings),
        "perceptual": distance.perceptual_name,
        "figures": rows[-1] if rows else {},
    }


def marks_entry(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """The entry of a file's metadata that tells which encoder a decoder belongs to. weights: under their ldm names."""
    return {ENCODER_KEY: json.dumps(encoder_marks(weights))}
