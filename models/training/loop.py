"""The loop that every training runs in: AdamW, a moving average, figures, saves, and resuming to the same curve."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from .pictures import PictureFolder
from .run_folder import RunFolder, sample_grid
from .settings import TrainingSettings
from .trained_part import TrainedPart


class Task(Protocol):
    """What is trained. module(pictures, **arguments(step)) gives scalars by name, "loss" among them."""

    @property
    def settings(self) -> TrainingSettings:
        """What the run is told, its optimizer included."""

    @property
    def module(self) -> nn.Module:
        """What is called with pictures, (B, 3, S, S) in 0..1, and gives the losses."""

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Those of the module's that are trained, by name."""

    def arguments(self, step: int) -> dict[str, Any]:
        """What the module is told at this step besides pictures."""

    def validate(self, step: int, held_out: Tensor) -> tuple[dict[str, float], list[Tensor]]:
        """Figures after `step` by name, and batches of (B, 3, H, W) in 0..1 to be shown side by side."""

    def state(self) -> dict[str, Any]:
        """What a run must know to go on, the same in all processes: what JSON can hold."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""

    def state_tensors(self) -> dict[str, Tensor]:
        """What else it must know; each process has its own."""

    def load_state_tensors(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Take up what `state_tensors` gave, or nothing where it is lost."""


@runtime_checkable
class AdversarialTask(Task, Protocol):
    """A task whose module draws at random for each picture, and which may have an adversary trained beside it.

    adversary(**adversary_arguments(step)) gives scalars by name, "loss" among them, right after the module was called, on
    the same pictures: so it can be told what the module made of them. All of its parameters are trained, by an AdamW of
    their own with the same settings; their average is not kept. The module must leave no gradient in them.
    """

    @property
    def adversary(self) -> nn.Module | None:
        """What is trained beside the module; None where nothing is."""

    @property
    def adversary_rate(self) -> float:
        """Its learning rate, as a share of the module's."""

    def adversary_arguments(self, step: int) -> dict[str, Any] | None:
        """What the adversary is told at this step; None where it is not trained at it."""

    def sample_arguments(self, numbers: range) -> dict[str, Any]:
        """What the module is told besides of the pictures with these numbers, the same whichever process has them."""


@dataclass
class Progress:
    """Where a run is. row: the log's newest, when it was just written. grid: its samples, (3, H, W) in 0..1."""

    step: int
    steps: int
    row: dict[str, Any] | None = None
    grid: Tensor | None = None


@dataclass
class _Sums:
    """Losses since the last row of the log, summed where they are computed, so that no step waits for a number."""

    steps: int = 0
    losses: dict[str, Tensor] = field(default_factory=dict)

    def add(self, losses: Mapping[str, Tensor]) -> None:
        self.steps += 1
        for name, value in losses.items():
            self.losses[name] = self.losses.get(name, torch.zeros((), device=value.device)) + value.detach().double()

    def means(self) -> dict[str, float]:
        """By name, in an order that does not depend on where a run was resumed."""
        return {name: float(self.losses[name]) / self.steps for name in sorted(self.losses)}


def train(
    task: Task,
    pictures: PictureFolder,
    run: RunFolder,
    identity: Mapping[str, Any],
    on_step: Callable[[Progress], None] = lambda progress: None,
    cpu: bool = False,
) -> list[dict[str, Any]]:
    """Run a task's training to its end, from where the run's folder stands. Returns the log's rows.

    Afterwards, and also when `on_step` raises, the task's parameters hold the averaged weights. identity: what must be the
    same for a run to go on, such as its base's fingerprint. on_step: called after every step, for a progress bar and to stop
    by raising; the state is saved then, and the exception goes on. cpu: stay off the accelerators.

    Raises ValueError where the folder holds a run of other settings, and FloatingPointError where the loss is no number.
    """
    accelerator = Accelerator(cpu=cpu)
    shared = {**identity, "processes": accelerator.num_processes, **asdict(task.settings)}
    return _Loop(task, pictures, run, shared, on_step, accelerator).run()


