"""For `dev.py bench reed`: SD1.5's real layout, 83.7 M random numbers, through loading, the round-trip test and training.

What training takes at 512 px is derived: the real step runs on tensors without numbers, and every one that is alive counts.
On small pictures the same is counted with numbers, and the process's own memory stands beside it.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import _host  # noqa: F401
import folder_paths
import torch
from _reed_arms import NoNumbers, without_numbers
from _reed_pictures import photographs
from _report import goal
from random_families import SD15_VAE, random_vae
from reedit.models.autoencoders.kl_file import read_autoencoder
from reedit.models.autoencoders.kl_layout import KLConfig
from reedit.models.autoencoders.kl_network import KLNetwork
from reedit.models.training.reed import REEDSettings, REEDTask
from reedit.models.training.settings import PRECISIONS
from reedit.nodes.autoencoders import ReEditLoadREEDVAE
from reedit.nodes.round_trip import ReEditRoundTripTest
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

GIB = 2**30
CARD = 24 * GIB
ALLOWANCE = 1.5 * GIB  # of a card: CUDA itself, cuDNN's working memory, gaps between tensors
SIDE, PASSES, LONGEST = 512, 4, 20
ROUND_TRIP_SIDE = 128
NAME = "sd15_layout.safetensors"


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive while it is on, those that autograd keeps for the way back included."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.now = self.peak = 0

    def note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key not in self.alive:
            self.alive[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self.alive.pop(key)

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        result = function(*arguments, **(options or {}))
        tree_map_only(Tensor, self.note, result)
        return result


@dataclass(frozen=True)
class Step:
    """A training step: the side of its pictures, how many, the chain's length, and the settings that memory goes by."""

    side: int
    passes: int
    batch: int = 1
    gradient_passes: int = 2
    checkpointing: bool = False
    precision: str = "float32"

    def __str__(self) -> str:
        kept = "with checkpointing" if self.checkpointing else "without checkpointing"
        pictures = f"{self.batch} × {self.side} px"
        return f"{pictures}, k = {self.passes}, {self.gradient_passes} passes with gradient, {kept}, {self.precision}"


REAL_STEPS = (Step(64, PASSES), Step(64, PASSES, checkpointing=True), Step(128, PASSES, checkpointing=True))


def autocast_as_on_a_card(network: nn.Module, precision: str) -> Callable[[], AbstractContextManager[Any]]:
    """What to compute losses in. A graphics card's autocast, unlike a CPU's, has group norms in float32: so has `network`."""
    if precision == "float32":
        return nullcontext

    def in_float32(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(value.float() for value in inputs)

    for norm in network.modules():
        if isinstance(norm, nn.GroupNorm):
            norm.register_forward_pre_hook(in_float32)  # it stays: with checkpointing the way back runs the norms again
    return partial(torch.autocast, "cpu", getattr(torch, precision))


def train(network: KLNetwork, step: Step, steps: int = 2) -> dict[str, Any]:
    """Training steps as the training loop takes them. Of the last one: the bytes that are alive before it (weights, their
    average, AdamW's moments), what is kept for the way back, the peak, and the seconds.
    """
    torch.set_num_threads(1)
    settings = REEDSettings(
        crop=step.side, gradient_passes=step.gradient_passes, checkpointing=step.checkpointing, precision=step.precision
    )
    task = REEDTask(network, settings)
    trained = list(task.parameters.values())
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate)
    averages = [parameter.detach().clone() for parameter in trained]
    pictures = torch.rand(step.batch, 3, step.side, step.side)
    live, autocast = LiveTensors(), autocast_as_on_a_card(task.network, step.precision)
    for tensor in (*task.network.state_dict(keep_vars=True).values(), *averages, pictures):
        live.note(tensor)
    for _ in range(steps):
        started, before = time.perf_counter(), live.now
        with live:
            with autocast():
                loss = task.module(pictures, step.passes, True)["loss"]
            kept = live.now - before
            loss.backward()
            optimizer.step()
            torch._foreach_lerp_(averages, [parameter.detach() for parameter in trained], 0.001)
            optimizer.zero_grad()
            del loss
    return {"held": before, "kept for the way back": kept, "peak": live.peak, "s": time.perf_counter() - started}


def derive(step: Step) -> dict[str, Any]:
    """The same, of tensors without numbers."""
    with without_numbers():
        found = train(NoNumbers(KLConfig(**SD15_VAE, latent_channels=4, attention_levels=())), step)
    return {name: found[name] for name in ("held", "kept for the way back", "peak")}


# --- with numbers, each in a process of its own -----------------------------------------------------------------------


def process_memory() -> int:
    """The most that this process has taken so far, in bytes; 0 where the system has no /proc that says so.

    Not getrusage's figure, in which a new process starts from its parent's.
    """
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def really_train(file: Path, step: Step) -> dict[str, Any]:
    before = process_memory()
    weights = read_autoencoder(file).in_ldm_layout()
    with torch.enable_grad():
        found = train(KLNetwork(weights), step)
    return {**found, "process at most": process_memory(), "process before": before}


