"""The random models are what they are said to be: the host's own loader and sampler, and closed forms, say so."""

from __future__ import annotations

import itertools

import comfy.model_detection
import comfy.model_sampling
import comfy.samplers
import comfy.utils
import nodes as host_nodes
import pytest
import torch
from comfy.model_base import ModelType
from random_families import (
    BIG,
    FAMILIES,
    LAYOUTS,
    PICTURE_LAYOUTS,
    PREFIX,
    STORED,
    loaded,
    on_meta,
    random_vae,
    random_weights,
)

CONFIGURATION = {"sd15": "SD15", "sd2_v": "SD20", "sdxl": "Segmind_Vega", "sd3": "SD3", "flux": "Flux"}
PREDICTION = {
    "sd15": (ModelType.EPS, comfy.model_sampling.EPS),
    "sd2_v": (ModelType.V_PREDICTION, comfy.model_sampling.V_PREDICTION),
    "sdxl": (ModelType.EPS, comfy.model_sampling.EPS),
    "sd3": (ModelType.FLOW, comfy.model_sampling.CONST),
    "flux": (ModelType.FLUX, comfy.model_sampling.CONST),
}
CHANNELS = {"sd15": 4, "sd2_v": 4, "sdxl": 4, "sd3": 16, "flux": 16}
# The configuration, the prediction, and the channels that the network reads in each place of a latent.
TAKES_PICTURE = {
    "sd15_instruct": ("SD15_instructpix2pix", ModelType.EPS, 8),
    "sd15_inpaint": ("SD15", ModelType.EPS, 9),
    "sdxl_instruct": ("SDXL_instructpix2pix", ModelType.EPS, 8),
    "cosxl_edit": ("SDXL_instructpix2pix", ModelType.V_PREDICTION_EDM, 8),
    "flux_fill": ("FluxInpaint", ModelType.FLUX, 96),
    "flux_canny": ("Flux", ModelType.FLUX, 32),
    "flux_kontext": ("Flux", ModelType.FLUX, 16),
    "flux2": ("Flux2", ModelType.FLUX, 128),
    "qwen_image_edit": ("QwenImage", ModelType.FLUX, 16),
}
HOST_TABLE = {"sd3": comfy.utils.mmdit_to_diffusers, "flux": comfy.utils.flux_to_diffusers}  # the others are UNets
CELLS = 8  # to a side of the latents


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow if name in BIG else ()) for name in FAMILIES],
)
def family(request):
    """One model after the other: pytest runs all tests of a parameter before it makes the next."""
    with loaded(request.param) as family:
        yield family


# --- the layouts, which cost nothing ----------------------------------------------------------------------------------


def detected(layout: dict) -> object:
    """The host's configuration for a file with these names and shapes."""
    prefix = PREFIX if next(iter(layout)).startswith(PREFIX) else ""
    empty = {name: torch.zeros(()).expand(shape) for name, shape in layout.items()}
    return comfy.model_detection.model_config_from_unet(empty, prefix)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_names_and_shapes_are_the_familys(name):
    layout = LAYOUTS[name]()
    configuration = detected(layout)
    assert type(configuration).__name__ == CONFIGURATION[name]
    # The host's table of what real files call each tensor, made to read the files of another library. It lists what
    # some variants lack (more norms, say) as well.
    table = HOST_TABLE.get(name, comfy.utils.unet_to_diffusers)(configuration.unet_config)
    known = {real[0] if isinstance(real, tuple) else real for real in table.values()}
    stripped = {key.removeprefix(PREFIX): None for key in layout}
    assert configuration.process_unet_state_dict(stripped).keys() <= known


def millions(layout: dict, start: str = "") -> float:
    """The parameters under the names that start so."""
    return sum(shape.numel() for key, shape in layout.items() if key.startswith(PREFIX + start)) / 1e6


@pytest.mark.parametrize(("name", "published"), [("sd15", 859.52), ("sd2_v", 865.91)], ids=["sd15", "sd2_v"])
def test_stable_diffusion_has_the_parameters_that_its_first_program_prints(name, published):
    assert round(millions(LAYOUTS[name]()), 2) == published


def test_segmind_vega_has_the_parameters_that_its_makers_count():
    """https://blog.segmind.com/segmind-vega-2/ counts them block by block."""
    layout = LAYOUTS["sdxl"]()
    blocks = [millions(layout, block) for block in ("input_blocks.", "middle_block.", "output_blocks.")]
    assert blocks == pytest.approx([247, 31, 460], abs=1)


