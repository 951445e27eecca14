"""Every kind of model that the host loads can be inverted, and the host's own sampler brings the latent back."""

from __future__ import annotations

import comfy.samplers
import nodes as host_nodes
import pytest
import torch
from comfy_extras.nodes_custom_sampler import DisableNoise, SamplerCustomAdvanced
from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM, ModelSamplingDiscrete
from random_families import BIG, FAMILIES, loaded
from reedit.nodes.autoencoders import ReEditEncode
from reedit.nodes.inversion import ReEditInvert

SCHEDULER = {"sd3": "simple", "flux": "simple"}
CELLS = 8  # to a side
SOLVE = {"method": "anderson", "iterations": 60, "tolerance": 1e-6}


def sampled(model, positive, noise, latent, sigmas):
    """The host's euler at guidance 1."""
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": positive})
    euler = comfy.samplers.sampler_object("euler")
    return SamplerCustomAdvanced.execute(noise, guider, euler, sigmas, latent).result[0]["samples"]


def relative_error(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


def assert_comes_back(model, positive, latent, scheduler, steps):
    noisy, noise, sigmas, trajectory, report = ReEditInvert.execute(
        model, positive, latent, steps=steps, scheduler=scheduler, cfg=1.0, **SOLVE
    ).result
    assert not trajectory.open_steps(), report
    clean = latent["samples"]
    # The noisy latent is really noise of the model's highest level, and not the picture once more.
    assert relative_error(trajectory.states[-1], trajectory.states[0]) > 0.5
    no_noise = DisableNoise.execute().result[0]
    assert relative_error(sampled(model, positive, no_noise, noisy, sigmas), clean) < 1e-4
    assert relative_error(sampled(model, positive, noise, latent, sigmas), clean) < 1e-4
    return trajectory


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in BIG else ()) for name in FAMILIES]
)
def test_a_model_of_the_familys_real_layout(name):
    with loaded(name) as family:
        process_out = family.model.model.process_latent_out
        generator = torch.Generator().manual_seed(1)
        # As large as real latents are in the model's own scale, and smooth, as pictures are.
        coarse = torch.randn(1, family.latent_channels, CELLS // 4, CELLS // 4, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, size=(CELLS, CELLS), mode="bicubic")
        clean = smooth + 0.1 * torch.randn(smooth.shape, generator=generator)
        latent = {"samples": process_out(clean)}
        trajectory = assert_comes_back(family.model, family.conditioning, latent, SCHEDULER.get(name, "karras"), 6)
        assert trajectory.space.channels == family.latent_channels


@pytest.mark.parametrize(
    ("node", "sampling"),
    [
        (ModelSamplingDiscrete, "v_prediction"),
        (ModelSamplingContinuousEDM, "eps"),
        (ModelSamplingContinuousEDM, "edm"),
    ],
)
def test_another_prediction_on_the_demo_model(text_to_image, tiny_vae, scenes, node, sampling):
    """The weights mean something else then, so pictures are useless; the equations have to hold all the same."""
    model, clip = text_to_image
    if node is ModelSamplingDiscrete:
        patched = node().patch(model, sampling, False)[0]
    else:
        patched = node().patch(model, sampling, 20.0, 0.05)[0]
    positive = host_nodes.CLIPTextEncode().encode(clip, "a red circle")[0]
    latent = ReEditEncode.execute(scenes[:1], tiny_vae)[0]
    assert_comes_back(patched, positive, latent, "karras", 12)
