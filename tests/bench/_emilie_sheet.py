"""The EMILIE benchmark as contact sheets: chains, masks of all qualities, and five instructions at once."""

from __future__ import annotations

from typing import Any

import torch
from _chain import pictures_of
from _emilie_chain import IMAGE, LATENT, Chain, chain_edits, truth_after
from _emilie_figures import decoded, shown_edits
from _emilie_five import plan
from _emilie_masked import HOST_DUAL, MASKS, OURS, Case, masked_edits
from _emilie_world import FIVE, autoencoder
from _report import FOLDER
from reedit.models.metrics.timeline import contact_strip
from reedit.models.metrics.timeline_thumbnail import to_image
from reedit.nodes.instruct_guider import TEXT_TERM
from torch import Tensor

ENLARGED = 2  # each pixel, on each side
SCENES = 3  # of each sheet
# The picture at the top of README: one scene, the rows' names, and how much each pixel is enlarged there.
FRONT, FRONT_ENLARGED = 7, 3
FRONT_EDITS = (1, 5, 10, 15, 20, 25)
FRONT_ROWS = {"as it should be": "", "ReEdit": LATENT, "a round trip each": IMAGE}

Row = list[tuple[str, Tensor]]  # labels and pictures


def write(file: str, rows: list[Row], enlarged: int = ENLARGED) -> None:
    pairs = [pair for row in rows for pair in row]
    shown = [picture.repeat_interleave(enlarged, 0).repeat_interleave(enlarged, 1) for _, picture in pairs]
    sheet = to_image(contact_strip(shown, [label for label, _ in pairs], len(rows[0])))
    sheet.save(FOLDER / f"emilie_{file}", quality=88)


def draw_front(results: dict[Any, dict[str, Tensor]], seed: int) -> None:
    """One scene, changed and changed back in turns inside its mask: the truth, ReEdit, and the host's nodes."""
    edits = chain_edits(0, FRONT + 1, seed)
    (source,) = pictures_of([edits[FRONT].before])
    rows: list[Row] = []
    for name, carried in FRONT_ROWS.items():
        chain = Chain(carried, masked=True)
        row = [("the source" if not carried else "", source)]
        for number in FRONT_EDITS:
            picture = decoded(chain, results[chain], number)[FRONT] if carried else truth_after(edits, number)[FRONT]
            row.append((f"edit {number}, {name}", picture))
        rows.append(row)
    write("front.jpg", rows, FRONT_ENLARGED)


def draw_chains(results: dict[Any, dict[str, Tensor]], seed: int) -> None:
    """A row for each way, the truth first; for each of some scenes the edits shown side by side."""
    chains = [case for case in results if isinstance(case, Chain)]
    count, length = results[chains[0]]["samples"].shape[:2]
    edits, numbers = chain_edits(0, min(SCENES, count), seed), shown_edits(length)
    truths = {number: truth_after(edits, number) for number in numbers}
    labels = [f"{number}: {edit.instruction if number == 1 else ''}" for edit in edits for number in numbers]
    places = [(scene, number) for scene in range(len(edits)) for number in numbers]
    rows: list[Row] = [
        [(f"truth {label}", truths[number][scene]) for label, (scene, number) in zip(labels, places, strict=True)]
    ]
    for chain in chains:
        ends = {number: decoded(chain, results[chain], number) for number in numbers}
        rows.append([(f"{number}: {chain}", ends[number][scene]) for scene, number in places])
    write("chain.png", rows)


def draw_masks(results: dict[Any, dict[str, Tensor]], seed: int) -> None:
    """For each of some edits: the masks, and what our guider and the host's make of each."""
    edits = masked_edits(0, SCENES + 1, seed)
    ways = (OURS[TEXT_TERM], HOST_DUAL)
    with torch.inference_mode():
        ends = {
            (way, mask): autoencoder().decode(results[Case(way, mask)]["samples"][: len(edits)]).clamp(0, 1)
            for way in ways
            for mask in MASKS
        }
    rows: list[Row] = []
    for number, edit in enumerate(edits):
        before, after = pictures_of([edit.before, edit.after])
        masks = {mask: results[Case(OURS[TEXT_TERM], mask)]["masks"][number] for mask in MASKS}
        shown = [(mask, picture[:, :, None].expand(-1, -1, 3)) for mask, picture in masks.items()]
        rows.append([(edit.instruction, before), *shown])
        rows += [[("as it should be", after), *((way, ends[way, mask][number]) for mask in MASKS)] for way in ways]
    write("masks.png", rows)


def draw_five(results: dict[Any, dict[str, Tensor]], ways: list[Any], seed: int) -> None:
    """For each of some scenes: the source, what it should become, and what the ways make of it."""
    with torch.inference_mode():
        ends = {way: autoencoder().decode(results[way]["samples"][: SCENES + 1]).clamp(0, 1) for way in ways}
    rows: list[Row] = []
    for number in range(len(ends[ways[0]])):
        edits = plan(1_000_000 * seed + FIVE + number)
        before, after = pictures_of([edits[0].before, edits[-1].after])
        told = "; ".join(edit.instruction for edit in edits)
        rows.append([(told, before), ("as it should be", after), *((str(way), ends[way][number]) for way in ways)])
    write("five.png", rows)