@pytest.mark.parametrize(("name", "whole"), [("sd3", (24,)), ("flux", (19, 38))])
def test_a_shortened_layout_is_part_of_the_whole(name, whole):
    short, long = LAYOUTS[name](), LAYOUTS[name](*whole)
    assert short.keys() < long.keys()
    if name == "flux":  # Stable Diffusion 3 gets narrower, too
        assert all(long[key] == shape for key, shape in short.items())


@pytest.mark.parametrize("name", PICTURE_LAYOUTS)
def test_a_model_that_takes_a_picture_is_detected_and_fits_the_network_that_the_host_builds(name):
    model = on_meta(PICTURE_LAYOUTS[name]()).model
    configuration, prediction, channels = TAKES_PICTURE[name]
    assert (type(model.model_config).__name__, model.model_type) == (configuration, prediction)
    layout = {key.removeprefix(PREFIX): shape for key, shape in PICTURE_LAYOUTS[name]().items()}
    layout = model.model_config.process_unet_state_dict(layout)
    levels = {key for key in layout if key.startswith("edm_vpred.")}  # these are for the model, not for its network
    assert bool(levels) == (name == "cosxl_edit")
    network = {key: tensor.shape for key, tensor in model.diffusion_model.state_dict().items()}
    assert network == {key: shape for key, shape in layout.items() if key not in levels}
    first = network["input_blocks.0.0.weight" if name.startswith(("sd", "cosxl")) else "img_in.weight"]
    patch = 1 if name == "flux2" or len(first) == 4 else 2  # cells to a side of a token
    assert first[1] == channels * patch**2


def test_the_random_vae_has_the_ratio_of_real_ones():
    vae = random_vae(16)
    latent = vae.encode(torch.rand(1, 64, 48, 3))
    assert latent.shape == (1, 16, 8, 6) and latent.std() > 0.1
    assert vae.decode(latent).shape == (1, 64, 48, 3)


def test_the_same_seed_gives_the_same_numbers():
    layout = LAYOUTS["sd3"]()
    layout = {key: layout[key] for key in list(layout)[:12]}
    first, second, other = (random_weights(layout, seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[key], second[key]) for key in layout)
    assert any(not torch.equal(first[key], other[key]) for key in layout)


# --- the models -------------------------------------------------------------------------------------------------------


def in_a_sampler(family, function):
    """What function(denoise, sigmas) returns inside the host's sampling, with ten steps of a common schedule.

    denoise(x, sigma) -> D(x, sigma) at guidance 1.
    """
    sampling = family.model.get_model_object("model_sampling")
    schedule = "simple" if isinstance(sampling, comfy.model_sampling.CONST) else "karras"
    sigmas = comfy.samplers.calculate_sigmas(sampling, schedule, 10)
    results = []

    def sampler_function(model, x, sigmas, extra_args, **_):
        results.append(function(lambda x, sigma: model(x, sigma.expand(len(x)), **extra_args), sigmas))
        return x

    guider = comfy.samplers.CFGGuider(family.model)
    guider.set_conds(family.conditioning, family.conditioning)
    guider.set_cfg(1.0)
    latent = torch.zeros(1, family.latent_channels, CELLS, CELLS)
    guider.sample(torch.zeros_like(latent), latent, comfy.samplers.KSAMPLER(sampler_function), sigmas, seed=0)
    (result,) = results
    return result


def latents(family, number: int) -> torch.Tensor:
    """(number, 1, C, H, W) of unit variance."""
    return torch.randn(number, 1, family.latent_channels, CELLS, CELLS)


def noisy(family, sigma: torch.Tensor) -> torch.Tensor:
    clean, noise = latents(family, 2)
    return family.model.get_model_object("model_sampling").noise_scaling(sigma.view(1), noise, clean)


def test_the_host_detects_it(family):
    model = family.model.model
    kind, prediction = PREDICTION[family.name]
    assert type(model.model_config).__name__ == CONFIGURATION[family.name]
    assert model.model_type == kind
    assert family.latent_channels == CHANNELS[family.name]
    sampling = family.model.get_model_object("model_sampling")
    assert isinstance(sampling, prediction)
    # A v model is an eps model with another formula, to the host.
    assert isinstance(sampling, comfy.model_sampling.V_PREDICTION) == (family.name == "sd2_v")


