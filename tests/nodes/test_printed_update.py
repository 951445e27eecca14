"""ReEdit Printed Update as a sampler of the host: against its own ddpm where it must agree, and as the paper has it."""

from __future__ import annotations

import itertools

import comfy.model_management
import comfy.samplers
import pytest
import torch
from comfy.k_diffusion import sampling as k_diffusion
from comfy.model_management import InterruptProcessingException
from comfy_extras import nodes_custom_sampler as custom
from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM, ModelSamplingDiscrete, ModelSamplingSD3
from host_graph import SOURCE, counted_rows, guider, prompt, quarters, sampled
from reedit.models.diffusion.printed_update import AS_PRINTED, OF_DDPM
from reedit.nodes.printed_update import ReEditPrintedUpdate

FALLING = torch.tensor([14.6, 4.0, 1.2, 0.4, 0.0])


@pytest.fixture(scope="module")
def positive(text_to_image):
    with torch.inference_mode():
        return prompt(text_to_image[1], SOURCE)


@pytest.fixture(scope="module")
def latent(tiny_vae, scenes):
    """Two scenes' quarters, of 8×8 cells."""
    return quarters(tiny_vae, scenes[:2])


@pytest.fixture
def model(text_to_image):
    return text_to_image[0]


def printed(coefficients=AS_PRINTED, seed=3, mask=None):
    return ReEditPrintedUpdate.execute(coefficients, seed, mask)[0]


def noise():
    return custom.RandomNoise.execute(1)[0]


