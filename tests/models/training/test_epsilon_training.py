"""eps-VAE's loss, its times and noise, what is measured before it, and runs of it in the training loop."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from reedit.models.autoencoders.epsilon import EpsilonDecoder
from reedit.models.training.discriminator import fooling_loss
from reedit.models.training.epsilon import (
    MEASURED_PICTURES,
    EpsilonSettings,
    EpsilonTask,
    build_decoder,
    draw_time_and_noise,
    measure,
)
from reedit.models.training.pictures import PictureFolder
from safetensors.torch import load_file
from small_epsilon import CONFIG, run_small, small_settings, small_task
from small_training import StopHere, fresh_network, stop_after
from small_training import run_small as run_small_reed

NUMBERS = range(4, 6)


@pytest.fixture
def original() -> torch.Tensor:
    return torch.rand(2, 3, 16, 16)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- what is drawn ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (-0.5, 0.7)])
def test_times_have_the_quantiles_of_the_logit_normal(mean, deviation):
    """sigmoid(mean + deviation · z) at the z of the normal's quartiles and of its 5 % and 95 %."""
    settings = small_settings(time_mean=mean, time_deviation=deviation)
    times, _ = draw_time_and_noise(settings, range(20_000), 1)
    for share, z in ((0.05, -1.6449), (0.25, -0.6745), (0.5, 0.0), (0.75, 0.6745), (0.95, 1.6449)):
        quantile = 1 / (1 + math.exp(-mean - deviation * z))
        assert float((times < quantile).double().mean()) == pytest.approx(share, abs=0.012)


def test_noise_is_standard_normal_and_another_for_each_picture_and_seed():
    _, noise = draw_time_and_noise(small_settings(), range(8), 32)
    assert noise.shape == (8, 3, 32, 32) and noise.dtype == torch.float32
    assert float(noise.mean()) == pytest.approx(0, abs=0.03) and float(noise.std()) == pytest.approx(1, abs=0.03)
    assert float(torch.corrcoef(noise.flatten(1)).fill_diagonal_(0).abs().max()) < 0.1
    _, other = draw_time_and_noise(small_settings(seed=1), range(8), 32)
    assert not torch.allclose(noise, other, atol=1)


def test_a_pictures_draw_does_not_depend_on_its_batch():
    together = draw_time_and_noise(small_settings(), range(3), 16)
    for number in range(3):
        alone = draw_time_and_noise(small_settings(), [number], 16)
        assert all(torch.equal(one[0], many[number]) for one, many in zip(alone, together, strict=True))


# --- the loss ---------------------------------------------------------------------------------------------------------


def with_velocity(task, original: torch.Tensor, error: float):
    """The task, its network answering with the exact velocity plus an error."""
    _, noise = draw_time_and_noise(task.settings, NUMBERS, original.shape[-1])
    exact = task.decoder.target(2 * original - 1, noise)
    task.decoder.velocity = lambda noised, time, condition: exact + error
    return task


def test_the_exact_velocity_has_no_loss(original):
    task = with_velocity(small_task(adversarial=0.0, perceptual=0.5), original, 0.0)
    losses = task.module(original, adversarial=False, numbers=NUMBERS)
    assert losses.keys() == {"velocity", "perceptual", "loss"}
    assert float(losses["loss"]) == pytest.approx(0, abs=1e-6)


def test_an_error_of_the_velocity_counts_squared(original):
    task = with_velocity(small_task(adversarial=0.0), original, 0.3)
    losses = task.module(original, adversarial=False, numbers=NUMBERS)
    assert float(losses["velocity"]) == float(losses["loss"]) == pytest.approx(0.09, rel=1e-5)


def test_the_discriminator_judges_the_one_step_estimate(original):
    """x0 - t error / gamma, with x_t and t: the pair that it is later told of."""
    task = with_velocity(small_task(adversarial=0.25), original, 0.3)
    losses = task.module(original, adversarial=True, numbers=NUMBERS)
    time, noise = draw_time_and_noise(task.settings, NUMBERS, 16)
    picture, shape = 2 * original - 1, (-1, 1, 1, 1)
    noised = (1 - time.reshape(shape)) * 0.6 * picture + time.reshape(shape) * noise
    estimate = picture - time.reshape(shape) * 0.3 / 0.6
    fooling = fooling_loss(task.adversary.discriminator(estimate, noised, time)).detach()
    assert float(losses["adversarial"]) == pytest.approx(float(fooling), rel=1e-4)
    assert losses["loss"].item() == pytest.approx(0.09 + 0.25 * float(fooling), rel=1e-4)
    told = task.adversary_arguments(0)
    for name, expected in {"picture": picture, "estimate": estimate, "noised": noised, "time": time}.items():
        torch.testing.assert_close(told[name], expected, rtol=1e-4, atol=1e-4)


