"""`dev.py bench inversion`: fifty drawn scenes inverted and sampled back, by the host's nodes, by known solvers and by ours.

Goals from issue 4. Writes build/bench/inversion.json and inversion.png. Every finished case is kept in build/bench/inversion/
until the end, so that a run that was stopped goes on (`--fresh` begins again); it takes about an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from hashlib import sha256
from typing import Any

import numpy as np
from _inversion_cases import FLIP, Case, run
from _inversion_plot import draw
from _inversion_time import overhead
from _report import FOLDER, goal, write_report

SCHEDULES = ("karras", "normal", "simple", "sgm_uniform", "beta")
STEPS = (10, 20, 50)
CALLS = 100  # of the model for a scene, with the sampling back: at 50 steps one call each, and nothing to correct with
UNSEEN = 1e-3  # relative error of a latent from which on an inversion must have said that it did not converge
KEPT = FOLDER / "inversion"

Results = dict[Case, dict[str, Any]]


def published(method: str, steps: int, cfg: float, scheduler: str = "karras") -> Case:
    """A solver as its paper has it: equal calls for every step, each begun at the latent of the step before."""
    return Case(method, scheduler, steps, cfg, CALLS, share=True, extrapolate=False)


def ours(steps: int, cfg: float, scheduler: str = "karras") -> Case:
    return Case("anderson", scheduler, steps, cfg, CALLS, tolerance=1e-5, window=5)


def flipped(cfg: float, scheduler: str = "karras") -> Case:
    return Case(FLIP, scheduler, CALLS // 2, cfg)


def matrix(cfg: float) -> dict[str, list[Case]]:
    """By row: steps 10, 20 and 50 at equal calls. The host's way takes as many steps as it has calls for.

    At 50 steps there is one call for each: nothing is left to damp or to average, so two rows end at 20.
    """
    few = [steps for steps in STEPS if 3 * steps <= CALLS]
    return {
        FLIP: [flipped(cfg) for _ in STEPS],
        "plain": [published("plain", steps, cfg) for steps in STEPS],
        "damped": [published("damped", steps, cfg) for steps in few],
        "ours, empirical": [replace(ours(steps, cfg), method="empirical") for steps in few],
        "ours, anderson": [ours(steps, cfg) for steps in STEPS],
    }


def tolerance_cases(tolerance: float) -> dict[str, Case]:
    return {name: Case("anderson", name, 20, 1.0, tolerance=tolerance) for name in SCHEDULES}


EQUAL = {name: (flipped(1.0, name), published("plain", 10, 1.0, name), ours(10, 1.0, name)) for name in SCHEDULES}
GUESSES = {
    f"{steps} steps": (
        Case("anderson", steps=steps, tolerance=1e-5, extrapolate=False),
        Case("anderson", steps=steps, tolerance=1e-5),
    )
    for steps in (10, 20)
}
SHARES = (replace(ours(10, 1.0, "normal"), share=True, tolerance=0.0), ours(10, 1.0, "normal"))
UNDIVIDED = Case("anderson", "normal", tolerance=1e-5, largest_ratio=1e9)


def all_cases() -> list[Case]:
    """The goals' cases first: if a run is stopped, they are there."""
    cases = [*tolerance_cases(1e-5).values(), *tolerance_cases(1e-3).values()]
    cases += [case for row in EQUAL.values() for case in row]
    cases += [case for row in GUESSES.values() for case in row] + list(SHARES)
    cases += [UNDIVIDED, *matrix(3.0)["ours, anderson"], *matrix(3.0)[FLIP], *matrix(3.0)["plain"]]
    cases += [case for cfg in (1.0, 3.0) for row in matrix(cfg).values() for case in row]
    return list(dict.fromkeys(cases))


def run_all(cases: list[Case], seed: int, scenes: int) -> Results:
    """Every case, a process for each core; those that are kept already are read."""
    KEPT.mkdir(parents=True, exist_ok=True)
    results: Results = {}
    files = {}
    for case in cases:
        key = json.dumps([asdict(case), seed, scenes], sort_keys=True)
        files[case] = KEPT / f"{sha256(key.encode()).hexdigest()[:16]}.json"
        if files[case].exists():
            results[case] = json.loads(files[case].read_text())
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        futures = {pool.submit(run, case, seed, scenes): case for case in cases if case not in results}
        for number, future in enumerate(as_completed(futures), len(results) + 1):
            case = futures[future]
            results[case] = future.result()
            unfinished = files[case].with_suffix(".part")
            unfinished.write_text(json.dumps(results[case]))
            unfinished.replace(files[case])
            print(f"[{number}/{len(cases)}] {named(case)}: {decibels(results[case]):.1f} dB", flush=True)
    return results


def named(case: Case) -> str:
    extent = f"{case.calls} calls" if case.calls else f"tolerance {case.tolerance:g}"
    guess = "" if case.extrapolate else ", no extrapolation"
    return f"{case.method}, {case.scheduler}, {case.steps} steps, cfg {case.cfg:g}, {extent}{guess}"


