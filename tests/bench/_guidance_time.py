"""What the blended guider costs beside its model calls, in time and in memory, against CFGGuider at as many calls.

Every call of the model is made twice, with the guider's hooks and without them, the first of the two by turns: both see the
same inputs and the same machine. Time is that of the thread, on one thread: other programs do not count. Memory is what
torch's allocator hands out, followed by torch's profiler: tracemalloc does not see it.
"""

from __future__ import annotations

import gc
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from _guidance_world import lot, models
from _real_size import sd15_model
from _report import defaults
from comfy_extras.nodes_custom_sampler import CFGGuider, KSamplerSelect, RandomNoise, SamplerCustomAdvanced
from reedit.models.diffusion.prompt_tokens import WORDS, PromptTokens
from reedit.models.diffusion.trajectory import Trajectory
from reedit.nodes.guidance import ReEditBlendedGuider
from reedit.nodes.inversion_sampler import latent_space
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

HOST_OPTIONS = {"cond_or_uncond", "uuids", "sigmas", "sample_sigmas", "multigpu_thread_device"}
HOOKED, BARE = "as the guider calls it", "without the guider's hooks"  # what the profiler finds the calls by
MEBIBYTE = 2**20
REPEATS = 5
REAL_SIZE = "SD1.5's real size"


@dataclass
class Calls:
    """Of each call of the model: its rows, and its seconds as the guider made it and without what the guider hooked in."""

    rows: list[int] = field(default_factory=list)
    hooked: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)

    def both_ways(self, apply_model: Any, arguments: dict[str, Any]) -> Tensor:
        """The model function wrapper that makes each call twice."""

        def bare() -> None:
            options = arguments["c"]["transformer_options"]
            plain = {name: options[name] for name in HOST_OPTIONS if name in options}
            with record_function(BARE):
                started = time.thread_time()
                apply_model(
                    arguments["input"], arguments["timestep"], **{**arguments["c"], "transformer_options": plain}
                )
                self.bare.append(time.thread_time() - started)

        if len(self.rows) % 2:
            bare()
        with record_function(HOOKED):
            started = time.thread_time()
            output = apply_model(arguments["input"], arguments["timestep"], **arguments["c"])
            self.hooked.append(time.thread_time() - started)
        if not len(self.rows) % 2:
            bare()
        self.rows.append(len(arguments["input"]))
        return output


@dataclass(frozen=True)
class Subject:
    """A model with a picture to edit. The guiders are new each time: the wrapper goes into a copy of the model."""

    model: Any
    samples: Tensor
    trajectory: Trajectory
    source: Any
    target: Any
    negative: Any

    @property
    def sigmas(self) -> Tensor:
        return self.trajectory.sigmas.flip(0)

    def blended(self) -> Any:
        conditionings = (self.source, self.target, self.negative)
        values = defaults(ReEditBlendedGuider)
        return ReEditBlendedGuider.execute(self.model.clone(), *conditionings, trajectory=self.trajectory, **values)[0]

    def plain(self) -> Any:
        cfg = defaults(ReEditBlendedGuider)["cfg"]
        return CFGGuider.execute(self.model.clone(), self.target, self.negative, cfg)[0]


def demo_subject(batch: int, seed: int) -> Subject:
    """The demo model with the first edits of the benchmark."""
    first = lot(0, batch, seed)
    return Subject(models()[0], first.samples, first.trajectory, first.source, first.target, first.negative)


def real_subject(steps: int = 2) -> Subject:
    """SD1.5's real size at 512×512, with random weights; the trajectory is that of a fixed noise."""
    model = sd15_model()
    generator = torch.Generator().manual_seed(0)
    samples, noise = (torch.randn(1, 4, 64, 64, generator=generator) for _ in range(2))
    embedding = torch.randn(1, 77, 768, generator=generator)
    words = PromptTokens(torch.eye(77)[5], ("word",), torch.arange(77))
    marked = [[embedding, {WORDS: words}]]
    sampling = model.get_model_object("model_sampling")
    sigmas = torch.linspace(float(sampling.sigma_min), 8.0, steps + 1)
    clean = model.model.process_latent_in(samples)
    states = torch.stack([clean + (sigma - sigmas[0]) * noise for sigma in sigmas])
    trajectory = Trajectory(sigmas, states, ((),) * steps, latent_space(model))
    return Subject(model, samples, trajectory, marked, marked, [[torch.zeros_like(embedding), {}]])


