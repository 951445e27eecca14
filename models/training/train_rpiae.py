"""One stage of an RPiAE's training, from a DINOv2 or an RPiAE and a folder of pictures to an RPiAE's file."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from ..autoencoders.dinov2 import StoredDINOv2, dinov2_of, load_dinov2
from ..autoencoders.rpiae import RPiAE, load_rpiae
from ..autoencoders.rpiae_layout import KIND, PICKLES, PIXEL_DECODER, StoredRPiAE, read_rpiae, rpiae_of
from ..files import fingerprint, read_tensors
from .fresh_weights import seeded
from .loop import Progress, train
from .rpiae import PIVOT, RPiAESettings, RPiAETask, plan_from_dinov2
from .run_folder import RunFolder
from .start import check_start, made_from, open_pictures, tell_start

logger = logging.getLogger(__name__)

Base = StoredDINOv2 | StoredRPiAE


def train_rpiae(
    base: Path | Base,
    pictures: Path,
    output: Path,
    settings: RPiAESettings,
    run: Path | None = None,
    on_step: Callable[[Progress], None] = lambda progress: None,
    cpu: bool = False,
) -> list[dict[str, Any]]:
    """Train one stage and write the whole RPiAE to `output`, in the base's precision. Returns the log.

    base: for the pivot stage a DINOv2 with registers, whose decoder and bridge then start fresh, or an RPiAE; for the others
    what the stage before wrote. Only square pictures of one size are made, which `crop` has to be. The file says in its
    metadata what it was made from and how: the stage, the base's fingerprint, the settings and the last figures. run: the
    folder that the run resumes from and logs to; None: the output's name with ".run". on_step: see `loop.train`.

    Raises ValueError, before any work, where the base will not do for this stage, where a setting is out of its range, where
    the pictures will not do or where the output is no file to write; OSError where a file cannot be written, with what was
    saved before left as it was.
    """
    run = check_start(base, pictures, output, settings, run)
    stored = read_base(base) if isinstance(base, Path) else base
    network = start_network(stored, settings)
    task = RPiAETask(network, settings)
    folder = open_pictures(pictures, settings)
    tell_start(folder, task.module.distance)
    identity = {"kind": KIND, "base": fingerprint(stored.tensors), "pictures": len(folder.training)}
    rows = train(task, folder, RunFolder(run), identity, on_step, cpu)
    if not PartialState().is_main_process:
        return rows
    about = {"stage": settings.stage, **made_from(identity, settings, task.module.distance, rows)}
    dtype = next(iter(stored.tensors.values())).dtype
    tensors = {name: tensor.to(dtype) for name, tensor in network.published_tensors().items()}
    StoredRPiAE(network.config, tensors, about).save(output)
    logger.info("wrote %s", output)
    return rows


def read_base(path: Path) -> Base:
    """The RPiAE or the DINOv2 in a file. Raises ValueError that names the file where it is neither."""
    if path.suffix.lower() in PICKLES:
        return read_rpiae(path)
    tensors, metadata = read_tensors(path)
    whole = any(name.startswith(PIXEL_DECODER) for name in tensors)
    return rpiae_of(path.name, tensors, metadata) if whole else dinov2_of(path.name, tensors, metadata)


def start_network(stored: Base, settings: RPiAESettings) -> RPiAE:
    """The network that a stage starts from, in float32. Raises ValueError where the base will not do for the stage."""
    if isinstance(stored, StoredRPiAE):
        return load_rpiae(stored).float().train()
    if settings.stage != PIVOT:
        raise ValueError(
            f"The base is a DINOv2, and the stage {settings.stage} goes on from an RPiAE: train {PIVOT} first."
        )
    if not stored.registers:
        raise ValueError(
            "The base is a DINOv2 without registers, and an RPiAE has them. Take facebook/dinov2-with-registers-base."
        )
    config = plan_from_dinov2(stored, settings)
    config.check()
    with seeded(settings.seed):
        network = RPiAE(config)
    encoder = load_dinov2(stored).state_dict()
    kept = {name: tensor.float() for name, tensor in encoder.items() if not name.startswith("layernorm.")}
    with torch.no_grad():
        network.encoder.load_state_dict(kept)
    return network.train()
