"""The guider of AIDI's blended guidance: an edit branch that is guided where the prompt's words are, and nowhere else."""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ..models.cells import check_mask, mask_like_samples
from ..models.diffusion.attention_maps import RunningMap, soft_mask
from ..models.diffusion.blended_guidance import denoised_towards, guidance_scale
from ..models.diffusion.gradient_mask import keep_outside
from ..models.diffusion.prompt_tokens import WORDS
from ..models.diffusion.trajectory import Trajectory
from ..models.session.cell_change import digest
from .attention_capture import AttentionCapture
from .attention_look import check_picture, look, noise_levels, noisy_latents, seen
from .inversion_sampler import latent_space

SOURCE, TARGET, NEGATIVE = range(3)  # the branches' numbers in a call of the model
TRAJECTORY, RECONSTRUCTION, PAPER = "trajectory", "source", "paper"  # what is followed outside the mask
SAME_PICTURE = 1e-2  # relative: a trajectory's first latent and the sampler's own are the same up to rounding
REMEMBERED = 4  # runs of one guider whose masks are kept


@dataclass(frozen=True)
class BlendSettings:
    """The widgets. inject: the share of the steps, from the first, in which the edit attends as the source does."""

    cfg: float
    outside: str = TRAJECTORY
    both: bool = False
    look_ahead: int = 3
    low: float = 0.2
    high: float = 0.5
    blur: float = 0.0
    inject: float = 0.8
    cells: int | None = None
    multiply: bool = False


class Reconstruction:
    """The source branch's own noisy latent, along a stored trajectory or by Euler's steps from where the sampler began."""

    def __init__(self, x: Tensor, sigma: float, trajectory: Trajectory | None):
        self.trajectory = trajectory
        self.x, self.sigma = x, sigma
        self.denoised: Tensor | None = None

    def at(self, sigma: float) -> Tensor:
        if self.trajectory is not None:
            return self.trajectory.at(sigma).to(self.x)
        if self.denoised is not None and sigma != self.sigma:
            self.x = self.x + (sigma - self.sigma) * (self.x - self.denoised) / self.sigma
            self.sigma, self.denoised = sigma, None
        return self.x


