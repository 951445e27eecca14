"""Inversion: from a picture's latent back to the noise that the model would make it from, and how exact that is."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch
from comfy_api.v0_0_2 import io, ui
from torch import Tensor

from ..models.cells import check_samples
from ..models.diffusion.inversion import METHODS, AfterCall
from ..models.diffusion.inversion_plot import plot_inversion
from ..models.diffusion.inversion_schedule import inversion_sigmas
from ..models.diffusion.inversion_text import describe, error_of, verdict
from ..models.diffusion.residual_curve import ResidualCurve
from ..models.diffusion.trajectory import InversionSettings, Trajectory
from ..models.session.cell_change import digest
from .emilie import Conditioning, check_channels
from .inversion_sampler import (
    HIGHEST_FLOW_SIGMA,
    InvertedNoise,
    check_can_be_inverted,
    inversion_sampler,
    is_flow,
    latent_space,
    log_verdict,
)
from .live_pictures import LivePicture

TRAJECTORY = io.Custom("REEDIT_TRAJECTORY")
NOISY = "reedit_noisy"  # a LATENT's mark: {"sigma", "digest" of the noisy samples}
LARGEST_CLEAN = 4.0  # root mean square: clean latents lie near 1 in every model's own scale
INVERT_CLEAN = "Invert the clean latent: the one that the VAE or a finished sampler gave."
LOWEST, ZERO = "lowest sigma", "zero"


def solver_inputs(iterations: int) -> list[Any]:
    """The widgets that say how each step is solved."""
    return [
        io.Combo.Input(
            "method",
            options=list(METHODS),
            default="anderson",
            tooltip="How each step is solved. anderson needs the fewest model calls; empirical keeps less in memory; damped "
            "and plain are there to compare; euler is DDIM inversion, uncorrected, at one call a step.",
        ),
        io.Int.Input(
            "iterations",
            default=iterations,
            min=1,
            max=200,
            tooltip="At most so many model calls in one step. A step ends sooner once it is within the tolerance.",
        ),
        io.Float.Input(
            "tolerance",
            default=1e-4,
            min=0.0,
            max=1.0,
            step=1e-7,
            round=False,
            tooltip="How far, relative to the latent, a step may miss. 1e-4 is below what a VAE shows. A model in half "
            "precision cannot meet less than a quarter of its rounding (2e-4 in float16, 2e-3 in bfloat16), which is then "
            "taken. 0 goes on until nothing improves.",
        ),
        io.Int.Input(
            "history",
            default=3,
            min=1,
            max=20,
            advanced=True,
            tooltip="How many earlier iterates anderson combines with the last one. 5 helps hard steps.",
        ),
    ]


class ReEditInvert(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReEditInvert",
            display_name="ReEdit Invert",
            category="ReEdit/inversion",
            description="Finds the noise from which the model, sampled with euler, makes exactly this latent: each step is "
            "solved until the sampler would undo it, and the error that is left is shown.",
            search_aliases=["unsampler", "unsampling", "DDIM inversion", "AIDI", "FlipSigmas", "reverse noise"],
            inputs=[
                io.Model.Input("model", tooltip="Sample back with the same model, patched in the same way."),
                io.Conditioning.Input("positive", tooltip="What the picture shows, in words: the source prompt."),
                io.Latent.Input("samples", tooltip="The clean latent to invert."),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="Only needed, and only computed, where cfg is not 1."
                ),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="The sampler's own sigmas, falling, not flipped. Without them steps and scheduler below.",
                ),
                io.Int.Input("steps", default=20, min=1, max=1000, tooltip="Ignored where sigmas is connected."),
                io.Combo.Input(
                    "scheduler",
                    options=comfy.samplers.SCHEDULER_NAMES,
                    default="karras",
                    tooltip="Ignored where sigmas is connected. karras takes even steps, which are the easiest to invert.",
                ),
                io.Float.Input(
                    "cfg",
                    default=1.0,
                    min=0.0,
                    max=30.0,
                    step=0.1,
                    tooltip="Guidance while inverting. 1 is exact and takes half the time; sample with the same value to get "
                    "the picture back.",
                ),
                *solver_inputs(20),
                io.Int.Input(
                    "calls",
                    default=0,
                    min=0,
                    max=100000,
                    advanced=True,
                    tooltip="A budget of model calls for the whole inversion, shared out to where the error is. 0: no limit "
                    "but iterations.",
                ),
                io.Combo.Input(
                    "clean_at",
                    options=[LOWEST, ZERO],
                    default=LOWEST,
                    advanced=True,
                    tooltip="Where the clean latent lives. lowest sigma: at the model's lowest noise level, as Stable "
                    "Diffusion's DDIM has it; sampling ends there. zero: the last step, down to 0, is inverted too, which a "
                    "picture may not have.",
                ),
                io.Float.Input(
                    "largest_ratio",
                    default=2.5,
                    min=1.1,
                    max=10000.0,
                    step=0.1,
                    advanced=True,
                    tooltip="Steps whose sigmas differ by more than this factor are divided: they cannot be inverted well. "
                    "Sample with the sigmas that come out. A large value keeps the schedule as it is.",
                ),
                TRAJECTORY.Input(
                    "trajectory",
                    optional=True,
                    tooltip="An earlier inversion to start from, with the same steps: to go on with a smaller tolerance, or "
                    "after a small change.",
                ),
                io.Boolean.Input(
                    "check",
                    default=False,
                    tooltip="Sample the same steps back at once, and report the true error and not only the one to expect: "
                    "one more model call a step.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latent",
                    tooltip="The noisy latent: for SamplerCustomAdvanced with DisableNoise, and the sigmas beside it.",
                ),
                io.Noise.Output(
                    display_name="noise",
                    tooltip="The same as NOISE: the sampler then gets the clean latent, so that masks have what to keep.",
                ),
                io.Sigmas.Output(
                    display_name="sigmas", tooltip="To sample with: falling, as the inversion passed them."
                ),
                TRAJECTORY.Output(display_name="trajectory", tooltip="Every step, for ReEdit Inversion Report."),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Conditioning,
        samples: dict[str, Any],
        steps: int,
        scheduler: str,
        cfg: float,
        method: str,
        iterations: int,
        tolerance: float,
        history: int = 3,
        calls: int = 0,
        clean_at: str = LOWEST,
        largest_ratio: float = 2.5,
        check: bool = False,
        negative: Conditioning | None = None,
        sigmas: Tensor | None = None,
        trajectory: Trajectory | None = None,
    ) -> io.NodeOutput:
        latent = check_clean(model, samples)
        sampling = model.get_model_object("model_sampling")
        falling = comfy.samplers.calculate_sigmas(sampling, scheduler, steps) if sigmas is None else sigmas.cpu()
        rising = inversion_sigmas(falling, float(sampling.sigma_min), clean_at == ZERO, largest_ratio)
        if is_flow(sampling):
            rising[-1] = rising[-1].clamp(max=HIGHEST_FLOW_SIGMA)
        if trajectory is not None:
            trajectory.check_fits(latent_space(model), tuple(latent.shape))
            trajectory.check_sigmas(rising)
        settings = InversionSettings(method, iterations, tolerance, calls or None)
        found: list[Trajectory] = []
        guesses = None if trajectory is None else trajectory.states
        show = live_curve(len(rising) - 1, None if method == "euler" else tolerance)
        sampler = inversion_sampler(settings, history, guesses, found.append, check, show)
        noisy = sample_upwards(guider_of(model, positive, negative, cfg), sampler, rising, latent, samples)
        log_verdict(found[0])
        result = {**samples, "samples": noisy, NOISY: {"sigma": float(rising[-1]), "digest": digest(noisy)}}
        noise = InvertedNoise(found[0], model)
        return io.NodeOutput(result, noise, rising.flip(0), found[0], describe(found[0]))


def live_curve(steps: int, tolerance: float | None) -> AfterCall:
    """What shows the residual on the node after every model call of an inversion."""
    curve, live = ResidualCurve(steps, tolerance), LivePicture(steps)

    def show(step: int, sample: int, residual: float) -> None:
        curve.add(step, sample, residual)
        live.update(step + 1, curve.draw)

    return show


def check_clean(model: Any, samples: dict[str, Any]) -> Tensor:
    """The latent's samples, in the model's dimensions. ValueError unless they are a clean latent of the model's."""
    check_can_be_inverted(model)
    given = samples["samples"]
    check_samples(given)
    latent = comfy.sample.fix_empty_latent_channels(model, given)
    if not bool(latent.any()):
        raise ValueError("samples is an empty latent: there is no picture to invert. Encode one.")
    check_channels(model.get_model_object("latent_format").latent_channels, latent)
    mark = samples.get(NOISY)
    if mark is not None and mark["digest"] == digest(given):
        raise ValueError(f"samples is already noisy (at sigma {mark['sigma']:.4g}). {INVERT_CLEAN}")
    size = float(model.model.process_latent_in(latent.float()).square().mean().sqrt())
    if size > LARGEST_CLEAN:
        raise ValueError(
            f"samples looks noisy: its root mean square is {size:.3g}, where a clean latent's is near 1. {INVERT_CLEAN}"
        )
    return latent


