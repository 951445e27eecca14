"""The round-trip test: what encoding and decoding again and again does to pictures (REED-VAE, arXiv 2504.18989, section 3.1).

It knows no host: `encode` and `decode` are those of `run_chain`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..autoencoders.chain import Network, run_chain
from .similarity import SimilarityMaps
from .spectrum import SpectrumCurve, fine_detail, radial_power

PASSES_TO_SHOW = (1, 5, 15, 25, 50, 100, 200)  # REED-VAE shows 1, 5, 15 and 25
PICTURES_TO_SHOW = 4


@dataclass(frozen=True)
class Figures:
    """How one picture stands after a pass, or several on the mean. Pictures are compared in 0..1.

    mse, psnr (dB), ssim, colour_shift (red, green and blue, 8-bit grey levels, signed): against the original. ssim: None for
    a picture smaller than SSIM's window. step_psnr: dB, against the pass before. psnr and step_psnr are infinite where
    nothing differs. fine_detail: see there. contrast: the standard deviation, 8-bit grey levels.
    """

    mse: float
    psnr: float
    ssim: float | None
    step_psnr: float
    fine_detail: float
    contrast: float
    colour_shift: tuple[float, float, float]


@dataclass(frozen=True, eq=False)  # tensors have no one answer to ==
class Pass:
    """One pass over all pictures. pictures: each (H, W, 3) in 0..1. figures: one for each picture."""

    number: int
    pictures: tuple[Tensor, ...]
    figures: tuple[Figures, ...]

    @property
    def mean(self) -> Figures:
        """Over the pictures."""
        return mean_figures(self.figures)


@dataclass
class RoundTrip:
    """What one VAE has done so far, and of its pictures only those that are shown.

    originals: (B, H, W, 3) in 0..1. figures: for each pass those of each picture. shown: by the number of a pass, the first
    PICTURES_TO_SHOW pictures. last: all pictures of the last pass. Each picture is (H, W, 3).
    """

    name: str
    originals: Tensor
    figures: list[tuple[Figures, ...]] = field(default_factory=list)
    shown: dict[int, tuple[Tensor, ...]] = field(default_factory=dict)
    last: tuple[Tensor, ...] = ()

    def add(self, done: Pass) -> None:
        """Note the next pass."""
        self.figures.append(done.figures)
        self.last = done.pictures
        if done.number - 1 not in PASSES_TO_SHOW:
            self.shown.pop(done.number - 1, None)  # it stood there as the last one
        self.shown[done.number] = done.pictures[:PICTURES_TO_SHOW]

    @property
    def means(self) -> list[Figures]:
        """The mean of each pass."""
        return [mean_figures(figures) for figures in self.figures]


@torch.no_grad()
def round_trip(
    encode: Network,
    decode: Network,
    pictures: Tensor,
    passes: int,
    eight_bit: bool = False,
    at_once: int = 1,
    after_each: Callable[[], object] = lambda: None,
    name: str = "the VAE",
) -> Iterator[Pass]:
    """Send pictures through a VAE `passes` times, and measure them after each pass; yields one pass at a time.

    encode, decode: (B, 3, H, W) in 0..1 to a latent, and back; what comes back is clamped. pictures: (B, H, W, 3) in 0..1.
    eight_bit: round to 8 bits between the passes. at_once: how many pictures encode and decode get in one call. after_each:
    called after each such part of a pass, for a progress bar; what it raises comes through, and passes already yielded stay
    good. Raises ValueError, which calls the VAE by `name`, where a pass gives another size, NaN or infinite values.
    """
    parts = pictures.split(at_once)
    chains = [run_chain(encode, decode, part.movedim(-1, 1), passes, eight_bit) for part in parts]
    before: list[Tensor] = list(pictures)
    for number in range(1, passes + 1):
        now: list[Tensor] = []
        figures: list[Figures] = []
        for chain in chains:
            for picture in next(chain).movedim(1, -1):
                original, previous = pictures[len(now)], before[len(now)]
                _check(picture, original, f"{name}, pass {number}")
                figures.append(measure_picture(picture, original, previous))
                now.append(picture)
            after_each()
        yield Pass(number, tuple(now), tuple(figures))
        before = now


def _check(picture: Tensor, original: Tensor, where: str) -> None:
    if picture.shape != original.shape:
        sizes = [f"{image.shape[1]}×{image.shape[0]}" for image in (original, picture)]
        raise ValueError(
            f"{where}: a picture of {sizes[0]} came back as {sizes[1]}. This VAE cannot repeat its own pictures."
        )
    if not bool(picture.isfinite().all()):
        raise ValueError(
            f"{where}: the picture holds NaN or infinite values. In half precision some VAEs overflow; use float32."
        )


def measure_picture(picture: Tensor, original: Tensor, before: Tensor) -> Figures:
    """The figures of a picture, which was `before` one pass ago. All are (H, W, 3) in 0..1."""
    reference, previous = original.to(picture.device), before.to(picture.device)
    difference = picture.double() - reference.double()
    mse = float(difference.square().mean())
    red, green, blue = (255 * difference.mean((0, 1))).tolist()
    return Figures(
        mse=mse,
        psnr=_as_psnr(mse),
        ssim=SimilarityMaps(picture[None], reference[None]).ssim(),
        step_psnr=_as_psnr(float((picture.double() - previous.double()).square().mean())),
        fine_detail=fine_detail(picture[None]),
        contrast=float(255 * picture.double().std(correction=0)),
        colour_shift=(red, green, blue),
    )


def _as_psnr(mse: float) -> float:
    return -10 * math.log10(mse) if mse else math.inf


def measure_originals(originals: Tensor) -> Figures:
    """The mean figures of the pictures before any pass: what their fine detail and contrast are compared with."""
    return mean_figures([measure_picture(picture, picture, picture) for picture in originals])


def mean_figures(figures: Sequence[Figures]) -> Figures:
    """The mean of each figure over the pictures.

    Of a PSNR over the pictures that differ, or one that does not would make the mean of all infinite.
    """

    def mean(name: str) -> Any:
        return _mean([getattr(one, name) for one in figures])

    red, green, blue = (
        sum(shifts) / len(figures) for shifts in zip(*(one.colour_shift for one in figures), strict=True)
    )
    return Figures(
        mse=mean("mse"),
        psnr=mean("psnr"),
        ssim=mean("ssim"),
        step_psnr=mean("step_psnr"),
        fine_detail=mean("fine_detail"),
        contrast=mean("contrast"),
        colour_shift=(red, green, blue),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    finite = [value for value in known if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else (known[0] if known else None)


def mean_spectrum(name: str, pictures: Iterable[Tensor]) -> SpectrumCurve:
    """The radially averaged power spectrum, the mean over the pictures, each (H, W, 3) in 0..1."""
    curves = [radial_power(picture[None]) for picture in pictures]
    return SpectrumCurve(name, curves[0][0], torch.stack([power for _, power in curves]).mean(0))
