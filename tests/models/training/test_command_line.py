"""The command line in processes of its own: what it says, how it ends, kills it survives, and two processes at once."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from reedit.models.training.epsilon import EpsilonSettings
from reedit.models.training.reed import REEDSettings
from reedit.models.training.rpiae import RPiAESettings
from safetensors import safe_open
from safetensors.torch import load_file
from small_epsilon import SMALL as SMALL_EPSILON
from small_rpiae import SMALL as SMALL_RPIAE
from small_rpiae import write_dinov2
from small_training import SMALL, write_autoencoder

SETTINGS = {"reed": SMALL, "epsilon": SMALL_EPSILON, "rpiae": SMALL_RPIAE}


class CommandLines:
    """Processes of the command line, forked by a helper that has imported torch once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.number = folder, 0
        helper = [sys.executable, Path(__file__).with_name("fork_command_lines.py")]
        without_host = {name: value for name, value in os.environ.items() if name != "COMFYUI_PATH"}
        self.helper = subprocess.Popen(
            helper, env=without_host, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def _ask(self, order: dict) -> int:
        assert self.helper.stdin is not None and self.helper.stdout is not None
        self.helper.stdin.write(json.dumps(order) + "\n")
        self.helper.stdin.flush()
        return int(self.helper.stdout.readline())

    def start(self, *arguments: object, **environment: str) -> tuple[int, Path]:
        """Its process number, and the file that what it says goes to."""
        self.number += 1
        said = self.folder / f"said_{self.number}.txt"
        order = {"arguments": [str(one) for one in arguments], "said": str(said), "environment": environment}
        return self._ask(order), said

    def wait(self, process: int) -> int:
        return self._ask({"wait": process})

    def run(self, *arguments: object, **environment: str) -> tuple[int, str]:
        """How it ended, and what it said."""
        process, said = self.start(*arguments, **environment)
        return self.wait(process), said.read_text()

    def close(self) -> None:
        assert self.helper.stdin is not None
        self.helper.stdin.close()
        self.helper.wait()


@pytest.fixture(scope="module")
def command_lines(tmp_path_factory) -> Iterator[CommandLines]:
    lines = CommandLines(tmp_path_factory.mktemp("said"))
    yield lines
    lines.close()


def options(training: str = "reed", **changes: object) -> list[str]:
    """Small settings as options of the command line."""
    chosen = {**SETTINGS[training], **changes}
    return [text for name, value in chosen.items() for text in (f"--{name.replace('_', '-')}", str(value))]


def places(base: Path, pictures: Path, output: Path, training: str = "reed") -> list[object]:
    return [training, "--cpu", "--base", base, "--pictures", pictures, "--output", output]


def rows_of(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output.with_suffix(".run") / "log.jsonl").read_text().splitlines()]


def same_files(one: Path, other: Path) -> bool:
    """The tensors and what is said of them; the order of the metadata in a file is anyone's."""
    said = []
    for path in (one, other):
        with safe_open(path, framework="pt") as file:
            said.append(file.metadata())
    first, second = load_file(one), load_file(other)
    return (
        said[0] == said[1]
        and first.keys() == second.keys()
        and all(torch.equal(first[name], second[name]) for name in first)
    )


@pytest.mark.parametrize(
    ("training", "settings"), [("reed", REEDSettings), ("epsilon", EpsilonSettings), ("rpiae", RPiAESettings)]
)
def test_help_lists_every_setting_with_its_default(command_lines, training, settings):
    ended, said = command_lines.run(training, "--help")
    assert ended == 0 and said.startswith(f"usage: python -m models.training {training}")
    words = " ".join(said.split())
    for one in fields(settings):
        assert f" --{one.name.replace('_', '-')}" in words
        assert f"{one.metadata['help']} ({one.default})" in words
    for name in ("--base", "--pictures", "--output", "--run", "--cpu"):
        assert f" {name} " in words
    assert (" --decoder-only " in words) == (training == "reed")


def test_it_trains_says_how_far_it_is_and_writes_the_file(command_lines, base, pictures, tmp_path):
    (tmp_path / "more").mkdir()
    for path in pictures.iterdir():
        (tmp_path / "more" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "more" / "broken.png").write_text("no picture")
    output = tmp_path / "reed.safetensors"
    ended, said = command_lines.run(
        *places(base, tmp_path / "more", output), *options(steps=2, perceptual=0.1), "--no-checkpointing"
    )
    assert ended == 0 and output.is_file()
    assert "Left out 1: broken.png cannot be read" in said
    assert "11 pictures to train on, 1 held out; perceptual distance: " in said
    assert "LPIPS" in said  # that it is used, or what it would need
    assert f"wrote {output}" in said
    (row,) = rows_of(output)
    for name in ("k", "loss", "psnr@5", "psnr@15", "psnr@25"):
        assert f"{name} {row[name]:.6g}" in said
    assert "2/2" in said  # the bar