def left_half(rows=64, columns=64):
    """A mask of the left half: of 8 columns of cells, 0 to 3."""
    mask = torch.zeros(1, rows, columns)
    mask[..., : columns // 2] = 1.0
    return mask


def run(model, positive, latent, sampler, sigmas=FALLING):
    return sampled(guider(model, positive), sigmas, latent, noise(), sampler)


def drawn(seed, latent):
    """The noise that ours draws: of the seed, from the second on."""
    generator = torch.Generator().manual_seed(seed)
    torch.randn(latent["samples"].shape, generator=generator)
    while True:
        yield torch.randn(latent["samples"].shape, generator=generator)


# --- the host's samplers ----------------------------------------------------------------------------------------------

KINDS = {
    "eps": lambda model: model,
    "v": lambda model: ModelSamplingDiscrete().patch(model, "v_prediction", False)[0],
    "EDM": lambda model: ModelSamplingContinuousEDM().patch(model, "edm", 20.0, 0.05)[0],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", [k_diffusion.sample_ddpm, k_diffusion.sample_euler_ancestral])
def test_with_ddpms_coefficients_and_no_mask_it_is_the_hosts_ddpm(model, positive, latent, kind, sampler):
    """… given the same noise; and so it is its euler_ancestral, which is the same step written in another way."""
    stream = drawn(5, latent)
    theirs = comfy.samplers.KSAMPLER(sampler, {"noise_sampler": lambda *_: next(stream)})
    model = KINDS[kind](model)
    expected = run(model, positive, latent, theirs)
    torch.testing.assert_close(run(model, positive, latent, printed(OF_DDPM, 5)), expected, rtol=1e-4, atol=1e-4)
    white = printed(OF_DDPM, 5, torch.ones(1, 64, 64))
    torch.testing.assert_close(run(model, positive, latent, white), expected, rtol=1e-4, atol=1e-4)


def test_of_a_known_prediction_as_printed_is_line_9(model, positive, latent):
    """One step to a lower sigma, on cells in the left half alone, in z's scale."""
    sampler, sigmas = printed(AS_PRINTED, 5, left_half()), FALLING[1:3]
    seen = []
    start = noise().generate_noise(latent)
    result = guider(model, positive).sample(
        start, latent["samples"], sampler, sigmas, callback=lambda step, x0, x, total: seen.append((x0, x)), seed=0
    )
    ((denoised, x),) = seen
    high, low = sigmas.double()
    abar, abar_low = 1 / (1 + high**2), 1 / (1 + low**2)
    cells = torch.zeros(8)
    cells[:4] = 1
    line_9 = x * abar.sqrt() - cells * (x - denoised) / high
    line_9 += ((1 - abar_low) / (1 - abar) * (1 - abar / abar_low)).sqrt() * next(drawn(5, latent))
    scale = model.get_model_object("latent_format").scale_factor
    torch.testing.assert_close(result.double() * scale * abar_low.sqrt(), line_9.double(), rtol=1e-4, atol=1e-4)


# --- what the mask does -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coefficients", [AS_PRINTED, OF_DDPM])
def test_outside_the_mask_nothing_but_noise_comes_out(model, positive, latent, coefficients):
    """The picture is nowhere in it: what is there follows from both noises and the latent under them, without the model."""
    result = run(model, positive, latent, printed(coefficients, 5, left_half()))[..., 4:]
    scale = model.get_model_object("latent_format").scale_factor
    known, start = latent["samples"][..., 4:] * scale, noise().generate_noise(latent)[..., 4:]
    x = known + start * FALLING[0]  # the host lays the noise on the latent
    for (high, low), new in zip(itertools.pairwise(FALLING), drawn(5, latent), strict=False):
        added = low * (1 - low**2 / high**2).sqrt() * new[..., 4:]
        x = x + added if coefficients == OF_DDPM else x * (1 + low**2).sqrt() / (1 + high**2).sqrt() + added
    torch.testing.assert_close(result * scale, x, rtol=1e-4, atol=1e-3)


def test_the_latents_noise_mask_is_the_hosts_and_keeps_what_it_keeps(model, positive, latent):
    """With DDPM's coefficients the last prediction is what comes out, and the host makes that the latent's outside."""
    masked = {**latent, "noise_mask": left_half()}
    result = run(model, positive, masked, printed(OF_DDPM))
    torch.testing.assert_close(result[..., 4:], latent["samples"][..., 4:], rtol=1e-4, atol=1e-4)
    assert (result[..., :4] - latent["samples"][..., :4]).abs().mean() > 0.1


def test_one_mask_for_each_picture_and_of_another_size(model, positive, latent):
    """One step, in which the model does not yet see what the other half has become."""
    sigmas, cells = FALLING[1:3], torch.cat([left_half(8, 8), left_half(8, 8).flip(-1)])
    small = run(model, positive, latent, printed(mask=cells), sigmas)
    large = cells.repeat_interleave(5, -1).repeat_interleave(5, -2)
    torch.testing.assert_close(run(model, positive, latent, printed(mask=large), sigmas), small)
    white = run(model, positive, latent, printed(), sigmas)
    assert torch.equal(small[0, ..., :4], white[0, ..., :4]) and torch.equal(small[1, ..., 4:], white[1, ..., 4:])
    assert not (small[0, ..., 4:] == white[0, ..., 4:]).any()


# --- as a sampler of the host -----------------------------------------------------------------------------------------


def test_the_seed_alone_decides_the_new_noise(model, positive, latent):
    first, other, again = (run(model, positive, latent, printed(seed=seed)) for seed in (0, 2**64 - 1, 0))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_it_takes_one_call_a_step_shows_each_and_changes_nothing_it_is_given(model, positive, latent):
    mask, sigmas, given, shown = left_half(), FALLING.clone(), latent["samples"].clone(), []
    start = noise().generate_noise(latent)
    with counted_rows(model) as rows:
        guider(model, positive).sample(
            start, latent["samples"], printed(mask=mask), sigmas, callback=lambda *seen: shown.append(seen), seed=0
        )
    assert rows == [2] * 4
    assert [(step, total) for step, _, _, total in shown] == [(step, 4) for step in range(4)]
    assert torch.equal(latent["samples"], given) and torch.equal(mask, left_half()) and torch.equal(sigmas, FALLING)


def test_an_interrupt_ends_it_before_the_next_call(model, positive, latent):
    start = noise().generate_noise(latent)
    with counted_rows(model) as rows, pytest.raises(InterruptProcessingException):
        guider(model, positive).sample(
            start,
            latent["samples"],
            printed(),
            FALLING,
            callback=lambda *_: comfy.model_management.interrupt_current_processing(),
            seed=0,
        )
    assert rows == [2]


# --- what does not do -------------------------------------------------------------------------------------------------


def test_a_flow_model_is_named_before_it_is_called(model, positive, latent):
    flow = ModelSamplingSD3().patch(model, 3.0)[0]
    sigmas = torch.tensor([1.0, 0.5, 0.0])
    with (
        counted_rows(model) as rows,
        pytest.raises(ValueError, match="model is a BaseModel, a flow model, but EMILIE's update is written for DDPM"),
    ):
        run(flow, positive, latent, printed(), sigmas)
    assert rows == []


def test_flipped_sigmas_are_named_before_the_model_is_called(model, positive, latent):
    with counted_rows(model) as rows, pytest.raises(ValueError, match="sigmas rise"):
        run(model, positive, latent, printed(), custom.FlipSigmas.execute(FALLING)[0])
    assert rows == []


def test_a_choice_that_there_is_not_and_an_empty_mask_are_named_at_once():
    with pytest.raises(ValueError, match="coefficients is 'of DDIM'; there are 'as printed' and 'of DDPM'"):
        printed("of DDIM")
    with pytest.raises(ValueError, match="mask is zero everywhere"):
        printed(mask=torch.zeros(1, 64, 64))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (left_half(64, 128), r"mask is 128×64 .* other proportions than the picture \(latent 8×8\)"),
        (left_half().repeat(3, 1, 1), "mask is a batch of 3, but there are 2 pictures"),
        (left_half() * float("nan"), "mask holds NaN"),
    ],
    ids=["proportions", "batch", "NaN"],
)
def test_a_mask_that_does_not_fit_is_named_before_the_model_is_called(model, positive, latent, mask, message):
    with counted_rows(model) as rows, pytest.raises(ValueError, match=message):
        run(model, positive, latent, printed(mask=mask))
    assert rows == []
