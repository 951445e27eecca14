"""`dev.py bench session`: 25 mixed edits of 20 scenes three ways; what a commit, a checkout and a merge cost.

Goals from issue 3. Writes build/bench/session.json and session.png (the same scenes after 25 edits, each way).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import _host
import numpy as np
import torch
from _chain import crop_and_stitch_way, load_models, our_way, pictures_of, plan, round_trip_way
from _merge_time import measure as measure_merge_time
from _real_size import sampling_step_seconds
from _report import FOLDER, goal, write_report
from reedit.models.cells import touched_cells
from reedit.models.metrics.comparison import untouched_pixels
from reedit.models.metrics.similarity import masked_psnr
from reedit.models.metrics.timeline import contact_strip
from reedit.models.metrics.timeline_thumbnail import to_image
from reedit.models.session.checkout import find_step
from reedit.models.session.record import KEY, EditRecord, with_record
from scipy import ndimage
from torch import Tensor

SHOWN = 5  # scenes in the picture
BORDER = 8  # pixels
RATIO = 8  # pixels to a cell, of the two sizes whose history is timed


def median_seconds(work: Callable[[], Any], repeats: int = 15) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def worst_change(before: Tensor, after: Tensor, untouched: Tensor) -> float:
    """The largest absolute change of a latent in the cells whose pixels no edit was allowed to touch."""
    cells = ~touched_cells(~untouched[None], *before.shape[-2:])[0, 0]
    return float((after - before)[..., cells].abs().max())


def chain_figures(seed: int, scenes: int, edits: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The three ways side by side: what moved where no edit was allowed to act."""
    models = load_models(_host.WEIGHTS)
    drawn, planned = plan(seed, scenes, edits)
    source, encode, decode = pictures_of(drawn), models.vae.encode, models.vae.decode
    latent = our_way(models, source, planned)
    # By the masks that the session noted: those of painted edits hold the cells beside the paint too.
    (untouched, *_) = untouched_pixels(latent[KEY], latent[KEY].current, *source.shape[1:3])
    first, once = latent[KEY].source, decode(encode(source))
    ends = {
        "the latent is the document": decode(latent["samples"]),
        "pixel round trip": round_trip_way(models, source, planned),
        "crop and stitch": crop_and_stitch_way(models, source, planned),
    }
    # A decoder looks at neighbouring cells too: so the border is told apart from the rest.
    distance = torch.from_numpy(ndimage.distance_transform_edt(untouched.numpy()))
    regions = {
        "never-edited pixels": untouched,
        f"never-edited pixels within {BORDER} of an edit": untouched & (distance <= BORDER),
        f"never-edited pixels farther than {BORDER}": distance > BORDER,
    }
    figures: dict[str, Any] = {
        "scenes": scenes,
        "edits": edits,
        "never edited, share of the picture": float(untouched.float().mean()),
        "memory per edit, bytes": round((latent[KEY].nbytes - first.nbytes) / edits),
        "a whole latent, bytes": first.nbytes,
    }
    for name, picture in ends.items():
        after = latent["samples"] if name == "the latent is the document" else encode(picture)
        figures[name] = {
            "largest change of never-edited cells": worst_change(first, after, untouched),
            **{
                f"PSNR of {region} against {reference}, dB": masked_psnr(picture, known, where.expand(scenes, -1, -1))
                for region, where in regions.items()
                if where.any()
                for reference, known in (("the source", source), ("one encode-decode", once))
            },
        }
    return figures, {"source": source, **ends}


def session_of(samples: Tensor, edits: int) -> EditRecord:
    """A session in which every edit changes a tenth of the cells."""
    record, generator = EditRecord(samples), np.random.default_rng(0)
    height, width = samples.shape[-2:]
    side = round((height * width / 10) ** 0.5)
    for number in range(edits):
        samples, mask = samples.clone(), torch.zeros(1, height * RATIO, width * RATIO)
        top, left = generator.integers(0, height - side), generator.integers(0, width - side)
        samples[..., top : top + side, left : left + side] += 1.0
        mask[:, top * RATIO : (top + side) * RATIO, left * RATIO : (left + side) * RATIO] = 1.0
        record = record.with_edit(samples, f"edit {number + 1}", "KSampler", {"seed": number}, mask)
    return record


def history_figures(edits: int) -> dict[str, Any]:
    """What a commit and a checkout cost after `edits` edits of a tenth each, beside a sampling step of SD1.5's real size."""
    step = sampling_step_seconds()
    figures: dict[str, Any] = {"sampling step, SD1.5's real size at 512×512, ms": 1000 * step}
    for name, shape in {"512×512, 4 channels": (1, 4, 64, 64), "1024×1024, 16 channels": (1, 16, 128, 128)}.items():
        record = session_of(torch.randn(shape), edits)
        latent = with_record({}, record)
        after, mask = latent["samples"].clone(), torch.zeros(1, shape[-2] * RATIO, shape[-1] * RATIO)
        after[..., : shape[-2] // 3, : shape[-1] // 3] += 1.0
        mask[:, : mask.shape[1] // 3, : mask.shape[2] // 3] = 1.0

        def commit(record: EditRecord = record, after: Tensor = after, mask: Tensor = mask) -> dict[str, Any]:
            return with_record({}, record.with_edit(after, "next", "KSampler", {}, mask), after)

        def checkout(record: EditRecord = record, latent: dict[str, Any] = latent) -> dict[str, Any]:
            return with_record(latent, record.at(find_step(record, "back 5")))

        seconds = {"commit": median_seconds(commit), "checkout": median_seconds(checkout)}
        figures[name] = {
            **{f"{what}, ms": 1000 * value for what, value in seconds.items()},
            **{f"{what} against the sampling step": value / step for what, value in seconds.items()},
            "memory per edit, bytes": round((record.nbytes - record.source.nbytes) / edits),
            "a whole latent, bytes": record.source.nbytes,
        }
    return figures


def draw(pictures: dict[str, Tensor]) -> None:
    labels = [name for name in pictures for _ in range(SHOWN)]
    sheet = contact_strip([picture for batch in pictures.values() for picture in batch[:SHOWN]], labels, SHOWN)
    to_image(sheet).save(FOLDER / "session.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--edits", type=int, default=25)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    with torch.inference_mode():
        chain, pictures = chain_figures(options.seed, options.scenes, options.edits)
        history = history_figures(options.edits)
        merge = measure_merge_time(options.seed)
    ours, trip = chain["the latent is the document"], chain["pixel round trip"]
    psnr = "PSNR of never-edited pixels against the source, dB"
    small, large = history["512×512, 4 channels"], history["1024×1024, 16 channels"]
    goals = [
        goal("largest change of never-edited cells", ours["largest change of never-edited cells"], "at most", 0.0, ""),
        goal("PSNR there above the pixel round trip", ours[psnr] - trip[psnr], "at least", 3.0, "dB"),
        goal("commit against a sampling step", small["commit against the sampling step"], "less than", 0.01, "×"),
        goal("checkout against a sampling step", small["checkout against the sampling step"], "less than", 0.01, "×"),
        goal("100 edits of 128×128×16", 100 * large["memory per edit, bytes"] / 2**20, "less than", 64, "MiB"),
        *merge.pop("goals"),
    ]
    write_report("session", options.seed, {"chain": chain, "history": history, "merge": merge}, goals)
    draw(pictures)


if __name__ == "__main__":
    main()
