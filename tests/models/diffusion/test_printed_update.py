"""EMILIE's printed update: DDPM's own step where it should be, and noise that stays noise where the paper's mask is black."""

import itertools

import pytest
import torch
from gaussian import GaussianData, seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from reedit.models.diffusion.printed_update import (
    AS_PRINTED,
    OF_DDPM,
    falls_to_its_end,
    posterior_deviation,
    printed_update,
)

FALLING = torch.tensor([14.6, 9.0, 4.0, 1.2, 0.4, 0.05, 0.0], dtype=torch.float64)


def level(sigma: float) -> torch.Tensor:
    return torch.tensor(sigma, dtype=torch.float64)


def alpha_bar(sigma: torch.Tensor) -> torch.Tensor:
    return 1 / (1 + sigma**2)


# --- against Ho et al. (arXiv 2006.11239), in their letters -----------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(st.floats(1e-3, 80), st.floats(0, 1), st.integers(0, 2**31))
def test_with_ddpms_coefficients_it_draws_from_the_posterior_of_the_prediction(high, share, seed):
    """Equations 6 and 7: the mean between D and z, and the variance. Another way to write algorithm 2's line 4."""
    high, low = level(high), level(high * share)
    abar, abar_low = alpha_bar(high), alpha_bar(low)
    alpha = abar / abar_low
    x, denoised, noise = torch.randn(3, 1, 4, 8, 8, generator=seeded(seed), dtype=torch.float64)
    mean = (abar_low.sqrt() * (1 - alpha) * denoised + alpha.sqrt() * (1 - abar_low) * abar.sqrt() * x) / (1 - abar)
    variance = (1 - abar_low) / (1 - abar) * (1 - alpha)
    expected = (mean + variance.sqrt() * noise) / abar_low.sqrt()
    result = printed_update(x, denoised, noise, high, low, coefficients=OF_DDPM)
    # Ho's form loses digits where sigma is small, so that abar is nearly 1.
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6)


def test_as_printed_is_line_9_to_the_letter():
    """In z's scale, a video with one mask for all frames: the latent, minus mask times eps, plus noise."""
    high, low = FALLING[1:3]
    z, eps, noise = torch.randn(3, 2, 4, 3, 8, 8, dtype=torch.float64)
    mask = torch.rand(2, 1, 1, 8, 8, dtype=torch.float64)
    x = z / alpha_bar(high).sqrt()
    result = printed_update(x, x - high * eps, noise, high, low, mask)
    variance = (1 - alpha_bar(low)) / (1 - alpha_bar(high)) * (1 - alpha_bar(high) / alpha_bar(low))
    expected = z - mask * eps + variance.sqrt() * noise
    torch.testing.assert_close(result * alpha_bar(low).sqrt(), expected)


def test_no_noise_is_added_on_the_last_step_nor_where_sigma_stays():
    assert posterior_deviation(level(0.4), level(0.0)) == 0 == posterior_deviation(level(0.4), level(0.4))
    x, denoised, noise = torch.randn(3, 1, 4, 8, 8, dtype=torch.float64)
    last = printed_update(x, denoised, noise, level(0.4), level(0.0), coefficients=OF_DDPM)
    torch.testing.assert_close(last, denoised)
    stays = printed_update(x, denoised, noise, level(0.4), level(0.4), coefficients=OF_DDPM)
    torch.testing.assert_close(stays, x)


# --- inside the mask: the data's own distribution ---------------------------------------------------------------------


def deviation_after(steps: int, deviation: float) -> torch.Tensor:
    """Of x - mean after steps from 14.6 down to 0.2 on Gaussian data, divided by the true one.

    x - mean is linear in itself and in the new noise, so its variance goes on by the squares of both coefficients.
    """
    data = GaussianData("noise", torch.full((1, 1, 1, 1), 0.5).double(), torch.full((1, 1, 1, 1), deviation).double())
    levels = torch.linspace(14.6 ** (1 / 3), 0.2 ** (1 / 3), steps + 1, dtype=torch.float64) ** 3
    variance = levels[0] ** 2 + data.deviation**2
    for high, low in itertools.pairwise(levels):

        def step(offset: float, noise: float, high=high, low=low) -> torch.Tensor:
            x = data.mean + offset
            new = torch.full_like(x, noise)
            denoised = data.denoise(x, high, [0])
            return printed_update(x, denoised, new, high, low, coefficients=OF_DDPM) - data.mean

        torch.testing.assert_close(step(0, 0), torch.zeros_like(data.mean))  # the mean stays the mean
        variance = step(1, 0) ** 2 * variance + step(0, 1) ** 2
    return (variance.sqrt() / (levels[-1] ** 2 + data.deviation**2).sqrt()).squeeze()


@pytest.mark.parametrize("steps", [1, 5, 50])
def test_one_known_picture_has_its_exact_spread_after_any_steps(steps):
    """DDPM's posterior is exact where the clean latent is known."""
    torch.testing.assert_close(deviation_after(steps, 0.0), level(1.0))


