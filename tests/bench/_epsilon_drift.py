"""25 passes through decoders that denoise, from one session's noise or from new noise each time, and through REED's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import _host  # noqa: F401
import torch
from _epsilon_arms import DEMO, REED_DECODER, REED_EPSILON, deterministic, epsilon, epsilon_network, kl_network
from _reed_chain import shown_passes
from _reed_features import features, frechet_distance
from _reed_pictures import scenes
from reedit.models.autoencoders.chain import as_kept
from reedit.models.metrics.round_trip import mean_figures, measure_picture
from torch import Tensor

PASSES = 25
AT_ONCE = 20
Decode = Callable[[Tensor, int], Tensor]


def arms(weights: Path) -> dict[str, Decode]:
    """By name: latents and the number of the pass to pictures."""

    def fixed(network: Any) -> Decode:
        return lambda latent, number: network.decode(latent)

    one = epsilon(DEMO, weights)
    return {
        "deterministic": fixed(deterministic(DEMO, weights)),
        "deterministic, the autoencoder's own": fixed(kl_network(DEMO.base, DEMO.base, weights)),
        "REED": fixed(kl_network(DEMO.base, REED_DECODER, weights)),
        "eps-VAE, 1 step, one noise": fixed(one),
        "eps-VAE, 1 step, new noise": lambda latent, number: one.decoder.decode(latent, number, 1),
        "eps-VAE, 3 steps, one noise": fixed(epsilon(DEMO, weights, 3)),
        "eps-VAE trained as REED, 1 step, one noise": fixed(epsilon_network(DEMO.base, REED_EPSILON, weights)),
    }


def measure(weights: Path, count: int, seed: int) -> dict[str, Any]:
    """By decoder and pass, with 8-bit rounding between the passes: PSNR, SSIM, PSNR against the pass before, Fréchet."""
    originals = scenes(count, seed).movedim(-1, 1).contiguous()
    known = features(originals.movedim(1, -1))
    encode = kl_network(DEMO.base, DEMO.base, weights).encode
    figures: dict[str, Any] = {}
    for name, decode in arms(weights).items():
        before = originals
        for number in range(1, PASSES + 1):
            with torch.inference_mode():
                now = torch.cat([as_kept(decode(encode(part), number), True) for part in before.split(AT_ONCE)])
            if number in shown_passes(PASSES):
                triples = zip(*(values.movedim(1, -1) for values in (now, originals, before)), strict=True)
                found = mean_figures([measure_picture(*triple) for triple in triples])
                figures.setdefault(name, {})[str(number)] = {
                    "PSNR, dB": found.psnr,
                    "SSIM": found.ssim,
                    "PSNR against the pass before, dB": found.step_psnr,
                    "energy above half Nyquist, grey levels²": found.fine_detail,
                    "Fréchet distance": frechet_distance(known, features(now.movedim(1, -1))),
                }
            before = now
        print(name, {number: round(row["PSNR, dB"], 2) for number, row in figures[name].items()}, flush=True)
    return figures
