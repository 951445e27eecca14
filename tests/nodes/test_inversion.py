"""ReEdit Invert in the host: what comes out of the host's own nodes for sampling is what went in."""

from __future__ import annotations

import logging

import comfy.samplers
import nodes as host_nodes
import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelComputeDtype, ModelSamplingDiscrete
from host_graph import SOURCE, counted_rows, guider, inverted, prompt, quarters, relative, sampled
from reedit.models.diffusion.inversion_text import number
from reedit.nodes.inversion import LOWEST, ZERO, ReEditInversionReport

FEW = torch.tensor([1.0, 0.4, 0.17, 0.07, 0.0])  # the lower end of a schedule, as SplitSigmasDenoise gives it


@pytest.fixture(scope="module")
def model(text_to_image):
    return text_to_image[0]


@pytest.fixture(scope="module")
def positive(text_to_image):
    with torch.inference_mode():
        return prompt(text_to_image[1], SOURCE)


@pytest.fixture(scope="module")
def negative(text_to_image):
    with torch.inference_mode():
        return prompt(text_to_image[1], "")


@pytest.fixture(scope="module")
def latents(tiny_vae, scenes):
    return quarters(tiny_vae, scenes[:3])


@pytest.fixture(scope="module")
def latent(latents):
    return {"samples": latents["samples"][:1]}


@pytest.fixture(scope="module")
def exact(model, positive, latent):
    """An inversion that several tests start from."""
    with torch.inference_mode():
        return inverted(model, positive, latent)


# --- there and back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clean_at", [LOWEST, ZERO])
@pytest.mark.parametrize("scheduler", ["karras", "normal", "simple", "beta", "sgm_uniform"])
def test_the_hosts_euler_brings_the_latent_back(model, positive, latent, scheduler, clean_at):
    noisy, noise, sigmas, trajectory, report = inverted(model, positive, latent, scheduler=scheduler, clean_at=clean_at)
    sampling = model.get_model_object("model_sampling")
    lowest = sampling.sigma_min if clean_at == LOWEST else torch.tensor(0.0)
    torch.testing.assert_close(sigmas[[0, -1]], torch.stack([sampling.sigma_max, lowest]), rtol=1e-3, atol=0)
    # Noise at the highest level, and little of the picture.
    assert noisy["samples"].std() > 0.5 * sampling.sigma_max / model.model.latent_format.scale_factor
    by_latent = sampled(guider(model, positive), sigmas, noisy)
    by_noise = sampled(guider(model, positive), sigmas, latent, noise)
    assert relative(by_latent, latent["samples"]) < 1e-4, report
    assert relative(by_noise, latent["samples"]) < 1e-4, report
    assert not trajectory.open_steps() and "Converged" in report


def test_a_whole_scene_comes_back_from_ksampler_advanced(model, positive, tiny_vae, scenes):
    """The simplest graph: KSampler (Advanced) with the same widgets, which takes no sigmas from outside."""
    latent, steps = {"samples": tiny_vae.encode(scenes[:1])}, 10
    noisy, *_, trajectory, report = inverted(
        model, positive, latent, steps=steps, clean_at=ZERO, largest_ratio=10_000.0
    )
    assert trajectory.steps == steps
    (back,) = host_nodes.KSamplerAdvanced().sample(
        model, "disable", 1, steps, 1.0, "euler", "karras", positive, positive, noisy, 0, steps, "disable"
    )
    assert relative(back["samples"], latent["samples"]) < 1e-4, report


def test_sigmas_from_outside_stand_for_steps_and_scheduler(model, positive, latent):
    noisy, noise, sigmas, *_ = inverted(model, positive, latent, sigmas=FEW, clean_at=ZERO)
    assert torch.equal(sigmas[:4], FEW[:4]) and sigmas[-1] == 0
    assert relative(sampled(guider(model, positive), sigmas, noisy), latent["samples"]) < 1e-4
    assert relative(sampled(guider(model, positive), sigmas, latent, noise), latent["samples"]) < 1e-4


def test_everything_else_in_the_latent_travels_along_and_nothing_given_is_changed(model, positive, latent):
    given = {**latent, "batch_index": [3], "someone_elses": object()}
    before, words = given["samples"].clone(), positive[0][0].clone()
    falling = FEW.clone()
    sigmas_before, conditioning_keys = falling.clone(), set(positive[0][1])
    options = comfy.model_patcher.create_model_options_clone(model.model_options)
    noisy, noise, *_ = inverted(model, positive, given, sigmas=falling)
    noise.generate_noise(given)
    assert noisy["someone_elses"] is given["someone_elses"] and noisy["batch_index"] == [3]
    assert set(given) == {"samples", "batch_index", "someone_elses"}
    assert torch.equal(given["samples"], before) and torch.equal(falling, sigmas_before)
    assert torch.equal(positive[0][0], words) and set(positive[0][1]) == conditioning_keys
    assert model.model_options == options


# --- methods ----------------------------------------------------------------------------------------------------------


