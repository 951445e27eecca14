"""Pictures side by side, with labels."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_MARGIN = 8
_LEAST_SIDE = 160  # small pictures are shown larger, in whole multiples, so that their pixels can be seen
_FONT_SIZE = 13


def contact_strip(pictures: list[Tensor], labels: list[str], columns: int) -> Tensor:
    """Lay out pictures in rows of `columns`, each under its label.

    pictures: each (H, W, 3) in 0..1, of any sizes. Returns (height, width, 3) float32 in 0..1.
    """
    tiles = [_as_tile(picture) for picture in pictures]
    font = ImageFont.load_default(_FONT_SIZE)
    width = max(tile.width for tile in tiles)
    wrapped = [_wrap(label, font, width) for label in labels]
    label_height = max(len(lines) for lines in wrapped) * (_FONT_SIZE + 3) + 4
    height = max(tile.height for tile in tiles) + label_height
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * (width + _MARGIN) + _MARGIN, rows * (height + _MARGIN) + _MARGIN), (24, 24, 27))
    pen = ImageDraw.Draw(sheet)
    for index, (tile, lines) in enumerate(zip(tiles, wrapped, strict=True)):
        left = _MARGIN + index % columns * (width + _MARGIN)
        top = _MARGIN + index // columns * (height + _MARGIN)
        pen.multiline_text((left, top), "\n".join(lines), font=font, fill=(228, 228, 231), spacing=3)
        sheet.paste(tile, (left, top + label_height))
    return torch.from_numpy(np.asarray(sheet, np.float32) / 255)


def _as_tile(picture: Tensor) -> Image.Image:
    values = (picture.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    tile = Image.fromarray(values)
    factor = max(1, _LEAST_SIDE // max(tile.size))
    return tile.resize((tile.width * factor, tile.height * factor), Image.Resampling.NEAREST)


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
