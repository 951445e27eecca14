"""ReEdit Gradient Mask beyond eps models and KSampler: other kinds of models, videos, guiders and sampling graphs."""

from __future__ import annotations

import comfy.ldm.wan.model
import comfy.model_management
import comfy.ops
import comfy.samplers
import comfy.sd
import nodes as host_nodes
import pytest
import torch
from comfy.model_management import InterruptProcessingException
from comfy_extras import nodes_custom_sampler as custom
from comfy_extras.nodes_advanced_samplers import SamplerLCMUpscale
from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion
from comfy_extras.nodes_ip2p import InstructPixToPixConditioning
from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM, ModelSamplingDiscrete, ModelSamplingSD3
from comfy_extras.nodes_perpneg import PerpNegGuider
from host_graph import SOURCE, guider, prompt, quarters, sampled
from random_families import random_weights
from reedit.nodes.emilie import ReEditGradientMask

NOISY = torch.tensor([14.6, 3.0, 0.7, 0.0])
FLOW = torch.tensor([1.0, 0.7, 0.3, 0.0])


def as_it_is(model):
    return model


def as_v(model):
    return ModelSamplingDiscrete().patch(model, "v_prediction", False)[0]


def as_edm(model):
    return ModelSamplingContinuousEDM().patch(model, "edm", 20.0, 0.05)[0]


def as_flow(model):
    """The weights mean something else to this kind, and the pictures nothing; where the mask is black it is all the same."""
    return ModelSamplingSD3().patch(model, 3.0)[0]


KINDS = {"eps": (as_it_is, NOISY), "v": (as_v, NOISY), "EDM": (as_edm, NOISY), "flow": (as_flow, FLOW)}


@pytest.fixture(scope="module")
def latent(tiny_vae, scenes):
    """Two scenes' quarters, of 8×8 cells."""
    return quarters(tiny_vae, scenes[:2])


@pytest.fixture(scope="module")
def positive(text_to_image):
    with torch.inference_mode():
        return prompt(text_to_image[1], SOURCE)


