"""The training loop, with a task so small that a plain loop written out is its reference."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from reedit.models.training.loop import learning_rate_factor, train
from reedit.models.training.pictures import PictureFolder
from reedit.models.training.run_folder import RunFolder, sample_grid
from reedit.models.training.settings import TrainingSettings
from safetensors.torch import load_file, save
from small_training import StopHere, run_small, stop_after
from torch import nn
from torch.nn import functional

SETTINGS = TrainingSettings(
    steps=6,
    batch=2,
    crop=16,
    learning_rate=0.05,
    warm_up=2,
    average_decay=0.3,
    held_out=1,
    validate_every=2,
    save_every=2,
    seed=3,
)


class ColourMixer(nn.Module):
    """Learns to exchange red and blue."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 3, 1)
        with torch.no_grad():
            self.mix.weight.copy_(torch.linspace(-0.5, 0.5, 9).reshape(3, 3, 1, 1))
            self.mix.bias.fill_(0.1)

    def forward(self, pictures: torch.Tensor, brighter: float) -> dict[str, torch.Tensor]:
        error = (self.mix(pictures) - brighter * pictures.flip(1)).square()
        return {"loss": error.mean(), "red": error[:, 0].mean().detach()}


class ColourTask:
    """A task for the loop that remembers how often it was validated."""

    def __init__(self, settings: TrainingSettings = SETTINGS) -> None:
        self.settings, self.module, self.validations = settings, ColourMixer(), 0
        self.parameters = dict(self.module.named_parameters())

    def arguments(self, step: int) -> dict[str, float]:
        return {"brighter": 1 + 0.01 * step}

    @torch.no_grad()
    def validate(self, step: int, held_out: torch.Tensor):
        self.validations += 1
        error = functional.mse_loss(self.module.mix(held_out), held_out.flip(1))
        return {"validation": float(error), "validations": self.validations}, [held_out, self.module.mix(held_out)]

    def state(self) -> dict:
        return {"validations": self.validations}

    def load_state(self, state: dict) -> None:
        self.validations = state["validations"]

    def state_tensors(self) -> dict[str, torch.Tensor]:
        return {}

    def load_state_tensors(self, state: dict, device: torch.device) -> None:
        assert state == {}


def run(folder: Path, pictures: Path, task: ColourTask | None = None, on_step=None, base: str = "a", **changes):
    """A run on the CPU: the task with what it trained, and the log."""
    task = task or ColourTask(replace(SETTINGS, **changes))
    settings = task.settings
    held = PictureFolder(pictures, settings.crop, settings.held_out, settings.seed)
    return task, train(task, held, RunFolder(folder), {"base": base}, on_step or (lambda progress: None), cpu=True)


def weights_of(task) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in task.parameters.items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- what it computes -------------------------------------------------------------------------------------------------


def test_the_learning_rate_rises_and_falls_to_0():
    """Closed form: (step + 1) / (warm_up + 1) up to 1, times the share of the steps that are left."""
    factors = [learning_rate_factor(step, 3, 10) for step in range(11)]
    assert factors == pytest.approx(
        [0.25, 0.5 * 0.9, 0.75 * 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0], rel=1e-12, abs=0
    )
    assert learning_rate_factor(0, 0, 10) == 1.0