@pytest.mark.parametrize("training", ["reed", "epsilon", "rpiae"])
def test_killed_at_any_moment_it_goes_on_to_the_same_curve_and_the_same_file(
    command_lines, base, pictures, tmp_path, training
):
    """kill -9 as soon as a certain file is there, again and again; then it is left alone."""
    if training == "rpiae":
        base = write_dinov2(tmp_path / "dinov2.safetensors")
    undisturbed, killed = tmp_path / "undisturbed.safetensors", tmp_path / "killed.safetensors"
    settings = options(training, steps=8, validate_every=3, save_every=2)
    assert command_lines.run(*places(base, pictures, undisturbed, training), *settings)[0] == 0
    run = killed.with_suffix(".run")
    # Before the first save; after a row and before the save of the same step; between two saves.
    for moment in ("state.safetensors", "samples/0000003.png", "samples/0000006.png"):
        process, said = command_lines.start(*places(base, pictures, killed, training), *settings)
        ends = time.monotonic() + 120
        while not (run / moment).exists():
            assert time.monotonic() < ends, said.read_text()
            time.sleep(0.002)
        os.kill(process, signal.SIGKILL)
        assert command_lines.wait(process) == -signal.SIGKILL
        assert not killed.exists()
    ended, said = command_lines.run(*places(base, pictures, killed, training), *settings)
    assert ended == 0, said
    assert (run / "log.jsonl").read_bytes() == (undisturbed.with_suffix(".run") / "log.jsonl").read_bytes()
    assert [row["step"] for row in rows_of(killed)] == [3, 6, 8]
    assert same_files(killed, undisturbed)


@pytest.mark.parametrize(
    ("training", "weights"),
    [
        ("reed", ("decoder.conv_out.weight", "decoder.conv_in.weight", "post_quant_conv.weight")),
        ("epsilon", ("conv_out.weight", "conv_in.weight", "mid_block.resnets.0.conv1.weight")),
    ],
)
def test_two_processes_of_one_picture_make_the_curve_of_one_process_of_two(
    command_lines, base, pictures, tmp_path, training, weights
):
    """As `accelerate launch --cpu --num_processes 2` starts them."""
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    settings = {"steps": 4, "save_every": 2}
    alone, shared = options(training, batch=2, **settings), options(training, batch=1, **settings)
    assert command_lines.run(*places(base, pictures, one, training), *alone)[0] == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    started = [
        command_lines.start(*places(base, pictures, two, training), *shared, RANK=rank, LOCAL_RANK=rank, **common)
        for rank in ("0", "1")
    ]
    for process, said in started:
        assert command_lines.wait(process) == 0, said.read_text()
    rows = rows_of(two)
    assert [row["step"] for row in rows] == [2, 4]  # one process alone writes
    for found, expected in zip(rows, rows_of(one), strict=True):
        for name, value in expected.items():
            # What differs by rounding differs by more after 15 and 25 passes of 8 bits, on one CPU more than on another.
            decibels = 0.5 if name in ("psnr@15", "psnr@25") else 0.1
            close = {"abs": decibels} if name.startswith("psnr") else {"rel": 2e-3}
            assert found[name] == pytest.approx(value, **close), name
    first, second = load_file(one), load_file(two)
    for name in weights:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=1e-4)
    assert "step/s" in started[0][1].read_text() and "step/s" not in started[1][1].read_text()
    # The number of processes is part of the run: with another one it would see other pictures.
    ended, said = command_lines.run(*places(base, pictures, two, training), *shared)
    assert ended == 1 and "another processes (2, and now 1)" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base": "none.safetensors"}, "none.safetensors is not a readable safetensors file"),
        ({"base": "text.safetensors"}, "text.safetensors is not a readable safetensors file"),
        ({"pictures": "empty"}, "empty holds 0 pictures to train on"),
        ({"output": "reed.ckpt"}, "must end in .safetensors"),
        ({"crop": 17}, "crop is 17, and this VAE needs a multiple of 2."),
        ({"average_decay": 1.5}, "average_decay is 1.5, and must be 1 or less."),
        ({"output": "file/reed.safetensors"}, "file"),  # a folder that cannot be made
    ],
)
def test_an_error_is_one_line_and_exit_status_1(command_lines, pictures, tmp_path, changes, said):
    given = {"base": "base.safetensors", "pictures": pictures, "output": "reed.safetensors"}
    write_autoencoder(tmp_path / "base.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    given |= {name: value for name, value in changes.items() if name in given}
    settings = {name: value for name, value in changes.items() if name not in given}
    ended, found = command_lines.run(
        *places(*(tmp_path / given[name] for name in ("base", "pictures", "output"))), *options(steps=1, **settings)
    )
    assert ended == 1 and "Traceback" not in found
    assert said in found.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--precision", "float8"], "invalid choice: 'float8' (choose from"),
        (["--steps", "many"], "argument --steps: invalid int value: 'many'"),
        (["--stesp", "3"], "unrecognized arguments: --stesp 3"),
    ],
)
def test_an_option_that_is_none_is_named(command_lines, base, pictures, tmp_path, arguments, said):
    ended, found = command_lines.run(*places(base, pictures, tmp_path / "reed.safetensors"), *arguments)
    assert ended == 2 and said in found and "Traceback" not in found and not list(tmp_path.iterdir())
