"""The residual of an inversion while it runs, as a small picture: quick to draw, since it is drawn again at every call."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from PIL import Image, ImageDraw

from ..metrics.timeline_text import find_font

Colour = tuple[int, int, int]
Point = tuple[float, float]
_GROUND, _WORDS, _GRID, _FALL = (24, 24, 27), (212, 212, 216), (52, 52, 58), (104, 104, 116)
_CALM, _WARNING = (86, 180, 233), (230, 126, 34)  # within the tolerance, and not yet
_SIZE, _LEFT, _RIGHT, _TOP, _BOTTOM = (480, 280), 44, 14, 34, 26  # pixels
_FONT_SIZE = 14
_LOWEST, _HIGHEST = 1e-9, 100.0  # what a logarithmic axis shows of 0 and of infinity


@dataclass
class ResidualCurve:
    """What was found so far. steps: of the whole inversion. tolerance: None where none is sought.

    first, last: of every step that was begun, the relative residual of the first call and of the newest, by item of the
    batch.
    """

    steps: int
    tolerance: float | None
    first: list[dict[int, float]] = field(default_factory=list)
    last: list[dict[int, float]] = field(default_factory=list)
    calls: int = 0

    def add(self, step: int, sample: int, residual: float) -> None:
        """Note a model call's relative residual for one item of the batch. Steps come in their order."""
        while len(self.last) <= step:
            self.first.append({})
            self.last.append({})
        self.first[step].setdefault(sample, residual)
        self.last[step][sample] = residual
        self.calls += sample == 0

    def draw(self) -> Image.Image:
        """A point for each step, at what its worst item still misses, hanging on the line down from where it began."""
        image = Image.new("RGB", _SIZE, _GROUND)
        pen = ImageDraw.Draw(image)
        began = [max(residuals.values()) for residuals in self.first]
        left = [max(residuals.values()) for residuals in self.last]
        low, high = self._range(began + left)
        self._draw_axes(pen, low, high)
        points = [self._place(step, residual, low, high) for step, residual in enumerate(left)]
        for step, (x, y) in enumerate(points):
            pen.line((self._place(step, began[step], low, high), (x, y)), fill=_FALL, width=2)
        pen.line(points, fill=_CALM, width=2)
        for (x, y), residual in zip(points, left, strict=True):
            colour = _CALM if self.tolerance is None or residual <= self.tolerance else _WARNING
            pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
        return image

    def _range(self, residuals: list[float]) -> tuple[float, float]:
        """The powers of ten that the axis ends at."""
        shown = [min(max(value, _LOWEST), _HIGHEST) for value in [*residuals, self.tolerance or 1.0]]
        low, high = math.floor(math.log10(min(shown))), math.ceil(math.log10(max(shown)))
        return float(low), float(max(high, low + 2))

    def _place(self, step: float, residual: float, low: float, high: float) -> Point:
        width, height = _SIZE[0] - _LEFT - _RIGHT, _SIZE[1] - _TOP - _BOTTOM
        power = math.log10(min(max(residual, _LOWEST), _HIGHEST))
        return _LEFT + width * (step + 0.5) / self.steps, _TOP + height * (high - power) / (high - low)

    def _draw_axes(self, pen: ImageDraw.ImageDraw, low: float, high: float) -> None:
        font = find_font("1e-0", _FONT_SIZE)
        right = _SIZE[0] - _RIGHT
        every = math.ceil((high - low) / 5)
        for power in range(int(high), int(low) - 1, -every):
            _, y = self._place(0, 10.0**power, low, high)
            pen.line(((_LEFT, y), (right, y)), fill=_GRID)
            pen.text((_LEFT - 6, y), f"1e{power}", font=font, fill=_WORDS, anchor="rm")
        if self.tolerance:
            _, y = self._place(0, self.tolerance, low, high)
            for x in range(_LEFT, right, 10):
                pen.line(((x, y), (x + 5, y)), fill=_WORDS)
            pen.text((right, 8), "dashed: tolerance", font=font, fill=_FALL, anchor="ra")  # clear of the curve
        title = f"residual · step {len(self.last)} of {self.steps} · {self.calls} calls"
        pen.text((_LEFT, 8), title, font=font, fill=_WORDS)
        pen.text(((_LEFT + right) / 2, _SIZE[1] - 6), "step", font=font, fill=_WORDS, anchor="mb")
