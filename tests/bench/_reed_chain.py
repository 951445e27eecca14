"""Pictures through an arm's VAE again and again, and what the round-trip test measures of them pass by pass."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import _host  # noqa: F401
import torch
from _reed_arms import autoencoder
from _reed_pictures import LARGE, SCENES, SMALL, pictures_of
from reedit.models.metrics.round_trip import Figures, round_trip
from reedit.nodes.autoencoders import decode_pictures
from torch import Tensor

SHOWN = (1, 5, 15, 25)  # passes of the paper's tables
AT_ONCE = {SCENES: 10, SMALL: 10, LARGE: 1}  # pictures in one call of the VAE: what takes the least time each
MEASURED = tuple(field.name for field in fields(Figures) if field.name != "colour_shift")

Result = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """An arm on a kind of pictures."""

    arm: str
    kind: str
    eight_bit: bool = True

    def __str__(self) -> str:
        return f"{self.arm}, {self.kind}{'' if self.eight_bit else ', no rounding'}"


def shown_passes(passes: int) -> list[int]:
    return [number for number in SHOWN if number <= passes]


def run(case: Case, first: int, count: int, passes: int, seed: int, weights: Path) -> Result:
    """The chain of `count` pictures from `first` on, with the round-trip node's encode and decode.

    Each figure of MEASURED: (count, passes). "pictures": (count, shown passes, side, side, 3), 8-bit.
    """
    torch.set_num_threads(1)
    vae = autoencoder(case.arm, weights)
    originals = pictures_of(case.kind, first + count, seed)[first:]

    def encode(picture: Tensor) -> Tensor:
        return vae.encode(picture.movedim(1, -1))

    def decode(latent: Tensor) -> Tensor:
        return decode_pictures(vae, latent)[..., :3].contiguous().movedim(-1, 1)

    measured, kept = [], []
    with torch.inference_mode():
        for done in round_trip(encode, decode, originals, passes, case.eight_bit, AT_ONCE[case.kind], name=case.arm):
            measured.append(torch.tensor([[getattr(one, name) for name in MEASURED] for one in done.figures]))
            if done.number in SHOWN:
                kept.append((255 * torch.stack(done.pictures)).round().byte())
    table = torch.stack(measured, 1)  # (count, passes, figures)
    figures = {name: table[..., column].clone() for column, name in enumerate(MEASURED)}
    return {**figures, "pictures": torch.stack(kept, 1)}
