"""The sentences of real inversions of closed-form denoisers, and whether the advice in them helps."""

import math
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reedit.models.diffusion.inversion import invert
from reedit.models.diffusion.inversion_schedule import inversion_sigmas
from reedit.models.diffusion.inversion_text import describe, error_of, number, verdict
from reedit.models.diffusion.trajectory import InversionSettings, LatentSpace, Trajectory

LOWEST, HIGHEST = 0.0292, 14.6


def karras(steps: int, lowest: float = LOWEST):
    ramp = torch.linspace(0, 1, steps + 1)
    return (lowest ** (1 / 7) + ramp * (HIGHEST ** (1 / 7) - lowest ** (1 / 7))) ** 7


def gaussian(x, sigma):
    """The exact denoiser of data with standard deviations from 0.05 to 1.5, one for each place."""
    deviations = torch.linspace(0.05, 1.5, x[0].numel()).view(x.shape[1:])
    return x * deviations**2 / (deviations**2 + sigma**2)


def two_heaps(x, sigma, width: float = 0.2):
    """The exact denoiser of data that lies around -1 and 1: it is not linear, and hard to invert between the two."""
    precision = 1 / (width**2 + sigma**2)
    return (x * width**2 + torch.tanh(x * precision) * sigma**2) * precision


def slope(value: float, sigmas):
    """The denoiser with which every step's f(x) has this slope: f' = (s_hi - s_lo) / s_hi · (1 - D')."""

    def denoise(x, sigma):
        low = sigmas[int((sigmas - sigma).abs().argmin()) - 1]
        return x * (1 - value * sigma / (sigma - low))

    return denoise


def ripples(x, sigma):
    """D with f' between ±20 (s_hi - s_lo) / s_hi: f folds over many times where steps are large."""
    return x - torch.sin(40 * x) / 2


def guided(x, sigma):
    """Two predictions, 0.9 x and 0.2 x, drawn apart at cfg 5: D' is 3.7, so that f' is below -1 in steps of a ratio of 2."""
    return 0.2 * x + 5 * (0.9 * x - 0.2 * x)


def inverted(denoise, sigmas, latent=None, **settings) -> Trajectory:
    how = InversionSettings(**settings)
    latent = torch.randn(1, 4, 8, 8) if latent is None else latent
    states, residuals = invert(lambda x, sigma, samples: denoise(x, sigma), latent, sigmas, how)
    return Trajectory(sigmas, torch.stack(states), residuals, LatentSpace("SD15", "ModelSamplingDiscrete", 4), how)


def left(trajectory: Trajectory) -> list[float]:
    """Of each step, the worst item's least residual."""
    return [max(min(r.relative for r in history) for history in step) for step in trajectory.residuals]


def figures(pattern: str, text: str) -> list[float]:
    """The numbers that stand in a sentence, which must be there."""
    found = re.search(pattern, text)
    assert found, f"{pattern!r} is not in {text!r}"
    return [float(group) for group in found.groups()]


def close(value: float):
    """A figure of two digits that was rounded up."""
    return pytest.approx(value * 1.05, rel=0.06)


def test_a_converged_inversion_says_to_what_and_at_what_cost():
    trajectory = inverted(gaussian, karras(20), tolerance=1e-5)
    text = describe(trajectory)
    assert text.splitlines()[0] == verdict(trajectory)
    (residual,) = figures(r"^Converged in all 20 steps: residual (\S+) or less\.", text)
    assert max(left(trajectory)) <= residual <= 1e-5
    calls = sum(len(step[0]) for step in trajectory.residuals)
    assert figures(r"20 steps took (\d+) model calls: (\S+) a step", text) == [
        calls,
        pytest.approx(calls / 20, abs=5e-3),
    ]
    error, decibels = figures(r"relative error of about (\S+) \((\d+) dB\)", text)
    assert error == close(trajectory.predicted_error(0))
    assert decibels == pytest.approx(-20 * math.log10(trajectory.predicted_error(0)), abs=0.51)
    assert "What to change" not in text and "next worst" not in text and "tolerance is 1e-5." in text


