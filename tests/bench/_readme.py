"""README's figures, each with the benchmark that makes it: its sentences stand here with a slot for each figure.

A benchmark fills the slots with what it measured and prints what README says otherwise. tests/test_readme.py sees to it that
README has these sentences, and that none of its figures of what was measured is in none of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

README = Path(__file__).parents[2] / "README.md"
Figures = dict[str, Any]
LATENT, PIXELS = "latent iteration", "image iteration"


@dataclass(frozen=True)
class Sentence:
    """text: as README says it, with a slot for each figure. values: those figures, from a benchmark's."""

    benchmark: str
    text: str
    values: Callable[[Figures], list[Any]]

    def said(self, figures: Figures) -> str:
        return self.text.format(*self.values(figures))

    @property
    def pattern(self) -> str:
        """A regular expression for the sentence with any figures."""
        parts = Formatter().parse(self.text)
        return "".join(re.escape(words) + (r"[\d.e-]*\d" if slot is not None else "") for words, slot, _, _ in parts)


def differences(benchmark: str, figures: Figures) -> list[str]:
    """What README would have to say, and does not; of sentences all of whose figures were measured."""
    readme = README.read_text(encoding="utf-8")
    found = []
    for sentence in SENTENCES:
        if sentence.benchmark == benchmark:
            with suppress(KeyError):  # a benchmark that was asked for less than it measures unasked
                said = sentence.said(figures)
                known = re.search(sentence.pattern, readme)
                if known is None or known.group() != said:
                    found.append(said)
    return found


# --- where a benchmark's figures are ----------------------------------------------------------------------------------


def percent(figures: Figures) -> float:
    return 100 * figures["edit success"]


def chain(figures: Figures, name: str) -> float:
    return figures["chains"][name]["25"]["PSNR, dB"]


def masked_chains(figures: Figures) -> list[float]:
    return [chain(figures, f"{carried}, masked") for carried in (LATENT, PIXELS)]


def masked(figures: Figures, way: str) -> float:
    return percent(figures["masked edits"][f"{way}, exact mask"])


def five(figures: Figures, way: str) -> float:
    return percent(figures["five instructions"][f"five instructions, {way}"])


def times_of_one_run(figures: Figures) -> list[float]:
    """Over those of five runs, the least and the most."""
    ways = [item for entry in figures["cost of five instructions"].values() for item in entry.items()]
    times = [cost["one pass over it, time"] for way, cost in ways if way != "one pass"]
    return [min(times), max(times)]


def largest_overhead(figures: Figures) -> float:
    return max(
        entry["ours over DualCFGGuider"] for size in figures["cost of a step"].values() for entry in size.values()
    )


def edits_by(figures: Figures, beginning: str) -> list[float]:
    """The success and the PSNR outside of the best way to edit whose name begins so, with a sampler of the host's."""
    ways = [way for name, way in figures["ways"].items() if name.startswith(beginning) and ", eta " not in name]
    best = max(ways, key=lambda way: way["success × PSNR outside"])
    return [percent(best), best["PSNR outside, dB"]]


def edits_in_the_true_mask(figures: Figures) -> list[float]:
    return edits_by(figures, f"{figures['ours']}, the true object's mask")


def edits_by_ours(figures: Figures) -> list[float]:
    ours = figures["ways"][figures["ours"]]
    return [percent(ours), ours["PSNR outside, dB"]]


def inverted(figures: Figures, name: str) -> list[float]:
    """The least and the most of a figure by schedule."""
    found = [entry[name] for entry in figures["tolerance 1e-05, by schedule"].values()]
    return [min(found), max(found)]


def lead(figures: Figures, row: int) -> float:
    """By how many dB our inversion stands below another at 100 calls, at least: 0 FlipSigmas, 1 plain iteration."""
    ways = figures["100 calls, by schedule"].values()
    return min(20 * math.log10(way[row]["relative latent error"] / way[2]["relative latent error"]) for way in ways)


def passes(figures: Figures, arm: str, number: int) -> float:
    return figures["passes"]["200 scenes, 8-bit"][arm][str(number)]["PSNR, dB"]


