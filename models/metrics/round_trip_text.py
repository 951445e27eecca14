"""The round-trip test in a few sentences, and as plain data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor

from .round_trip import Figures, RoundTrip, mean_figures, mean_spectrum, measure_originals

_ALIKE = 0.05  # dB: what one decimal does not show


def describe_round_trips(trips: Sequence[RoundTrip], eight_bit: bool) -> str:
    """What each VAE did, and of two which one held better.

    trips: as for `round_trip_figure`. eight_bit: whether pictures were rounded to 8 bits between the passes.
    """
    originals = trips[0].originals
    batch, height, width = originals.shape[:3]
    what = f"{batch} pictures" if batch > 1 else "1 picture"
    rounded = "rounded to 8 bits after each pass" if eight_bit else "not rounded between the passes"
    lines = [f"{what} of {width}×{height}, {rounded}."]
    detail = measure_originals(originals).fine_detail
    lines += [_describe(trip, detail) for trip in trips]
    if len(trips) == 2:
        lines.append(_compare(*trips))
    return "\n".join(lines)


def _describe(trip: RoundTrip, detail: float) -> str:
    means = trip.means
    first, last, passes = means[0], means[-1], len(means)
    words = [f"{trip.name}: PSNR {_decibels(first.psnr)} after pass 1"]
    if passes > 1:
        words[0] += f", {_decibels(last.psnr)} after pass {passes}"
        settled = math.isinf(last.step_psnr)
        still = "changed nothing any more" if settled else f"is {last.step_psnr:.1f} dB from the one before"
        words.append(f"the last pass {still}")
    if detail > 0:
        words.append(f"energy above half Nyquist {100 * last.fine_detail / detail:.0f} % of the original's")
    shift = max(last.colour_shift, key=abs)
    if abs(shift) >= 1:
        channel = ("red", "green", "blue")[last.colour_shift.index(shift)]
        words.append(f"{channel} moved by {shift:+.1f} of 255")
    return "; ".join(words) + "."


def _compare(one: RoundTrip, other: RoundTrip) -> str:
    """Which of two VAEs is closer to the original after the last pass, and whether that was so from the first pass on."""
    # Above 0: `other` is closer.
    gains = [_gain(ours, others) for ours, others in zip(one.means, other.means, strict=True)]
    passes, last = len(gains), gains[-1]
    if abs(last) < _ALIKE:
        return f"After pass {passes} both are alike."
    better, worse = (other, one) if last > 0 else (one, other)
    ahead = [math.copysign(1, last) * gain for gain in gains]
    by = "identical to the original" if math.isinf(last) else f"closer to the original by {ahead[-1]:.1f} dB"
    said = f"{_capital(better.name)} held better: after pass {passes} it is {by}."
    if passes == 1:
        return said
    if ahead[0] > -_ALIKE:
        return f"{said} It loses nothing on pass 1 ({ahead[0]:+.1f} dB)."
    since = max(number for number, gain in enumerate(ahead, 1) if gain <= -_ALIKE) + 1
    return f"{said} On pass 1 {worse.name} is closer, by {-ahead[0]:.1f} dB; from pass {since} on {better.name} is."


def _gain(one: Figures, other: Figures) -> float:
    return 0.0 if one.psnr == other.psnr else other.psnr - one.psnr


def _decibels(psnr: float) -> str:
    return "infinite (identical)" if math.isinf(psnr) else f"{psnr:.1f} dB"


def _capital(name: str) -> str:
    return name if name.isupper() else name[0].upper() + name[1:]


def as_data(trips: Sequence[RoundTrip], eight_bit: bool) -> dict[str, Any]:
    """All figures as lists and dicts: of each VAE and pass the mean and those of each picture, and the last spectrum."""
    batch, height, width = trips[0].originals.shape[:3]
    original = measure_originals(trips[0].originals)
    vaes = []
    for trip in trips:
        passes = [
            {"pass": number, "mean": asdict(mean_figures(figures)), "pictures": [asdict(one) for one in figures]}
            for number, figures in enumerate(trip.figures, 1)
        ]
        vaes.append({"name": trip.name, "passes": passes, "spectrum": _spectrum(trip.last)})
    return {
        "pictures": batch,
        "width": width,
        "height": height,
        "eight_bit": eight_bit,
        "original": {
            "fine_detail": original.fine_detail,
            "contrast": original.contrast,
            "spectrum": _spectrum(trips[0].originals),
        },
        "vaes": vaes,
    }


def _spectrum(pictures: Iterable[Tensor]) -> dict[str, list[float]]:
    curve = mean_spectrum("", pictures)
    return {"frequencies": curve.frequencies.tolist(), "power": curve.power.tolist()}
