"""The guider of AIDI's blended guidance: an edit branch that is guided where the prompt's words are, and nowhere else."""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import comfy.samplers
import torch
from comfy_execution.utils import get_executing_context
from torch import Tensor

from ..models.cells import brightest_in_cells, check_mask
from ..models.diffusion.attention_maps import RunningMap, soft_mask
from ..models.diffusion.blended_guidance import denoised_towards, guidance_scale
from ..models.diffusion.gradient_mask import keep_outside
from ..models.diffusion.prompt_tokens import WORDS
from ..models.diffusion.trajectory import Trajectory
from ..models.session.cell_change import digest
from .attention_capture import AttentionCapture
from .attention_look import check_picture, look, noise_levels, noisy_latents, seen
from .inversion_sampler import latent_space
from .live_pictures import LivePicture, mask_picture

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
    low: float = 0.25
    high: float = 0.4
    blur: float = 0.0
    inject: float = 0.7
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


@dataclass
class Run:
    """What a guider knows while it samples.

    live: shows the mask. levels: the sampler's sigmas. source: the clean latent as the sampler was given it; given: the
    user's own mask, (B, h, w). keeps_places: as the guider has it. looked: the map of attention that was found before the
    first step. rebuilt, edited: those of the source's and the edit's branch over the steps so far. masks: of each step that
    was begun.
    """

    capture: AttentionCapture
    live: LivePicture
    levels: list[float]
    source: Tensor | None
    given: Tensor | None
    keeps_places: bool
    reconstruction: Reconstruction | None = None
    looked: Tensor | None = None
    rebuilt: RunningMap = field(default_factory=RunningMap)
    edited: RunningMap = field(default_factory=RunningMap)
    masks: dict[int, Tensor] = field(default_factory=dict)

    def step_at(self, sigma: float) -> int:
        """The step that a noise level belongs to; samplers also call the model between two levels."""
        return sum(level >= sigma * (1 - 1e-6) for level in self.levels[1:-1])

    def level_below(self, sigma: float) -> float:
        return next((level for level in self.levels if level < sigma * (1 - 1e-6)), 0.0)


