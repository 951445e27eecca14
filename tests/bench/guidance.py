"""`dev.py bench guidance`: a hundred edits with known outcomes, by the host's nodes and by the blended guider.

All begin at the same inverted noise. Goals from issue 5. Writes build/bench/guidance.json and guidance.png. Every finished
way is kept in build/bench/guidance/ until the end, so that a run that was stopped goes on (`--fresh` begins again); it takes
about an hour on two cores. `--only WORDS` makes again the ways whose names hold these words, and prints their lines alone.
"""

from __future__ import annotations

import argparse
import ast
import json
import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import _guidance_time
import _host  # noqa: F401
import torch
from _guidance_cases import BOX, DIFFERENTIAL, NAMED, OUR_LEVELS, PLAIN, TRUTH, Case, joined, run
from _guidance_figures import Result, lead, line, print_table, product, summary
from _guidance_sheet import draw
from _guidance_world import BATCH, INVERSION, KEPT, TUNED_ON, lot, save
from _report import defaults, goal, write_report
from reedit.nodes.blended_guider import PAPER, RECONSTRUCTION, TRAJECTORY
from reedit.nodes.guidance import ReEditAttentionMask, ReEditBlendedGuider
from reedit.nodes.stochastic_sampler import ReEditStochasticSampler

CFGS = (3.0, 5.0, 7.0)
DEFAULTS = defaults(ReEditBlendedGuider)
ETA = defaults(ReEditStochasticSampler)["eta"]
OURS = Case(DEFAULTS["outside"], DEFAULTS["cfg"])
MODES = (TRAJECTORY, RECONSTRUCTION, PAPER)
BASELINES = {
    "plain CFG": [Case(PLAIN, cfg) for cfg in CFGS],
    "CFG with a box": [Case(BOX, cfg) for cfg in CFGS],
    "DifferentialDiffusion": [Case(DIFFERENTIAL, cfg, mask=mask) for mask in ("", OUR_LEVELS) for cfg in CFGS],
}
for ways in BASELINES.values():  # each with stochastic editing too
    ways.append(replace(ways[0], cfg=OURS.cfg, eta=ETA))
PARTS = [
    *(replace(OURS, mask=mask) for mask in (TRUTH, NAMED)),
    *(replace(OURS, options=(choice,)) for choice in (("inject", 0.0), ("look_ahead", 0), ("mask_from", "both"))),
]
STOCHASTIC = [replace(OURS, way=mode, eta=ETA) for mode in MODES]


def all_cases() -> list[Case]:
    """What the goals are about first: if a run is stopped, it is there."""
    cases = [OURS, *(case for ways in BASELINES.values() for case in ways), *PARTS]
    cases += [replace(OURS, way=mode, cfg=cfg) for mode in MODES for cfg in (OURS.cfg, *CFGS)] + STOCHASTIC
    return list(dict.fromkeys(cases))


@dataclass(frozen=True)
class Task:
    """A case on a batch of the edits, from `first` on."""

    case: Case
    first: int
    count: int
    seed: int

    @property
    def file(self) -> Path:
        nodes = {DIFFERENTIAL: [defaults(ReEditAttentionMask), DEFAULTS]} | dict.fromkeys(MODES, DEFAULTS)
        key = json.dumps([asdict(self), INVERSION, nodes.get(self.case.way)], sort_keys=True)
        return KEPT / f"{sha256(key.encode()).hexdigest()[:16]}.pt"


def prepare(first: int, count: int, seed: int) -> None:
    """Invert a batch, which is kept in a file."""
    torch.set_num_threads(1)
    with torch.inference_mode():
        lot(first, count, seed)


def run_all(cases: list[Case], edits: int, seed: int, again: bool = False) -> dict[Case, Result]:
    """Every case, batch by batch, a process for each core; what is kept already is read, unless all is to be made again."""
    batches = [(first, min(BATCH, edits - first)) for first in range(0, edits, BATCH)]
    tasks = [Task(case, *batch, seed) for batch in batches for case in cases]
    found = {task: torch.load(task.file) for task in tasks if task.file.exists() and not again}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        for inversion in [pool.submit(prepare, *batch, seed) for batch in batches]:
            inversion.result()
        futures = {pool.submit(run, **_shallow(task)): task for task in tasks if task not in found}
        for number, future in enumerate(as_completed(futures), len(found) + 1):
            task = futures[future]
            found[task] = future.result()
            save(found[task], task.file)
            print(
                f"[{number}/{len(tasks)}] {line(found[task])}  {task.case}, {task.count} from {task.first}", flush=True
            )
    by_case: dict[Case, list[Result]] = {case: [] for case in cases}
    for task in tasks:
        by_case[task.case].append(found[task])
    return {case: joined(parts) for case, parts in by_case.items()}


