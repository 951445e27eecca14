"""Text on the timeline: a font that has its letters, and lines that fit a column."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

ELLIPSIS = "…"


def find_font(text: str, size: int, weight: str = "normal") -> ImageFont.FreeTypeFont:
    """The font to write a text with: DejaVu Sans, or the installed one that has more of the text's letters.

    DejaVu Sans comes with matplotlib, and has the letters of Europe and some of its neighbours; Pillow's own font knows not
    even é. size: in pixels. weight: "normal" or "bold", for DejaVu Sans.
    """
    letters = "".join(sorted({letter for letter in text if not letter.isspace()}))
    return ImageFont.truetype(_find_font_file(letters, weight), size)


@lru_cache(maxsize=1024)
def _find_font_file(letters: str, weight: str) -> str:
    wanted = [ord(letter) for letter in letters]
    standard: str = font_manager.findfont(font_manager.FontProperties(family="DejaVu Sans", weight=weight))
    best, fewest = standard, _count_missing(wanted, standard)
    for file in _installed_fonts() if fewest else ():
        missing = _count_missing(wanted, file)
        if missing < fewest:
            best, fewest = file, missing
        if not fewest:
            break
    return best


@lru_cache(maxsize=1)
def _installed_fonts() -> list[str]:
    """The files of the fonts that the system has now, plain ones first. (matplotlib's own list may be years old.)"""
    special = ("bold", "italic", "oblique", "light", "thin", "black", "mono", "condensed")
    files = [file for file in font_manager.findSystemFonts() if "lastresort" not in Path(file).stem.lower()]
    return sorted(files, key=lambda file: (any(word in Path(file).stem.lower() for word in special), file))


def _count_missing(wanted: list[int], file: str) -> int:
    """How many of the wanted code points a font lacks."""
    return int((~np.isin(wanted, _code_points(file))).sum())


@lru_cache(maxsize=4096)
def _code_points(file: str) -> np.ndarray:
    """The code points that a font has; none if it cannot be used."""
    try:
        ImageFont.truetype(file, 16)  # Pillow takes no fonts made of pictures of one size, such as emoji
        return np.fromiter(FT2Font(file).get_charmap(), np.uint32)
    except (OSError, RuntimeError):
        return np.empty(0, np.uint32)


def wrap_text(text: str, font: ImageFont.FreeTypeFont, width: int, most_lines: int) -> list[str]:
    """Break a text into lines of at most `width` pixels, between words where it can; what is too much ends in an ellipsis."""
    lines, line = [], ""
    for piece in _pieces(text):
        rest = piece
        while font.getlength((line + rest).rstrip()) > width:
            if not line:
                fitting = _count_fitting(rest, font, width)
                line, rest = rest[:fitting], rest[fitting:]
            lines.append(line.rstrip())
            line = ""
            if len(lines) > most_lines:
                return [*lines[: most_lines - 1], _with_ellipsis(lines[most_lines - 1], font, width)]
        line += rest
    lines += [line.rstrip()] if line.rstrip() else []
    if len(lines) > most_lines:
        return [*lines[: most_lines - 1], _with_ellipsis(lines[most_lines - 1], font, width)]
    return lines


def _pieces(text: str) -> Iterator[str]:
    """What a line may be broken after: words with the space behind them, and letters of scripts without spaces."""
    for word in text.split():
        piece = ""
        for letter in word:
            piece += letter
            if unicodedata.east_asian_width(letter) in "WF":
                yield piece
                piece = ""
        yield piece + " "


def _count_fitting(text: str, font: ImageFont.FreeTypeFont, width: int) -> int:
    """How many of a text's first letters fit, at least 1."""
    return next((count for count in range(1, len(text)) if font.getlength(text[: count + 1]) > width), len(text))


def _with_ellipsis(line: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    while line and font.getlength(line + ELLIPSIS) > width:
        line = line[:-1]
    return line.rstrip() + ELLIPSIS