def really_load(file: Path) -> dict[str, Any]:
    """Loading a decoder over its base, and two passes of the round-trip test through both, as a workflow does it."""
    torch.set_num_threads(1)
    folder_paths.add_model_folder_path("vae", str(file.parent))
    figures: dict[str, Any] = {"process before": process_memory()}
    with torch.inference_mode():
        started = time.perf_counter()
        base = ReEditLoadREEDVAE.execute(file.name)[0]
        figures |= {"loading the base, s": time.perf_counter() - started, "process with the base": process_memory()}
        started = time.perf_counter()
        vae = ReEditLoadREEDVAE.execute(f"decoder_{file.name}", base)[0]
        figures |= {"loading the decoder, s": time.perf_counter() - started, "process with both": process_memory()}
        started = time.perf_counter()
        node = ReEditRoundTripTest.execute(photographs(ROUND_TRIP_SIDE)[:1], vae, base, 2)
        seconds = time.perf_counter() - started
    figures |= {
        f"round-trip test, 2 passes of {ROUND_TRIP_SIDE} px with both, s": seconds,
        "process at most": process_memory(),
    }
    return {**figures, "size after it": list(node[4].shape), "finite": bool(node[4].isfinite().all())}


def in_own_process(work: Any, *arguments: Any) -> dict[str, Any]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def write_files(folder: Path, seed: int) -> dict[str, torch.Size]:
    """A whole autoencoder and a decoder alone, in float16 as such files are; returns the whole one's names and shapes."""
    weights = random_vae(4, seed, SD15_VAE).first_stage_model.state_dict()
    stored = {name: tensor.half().contiguous() for name, tensor in weights.items()}
    save_file(stored, folder / NAME)
    decoder = {name: tensor for name, tensor in stored.items() if name.startswith(("decoder.", "post_quant_conv."))}
    save_file(decoder, folder / f"decoder_{NAME}")
    return {name: tensor.shape for name, tensor in stored.items()}


# --- the figures ------------------------------------------------------------------------------------------------------


def derived_steps() -> list[Step]:
    """What does not depend on k is derived with few passes, which is quicker; the longest chain shows that it does not."""
    main = [
        Step(SIDE, PASSES, batch, checkpointing=checkpointing, precision=precision)
        for precision in PRECISIONS
        for checkpointing in (False, True)
        for batch in (1, 2)
    ]
    main += [Step(SIDE, LONGEST, checkpointing=True)]
    main += [Step(SIDE, PASSES, 1, passes, checkpointing) for checkpointing in (False, True) for passes in (1, 3)]
    return main + [Step(side, PASSES, checkpointing=on) for side in (32, 64, 128, 256) for on in (False, True)]


def measure(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The figures, sizes in GiB, and the goals that they meet or miss."""
    with tempfile.TemporaryDirectory(prefix="bench_reed_") as name:
        folder = Path(name)
        layout = write_files(folder, seed)
        loaded = in_own_process(really_load, folder / NAME)
        taken = {step: in_own_process(really_train, folder / NAME, step) for step in REAL_STEPS}
    steps = derived_steps()
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        derived = dict(zip(steps, pool.map(derive, steps), strict=True))
    figures = {
        "parameters": sum(shape.numel() for shape in layout.values()),
        "loading and the round-trip test": in_gib(loaded),
        "training steps": {str(step): in_gib(found) for step, found in taken.items()},
        "training steps, derived": {str(step): in_gib(found) for step, found in derived.items()},
        "derived": "All tensors that are alive at once. Not in it: CUDA itself, cuDNN's working memory "
        f"and gaps between tensors, for which {ALLOWANCE / GIB} GiB are set aside. bfloat16: group norms in float32.",
        f"pictures of {SIDE} px at once that fit {CARD / GIB:.0f} GiB": {
            f"{precision}, {'with' if on else 'without'} checkpointing": largest_batch(derived, on, precision)
            for precision in PRECISIONS
            for on in (False, True)
        },
    }
    return figures, size_goals(loaded, taken, derived)


def in_gib(found: dict[str, Any]) -> dict[str, Any]:
    """Whole numbers are bytes."""
    return {
        f"{name}, GiB" if type(value) is int else name: value / GIB if type(value) is int else value
        for name, value in found.items()
    }


def largest_batch(derived: dict[Step, dict[str, Any]], checkpointing: bool, precision: str) -> int:
    """How many pictures at once, by what the second one adds to the first."""
    one, two = (
        derived[Step(SIDE, PASSES, batch, checkpointing=checkpointing, precision=precision)]["peak"] for batch in (1, 2)
    )
    return max(0, 1 + int((CARD - ALLOWANCE - one) // (two - one)))


def size_goals(
    loaded: dict[str, Any], taken: dict[Step, dict[str, Any]], derived: dict[Step, dict[str, Any]]
) -> list[dict[str, Any]]:
    fits = Step(SIDE, LONGEST, checkpointing=True)
    off = [abs(derived[step]["peak"] / found["peak"] - 1) for step, found in taken.items()]
    return [
        goal(
            f"SD1.5's layout, training on {fits}: derived peak and {ALLOWANCE / GIB} GiB set aside",
            (derived[fits]["peak"] + ALLOWANCE) / GIB,
            "at most",
            CARD / GIB,
            "GiB",
        ),
        goal("its derived peak of small steps against the one that was counted", max(off), "at most", 0.05, "of it"),
        goal(
            "SD1.5's layout, loading and round trips: pictures with NaN",
            int(not loaded["finite"]),
            "at most",
            0,
            "pictures",
        ),
    ]


if __name__ == "__main__":
    import json

    print(json.dumps(measure(7), indent=1, ensure_ascii=False))
