"""One way to invert fifty drawn scenes and sample them back in the host, measured scene by scene."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import _host
import comfy.sample
import comfy.samplers
import numpy as np
import torch
from _chain import conditioning, pictures_of
from comfy_extras.nodes_custom_sampler import FlipSigmas
from conftest import load_tiny_model
from reedit.models.diffusion.inversion import first_guess, invert, last_latent
from reedit.models.diffusion.inversion_schedule import inversion_sigmas
from reedit.models.diffusion.trajectory import InversionSettings, LatentSpace, Trajectory
from reedit.nodes.autoencoders import load_kl_vae
from reedit.nodes.batch_part import BatchDenoiser
from tiny_sd.language import caption
from tiny_sd.world import random_scene
from torch import Tensor

BATCH = 10
FLIP = "FlipSigmas and euler"


@dataclass(frozen=True)
class Case:
    """method: one of ours, or FLIP, the host's own nodes on `steps` steps each way.

    calls: of the model for each scene, with the sampling back; None: as many as the tolerance takes. share: the calls go to
    the steps in equal parts, as the published methods have it. extrapolate: the first guess follows the last slopes.
    """

    method: str
    scheduler: str = "karras"
    steps: int = 20
    cfg: float = 1.0
    calls: int | None = None
    tolerance: float = 0.0
    share: bool = False
    extrapolate: bool = True
    largest_ratio: float = 2.5
    window: int = 3

    def settings(self, steps: int) -> InversionSettings:
        """For an inversion of so many steps, after some were divided."""
        left = None if self.calls is None else self.calls - steps
        if not self.share:
            return InversionSettings(self.method, 60, self.tolerance, left, self.cfg)
        assert left is not None
        return InversionSettings(self.method, max(1, left // steps), self.tolerance, None, self.cfg)


@dataclass
class World:
    model: Any
    vae: Any
    pictures: Tensor
    latents: Tensor
    positive: Any
    negative: Any
    ceiling: np.ndarray  # (scenes,) dB: the VAE's own PSNR

    def part(self, first: int) -> tuple[Any, Tensor]:
        """The conditioning and the latents of a batch of scenes."""
        rows = slice(first, first + BATCH)
        (embedding, options), *_ = self.positive
        pooled = {"pooled_output": options["pooled_output"][rows]}
        return [[embedding[rows], {**options, **pooled}]], self.latents[rows]


@cache
def world(seed: int, scenes: int) -> World:
    """The scenes, which no model was trained on, with the prompts that describe them."""
    vae = load_kl_vae(_host.WEIGHTS / "tiny_sd_autoencoder.safetensors")
    model, clip = load_tiny_model(_host.WEIGHTS, "text_to_image")
    generator = np.random.default_rng(5_000_000 + seed)
    drawn = [random_scene(generator) for _ in range(scenes)]
    pictures = pictures_of(drawn)
    latents = vae.encode(pictures)
    positive = conditioning(clip, [caption(scene) for scene in drawn])
    ceiling = psnr(vae.decode(latents), pictures)
    return World(model, vae, pictures, latents, positive, conditioning(clip, [""]), ceiling)


def psnr(pictures: Tensor, wanted: Tensor) -> np.ndarray:
    errors = (pictures.clamp(0, 1) - wanted).square().flatten(1).mean(1).clamp(min=1e-12)
    return (-10 * errors.log10()).numpy()


def sample(world: World, case: Case, sampler: Any, sigmas: Tensor, positive: Any, latents: Tensor) -> Tensor:
    """A run of the host's sampler without noise."""
    arguments = (world.model, torch.zeros_like(latents), case.cfg, sampler, sigmas, positive, world.negative, latents)
    return comfy.sample.sample_custom(*arguments, disable_pbar=True, seed=0)


def invert_by(case: Case, found: list[Trajectory]) -> Any:
    """A SAMPLER that inverts as the case says: like the node's, but with the first guess to choose."""

    def sample_inversion(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any, callback: Any, disable: Any) -> Tensor:
        settings = case.settings(len(sigmas) - 1)
        guess_by = first_guess if case.extrapolate else last_latent
        denoise = BatchDenoiser(model, x, extra_args)
        states, residuals = invert(denoise, x, sigmas, settings, case.window, guess_by=guess_by)
        found.append(Trajectory(sigmas, torch.stack(states), residuals, LatentSpace("demo", "eps", 4), settings))
        return states[-1]

    return comfy.samplers.KSAMPLER(sample_inversion)


def run(case: Case, seed: int, scenes: int) -> dict[str, Any]:
    """Figures of each scene: the latent's relative error, the decoded picture's PSNR below the VAE's own, and the calls."""
    torch.set_num_threads(1)
    with torch.inference_mode():
        shared = world(seed, scenes)
        sampling = shared.model.get_model_object("model_sampling")
        falling = comfy.samplers.calculate_sigmas(sampling, case.scheduler, case.steps)
        if case.method == FLIP:
            rising = FlipSigmas.execute(falling).result[0]
        else:
            rising = inversion_sigmas(falling, float(sampling.sigma_min), largest_ratio=case.largest_ratio)
            falling = rising.flip(0)
        found: list[Trajectory] = []
        euler = comfy.samplers.sampler_object("euler")
        upwards = euler if case.method == FLIP else invert_by(case, found)
        back = []
        for first in range(0, scenes, BATCH):
            positive, latents = shared.part(first)
            noisy = sample(shared, case, upwards, rising, positive, latents)
            back.append(sample(shared, case, euler, falling, positive, noisy))
        result = torch.cat(back)
        error = (result - shared.latents).flatten(1).norm(dim=1) / shared.latents.flatten(1).norm(dim=1)
        figures = {"relative error": error.tolist(), "steps": len(rising) - 1}
        figures["PSNR below the VAE's own, dB"] = (
            shared.ceiling - psnr(shared.vae.decode(result), shared.pictures)
        ).tolist()
        return figures | trajectory_figures(found)


def trajectory_figures(found: list[Trajectory]) -> dict[str, Any]:
    """Of each scene: model calls of the inversion, the error that the trajectory foretold, and how many steps stayed open."""
    rows = [(trajectory, sample) for trajectory in found for sample in range(trajectory.batch)]
    return {
        "calls": [sum(len(step[sample]) for step in trajectory.residuals) for trajectory, sample in rows],
        "predicted error": [trajectory.predicted_error(sample) for trajectory, sample in rows],
        "open steps": [
            sum(not trajectory.converged(step, sample) for step in range(trajectory.steps))
            for trajectory, sample in rows
        ],
    }
