"""What an inversion costs beside its model calls, at the real size of SD1.5."""

from __future__ import annotations

import time
from typing import Any

import comfy.sample
import torch
from _real_size import sd15_model
from reedit.models.diffusion.trajectory import InversionSettings
from reedit.nodes.inversion_sampler import inversion_sampler


def overhead(steps: int = 2, calls: int = 3) -> dict[str, float]:
    """Seconds inside and outside of the model, of an inversion at 512×512 that spends its calls; and the same of euler."""
    with torch.inference_mode():
        model = sd15_model()
        inside: list[float] = []

        def timed(apply_model: Any, arguments: dict[str, Any]) -> torch.Tensor:
            started = time.perf_counter()
            output = apply_model(arguments["input"], arguments["timestep"], **arguments["c"])
            inside.append(time.perf_counter() - started)
            return output

        model.set_model_unet_function_wrapper(timed)
        sigmas = torch.linspace(1.0, 2.0, steps + 1)
        ours = inversion_sampler(InversionSettings(iterations=calls, tolerance=0.0), 3)
        figures = {}
        for name, sampler, run in (
            ("", ours, sigmas),
            ("euler: ", comfy.samplers.sampler_object("euler"), torch.linspace(2.0, 1.0, steps * calls + 1)),
        ):
            inside.clear()
            # A sampling run also loads the model and prepares the conditioning, once: not a call's cost.
            spans: list[float] = []

            def callback(*_: Any, spans: list[float] = spans) -> None:
                spans.append(time.perf_counter())

            conditioning = [[torch.zeros(1, 77, 768), {}]]
            latent = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(0))
            comfy.sample.sample_custom(
                model, torch.zeros_like(latent), 1.0, sampler, run, conditioning, conditioning, latent,
                callback=callback, disable_pbar=True, seed=0,
            )  # fmt: skip
            between = spans[-1] - spans[0]  # from the end of the first call to the end of the last
            figures[f"{name}seconds a call"] = sum(inside[1:]) / (len(inside) - 1)
            figures[f"{name}outside over inside"] = between / sum(inside[1:]) - 1
        return figures