class _Loop:
    def __init__(
        self,
        task: Task,
        pictures: PictureFolder,
        run: RunFolder,
        identity: dict[str, Any],
        on_step: Callable[[Progress], None],
        accelerator: Accelerator,
    ) -> None:
        self.task, self.pictures, self.folder, self.identity = task, pictures, run, identity
        self.on_step, self.accelerator, self.settings = on_step, accelerator, task.settings
        self.part = TrainedPart(task.module, task.parameters, task.settings, accelerator)
        self.adversary: TrainedPart | None = None
        self.adversarial = task if isinstance(task, AdversarialTask) else None
        if self.adversarial and self.adversarial.adversary is not None:
            module = self.adversarial.adversary
            parameters = dict(module.named_parameters())
            self.adversary = TrainedPart(module, parameters, task.settings, accelerator, "adversary.")
        self.averages = {name: value.detach().clone() for name, value in task.parameters.items()}
        self.held_out = pictures.held_out_pictures().to(accelerator.device)
        self.step, self.sums = 0, _Sums()
        self._resume()

    def run(self) -> list[dict[str, Any]]:
        try:
            for numbered in self._steps():
                self._take_step(numbered)
                self.step += 1
                progress = Progress(self.step, self.settings.steps)
                if self.step % self.settings.validate_every == 0 or self.step == self.settings.steps:
                    self._validate(progress)
                if self.step % self.settings.save_every == 0 or self.step == self.settings.steps:
                    self._save()
                try:
                    self.on_step(progress)
                except BaseException:
                    self._save()
                    raise
        finally:
            self._swap_averages()
        return self.folder.rows

    # --- one step -----------------------------------------------------------------------------------------------------

    def _steps(self) -> Iterator[list[tuple[range, Tensor]]]:
        """The batches of each step, from the present one on, that fall to this process, with the pictures' numbers."""
        settings, processes = self.settings, self.accelerator.num_processes
        share = settings.batch * processes * settings.accumulation

        def numbers_of(step: int) -> list[range]:
            parts = range(self.accelerator.process_index, processes * settings.accumulation, processes)
            firsts = [step * share + part * settings.batch for part in parts]
            return [range(first, first + settings.batch) for first in firsts]

        steps = range(self.step, settings.steps)
        batches = self.pictures.batches(numbers for step in steps for numbers in numbers_of(step))
        for step in steps:
            yield [(numbers, next(batches)) for numbers in numbers_of(step)]

    def _take_step(self, numbered: list[tuple[range, Tensor]]) -> None:
        rate = self._learning_rate()
        self.part.begin_step(rate)
        if self.adversarial and self.adversary:
            self.adversary.begin_step(rate * self.adversarial.adversary_rate)
        arguments = self.task.arguments(self.step)
        for count, (numbers, batch) in enumerate(numbered, 1):
            left = len(numbered) - count
            own = self.adversarial.sample_arguments(numbers) if self.adversarial else {}
            pictures = batch.to(self.accelerator.device)
            shares = self._add_gradients(self.part, len(numbered), left, pictures, **arguments, **own)
            if self.adversarial and self.adversary:
                told = self.adversarial.adversary_arguments(self.step)
                if told is not None:
                    found = self._add_gradients(self.adversary, len(numbered), left, **told)
                    shares |= {f"adversary_{name}": value for name, value in found.items()}
            self.sums.add(self.accelerator.reduce(shares, "mean"))  # the log is of all processes' pictures
        self.sums.steps -= len(numbered) - 1
        for part in (self.part, self.adversary):
            if part:
                part.end_step()  # which moves nothing where there was no gradient
        # The average forgets its start: its decay grows to the one that is set.
        decay = min(self.settings.average_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.averages.values()), list(self.task.parameters.values()), 1 - decay)

    def _add_gradients(
        self, part: TrainedPart, batches: int, left: int, *pictures: Tensor, **arguments: Any
    ) -> dict[str, Tensor]:
        """Add to a part's gradient that of one of a step's batches. Its scalars' shares of the step's mean.

        left: how many batches of the step come after it. Processes exchange gradients with the last.
        """
        with self.accelerator.no_sync(part.module) if left else nullcontext(), self._precision():
            losses = part.module(*pictures, **arguments)
            self.accelerator.backward(losses["loss"] / batches)
        return {name: value.detach() / batches for name, value in losses.items()}

    def _learning_rate(self) -> float:
        """That of the present step."""
        settings = self.settings
        falls_over = settings.steps if settings.rate_falls else None
        return settings.learning_rate * learning_rate_factor(self.step, settings.warm_up, falls_over)

    def _precision(self) -> Any:
        if self.settings.precision == "float32":
            return nullcontext()
        return torch.autocast(self.accelerator.device.type, getattr(torch, self.settings.precision))

    # --- figures ------------------------------------------------------------------------------------------------------

    def _validate(self, progress: Progress) -> None:
        means = self._finite_means()
        with self._averaged(), self._precision():
            figures, shown = self.task.validate(self.step, self.held_out)
        agreed = [self.task.state(), figures]
        broadcast_object_list(agreed)  # processes may round differently, and must go on alike
        self.task.load_state(agreed[0])
        progress.row = {"step": self.step, **means, "learning_rate": self._learning_rate(), **agreed[1]}
        progress.grid = sample_grid(shown)
        self.sums = _Sums()
        if self.accelerator.is_main_process:
            self.folder.write_row(progress.row)
            self.folder.write_samples(self.step, progress.grid)
        else:
            self.folder.rows.append(progress.row)

    def _finite_means(self) -> dict[str, float]:
        """The losses' means since the last row. FloatingPointError where one, or a weight, is no number any more."""
        means = self.sums.means()
        parameters = [*self.task.parameters.values(), *(self.adversary.parameters.values() if self.adversary else ())]
        weights = torch.stack([parameter.detach().sum() for parameter in parameters])
        if not all(map(math.isfinite, means.values())) or not bool(weights.isfinite().all()):
            raise FloatingPointError(
                f"The loss is no number any more at step {self.step}. Lower learning_rate in a new folder."
            )
        return means

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The parameters are the averaged ones inside."""
        self._swap_averages()
        try:
            yield
        finally:
            self._swap_averages()

    def _swap_averages(self) -> None:
        with torch.no_grad():
            for name, parameter in self.task.parameters.items():
                kept = parameter.detach().clone()
                parameter.copy_(self.averages[name])
                self.averages[name].copy_(kept)

    # --- saving and resuming ------------------------------------------------------------------------------------------

    def _save(self) -> None:
        self._finite_means()  # what is no number any more does not take the last save's place
        own = self.task.state_tensors()
        if not self.accelerator.is_main_process:
            self.folder.save_process(self.accelerator.process_index, self.step, own)
            return
        tensors = {f"own.{name}": value for name, value in own.items()}
        tensors |= {f"average.{name}": value for name, value in self.averages.items()}
        for part in (self.part, self.adversary):
            tensors |= part.tensors() if part else {}
        tensors |= {f"sum.{name}": value for name, value in self.sums.losses.items()}
        progress = {
            "step": self.step,
            "summed_steps": self.sums.steps,
            "identity": self.identity,
            "task": self.task.state(),
        }
        self.folder.save_state(tensors, progress)

    def _resume(self) -> None:
        saved = self.folder.load_state()
        if saved is None:
            return
        tensors, progress = saved
        self._check_identity(progress["identity"])
        device = self.accelerator.device
        try:
            for part in (self.part, self.adversary):
                if part:
                    part.load(tensors)
        except ValueError as error:
            raise ValueError(f"{self.folder.folder} holds {error}. Name another folder to start a new run.") from error
        for name, average in self.averages.items():
            average.copy_(tensors[f"average.{name}"])
        sums = {
            name.removeprefix("sum."): value.to(device) for name, value in tensors.items() if name.startswith("sum.")
        }
        self.step, self.sums = progress["step"], _Sums(progress["summed_steps"], sums)
        self.task.load_state(progress["task"])
        own = {name.removeprefix("own."): value for name, value in tensors.items() if name.startswith("own.")}
        if not self.accelerator.is_main_process:
            own = self.folder.load_process(self.accelerator.process_index, self.step)
        self.task.load_state_tensors(own, device)

    def _check_identity(self, saved: Mapping[str, Any]) -> None:
        for name, value in self.identity.items():
            if saved.get(name, value) != value:  # a setting that was not there yet had its default
                raise ValueError(
                    f"{self.folder.folder} holds a run with another {name} ({saved[name]}, and now {value}). "
                    "Give that again to go on with it, or name another folder to start a new run."
                )


def learning_rate_factor(step: int, warm_up: int, falls_over: int | None) -> float:
    """The share of the learning rate at a step: it rises linearly over `warm_up` steps.

    It falls linearly to 0 over `falls_over` steps, counted from the first; with None it stays.
    """
    risen = min(1.0, (step + 1) / (warm_up + 1))
    return risen if falls_over is None else risen * max(0.0, 1 - step / falls_over)
