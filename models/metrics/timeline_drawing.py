"""The timeline's sheet, drawn: thumbnails in their places, the lines between them, and what is written under each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from .timeline_layout import Box, Connector, Place, connect_steps, main_line, place_steps
from .timeline_text import find_font, wrap_text

Colour = tuple[int, int, int]

GROUND: Colour = (24, 24, 27)
TEXT: Colour = (228, 228, 231)
QUIET: Colour = (161, 161, 170)
# Of steps beside the path to the current one:
BESIDE_TEXT: Colour = (161, 161, 170)
BESIDE_QUIET: Colour = (124, 124, 134)
BESIDE_LINE: Colour = (92, 92, 102)
ACCENT: Colour = (251, 191, 36)

_LEAST_COLUMN = 16  # times the font's size: captions must have room under narrow pictures too
# All in pixels:
_LEAST_FONT_SIZE = 13
_GUTTER = 48
_STUB = 24
_LINE = 2
_FRAME = 3
_CAPTION_GAP = 10  # between a thumbnail and its title
_ROW_GAP = 28
_SYSTEM_GAP = 24  # on top of that
_MOST_TITLE_LINES = 3
_MOST_NOTE_LINES = 2


@dataclass(frozen=True)
class Step:
    """What the sheet shows of one step. notes: the quieter lines under the title."""

    number: int
    title: str
    notes: tuple[str, ...]
    thumbnail: Image.Image


@dataclass(frozen=True)
class Line:
    """A line of writing."""

    text: str
    font: ImageFont.FreeTypeFont
    colour: Colour

    @property
    def height(self) -> int:
        """In pixels, with the room to the next line."""
        return round(1.4 * self.font.size)


@dataclass(frozen=True)
class Caption:
    """What is written under a thumbnail: the number, and to the right of it, `indent` pixels further, the lines."""

    number: Line
    indent: int
    lines: list[Line]

    @property
    def height(self) -> int:
        """In pixels, of the higher of the number and the lines together."""
        return max(self.number.height, sum(line.height for line in self.lines))


@dataclass(frozen=True)
class Arrangement:
    """Where things stand on the sheet, in pixels. gutters: the middle of the room before each column and after the last."""

    width: int
    height: int
    boxes: dict[int, Box]
    lefts: list[int]
    captions: list[int]
    gutters: list[int]


def draw_sheet(
    steps: Sequence[Step], parents: Sequence[int], current: int, columns: int, font_size: int
) -> Image.Image:
    """Draw the steps in the places that `place_steps` gives them.

    steps: the source first. parents: of each edit, 0 for the source. current: the number of the step to be framed. font_size:
    of the titles, in pixels; small ones are made readable.
    """
    path = main_line(parents, current)
    places = place_steps(parents, current, columns)
    size = max(font_size, _LEAST_FONT_SIZE)
    column_width = max(_LEAST_COLUMN * size, *(step.thumbnail.width for step in steps))
    captions = [write_caption(step, column_width, size, step.number in path) for step in steps]
    arrangement = arrange(places, steps, captions, column_width)
    sheet = Image.new("RGB", (arrangement.width, arrangement.height), GROUND)
    pen = ImageDraw.Draw(sheet)
    connectors = connect_steps(parents, places, arrangement.boxes, arrangement.gutters, _STUB)
    for connector in sorted(connectors, key=lambda connector: connector.child in path):  # the path over the others
        _draw_connector(pen, connector, ACCENT if connector.child in path else BESIDE_LINE)
    for step, place, caption in zip(steps, places, captions, strict=True):
        box = arrangement.boxes[step.number]
        sheet.paste(step.thumbnail, (box.left, box.top))
        if step.number == current:
            around = (box.left - _FRAME - 1, box.top - _FRAME - 1, box.right + _FRAME, box.bottom + _FRAME)
            pen.rectangle(around, outline=ACCENT, width=_FRAME)
        _draw_caption(pen, arrangement.lefts[place.column], arrangement.captions[place.row], caption)
    return sheet


def write_caption(step: Step, width: int, size: int, on_path: bool) -> Caption:
    """Break what is to be said of a step into lines, so that all of it stays within `width` pixels."""
    number = f"{step.number}." if step.number else ""
    number_font = find_font(number, size, "bold")
    indent = round(number_font.getlength(number + " ")) if number else 0
    font, colour = find_font(step.title, size, "bold"), TEXT if on_path else BESIDE_TEXT
    lines = [Line(text, font, colour) for text in wrap_text(step.title, font, width - indent, _MOST_TITLE_LINES)]
    for note in step.notes:
        font, colour = find_font(note, size - 2), QUIET if on_path else BESIDE_QUIET
        lines += [Line(text, font, colour) for text in wrap_text(note, font, width - indent, _MOST_NOTE_LINES)]
    return Caption(Line(number, number_font, ACCENT if on_path else BESIDE_QUIET), indent, lines)


def arrange(
    places: Sequence[Place], steps: Sequence[Step], captions: Sequence[Caption], column_width: int
) -> Arrangement:
    """Give each row the height of its tallest thumbnail and caption, and its thumbnails the same middle."""
    columns = max(place.column for place in places) + 1
    lefts = [_GUTTER + column * (column_width + _GUTTER) for column in range(columns)]
    rows = max(place.row for place in places) + 1
    pictures, texts = [0] * rows, [0] * rows  # the heights in each row
    systems = {place.row: place.system for place in places}
    for place, step, caption in zip(places, steps, captions, strict=True):
        pictures[place.row] = max(pictures[place.row], step.thumbnail.height)
        texts[place.row] = max(texts[place.row], caption.height)
    top, tops = _ROW_GAP, []
    for row, height in enumerate(pictures):
        top += _SYSTEM_GAP if row and systems[row] != systems[row - 1] else 0
        tops.append(top)
        top += height + _CAPTION_GAP + texts[row] + _ROW_GAP
    boxes = {}
    for place, step in zip(places, steps, strict=True):
        left = lefts[place.column]
        upper = tops[place.row] + pictures[place.row] // 2 - step.thumbnail.height // 2
        boxes[step.number] = Box(left, upper, left + step.thumbnail.width, upper + step.thumbnail.height)
    return Arrangement(
        width=_GUTTER + columns * (column_width + _GUTTER),
        height=top,
        boxes=boxes,
        lefts=lefts,
        captions=[top + height + _CAPTION_GAP for top, height in zip(tops, pictures, strict=True)],
        gutters=[left - _GUTTER // 2 for left in [*lefts, lefts[-1] + column_width + _GUTTER]],
    )


def _draw_connector(pen: ImageDraw.ImageDraw, connector: Connector, colour: Colour) -> None:
    pen.line(connector.points, fill=colour, width=_LINE)
    if connector.kind == "enters":
        # Where a line comes from another system, it says from which step.
        text, (left, middle) = str(connector.parent), connector.points[0]
        font = find_font(text, _LEAST_FONT_SIZE)
        pen.text((left, middle - _LINE), text, font=font, fill=colour, anchor="ld")


def _draw_caption(pen: ImageDraw.ImageDraw, left: int, top: int, caption: Caption) -> None:
    pen.text((left, top), caption.number.text, font=caption.number.font, fill=caption.number.colour)
    for line in caption.lines:
        pen.text((left + caption.indent, top), line.text, font=line.font, fill=line.colour)
        top += line.height