def test_anderson_needs_fewer_calls_than_plain_iteration(model, positive, latent, exact):
    calls = exact[3].total_calls
    plain = inverted(model, positive, latent, method="plain")[3]
    assert not plain.open_steps() and calls < 0.75 * plain.total_calls


def test_euler_is_ddim_inversion(model, positive, latent):
    """Each step once, with the noise that the model sees in the latent below it."""
    with counted_rows(model) as rows:
        noisy, _, passed, _, report = inverted(model, positive, latent, method="euler")
    assert rows == [1] * (len(passed) - 1) and "Uncorrected" in report
    denoise = model_of(model, positive)
    x = model.model.process_latent_in(latent["samples"])
    for low, high in zip(passed.flip(0)[:-1], passed.flip(0)[1:], strict=True):
        x = x + (high - low) * (x - denoise(x, high)) / high
    torch.testing.assert_close(model.model.process_latent_in(noisy["samples"]), x, rtol=1e-4, atol=1e-4)
    assert 1e-2 < relative(sampled(guider(model, positive), passed, noisy), latent["samples"]) < 1


def model_of(model, positive):
    """denoise(x, sigma), with nothing of the sampler but one call."""

    def denoise(x, sigma):
        found = []

        def call_once(wrapped, x_in, sigmas, extra_args, **_):
            found.append(wrapped(x, sigma.expand(len(x)), **extra_args))
            return x_in

        sampler = comfy.samplers.KSAMPLER(call_once)
        guider(model, positive).sample(torch.zeros_like(x), x, sampler, torch.stack([sigma, sigma * 0]), seed=0)
        return found[0]

    return denoise


# --- guidance ---------------------------------------------------------------------------------------------------------


def test_at_cfg_1_no_negative_branch_is_computed(model, positive, negative, latent, exact):
    with counted_rows(model) as rows:
        noisy, *_, trajectory, _ = inverted(model, positive, latent, negative=negative)
    assert rows == [1] * trajectory.total_calls
    assert torch.equal(noisy["samples"], exact[0]["samples"])


# A few large steps of strong guidance are too hard.
@pytest.mark.parametrize(("cfg", "comes_back"), [(2.0, True), (5.0, False)])
def test_guidance_comes_back_or_says_how_far_it_is_off(model, positive, negative, latent, cfg, comes_back):
    sigmas = FEW if comes_back else 3 * FEW
    with counted_rows(model) as rows:
        noisy, _, sigmas, trajectory, report = inverted(
            model, positive, latent, sigmas=sigmas, cfg=cfg, negative=negative, iterations=12
        )
    assert rows == [2] * trajectory.total_calls and trajectory.settings.cfg == cfg
    error = relative(sampled(guider(model, positive, negative, cfg), sigmas, noisy), latent["samples"])
    _, shown, predicted, converged, calls = ReEditInversionReport.execute(trajectory).result
    assert (shown, calls) == (report, trajectory.total_calls)
    assert predicted / 30 < error < 30 * predicted
    assert converged == comes_back
    if converged:
        assert error < 1e-4
    else:
        assert "Did not converge" in report and "What to change" in report


def test_guidance_without_a_negative_prompt_is_refused(model, positive, latent):
    with pytest.raises(ValueError, match=r"cfg is 3, which needs a negative prompt. Connect negative"):
        inverted(model, positive, latent, cfg=3.0)


# --- budget and going on ----------------------------------------------------------------------------------------------


def test_no_item_takes_more_calls_than_the_budget(model, positive, latents):
    noisy, _, sigmas, trajectory, report = inverted(model, positive, latents, sigmas=FEW, calls=13)
    assert trajectory.settings.calls == 13
    spent = [sum(len(step[item]) for step in trajectory.residuals) for item in range(trajectory.batch)]
    assert max(spent) <= 13 and min(spent) > 9
    assert trajectory.open_steps() and "Did not converge" in report
    back = sampled(guider(model, positive), sigmas, noisy)
    errors = [relative(one, known) for one, known in zip(back, latents["samples"], strict=True)]
    for item, error in enumerate(errors):
        assert trajectory.predicted_error(item) / 30 < error < 30 * trajectory.predicted_error(item)


def test_a_budget_below_one_call_a_step_is_refused(model, positive, latent):
    with pytest.raises(ValueError, match=r"budget of 5 calls is too small for \d+ steps"):
        inverted(model, positive, latent, calls=5)


def test_a_rough_inversion_can_be_gone_on_with(model, positive, latent, exact):
    rough = inverted(model, positive, latent, tolerance=1e-3)[3]
    noisy, _, sigmas, trajectory, _ = inverted(model, positive, latent, trajectory=rough)
    assert not trajectory.open_steps()
    assert trajectory.total_calls < 0.75 * exact[3].total_calls
    assert relative(sampled(guider(model, positive), sigmas, noisy), latent["samples"]) < 1e-4
    # Of what is there already, each step has to be looked at once.
    again = inverted(model, positive, latent, trajectory=trajectory)[3]
    assert again.total_calls <= 2 * again.steps


