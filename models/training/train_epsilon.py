"""An eps-VAE training from a base autoencoder and a folder of pictures to a decoder's file."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator, PartialState

from ..autoencoders.epsilon_layout import KIND, StoredEpsilonDecoder
from ..autoencoders.kl_file import StoredAutoencoder
from .epsilon import EpsilonSettings, EpsilonTask, build_decoder, measure, plan_decoder
from .loop import Progress, train
from .run_folder import RunFolder
from .start import check_start, load_base, made_from, marks_entry, open_pictures, tell_start

logger = logging.getLogger(__name__)


def train_epsilon(
    base: Path | StoredAutoencoder,
    pictures: Path,
    output: Path,
    settings: EpsilonSettings,
    run: Path | None = None,
    on_step: Callable[[Progress], None] = lambda progress: None,
    cpu: bool = False,
) -> list[dict[str, Any]]:
    """Train an eps-VAE decoder, from fresh weights, of `base`'s latents and write it to `output`. Returns the log.

    The base's encoder stays as it is, and is not in the file: that holds the decoder in the base's precision, its config with
    what was measured on the pictures, and in its metadata what it was made from and how: the base's fingerprint, marks of the
    encoder that it belongs to, the settings and the last figures. run: the folder that the run resumes from and logs to;
    None: the output's name with ".run". on_step: see `loop.train`.

    Raises ValueError, before any work, where the base is no KL autoencoder of pictures, where a setting is out of its range,
    where the pictures will not do or where the output is no file to write; OSError where a file cannot be written, with what
    was saved before left as it was.
    """
    run = check_start(base, pictures, output, settings, run)
    stored, network = load_base(base)
    config = plan_decoder(network, settings)
    folder = open_pictures(pictures, settings)
    device = Accelerator(cpu=cpu).device
    config = measure(config, network.to(device), folder, settings, device)
    task = EpsilonTask(network, build_decoder(config, settings.seed), settings)
    tell_start(folder, task.module.distance)
    identity = {"kind": KIND, "base": stored.fingerprint(), "pictures": len(folder.training)}
    rows = train(task, folder, RunFolder(run), identity, on_step, cpu)
    if not PartialState().is_main_process:
        return rows
    about = made_from(identity, settings, task.module.distance, rows)
    metadata = marks_entry(stored.in_ldm_layout())
    tensors = {name: tensor.to(stored.dtype) for name, tensor in task.trained_tensors().items()}
    StoredEpsilonDecoder(task.decoder.config, tensors, about, metadata).save(output)
    logger.info("wrote %s", output)
    return rows