def _shallow(task: Task) -> dict[str, Any]:
    return {field.name: getattr(task, field.name) for field in fields(task)}


def best_of(cases: list[Case], results: dict[Case, Result]) -> Case:
    return max(cases, key=lambda case: product(results[case]))


def goals_of(results: dict[Case, Result], costs: dict[str, Any]) -> list[dict[str, Any]]:
    ours, figures = product(results[OURS]), {case: summary(result) for case, result in results.items()}
    change = "largest change where the mask is 0"
    single = costs["demo model, one picture"], costs[_guidance_time.REAL_SIZE]
    return [
        *(
            goal(
                f"edit success × PSNR outside, dB: {best}, against ours", product(results[best]), "less than", ours, ""
            )
            for best in (best_of(ways, results) for ways in BASELINES.values())
        ),
        goal("IoU of the mask with the true object, mean", figures[OURS]["IoU of the mask"], "at least", 0.5, ""),
        goal(
            "trajectory: largest change where the mask is 0",
            max(figures[case][change] for case in results if case.way == TRAJECTORY),
            "at most",
            0.0,
            "",
        ),
        *(
            goal(
                f"{what} of CFGGuider's at the same calls, {size}",
                cost[part]["ours over CFGGuider"],
                "at most",
                most,
                "×",
                "The hooks' small operations in each layer weigh on a model as small as this; see the batch of ten.",
            )
            for what, part, most in (("time", "time, s", 1.05), ("peak memory", "memory, MiB", 1.1))
            for size, cost in zip(("demo model", _guidance_time.REAL_SIZE), single, strict=True)
        ),
    ]


def shown(results: dict[Case, Result]) -> dict[str, Result]:
    """The sheet's columns: each baseline at its best, then the guider's modes at its default guidance, the default last."""
    best = {name: results[best_of(ways, results)] for name, ways in BASELINES.items()}
    modes = sorted(MODES, key=lambda mode: mode == OURS.way)
    return best | {f"ReEdit, {mode}": results[replace(OURS, way=mode)] for mode in modes}


def again(words: str, settings: list[str], edits: int, seed: int) -> None:
    """Make some ways again, our guider's with other widget values if asked for, and print them."""
    options = tuple((name, _value(value)) for name, _, value in (setting.partition("=") for setting in settings))
    cases = [case for case in all_cases() if words in str(case)]
    cases = [replace(case, options=case.options + options) if case.way in MODES else case for case in cases]
    if not cases:
        raise SystemExit(f"No way is called {words!r}. There are:\n" + "\n".join(str(case) for case in all_cases()))
    print_table(run_all(cases, edits, seed, again=True))


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--edits", type=int, default=100)
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier, stopped run has kept")
    parser.add_argument("--only", metavar="WORDS", help="make only the ways whose names hold these words")
    parser.add_argument("--set", nargs="*", default=[], metavar="WIDGET=VALUE", help="with --only: of our guider")
    options = parser.parse_args()
    if options.fresh:
        shutil.rmtree(KEPT, ignore_errors=True)
    if options.only is not None:
        return again(options.only, options.set, options.edits, options.seed)
    results = run_all(all_cases(), options.edits, options.seed)
    print_table(results)
    costs = _guidance_time.measure(options.seed)
    figures = {
        "ours": str(OURS),
        "ways": {str(case): summary(result) for case, result in results.items()},
        f"success × PSNR outside, dB, of the edits from {TUNED_ON} on": {
            str(case): product(result, slice(TUNED_ON, None))
            for case, result in results.items()
            if options.edits > TUNED_ON
        },
        "lead of ours on success × PSNR outside, dB": {
            str(case): lead(results[OURS], result, options.seed) for case, result in results.items() if case != OURS
        },
        "cost": costs,
    }
    draw(shown(results), options.seed)
    write_report("guidance", options.seed, figures, goals_of(results, costs))
    shutil.rmtree(KEPT)


if __name__ == "__main__":
    main()
