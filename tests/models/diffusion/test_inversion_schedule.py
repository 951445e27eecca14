import itertools
import math

import comfy.model_sampling
import comfy.samplers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reedit.models.diffusion.inversion_schedule import (
    FLIPPED_ZERO,
    check_falling,
    check_rising,
    described,
    inversion_sigmas,
)

# The host's own, with its default settings: Stable Diffusion's levels, and a flow's, shifted.
SAMPLINGS = {
    "stable diffusion": comfy.model_sampling.ModelSamplingDiscrete(),
    "flow": comfy.model_sampling.ModelSamplingDiscreteFlow(),
}
SAMPLINGS["flow"].set_parameters(shift=3.0)
every_sampling = pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
every_scheduler = pytest.mark.parametrize("scheduler", comfy.samplers.SCHEDULER_NAMES)


def ratios(sigmas: torch.Tensor) -> torch.Tensor:
    positive = sigmas[sigmas > 0]
    return positive[1:] / positive[:-1]


def holds(sigmas: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether each expected level is among the sigmas, to float32's rounding."""
    return bool(((sigmas[None] - expected[:, None]).abs() <= 1e-6 * expected[:, None]).any(1).all())


@every_sampling
@every_scheduler
@pytest.mark.parametrize("steps", [1, 2, 10, 20, 50])
def test_the_hosts_schedules(sampling, scheduler, steps):
    falling = comfy.samplers.calculate_sigmas(sampling, scheduler, steps)
    lowest = float(sampling.sigma_min)
    if falling.isnan().any():  # the host's kl_optimal divides 0 by 0 where there is one step
        with pytest.raises(ValueError, match="no number"):
            inversion_sigmas(falling, lowest)
        return
    for largest_ratio, down_to_zero in itertools.product((1.5, 2.5, math.inf), (False, True)):
        rising = inversion_sigmas(falling, lowest, down_to_zero, largest_ratio)
        check_rising(rising)
        assert rising[-1] == falling[0] and rising.dtype == torch.float32
        positive = rising[rising > 0]
        assert len(rising) - len(positive) == down_to_zero
        assert float(positive[0]) == pytest.approx(lowest, rel=2e-3)
        assert ratios(rising).max() <= largest_ratio * (1 + 1e-5)
        assert holds(rising, falling[falling > 0])
        if largest_ratio == math.inf:  # nothing is divided
            assert len(positive) - len(falling[falling > 0]) in (0, 1)


@every_sampling
@every_scheduler
@pytest.mark.parametrize("down_to_zero", [False, True])
def test_what_is_divided_is_not_divided_again(sampling, scheduler, down_to_zero):
    falling = comfy.samplers.calculate_sigmas(sampling, scheduler, 12)
    once = inversion_sigmas(falling, float(sampling.sigma_min), down_to_zero, 2.5)
    again = inversion_sigmas(once.flip(0), float(sampling.sigma_min), down_to_zero, 2.5)
    torch.testing.assert_close(again, once, rtol=1e-6, atol=0)


def test_a_large_step_is_divided_into_the_fewest_equal_ratios():
    divided = inversion_sigmas(torch.tensor([14.6, 1.0, 0.0]), 0.0292, largest_ratio=2.5)
    low, high = ratios(divided)[:4], ratios(divided)[4:]
    torch.testing.assert_close(low, torch.full((4,), (1 / 0.0292) ** 0.25))  # 2.5^3 < 34 < 2.5^4
    torch.testing.assert_close(high, torch.full((3,), 14.6 ** (1 / 3)))  # 2.5^2 < 14.6 < 2.5^3


@pytest.mark.parametrize(
    ("falling", "down_to_zero", "expected"),
    [
        ([14.6, 1.0, 0.0], False, [0.03, 1.0, 14.6]),
        ([14.6, 1.0, 0.0], True, [0.0, 0.03, 1.0, 14.6]),
        ([14.6, 1.0, 0.03, 0.0], False, [0.03, 1.0, 14.6]),
        ([14.6, 1.0, 0.03, 0.0], True, [0.0, 0.03, 1.0, 14.6]),
        ([14.6, 1.0], False, [0.03, 1.0, 14.6]),
        ([14.6, 1.0], True, [0.0, 0.03, 1.0, 14.6]),
        ([14.6, 0.03], False, [0.03, 14.6]),
        ([1.0, FLIPPED_ZERO], False, [FLIPPED_ZERO, 1.0]),  # below the model's range: as it was given
    ],
)
def test_where_the_clean_latent_lives(falling, down_to_zero, expected):
    given = torch.tensor(falling)
    rising = inversion_sigmas(given, 0.03, down_to_zero)
    torch.testing.assert_close(rising, torch.tensor(expected))
    assert torch.equal(given, torch.tensor(falling))


def test_a_schedule_without_a_step_above_the_lowest_level_is_refused():
    """What is left of it, where the clean latent lives at the lowest level, is that level alone."""
    with pytest.raises(ValueError, match="sigma"):
        inversion_sigmas(torch.tensor([0.03, 0.0]), 0.03)
    torch.testing.assert_close(inversion_sigmas(torch.tensor([0.03, 0.0]), 0.03, True), torch.tensor([0.0, 0.03]))


@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        ([], "0 value.*at least 2"),
        ([1.0], "1 value.*at least 2"),
        ([[2.0, 1.0], [1.0, 0.0]], "value"),
        ([3.0, 2.0, 2.0, 1.0], "fall.*3, 2, 2, 1"),
        ([3.0, 1.0, 2.0, 0.0], "fall.*3, 1, 2, 0"),
        ([0.0, 1.0, 2.0], "not flipped"),
        ([3.0, math.nan, 1.0], "no number.*3, nan, 1"),
        ([math.inf, 1.0], "no number.*inf, 1"),
        ([3.0, 1.0, -1.0], "negative.*3, 1, -1"),
    ],
)
def test_sigmas_that_are_no_samplers_are_refused(sigmas, message):
    for check in (check_falling, lambda given: inversion_sigmas(given, 0.03)):
        with pytest.raises(ValueError, match=message):
            check(torch.tensor(sigmas))


