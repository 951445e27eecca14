"""The guider of masked instructions: EMILIE's gradient mask on the text's part of three-way guidance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ..models.cells import brightest_in_cells, check_mask, mask_like_samples
from ..models.diffusion.gradient_mask import keep_outside, known_for_run, mask_denoised
from ..models.diffusion.instruct_guidance import (
    GuidanceScales,
    cells_of_others,
    guidance_scales,
    guided_by_picture,
    guided_by_text,
    shares,
    union,
    whole_shares,
)
from .branch_latents import BranchLatents
from .picture_conditioning import Conditioning, with_picture, with_values, without_picture

TEXT_TERM, PREDICTION, RESULT = "text term", "prediction", "result"  # what the masks are laid on


@dataclass(frozen=True, eq=False)  # tensors have no one answer to ==
class Instruction:
    """One instruction's mask, (B, H, W) in 0..1 or None for everywhere, and its two scales."""

    mask: Tensor | None
    text_scale: float
    image_scale: float


@dataclass(frozen=True)
class InstructSettings:
    """The widgets. image_scale: of cells that no instruction has. limit: a mask inside which all instructions stay.

    alone: the share of the steps, from the first, in which no instruction sees what the others make. Models that were taught
    one edit at a time would see an edit done, and leave theirs.
    """

    image_scale: float
    mask_on: str = TEXT_TERM
    strict: bool = True
    alone: float = 0.6
    limit: Tensor | None = None


@dataclass
class Run:
    """What a guider knows while it samples. cells: (B, 1, [1,] H, W), how far each is edited; None: all of them, in full.

    known: the picture's latent, with the batch of the sampler's; scaled: the same as the model has it, once it is wanted.
    noise: what the picture is seen under. others: for each instruction the cells that others have, (K, B, 1, [1,] H, W);
    they are hidden from it above the noise level hides_above; None: of a single one. views: what each instruction sees.
    """

    scales: GuidanceScales
    cells: Tensor | None
    known: Tensor
    noise: Tensor
    others: Tensor | None
    hides_above: float
    views: BranchLatents
    scaled: Tensor | None = None


