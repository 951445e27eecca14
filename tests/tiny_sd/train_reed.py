"""Trains the demo's REED decoder and the other arms of the paper's ablation, each at the same cost, by the pack's training.

`python -m tiny_sd.train_reed [ARM …]` in tests/. A run that was stopped goes on. Weights and logs go to weights/.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))  # the pack's models, which need no host
from models.training.loop import Progress, train
from models.training.reed import REEDSettings
from models.training.run_folder import RunFolder
from models.training.settings import TrainingSettings
from models.training.start import open_pictures
from models.training.train_reed import train_reed

from .differences import write_difference
from .train_autoencoder import pictures
from .training_loop import RUNS_FOLDER, WEIGHTS_FOLDER, chosen_names

BASE = WEIGHTS_FOLDER / "tiny_sd_autoencoder.safetensors"
PICTURES = RUNS_FOLDER / "reed_pictures"
SEED, COUNT, PAINTED = 2 * 10**8, 4000, 0.2  # of the world's pictures: none that the autoencoder was trained on

# A step decodes eight pictures with a gradient and encodes ten, however long the chain. Vanilla needs two encodes less, the
# latent term goes back through eight: their steps make up for it in floating-point operations (`dev.py bench reed`).
FULL = REEDSettings(
    steps=2400,
    batch=2,
    kept_chains=6,
    gradient_passes=1,
    crop=64,
    learning_rate=3e-4,
    warm_up=20,
    average_decay=0.998,
    anchor=4.0,
    perceptual=0.0,
    plateau_window=75,
    plateau_improvement=0.1,
    held_out=6,
    validate_every=75,
    save_every=75,
)
FIXED = replace(FULL, first_passes=5, last_passes=5)
DEMO = "latent"
ARMS = {
    "vanilla": replace(FULL, steps=2465, batch=8, kept_chains=0, first_passes=1, last_passes=1, anchor=1.0),
    "iterative": replace(FIXED, target="original"),
    "first_step_loss": FIXED,
    "full": FULL,
    DEMO: replace(FULL, steps=2170, latent=0.05),
}


def files_of(arm: str) -> tuple[Path, Path]:
    """Where an arm's decoder, or what it differs by from the base's, and its log are kept."""
    if arm == DEMO:
        return WEIGHTS_FOLDER / "tiny_sd_reed_decoder.safetensors", WEIGHTS_FOLDER / "reed_decoder.jsonl"
    return WEIGHTS_FOLDER / "ablation" / f"{arm}.safetensors", WEIGHTS_FOLDER / "ablation" / f"{arm}.jsonl"


def draw_pictures() -> None:
    """The training pictures as files, once."""
    if PICTURES.is_dir():
        return
    unfinished = PICTURES.with_suffix(".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    drawn = (255 * (pictures(SEED, COUNT, PAINTED) / 2 + 0.5)).round().byte().movedim(1, -1).numpy()
    for number, picture in enumerate(drawn):
        Image.fromarray(picture).save(unfinished / f"{number:05}.png")
    os.replace(unfinished, PICTURES)


def report(run: Path, progress: Progress) -> None:
    """Say the figures that a run has just taken."""
    if progress.row:
        logging.info("%s %s", run.name, progress.row)


def train_task(task: Any, settings: TrainingSettings, run: Path, identity: dict[str, str]) -> list[dict[str, Any]]:
    """Train on the pictures what the pack has no training of its own for. Returns the log."""
    return train(task, open_pictures(PICTURES, settings), RunFolder(run), identity, partial(report, run), cpu=True)


def train_arm(arm: str) -> None:
    (output, log), run = files_of(arm), RUNS_FOLDER / f"reed_{arm}"
    decoder = output if arm == DEMO else RUNS_FOLDER / f"reed_{arm}.safetensors"
    train_reed(BASE, PICTURES, decoder, ARMS[arm], run, decoder_only=True, on_step=partial(report, run), cpu=True)
    if arm != DEMO:
        write_difference(decoder, BASE, output)
    shutil.copyfile(run / "log.jsonl", log)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    chosen = chosen_names(__doc__, ARMS)
    draw_pictures()
    for arm in chosen:
        train_arm(arm)


if __name__ == "__main__":
    main()
