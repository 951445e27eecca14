"""Models of the real layouts of many families with random weights: right for what a sampler does, useless for pictures.

No checkpoint can be had where the tests run, so one is made: every tensor that the real file holds, under its real name
and in its real shape, filled with seeded random numbers. The host's own loader then finds out which family it is.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import comfy.ldm.flux.model
import comfy.ldm.models.autoencoder
import comfy.ldm.modules.diffusionmodules.mmdit as mmdit
import comfy.ldm.modules.diffusionmodules.openaimodel as unet
import comfy.ldm.qwen_image.model
import comfy.model_detection
import comfy.model_management
import comfy.ops
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from reedit.models.autoencoders.kl_layout import KLConfig
from reedit.nodes.autoencoders import build_host_vae, host_architecture
from torch import Tensor, nn

Layout = dict[str, torch.Size]  # the names and shapes of a file

STORED = torch.float16  # as the real files; where the host finds nothing better, as on a CPU, it computes in float32


class Family(NamedTuple):
    """A random model of one family. conditioning is what a CONDITIONING socket carries."""

    name: str
    model: ModelPatcher
    conditioning: list
    latent_channels: int


# --- layouts ----------------------------------------------------------------------------------------------------------

PREFIX = "model.diffusion_model."  # before the network's names in the files of Stability AI
ON_META = {"device": "meta", "dtype": torch.float32, "operations": comfy.ops.disable_weight_init}  # shapes, no memory

SD15 = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
    "context_dim": 768,
    "num_heads": 8,
    "num_head_channels": -1,
    "use_linear_in_transformer": False,
    "use_spatial_transformer": True,
    "legacy": False,
}
SD2 = {**SD15, "context_dim": 1024, "num_heads": -1, "num_head_channels": 64, "use_linear_in_transformer": True}
# SDXL as Segmind distilled it: fewer transformer blocks, and all else the same. SDXL itself needs 10 GiB while it loads
# and 5 s a call on a CPU.
SEGMIND_VEGA = {
    **SD2,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 1, 1, 2, 2],
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2],
    "transformer_depth_middle": -1,
    "context_dim": 2048,
}


def unet_layout(configuration: dict) -> Layout:
    return layout_of(unet.UNetModel(**configuration, **ON_META), PREFIX)


def sd3_layout(depth: int = 12) -> Layout:
    """Stable Diffusion 3 Medium, which has depth 24. A block more is also 64 channels more."""
    text = {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 64 * depth}}
    network = mmdit.OpenAISignatureMMDITWrapper(
        input_size=None,
        patch_size=2,
        in_channels=16,
        depth=depth,
        adm_in_channels=2048,
        context_embedder_config=text,
        num_patches=192**2,
        pos_embed_max_size=192,
        **ON_META,
    )
    return layout_of(network, PREFIX)


FLUX = {
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": 768,
    "context_in_dim": 4096,
    "hidden_size": 3072,
    "mlp_ratio": 4.0,
    "num_heads": 24,
    "axes_dim": [16, 56, 56],
    "theta": 10_000,
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": True,
    "txt_ids_dims": [],
}


def flux_layout(double_blocks: int = 1, single_blocks: int = 2, **changes: object) -> Layout:
    """Flux dev at its full width, but for the changes. It has 19 double and 38 single blocks."""
    network = comfy.ldm.flux.model.Flux(
        **{**FLUX, **changes}, depth=double_blocks, depth_single_blocks=single_blocks, **ON_META
    )
    # The file says scale where the host says weight.
    return {name.replace("_norm.weight", "_norm.scale"): shape for name, shape in layout_of(network).items()}


def layout_of(network: nn.Module, prefix: str = "") -> Layout:
    return {prefix + name: tensor.shape for name, tensor in network.state_dict().items()}


LAYOUTS: dict[str, Callable[[], Layout]] = {
    "sd15": partial(unet_layout, SD15),
    "sd2_v": partial(unet_layout, SD2),
    "sdxl": partial(unet_layout, SEGMIND_VEGA),
    "sd3": sd3_layout,
    "flux": flux_layout,
}

# Models that take a picture beside their noise: no deeper and no wider than the host needs to know them by.

SHALLOW_SD15 = {
    **SD15,
    "num_res_blocks": [1],
    "channel_mult": [1],
    "transformer_depth": [1],
    "transformer_depth_output": [1, 1],
    "transformer_depth_middle": 1,
}
NARROW_SDXL = {  # the host goes by the depth of its transformers
    **SEGMIND_VEGA,
    "channel_mult": [1, 1, 1],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0] * 9,
    "transformer_depth_middle": 1,
}
NARROW_FLUX = {"vec_in_dim": 64, "context_in_dim": 128, "hidden_size": 256, "num_heads": 2}
FLUX2 = {
    "in_channels": 128,
    "out_channels": 128,
    "vec_in_dim": None,
    "mlp_ratio": 3.0,
    "axes_dim": [32, 32, 32, 32],
    "theta": 2000,
    "patch_size": 1,
    "qkv_bias": False,
    "ops_bias": False,
    "global_modulation": True,
    "mlp_silu_act": True,
    "txt_ids_dims": [3],
}


def cosxl_edit_layout() -> Layout:
    """SDXL's, and the levels of noise that the host knows CosXL by. It looks for them beside the network's own names."""
    layout = unet_layout({**NARROW_SDXL, "in_channels": 8})
    levels = {f"edm_vpred.{name}": torch.Size() for name in ("sigma_max", "sigma_min")}
    return {name.removeprefix(PREFIX): shape for name, shape in layout.items()} | levels


def qwen_image_layout(blocks: int = 1) -> Layout:
    """Qwen-Image and Qwen-Image-Edit at their full width, which is the only one that the host knows. They have 60 blocks."""
    return layout_of(comfy.ldm.qwen_image.model.QwenImageTransformer2DModel(num_layers=blocks, **ON_META))


PICTURE_LAYOUTS: dict[str, Callable[[], Layout]] = {
    "sd15_instruct": partial(unet_layout, {**SHALLOW_SD15, "in_channels": 8}),
    "sd15_inpaint": partial(unet_layout, {**SHALLOW_SD15, "in_channels": 9}),
    "sdxl_instruct": partial(unet_layout, {**NARROW_SDXL, "in_channels": 8}),
    "cosxl_edit": cosxl_edit_layout,
    "flux_fill": partial(flux_layout, 1, 1, **{**NARROW_FLUX, "in_channels": 96}),
    "flux_canny": partial(flux_layout, 1, 1, **{**NARROW_FLUX, "in_channels": 32}),
    "flux_kontext": partial(flux_layout, 1, 1, **NARROW_FLUX),
    "flux2": partial(flux_layout, 1, 1, **{**NARROW_FLUX, **FLUX2}),
    "qwen_image_edit": qwen_image_layout,
}


def on_meta(layout: Layout) -> ModelPatcher:
    """The host's model for a file with these names and shapes, without its numbers: it costs nothing and computes nothing."""
    prefix = PREFIX if next(iter(layout)).startswith(PREFIX) else ""
    empty = {name: torch.ones(()).expand(shape) for name, shape in layout.items()}
    configuration = comfy.model_detection.model_config_from_unet(empty, prefix)
    if configuration is None:
        raise RuntimeError("The host does not know this layout.")
    configuration.set_inference_dtype(torch.float32, None)
    device = torch.device("meta")
    return ModelPatcher(configuration.get_model(empty, prefix, device=device), device, device)


