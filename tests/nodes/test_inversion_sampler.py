"""ReEdit Inversion Sampler in graphs with FlipSigmas; and what both inversion nodes do when something is wrong."""

from __future__ import annotations

import comfy.model_management
import comfy.model_patcher
import comfy.nested_tensor
import comfy.utils
import latent_preview
import pytest
import torch
from comfy.model_management import InterruptProcessingException
from comfy.patcher_extension import WrappersMP
from comfy_extras import nodes_custom_sampler as custom
from host_graph import SOURCE, counted_rows, euler, guider, inverted, karras, prompt, quarters, relative, sampled
from PIL import Image
from reedit.nodes import live_pictures
from reedit.nodes.inversion import ReEditInversionSampler, check_can_be_inverted

FALLING = torch.tensor([3.0, 1.2, 0.5, 0.2, 0.08, 0.0])


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
    return quarters(tiny_vae, scenes[:2])


@pytest.fixture(scope="module")
def latent(latents):
    return {"samples": latents["samples"][:1]}


def flipped(sigmas):
    return custom.FlipSigmas.execute(sigmas)[0]


def inversion_sampler(method="anderson", iterations=40, tolerance=1e-5):
    return ReEditInversionSampler.execute(method, iterations, tolerance)[0]


def upwards(guider, sigmas, latent, sampler=None):
    return {**latent, "samples": sampled(guider, sigmas, latent, sampler=sampler or inversion_sampler())}


# --- in place of euler ------------------------------------------------------------------------------------------------


def test_it_is_a_hundred_times_as_exact_as_euler_in_the_same_graph(model, positive, latent):
    sigmas = karras(model, 12)
    ours, theirs = (
        sampled(guider(model, positive), sigmas, upwards(guider(model, positive), flipped(sigmas), latent, sampler))
        for sampler in (inversion_sampler(), euler())
    )
    error, euler_error = relative(ours, latent["samples"]), relative(theirs, latent["samples"])
    assert error < 1e-4 and error < euler_error / 100


GUIDERS = {
    "CFGGuider": lambda model, positive, negative: guider(model, positive, negative, 2.0),
    "DualCFGGuider": lambda model, positive, negative: custom.DualCFGGuider.execute(
        model, positive, negative, negative, 1.5, 1.2, "regular"
    )[0],
    "DualModelGuider": lambda model, positive, negative: custom.DualModelGuider.execute(
        model, positive, 2.0, model, negative
    )[0],
}


@pytest.mark.parametrize("name", GUIDERS)
def test_it_works_with_every_guider_of_the_host(model, positive, negative, latents, name):
    """Each with a batch, so that some items end before others."""
    sigmas = FALLING[1:]
    make = GUIDERS[name]
    noisy = upwards(make(model, positive, negative), flipped(sigmas), latents)
    assert relative(noisy["samples"], latents["samples"]) > 0.1
    back = sampled(make(model, positive, negative), sigmas, noisy)
    assert relative(back, latents["samples"]) < 1e-4


def test_it_begins_where_flip_sigmas_says_or_at_zero_or_above(model, positive, latent):
    """FlipSigmas writes 0.0001 for a 0, where a network cannot be asked; that stands for the sampler's 0."""
    from_flip, from_zero = (
        upwards(guider(model, positive), sigmas, latent)["samples"] for sigmas in (flipped(FALLING), FALLING.flip(0))
    )
    assert torch.equal(from_flip, from_zero)
    above = FALLING[:-1]
    noisy = upwards(guider(model, positive), flipped(above), latent)
    assert not torch.equal(noisy["samples"], from_zero)
    assert relative(sampled(guider(model, positive), above, noisy), latent["samples"]) < 1e-4


def test_split_sigmas_invert_in_two_parts(model, positive, latent):
    """Half of the way in one sampler, and the rest in another: as in one."""
    rising = FALLING.flip(0)
    lower, upper = rising[:4], rising[3:]
    halfway = upwards(guider(model, positive), lower, latent)
    noisy = upwards(guider(model, positive), upper, halfway)["samples"]
    assert relative(noisy, upwards(guider(model, positive), rising, latent)["samples"]) < 1e-4


# --- sigmas that do not do --------------------------------------------------------------------------------------------

