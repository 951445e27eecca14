"""What each correction of decoding is worth: the untouched base, with none to three."""

from __future__ import annotations

from pathlib import Path

import _host  # noqa: F401
import torch
from _reed_arms import BASE, autoencoder
from _reed_chain import SHOWN
from _reed_pictures import scenes
from reedit.models.autoencoders.chain import run_chain
from reedit.nodes.correction import CorrectedVAE

MOST, COUNT = 3, 10


def measure(weights: Path, seed: int, passes: int) -> dict[str, dict[str, float]]:
    """PSNR in dB by the number of corrections and of passes, 8-bit, the mean of some scenes."""
    originals = scenes(COUNT, seed).movedim(-1, 1)
    figures: dict[str, dict[str, float]] = {}
    for corrections in range(MOST + 1):
        vae = CorrectedVAE(autoencoder(BASE, weights), corrections)
        chain = run_chain(
            lambda picture, vae=vae: vae.encode(picture.movedim(1, -1)),
            lambda latent, vae=vae: vae.decode(latent).movedim(-1, 1),
            originals,
            passes,
            eight_bit=True,
        )
        with torch.inference_mode():
            for number, picture in enumerate(chain, 1):
                if number in SHOWN:
                    error = (picture - originals).square().mean((1, 2, 3))
                    figures.setdefault(str(corrections), {})[str(number)] = float((-10 * error.log10()).mean())
        print(f"{corrections} corrections: {figures[str(corrections)]}", flush=True)
    return figures
