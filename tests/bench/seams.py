"""`dev.py bench seams`: how well painted pixels join the rest of the picture, for each way of merging them.

Goals from issue 3: the way that is the node's default leaves no worse a seam than any other that was thought of. Writes
build/bench/seams.json and seams.png.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import _host
import numpy as np
import torch
from _report import FOLDER, goal, write_report
from _seam_cases import SIDE, Case, drawings, measure_seam, paint_on, paints, photographs, psnr, shapes
from reedit.models.metrics.timeline import contact_strip
from reedit.models.metrics.timeline_thumbnail import to_image
from reedit.models.session.merge import LEAST_SIDE, find_windows, merge_weights, merge_window, put_window
from reedit.nodes.autoencoders import load_kl_vae
from reedit.nodes.merge_pixels import encoder_context
from scipy import ndimage
from torch import Tensor

DEFAULT = "feathered (default)"
REFERENCE = "all cells of a whole encode"  # no merge: everything changes
Way = Callable[[Any, Case], Tensor]


def merged(
    vae: Any,
    case: Case,
    feather: int,
    difference: bool = False,
    least_side: int = LEAST_SIDE,
    weights: Tensor | None = None,
) -> Tensor:
    """As the node merges."""
    weights = merge_weights(case.cells, feather) if weights is None else weights
    latent, before = case.latent.clone(), case.decoded if difference else None
    for window in find_windows(weights, encoder_context(vae), least_side):
        cells = merge_window(case.latent, case.target, weights, window, vae.encode, before)
        put_window(latent, cells, weights, window)
    return latent


def whole_encode(vae: Any, case: Case, feather: int) -> Tensor:
    """Cells of an encode of the whole picture; with no feather it is this node's first version."""
    return torch.lerp(case.latent, vae.encode(case.target), merge_weights(case.cells, feather))


def falling_at_once(vae: Any, case: Case) -> Tensor:
    """The cells beside the painted ones at half weight."""
    return merged(vae, case, 0, weights=(merge_weights(case.cells, 1) + case.cells) / 2)