@pytest.fixture(scope="module")
def video():
    """MODEL, CONDITIONING and LATENT: a Wan 2.1 of one narrow block, with random weights, and two videos of three frames.

    Its latents are 5-D, it is a flow model, and the host shifts and scales each channel by numbers of its own.
    """
    network = comfy.ldm.wan.model.WanModel(
        dim=128, ffn_dim=128, num_heads=1, num_layers=1, device="meta", operations=comfy.ops.disable_weight_init
    )
    weights = random_weights({name: weight.shape for name, weight in network.state_dict().items()}, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.inference_mode():
        model = comfy.sd.load_diffusion_model_state_dict(weights)
        text = torch.randn(1, 16, 4096, generator=generator)
        return model, [[text, {}]], {"samples": torch.randn(2, 16, 3, 8, 8, generator=generator)}


@pytest.fixture(params=[*KINDS, "video"])
def case(request, text_to_image, positive, latent, video):
    """MODEL, CONDITIONING, LATENT and sigmas of a kind of model."""
    if request.param == "video":
        return *video, FLOW
    kind, sigmas = KINDS[request.param]
    return kind(text_to_image[0]), positive, latent, sigmas


def left_half(rows=64, columns=64):
    """A mask of the left half: of 8 columns of cells, 0 to 3."""
    mask = torch.zeros(1, rows, columns)
    mask[..., : columns // 2] = 1.0
    return mask


def held(model, mask=None, strict=True, samples=None):
    return ReEditGradientMask.execute(model, left_half() if mask is None else mask, strict, samples)[0]


def noise(seed=1):
    return custom.RandomNoise.execute(seed)[0]


def chosen(name):
    return custom.KSamplerSelect.execute(name)[0]


def assert_only_the_left_changed(result, known):
    assert torch.equal(result[..., 4:], known[..., 4:].expand_as(result[..., 4:]))
    assert torch.isfinite(result).all() and (result - known)[..., :4].abs().mean() > 0.05


# --- every sampler on every kind of model -----------------------------------------------------------------------------

# Those named _gpu are the same samplers with their noise drawn on the GPU.
SAMPLERS = [name for name in comfy.samplers.SAMPLER_NAMES if not name.endswith("_gpu")]


@pytest.mark.parametrize("kind", ["v", "EDM", "flow"])  # eps: test_emilie.py
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_of_the_host_leaves_the_outside_bit_identical(text_to_image, positive, latent, name, kind):
    patch, sigmas = KINDS[kind]
    latent = {"samples": latent["samples"][:1]}
    result = sampled(guider(held(patch(text_to_image[0])), positive), sigmas, latent, noise(), chosen(name))
    assert_only_the_left_changed(result, latent["samples"])


@pytest.mark.parametrize(
    "name", ["euler", "euler_ancestral", "dpmpp_2m", "dpmpp_sde", "uni_pc", "res_multistep_cfg_pp"]
)
def test_samplers_leave_the_outside_of_videos_bit_identical(video, name):
    model, positive, latent = video
    masks = torch.cat([left_half(), left_half().flip(-1)])
    first, second = sampled(guider(held(model, masks), positive), FLOW, latent, noise(), chosen(name))
    known = latent["samples"]
    assert_only_the_left_changed(first, known[0])
    assert_only_the_left_changed(second.flip(-1), known[1].flip(-1))


# --- what the model is shown, and where it ends -----------------------------------------------------------------------


def test_outside_the_model_sees_the_known_latent_at_each_noise_level(case):
    """A deterministic sampler keeps the noise of the start there: x is the host's own mixture of both, at every sigma."""
    model, positive, latent, sigmas = case
    seen = []
    start = noise().generate_noise(latent)
    guider(held(model), positive).sample(
        start,
        latent["samples"],
        chosen("euler"),
        sigmas,
        callback=lambda step, x0, x, total: seen.append((x, x0)),
        seed=0,
    )
    known = model.model.process_latent_in(latent["samples"])
    sampling = model.get_model_object("model_sampling")
    assert len(seen) == len(sigmas) - 1
    for sigma, (x, denoised) in zip(sigmas, seen, strict=False):
        mixture = sampling.noise_scaling(sigma, start.clone(), known)
        torch.testing.assert_close(x[..., 4:], mixture[..., 4:], rtol=1e-4, atol=1e-4)
        assert torch.equal(denoised[..., 4:], known[..., 4:])


def test_without_strict_the_outside_comes_back_up_to_rounding(case):
    model, positive, latent, sigmas = case
    result = sampled(guider(held(model, strict=False), positive), sigmas, latent, noise())
    torch.testing.assert_close(result[..., 4:], latent["samples"][..., 4:], rtol=1e-4, atol=1e-4)
    assert not torch.equal(result[..., 4:], latent["samples"][..., 4:])


def test_one_step_blends_by_the_mask(case):
    """From sigma to 0 Euler ends on the prediction: m·D + (1 - m)·known, with one grey mask for each item."""
    model, positive, latent, sigmas = case
    sigmas, cells = sigmas[[1, 3]], torch.rand(2, 8, 8)
    prediction = sampled(guider(model, positive), sigmas, latent, noise())
    result = sampled(guider(held(model, cells), positive), sigmas, latent, noise())
    shares = cells.view(2, 1, *[1] * (result.ndim - 4), 8, 8)
    blend = shares * prediction + (1 - shares) * latent["samples"]
    torch.testing.assert_close(result, blend, rtol=1e-4, atol=1e-4)


# --- beside what else holds a picture ---------------------------------------------------------------------------------


@pytest.mark.parametrize("differential", [False, True], ids=["noise mask", "differential diffusion"])
@pytest.mark.parametrize("name", ["euler", "dpmpp_2s_ancestral"])
def test_where_either_mask_is_black_cells_stay_bit_for_bit(case, differential, name):
    model, positive, latent, sigmas = case
    if differential:
        model = DifferentialDiffusion.execute(model).result[0]
    upper = torch.linspace(1, 0, 8).clamp(min=0.3)[None, :, None].repeat(1, 1, 8)
    upper[:, 4:] = 0  # soft above, black below
    masked = host_nodes.SetLatentNoiseMask().set_mask(latent, upper)[0]
    result = sampled(guider(held(model), positive), sigmas, masked, noise(), chosen(name))
    same = (result == latent["samples"]).all(1)
    assert same[..., 4:].all() and same[..., 4:, :].all()
    assert not same[..., :4, :4].any()


# --- two samplers in a row --------------------------------------------------------------------------------------------


def test_split_sigmas_end_where_one_run_does(case):
    """SamplerCustomAdvanced twice; the first run stops above 0, still noisy, and the second is told what to keep."""
    model, positive, latent, sigmas = case
    masked = held(model, samples=latent)
    high, low = custom.SplitSigmas.execute(sigmas, 2).result
    half = sampled(guider(masked, positive), high, latent, noise())
    assert (half - latent["samples"])[..., 4:].abs().mean() > 0.1  # the noise of the start, outside too
    whole = sampled(guider(masked, positive), low, {"samples": half})
    assert_only_the_left_changed(whole, latent["samples"])
    at_once = sampled(guider(masked, positive), sigmas, latent, noise())
    torch.testing.assert_close(whole, at_once, rtol=1e-3, atol=1e-3)


# --- every guider of the host -----------------------------------------------------------------------------------------


def guiders(model, clip, picture, vae):
    """All of them, on an InstructPix2Pix model."""
    positive, negative = prompt(clip, "make the circle blue"), prompt(clip, "")
    plus, minus, _ = InstructPixToPixConditioning.execute(positive, negative, picture, vae).result
    yield "CFG", custom.CFGGuider.execute(model, plus, minus, 3.0)[0]
    yield "dual CFG", custom.DualCFGGuider.execute(model, plus, minus, negative, 3.0, 1.2, "regular")[0]
    yield "dual CFG, nested", custom.DualCFGGuider.execute(model, plus, minus, negative, 3.0, 1.2, "nested")[0]
    yield "dual model", custom.DualModelGuider.execute(model, plus, 3.0, model, minus)[0]
    yield "perp neg", PerpNegGuider.execute(model, plus, minus, minus, 3.0, 1.0)[0]


def test_every_guider_is_held(instruct_pix2pix, tiny_vae, scenes):
    model, clip = instruct_pix2pix
    picture = scenes[:1, :32, :32]
    latent = {"samples": tiny_vae.encode(picture)}
    free = dict(guiders(model, clip, picture, tiny_vae))
    masked = dict(guiders(held(model), clip, picture, tiny_vae))
    ends = []
    for name, guide in masked.items():
        # One step, so that inside nothing but the guider decides.
        step = sampled(guide, NOISY[[1, 3]], latent, noise())
        expected = sampled(free[name], NOISY[[1, 3]], latent, noise())
        assert_only_the_left_changed(step, latent["samples"])
        torch.testing.assert_close(step[..., :4], expected[..., :4], rtol=1e-4, atol=1e-4)
        ends.append(sampled(guide, NOISY, latent, noise(), chosen("euler_ancestral")))
        assert_only_the_left_changed(ends[-1], latent["samples"])
    assert len({end.sum().item() for end in ends}) >= 3  # they are not all the same


# --- batches, and models of videos given a picture --------------------------------------------------------------------


def test_one_latent_is_kept_for_a_whole_batch(text_to_image, positive, latent):
    one = {"samples": latent["samples"][:1]}
    empty = {"samples": torch.zeros(3, 4, 8, 8)}
    model = held(text_to_image[0], samples=one)
    result = sampled(guider(model, positive), NOISY, empty, noise())
    assert_only_the_left_changed(result, one["samples"])
    assert not torch.equal(result[0, ..., :4], result[1, ..., :4])


def test_a_model_of_videos_keeps_a_picture_as_one_frame(video):
    """The host makes a frame of a latent of four dimensions; so is the one to keep."""
    model, positive, latent = video
    picture = {"samples": latent["samples"][:, :, 0]}
    told = sampled(guider(held(model, samples=picture), positive), FLOW, picture, noise())
    assert told.shape == (2, 16, 1, 8, 8)
    assert_only_the_left_changed(told[:, :, 0], picture["samples"])
    assert torch.equal(sampled(guider(held(model), positive), FLOW, picture, noise()), told)


# --- a guider that is used again --------------------------------------------------------------------------------------


def test_a_guider_keeps_what_each_of_its_runs_is_given(text_to_image, positive, latent):
    """The host hands the same guider to every sampler that is connected to it, also after a run that was stopped."""
    guide = guider(held(text_to_image[0]), positive)
    start = noise().generate_noise(latent)

    def press_stop(step, *_):
        if step == 1:
            comfy.model_management.interrupt_current_processing()

    with pytest.raises(InterruptProcessingException):
        guide.sample(start, latent["samples"], chosen("heun"), NOISY, callback=press_stop, seed=0)
    assert "gradient_mask" not in str(guide.model_options.get("transformer_options"))
    other = {"samples": latent["samples"].flip(0, -1)}
    for known in (other, latent):
        result = sampled(guide, NOISY, known, noise())
        assert_only_the_left_changed(result, known["samples"])
        fresh = sampled(guider(held(text_to_image[0]), positive), NOISY, known, noise())
        assert torch.equal(result, fresh)


def test_sigmas_are_left_as_they_are_for_the_next_run(text_to_image, positive, latent):
    """The host's uni_pc writes into its own: a second run on them would end above 0, where nothing can be kept."""
    sigmas, guide = NOISY.clone(), guider(held(text_to_image[0]), positive)
    for _ in range(2):
        assert_only_the_left_changed(sampled(guide, sigmas, latent, noise(), chosen("uni_pc")), latent["samples"])
        assert torch.equal(sigmas, NOISY)


# --- what cannot be held ----------------------------------------------------------------------------------------------


def test_a_sampler_that_enlarges_the_latent_is_named(text_to_image, positive, latent):
    sampler = SamplerLCMUpscale.execute(2.0, -1, "nearest-exact")[0]
    with pytest.raises(
        ValueError, match=r"holds a latent of \(2, 4, 8, 8\), but this sampler has gone on to one of \(2, 4, "
    ):
        sampled(guider(held(text_to_image[0]), positive), NOISY, latent, noise(), sampler)
