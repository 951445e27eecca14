"""The steps of a session on one sheet, and plain strips of pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..session.record import SOURCE, EditRecord
from .comparison import EditedPixels, shape_at
from .similarity import masked_psnr
from .timeline_drawing import GROUND, TEXT, Step, draw_sheet
from .timeline_thumbnail import dim, enlarge, make_thumbnail, outline_mask, to_image

_DIMMED = 0.45  # of the steps beside the path to the current one
_STRIP_MARGIN = 8
_STRIP_LEAST_SIDE = 160  # small pictures are shown larger, in whole multiples, so that their pixels can be seen
_STRIP_FONT_SIZE = 13


def session_sheet(
    record: EditRecord,
    pictures: Sequence[Tensor],
    columns: int,
    thumbnail: int = 256,
    show_masks: bool = True,
    faithful: bool = True,
) -> Tensor:
    """The contact sheet of a session, (height, width, 3) float32 in 0..1.

    pictures: each step's, (B, H, W, 3) in 0..1, the source's first; the first of each batch is shown. columns: steps in one
    row. thumbnail: the longer side of a picture on the sheet, in pixels. faithful: whether the pictures come from the real
    decoder, so that a PSNR between them says something.
    """
    path, edited = record.path_to(record.current), EditedPixels(record)
    steps = []
    for number, picture in enumerate(pictures):
        image = make_thumbnail(picture[0], thumbnail)
        title, mask = "source", None
        if number != SOURCE:
            title, mask = record.edit(number).label, record.edit(number).mask
        if mask is not None and show_masks:
            image = outline_mask(image, mask[0])
        if number not in path:
            image = dim(image, GROUND, _DIMMED)
        steps.append(Step(number, title, describe_step(record, number, pictures, faithful, edited), image))
    sheet = draw_sheet(steps, [edit.parent for edit in record.edits], record.current, columns, thumbnail // 17)
    return _to_tensor(sheet)


def describe_step(
    record: EditRecord,
    number: int,
    pictures: Sequence[Tensor],
    faithful: bool,
    edited: EditedPixels | None = None,
) -> tuple[str, ...]:
    """The lines under a step's title: its tool and batch, how much changed, and how well the rest was kept.

    edited: the record's, where it is at hand: each mask is then unpacked once for all steps.
    """
    batch = shape_at(record, number)[0]
    notes = [f"1 of {batch}"] if batch > 1 else []
    if number == SOURCE:
        return tuple(notes)
    edit = record.edit(number)
    if edit.tool and edit.tool != edit.label:
        notes.insert(0, edit.tool)
    lines = [" · ".join(notes)] if notes else []
    if pictures[number].shape[1:] != pictures[edit.parent].shape[1:]:
        return (*lines, "another size")
    psnr = untouched_psnr(record, number, pictures, edited or EditedPixels(record)) if faithful else None
    kept = [] if psnr is None else ["rest identical" if math.isinf(psnr) else f"rest {psnr:.1f} dB"]
    return (*lines, " · ".join([f"{share_text(edit.changed_cells)} changed", *kept]))


def share_text(share: float) -> str:
    """A share of 0..1 in percent. Only nothing at all reads "nothing", and only all of it "all"."""
    if share in (0, 1):
        return "nothing" if share == 0 else "all"
    percent = 100 * share
    return f"{min(max(percent, 0.1), 99.9):.1f} %" if percent < 10 or percent >= 99.5 else f"{percent:.0f} %"


def untouched_psnr(record: EditRecord, number: int, pictures: Sequence[Tensor], edited: EditedPixels) -> float | None:
    """PSNR in dB of a step's first picture against the source's, where no edit up to it was allowed to act.

    None where there are no such pixels, where the size is another, and where the batch was taken apart or repeated, so that
    the first pictures may be of different items.
    """
    picture, source = pictures[number], pictures[SOURCE]
    rearranged = any(record.edit(step).batch_origin is not None for step in record.path_to(number)[1:])
    if rearranged or picture.shape != source.shape:
        return None
    height, width = picture.shape[1:3]
    where = ~edited.between(SOURCE, number, number, height, width)
    return masked_psnr(picture[:1], source[:1], where[:1])


def contact_strip(pictures: list[Tensor], labels: list[str], columns: int) -> Tensor:
    """Lay out pictures in rows of `columns`, each under its label.

    pictures: each (H, W, 3) in 0..1, of any sizes. Returns (height, width, 3) float32 in 0..1.
    """
    tiles = [to_image(picture) for picture in pictures]
    tiles = [enlarge(tile, max(1, _STRIP_LEAST_SIDE // max(tile.size))) for tile in tiles]
    font = ImageFont.load_default(_STRIP_FONT_SIZE)
    width = max(tile.width for tile in tiles)
    wrapped = [_wrap(label, font, width) for label in labels]
    label_height = max(len(lines) for lines in wrapped) * (_STRIP_FONT_SIZE + 3) + 4
    height = max(tile.height for tile in tiles) + label_height
    columns = min(columns, len(tiles))
    rows, margin = -(-len(tiles) // columns), _STRIP_MARGIN
    sheet = Image.new("RGB", (columns * (width + margin) + margin, rows * (height + margin) + margin), GROUND)
    pen = ImageDraw.Draw(sheet)
    for index, (tile, lines) in enumerate(zip(tiles, wrapped, strict=True)):
        left = margin + index % columns * (width + margin)
        top = margin + index // columns * (height + margin)
        pen.multiline_text((left, top), "\n".join(lines), font=font, fill=TEXT, spacing=3)
        sheet.paste(tile, (left, top + label_height))
    return _to_tensor(sheet)


def _wrap(label: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Break a label into lines that fit `width` pixels."""
    lines = [""]
    for word in label.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image, np.float32) / 255)