def not_levelled(vae: Any, case: Case) -> Tensor:
    """A window's cells as the encoder gives them."""
    weights, latent = merge_weights(case.cells, 1), case.latent.clone()
    for window in find_windows(weights, encoder_context(vae)):
        put_window(latent, vae.encode(window.pixels(case.target, SIDE // latent.shape[-1])), weights, window)
    return latent


def corrected(vae: Any, case: Case) -> Tensor:
    """The default, and a fixed-point step: what one more round trip of the window changes is taken off beforehand."""
    weights, start = merge_weights(case.cells, 1), merged(vae, case, 1)
    latent = start.clone()
    for window in find_windows(weights, encoder_context(vae)):
        cells, pixels = window.cells(start), window.pixels(case.target, SIDE // latent.shape[-1])
        step = vae.encode(pixels) - vae.encode(vae.decode(cells))
        put_window(latent, cells + window.cells(weights) * step, weights, window)
    return latent


WAYS: dict[str, Way] = {
    DEFAULT: lambda vae, case: merged(vae, case, 1),
    "feathered over 2 cells": lambda vae, case: merged(vae, case, 2),
    "feathered, windows no larger than their context": lambda vae, case: merged(vae, case, 1, least_side=1),
    "feathered, falling at once": falling_at_once,
    "feathered, not levelled": not_levelled,
    "feathered, corrected": corrected,
    "difference": lambda vae, case: merged(vae, case, 1, difference=True),
    "difference, hard": lambda vae, case: merged(vae, case, 0, difference=True),
    "hard": lambda vae, case: merged(vae, case, 0),
    "painted cells of a whole encode (version 1)": lambda vae, case: whole_encode(vae, case, 0),
    REFERENCE: lambda vae, case: vae.encode(case.target),
}


def single_strokes(vae: Any, pictures: Tensor, others: Tensor) -> dict[str, Any]:
    """Every shape and paint on every picture, once. The mean of each measure, and the colour step for each paint."""
    taken: dict[str, list[dict[str, Any]]] = {name: [] for name in WAYS}
    for picture, other in zip(pictures, others, strict=True):
        latent = vae.encode(picture[None])
        decoded = vae.decode(latent)
        for shape, mask in shapes().items():
            for paint, brush in paints(decoded, other[None]).items():
                case = paint_on(latent, decoded, brush, mask)
                for name, way in WAYS.items():
                    seam = measure_seam(vae.decode(way(vae, case)), case.target, mask)
                    taken[name].append({**seam, "shape": shape, "paint": paint})
    return {name: summary(rows) for name, rows in taken.items()}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    measures = [name for name in rows[0] if name not in ("shape", "paint")]
    means: dict[str, Any] = {name: float(np.mean([row[name] for row in rows])) for name in measures}
    for kind in ("shape", "paint"):
        for value in dict.fromkeys(row[kind] for row in rows):
            means[f"colour step, {value}"] = float(np.mean([row["colour step"] for row in rows if row[kind] == value]))
    return means


def repeated_strokes(vae: Any, pictures: Tensor, move: bool, seed: int, count: int = 5) -> dict[str, Any]:
    """`count` strokes one after another, at one place or at others, against the picture that the brush alone leaves."""
    figures = {}
    for name, way in WAYS.items():
        rows = []
        for number, picture in enumerate(pictures):
            generator = np.random.default_rng(seed + number)
            latent = vae.encode(picture[None])
            known, painted = vae.decode(latent), np.zeros((SIDE, SIDE), bool)
            for _ in range(count):
                places = tuple(generator.integers(-24, 25, 2)) if move else (0, 0)
                mask = np.roll(shapes()["disc"], places, (0, 1))
                brush = torch.tensor(generator.uniform(0, 1, 3)).float().expand(1, SIDE, SIDE, 3)
                case = paint_on(latent, vae.decode(latent), brush, mask)
                known = torch.where(torch.from_numpy(mask)[None, ..., None], case.target, known)
                painted |= mask
                latent = way(vae, case)
            after = vae.decode(latent)
            far = ~ndimage.binary_dilation(painted, np.ones((3, 3)), iterations=16)
            seam = measure_seam(after, known, painted)
            rows.append({**seam, "PSNR far outside, dB": psnr((after - known)[0].numpy()[far])})
        figures[name] = {measure: float(np.mean([row[measure] for row in rows])) for measure in rows[0]}
    return figures


def print_table(title: str, figures: dict[str, Any], measures: list[str]) -> None:
    print(f"\n{title}\n{'':50}" + "".join(f"{measure[:22]:>24}" for measure in measures))
    for name, row in figures.items():
        print(f"{name:50}" + "".join(f"{row[measure]:24.2f}" for measure in measures))


def seam_goals(family: str, figures: dict[str, Any]) -> list[dict[str, Any]]:
    """The default's seam against the best of the other ways that the node could have had, measure by measure."""
    goals = []
    for measure in ("colour step", "gradient error, horizontal", "gradient error, vertical"):
        others = {name: row[measure] for name, row in figures.items() if name not in (DEFAULT, REFERENCE)}
        best = min(others, key=lambda name: others[name])
        ours, version_1 = figures[DEFAULT][measure], figures["painted cells of a whole encode (version 1)"][measure]
        goals.append(goal(f"{family}: {measure}, against version 1", ours, "at most", version_1, "levels"))
        goals.append(goal(f"{family}: {measure}, against hard", ours, "at most", figures["hard"][measure], "levels"))
        why = (
            f"{best!r} is {ours / others[best] - 1:.1%} better by this measure, but changes more cells or takes longer"
        )
        goals.append(goal(f"{family}: {measure}, against the best way", ours, "at most", others[best], "levels", why))
    return goals


def draw_sheet(vae: Any, pictures: dict[str, Tensor]) -> None:
    """A stroke of each family merged in each way, three times as large."""
    shown, labels = [], []
    for family, (picture, other) in pictures.items():
        latent = vae.encode(picture[None])
        decoded = vae.decode(latent)
        for paint, shape in (("light", "box off the grid"), ("dark", "disc"), ("picture", "box off the grid")):
            case = paint_on(latent, decoded, paints(decoded, other[None])[paint], shapes()[shape])
            ends = {"painted": case.target}
            ends |= {name: vae.decode(way(vae, case)) for name, way in WAYS.items()}
            kept = ("painted", DEFAULT, "difference", "hard", "feathered, not levelled", REFERENCE)
            shown += [ends[name][0, 24:88, 32:96].repeat_interleave(3, 0).repeat_interleave(3, 1) for name in kept]
            labels += [f"{family}, {paint}", *kept[1:]]
    sheet = contact_strip(shown, labels, len(kept))
    to_image(sheet).save(FOLDER / "seams.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    goals = []
    with torch.inference_mode():
        vae = load_kl_vae(_host.WEIGHTS / "tiny_sd_autoencoder.safetensors")
        families = {"drawings": drawings(4, options.seed), "photographs": photographs()}
        for family, pictures in families.items():
            plain = vae.decode(vae.encode(pictures))
            single = single_strokes(vae, pictures[:2], pictures[2:])
            repeated = {
                "five strokes at one place": repeated_strokes(vae, pictures[:2], False, options.seed),
                "five strokes at other places": repeated_strokes(vae, pictures[:2], True, options.seed),
            }
            reconstruction = float(np.mean([psnr((plain - pictures)[i].numpy()) for i in range(len(pictures))]))
            figures[family] = {"PSNR of the VAE's plain reconstruction, dB": reconstruction, "one stroke": single}
            figures[family] |= repeated
            print(f"\n{family}: the VAE's plain reconstruction has {reconstruction:.1f} dB")
            measures = list(single[DEFAULT])[:5]
            print_table(f"{family}, one stroke (steps and gradients in 8-bit levels)", single, measures)
            for name, table in repeated.items():
                print_table(f"{family}, {name}", table, [*measures, "PSNR far outside, dB"])
            goals += seam_goals(family, single)
        FOLDER.mkdir(parents=True, exist_ok=True)
        draw_sheet(vae, {family: pictures[[0, 2]] for family, pictures in families.items()})
    write_report("seams", options.seed, figures, goals)


if __name__ == "__main__":
    main()
