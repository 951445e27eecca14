"""Stochastic editing: a SAMPLER that adds noise inside the edit's mask, for edits that a deterministic one does not reach."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import comfy.samplers
import comfy.utils
import torch
from comfy_api.v0_0_2 import io
from torch import Tensor

from ..models.cells import check_mask, like_samples, mask_like_samples
from ..models.diffusion.stochastic_step import Scale, stochastic_step
from .inversion_sampler import is_flow


class ReEditStochasticSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReEditStochasticSampler",
            display_name="ReEdit Stochastic Sampler",
            category="ReEdit/guidance",
            description="euler with fresh noise inside the edit's mask only, for an edit that does not come out: the model "
            "gets some freedom there, and the rest of the picture none.",
            search_aliases=["eta", "DDIM eta", "ancestral", "SDE", "noise in mask", "AIDI"],
            inputs=[
                io.Float.Input(
                    "eta",
                    default=0.1,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    round=False,
                    tooltip="DDIM's eta: how much of the noise is new in each step, where the mask is white. 0 is euler, "
                    "bit for bit; 1 is euler_ancestral, for all but flow models.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Of the new noise. The same seed gives the same noise on every device, and with every mask.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where noise is added: white in full, grey less, black none. Without it, the mask of ReEdit "
                    "Blended Guider or ReEdit Instruct Guider, or the latent's noise mask, or everywhere. Another size of "
                    "the same proportions is resized.",
                ),
            ],
            outputs=[io.Sampler.Output()],
        )

    @classmethod
    def execute(cls, eta: float, seed: int, mask: Tensor | None = None) -> io.NodeOutput:
        if not (math.isfinite(eta) and 0 <= eta <= 1):
            raise ValueError(f"eta is {eta}; it must lie between 0 (no new noise) and 1 (all noise is new).")
        if mask is not None and not bool(mask.any()):
            raise ValueError("mask is zero everywhere, so no noise could be added. Paint the part to edit white.")
        return io.NodeOutput(stochastic_sampler(eta, seed, mask))


def stochastic_sampler(eta: float, seed: int, mask: Tensor | None = None) -> comfy.samplers.KSAMPLER:
    """A SAMPLER: Euler's steps, with new noise of DDIM's eta times the mask. mask: (H, W) or (B, H, W), 0..1."""

    def sample_stochastic(
        model: Any,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, Any] | None = None,
        callback: Callable[[dict[str, Any]], None] | None = None,
        disable: bool | None = None,
    ) -> Tensor:
        extra_args = extra_args or {}
        cells = None if mask is None else cells_of(mask, x)
        sampling = model.inner_model.inner_model.model_sampling
        scale: Scale = flow_scale if is_flow(sampling) else torch.ones_like
        deviation = getattr(sampling, "noise_scale", 1.0)  # a few models of the host's have noise of another size

        def step(x: Tensor, denoised: Tensor, noise: Tensor, sigma_from: Tensor, sigma_to: Tensor) -> Tensor:
            where = cells if cells is not None else mask_of_run(model.inner_model, extra_args, x)
            return stochastic_step(x, denoised, noise * deviation, sigma_from, sigma_to, eta * where, scale)

        return sample_with_noise(step, seed, model, x, sigmas, extra_args, callback, disable)

    return comfy.samplers.KSAMPLER(sample_stochastic)


def sample_with_noise(
    step: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor],
    seed: int,
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any],
    callback: Callable[[dict[str, Any]], None] | None,
    disable: bool | None,
) -> Tensor:
    """A model call, then a step, as often as the host's samplers do it. step: of x, D, new noise, sigma and the next sigma.

    The noise is drawn on the CPU, and for the whole latent: the same on every device and with every mask.
    """
    generator = torch.Generator().manual_seed(seed)
    # The host's own noise begins with these numbers at the same seed. Noise that is in x already would not be new.
    torch.randn(x.shape, generator=generator)
    ones = x.new_ones(len(x))
    for number in comfy.utils.model_trange(len(sigmas) - 1, disable=disable):
        sigma = sigmas[number]
        denoised = model(x, sigma * ones, **extra_args)
        if callback is not None:
            callback({"x": x, "i": number, "sigma": sigma, "sigma_hat": sigma, "denoised": denoised})
        noise = torch.randn(x.shape, generator=generator).to(x)
        x = step(x, denoised, noise, sigma, sigmas[number + 1])
    return x


def flow_scale(sigma: Tensor) -> Tensor:
    return 1 - sigma


def cells_of(mask: Tensor, x: Tensor) -> Tensor:
    """The mask averaged over the cells of x. ValueError where it does not fit."""
    if x.ndim not in (4, 5):  # the host hands on several streams as one row of numbers
        raise ValueError(
            "mask does not fit a latent without height and width (several streams in one, or sound). Sample without it."
        )
    return mask_like_samples(check_mask(mask, len(x), *x.shape[-2:]), x)


def mask_of_run(guider: Any, extra_args: dict[str, Any], x: Tensor) -> float | Tensor:
    """The mask of one of our guiders as it is now, or else the latent's noise mask, or else 1: everywhere."""
    found: Tensor | None = getattr(guider, "soft_mask", None)
    if found is not None:
        return like_samples(found.to(x), x)
    found = extra_args.get("denoise_mask")
    return 1.0 if found is None else found
