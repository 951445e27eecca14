"""A REED training from a base autoencoder and a folder of pictures to a file that stock loaders take."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ..autoencoders.kl_file import StoredAutoencoder
from .loop import Progress, train
from .reed import KIND, REEDSettings, REEDTask
from .run_folder import RunFolder
from .start import check_start, load_base, made_from, marks_entry, open_pictures, tell_start

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
    run = check_start(base, pictures, output, settings, run)
    stored, network = load_base(base)
    task = REEDTask(network, settings)
    folder = open_pictures(pictures, settings)
    tell_start(folder, task.module.distance)
    identity = {"base": stored.fingerprint(), "pictures": len(folder.training)}
    rows = train(task, folder, RunFolder(run), identity, on_step, cpu)
    if not PartialState().is_main_process:
        return rows
    trained = stored.with_decoder(task.trained_tensors())
    if decoder_only:
        trained = trained.decoder_only()
    about = {"kind": KIND, **made_from(identity, settings, task.module.distance, rows)}
    trained.save(output, {"reedit": json.dumps(about), **marks_entry(stored.in_ldm_layout())})
    logger.info("wrote %s", output)
    return rows