def test_the_networks_answer_is_to_the_latent_of_the_picture(original):
    """Reference: the parts put together here, from the encoder's latent on."""
    task = small_task(adversarial=0.0)
    latent = task.network.encode(original)
    time, noise = draw_time_and_noise(task.settings, NUMBERS, 16)
    condition = (2.0 * latent).repeat_interleave(2, -1).repeat_interleave(2, -2)
    noised = (1 - time[:, None, None, None]) * 0.6 * (2 * original - 1) + time[:, None, None, None] * noise
    velocity = task.decoder.velocity(noised, time, condition)
    expected = (velocity - (noise - 0.6 * (2 * original - 1))).square().mean()
    losses = task.module(original, adversarial=False, numbers=NUMBERS)
    assert float(losses["loss"].detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_the_network_alone_gets_a_gradient(original):
    task = small_task(perceptual=0.5)
    task.module(original, adversarial=True, numbers=NUMBERS)["loss"].backward()
    assert all(parameter.grad is None for parameter in task.network.parameters())
    assert all(parameter.grad is None for parameter in task.adversary.parameters())
    assert set(task.parameters) == {name for name, _ in task.decoder.unet.named_parameters()}
    assert all(bool(parameter.grad.isfinite().all()) for parameter in task.parameters.values())
    moved = [bool(parameter.grad.any()) for name, parameter in task.parameters.items() if name.endswith("weight")]
    assert all(moved)


def test_judging_changes_the_gradient(original):
    gradients = []
    for judges in (False, True):
        task = small_task(adversarial=5.0)
        loss = task.module(original, adversarial=judges, numbers=NUMBERS)["loss"]
        gradients.append(torch.autograd.grad(loss, task.parameters["conv_out.weight"])[0])
    assert (gradients[0] - gradients[1]).abs().max() > 1e-2 * gradients[0].abs().max()


def test_checkpointing_changes_nothing_but_the_memory(original):
    """What autograd keeps for the way back is counted by its own hook."""
    kept, gradients = [], []
    for checkpointing in (False, True):
        task, sizes = small_task(checkpointing=checkpointing, adversarial=0.0), {}

        def pack(tensor: torch.Tensor, sizes: dict = sizes) -> torch.Tensor:
            sizes[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = task.module(original, adversarial=False, numbers=NUMBERS)["loss"]
        weights = {parameter.data_ptr() for parameter in task.parameters.values()}
        kept.append(sum(size for place, size in sizes.items() if place not in weights))
        gradients.append(torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss, task.parameters.values())]))
    assert kept[1] < 0.7 * kept[0]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-8)


def test_the_penalty_is_what_is_set_in_the_mean_over_the_discriminators_steps(original):
    task = small_task(penalty=10.0, penalty_every=4, adversarial_start=3)
    task.module(original, adversarial=True, numbers=NUMBERS)
    told = [task.adversary_arguments(step) for step in range(11)]
    assert told[:3] == [None] * 3
    penalties = [one["penalty"] for one in told[3:]]
    assert penalties == [40.0, 0.0, 0.0, 0.0] * 2 and sum(penalties) / len(penalties) == 10.0
    assert [task.arguments(step)["adversarial"] for step in (2, 3)] == [False, True]


def test_without_a_weight_there_is_no_discriminator():
    task = small_task(adversarial=0.0)
    assert task.adversary is None and task.arguments(0) == {"adversarial": False}


# --- what is measured -------------------------------------------------------------------------------------------------


def test_what_is_measured_brings_latents_and_pictures_to_mean_0_and_variance_1(pictures):
    network, settings = fresh_network(), small_settings()
    folder = PictureFolder(pictures, 16, 1, 0)
    config = measure(CONFIG, network, folder, settings, torch.device("cpu"))
    seen = torch.stack([folder.sample(number) for number in range(MEASURED_PICTURES)])
    assert config.picture_variance == pytest.approx(float(np.var(2 * seen.double().numpy() - 1)), rel=1e-5)
    with torch.no_grad():
        condition = EpsilonDecoder(config).condition(network.encode(seen))
    assert float(condition.mean()) == pytest.approx(0, abs=1e-4)
    assert float(condition.var()) == pytest.approx(1, rel=1e-3)
    assert replace(CONFIG, picture_variance=1.0, latent_shift=0.0, latent_scale=1.0) == replace(
        config, picture_variance=1.0, latent_shift=0.0, latent_scale=1.0
    )


