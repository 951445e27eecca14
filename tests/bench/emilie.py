"""`dev.py bench emilie`: instruction after instruction on the latent, against the host's nodes; masks, and five at once.

Goals from issue 6. Writes build/bench/emilie.json and emilie_*.png. Every finished way is kept in build/bench/emilie/ until
the end, so that a run that was stopped goes on (`--fresh` begins again); it takes half an hour on two cores.
`--only WORDS` makes again the ways whose names hold these words, and prints their lines alone.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import _emilie_chain
import _emilie_five
import _emilie_inpaint
import _emilie_masked
import _emilie_printed
import _emilie_time
import _host  # noqa: F401
import torch
from _emilie_chain import ALIGNMENTS, IMAGE, LATENT, Chain
from _emilie_figures import (
    PSNR,
    Result,
    chain_figures,
    chain_lead,
    five_figures,
    masked_figures,
    print_chains,
    print_five,
    print_masked,
    shown_edits,
)
from _emilie_five import THREE_WAY
from _emilie_masked import GRADIENT_MASK, HOST_DUAL, HOST_KSAMPLER, MASKS, NO_MASK, OURS, SOFT
from _emilie_sheet import FRONT, FRONT_EDITS, draw_chains, draw_five, draw_front, draw_masks
from _emilie_world import IMAGE_SCALE, KEPT, SAMPLER, SCHEDULER, TEXT_SCALE, load, reed_decoder, save
from _report import FOLDER, defaults, goal, write_report
from reedit.nodes.alignment import ReEditAlign
from reedit.nodes.instruct import ReEditInstructGuider
from reedit.nodes.instruct_guider import PREDICTION, TEXT_TERM

BATCH = 10
SETTINGS = {False: "no mask", True: "masked"}
FIVE_WAYS = tuple(_emilie_five.Case(way) for way in _emilie_five.WAYS)
AHEAD_AT = (5, 15, 25)
ALIGNED = tuple(Chain(LATENT, False, alignment) for alignment in ALIGNMENTS)

Case = Chain | _emilie_masked.Case | _emilie_five.Case
RUNS: dict[type, Callable[..., Result]] = {
    Chain: _emilie_chain.run,
    _emilie_masked.Case: _emilie_masked.run,
    _emilie_five.Case: _emilie_five.run,
}


def all_cases() -> list[Case]:
    """The longest first."""
    decoders = (False,) if reed_decoder() is None else (False, True)
    cases: list[Case] = [
        Chain(carried, masked, reed=reed) for reed in decoders for masked in SETTINGS for carried in (LATENT, IMAGE)
    ]
    cases += ALIGNED
    exact = (NO_MASK, HOST_KSAMPLER, HOST_DUAL, GRADIENT_MASK, *OURS.values())
    cases += [_emilie_masked.Case(way) for way in exact]
    cases += [_emilie_masked.Case(way, mask) for mask in MASKS for way in (OURS[TEXT_TERM], HOST_DUAL)]
    # Where a mask is black and white, "prediction" is "text term".
    cases += [_emilie_masked.Case(OURS[PREDICTION], mask) for mask in SOFT]
    return [*dict.fromkeys(cases), *FIVE_WAYS]


def as_run(case: Case) -> Case:
    """The case that gives the same latents: those of latent iteration do not know their decoder."""
    return replace(case, reed=False) if isinstance(case, Chain) and case.carried == LATENT else case


@dataclass(frozen=True)
class Size:
    """How much is measured: the scenes of each chain and of the five instructions, the edits of a chain, masked edits."""

    scenes: int
    length: int
    edits: int
    steps: int
    seed: int

    def count(self, case: Case) -> int:
        return self.edits if isinstance(case, _emilie_masked.Case) else self.scenes


@dataclass(frozen=True)
class Task:
    """A case on a batch of its scenes, from `first` on."""

    case: Case
    first: int
    count: int
    size: Size

    @property
    def options(self) -> dict[str, int]:
        options = {"first": self.first, "count": self.count, "seed": self.size.seed, "steps": self.size.steps}
        return options | ({"edits": self.size.length} if isinstance(self.case, Chain) else {})

    @property
    def file(self) -> Path:
        nodes = [defaults(ReEditInstructGuider), defaults(ReEditAlign)]
        settings = [SAMPLER, SCHEDULER, TEXT_SCALE, IMAGE_SCALE]
        key = [type(self.case).__module__, asdict(self.case), self.options, nodes, settings]
        return KEPT / f"{sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]}.safetensors"


def run_all(cases: list[Case], size: Size, again: bool = False) -> dict[Case, Result]:
    """Every case, batch by batch, a process for each core; what is kept already is read, unless all is to be made again."""
    tasks = {
        case: [
            Task(as_run(case), first, min(BATCH, size.count(case) - first), size)
            for first in range(0, size.count(case), BATCH)
        ]
        for case in cases
    }
    wanted = list(dict.fromkeys(task for parts in tasks.values() for task in parts))
    found = {task: load(task.file) for task in wanted if task.file.exists() and not again}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        futures = {
            pool.submit(RUNS[type(task.case)], task.case, **task.options): task for task in wanted if task not in found
        }
        for number, future in enumerate(as_completed(futures), len(found) + 1):
            task = futures[future]
            found[task] = future.result()
            save(found[task], task.file)
            print(f"[{number}/{len(wanted)}] {task.case}, {task.count} from {task.first}", flush=True)
    return {case: joined([found[task] for task in parts]) for case, parts in tasks.items()}


def joined(parts: list[Result]) -> Result:
    """What was measured of several batches, as of one."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def figures_of(results: dict[Case, Result], seed: int) -> dict[str, Any]:
    """By part, and in it by the way's name."""
    return {
        "chains": {
            str(case): chain_figures(case, found, seed) for case, found in results.items() if isinstance(case, Chain)
        },
        "masked edits": {
            str(case): masked_figures(found) for case, found in results.items() if isinstance(case, _emilie_masked.Case)
        },
        "five instructions": {
            str(case): five_figures(found) for case, found in results.items() if isinstance(case, _emilie_five.Case)
        },
    }


