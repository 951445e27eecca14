"""A REED training from a base autoencoder and a folder of pictures to a file that stock loaders take."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ..autoencoders.encoder_match import ENCODER_KEY, encoder_marks
from ..autoencoders.kl_file import StoredAutoencoder, read_autoencoder
from ..autoencoders.kl_network import KLNetwork
from .loop import Progress, train
from .pictures import PictureFolder
from .reed import KIND, REEDSettings, REEDTask
from .run_folder import RunFolder

SUFFIXES = (".safetensors", ".sft")  # that loaders list

logger = logging.getLogger(__name__)


def train_reed(
    base: Path | StoredAutoencoder,
    pictures: Path,
    output: Path,
    settings: REEDSettings,
    run: Path | None = None,
    decoder_only: bool = False,
    on_step: Callable[[Progress], None] = lambda progress: None,
    cpu: bool = False,
) -> list[dict[str, Any]]:
    """Train `base`'s decoder for repeated encoding and write it, with the base's encoder, to `output`. Returns the log.

    The file is in the base's own layout and precision. Its metadata says what it was made from and how: the base's
    fingerprint, marks of the encoder that it belongs to, the settings and the last figures. run: the folder that the run
    resumes from and logs to; None: the output's name with ".run". on_step: see `loop.train`.

    Raises ValueError, before any work, where the base is no KL autoencoder of pictures, where a setting is out of its range,
    where the pictures will not do or where the output is no file to write; OSError where a file cannot be written, with what
    was saved before left as it was.
    """
    settings.check()
    run = output.with_name(f"{output.stem}.run") if run is None else run
    _check_places(base, pictures, output, run)
    stored = read_autoencoder(base) if isinstance(base, Path) else base
    weights = stored.in_ldm_layout()
    name = base.name if isinstance(base, Path) else "the base"
    try:
        network = KLNetwork(weights)
    except ValueError as error:
        raise ValueError(f"{name} cannot be trained: {error}") from error
    task = REEDTask(network, settings)
    folder = PictureFolder(pictures, settings.crop, settings.held_out, settings.seed)
    if folder.skipped:
        logger.warning(folder.describe_skipped())
    logger.info(
        "%d pictures to train on, %d held out; perceptual distance: %s. %s",
        len(folder.training),
        len(folder.held_out),
        task.module.distance.perceptual_name,
        task.module.distance.note,
    )
    identity = {"base": stored.fingerprint(), "pictures": len(folder.training)}
    rows = train(task, folder, RunFolder(run), identity, on_step, cpu)
    if not PartialState().is_main_process:
        return rows
    trained = stored.with_decoder(task.trained_tensors())
    if decoder_only:
        trained = trained.decoder_only()
    about = {
        "kind": KIND,
        "base": identity["base"],
        "settings": asdict(settings),
        "perceptual": task.module.distance.perceptual_name,
        "figures": rows[-1] if rows else {},
    }
    metadata = {"reedit": json.dumps(about), ENCODER_KEY: json.dumps(encoder_marks(weights))}
    trained.save(output, metadata)
    logger.info("wrote %s", output)
    return rows


def _check_places(base: Path | StoredAutoencoder, pictures: Path, output: Path, run: Path) -> None:
    """Raise ValueError where the output would not be found, or would harm what the run is made from."""
    if output.suffix.lower() not in SUFFIXES:
        raise ValueError(f"output: {output} must end in {SUFFIXES[0]}, or no loader would list it.")
    if output.is_dir():
        raise ValueError(f"output: {output} is a folder. Give the file to write.")
    if isinstance(base, Path) and output.resolve() == base.resolve():
        raise ValueError(f"output: {output} is the base itself. Give another name: a run that goes on needs the base.")
    if run.resolve().is_relative_to(pictures.resolve()):
        raise ValueError(f"run: {run} lies among the pictures, and its samples would be trained on. Put it elsewhere.")
