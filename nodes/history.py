"""What the history panel is told of a session: its steps, and their thumbnails in the host's folder for temporary files."""

from __future__ import annotations

import logging
import os
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import folder_paths
from PIL import Image
from torch import Tensor

from ..models.metrics.rough_colours import fit_colours, rough_pictures
from ..models.metrics.timeline import share_text
from ..models.metrics.timeline_thumbnail import make_thumbnail, to_image
from ..models.session.record import SOURCE, EditRecord
from ..models.session.step_name import step_names

SESSION = "reedit_session"  # the key in a node's ui output
SUBFOLDER = "reedit"
SIDE = 384  # pixels: enough for comparing two steps as wide as the panel
EXACT, ROUGH = ".jpg", ".rough.jpg"  # by a VAE, or one flat colour for each cell
LONGEST_LABEL = 300  # letters
REMEMBERED = 16  # sources whose colours are known

_colours: OrderedDict[str, Tensor] = OrderedDict()  # the map from cells to colours, by the name of the source


def describe_session(
    record: EditRecord, pictures: Mapping[int, Tensor] | None = None, exact: bool = True
) -> dict[str, Any]:
    """A node's ui output that shows the session in the history panel.

    pictures: those that the node has at hand anyway, by the number of the step, each (B, H, W, 3) in 0..1. exact: whether
    they come from the VAE. Nothing is decoded for the panel: steps without a picture get rough colours, as soon as one
    picture of the session has told what its cells look like. Thumbnails that are there are not written again.
    """
    names = step_names(record)
    folder = Path(folder_paths.get_temp_directory()) / SUBFOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = set(os.listdir(folder))
        for number, picture in (pictures or {}).items():
            _write(folder, names[number] + (EXACT if exact else ROUGH), picture[0], written)
        _write_rough(folder, record, names, pictures if exact else None, written)
    except OSError as error:  # an edit is worth more than its thumbnail
        logging.warning("ReEdit cannot write thumbnails for the history panel: %s", error)
        written = set()
    steps = [_describe_step(record, number, name, written) for number, name in enumerate(names)]
    return {SESSION: [{"current": record.current, "steps": steps}]}


def _describe_step(record: EditRecord, number: int, name: str, written: set[str]) -> dict[str, Any]:
    file = next((name + suffix for suffix in (EXACT, ROUGH) if name + suffix in written), None)
    step: dict[str, Any] = {"number": number, "name": name, "rough": file is not None and file.endswith(ROUGH)}
    step["picture"] = None if file is None else {"filename": file, "subfolder": SUBFOLDER, "type": "temp"}
    if number == SOURCE:
        return {**step, "parent": None, "label": "source", "tool": "", "changed": ""}
    edit = record.edit(number)
    told = {"parent": edit.parent, "label": edit.label[:LONGEST_LABEL], "tool": edit.tool[:LONGEST_LABEL]}
    return {**step, **told, "changed": share_text(edit.changed_cells)}


def _write_rough(
    folder: Path, record: EditRecord, names: list[str], pictures: Mapping[int, Tensor] | None, written: set[str]
) -> None:
    """Write rough thumbnails of all steps that have none, if the colours of the session are known or can be learnt."""
    number = next(iter(pictures), None) if pictures else None
    if number is not None and pictures and names[SOURCE] not in _colours:
        _colours[names[SOURCE]] = fit_colours(record.samples_at(number), pictures[number])
        while len(_colours) > REMEMBERED:
            _colours.popitem(last=False)
    colours = _colours.get(names[SOURCE])
    channels = record.source.shape[1]
    if colours is None or any(edit.change.shape[1] != channels for edit in record.edits):
        return
    missing = [number for number, name in enumerate(names) if written.isdisjoint({name + EXACT, name + ROUGH})]
    for number, picture in rough_pictures(record, colours, missing).items():
        _write(folder, names[number] + ROUGH, picture, written)


def _write(folder: Path, name: str, picture: Tensor, written: set[str]) -> None:
    """Write a thumbnail of a picture (H, W, 3), unless it is there."""
    if name in written:
        return
    image: Image.Image = make_thumbnail(picture[..., :3], SIDE)
    if name.endswith(ROUGH):  # cells are no pixels: shown as squares they would only distract
        image = to_image(picture[..., :3]).resize(image.size, Image.Resampling.BICUBIC)
    # Under another name first: the browser may ask for it at any time.
    unfinished = folder / f"{uuid.uuid4().hex}.part"
    image.save(unfinished, "JPEG", quality=92)
    os.replace(unfinished, folder / name)
    written.add(name)