def test_a_shift_and_a_scale_that_are_set_are_taken(pictures):
    settings = small_settings(latent_scale=0.18215, latent_shift=0.5)
    config = measure(CONFIG, fresh_network(), PictureFolder(pictures, 16, 1, 0), settings, torch.device("cpu"))
    assert (config.latent_scale, config.latent_shift) == (0.18215, 0.5)


def test_latents_that_are_no_numbers_are_refused(pictures):
    network = fresh_network()
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="its encoder makes latents that are no numbers"):
        measure(CONFIG, network, PictureFolder(pictures, 16, 1, 0), small_settings(), torch.device("cpu"))


def test_fresh_weights_follow_from_the_seed_and_nothing_else_does():
    before = torch.get_rng_state()
    one, again, other = (build_decoder(CONFIG, seed).unet.state_dict() for seed in (1, 1, 2))
    assert same(one, again) and not same(one, other)
    assert torch.equal(torch.get_rng_state(), before)
    build_decoder(CONFIG, 2**64 - 1)  # the highest that a node's widget gives


# --- the figures ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_figures_are_of_one_and_three_steps_of_decoding_and_of_the_velocity(original):
    task = small_task()
    figures, shown = task.validate(1, original)
    assert len(shown) == 3 and torch.equal(shown[0], original)
    for steps, made in zip((1, 3), shown[1:], strict=True):
        expected = task.decoder.decode(task.network.encode(original), 0, steps).clamp(0, 1)
        assert torch.equal(made, expected)
        errors = (made - original).double().square().mean((1, 2, 3))
        assert figures[f"psnr@{steps}"] == pytest.approx(float((10 * torch.log10(1 / errors)).mean()), abs=1e-3)
    assert not torch.allclose(shown[1], shown[2], atol=1e-2)
    assert task.validate(2, original)[0] == figures


@torch.no_grad()
def test_the_velocitys_figure_of_a_network_that_says_0_is_the_targets_mean_square(original):
    """E|noise - gamma x0|² = 1 + gamma² E x0², whatever the time."""
    task = small_task()
    task.decoder.velocity = lambda noised, time, condition: torch.zeros_like(noised)
    pictures = original.repeat(16, 1, 1, 1)
    expected = 1 + 0.36 * float((2 * original - 1).square().mean())
    assert task.validate(1, pictures)[0]["validation"] == pytest.approx(expected, rel=0.02)


# --- runs -------------------------------------------------------------------------------------------------------------


def test_the_rate_rises_and_stays_or_falls_as_is_set(tmp_path, pictures):
    changes = {"steps": 4, "warm_up": 1, "validate_every": 1, "learning_rate": 1e-4, "adversarial": 0.0}
    _, rows = run_small(tmp_path / "stays", pictures, **changes)
    assert [row["learning_rate"] for row in rows] == [1e-4] * 4  # of the step to come
    _, rows = run_small(tmp_path / "falls", pictures, decay=True, **changes)
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.75e-4, 0.5e-4, 0.25e-4, 0.0])


def test_the_first_step_goes_as_far_as_the_rates_say(tmp_path, pictures):
    """Adam's first step is the rate itself in every place, whatever the gradient: for the adversary, its share of it."""
    task, _ = run_small(tmp_path, pictures, steps=1, warm_up=0, learning_rate=1e-3, discriminator_rate=0.25, clip=0.0)
    fresh, moved = small_task().adversary.state_dict(), task.adversary.state_dict()
    farthest = max(float((moved[name] - fresh[name]).abs().max()) for name in fresh)
    assert farthest == pytest.approx(2.5e-4, rel=1e-2)


