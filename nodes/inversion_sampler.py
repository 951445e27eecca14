"""The inversion as a SAMPLER of the host's, and as a NOISE that brings any sampler back to where it began."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import comfy.model_sampling
import comfy.samplers
import torch
from torch import Tensor

from ..models.diffusion.fixed_point import NotFinite
from ..models.diffusion.inversion import AfterCall, invert, reachable, relative_errors
from ..models.diffusion.inversion_schedule import FLIPPED_ZERO, check_rising
from ..models.diffusion.inversion_text import verdict
from ..models.diffusion.trajectory import InversionSettings, LatentSpace, Trajectory
from .batch_part import BatchDenoiser

# At sigma 1 a flow model's latent is noise alone, and the host's scaling of it, x / (1 - sigma), is infinite.
HIGHEST_FLOW_SIGMA = 0.9999


def latent_space(model: Any) -> LatentSpace:
    """What noisy latents of this MODEL are, in the host's names: its latent format, and its noise levels and prediction."""
    latent_format = model.get_model_object("latent_format")
    sampling = model.get_model_object("model_sampling")
    kinds = "/".join(kind.__name__ for kind in type(sampling).__bases__)
    return LatentSpace(type(latent_format).__name__, kinds, latent_format.latent_channels)


def is_flow(sampling: Any) -> bool:
    """Whether the host mixes noise in as sigma · noise + (1 - sigma) · latent."""
    return isinstance(sampling, comfy.model_sampling.CONST)


def check_can_be_inverted(model: Any) -> None:
    """Raise ValueError for models that do not go from noise to a picture."""
    image_to_image = (comfy.model_sampling.IMG_TO_IMG, comfy.model_sampling.IMG_TO_IMG_FLOW)
    if isinstance(model.get_model_object("model_sampling"), image_to_image):
        raise ValueError(
            f"model is a {type(model.model).__name__}, which turns one picture into another without noise: there is "
            "nothing to invert. Use a text-to-image or an editing model."
        )


def log_verdict(trajectory: Trajectory) -> None:
    level = logging.WARNING if trajectory.open_steps() else logging.INFO
    logging.log(level, "ReEdit inversion: %s", verdict(trajectory))


def inversion_sampler(
    settings: InversionSettings,
    window: int,
    guesses: Tensor | None = None,
    finished: Callable[[Trajectory], None] = log_verdict,
    check: bool = False,
    after_call: AfterCall = lambda step, sample, residual: None,
) -> comfy.samplers.KSAMPLER:
    """A SAMPLER that takes a clean latent up rising sigmas, each step so that one of the host's euler undoes it.

    A first sigma of 0, or what FlipSigmas writes for it, stands for the 0 at which the sampler will end. `finished` is given
    the trajectory; with check, the error in it is measured. after_call: see `invert`.
    """

    def sample_inversion(
        model: Any,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, Any] | None = None,
        callback: Callable[[dict[str, Any]], None] | None = None,
        disable: bool | None = None,
    ) -> Tensor:
        x, sigmas = clean_start(model.inner_model.inner_model.model_sampling, x, sigmas)
        how = settings_for(model.inner_model, settings)
        evaluate = BatchDenoiser(model, x, extra_args or {})
        step, prepared, measuring = 0, -1, False

        def denoise(y: Tensor, sigma: Tensor, samples: list[int]) -> Tensor:
            nonlocal prepared
            comfy.model_management.throw_exception_if_processing_interrupted()
            if prepared != step:
                set_keyframes(model.inner_model, sigmas[step + 1 :].flip(0))
                prepared = step
            denoised = evaluate(y, sigma, samples)
            if callback is not None and not measuring:
                shown = {"x": evaluate.x, "denoised": evaluate.denoised, "sigma": sigma, "sigma_hat": sigma}
                callback({"i": step, **shown})
            return denoised

        def after_step(done: int, _: Tensor) -> None:
            nonlocal step
            step = done + 1

        def before_check(next_step: int) -> None:
            nonlocal step, measuring
            step, measuring = next_step, True  # the progress bar has arrived, and never goes back

        try:
            states, residuals = invert(
                denoise, x, sigmas, how, window, guesses, after_step=after_step, after_call=after_call
            )
        except NotFinite as error:
            raise ValueError(
                f"{error} Nothing was changed. A half-precision model overflows like this: try it in float32 or bfloat16, "
                "or without the last node that patched it."
            ) from error
        space = latent_space(model.inner_model.model_patcher)
        measured = relative_errors(denoise, states, sigmas, before_check) if check else None
        finished(Trajectory(sigmas.cpu(), torch.stack(states).cpu(), residuals, space, how, measured))
        return states[-1]

    return comfy.samplers.KSAMPLER(sample_inversion)