@dataclass(frozen=True)
class Run:
    """A run of the host's sampler: its calls, the thread's seconds outside of them, and memory_of_calls where followed."""

    calls: Calls
    outside: float
    memory: dict[str, list[tuple[int, int]]]


def timed_run(guider: Any, subject: Subject, follow_memory: bool) -> Run:
    calls = Calls()
    guider.model_patcher.set_model_unet_function_wrapper(calls.both_ways)
    noise, euler = RandomNoise.execute(0)[0], KSamplerSelect.execute("euler")[0]
    gc.collect()
    with (
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) if follow_memory else nullcontext() as profiler
    ):
        started = time.thread_time()
        SamplerCustomAdvanced.execute(noise, guider, euler, subject.sigmas, {"samples": subject.samples})
        outside = time.thread_time() - started - sum(calls.hooked) - sum(calls.bare)
    return Run(calls, outside, {} if profiler is None else memory_of_calls(profiler))


def pair_of_runs(subject: Subject, follow_memory: bool = False) -> tuple[Run, Run]:
    """Ours and CFGGuider's."""
    return timed_run(subject.blended(), subject, follow_memory), timed_run(subject.plain(), subject, follow_memory)


def time_figures(pairs: list[tuple[Run, Run]]) -> dict[str, Any]:
    """Seconds of a run, the median of some, and what ours takes of CFGGuider's time at the same rows in the same calls."""
    rows = [
        {
            "inside, hooked": sum(ours.calls.hooked),
            "inside, bare": sum(ours.calls.bare),
            "outside": ours.outside,
            "CFGGuider: outside": plain.outside,
            "CFGGuider: inside, hooked over bare": sum(plain.calls.hooked)
            / sum(plain.calls.bare),  # 1, but for the noise
            "ours over CFGGuider": (sum(ours.calls.hooked) + ours.outside) / (sum(ours.calls.bare) + plain.outside),
        }
        for ours, plain in pairs
    ]
    return {
        "rows of the calls": pairs[0][0].calls.rows,
        "CFGGuider: rows of the calls": pairs[0][1].calls.rows,
        **{name: float(np.median([row[name] for row in rows])) for name in rows[0]},
    }


def memory_figures(ours: Run, plain: Run) -> dict[str, float]:
    """MiB that torch hands out in a run, at most, beyond what was there before it."""
    hooked = max(peak for _, peak in ours.memory[HOOKED])
    # CFGGuider at as many rows: what our largest call needs without our hooks, on top of what CFGGuider's run holds.
    bare = max(peak - before for before, peak in ours.memory[BARE]) + max(before for before, _ in plain.memory[BARE])
    two_rows = max(peak for _, peak in plain.memory[BARE])
    return {
        "ours, peak": hooked / MEBIBYTE,
        "ours, held between calls": max(before for before, _ in ours.memory[HOOKED]) / MEBIBYTE,
        "CFGGuider at as many rows, peak": bare / MEBIBYTE,
        "CFGGuider with its own two rows, peak": two_rows / MEBIBYTE,
        "ours over CFGGuider": hooked / bare,
        "ours over CFGGuider with its own two rows": hooked / two_rows,
    }


def memory_of_calls(profiler: profile) -> dict[str, list[tuple[int, int]]]:
    """For calls of either kind: the bytes in use before each, and the most within it, both since the profile began."""
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    moments = np.array([moment for moment, _ in changes])
    in_use = np.cumsum([0] + [size for _, size in changes])
    found: dict[str, list[tuple[int, int]]] = {HOOKED: [], BARE: []}
    for event in events:
        if event.name() in found:
            ends = (event.start_ns(), event.start_ns() + event.duration_ns())
            first, last = (int(place) for place in np.searchsorted(moments, ends))
            found[event.name()].append((int(in_use[first]), int(in_use[first : last + 1].max())))
    return found


def measure(seed: int) -> dict[str, Any]:
    """Time and memory: of the demo model, for one picture and for a batch, and of SD1.5's real size."""
    torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    with torch.inference_mode():
        for name, batch in (("demo model, one picture", 1), ("demo model, ten pictures", 10)):
            subject = demo_subject(batch, seed)
            times = time_figures([pair_of_runs(subject) for _ in range(REPEATS)])
            figures[name] = {"time, s": times, "memory, MiB": memory_figures(*pair_of_runs(subject, True))}
        pair = pair_of_runs(real_subject(), True)
        figures[REAL_SIZE] = {"time, s": time_figures([pair]), "memory, MiB": memory_figures(*pair)}
    return figures