def decoded(figures: Figures, ratio: str, figure: str, *ways: str) -> list[float]:
    return [figures["quality"][ratio][way][figure] for way in ways]


def drifted(figures: Figures, *decoders: str) -> list[float]:
    return [figures["drift"][decoder]["25"]["PSNR, dB"] for decoder in decoders]


def arm(figures: Figures, name: str) -> list[float]:
    return [figures["arms"][name][figure] for figure in ("PSNR, dB", "probe, shape, %")]


def rounded_down(value: float, step: float) -> float:
    """For "more than": 83.4 by tens is 80."""
    return math.floor(value / step) * step


# --- README's sentences -----------------------------------------------------------------------------------------------

GUIDER = "ReEdit Instruct Guider, mask on text term"
RATIO_4, RATIO_8 = "ratio 4, 4 channels", "ratio 8, 8 channels"
PSNR, FRECHET = "PSNR, dB", "Fréchet distance"
STEPS = ("1 step", "3 steps", "deterministic")

SENTENCES = [
    Sentence(
        "emilie",
        "their mean after edit 25 is {:.1f} dB from the exact picture with ReEdit, {:.1f} dB without",
        masked_chains,
    ),
    Sentence(
        "session",
        "a hundred edits of a tenth of a 128×128×16 latent take {:.1f} MiB",
        lambda figures: [100 * figures["history"]["1024×1024, 16 channels"]["memory per edit, bytes"] / 2**20],
    ),
    Sentence(
        "inversion",
        "inverted in 20 steps at guidance 1 and a tolerance of 1e-5 and sampled back with ComfyUI's euler, the worst "
        "latent is off by less than 1e{:.0f} of its size",
        lambda figures: [math.ceil(math.log10(inverted(figures, "the worst scene's")[1]))],
    ),
    Sentence(
        "inversion", "at {:.1f} to {:.1f} model calls a step", lambda figures: inverted(figures, "model calls a step")
    ),
    Sentence(
        "inversion",
        "At 100 calls in all it stands more than {:.0f} dB below *FlipSigmas* and euler, and more than {:.0f} dB below "
        "plain fixed-point iteration",
        lambda figures: [rounded_down(lead(figures, row), 10) for row in (0, 1)],
    ),
    Sentence(
        "guidance",
        "the blended guider gets {:.0f} % right at {:.1f} dB outside of the true object; plain guidance {:.0f} % at {:.1f} "
        "dB, ComfyUI's inpainting in a box drawn by hand around the true object {:.0f} % at {:.1f} dB, *Differential "
        "Diffusion* with our attention mask {:.0f} % at {:.1f} dB.",
        lambda figures: [
            *edits_by_ours(figures),
            *(value for way in ("plain CFG", "CFG in a box", "Differential") for value in edits_by(figures, way)),
        ],
    ),
    Sentence(
        "guidance",
        "The mask overlaps the true object by {:.2f} (intersection over union), and cells where it is 0 do not move "
        "at all",
        lambda figures: [figures["ways"][figures["ours"]]["IoU of the mask"]],
    ),
    Sentence("guidance", "With the true mask given it is {:.0f} % at {:.1f} dB", edits_in_the_true_mask),
    Sentence(
        "emilie",
        "the picture after edit 25 stands at {:.1f} dB from the exact one; through ComfyUI's nodes, which decode and "
        "encode for each edit, at {:.1f} dB.",
        masked_chains,
    ),
    Sentence(
        "emilie",
        "both ways end alike ({:.1f} and {:.1f} dB); *ReEdit Align* brings that to {:.1f} dB by itself, and to {:.1f} dB "
        "when it is told where the edits were meant.",
        lambda figures: [
            chain(figures, f"{way}, no mask{aligned}")
            for way, aligned in (
                (LATENT, ""),
                (PIXELS, ""),
                (LATENT, ", aligned, with no mask known"),
                (LATENT, ", aligned outside of the mask"),
            )
        ],
    ),
    Sentence(
        "emilie",
        "Of a hundred masked edits {:.0f} % come out right, against {:.0f} % with *Set Latent Noise Mask*.",
        lambda figures: [masked(figures, GUIDER), masked(figures, "host: noise mask, DualCFGGuider")],
    ),
    Sentence(
        "emilie",
        "Five masked instructions in one run take {:.1f} to {:.1f} of the time of five runs.",
        times_of_one_run,
    ),
    Sentence(
        "emilie",
        "{:.0f} % of them come out right then: as many as in five runs with ComfyUI's nodes, whose pictures stand a "
        "decibel lower, and fewer than in five of ours ({:.0f} %).",
        lambda figures: [five(figures, "one pass"), five(figures, "five passes")],
    ),
    Sentence(
        "emilie",
        "The guider itself costs nothing: {:.2f} of *Dual CFG Guider*'s time",
        lambda figures: [largest_overhead(figures)],
    ),
    Sentence(
        "reed",
        "encoded and decoded 25 times with 8 bits in between, stand at {:.1f} dB with the demo's VAE, and at {:.1f} dB "
        "where its own encoder corrects what it decodes (*Correct VAE Decoding*; after one pass {:.1f} and {:.1f} dB).",
        lambda figures: [
            passes(figures, arm, number)
            for number in (25, 1)
            for arm in ("untouched base", "untouched base, corrected")
        ],
    ),
    Sentence(
        "reed",
        "gives {:.1f} dB with the paper's full recipe and {:.1f} dB with a term of ours, against {:.1f} dB for as much "
        "training without its chain",
        lambda figures: [passes(figures, arm, 25) for arm in ("full recipe", "full recipe + latent term", "vanilla")],
    ),
    Sentence(
        "epsilon",
        "decodes two hundred drawn scenes to {0:.1f} dB in one step and to {1:.1f} dB in three (Fréchet distance {3:.2f} and "
        "{4:.2f}), the ordinary one to {2:.1f} dB ({5:.2f})",
        lambda figures: decoded(figures, RATIO_4, PSNR, *STEPS) + decoded(figures, RATIO_4, FRECHET, *STEPS),
    ),
    Sentence(
        "epsilon",
        "trained for twice as long, to {0:.1f} and {1:.1f} dB ({3:.2f} and {4:.2f}) against {2:.1f} dB ({5:.2f}).",
        lambda figures: decoded(figures, RATIO_8, PSNR, *STEPS) + decoded(figures, RATIO_8, FRECHET, *STEPS),
    ),
    Sentence(
        "epsilon",
        "Both know pictures of 64 px: of larger ones it keeps more (at 512 px {:.1f} dB in three steps, the ordinary one "
        "{:.1f}).",
        lambda figures: [
            figures["larger pictures, mosaics of scenes"][RATIO_4]["512 px"][way][PSNR] for way in STEPS[1:]
        ],
    ),
    Sentence(
        "epsilon",
        "Through 25 passes it brings {:.1f} dB, {:.1f} dB with a new seed for each, and {:.1f} dB after 400 steps of "
        "REED's training; the ordinary one {:.1f} dB",
        lambda figures: drifted(
            figures,
            "eps-VAE, 1 step, one noise",
            "eps-VAE, 1 step, new noise",
            "eps-VAE trained as REED, 1 step, one noise",
            "deterministic",
        ),
    ),
    Sentence(
        "rpiae",
        "of the demo's small vision model, frozen, a decoder gets {:.1f} dB and a linear reading tells the shape in a "
        "patch for {:.1f} %. Trained along with nothing to hold it, it is {:.1f} dB and {:.1f} %; held near its pivot as "
        "in RPiAE, {:.1f} dB and {:.1f} %; bridged to a sixth of the numbers, {:.1f} dB and {:.1f} %.",
        lambda figures: [
            value
            for name in (
                "frozen encoder",
                "fine-tuned without pivot",
                "fine-tuned with pivot",
                "bridged to few channels",
            )
            for value in arm(figures, name)
        ],
    ),
    Sentence(
        "rpiae",
        "of two hundred drawn edits with an AUC of {:.2f}. They are not deaf to a VAE's errors: where those are blown up "
        "to the edit's own squared error, the patches of objects, where such errors lie, drift too (AUC {:.2f})",
        lambda figures: [
            figures["semantic drift"]["the demo's RPiAE"][name]
            for name in ("AUC, edited patches against untouched ones", "AUC of the same patches under noise")
        ],
    ),
]