def settings_for(guider: Any, settings: InversionSettings) -> InversionSettings:
    """The settings with the guider's own guidance, and a tolerance that its model can meet."""
    tolerance = reachable(settings.tolerance, guider.inner_model.get_dtype_inference())
    return replace(settings, tolerance=tolerance, cfg=float(getattr(guider, "cfg", settings.cfg)))


def set_keyframes(guider: Any, sigmas: Tensor) -> None:
    """Bring the keyframes of the conditioning's hooks to where the sampler has them at the last of these falling sigmas.

    The host moves keyframes on as sigma falls, and never back: on the way up they would all stay at their last.
    """
    conditioning = getattr(guider, "conds", None) or {}
    groups = [entry["hooks"] for entries in conditioning.values() for entry in entries if entry.get("hooks")]
    schedules = {id(hook.hook_keyframe): hook.hook_keyframe for group in groups for hook in group.hooks}
    schedules = {key: keyframes for key, keyframes in schedules.items() if len(keyframes.keyframes) > 1}
    if schedules:
        guider.inner_model.current_patcher.clean_hooks()  # the host keeps the weights of the keyframe before
    for keyframes in schedules.values():
        keyframes.reset()
        for sigma in sigmas:
            keyframes.prepare_current_keyframe(sigma, {"sample_sigmas": sigmas})


def clean_start(sampling: Any, x: Tensor, sigmas: Tensor) -> tuple[Tensor, Tensor]:
    """The latent and the sigmas to invert by, FlipSigmas' first value back at 0. ValueError for sigmas that do not do."""
    check_rising(sigmas)
    if is_flow(sampling) and float(sigmas[-1]) >= 1:
        raise ValueError(
            "The last sigma is 1, where nothing of a flow model's latent is left that Disable Noise could hand on. "
            "Use ReEdit Invert, which returns its noise as NOISE too, or split off the first sigma."
        )
    if 0 < float(sigmas[0]) <= FLIPPED_ZERO:
        x = sampling.inverse_noise_scaling(sigmas[0], x)
        sigmas = torch.cat([sigmas.new_zeros(1), sigmas[1:]])
    return x, sigmas


class InvertedNoise:
    """A NOISE: added to a latent at the trajectory's highest sigma, as every sampler of the host does, it gives its end."""

    def __init__(self, trajectory: Trajectory, model: Any):
        self.trajectory = trajectory
        self.model = model
        self.seed = 0

    def generate_noise(self, input_latent: dict[str, Any]) -> Tensor:
        samples = input_latent["samples"]
        self.trajectory.check_fits(latent_space(self.model), tuple(samples.shape))
        latent = samples.float()
        if bool(latent.any()):  # the host, too, hands an empty latent to its samplers as it is
            latent = self.model.model.process_latent_in(latent)
        sampling = self.model.get_model_object("model_sampling")
        sigma = self.trajectory.sigmas[-1]
        whole = SimpleNamespace(inner_model=SimpleNamespace(model_sampling=sampling))
        max_denoise = comfy.samplers.Sampler().max_denoise(whole, self.trajectory.sigmas.flip(0))
        # The host mixes noise and latent by a rule of each model family, always as a · noise + b.
        factor = sampling.noise_scaling(sigma, torch.ones(1), torch.zeros(1), max_denoise)
        offset = sampling.noise_scaling(sigma, torch.zeros_like(latent), latent, max_denoise)
        return (self.trajectory.states[-1] - offset) / factor
