"""The command line of all trainings: `python -m models.training reed --help`, `epsilon` or `rpiae`, from the pack's folder.

On several GPUs: `accelerate launch -m models.training reed …`.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from .epsilon import EpsilonSettings
from .loop import Progress
from .reed import REEDSettings
from .rpiae import RPiAESettings
from .settings import TrainingSettings
from .train_epsilon import train_epsilon
from .train_reed import train_reed
from .train_rpiae import train_rpiae


class Training(NamedTuple):
    """A training as the command line offers it. base: what it starts from."""

    settings: type[TrainingSettings]
    train: Callable[..., list[dict[str, Any]]]
    help: str
    base: str = "a KL autoencoder or a checkpoint with one (safetensors)"


TRAININGS = {
    "reed": Training(REEDSettings, train_reed, "a decoder that survives repeated encode-decode (REED-VAE)"),
    "epsilon": Training(EpsilonSettings, train_epsilon, "a decoder that denoises in one to three steps (eps-VAE)"),
    "rpiae": Training(
        RPiAESettings,
        train_rpiae,
        "one of the three stages of a representation-pivoted autoencoder (RPiAE)",
        "for the pivot stage a DINOv2 with registers (safetensors), for the others what the stage before wrote",
    ),
}


def add_settings(parser: argparse.ArgumentParser, settings: type[TrainingSettings]) -> None:
    """One option for each field of a settings class."""
    for one in fields(settings):
        option = f"--{one.name.replace('_', '-')}"
        help = f"{one.metadata['help']} ({one.default})"
        if isinstance(one.default, bool):
            parser.add_argument(option, action=argparse.BooleanOptionalAction, default=one.default, help=help)
        else:
            choices = one.metadata["choices"] or None
            parser.add_argument(option, type=type(one.default), default=one.default, choices=choices, help=help)


def describe_row(row: dict[str, Any]) -> str:
    """A row of the log in one line."""
    return "  ".join(f"{name} {value:.6g}" for name, value in row.items())


def add_training(commands: Any, name: str, training: Training) -> None:
    """The command of one training: its places and its settings."""
    command: argparse.ArgumentParser = commands.add_parser(name, help=training.help)
    command.add_argument("--base", type=Path, required=True, help=training.base)
    command.add_argument("--pictures", type=Path, required=True, help="a folder of pictures to train on")
    command.add_argument("--output", type=Path, required=True, help="the safetensors file to write")
    command.add_argument("--run", type=Path, help="the run's own folder (the output's name with .run)")
    command.add_argument("--cpu", action="store_true", help="use no GPU")
    add_settings(command, training.settings)
    if name == "reed":
        command.add_argument(
            "--decoder-only", action="store_true", help="leave the encoder, which is the base's, out of the file"
        )


def read_arguments() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """What the command line says, and what says so of it where it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m models.training", description="Trains decoders for latent editing."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, training in TRAININGS.items():
        add_training(commands, name, training)
    return parser, parser.parse_args()


def run(given: argparse.Namespace, main_process: bool) -> None:
    """Train what was asked for, with a bar, and each row of the log as it comes."""
    training = TRAININGS[given.command]
    settings = training.settings(**{one.name: getattr(given, one.name) for one in fields(training.settings)})
    own = {"decoder_only": given.decoder_only} if given.command == "reed" else {}
    with tqdm(total=settings.steps, unit="step", disable=not main_process) as bar:

        def show(progress: Progress) -> None:
            bar.update(progress.step - bar.n)
            if progress.row and main_process:
                bar.write(describe_row(progress.row))

        places = (given.base, given.pictures, given.output, settings, given.run)
        training.train(*places, on_step=show, cpu=given.cpu, **own)


def main() -> None:
    """Train as the command line says. What is wrong with it, or stops the training, is one line, and exit status 1."""
    main_process = int(os.environ.get("RANK", 0)) == 0  # one of several GPUs' processes speaks for all
    logging.basicConfig(level=logging.INFO if main_process else logging.ERROR, format="%(message)s")
    parser, given = read_arguments()
    try:
        run(given, main_process)
    except (ValueError, FloatingPointError, OSError) as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