class BlendedGuider(comfy.samplers.CFGGuider):
    """soft_mask: (B, 1, H, W) in 0..1 while it samples, None before the first. masks: each step's, by the result's digest."""

    def __init__(
        self, model: Any, settings: BlendSettings, trajectory: Trajectory | None = None, mask: Tensor | None = None
    ):
        super().__init__(model)
        self.settings = settings
        self.trajectory = trajectory
        self.own_mask = mask
        self.soft_mask: Tensor | None = None
        self.masks: OrderedDict[str, list[Tensor]] = OrderedDict()
        self.set_cfg(settings.cfg)

    @property
    def reads(self) -> tuple[bool, bool]:
        """Whether the words are looked for in the source, and in the edit: there, too, where only the target has any."""
        if self.own_mask is not None and not self.settings.multiply:
            return False, False
        source, target = (
            any(WORDS in entry and entry[WORDS].words for entry in self.original_conds[name])
            for name in ("source", "target")
        )
        return source, target and (self.settings.both or not source)

    def outer_sample(
        self, noise: Tensor, latent_image: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        source = self._source_latent(noise, latent_image)
        batch, (height, width) = len(latent_image), latent_image.shape[-2:]
        self.given = None if self.own_mask is None else check_mask(self.own_mask, batch, height, width)
        self.levels = sigmas.tolist()
        self.capture = AttentionCapture(self.model_patcher.model, self.settings.cells)
        self.capture.install(self.model_options)  # this run's own copy, which the host throws away
        self.soft_mask, self.reconstruction, self.looked, self.edited = None, None, None, RunningMap()
        self.rebuilt, self.steps = RunningMap(), {}
        self.clean = None if source is None else self.model_patcher.model.process_latent_in(source)
        try:
            result = super().outer_sample(noise, latent_image, sampler, sigmas, *args, **kwargs)
            if self.settings.outside == TRAJECTORY and self.soft_mask is not None:
                result = keep_outside(result, source, self.soft_mask)
            self._remember(result)
            return result
        finally:
            del self.capture, self.reconstruction, self.looked, self.edited, self.rebuilt, self.clean, self.steps
            self.soft_mask = None

    def _source_latent(self, noise: Tensor, latent_image: Tensor) -> Tensor | None:
        """The clean source, as the sampler was given it or as the trajectory began; None if there is neither."""
        check_picture(latent_image)
        is_clean = bool(noise.any()) and bool(latent_image.any())  # with Disable Noise the latent is the noisy one
        if self.trajectory is None:
            if is_clean:
                return latent_image
            if self.reads[0] and self.settings.look_ahead:
                raise ValueError(
                    "look_ahead needs the clean latent, but the sampler was given a noisy one. Connect trajectory, or give "
                    "the sampler ReEdit Invert's noise and the clean latent, or set look_ahead to 0."
                )
            return None
        self.trajectory.check_fits(latent_space(self.model_patcher), tuple(latent_image.shape))
        model = self.model_patcher.model
        began = model.model_sampling.inverse_noise_scaling(self.trajectory.sigmas[0], self.trajectory.states[0])
        if not is_clean:
            return model.process_latent_out(began)
        difference = (model.process_latent_in(latent_image.float().cpu()) - began).norm() / began.norm()
        if difference > SAME_PICTURE:
            raise ValueError(
                f"trajectory is of another picture than the sampler's latent (they differ by {float(difference):.0%}). "
                "Give the sampler the latent that was inverted."
            )
        return latent_image

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: int | None = None
    ) -> Tensor:
        model_options = model_options or {}
        sigma = float(timestep[0])
        step = max(number for number, level in enumerate(self.levels) if level >= sigma * (1 - 1e-6) or number == 0)
        if self.reconstruction is None:
            self._begin(x, sigma, model_options)
        source, target, negative = self._call(x, timestep, step, model_options)
        mask = self._mask_now(x)
        self.soft_mask = self.steps[step] = mask
        scale = guidance_scale(mask, self.cfg)
        conditionings = (self.conds["target"], self.conds.get("negative"))
        edited = comfy.samplers.cfg_function(
            self.inner_model, target, negative, scale, x, timestep, model_options, *conditionings
        )
        if self.settings.outside == PAPER:
            return edited
        if self.settings.outside == TRAJECTORY:
            source = self._towards_trajectory(x, sigma)
        return torch.lerp(source, edited, mask)

    def _begin(self, x: Tensor, sigma: float, model_options: dict[str, Any]) -> None:
        """Before the first step: which tokens are meant, where the source branch begins, and the look ahead."""
        self.reconstruction = Reconstruction(x, sigma, self.trajectory)
        for name in ("source", "target"):
            self.capture.know(self.conds[name])
        if self.reads[0] and self.settings.look_ahead:
            sampling = self.inner_model.model_sampling
            levels = noise_levels(sampling, self.settings.look_ahead)
            states = noisy_latents(sampling, levels, self.clean.to(x), self.trajectory, 0)
            self.looked = look(self.inner_model, self.conds["source"], self.capture, states, model_options)

    def _call(self, x: Tensor, timestep: Tensor, step: int, model_options: dict[str, Any]) -> list[Tensor]:
        """The predictions of the three branches, in one call of the host's; zeros for those that nothing needs."""
        settings, capture = self.settings, self.capture
        injects = step < settings.inject * (len(self.levels) - 1)
        reads_source, reads_target = self.reads
        per_step = reads_source and not settings.look_ahead
        rebuilds = injects or per_step or settings.outside == RECONSTRUCTION
        negative = None if self.cfg == 1.0 else self.conds.get("negative")
        conditionings = [self.conds["source"] if rebuilds else None, self.conds["target"], negative]
        capture.maps = ({SOURCE: self.rebuilt} if per_step else {}) | ({TARGET: self.edited} if reads_target else {})
        capture.replacing = (SOURCE, TARGET) if injects else None
        capture.latents = {SOURCE: self.reconstruction.at(float(timestep[0]))} if rebuilds else {}
        capture.was_replaced = False
        outputs = comfy.samplers.calc_cond_batch(self.inner_model, conditionings, x, timestep, model_options)
        if injects and not capture.was_replaced and step == 0:
            logging.warning(
                "ReEdit Blended Guider: the source and the edit did not go through the model together, for want of memory or "
                "because they are conditioned differently. inject has no effect."
            )
        if rebuilds:
            self.reconstruction.denoised = outputs[SOURCE]
        for function in model_options.get("sampler_pre_cfg_function", []):
            pair = {
                "conds": conditionings[TARGET:],
                "conds_out": outputs[TARGET:],
                "cond_scale": self.cfg,
                "timestep": timestep,
            }
            outputs[TARGET:] = function(
                {**pair, "input": x, "sigma": timestep, "model": self.inner_model, "model_options": model_options}
            )
        return outputs

    def _mask_now(self, x: Tensor) -> Tensor:
        """The mask of this step: by the source's attention, the edit's too if asked for, and the mask that was given."""
        given = None if self.given is None else mask_like_samples(self.given, x)
        reads_source, reads_target = self.reads
        found = []
        if reads_source:
            found.append(seen(self.rebuilt, self.capture) if self.looked is None else self.looked)
        if reads_target:
            found.append(seen(self.edited, self.capture))
        settings = self.settings
        shape = (tuple(x.shape[-2:]), settings.low, settings.high, settings.blur)
        masks = [soft_mask(attention, *shape) for attention in found]
        if not masks:
            return given
        mask = torch.stack(masks).amax(0)
        return mask if given is None else mask * given

    def _towards_trajectory(self, x: Tensor, sigma: float) -> Tensor:
        following = [level for level in self.levels if level < sigma * (1 - 1e-6)]
        lower = following[0] if following else 0.0
        return denoised_towards(x, sigma, self.trajectory.at(lower).to(x), lower)

    def _remember(self, result: Tensor) -> None:
        self.masks[digest(result)] = [self.steps[step].cpu() for step in sorted(self.steps)]
        while len(self.masks) > REMEMBERED:
            self.masks.popitem(last=False)
