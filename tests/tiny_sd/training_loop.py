"""The loop that trains every model of the demo family: one-cycle AdamW, moving average, log, save and resume."""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import nn

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
RUNS_FOLDER = Path(__file__).parents[2] / "build" / "tiny_sd"  # git-ignored: what a run needs to resume

logger = logging.getLogger(__name__)


def chosen_names(description: str | None, known: Iterable[str]) -> list[str]:
    """The names on the command line, or all that are known. It ends with a message where one of them is not."""
    known = list(known)
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; all without any")
    chosen = parser.parse_args().names or known
    if unknown := sorted(set(chosen) - set(known)):
        parser.error(f"{', '.join(unknown)}: there is {', '.join(known)}")
    return chosen


def moving_average_of(model: nn.Module, decay: float) -> torch.optim.swa_utils.AveragedModel:
    """A moving average that forgets its start: the decay grows to `decay` over the first steps."""

    def average(old: torch.Tensor, new: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        weight = min(decay, (1 + float(count)) / (10 + float(count)))
        return old.lerp(new, 1 - weight)

    return torch.optim.swa_utils.AveragedModel(model, avg_fn=average, use_buffers=False)


def train(
    name: str,
    model: nn.Module,
    loss_of_step: Callable[[int], dict[str, torch.Tensor]],
    steps: int,
    learning_rate: float,
    average_decay: float = 0.998,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    evaluate_every: int = 500,
) -> nn.Module:
    """Minimise `loss_of_step(step)["loss"]` and return the averaged model.

    `loss_of_step` seeds its own data from the step number, so that a resumed run sees the data it would have seen.
    Every 100 steps a line goes to weights/<name>.jsonl; every 250 steps the state goes to build/tiny_sd/<name>.pt.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=1e-3, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps, pct_start=0.08)
    average = moving_average_of(model, average_decay)
    state_file, log_file = RUNS_FOLDER / f"{name}.pt", WEIGHTS_FOLDER / f"{name}.jsonl"
    state_file.parent.mkdir(parents=True, exist_ok=True)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "average": average}
    first = 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        first = state.pop("step")
        for key, part in parts.items():
            part.load_state_dict(state[key])
        # What was logged after the last save is done again.
        rows = log_file.read_text(encoding="utf-8").splitlines(keepends=True)
        log_file.write_text("".join(row for row in rows if json.loads(row)["step"] <= first), encoding="utf-8")
        logger.info("%s resumes at step %d", name, first)
    else:
        log_file.write_text("", encoding="utf-8")
    started, recent = time.monotonic(), {}
    for step in range(first, steps):
        losses = loss_of_step(step)
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(model)
        for key, value in losses.items():
            recent.setdefault(key, []).append(float(value.detach()))
        done = step + 1
        if done % 100 == 0 or done == steps:
            row = {"step": done} | {key: round(sum(values) / len(values), 6) for key, values in recent.items()}
            row["seconds_per_step"] = round((time.monotonic() - started) / (done - first), 3)
            if evaluate is not None and (done % evaluate_every == 0 or done == steps):
                row |= evaluate(average.module)
            recent = {}
            with log_file.open("a", encoding="utf-8") as log:
                log.write(json.dumps(row) + "\n")
            logger.info("%s %s", name, row)
        if done % 250 == 0 or done == steps:
            beside = state_file.with_suffix(".part")
            torch.save({"step": done} | {key: part.state_dict() for key, part in parts.items()}, beside)
            os.replace(beside, state_file)
    return average.module.eval()
