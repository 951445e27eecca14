"""The guidance benchmark as a contact sheet: a dozen edits, each made in every main way."""

from __future__ import annotations

from typing import Any

import torch
from _chain import pictures_of
from _guidance_world import edit_number, models
from _report import FOLDER
from reedit.models.metrics.timeline import contact_strip
from reedit.models.metrics.timeline_thumbnail import to_image

SHOWN = 12
ENLARGED = 2  # each pixel, on each side


def draw(results: dict[str, dict[str, Any]], seed: int) -> None:
    """Write guidance.png. results: by the column's title. The last column is the mask that the last of them was made with."""
    vae = models()[2]
    ends = {}
    with torch.inference_mode():
        for title, result in results.items():
            ends[title] = vae.decode(result["samples"][:SHOWN])
    masks = list(results.values())[-1]["mask"]
    shown, labels = [], []
    for number in range(len(next(iter(ends.values())))):
        edit = edit_number(number, seed)
        before, after = pictures_of([edit.before, edit.after])
        row = {edit.instruction: before, "as it should be": after}
        row |= {title: pictures[number] for title, pictures in ends.items()}
        row["its mask"] = masks[number, :, :, None].expand(-1, -1, 3)
        shown += [picture.repeat_interleave(ENLARGED, 0).repeat_interleave(ENLARGED, 1) for picture in row.values()]
        labels += row
    to_image(contact_strip(shown, labels, len(row))).save(FOLDER / "guidance.png")