@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_it_is_adamw_with_a_moving_average(tmp_path, pictures, clip):
    """Reference: the loop written out, of samples taken by number, with torch's own AdamW and clipping."""
    task, seen = ColourTask(replace(SETTINGS, clip=clip)), []
    _, rows = run(tmp_path, pictures, task, on_step=lambda progress: seen.append(weights_of(task)))

    folder = PictureFolder(pictures, 16, 1, SETTINGS.seed)
    module = ColourMixer()
    optimizer = torch.optim.AdamW(module.parameters(), betas=(0.9, 0.99), weight_decay=0)
    averages = {name: value.detach().double() for name, value in module.named_parameters()}
    losses, clipped = [], 0
    for step in range(6):
        for group in optimizer.param_groups:
            group["lr"] = SETTINGS.learning_rate * learning_rate_factor(step, 2, 6)
        found = module(torch.stack([folder.sample(number) for number in (2 * step, 2 * step + 1)]), 1 + 0.01 * step)
        optimizer.zero_grad()
        found["loss"].backward()
        if clip:
            clipped += int(nn.utils.clip_grad_norm_(module.parameters(), clip) > clip)
        optimizer.step()
        losses.append({name: float(value.detach()) for name, value in found.items()})
        decay = min(SETTINGS.average_decay, (1 + step) / (10 + step))
        for name, value in module.named_parameters():
            torch.testing.assert_close(seen[step][name], value, rtol=1e-6, atol=1e-7)
            averages[name] = decay * averages[name] + (1 - decay) * value.detach().double()
    assert not clip or clipped == 6
    for name, value in task.parameters.items():
        torch.testing.assert_close(value.detach().double(), averages[name], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(value, seen[-1][name], rtol=1e-3)  # the average is not the last step

    for number, row in enumerate(rows, 1):
        two = losses[2 * number - 2 : 2 * number]
        assert row["step"] == 2 * number and row["validations"] == number
        assert row["loss"] == pytest.approx(sum(one["loss"] for one in two) / 2, rel=1e-5)
        assert row["red"] == pytest.approx(sum(one["red"] for one in two) / 2, rel=1e-5)
        assert row["learning_rate"] == SETTINGS.learning_rate * learning_rate_factor(2 * number, 2, 6)
    held_out = folder.held_out_pictures()
    with torch.no_grad():  # the figures are of the averaged weights, which the task now has
        expected = functional.mse_loss(task.module.mix(held_out), held_out.flip(1))
    assert rows[-1]["validation"] == pytest.approx(float(expected), rel=1e-5)


def test_two_batches_of_one_make_the_step_of_one_batch_of_two(tmp_path, pictures):
    one, rows = run(tmp_path / "one", pictures, batch=2, accumulation=1)
    two, again = run(tmp_path / "two", pictures, batch=1, accumulation=2)
    for name in one.parameters:
        torch.testing.assert_close(one.parameters[name], two.parameters[name], rtol=1e-5, atol=1e-6)
    assert [row["loss"] for row in again] == pytest.approx([row["loss"] for row in rows], rel=1e-5)


def test_bfloat16_stays_near_float32(tmp_path, pictures):
    exact, rows = run(tmp_path / "float32", pictures)
    rough, others = run(tmp_path / "bfloat16", pictures, precision="bfloat16")
    assert all(parameter.dtype == torch.float32 for parameter in rough.parameters.values())
    for one, other in zip(rows, others, strict=True):
        assert one["loss"] != other["loss"] and one["loss"] == pytest.approx(other["loss"], rel=0.02)
    for name in exact.parameters:
        torch.testing.assert_close(exact.parameters[name], rough.parameters[name], rtol=0, atol=5e-3)


def test_a_reed_run_in_bfloat16_stays_near_float32(tmp_path, pictures):
    changes = {"steps": 1, "eight_bit": 0.0}
    (exact,) = run_small(tmp_path / "float32", pictures, **changes)[1]
    (rough,) = run_small(tmp_path / "bfloat16", pictures, precision="bfloat16", **changes)[1]
    assert exact["loss"] != rough["loss"] and exact["loss"] == pytest.approx(rough["loss"], rel=0.02)
    assert exact["psnr@1"] == pytest.approx(rough["psnr@1"], abs=0.1)


def test_every_step_is_told_and_every_row_comes_with_its_samples(tmp_path, pictures):
    told = []
    _, rows = run(tmp_path, pictures, on_step=told.append, validate_every=4)
    assert [(one.step, one.steps) for one in told] == [(step, 6) for step in range(1, 7)]
    assert [one.row for one in told] == [None, None, None, rows[0], None, rows[1]]  # the last step has a row, always
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == rows
    for step, one in ((4, told[3]), (6, told[5])):
        with Image.open(tmp_path / "samples" / f"{step:07}.png") as image:
            written = torch.from_numpy(np.array(image)).movedim(-1, 0)
        assert torch.equal(written, (255 * one.grid).round().byte())


def test_a_sample_grid_has_a_row_for_each_picture_and_a_column_for_each_batch():
    columns = [torch.rand(6, 3, 5, 7) for _ in range(3)]
    grid = sample_grid(columns, most_rows=2)
    assert grid.shape == (3, 2 * (5 + 2) + 2, 3 * (7 + 2) + 2)
    for row in range(2):
        for column in range(3):
            top, left = 2 + row * 7, 2 + column * 9
            assert torch.equal(grid[:, top : top + 5, left : left + 7], columns[column][row])


# --- stopping and going on --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_run_that_is_stopped_goes_on_to_the_same_bits(tmp_path, pictures, stop):
    whole, rows = run(tmp_path / "whole", pictures)
    with pytest.raises(StopHere):
        run(tmp_path / "parts", pictures, on_step=stop_after(stop))
    steps = []
    parts, again = run(tmp_path / "parts", pictures, on_step=lambda progress: steps.append(progress.step))
    assert steps == list(range(stop + 1, 7))  # what raised was saved before: nothing is done twice
    assert again == rows and same(weights_of(parts), weights_of(whole))
    for name in ("log.jsonl", "samples/0000006.png"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    states = [load_file(tmp_path / name / "state.safetensors") for name in ("whole", "parts")]
    assert same(*states)


@pytest.mark.parametrize("kept_chains", [0, 3])
def test_a_reed_run_of_3_and_3_steps_is_one_of_6(tmp_path, pictures, kept_chains):
    whole, rows = run_small(tmp_path / "whole", pictures, kept_chains=kept_chains)
    assert [row["k"] for row in rows] == [2, 2, 3]  # the chain grows on the way, which must be known afterwards
    with pytest.raises(StopHere):
        run_small(tmp_path / "parts", pictures, on_step=stop_after(3), kept_chains=kept_chains)
    parts, again = run_small(tmp_path / "parts", pictures, kept_chains=kept_chains)
    assert again == rows and same(weights_of(parts), weights_of(whole))
    assert same(*(load_file(tmp_path / name / "state.safetensors") for name in ("whole", "parts")))
    assert same(parts.trained_tensors(), whole.trained_tensors())


def test_rows_after_the_last_save_are_written_anew(tmp_path, pictures):
    """As after a kill: the log is ahead of the state."""
    _, rows = run(tmp_path, pictures, save_every=3, on_step=lambda progress: None)
    with pytest.raises(StopHere):
        run(tmp_path / "killed", pictures, save_every=3, on_step=stop_after(3))
    state = (tmp_path / "killed" / "state.safetensors").read_bytes()
    with pytest.raises(StopHere):
        run(tmp_path / "killed", pictures, save_every=3, on_step=stop_after(5))
    assert len((tmp_path / "killed" / "log.jsonl").read_text().splitlines()) == 2
    (tmp_path / "killed" / "state.safetensors").write_bytes(state)
    assert run(tmp_path / "killed", pictures, save_every=3)[1] == rows


def test_a_finished_run_is_not_run_again(tmp_path, pictures):
    whole, rows = run(tmp_path, pictures)
    steps = []
    again, found = run(tmp_path, pictures, on_step=steps.append)
    assert steps == [] and found == rows and same(weights_of(again), weights_of(whole))


@pytest.mark.parametrize(
    ("name", "value"),
    [("learning_rate", 0.01), ("seed", 4), ("batch", 1), ("steps", 8), ("precision", "bfloat16"), ("base", "b")],
)
def test_a_folder_of_another_run_is_refused_by_the_name_of_what_differs(tmp_path, pictures, name, value):
    with pytest.raises(StopHere):
        run(tmp_path, pictures, on_step=stop_after(1))
    before = (tmp_path / "state.safetensors").read_bytes()
    with pytest.raises(ValueError, match=rf"{tmp_path} holds a run with another {name} \(.*, and now {value}\)\. Give"):
        run(tmp_path, pictures, **{name: value})
    assert (tmp_path / "state.safetensors").read_bytes() == before


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "other tensors"])
def test_a_damaged_state_is_refused_and_left_as_it_is(tmp_path, pictures, damage):
    with pytest.raises(StopHere):
        run(tmp_path, pictures, on_step=stop_after(1))
    state = tmp_path / "state.safetensors"
    whole = state.read_bytes()
    state.write_bytes(
        {
            "cut": whole[: len(whole) // 2],
            "empty": b"",
            "text": b"this is no state",
            "other tensors": save({"a": torch.zeros(1)}),
        }[damage]
    )
    damaged = state.read_bytes()
    with pytest.raises(ValueError, match=rf"{state} is damaged \(.*\)\. Remove the folder to start again"):
        run(tmp_path, pictures)
    assert state.read_bytes() == damaged
    state.write_bytes(whole)
    assert run(tmp_path, pictures)[1][-1]["step"] == 6


def test_a_damaged_log_is_refused_by_name(tmp_path, pictures):
    with pytest.raises(StopHere):
        run(tmp_path, pictures, on_step=stop_after(3))
    log = tmp_path / "log.jsonl"
    log.write_text(log.read_text()[:-5])
    with pytest.raises(ValueError, match=rf"{log} is damaged \(.*\)\. Remove it"):
        run(tmp_path, pictures)
    log.unlink()
    assert [row["step"] for row in run(tmp_path, pictures)[1]] == [4, 6]


# --- what goes wrong on the way ---------------------------------------------------------------------------------------


class Failing(ColourMixer):
    """Its loss, or its gradient alone, is no number from the call after `good` on."""

    def __init__(self, good: int, what: str) -> None:
        super().__init__()
        self.good, self.what, self.calls = good, what, 0

    def forward(self, pictures: torch.Tensor, brighter: float) -> dict[str, torch.Tensor]:
        losses = super().forward(pictures, brighter)
        self.calls += 1
        if self.calls > self.good:
            if self.what == "loss":
                losses["loss"] = losses["loss"] * float("nan")
            else:
                losses["loss"].register_hook(lambda gradient: gradient * float("nan"))
        return losses


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("validate_every", [1, 3, 100])
def test_a_loss_that_is_no_number_ends_the_run_and_the_last_save_is_whole(tmp_path, pictures, what, validate_every):
    """Whether it is found where figures are due or where the state is saved."""
    task = ColourTask(replace(SETTINGS, validate_every=validate_every))
    task.module = Failing(2, what)
    task.parameters = dict(task.module.named_parameters())
    with pytest.raises(FloatingPointError, match=r"no number any more at step [34]\. Lower learning_rate"):
        run(tmp_path, pictures, task)
    saved = load_file(tmp_path / "state.safetensors")
    assert json.loads(saved.pop("progress").numpy().tobytes())["step"] == 2
    assert all(value.isfinite().all() for value in saved.values())
    log = tmp_path / "log.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    assert all(row["step"] < 3 for row in rows)


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file may grow beyond `room` bytes: writing fails in the middle, as on a full disk. Python ignores the signal."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("validate_every", "what"), [(2, "samples/0000004.png"), (3, "state.safetensors")])
def test_a_disk_that_fills_leaves_the_last_save_and_the_run_goes_on_with_room(tmp_path, pictures, validate_every, what):
    whole, rows = run(tmp_path / "whole", pictures, validate_every=validate_every)
    folder = tmp_path / "full"
    with pytest.raises(StopHere):
        run(folder, pictures, on_step=stop_after(3), validate_every=validate_every)

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "log.jsonl"}

    before = files()
    assert len(before[folder / "state.safetensors"]) > 1024  # else it would fit
    with full_disk(1024), pytest.raises(OSError, match=str(folder / what)):
        run(folder, pictures, validate_every=validate_every)
    assert files() == before  # and nothing that was begun lies beside
    task, again = run(folder, pictures, validate_every=validate_every)
    assert again == rows and same(weights_of(task), weights_of(whole))


def test_a_picture_folder_that_empties_on_the_way_ends_the_run_with_its_name(tmp_path, pictures):
    copied = tmp_path / "pictures"
    copied.mkdir()
    for path in pictures.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())

    def remove(progress) -> None:
        if progress.step == 2:
            for path in copied.iterdir():
                path.unlink()

    with pytest.raises(ValueError, match=rf"no picture in {copied} can be read any more"):
        run(tmp_path / "run", copied, on_step=remove)
    assert load_file(tmp_path / "run" / "state.safetensors")


# --- the folder -------------------------------------------------------------------------------------------------------


def test_a_state_comes_back_as_it_was_saved(tmp_path):
    folder = RunFolder(tmp_path / "new")
    assert folder.load_state() is None
    tensors = {
        "parameter.a": torch.randn(3, 2, requires_grad=True),
        "sum": torch.tensor(0.1, dtype=torch.float64),
        "half": torch.randn(2, 2).bfloat16().t(),
    }
    progress = {"step": 7, "identity": {"name": "ä", "rate": 1e-4}, "nothing": None}
    folder.save_state(tensors, progress)
    found, said = RunFolder(tmp_path / "new").load_state()
    assert said == progress and same(found, {name: value.detach() for name, value in tensors.items()})