def test_the_worst_steps_are_named_by_number_and_sigma():
    trajectory = inverted(two_heaps, karras(20), iterations=3)
    residuals = left(trajectory)
    missed = [step for step in range(20) if residuals[step] > 1e-5]
    first, second, third, *others = sorted(missed, key=lambda step: -residuals[step])
    assert others
    count, *named = figures(
        r"^Did not converge in (\d+) of 20 steps \(worst: step (\d+), sigma (\S+), residual (\S+)\)\.",
        describe(trajectory),
    )
    named += figures(
        r"The next worst: step (\d+), sigma (\S+), residual (\S+); step (\d+), sigma (\S+), residual (\S+); and \d+ more\.",
        describe(trajectory),
    )
    assert count == len(missed)
    assert named[::3] == [first + 1, second + 1, third + 1]
    for step, sigma, residual in zip((first, second, third), named[1::3], named[2::3], strict=True):
        assert sigma == pytest.approx(float(trajectory.sigmas[step + 1]), rel=5e-3) and residual == close(
            residuals[step]
        )
    assert f"and {len(others)} more." in describe(trajectory)


def test_what_was_open_after_each_kind_of_end_is_closed_by_the_advice():
    sigmas = karras(20)
    few = inverted(two_heaps, sigmas, iterations=5)
    (iterations,) = figures(r"What to change: .* still falling .* Raise iterations above (\d+)\.", describe(few))
    assert iterations == 5 and not inverted(two_heaps, sigmas, iterations=50).open_steps()
    poor = inverted(two_heaps, sigmas, calls=60)
    (calls,) = figures(r"What to change: .* still falling .* Raise calls above (\d+), or set it to 0\.", describe(poor))
    assert calls == 60 and not inverted(two_heaps, sigmas, iterations=50, calls=600).open_steps()


def test_euler_says_that_its_error_is_not_known():
    trajectory = inverted(two_heaps, karras(20), method="euler")
    text = describe(trajectory)
    assert verdict(trajectory) == "Uncorrected (euler, 20 steps): its error is not known."
    assert figures(r"residual \(up to (\S+)\) is seen before the only update", text) == [close(max(left(trajectory)))]
    assert "20 steps took 20 model calls: 1 a step" in text and "Choose the method anderson." in text
    assert "dB" not in text and "converge" not in text


def test_a_method_that_diverges_is_to_be_changed():
    sigmas = inversion_sigmas(karras(8).flip(0), LOWEST, largest_ratio=2.4)
    trajectory = inverted(slope(-2.5, sigmas), sigmas, method="plain")
    text = describe(trajectory)
    assert text.startswith(f"Did not converge in {trajectory.steps} of {trajectory.steps} steps")
    assert "will not bring the latent back" in text and trajectory.predicted_error(0) > 1
    assert text.endswith("What to change: plain does not converge on this model. Choose the method anderson.")
    assert not inverted(slope(-2.5, sigmas), sigmas, method="anderson").open_steps()


def test_a_large_step_is_to_be_divided():
    sigmas = torch.tensor([LOWEST, HIGHEST])
    text = describe(inverted(gaussian, sigmas))
    assert text.startswith("Did not converge in its one step (step 1, sigma 14.6, residual ")
    assert "1 step took" in text and "sigma grows 500-fold in one step" in text
    (largest,) = figures(r"Lower largest_ratio to (\S+),", text)
    assert not inverted(gaussian, inversion_sigmas(sigmas.flip(0), LOWEST, largest_ratio=largest)).open_steps()
    assert "too." not in text and "Choose the method anderson, too." in describe(
        inverted(gaussian, sigmas, method="plain")
    )


def test_guidance_is_to_be_lowered():
    sigmas = karras(12)
    text = describe(inverted(guided, sigmas, method="plain", cfg=5.0))
    assert "Lower cfg from 5: 1 is exact. Choose the method anderson, too." in text
    assert not inverted(lambda x, sigma: 0.9 * x, sigmas, method="plain").open_steps()


def test_half_precision_is_recognised_and_can_do_what_is_said():
    def half(x, sigma):
        return two_heaps(x.bfloat16(), sigma.bfloat16()).float()

    trajectory = inverted(half, karras(20))
    residual, tolerance = figures(
        r"What to change: .* stopped falling at (\S+), which is about the model's own rounding. A tolerance of (\S+) is",
        describe(trajectory),
    )
    assert residual == close(max(left(trajectory))) and residual < tolerance < 4 * residual
    assert not inverted(half, karras(20), tolerance=tolerance).open_steps()
    assert "rounding" not in describe(inverted(two_heaps, karras(20)))