# --- numbers ----------------------------------------------------------------------------------------------------------


def random_weights(layout: Layout, seed: int) -> dict[str, Tensor]:
    """Numbers that keep the size of what goes through a layer: norms 1, biases 0, weights by their fan-in."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in layout.items():
        if len(shape) == 1:
            weights[name] = torch.full(shape, 0.0 if name.endswith("bias") else 1.0, dtype=STORED)
            continue
        # The position table holds sines and cosines; it multiplies nothing.
        deviation = math.sqrt(0.5) if name.endswith("pos_embed") else math.prod(shape[1:]) ** -0.5
        weights[name] = torch.randn(shape, generator=generator).mul_(deviation).to(STORED)
    return weights


def let_input_through(weights: dict[str, Tensor], last_block: str) -> None:
    """Add to a UNet's output, in place, its input divided by the input's root mean square.

    That is what a trained eps network gives at high noise. Without it the denoised prediction would be as large as the
    noise. The path is the first group of channels: the input and its negative, past the last block's random layers,
    and at the end SiLU(a) - SiLU(-a) = a.
    """
    first, last, output = PREFIX + "input_blocks.0.0.weight", PREFIX + last_block, PREFIX + "out.2.weight"
    skip = last + "0.skip_connection.weight"
    width, channels = weights[first].shape[:2]
    group = width // 32  # the host's group norms have 32 groups
    path = torch.arange(2 * channels)
    signs = torch.ones(2 * channels, dtype=STORED)
    signs[channels:] = -1
    for name in (first, skip, last + "0.out_layers.3.weight", last + "1.proj_out.weight"):
        if name in weights:
            weights[name][:group] = 0
    weights[output][:, :group] = 0
    weights[first][path, path % channels, 1, 1] = signs
    weights[skip][path, weights[skip].shape[1] - width + path, 0, 0] = 1
    # The norm makes the mean square of the whole group 1, and the path fills 2 * channels of it.
    weights[output][path % channels, path, 1, 1] = signs * math.sqrt(2 * channels / group)


def random_conditioning(
    seed: int, width: int, tokens: int = 77, pooled: int | None = None, guidance: float | None = None
) -> list:
    """A CONDITIONING of one prompt: (1, tokens, width), and where given pooled (1, pooled) and a guidance strength."""
    generator = torch.Generator().manual_seed(seed)
    extras: dict[str, object] = {}
    text = torch.randn(1, tokens, width, generator=generator)
    if pooled is not None:
        extras["pooled_output"] = torch.randn(1, pooled, generator=generator)
    if guidance is not None:
        extras["guidance"] = guidance
    return [[text, extras]]


# --- models -----------------------------------------------------------------------------------------------------------

# The factor on the random weights of the output layer, which training starts from zero. With it the denoised prediction
# is as large as a latent, and plain iteration of an implicit Euler step, of ten on a schedule, contracts: by 0.02 to 0.45.
OUTPUT_GAIN = {"sd15": 0.1, "sd2_v": 0.5, "sdxl": 0.1, "sd3": 1.0, "flux": 1.0}


def sd15(seed: int = 0) -> Family:
    """Stable Diffusion 1.5, eps prediction, whole: 860 M parameters."""
    weights = _weights("sd15", "out.2.weight", seed)
    let_input_through(weights, "output_blocks.11.")
    return _family("sd15", weights, random_conditioning(seed, 768))


def sd2_v(seed: int = 0) -> Family:
    """Stable Diffusion 2 for 768 px, v prediction, whole: 866 M parameters."""
    weights = _weights("sd2_v", "out.2.weight", seed)
    # The file does not say what it predicts. The host goes by this bias, which spreads by more than 0.09 in v models.
    bias = PREFIX + "output_blocks.11.1.transformer_blocks.0.norm1.bias"
    weights[bias].normal_(std=0.15, generator=torch.Generator().manual_seed(seed))
    return _family("sd2_v", weights, random_conditioning(seed, 1024))


def sdxl(seed: int = 0) -> Family:
    """Segmind Vega, eps prediction, whole: 745 M parameters. The host handles it as SDXL."""
    weights = _weights("sdxl", "out.2.weight", seed)
    let_input_through(weights, "output_blocks.8.")
    return _family("sdxl", weights, random_conditioning(seed, 2048, pooled=1280))


def sd3(seed: int = 0) -> Family:
    """Stable Diffusion 3 Medium, flow, at half its depth and width: 255 M parameters."""
    weights = _weights("sd3", "final_layer.linear.weight", seed)
    return _family("sd3", weights, random_conditioning(seed, 4096, pooled=2048))


def flux(seed: int = 0) -> Family:
    """Flux dev, flow, three of its 57 blocks: 687 M parameters."""
    weights = _weights("flux", "final_layer.linear.weight", seed)
    return _family("flux", weights, random_conditioning(seed, 4096, pooled=768, guidance=3.5))


FAMILIES: dict[str, Callable[[], Family]] = {"sd15": sd15, "sd2_v": sd2_v, "sdxl": sdxl, "sd3": sd3, "flux": flux}
BIG = frozenset({"sd15", "sd2_v", "sdxl", "flux"})  # more than 4 GiB while they load: their tests are marked slow


def _picture_conditioning(name: str) -> list:
    if name.startswith("sd15"):
        return random_conditioning(0, 768)
    if name in ("sdxl_instruct", "cosxl_edit"):
        return random_conditioning(0, 2048, pooled=1280)
    if name == "qwen_image_edit":
        return random_conditioning(0, 3584)
    return random_conditioning(0, 128, pooled=64, guidance=3.5)


def _picture_family(name: str) -> Family:
    weights = random_weights(PICTURE_LAYOUTS[name](), seed=0)
    if name == "cosxl_edit":
        weights |= {"edm_vpred.sigma_max": torch.tensor(80.0), "edm_vpred.sigma_min": torch.tensor(0.002)}
    return _family(name, weights, _picture_conditioning(name))


PICTURE_FAMILIES = {name: partial(_picture_family, name) for name in PICTURE_LAYOUTS}


NARROW_VAE = {"width": 32, "multipliers": (1, 1, 1, 1), "blocks": 1}
SD15_VAE = {"width": 128, "multipliers": (1, 2, 4, 4), "blocks": 2}  # 83.7 million numbers


def random_vae(latent_channels: int, seed: int = 0, sizes: dict = NARROW_VAE) -> comfy.sd.VAE:
    """A KL autoencoder with the ratio of Stable Diffusion and Flux, in a host VAE object."""
    config = KLConfig(**sizes, latent_channels=latent_channels, attention_levels=())
    with torch.device("meta"):
        network = comfy.ldm.models.autoencoder.AutoencoderKL(
            ddconfig=host_architecture(config), embed_dim=latent_channels
        )
    weights = random_weights(layout_of(network), seed)
    return build_host_vae({name: tensor.float() for name, tensor in weights.items()}, config)


@contextmanager
def loaded(name: str) -> Iterator[Family]:
    """A family's model for the time of a with block. The memory of the one before it is free when it is built."""
    gc.collect()  # a model and its patcher hold each other
    with torch.inference_mode():
        family = (FAMILIES | PICTURE_FAMILIES)[name]()
    try:
        yield family
    finally:
        del family
        comfy.model_management.unload_all_models()
        gc.collect()


def _weights(name: str, output_layer: str, seed: int) -> dict[str, Tensor]:
    weights = random_weights(LAYOUTS[name](), seed)
    (output,) = (key for key in weights if key.endswith(output_layer))
    weights[output] *= OUTPUT_GAIN[name]
    return weights


def _family(name: str, weights: dict[str, Tensor], conditioning: list) -> Family:
    """Load the weights, which are gone from their dict after that."""
    model = comfy.sd.load_diffusion_model_state_dict(weights)
    if model is None:
        raise RuntimeError(f"The host does not know the layout of the random {name} model.")
    return Family(name, model, conditioning, model.model.latent_format.latent_channels)