BAD = {
    "one value": (torch.tensor([1.0]), r"sigmas has 1 value\(s\); an inversion needs at least 2"),
    "not monotone": (torch.tensor([3.0, 1.0, 2.0, 0.0]), r"sigmas must fall .* 3, 1, 2, 0"),
    "repeated": (torch.tensor([3.0, 1.0, 1.0, 0.0]), "sigmas must fall"),
    "not a number": (torch.tensor([3.0, float("nan"), 0.0]), "negative or no number"),
    "negative": (torch.tensor([3.0, 1.0, -1.0]), "negative or no number"),
    "infinite": (torch.tensor([float("inf"), 1.0, 0.0]), "negative or no number"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_sigmas_are_named_by_both_nodes(model, positive, latent, case):
    sigmas, message = BAD[case]
    with counted_rows(model) as rows:
        with pytest.raises(ValueError, match=message):
            inverted(model, positive, latent, sigmas=sigmas)
        # The sampler's go the other way, and so does what it says of them.
        with pytest.raises(ValueError, match="sigmas|Sigmas"):
            upwards(guider(model, positive), sigmas.flip(0), latent)
    assert rows == []


def test_sigmas_the_wrong_way_round_are_named(model, positive, latent):
    with pytest.raises(ValueError, match="not flipped"):
        inverted(model, positive, latent, sigmas=flipped(FALLING))
    with pytest.raises(ValueError, match=r"Put FlipSigmas in front\."):
        upwards(guider(model, positive), FALLING, latent)


# --- latents that do not do -------------------------------------------------------------------------------------------


def test_a_latent_that_is_noisy_already_is_refused(model, positive, latent):
    noisy, *_ = inverted(model, positive, latent, sigmas=FALLING, method="euler")
    with pytest.raises(ValueError, match=r"samples is already noisy \(at sigma 3\)\. Invert the clean latent"):
        inverted(model, positive, noisy)
    noise = latent["samples"] + 14.6 * torch.randn_like(latent["samples"]) / model.model.latent_format.scale_factor
    with pytest.raises(ValueError, match=r"looks noisy: its root mean square is 1\d(\.\d)?, "):
        inverted(model, positive, {"samples": noise})


def test_a_latent_that_was_noisy_once_and_is_sampled_is_clean(model, positive, latent):
    """The mark of a noisy latent travels along through the host's sampler, and means nothing there."""
    noisy, _, sigmas, *_ = inverted(model, positive, latent, sigmas=FALLING, tolerance=1e-3)
    (back, _) = custom.SamplerCustomAdvanced.execute(
        custom.DisableNoise.execute()[0], guider(model, positive), euler(), sigmas, noisy
    ).result
    assert set(noisy) == set(back)
    inverted(model, positive, back, sigmas=FALLING, method="euler")


def nested(latent):
    return comfy.nested_tensor.NestedTensor([latent, latent])


def with_nan(latent):
    latent = latent.clone()
    latent[0, 1, 2, 3] = torch.nan
    return latent


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (torch.zeros_like, "samples is an empty latent: there is no picture to invert"),
        (lambda latent: latent.repeat(1, 4, 1, 1), r"samples has 16 channels, but this model works on latents of 4"),
        (lambda latent: latent[:, :3], r"samples has 3 channels, but this model works on latents of 4"),
        (lambda latent: latent[0], r"samples has shape \(4, 8, 8\)"),
        (nested, "samples is a nested latent"),
        (with_nan, "samples holds 1 values that are NaN or infinite"),
    ],
    ids=["empty", "too many channels", "too few", "no batch", "nested", "NaN"],
)
def test_bad_latents_are_refused_before_the_model_is_called(model, positive, latent, change, message):
    with counted_rows(model) as rows, pytest.raises(ValueError, match=message):
        inverted(model, positive, {"samples": change(latent["samples"])})
    assert rows == []


def test_a_model_without_noise_is_refused(model):
    """As the host has it for models that turn one picture into another."""
    clone = model.clone()

    class FromPictureToPicture(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.IMG_TO_IMG):
        pass

    clone.add_object_patch("model_sampling", FromPictureToPicture(model.model.model_config))
    with pytest.raises(ValueError, match="turns one picture into another without noise"):
        check_can_be_inverted(clone)


# --- settings at their ends -------------------------------------------------------------------------------------------


def test_no_iterations_and_a_negative_tolerance_are_refused(model, positive, latent):
    with pytest.raises(ValueError, match="iterations is 0; at least 1 is needed"):
        inverted(model, positive, latent, iterations=0)
    with pytest.raises(ValueError, match="tolerance is negative"):
        inverted(model, positive, latent, tolerance=-1e-3)
    with pytest.raises(ValueError, match="iterations is 0; at least 1 is needed"):
        upwards(guider(model, positive), flipped(FALLING), latent, inversion_sampler(iterations=0))
    with pytest.raises(ValueError, match="window of Anderson's method is 0"):
        inverted(model, positive, latent, history=0)