class BlendedGuider(comfy.samplers.CFGGuider):
    """soft_mask: (B, 1, H, W) in 0..1 while it samples, None before the first. masks: each step's, by the result's digest."""

    def __init__(
        self, model: Any, settings: BlendSettings, trajectory: Trajectory | None = None, mask: Tensor | None = None
    ):
        super().__init__(model)
        self.settings = settings
        self.trajectory = trajectory
        self.own_mask = mask
        self.run: Run | None = None
        self.soft_mask: Tensor | None = None
        self.masks: OrderedDict[str, list[Tensor]] = OrderedDict()
        self.set_cfg(settings.cfg)
        context = get_executing_context()
        self.node_id = context.node_id if context else None  # of the node that makes this guider: it shows the mask

    @property
    def reads(self) -> tuple[bool, bool]:
        """Whether the words are looked for in the source, and in the edit: there, too, where only the target has any."""
        if self.own_mask is not None and not self.settings.multiply:
            return False, False
        source, target = (any(entry[WORDS].words for entry in self._marked(name)) for name in ("source", "target"))
        return source, target and (self.settings.both or not source)

    @property
    def keeps_places(self) -> bool:
        """Whether anything takes another's place, so that the source's attention can say where it belongs."""
        known = [entry[WORDS].from_source for entry in self._marked("target")]
        return all(columns is None or bool((columns >= 0).any()) for columns in known)

    def _marked(self, name: str) -> list[dict[str, Any]]:
        return [entry for entry in self.original_conds[name] if WORDS in entry]

    def outer_sample(
        self, noise: Tensor, latent_image: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        source = self._source_latent(noise, latent_image)
        batch, (height, width) = len(latent_image), latent_image.shape[-2:]
        given = None if self.own_mask is None else check_mask(self.own_mask, batch, height, width)
        capture = AttentionCapture(self.model_patcher.model, self.settings.cells)
        capture.install(self.model_options)  # this run's own copy, which the host throws away
        live = LivePicture(len(sigmas) - 1, self.node_id)
        self.run = Run(capture, live, sigmas.tolist(), source, given, self.keeps_places)
        try:
            result = super().outer_sample(noise, latent_image, sampler, sigmas, *args, **kwargs)
            if self.settings.outside == TRAJECTORY and self.soft_mask is not None and source is not None:
                result = keep_outside(result, source, self.soft_mask)
            self._remember(result, self.run)
            return result
        finally:
            live.finish()
            self.run = self.soft_mask = None

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
        assert self.run is not None
        run, model_options, sigma = self.run, model_options or {}, float(timestep[0])
        step = run.step_at(sigma)
        if run.reconstruction is None:
            run.reconstruction = Reconstruction(x, sigma, self.trajectory)
            self._look_ahead(run, x, model_options)
        source, target, negative = self._call(run, run.reconstruction, x, timestep, step, model_options)
        mask = self._mask_now(run, x)
        self.soft_mask = run.masks[step] = mask
        run.live.update(step + 1, lambda: mask_picture(mask))
        scale = guidance_scale(mask, self.cfg)
        conditionings = (self.conds["target"], self.conds.get("negative"))
        edited = comfy.samplers.cfg_function(
            self.inner_model, target, negative, scale, x, timestep, model_options, *conditionings
        )
        if self.settings.outside == PAPER:
            return edited
        if self.settings.outside == TRAJECTORY and self.trajectory is not None:
            lower = run.level_below(sigma)
            source = denoised_towards(x, sigma, self.trajectory.at(lower).to(x), lower)
        return torch.lerp(source, edited, mask)

    def _look_ahead(self, run: Run, x: Tensor, model_options: dict[str, Any]) -> None:
        """Note which tokens are meant, and find them in the source if that is to be done before the first step."""
        for name in ("source", "target"):
            run.capture.know(self.conds[name])
        if self.reads[0] and self.settings.look_ahead and run.source is not None:
            sampling = self.inner_model.model_sampling
            clean = self.inner_model.process_latent_in(run.source.to(x))
            levels = noise_levels(sampling, self.settings.look_ahead)
            states = noisy_latents(sampling, levels, clean, self.trajectory, 0)
            run.looked = look(self.inner_model, self.conds["source"], run.capture, states, model_options)

    def _call(
        self,
        run: Run,
        reconstruction: Reconstruction,
        x: Tensor,
        timestep: Tensor,
        step: int,
        model_options: dict[str, Any],
    ) -> list[Tensor]:
        """The predictions of the three branches, in one call of the host's; zeros for those that nothing needs."""
        settings, capture = self.settings, run.capture
        injects = run.keeps_places and step < settings.inject * (len(run.levels) - 1)
        reads_source, reads_target = self.reads
        per_step = reads_source and not settings.look_ahead
        rebuilds = injects or per_step or settings.outside == RECONSTRUCTION
        negative = None if self.cfg == 1.0 else self.conds.get("negative")
        conditionings = [self.conds["source"] if rebuilds else None, self.conds["target"], negative]
        capture.maps = ({SOURCE: run.rebuilt} if per_step else {}) | ({TARGET: run.edited} if reads_target else {})
        capture.replacing = (SOURCE, TARGET) if injects else None
        capture.latents = {SOURCE: reconstruction.at(float(timestep[0]))} if rebuilds else {}
        capture.was_replaced = False
        outputs = comfy.samplers.calc_cond_batch(self.inner_model, conditionings, x, timestep, model_options)
        if injects and not capture.was_replaced and step == 0:
            logging.warning(
                "ReEdit Blended Guider: inject has no effect. The source and the edit did not go through the model together, "
                "for want of memory or because they are conditioned differently, or this model cannot be read."
            )
        if rebuilds:
            reconstruction.denoised = outputs[SOURCE]
        common = {"timestep": timestep, "input": x, "sigma": timestep, "model": self.inner_model}
        for function in model_options.get("sampler_pre_cfg_function", []):
            pair = {"conds": conditionings[TARGET:], "conds_out": outputs[TARGET:], "cond_scale": self.cfg}
            outputs[TARGET:] = function({**pair, **common, "model_options": model_options})
        return outputs

    def _mask_now(self, run: Run, x: Tensor) -> Tensor:
        """The mask of this step: by the source's attention, the edit's too if asked for, and the mask that was given."""
        reads_source, reads_target = self.reads
        settled = not reads_target and (run.looked is not None or not reads_source)
        if settled and self.soft_mask is not None:
            return self.soft_mask
        found = []
        if reads_source:
            found.append(seen(run.rebuilt, run.capture) if run.looked is None else run.looked)
        if reads_target:
            found.append(seen(run.edited, run.capture))
        settings, (height, width) = self.settings, x.shape[-2:]
        masks = [
            soft_mask(attention, (height, width), settings.low, settings.high, settings.blur) for attention in found
        ]
        within = x.new_ones(1, 1, height, width) if run.given is None else brightest_in_cells(run.given, x)
        return torch.stack(masks).amax(0) * within if masks else within

    def _remember(self, result: Tensor, run: Run) -> None:
        self.masks[digest(result)] = [run.masks[step].cpu() for step in sorted(run.masks)]
        while len(self.masks) > REMEMBERED:
            self.masks.popitem(last=False)