@pytest.mark.parametrize("deviation", [0.3, 1.0])
def test_samples_have_the_datas_spread_as_steps_get_small(deviation):
    """Half the error with twice the steps, so 0 in the end."""
    coarse, fine = (deviation_after(steps, deviation) - 1 for steps in (250, 500))
    assert abs(fine) < 0.01
    torch.testing.assert_close(coarse / fine, level(2.0), rtol=0.1, atol=0)


# --- outside of the mask: noise that stays ----------------------------------------------------------------------------


def gain_and_variance_outside(coefficients: str, sigmas: torch.Tensor = FALLING) -> tuple[torch.Tensor, torch.Tensor]:
    """What is left at sigma 0 of a unit of z at the start, and the variance of what the steps have added."""
    state, added = (1 + sigmas[0] ** 2).sqrt(), level(0.0)
    nothing, unit = level(0.0), level(1.0)
    for high, low in itertools.pairwise(sigmas):
        # The prediction is far off, and must not matter.
        step = [
            printed_update(x, level(1e3), noise, high, low, 0.0, coefficients)
            for x, noise in ((state, nothing), (unit, nothing), (nothing, unit))
        ]
        state, added = step[0], added * step[1] ** 2 + step[2] ** 2
    return state, added


def test_as_printed_the_outside_keeps_all_of_z_and_gets_every_steps_noise():
    gain, added = gain_and_variance_outside(AS_PRINTED)
    torch.testing.assert_close(gain, level(1.0))
    abar = alpha_bar(FALLING)
    variances = (1 - abar[1:]) / (1 - abar[:-1]) * (1 - abar[:-1] / abar[1:])
    torch.testing.assert_close(added, variances.sum())


def test_with_ddpms_coefficients_the_outside_keeps_all_of_x_and_gets_as_much_again():
    gain, added = gain_and_variance_outside(OF_DDPM)
    torch.testing.assert_close(gain, (1 + FALLING[0] ** 2).sqrt())
    high, low = FALLING[:-1], FALLING[1:]
    torch.testing.assert_close(added, (low**2 * (1 - low**2 / high**2)).sum())


@pytest.mark.parametrize("steps", [1, 10, 300])
def test_ddpms_steps_add_nothing_up_to_the_noise_of_the_start(steps):
    """With levels at equal distances of sigma² the sum has a closed form: sigma_max² (1 - H / steps), H = 1 + 1/2 + …"""
    sigmas = torch.linspace(14.6**2, 0, steps + 1, dtype=torch.float64).sqrt()
    harmonic = sum(1 / number for number in range(1, steps + 1))
    _, added = gain_and_variance_outside(OF_DDPM, sigmas)
    torch.testing.assert_close(added, level(14.6**2 * (1 - harmonic / steps)))


def test_the_variance_outside_is_that_of_drawn_noise():
    """A whole run in float32 with noise drawn, as the sampler does it: 65,536 cells."""
    x = FALLING[0].float() * torch.randn(1, 4, 128, 128, generator=seeded())
    for coefficients in (AS_PRINTED, OF_DDPM):
        generator, end = seeded(1), x
        for high, low in itertools.pairwise(FALLING.float()):
            noise = torch.randn(x.shape, generator=generator)
            end = printed_update(end, torch.zeros_like(x), noise, high, low, 0.0, coefficients)
        gain, added = gain_and_variance_outside(coefficients)
        # The gain is of a unit of z, and z has this variance at the start.
        expected = gain**2 * FALLING[0] ** 2 / (1 + FALLING[0] ** 2) + added
        torch.testing.assert_close(end.var().double(), expected, rtol=0.03, atol=0)


# --- the rest ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coefficients", [AS_PRINTED, OF_DDPM])
def test_the_mask_is_a_share_of_what_is_taken_off(coefficients):
    x, denoised, noise = torch.randn(3, 1, 4, 8, 8, dtype=torch.float64)
    black, grey, white = (
        printed_update(x, denoised, noise, *FALLING[1:3], share, coefficients) for share in (0.0, 0.3, 1.0)
    )
    torch.testing.assert_close(grey, black + 0.3 * (white - black))
    assert not torch.allclose(black, white)


@pytest.mark.parametrize("sigmas", [[14.6, 0.1, 0.0], [14.6, 14.6, 0.1], [1.0]])
def test_falling_sigmas_are_taken(sigmas):
    assert falls_to_its_end(torch.tensor(sigmas))


@pytest.mark.parametrize("sigmas", [[0.0, 0.1, 14.6], [1.0, 2.0, 0.0], [1.0, 0.0, 0.0], [1.0, float("nan"), 0.0]])
def test_sigmas_that_rise_or_rest_at_zero_are_not(sigmas):
    assert not falls_to_its_end(torch.tensor(sigmas))