@pytest.mark.parametrize("stop", [2, 3])
def test_a_run_with_an_adversary_that_is_stopped_goes_on_to_the_same_bits(tmp_path, pictures, stop):
    """The discriminator begins at step 2: one run is stopped before it has taken a step, one after."""
    changes = {"adversarial_start": 2, "accumulation": 2}
    whole, rows = run_small(tmp_path / "whole", pictures, **changes)
    assert "adversary_loss" not in rows[0] and rows[2]["adversary_loss"] > 0
    assert rows[1]["adversary_penalty"] > 0 == rows[0].get("adversary_penalty", 0)
    with pytest.raises(StopHere):
        run_small(tmp_path / "parts", pictures, on_step=stop_after(stop), **changes)
    parts, again = run_small(tmp_path / "parts", pictures, **changes)
    assert again == rows and same(parts.trained_tensors(), whole.trained_tensors())
    assert same(parts.adversary.state_dict(), whole.adversary.state_dict())
    assert same(*(load_file(tmp_path / name / "state.safetensors") for name in ("whole", "parts")))
    fresh = small_task().adversary.state_dict()
    assert not same(whole.adversary.state_dict(), fresh)


def test_what_was_measured_goes_on_with_the_run(tmp_path, pictures):
    with pytest.raises(StopHere):
        run_small(tmp_path, pictures, on_step=stop_after(3))
    other = small_task()
    other.decoder.config = replace(CONFIG, latent_scale=7.0)
    state = load_file(tmp_path / "state.safetensors")
    other.load_state(json.loads(state["progress"].numpy().tobytes())["task"])
    assert other.decoder.config == CONFIG


def test_a_discriminator_that_is_no_number_any_more_ends_the_run(tmp_path, pictures):
    with pytest.raises(FloatingPointError, match="no number any more"):
        run_small(tmp_path, pictures, penalty=1e38, clip=0.0)


def test_a_folder_of_another_training_is_refused(tmp_path, pictures):
    with pytest.raises(StopHere):
        run_small_reed(tmp_path, pictures, on_step=stop_after(1))
    before = (tmp_path / "state.safetensors").read_bytes()
    with pytest.raises(ValueError, match=rf"{tmp_path} holds a run of another kind of training"):
        run_small(tmp_path, pictures)
    assert (tmp_path / "state.safetensors").read_bytes() == before


def test_bfloat16_stays_near_float32(tmp_path, pictures):
    changes = {"steps": 1, "penalty_every": 1, "validate_every": 1}
    (exact,) = run_small(tmp_path / "float32", pictures, **changes)[1]
    (rough,) = run_small(tmp_path / "bfloat16", pictures, precision="bfloat16", **changes)[1]
    assert exact["loss"] != rough["loss"] and exact["loss"] == pytest.approx(rough["loss"], rel=0.05)
    assert exact["adversary_penalty"] == pytest.approx(rough["adversary_penalty"], rel=0.05)


# --- settings ---------------------------------------------------------------------------------------------------------


def test_the_defaults_are_the_papers():
    """PAPERS.md 2.2, 2.3 and 2.5."""
    settings = EpsilonSettings()
    settings.check()
    assert (settings.gamma, settings.perceptual, settings.adversarial, settings.penalty) == (0.6, 0.5, 0.5, 10.0)
    assert (settings.betas, settings.learning_rate, settings.average_decay) == ((0.0, 0.999), 1e-4, 0.999)
    assert (settings.time_mean, settings.time_deviation, settings.rate_falls) == (0.0, 1.0, False)
    assert not settings.preconditioned


def test_every_setting_has_its_range_or_choices_and_an_explanation():
    for one in fields(EpsilonSettings):
        kind, limits = type(one.default), one.metadata
        assert limits["help"].endswith(".")
        assert (limits["least"] is not None) == (kind in (int, float)) and bool(limits["choices"]) == (kind is str)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": "S"}, "size is 'S'. Choose one of tiny"),
        ({"gamma": 0.0}, "gamma is 0.0, and must be 0.01 or more"),
        ({"penalty_every": 0}, "penalty_every is 0, and must be 1 or more"),
        ({"discriminator_width": 12}, "discriminator_width is 12, and must be a multiple of 8"),
        ({"latent_shift": 1.0}, "latent_shift is 1.0, and latent_scale is 0.*Set latent_scale too"),
        ({"time_deviation": -1.0}, "time_deviation is -1.0, and must be 0 or more"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(changes, said):
    with pytest.raises(ValueError, match=said):
        small_settings(**changes).check()


def test_a_crop_that_cannot_be_halved_often_enough_is_refused():
    config, settings = replace(CONFIG, multipliers=(1, 1, 2), attention_levels=(2,)), small_settings(crop=18)
    with pytest.raises(ValueError, match=r"crop is 18, .* needs a multiple of 4"):
        EpsilonTask(fresh_network(), build_decoder(config, 0), settings)