@pytest.mark.parametrize("largest_ratio", [1.0, 0.5, -2.0, 0.0])
def test_a_ratio_that_nothing_could_keep_is_refused(largest_ratio):
    with pytest.raises(ValueError, match="largest_ratio"):
        inversion_sigmas(torch.tensor([1.0, 0.5]), 0.03, largest_ratio=largest_ratio)


@pytest.mark.parametrize(
    ("sigmas", "message"),
    [([3.0, 2.0, 0.0], "FlipSigmas"), ([1.0], "at least 2"), ([1.0, 3.0, 2.0], "3"), ([1.0, math.nan], "no number")],
)
def test_sigmas_that_do_not_rise_are_refused(sigmas, message):
    with pytest.raises(ValueError, match=message):
        check_rising(torch.tensor(sigmas))
    check_rising(torch.tensor([0.0, 1.0, 2.0]))


def test_long_schedules_are_described_by_their_ends():
    assert described(torch.arange(8.0)) == "0, 1, 2, 3, 4, 5, 6, 7"
    assert described(torch.arange(9.0)) == "0, 1, 2, 3, …, 6, 7, 8"


levels = st.lists(st.floats(2**-10, 80, width=32), min_size=2, max_size=12, unique=True)


@settings(deadline=None, max_examples=150)
@given(levels, st.booleans(), st.floats(1e-3, 0.1), st.floats(1.2, 20), st.booleans())
def test_any_falling_list(values, ends_at_zero, lowest, largest_ratio, down_to_zero):
    falling = torch.tensor(sorted(values, reverse=True) + [0.0] * ends_at_zero)
    rising = inversion_sigmas(falling, lowest, down_to_zero, largest_ratio)
    check_rising(rising)
    assert holds(rising, falling[falling > 0]) and rising[-1] == falling[0]
    positive = rising[rising > 0]
    assert (rising[0] == 0) == down_to_zero
    assert float(positive[0]) <= lowest * 1.0011
    assert ratios(rising).max() <= largest_ratio * (1 + 1e-5)
    # As few steps as that takes: a divided step's ratios, joined to one fewer, would be too large.
    given = sorted({*values, *([lowest] if min(values) > lowest * 1.001 else [])})
    needed = [math.log(high / low) / math.log(largest_ratio) for low, high in itertools.pairwise(given)]
    assert len(positive) - 1 <= sum(max(1, math.ceil(parts)) for parts in needed)
    again = inversion_sigmas(rising.flip(0), lowest, down_to_zero, largest_ratio)
    torch.testing.assert_close(again, rising, rtol=1e-6, atol=0)