def test_a_step_to_sigma_zero_may_have_no_inverse():
    def two_points(x, sigma):
        return torch.tanh(x / sigma**2)  # the exact denoiser of data that is -1 or 1

    sigmas = karras(20)
    latent = (2 + torch.rand(1, 4, 8, 8)) * torch.randn(1, 4, 8, 8).sign()
    trajectory = inverted(two_points, torch.cat([torch.zeros(1), sigmas]), latent)
    assert 0 in trajectory.open_steps()
    assert re.search(r"What to change( \(step.*\))?: the last step of sampling, down to sigma 0", describe(trajectory))
    assert not inverted(two_points, sigmas, latent).open_steps()


def test_what_even_anderson_cannot_solve_asks_for_more_steps():
    text = describe(inverted(ripples, karras(10)))
    assert "the residual stopped falling, even with anderson. Take more steps" in text
    assert not inverted(ripples, karras(400)).open_steps()


def test_reasons_that_differ_name_their_steps():
    sigmas = torch.tensor([LOWEST, 1.0, 2.0, 4.0, 8.0])
    text = describe(inverted(slope(-2.5, sigmas), sigmas, method="plain"))
    assert "What to change (step 1): sigma grows 34.2-fold" in text
    assert re.search(r"What to change \(steps 2, 3, 4\): plain does not converge", text)


def test_the_worst_item_is_named_only_where_items_differ():
    hard, easy = torch.randn(1, 4, 8, 8), torch.zeros(1, 4, 8, 8)
    batch = torch.cat([easy, hard, easy])
    trajectory = inverted(two_heaps, karras(20), batch, iterations=3)
    text = describe(trajectory)
    assert "Of the batch's 3 items, 1 did not converge; the worst is item 2." in text
    assert "for the worst item of the batch" in text
    evaluations = sum(len(history) for step in trajectory.residuals for history in step)
    assert figures(r"after (\S+) a step on average", text) == [pytest.approx(evaluations / 60, abs=5e-3)]
    assert "Of the batch's" not in describe(
        inverted(two_heaps, karras(20), batch[1:2].repeat(2, 1, 1, 1), iterations=3)
    )
    assert "Of the batch's" not in describe(inverted(gaussian, karras(20), batch))


def test_what_is_exact_and_what_is_endless_have_words():
    empty = inverted(gaussian, karras(5), torch.zeros(1, 4, 8, 8), tolerance=0.0)
    assert "residual 0 or less" in describe(empty) and "(exact)" in describe(empty)
    latent = torch.randn(1, 4, 8, 8)
    endless = inverted(slope(-1e30, karras(5)), karras(5), latent, method="plain")
    assert any(math.isinf(residual.absolute) for step in endless.residuals for residual in step[0])
    assert "Choose the method anderson" in describe(endless)
    unmeasured = replace(endless, residuals=(((replace(endless.residuals[0][0][0], relative=math.inf),),),) * 5)
    assert "residual infinite" in verdict(unmeasured) and "will not bring the latent back" in describe(unmeasured)


@given(st.floats(1e-12, 1e3))
def test_numbers_are_rounded_up_to_two_digits(value):
    shown = float(number(value))
    assert value * (1 - 1e-5) <= shown <= value * 1.1 * (1 + 1e-5)
    assert len(re.sub(r"e.*|\.", "", number(value)).strip("0")) <= 2


@pytest.mark.parametrize("method", ["anderson", "euler"])
def test_a_measured_error_is_told_instead_of_the_predicted_one(method):
    found = replace(inverted(gaussian, karras(6), torch.randn(2, 4, 8, 8), method=method), measured=(1e-3, 2.5e-2))
    assert error_of(found) == 2.5e-2
    text = describe(found)
    assert "Checked" in text and "relative error of 0.025 (32 dB), for the worst item" in text
    assert "should bring" not in text and "not known, since" not in text
    assert math.isnan(error_of(replace(found, measured=None))) == (method == "euler")
