"""Models of SD1.5's real size with random weights: right for timing, useless for pictures."""

from __future__ import annotations

import time

import comfy.model_base
import comfy.model_patcher
import comfy.supported_models
import comfy.utils
import nodes as host
import numpy as np
import torch
from random_families import SD15

# What the host's detection reads off an SD1.5 checkpoint.
UNET = {
    **SD15,
    "use_temporal_attention": False,
    "adm_in_channels": None,
    "use_temporal_resblock": False,
    "dtype": torch.float32,
}


def sd15_model() -> comfy.model_patcher.ModelPatcher:
    """A MODEL of SD1.5's size and shape, in float32 on the CPU."""
    configuration = comfy.supported_models.SD15(dict(UNET))
    configuration.set_inference_dtype(torch.float32, None)
    return _with_random_weights(comfy.model_base.BaseModel(configuration, device=torch.device("cpu")))


def sd15_instruct_model() -> comfy.model_patcher.ModelPatcher:
    """The same for InstructPix2Pix, which reads a picture in four more channels."""
    configuration = comfy.supported_models.SD15_instructpix2pix({**UNET, "in_channels": 8})
    configuration.set_inference_dtype(torch.float32, None)
    return _with_random_weights(comfy.model_base.SD15_instructpix2pix(configuration, device=torch.device("cpu")))


def _with_random_weights(model: comfy.model_base.BaseModel) -> comfy.model_patcher.ModelPatcher:
    generator = torch.Generator().manual_seed(0)
    for parameter in model.diffusion_model.parameters():
        parameter.data.normal_(std=0.02, generator=generator)  # the host leaves the memory as it finds it
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def sampling_step_seconds(steps: int = 3) -> float:
    """The median time of one step of the host's KSampler at 512×512 and guidance 1: one model call, nothing more."""
    model = sd15_model()
    conditioning = [[torch.zeros(1, 77, 768), {}]]
    latent = {"samples": torch.zeros(1, 4, 64, 64)}
    times = []
    for _ in range(steps):
        started = time.perf_counter()
        host.KSampler().sample(model, 0, 1, 1.0, "euler", "normal", conditioning, conditioning, latent)
        times.append(time.perf_counter() - started)
    return float(np.median(times))
