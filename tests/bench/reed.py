"""`dev.py bench reed`: what 25 encode-decode passes leave of a picture, for each arm of REED-VAE's ablation.

Goals from issue 7. Writes build/bench/reed.json and reed_*.png. Every finished part is kept in build/bench/reed/ until the
end, so that a run that was stopped goes on (`--fresh` begins again); it takes under half an hour on two idle cores.
`--only WORDS` makes again the chains whose names hold these words, and prints their lines alone.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import _host
import _reed_corrections
import _reed_features
import _reed_host
import _reed_size
import _reed_tiles
import torch
from _emilie_world import load, save
from _reed_arms import ARMS, BASE, CORRECTED, FILES, JUDGED, about, decoder_file, training_cost
from _reed_chain import Case, Result, run, shown_passes
from _reed_figures import arm_goals, case_figures, cost_goals, gain, originals_figures, print_costs, print_table
from _reed_pictures import ABOUT, LARGE, SCENES, SMALL, pictures_of
from _reed_sheet import draw_curves, draw_sheet
from _report import FOLDER, write_report

KEPT = FOLDER / "reed"
BATCH = 10
ENLARGED = {SCENES: 2, SMALL: 2, LARGE: 1}


@dataclass(frozen=True)
class Size:
    """How much is measured: scenes in the 8-bit chains and in those without rounding, photographs at most, passes."""

    scenes: int
    unrounded: int
    photographs: int
    passes: int
    seed: int
    weights: Path

    def count(self, case: Case) -> int:
        if case.kind == SCENES:
            return self.scenes if case.eight_bit else self.unrounded
        return len(pictures_of(case.kind, self.photographs, self.seed))


def all_cases() -> list[Case]:
    """The longest first."""
    kinds = [(SCENES, True), (LARGE, True), (SCENES, False), (SMALL, True)]
    cases = [Case(arm, kind, eight_bit) for kind, eight_bit in kinds for arm in ARMS]
    return [case for case in cases if case.arm not in CORRECTED or (case.kind, case.eight_bit) == kinds[0]]


@dataclass(frozen=True)
class Task:
    """A case on a batch of its pictures, from `first` on."""

    case: Case
    first: int
    count: int
    size: Size

    @property
    def file(self) -> Path:
        decoder = sha256(decoder_file(self.case.arm, self.size.weights).read_bytes()).hexdigest()
        key = [asdict(self.case), self.first, self.count, self.size.passes, self.size.seed, decoder]
        return KEPT / f"{sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]}.safetensors"

    @property
    def arguments(self) -> tuple[Case, int, int, int, int, Path]:
        return self.case, self.first, self.count, self.size.passes, self.size.seed, self.size.weights


def run_all(cases: list[Case], size: Size, again: bool = False) -> dict[Case, Result]:
    """Every case, batch by batch, a process for each core; what is kept already is read, unless all is to be made again."""
    tasks = {
        case: [
            Task(case, first, min(BATCH, size.count(case) - first), size) for first in range(0, size.count(case), BATCH)
        ]
        for case in cases
    }
    wanted = [task for parts in tasks.values() for task in parts]
    found = {task: load(task.file) for task in wanted if task.file.exists() and not again}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        futures = {pool.submit(run, *task.arguments): task for task in wanted if task not in found}
        for number, future in enumerate(as_completed(futures), len(found) + 1):
            task = futures[future]
            found[task] = future.result()
            save(found[task], task.file)
            print(f"[{number}/{len(wanted)}] {task.case}, {task.count} from {task.first}", flush=True)
    return {
        case: {name: torch.cat([found[part][name] for part in parts]) for name in found[parts[0]]}
        for case, parts in tasks.items()
    }


def title_of(case: Case, count: int) -> str:
    return f"{count} {case.kind}, {'8-bit' if case.eight_bit else 'no rounding'}"


def by_kind(results: dict[Case, Result]) -> dict[str, dict[Case, Result]]:
    """The cases that differ in nothing but their arm, under what they have in common."""
    kinds: dict[str, dict[Case, Result]] = {}
    for case, result in results.items():
        kinds.setdefault(title_of(case, len(result["psnr"])), {})[case] = result
    return kinds


def tables_of(results: dict[Case, Result], seed: int) -> dict[str, Any]:
    """The figures by the kind of pictures, the arm and the number of passes, which are printed too."""
    tables: dict[str, Any] = {}
    for title, cases in by_kind(results).items():
        tables[title] = {case.arm: case_figures(case, result, seed) for case, result in cases.items()}
        print_table(title, tables[title])
    return tables


def again(words: str, size: Size) -> None:
    """Make some chains again, and print them."""
    cases = [case for case in all_cases() if words in str(case)]
    if not cases:
        raise SystemExit(f"No chain is called {words!r}. There are:\n" + "\n".join(str(case) for case in all_cases()))
    tables_of(run_all(cases, size, again=True), size.seed)


def gains_of(recipe: str, results: dict[Case, Result], seed: int) -> dict[str, Any]:
    """Of a recipe over every other arm, on the scenes."""
    ours = results[Case(recipe, SCENES)]
    return {
        f"over {arm}": {
            str(number): gain(ours, results[Case(arm, SCENES)], number, seed)
            for number in shown_passes(ours["psnr"].shape[1])
        }
        for arm in ARMS
        if arm != recipe
    }


def draw(results: dict[Case, Result], seed: int) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for title, cases in by_kind(results).items():
        case = next(iter(cases))
        name = f"reed_{case.kind.split(' px')[0].replace(', ', '_')}{'' if case.eight_bit else '_unrounded'}"
        draw_curves(name, f"Encoding and decoding again and again: {title}", cases, seed)
        if case.eight_bit:
            draw_sheet(f"{name}_sheet", cases, seed, ENLARGED[case.kind])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--count", type=int, default=200, help="scenes; fewer for a quick try")
    parser.add_argument("--passes", type=int, default=25)
    parser.add_argument(
        "--weights", type=Path, default=_host.WEIGHTS, help="the folder with the arms' decoders and logs"
    )
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier, stopped run has kept")
    parser.add_argument("--only", metavar="WORDS", help="make only the chains whose names hold these words")
    options = parser.parse_args()
    count = options.count
    size = Size(count, min(count, 40), count, options.passes, options.seed, options.weights.resolve())
    missing = [file for file, _ in FILES.values() if not (size.weights / file).exists()]
    if missing:
        raise SystemExit(f"These decoders are not there: {', '.join(missing)}. Train them: tests/tiny_sd/README.md")
    if options.fresh:
        shutil.rmtree(KEPT, ignore_errors=True)
    if options.only is not None:
        return again(options.only, size)
    started = time.perf_counter()
    results = run_all(all_cases(), size)
    tables = tables_of(results, size.seed)
    draw(results, size.seed)
    costs = {arm: training_cost(arm, size.weights) for arm in FILES}
    print_costs(costs)
    host, host_goals = _reed_host.measure(size.weights, size.seed)
    real_size, size_goals = _reed_size.measure(size.seed)
    tiles = _reed_tiles.measure(size.seed)
    corrections = _reed_corrections.measure(size.weights, size.seed, size.passes)
    figures = {
        "arms": {
            arm: {"file": FILES[arm][0], "metadata": about(arm, size.weights), "cost": costs[arm]} for arm in FILES
        },
        "pictures": {
            kind: {"about": ABOUT[kind], **originals_figures(kind, size.count(Case(BASE, kind)), size.seed)}
            for kind in ABOUT
        },
        "chain": "encode (the mean), decode, clamp to 0..1, round to 8 bits; each figure is the mean of the pictures'",
        "feature net of the Fréchet distance": _reed_features.ABOUT,
        "passes": tables,
        **{f"{recipe}, on {SCENES}": gains_of(recipe, results, size.seed) for recipe in JUDGED},
        "in the host": host,
        "tiles": tiles,
        f"PSNR by the corrections and the passes, dB, of {BASE}": corrections,
        "real size": real_size,
        "the benchmark's own time, minutes": (time.perf_counter() - started) / 60,
    }
    on_scenes = tables[title_of(Case(BASE, SCENES), size.scenes)]
    goals = [each for recipe in JUDGED for each in arm_goals(recipe, on_scenes)] + cost_goals(costs) + host_goals
    goals += _reed_tiles.tile_goals(tiles) + size_goals
    write_report("reed", size.seed, figures, goals)
    shutil.rmtree(KEPT)


if __name__ == "__main__":
    main()