def size(result: dict[str, Any]) -> float:
    """The relative latent error's root mean square over the scenes."""
    return float(np.sqrt(np.mean(np.square(result["relative error"]))))


def decibels(result: dict[str, Any]) -> float:
    return 20 * float(np.log10(size(result)))


def summary(case: Case, result: dict[str, Any]) -> dict[str, Any]:
    figures = {
        "case": named(case),
        "steps taken": result["steps"],
        "relative latent error": size(result),
        "the worst scene's": max(result["relative error"]),
        "PSNR below the VAE's own, dB": float(np.mean(result["PSNR below the VAE's own, dB"])),
        "PSNR below the VAE's own, the worst scene's, dB": max(result["PSNR below the VAE's own, dB"]),
    }
    if result["calls"]:
        figures["model calls a step"] = calls_per_step(result)
        figures["scenes with an open step"] = int(np.count_nonzero(result["open steps"]))
        ratios = np.array(result["predicted error"]) / np.array(result["relative error"])
        figures["predicted error over true error, 5th to 95th percentile"] = np.percentile(ratios, [5, 95]).tolist()
    return figures


def calls_per_step(result: dict[str, Any]) -> float:
    return float(np.mean(result["calls"])) / result["steps"]


def unsaid(results: Iterable[dict[str, Any]]) -> int:
    """Scenes that were not brought back, and whose inversion claims that it converged."""
    return sum(
        error > UNSEEN and not steps
        for result in results
        for error, steps in zip(result["relative error"], result["open steps"], strict=True)
    )


def goals_of(results: Results, timing: dict[str, float]) -> list[dict[str, Any]]:
    exact = [results[case] for case in tolerance_cases(1e-5).values()]
    quick = [results[case] for case in tolerance_cases(1e-3).values()]
    equal = {name: [decibels(results[case]) for case in row] for name, row in EQUAL.items()}
    guided = [results[case] for case in matrix(3.0)["ours, anderson"]]
    everywhere = f"20 steps, guidance 1, tolerance 1e-5, the worst of {', '.join(SCHEDULES)} and all scenes"
    return [
        goal(f"relative latent error: {everywhere}", max(max(r["relative error"]) for r in exact), "at most", 1e-4, ""),
        goal(
            f"decoded picture below the VAE's ceiling: {everywhere}",
            max(max(r["PSNR below the VAE's own, dB"]) for r in exact),
            "at most",
            0.1,
            "dB",
        ),
        *(
            goal(f"100 calls, {name}: below FlipSigmas and euler", row[0] - row[2], "at least", 60, "dB")
            for name, row in equal.items()
        ),
        *(
            goal(f"100 calls, {name}: below plain iteration", row[1] - row[2], "at least", 15, "dB")
            for name, row in equal.items()
        ),
        goal(
            "tolerance 1e-3, 20 steps: model calls a step, the worst schedule",
            max(calls_per_step(r) for r in quick),
            "at most",
            3,
            "",
        ),
        goal("time outside model calls of SD1.5's size", timing["outside over inside"], "at most", 0.02, "×"),
        goal("guidance 3: scenes not brought back that claim to have converged", unsaid(guided), "at most", 0, ""),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--scenes", type=int, default=50)
    parser.add_argument("--fresh", action="store_true", help="forget the cases of an earlier, stopped run")
    options = parser.parse_args()
    if options.fresh:
        shutil.rmtree(KEPT, ignore_errors=True)
    results = run_all(all_cases(), options.seed, options.scenes)
    timing = overhead()
    tables = {f"guidance {cfg:g}": matrix(cfg) for cfg in (1.0, 3.0)}
    figures = {
        "equal calls, by steps": {
            title: {name: [summary(case, results[case]) for case in row] for name, row in rows.items()}
            for title, rows in tables.items()
        },
        "100 calls, by schedule": {name: [summary(case, results[case]) for case in row] for name, row in EQUAL.items()},
        **{
            f"tolerance {tolerance:g}, by schedule": {
                name: summary(case, results[case]) for name, case in tolerance_cases(tolerance).items()
            }
            for tolerance in (1e-5, 1e-3)
        },
        "first guess at the last latent, and extrapolated": {
            name: [summary(case, results[case]) for case in row] for name, row in GUESSES.items()
        },
        "100 calls in equal parts, and shared out": [summary(case, results[case]) for case in SHARES],
        "large steps left whole": summary(UNDIVIDED, results[UNDIVIDED]),
        "time": timing,
    }
    write_report("inversion", options.seed, figures, goals_of(results, timing))
    draw(
        {name: [decibels(results[case]) for case in row] for name, row in EQUAL.items()},
        {
            title: {name: [decibels(results[case]) for case in row] for name, row in rows.items()}
            for title, rows in tables.items()
        },
        [f"{steps} steps" for steps in STEPS],
    )
    shutil.rmtree(KEPT)


if __name__ == "__main__":
    main()