def guider_of(
    model: Any, positive: Conditioning, negative: Conditioning | None, cfg: float
) -> comfy.samplers.CFGGuider:
    """The host's guider; at cfg 1 it never computes the negative prompt. ValueError where one is needed and missing."""
    if negative is None and cfg != 1.0:
        raise ValueError(f"cfg is {cfg:g}, which needs a negative prompt. Connect negative, or set cfg to 1.")
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": positive} | ({} if negative is None else {"negative": negative}))
    guider.set_cfg(cfg)
    return guider


def sample_upwards(guider: Any, sampler: Any, sigmas: Tensor, latent: Tensor, options: dict[str, Any]) -> Tensor:
    """Run an inversion sampler as the host runs any: no noise, and the latent's noise mask. It shows its progress itself."""
    return guider.sample(
        torch.zeros_like(latent),
        latent,
        sampler,
        sigmas,
        denoise_mask=options.get("noise_mask"),
        disable_pbar=True,
        seed=0,
    ).to(comfy.model_management.intermediate_device())


class ReEditInversionSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReEditInversionSampler",
            display_name="ReEdit Inversion Sampler",
            category="ReEdit/inversion",
            description="A sampler for graphs that invert with FlipSigmas: put it where euler was. Each step is solved until "
            "euler, on the sigmas as they were, undoes it.",
            search_aliases=["FlipSigmas", "unsampler", "DDIM inversion", "AIDI"],
            inputs=solver_inputs(20),
            outputs=[io.Sampler.Output()],
        )

    @classmethod
    def execute(cls, method: str, iterations: int, tolerance: float, history: int = 3) -> io.NodeOutput:
        return io.NodeOutput(inversion_sampler(InversionSettings(method, iterations, tolerance), history))


class ReEditInversionReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReEditInversionReport",
            display_name="ReEdit Inversion Report",
            category="ReEdit/inversion",
            description="Shows how exact an inversion is: what each step misses, what it cost, the error to expect, and "
            "what to change where it did not converge.",
            search_aliases=["residual", "convergence", "inversion plot"],
            inputs=[TRAJECTORY.Input("trajectory", tooltip="From ReEdit Invert.")],
            outputs=[
                io.Image.Output(display_name="plot"),
                io.String.Output(display_name="report"),
                io.Float.Output(
                    display_name="error",
                    tooltip="Root mean square, relative to the latent: what sampling the same steps misses, for the worst of "
                    "the batch. Measured with check in ReEdit Invert, otherwise predicted; NaN (not a number) where nobody "
                    "can say: method euler, unchecked.",
                ),
                io.Boolean.Output(display_name="converged", tooltip="Whether every step is within the tolerance."),
                io.Int.Output(display_name="model_calls"),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, trajectory: Trajectory) -> io.NodeOutput:
        plot = plot_inversion(trajectory)[None]
        report = describe(trajectory)
        shown = {**ui.PreviewImage(plot, cls=cls).as_dict(), "text": (verdict(trajectory), report)}
        return io.NodeOutput(
            plot, report, error_of(trajectory), not trajectory.open_steps(), trajectory.total_calls, ui=shown
        )
