"""The noise level stays right: with a known clean latent exactly, and with Gaussian data (gaussian.py) as steps get small."""

import itertools

import pytest
import torch
from gaussian import SCALES, GaussianData, seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from reedit.models.diffusion.stochastic_step import added_noise, stochastic_step

every_kind = pytest.mark.parametrize("kind", SCALES)
ZERO = st.just(0.0)
ETAS = torch.tensor([0.0, 0.1, 0.5, 1.0], dtype=torch.float64).view(1, 1, 2, 2)


def level(sigma: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor(sigma, dtype=dtype)


# --- one step, the clean latent known ---------------------------------------------------------------------------------


def coefficients(kind, sigma_from, sigma_to, eta):
    """What a step makes of a unit of clean latent, of old noise and of new noise; it is linear in all three."""
    scale = SCALES[kind]
    for clean, old, new in torch.eye(3, dtype=torch.float64):
        x = scale(sigma_from) * clean + sigma_from * old
        yield stochastic_step(x.view(1, 1, 1, 1), clean, new, sigma_from, sigma_to, eta, scale).squeeze()


@every_kind
@settings(deadline=None, max_examples=100)
@given(st.floats(0.01, 1), ZERO | st.floats(1e-6, 0.999), ZERO | st.floats(1e-6, 1))
def test_a_step_of_any_size_ends_at_its_noise_level(kind, high, share, eta):
    sigma_from = level(high if kind == "flow" else 80 * high)
    sigma_to = sigma_from * share
    clean, old, new = coefficients(kind, sigma_from, sigma_to, eta)
    torch.testing.assert_close(clean, SCALES[kind](sigma_to))
    torch.testing.assert_close(old**2 + new**2, sigma_to**2, rtol=1e-9, atol=1e-12)
    assert new >= 0 and (new > 0) == (eta * share > 0)


@every_kind
@pytest.mark.parametrize(("high", "low"), [(0.9, 0.7), (0.5, 0.05), (0.02, 0.01)])
@pytest.mark.parametrize("eta", [0.1, 1.0])
def test_the_new_noise_is_ddims(kind, high, low, eta):
    """Song et al., equation 16, in their scale: x sqrt(abar) + sqrt(1 - abar) n."""
    (scale_high, high), (scale_low, low) = ((SCALES[kind](level(sigma)), level(sigma)) for sigma in (high, low))
    abar_high, abar_low = (a**2 / (a**2 + s**2) for a, s in ((scale_high, high), (scale_low, low)))
    theirs = eta * ((1 - abar_low) / (1 - abar_high)).sqrt() * (1 - abar_high / abar_low).sqrt()
    torch.testing.assert_close(added_noise(eta, high, low, SCALES[kind]), theirs * (scale_low**2 + low**2).sqrt())


# --- many steps, with the best prediction there is --------------------------------------------------------------------


def deviation_after(kind: str, steps: int, deviation: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The deviation that x has after the steps, of each cell's eta, from its true one; and the true one at the end.

    x - a mean is linear in itself and in the new noise, so its variance goes on by the squares of both coefficients.
    """
    data = GaussianData(kind, torch.full((1, 1, 2, 2), 0.5).double(), torch.full((1, 1, 2, 2), deviation).double())
    highest = 14.6 if kind == "noise" else 0.999
    levels = torch.linspace(highest ** (1 / 3), 0.2 ** (1 / 3), steps + 1, dtype=torch.float64) ** 3
    variance = levels[0] ** 2 + data.scale(levels[0]) ** 2 * data.deviation**2
    for high, low in itertools.pairwise(levels):
        middle_high, middle_low = (data.scale(sigma) * data.mean for sigma in (high, low))

        def step(offset: float, noise: float, at=middle_high, to=middle_low, high=high, low=low) -> torch.Tensor:
            x, z = at + offset, torch.full_like(at, noise)
            return stochastic_step(x, data.denoise(x, high, [0]), z, high, low, ETAS, data.scale) - to

        torch.testing.assert_close(step(0, 0), torch.zeros_like(ETAS))  # the mean stays the mean
        variance = step(1, 0) ** 2 * variance + step(0, 1) ** 2
    return variance.sqrt(), (levels[-1] ** 2 + data.scale(levels[-1]) ** 2 * data.deviation**2).sqrt()


@every_kind
@pytest.mark.parametrize("deviation", [0.3, 1.0])
def test_samples_have_the_datas_spread_whatever_eta_is(kind, deviation):
    """What is missing is Euler's error, halved by twice the steps, and gets 0: not a spread that eta changes."""
    (coarse, true), (fine, _) = (deviation_after(kind, steps, deviation) for steps in (250, 500))
    assert ((fine / true - 1).abs() < 0.01).all()
    torch.testing.assert_close((coarse - true) / (fine - true), torch.full_like(ETAS, 2), rtol=0.15, atol=0)


# --- where there is no new noise --------------------------------------------------------------------------------------


def euler_step(x, denoised, high, low):
    return x + (x - denoised) / high * (low - high)


@every_kind
@settings(deadline=None, max_examples=60)
@given(st.floats(0.001, 1), ZERO | st.floats(1e-6, 0.999), st.integers(0, 2**31))
def test_cells_of_eta_0_take_eulers_step_bit_for_bit(kind, high, share, seed):
    """In half the cells of a video, in float32."""
    sigma_from = level(high, torch.float32)
    sigma_to = sigma_from * share
    x, denoised, noise = torch.randn(3, 2, 4, 3, 8, 8, generator=seeded(seed))
    eta = torch.ones(1, 1, 1, 8, 8)
    eta[..., :4] = 0.0
    result = stochastic_step(x, denoised, noise, sigma_from, sigma_to, eta, SCALES[kind])
    euler = euler_step(x, denoised, sigma_from, sigma_to)
    assert torch.equal(result[..., :4], euler[..., :4])
    if share > 0.01:
        assert not torch.equal(result[..., 4:], euler[..., 4:])


@every_kind
@pytest.mark.parametrize(("high", "low"), [(0.3, 0.3), (0.3, 0.4), (0.3, 1), (1, 1)])
def test_sigmas_that_do_not_fall_take_eulers_step_too(kind, high, low):
    x, denoised, noise = torch.randn(3, 2, 4, 8, 8)
    high, low = level(high, torch.float32), level(low, torch.float32)
    result = stochastic_step(x, denoised, noise, high, low, 1.0, SCALES[kind])
    assert torch.equal(result, euler_step(x, denoised, high, low))


@every_kind
def test_the_step_to_zero_ends_on_the_prediction(kind):
    x, denoised, noise = torch.randn(3, 2, 4, 8, 8)
    result = stochastic_step(x, denoised, noise, level(0.4, torch.float32), torch.tensor(0.0), 1.0, SCALES[kind])
    torch.testing.assert_close(result, denoised)


@pytest.mark.parametrize(
    ("kind", "high", "low"), [("noise", 80, 0.002), ("noise", 4000, 100), ("flow", 1, 0.9), ("flow", 1, 0.001)]
)
def test_steps_that_leave_no_old_noise_stay_finite_in_float32(kind, high, low):
    """Over the longest steps all noise is new, and its deviation is the noise level."""
    noise = torch.randn(1, 4, 64, 64, generator=seeded())
    high, low = level(high, torch.float32), level(low, torch.float32)
    x = high * torch.randn(1, 4, 64, 64, generator=seeded(1))
    result = stochastic_step(x, torch.zeros_like(x), noise, high, low, 1.0, SCALES[kind])
    torch.testing.assert_close(result.std(), low, rtol=0.02, atol=0)