def test_tolerance_0_goes_on_until_nothing_improves(model, positive, latent):
    noisy, _, sigmas, trajectory, _ = inverted(
        model, positive, latent, sigmas=FALLING[2:], tolerance=0.0, iterations=200
    )
    rounding = torch.finfo(torch.float32).eps
    assert max(trajectory.remaining(step, 0).relative for step in range(trajectory.steps)) < 4 * rounding
    assert max(map(trajectory.calls, range(trajectory.steps))) < 60  # it saw that there is no more to be had
    assert relative(sampled(guider(model, positive), sigmas, noisy), latent["samples"]) < 1e-6


# --- a model that fails, or a person who stops it ---------------------------------------------------------------------


def failing_above(model, sigma, fail):
    """A clone of the model in which fail(prediction) is what each prediction becomes above a sigma."""
    clone = model.clone()

    def predict(executor, x, timestep, *args, **kwargs):
        prediction = executor(x, timestep, *args, **kwargs)
        return fail(prediction) if timestep[0] > sigma else prediction

    clone.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "test", predict)
    return clone


def state_of(model):
    """What a run must leave as it found it."""
    network = [weight.clone() for weight in list(model.model.diffusion_model.parameters())[:8]]
    options = comfy.model_patcher.create_model_options_clone(model.model_options)
    return options, dict(model.patches), dict(model.object_patches), dict(model.wrappers), network


def assert_same_state(model, before):
    after = state_of(model)
    assert after[:4] == before[:4]
    assert all(torch.equal(*weights) for weights in zip(after[4], before[4], strict=True))


def test_a_model_that_gives_no_numbers_is_named_with_step_and_sigma(model, positive, latents):
    failing = failing_above(model, 1.0, lambda prediction: prediction * torch.nan)
    before = state_of(failing)
    expected = inverted(model, positive, latents, sigmas=FALLING, method="euler")[0]["samples"]
    _, _, sigmas, *_ = inverted(model, positive, latents, sigmas=FALLING, method="euler")
    step = int((sigmas <= 1.0).sum())
    with pytest.raises(ValueError) as caught:
        inverted(failing, positive, latents, sigmas=FALLING)
    message = str(caught.value)
    assert f"in step {step} of {len(sigmas) - 1} (sigma {float(sigmas.flip(0)[step]):.4g})" in message
    assert "item 1 of the batch" in message and "float32" in message
    assert_same_state(failing, before)
    assert torch.equal(inverted(model, positive, latents, sigmas=FALLING, method="euler")[0]["samples"], expected)


def test_an_interrupt_comes_through_and_leaves_everything_as_it_was(model, positive, latents):
    calls = []

    def press_stop(prediction):
        if len(calls) == 0:
            comfy.model_management.interrupt_current_processing()
        calls.append(len(prediction))
        return prediction

    stopped = failing_above(model, 0.4, press_stop)
    before, given = state_of(stopped), latents["samples"].clone()
    with pytest.raises(InterruptProcessingException):
        inverted(stopped, positive, latents, sigmas=FALLING)
    assert len(calls) == 1  # the very next call is not made
    assert_same_state(stopped, before)
    assert torch.equal(latents["samples"], given)
    noisy, _, sigmas, *_ = inverted(stopped, positive, latents, sigmas=FALLING)
    assert relative(sampled(guider(model, positive), sigmas, noisy), latents["samples"]) < 1e-4


# --- progress ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def shown(monkeypatch):
    """What the host's progress bar and previews get: (value, total), and the shapes of the pictures."""
    bars, pictures = [], []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, *_, **__: bars.append((value, total)))

    class Previewer(latent_preview.LatentPreviewer):
        def decode_latent_to_preview_image(self, preview_format, x0):
            pictures.append(tuple(x0.shape))
            assert bool(torch.isfinite(x0).all())
            return preview_format, Image.new("RGB", (8, 8)), 512

    monkeypatch.setattr(latent_preview, "get_previewer", lambda *_: Previewer())
    return bars, pictures


def test_progress_rises_to_the_number_of_steps(model, positive, latents, shown, monkeypatch):
    bars, _ = shown
    monkeypatch.setattr(live_pictures, "INTERVAL", 0.0)  # the host passes over what follows too soon and has no picture
    trajectory = inverted(model, positive, latents, sigmas=FALLING)[3]
    values = [value for value, _ in bars]
    assert values == sorted(values) and set(values) == set(range(1, trajectory.steps + 1))
    assert {total for _, total in bars} == {trajectory.steps}
    assert any(len(first) != len(second) for first, second in trajectory.residuals)  # some calls were of one item


def test_the_sampler_shows_the_same_in_sampler_custom_advanced(model, positive, latents, shown):
    bars, pictures = shown
    upwards(guider(model, positive), flipped(FALLING), latents)
    assert bars[0] == (1, 5) and bars[-1] == (5, 5) and bars == sorted(bars)
    assert set(pictures) == {(2, 4, 8, 8)}