def test_its_numbers_are_the_files(family):
    """All of the file's tensors have arrived: none was left as the memory was found."""
    network = family.model.model.diffusion_model
    held = network.state_dict()
    layout = {key.removeprefix(PREFIX): shape for key, shape in LAYOUTS[family.name]().items()}
    layout = family.model.model.model_config.process_unet_state_dict(layout)
    assert {key: tensor.shape for key, tensor in held.items()} == layout
    for key, tensor in held.items():
        if tensor.ndim > 1 and tensor[0].numel() > 1:
            size = tensor.pow(2).mean().sqrt() * (tensor[0].numel() ** 0.5 if "pos_embed" not in key else 2**0.5)
            assert 0.03 < size < 3, key  # the output layer's gain makes some of these small
        else:
            assert tensor.abs().max() <= 1, key


def test_the_hosts_ksampler_samples_with_it(family):
    conditioning = family.conditioning
    latent = {"samples": torch.zeros(1, family.latent_channels, CELLS, CELLS)}
    (sampled,) = host_nodes.KSampler().sample(
        family.model, 1, 2, 1.0, "euler", "normal", conditioning, conditioning, latent
    )
    samples = sampled["samples"]
    assert samples.shape == latent["samples"].shape and samples.isfinite().all() and samples.std() > 0


def test_the_denoised_prediction_is_the_closed_form_of_the_output(family):
    outputs = []
    hook = family.model.model.diffusion_model.register_forward_hook(lambda *call: outputs.append(call[-1]))

    def one_call(denoise, sigmas):
        sigma = sigmas[4]
        x = noisy(family, sigma)
        return x, sigma, denoise(x, sigma)

    try:
        x, sigma, denoised = in_a_sampler(family, one_call)
    finally:
        hook.remove()
    (output,) = outputs
    if family.name == "sd2_v":
        expected = x / (1 + sigma**2) - sigma / (1 + sigma**2).sqrt() * output
    else:
        expected = x - sigma * output
    torch.testing.assert_close(denoised, expected, rtol=1e-4, atol=1e-5)


def test_the_denoised_prediction_is_as_large_as_a_latent_and_depends_on_x(family):
    def measure(denoise, sigmas):
        for sigma in sigmas[[0, 3, 6, 9]]:
            x, (change,) = noisy(family, sigma), latents(family, 1)
            denoised = denoise(x, sigma)
            changed = denoise(x + 0.1 * x.norm() / change.norm() * change, sigma)
            yield denoised.std().item(), ((changed - denoised).norm() / denoised.norm()).item()

    for size, change in in_a_sampler(family, lambda denoise, sigmas: list(measure(denoise, sigmas))):
        assert 0.2 < size < 2 and 0.01 < change < 1


def test_an_implicit_euler_step_contracts(family):
    def measure(denoise, sigmas):
        for high, low in zip(sigmas[[0, 4, 8]], sigmas[[1, 5, 9]], strict=True):
            x = start = noisy(family, low)
            residuals = []
            for _ in range(4):
                following = start + (high - low) * (x - denoise(x, high)) / high
                residuals.append((following - x).norm().item())
                x = following
            yield [later / earlier for earlier, later in itertools.pairwise(residuals)]

    for ratios in in_a_sampler(family, lambda denoise, sigmas: list(measure(denoise, sigmas))):
        assert all(0.001 < ratio < 0.6 for ratio in ratios)


def test_the_prompt_matters(family):
    """The conditioning reaches the network: text, and where the family has one the pooled vector and the guidance."""
    (text, extras) = family.conditioning[0]
    variants = [(torch.zeros_like(text), extras)]
    for key, value in extras.items():
        variants.append((text, {**extras, key: value * 0 if torch.is_tensor(value) else 1.0}))

    def call(conditioning):
        torch.manual_seed(0)
        changed = family._replace(conditioning=[list(conditioning)])
        return in_a_sampler(changed, lambda denoise, sigmas: denoise(noisy(family, sigmas[0]), sigmas[0]))

    original = call((text, extras))
    for variant in variants:
        assert (call(variant) - original).norm() > 1e-3 * original.norm()


def test_it_computes_in_float32_from_a_half_precision_file(family):
    held = next(family.model.model.diffusion_model.parameters())
    assert family.model.model.get_dtype_inference() == torch.float32
    assert torch.equal(held, held.to(STORED).to(held.dtype))