def test_a_trajectory_of_another_model_of_the_same_space_is_a_start_like_any(model, positive, latent, instruct_pix2pix):
    """Both demo models make the same noisy latents; where the start comes from does not show in the result."""
    editor, clip = instruct_pix2pix
    words = [[prompt(clip, "make it red")[0][0], {"concat_latent_image": latent["samples"]}]]
    other = inverted(editor, words, latent, tolerance=1e-2)[3]
    noisy, _, sigmas, trajectory, _ = inverted(model, positive, latent, trajectory=other)
    assert not trajectory.open_steps()
    assert relative(sampled(guider(model, positive), sigmas, noisy), latent["samples"]) < 1e-4


def test_a_trajectory_that_does_not_fit_is_refused(model, positive, latent, latents, exact):
    trajectory = exact[3]
    (other,) = ModelSamplingDiscrete().patch(model, "v_prediction", False)
    with pytest.raises(ValueError, match="trajectory was made with another kind of model"):
        inverted(other, positive, latent, trajectory=trajectory)
    with pytest.raises(
        ValueError, match=r"trajectory is of a latent of \(1, 4, 8, 8\), but this one is \(3, 4, 8, 8\)"
    ):
        inverted(model, positive, latents, trajectory=trajectory)
    with pytest.raises(ValueError, match=r"trajectory passes the sigmas .* but this inversion"):
        inverted(model, positive, latent, trajectory=trajectory, scheduler="normal")
    with pytest.raises(ValueError, match=r"trajectory passes the sigmas .* but this inversion"):
        inverted(model, positive, latent, trajectory=trajectory, steps=12)


def test_the_noise_of_another_shape_or_model_is_refused(model, latents, exact):
    noise = exact[1]
    with pytest.raises(ValueError, match="trajectory is of a latent of"):
        noise.generate_noise(latents)


# --- the error, measured ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["anderson", "euler"])
def test_check_measures_what_the_hosts_sampler_brings_back(model, positive, latents, method):
    with counted_rows(model) as rows:
        noisy, _, sigmas, trajectory, report = inverted(
            model, positive, latents, sigmas=FEW, method=method, tolerance=1e-2, check=True
        )
    assert rows[-trajectory.steps :] == [3] * trajectory.steps  # one call a step, of the whole batch
    back = sampled(guider(model, positive), sigmas, noisy)
    scaled = [model.model.process_latent_in(values) for values in (back, latents["samples"])]
    wanted = [relative(result, known) for result, known in zip(*scaled, strict=True)]
    assert trajectory.measured == pytest.approx(wanted, rel=0.01)
    assert f"relative error of {number(max(trajectory.measured))}" in report and "Checked" in report
    assert ReEditInversionReport.execute(trajectory)[2] == max(trajectory.measured)


# --- half precision ---------------------------------------------------------------------------------------------------


ROUNDING = {"bf16": torch.finfo(torch.bfloat16).eps, "fp16": torch.finfo(torch.float16).eps}


@pytest.mark.parametrize("dtype", ROUNDING)
def test_a_half_precision_model_is_inverted_down_to_its_own_rounding(model, positive, latent, dtype, caplog):
    before = inverted(model, positive, latent, sigmas=FEW, method="euler")[0]["samples"]
    (half,) = ModelComputeDtype().patch(model, dtype)
    with caplog.at_level(logging.WARNING):
        noisy, _, sigmas, trajectory, report = inverted(half, positive, latent, sigmas=FEW, tolerance=0.0)
    assert noisy["samples"].dtype == torch.float32
    floor = max(trajectory.remaining(step, 0).relative for step in range(trajectory.steps))
    assert ROUNDING[dtype] / 30 < floor < ROUNDING[dtype] / 2
    error = relative(sampled(guider(half, positive), sigmas, noisy), latent["samples"])
    assert ROUNDING[dtype] / 30 < error < 3 * ROUNDING[dtype]
    assert "Did not converge" in report and "float32" in report and "Did not converge" in caplog.text
    # The model is one and the same object inside: it computes in float32 again.
    assert torch.equal(inverted(model, positive, latent, sigmas=FEW, method="euler")[0]["samples"], before)


@pytest.mark.parametrize("dtype", ROUNDING)
def test_a_tolerance_below_a_models_rounding_is_raised_to_what_it_can_meet(model, positive, latent, dtype):
    (half,) = ModelComputeDtype().patch(model, dtype)
    noisy, _, sigmas, trajectory, report = inverted(half, positive, latent, sigmas=FEW, tolerance=1e-6)
    assert trajectory.tolerance == ROUNDING[dtype] / 4 and report.startswith("Converged")
    assert trajectory.total_calls <= 8 * trajectory.steps  # none are spent on what no call can bring
    assert relative(sampled(guider(half, positive), sigmas, noisy), latent["samples"]) < 3 * ROUNDING[dtype]
    whole = inverted(model, positive, latent, sigmas=FEW, tolerance=1e-6)[3]
    assert whole.tolerance == 1e-6
