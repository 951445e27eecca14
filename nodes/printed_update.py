"""EMILIE's update as its paper prints it, as a SAMPLER: for reference, beside the guider that this pack edits with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.samplers
from comfy_api.v0_0_2 import io
from torch import Tensor

from ..models.diffusion.printed_update import AS_PRINTED, OF_DDPM, falls_to_its_end, printed_update
from .inversion_sampler import is_flow
from .stochastic_sampler import cells_of, sample_with_noise


class ReEditPrintedUpdate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReEditPrintedUpdate",
            display_name="ReEdit Printed Update",
            category="ReEdit/emilie",
            description="EMILIE's masked update just as the paper prints it, for reference. Under a mask it makes noise; the "
            "help page shows it, and why. To edit, use ReEdit Instruct Guider.",
            search_aliases=["EMILIE", "DDPM", "gradient control", "literal update"],
            inputs=[
                io.Combo.Input(
                    "coefficients",
                    options=[AS_PRINTED, OF_DDPM],
                    default=AS_PRINTED,
                    tooltip="as printed: the latent minus the mask times the predicted noise, plus new noise. of DDPM: the "
                    "same with the coefficients that the paper leaves out; without a mask this is the sampler ddpm.",
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
                    tooltip="Where the predicted noise is taken off: white in full, grey less, black not at all. Without it, "
                    "everywhere. Another size of the same proportions is resized.",
                ),
            ],
            outputs=[io.Sampler.Output(tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, coefficients: str, seed: int, mask: Tensor | None = None) -> io.NodeOutput:
        if coefficients not in (AS_PRINTED, OF_DDPM):
            raise ValueError(f"coefficients is {coefficients!r}; there are {AS_PRINTED!r} and {OF_DDPM!r}.")
        if mask is not None and not bool(mask.any()):
            raise ValueError("mask is zero everywhere, so nothing could be edited. Paint the part to edit white.")
        return io.NodeOutput(printed_sampler(coefficients, seed, mask))


def printed_sampler(coefficients: str, seed: int, mask: Tensor | None = None) -> comfy.samplers.KSAMPLER:
    """A SAMPLER: EMILIE's algorithm 1, line 9, with or without DDPM's coefficients. mask: (H, W) or (B, H, W), 0..1."""

    def sample_printed(
        model: Any,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, Any] | None = None,
        callback: Callable[[dict[str, Any]], None] | None = None,
        disable: bool | None = None,
    ) -> Tensor:
        check_is_for_ddpm(model.inner_model.inner_model, sigmas)
        cells = 1.0 if mask is None else cells_of(mask, x)

        def step(x: Tensor, denoised: Tensor, noise: Tensor, sigma_from: Tensor, sigma_to: Tensor) -> Tensor:
            return printed_update(x, denoised, noise, sigma_from, sigma_to, cells, coefficients)

        return sample_with_noise(step, seed, model, x, sigmas, extra_args or {}, callback, disable)

    return comfy.samplers.KSAMPLER(sample_printed)


def check_is_for_ddpm(model: Any, sigmas: Tensor) -> None:
    """Raise ValueError for a model or a schedule for which DDPM has no step."""
    if is_flow(model.model_sampling):
        raise ValueError(
            f"model is a {type(model).__name__}, a flow model, but EMILIE's update is written for DDPM. Use a model of "
            "Stable Diffusion 1.5, 2 or XL, or edit with ReEdit Instruct Guider and euler."
        )
    if not falls_to_its_end(sigmas):
        raise ValueError(
            "sigmas rise, or reach 0 before their end, and DDPM has no such step. Connect the sigmas of a scheduler, "
            "unflipped."
        )
