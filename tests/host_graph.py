"""Parts of the host's own sampling graph, and of the inversion's, that the tests of inversion put together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.cldm.cldm
import comfy.controlnet
import comfy.ops
import comfy.samplers
import nodes as host_nodes
import torch
from comfy_extras import nodes_custom_sampler as custom
from comfy_extras.nodes_custom_sampler import DisableNoise
from reedit.nodes.inversion import ReEditInvert
from torch import Tensor

# What the first of the tests' scenes shows.
SOURCE = "a small purple circle at the bottom left and a large white cross at the top left, on stone"
# Six steps of karras become eight where large ones are divided: a few seconds on one core.
SETTINGS: dict[str, Any] = {
    "steps": 6,
    "scheduler": "karras",
    "cfg": 1.0,
    "method": "anderson",
    "iterations": 40,
    "tolerance": 1e-5,
}


def prompt(clip, text: str) -> list:
    (conditioning,) = host_nodes.CLIPTextEncode().encode(clip, text)
    return conditioning


def guider(model, positive, negative=None, cfg: float = 1.0):
    if negative is None:
        return custom.BasicGuider.execute(model, positive)[0]
    return custom.CFGGuider.execute(model, positive, negative, cfg)[0]


def euler() -> Any:
    return custom.KSamplerSelect.execute("euler")[0]


def sampled(guider, sigmas: Tensor, latent: dict, noise=None, sampler=None) -> Tensor:
    """SamplerCustomAdvanced with euler, and DisableNoise unless there is a noise."""
    noise = DisableNoise.execute()[0] if noise is None else noise
    return custom.SamplerCustomAdvanced.execute(noise, guider, sampler or euler(), sigmas, latent)[0]["samples"]


def quarters(vae, scenes: Tensor) -> dict:
    """The LATENT of a quarter of each scene: a model call takes a third of the time."""
    with torch.inference_mode():
        return {"samples": vae.encode(scenes)[..., :8, :8].contiguous()}


def inverted(model, positive, latent: dict, **settings) -> tuple[dict, Any, Tensor, Any, str]:
    """What ReEdit Invert returns: the noisy latent, the noise, the sigmas, the trajectory and the report."""
    return ReEditInvert.execute(model, positive, latent, **{**SETTINGS, **settings}).result


def karras(model, steps: int) -> Tensor:
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "karras", steps)


def relative(result: Tensor, known: Tensor) -> float:
    """The root mean square of the difference, divided by that of `known`."""
    return ((result - known).square().mean() / known.square().mean()).sqrt().item()


@contextmanager
def counted_rows(model) -> Iterator[list[int]]:
    """How many items each call of the network gets, in the order of the calls."""
    rows: list[int] = []
    hook = model.model.diffusion_model.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    try:
        yield rows
    finally:
        hook.remove()


def random_lora(model, strength: float = 0.2) -> dict[str, Tensor]:
    """A LoRA of rank 2 in the usual file's layout, for all queries and values of the model's attention to the prompt."""
    generator = torch.Generator().manual_seed(1)
    lora = {}
    for name, weight in model.model.diffusion_model.named_parameters():
        if name.endswith(("attn2.to_q.weight", "attn2.to_v.weight")):
            key = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
            out, into = weight.shape
            lora[f"{key}.lora_up.weight"] = torch.randn(out, 2, generator=generator) * strength
            lora[f"{key}.lora_down.weight"] = torch.randn(2, into, generator=generator) * strength
    return lora


def control_net(model) -> comfy.controlnet.ControlNet:
    """Stable Diffusion 1.5's ControlNet file for the demo model's network: all names and shapes real, all numbers random."""
    settings = {
        name: value
        for name, value in model.model.model_config.unet_config.items()
        if name not in ("out_channels", "dtype")
    }
    network = comfy.cldm.cldm.ControlNet(
        **settings, hint_channels=3, operations=comfy.ops.disable_weight_init, device="meta"
    )
    generator = torch.Generator().manual_seed(2)
    weights = {}
    for name, empty in network.state_dict().items():
        if empty.ndim > 1:
            weights[name] = torch.randn(empty.shape, generator=generator) * empty[0].numel() ** -0.5
        else:
            weights[name] = torch.zeros(empty.shape) if name.endswith("bias") else torch.ones(empty.shape)
    return comfy.controlnet.load_controlnet_state_dict(
        {f"control_model.{name}": numbers for name, numbers in weights.items()}
    )