class InstructGuider(comfy.samplers.CFGGuider):
    """soft_mask: how far each cell is edited, (B, 1, H, W), while it samples; None where there is no mask.

    instructions: each CONDITIONING with its mask and scales. kind: how the model takes a picture (picture_conditioning).
    """

    def __init__(
        self,
        model: Any,
        kind: str,
        instructions: Sequence[tuple[Conditioning, Instruction]],
        negative: Conditioning,
        picture: Tensor,
        settings: InstructSettings,
    ):
        super().__init__(model)
        self.instructions = [instruction for _, instruction in instructions]
        self.picture = picture
        self.settings = settings
        self.run: Run | None = None
        self.soft_mask: Tensor | None = None
        self.set_cfg(max(instruction.text_scale for instruction in self.instructions))
        negative = with_values(negative, {"prompt_type": "negative"})
        # The host looks for ControlNets that the other prompts lack under the name "positive".
        self.texts = ["positive", *(f"positive {number}" for number in range(2, len(instructions) + 1))]
        given = {
            name: with_picture(kind, conditioning, picture)
            for name, (conditioning, _) in zip(self.texts, instructions, strict=True)
        }
        given |= {"picture": with_picture(kind, negative, picture), "negative": without_picture(negative)}
        self.inner_set_conds(given)

    def outer_sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Any,
        sigmas: Tensor,
        denoise_mask: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        self.run = run = self._begin(noise, latent_image, sigmas.tolist())
        run.views.install(self.model_options)  # this run's own copy, which the host throws away
        # A picture in a model of videos has a dimension more, which a mask has not.
        self.soft_mask = None if run.cells is None else run.cells.reshape(len(run.cells), 1, *run.cells.shape[-2:])
        # A run that stops above sigma 0 hands on a noisy latent, in which the clean one has no place yet.
        finished = float(sigmas[-1]) == 0.0
        try:
            # A copy: some samplers (uni_pc) write into their sigmas, which a node further on may still need.
            result = super().outer_sample(noise, latent_image, sampler, sigmas.clone(), denoise_mask, *args, **kwargs)
        finally:
            self.run = self.soft_mask = None
        if run.cells is None or not finished:
            return result
        if self.settings.mask_on == RESULT:
            result = mask_denoised(result, run.known, run.cells)
        return keep_outside(result, run.known, run.cells, denoise_mask) if self.settings.strict else result

    def _begin(self, noise: Tensor, latent_image: Tensor, sigmas: list[float]) -> Run:
        """The run's masks and scales, on the latent's grid. ValueError where picture, latent and masks do not fit."""
        known = known_for_run(self.picture, latent_image, "the instruct guider")
        # An edit has to reach all of a thing's rim; but where two instructions meet in a cell, each has what it covers of it.
        masks, areas = self._masks(latent_image, brightest_in_cells), self._masks(latent_image, mask_like_samples)
        parts = shares(masks, areas) if self.settings.mask_on == TEXT_TERM else whole_shares(areas)
        scales = guidance_scales(
            parts,
            [instruction.text_scale for instruction in self.instructions],
            [instruction.image_scale for instruction in self.instructions],
            self.settings.image_scale,
        )
        cells = union(masks)
        if not bool(noise.any()):  # Disable Noise: the latent is the noisy one
            noise = torch.randn(noise.shape, generator=torch.Generator().manual_seed(0))
        return Run(
            scales,
            None if bool((cells == 1).all()) else cells,
            known,
            noise,
            cells_of_others(masks, areas) if len(masks) > 1 else None,
            sigmas[int(self.settings.alone * (len(sigmas) - 1))],
            BranchLatents(),
        )

    def _masks(self, samples: Tensor, in_cells: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The instructions' masks on a latent's grid, (K, B, 1, [1,] H, W). in_cells: what a mask is in a cell."""
        whole = samples.new_ones(len(samples), 1, *[1] * (samples.ndim - 4), *samples.shape[-2:])

        def brought(mask: Tensor | None) -> Tensor:
            if mask is None:
                return whole
            return in_cells(check_mask(mask, len(samples), *samples.shape[-2:]), samples).expand_as(whole)

        masks = torch.stack([brought(instruction.mask) for instruction in self.instructions])
        return masks * brought(self.settings.limit)

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: int | None = None
    ) -> Tensor:
        assert self.run is not None
        run, model_options = self._on_device(self.run, x), model_options or {}
        run.views.latents = self._views(run, x, timestep)
        texts, picture, unconditional = self._call(run.scales, x, timestep, model_options)
        base = guided_by_picture(unconditional, picture, run.scales)
        # As the host's two-way guidance from `base` to `edited`, so that patches of that guidance take part.
        edited = guided_by_text(base, picture, texts, run.scales.texts / self.cfg)
        conditionings = [self.conds["positive"], self.conds["picture"]]
        outputs = [edited, base]
        common = {"timestep": timestep, "input": x, "sigma": timestep, "model": self.inner_model}
        for function in model_options.get("sampler_pre_cfg_function", []):
            pair = {"conds": conditionings, "conds_out": outputs, "cond_scale": self.cfg}
            outputs = function({**pair, **common, "model_options": model_options})
        denoised = comfy.samplers.cfg_function(
            self.inner_model, *outputs, self.cfg, x, timestep, model_options, *conditionings
        )
        # Held at every step, and not in the end alone, the outside is what the inside is drawn to fit.
        held = self.settings.mask_on == PREDICTION or (self.settings.mask_on == TEXT_TERM and self.settings.strict)
        if not held or run.cells is None or run.scaled is None:
            return denoised
        return mask_denoised(denoised, run.scaled, run.cells)

    def _views(self, run: Run, x: Tensor, timestep: Tensor) -> dict[int, Tensor]:
        """What each instruction sees: the picture as it was, under as much noise, where only others act."""
        if run.others is None or float(timestep[0]) <= run.hides_above:
            return {}
        before = self.inner_model.scale_latent_inpaint(x=x, sigma=timestep, noise=run.noise, latent_image=run.scaled)
        return {number: torch.lerp(x, before, others) for number, others in enumerate(run.others)}

    def _on_device(self, run: Run, x: Tensor) -> Run:
        if run.scaled is None or run.scaled.device != x.device:
            run.scaled = self.inner_model.process_latent_in(run.known.to(x))
            run.scales = GuidanceScales(run.scales.picture.to(x), run.scales.texts.to(x))
            run.cells = None if run.cells is None else run.cells.to(x)
            run.others = None if run.others is None else run.others.to(x)
            run.noise = run.noise.to(x)
        return run

    def _call(
        self, scales: GuidanceScales, x: Tensor, timestep: Tensor, model_options: dict[str, Any]
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """The predictions of all prompts in one call of the host's: zeros for those that have no weight."""
        all_of_them = model_options.get("disable_cfg1_optimization", False)
        picture = self.conds["picture"] if all_of_them or scales.needs_picture else None
        unconditional = self.conds["negative"] if all_of_them or scales.needs_unconditional else None
        conditionings = [*(self.conds[name] for name in self.texts), picture, unconditional]
        *texts, of_picture, of_nothing = comfy.samplers.calc_cond_batch(
            self.inner_model, conditionings, x, timestep, model_options
        )
        return texts, of_picture, of_nothing