def print_tables(figures: dict[str, Any]) -> None:
    print_chains(figures["chains"])
    print_masked(figures["masked edits"])
    print_five(figures["five instructions"])


def leads(results: dict[Case, Result], seed: int) -> dict[str, Any]:
    """Of latent iteration over image iteration."""
    return {
        f"{ours} over {other}": chain_lead(ours, other, results, seed)
        for ours in results
        if isinstance(ours, Chain) and ours.carried == LATENT and not ours.reed
        for other in [Chain(IMAGE, ours.masked)]
    }


def chain_goals(figures: dict[str, Any], length: int) -> list[dict[str, Any]]:
    why = (
        "Without a mask each edit samples the whole picture anew. What the model itself loses by that, in both ways, is far "
        "more than what the VAE loses, and the image way's clamp and encode take some of it back; see the masked chains."
    )
    compared = [
        (
            f"{SETTINGS[masked]}{', REED decoder' if reed else ''}",
            Chain(IMAGE, masked, reed=reed),
            Chain(LATENT, masked, reed=reed),
        )
        for reed in ((False,) if reed_decoder() is None else (False, True))
        for masked in SETTINGS
    ]
    compared += [(f"{SETTINGS[False]}, {case.aligned}", Chain(IMAGE, False), case) for case in ALIGNED]
    return [
        goal(
            f"PSNR at edit {number}, {setting}: image iteration against latent",
            figures[str(image)][str(number)][PSNR],
            "less than",
            figures[str(latent)][str(number)][PSNR],
            "dB",
            why,
        )
        for setting, image, latent in compared
        for number in AHEAD_AT
        if number in shown_edits(length)
    ]


def cost_goals(costs: dict[str, Any], five: dict[str, Any]) -> list[dict[str, Any]]:
    goals = [
        goal(
            f"five instructions, {scale}: time of one pass over {way}",
            entry["one pass over it, time"],
            "at most",
            0.6,
            "×",
            "At image scale 1 five passes need no unconditional prediction, and so 10 rows a step where one pass needs 6.",
        )
        for scale, ways in five.items()
        for way, entry in ways.items()
        if way != _emilie_five.ONE
    ]
    goals += [
        goal(
            f"time per step over DualCFGGuider's at the same calls, {name}, {setting}",
            entry["ours over DualCFGGuider"],
            "at most",
            1.02,
            "×",
            "The guider's small operations weigh on a model as small as this.",
        )
        for name, settings in costs.items()
        for setting, entry in settings.items()
    ]
    return goals


def again(words: str, size: Size) -> None:
    """Make some ways again, and print them."""
    cases = [case for case in all_cases() if words in str(case)]
    if not cases:
        raise SystemExit(f"No way is called {words!r}. There are:\n" + "\n".join(str(case) for case in all_cases()))
    print_tables(figures_of(run_all(cases, size, again=True), size.seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=6, help="1 or more: scenes of seed 0 were trained on")
    parser.add_argument("--scenes", type=int, default=20, help="of each chain, and with five instructions")
    parser.add_argument("--length", type=int, default=25, help="edits of a chain")
    parser.add_argument("--edits", type=int, default=100, help="single masked edits")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier, stopped run has kept")
    parser.add_argument("--only", metavar="WORDS", help="make only the ways whose names hold these words")
    options = parser.parse_args()
    size = Size(options.scenes, options.length, options.edits, options.steps, options.seed)
    if options.fresh:
        shutil.rmtree(KEPT, ignore_errors=True)
    if options.only is not None:
        return again(options.only, size)
    results = run_all(all_cases(), size)
    figures = figures_of(results, size.seed)
    print_tables(figures)
    costs = _emilie_time.measure(size.seed)
    five = {
        f"image scale {scale:g}, {'one picture' if pictures == 1 else f'{pictures} pictures'}": _emilie_five.cost(
            size.seed, pictures, scale
        )
        for scale in (IMAGE_SCALE, THREE_WAY)
        for pictures in (1, 4)
    }
    figures |= {
        "size": asdict(size),
        "scales": {"text": TEXT_SCALE, "image": IMAGE_SCALE},
        "REED decoder": "not there yet" if reed_decoder() is None else reed_decoder().name,
        "lead of latent iteration, PSNR": leads(results, size.seed),
        "cost of a step": costs,
        "cost of five instructions": five,
        "inpainting: the masked latent against the encoded masked picture": _emilie_inpaint.measure(size.seed),
        "the printed update": _emilie_printed.measure(size.seed),
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    draw_chains(results, size.seed)
    if size.scenes > FRONT and size.length >= FRONT_EDITS[-1]:
        draw_front(results, size.seed)
    draw_masks(results, size.seed)
    draw_five(results, list(FIVE_WAYS[:-1]), size.seed)
    _emilie_printed.draw(FOLDER / "emilie_printed.png", size.seed)
    write_report("emilie", size.seed, figures, chain_goals(figures["chains"], size.length) + cost_goals(costs, five))
    shutil.rmtree(KEPT)


if __name__ == "__main__":
    main()
