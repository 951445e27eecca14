"""Inversion of data of which everything is known in closed form (gaussian.py)."""

import itertools
import math

import pytest
import torch
from gaussian import SCALES, GaussianData, TwoPeaks, relative, sample_down, seeded
from reedit.models.diffusion.fixed_point import NotFinite, anderson, plain, solve, within
from reedit.models.diffusion.inversion import METHODS, CallBudget, invert, invert_step, relative_errors
from reedit.models.diffusion.inversion_schedule import inversion_sigmas
from reedit.models.diffusion.trajectory import InversionSettings, LatentSpace, Trajectory
from scipy.optimize import elementwise

SPACE = LatentSpace("Gaussian", "closed form", 4)
EXACT = InversionSettings("anderson", 200, 0.0)
CORRECTED = [name for name in METHODS if name != "euler"]
every_kind = pytest.mark.parametrize("kind", SCALES)


def data(kind: str, batch: int = 2, side: int = 6) -> GaussianData:
    shape = (batch, 4, side, side)
    mean = torch.randn(shape, generator=seeded(1)) * 0.5
    return GaussianData(kind, mean, torch.rand(shape, generator=seeded(2)) * 1.5 + 0.05)


def schedule(kind: str, steps: int) -> torch.Tensor:
    """Rising: Karras's levels of Stable Diffusion, or the flow's, shifted by 3, as the pack inverts them."""
    if kind == "noise":
        return torch.linspace(0.0292 ** (1 / 7), 14.6 ** (1 / 7), steps + 1) ** 7
    time = torch.linspace(1, 0, steps + 1)
    return inversion_sigmas((3 * time / (1 + 2 * time)).clamp(max=0.9999), 0.003, largest_ratio=2.5)


def trajectory_of(model, x, sigmas, settings=EXACT, **options) -> Trajectory:
    states, residuals = invert(model.denoise, x, sigmas, settings, **options)
    return Trajectory(sigmas, torch.stack(states), residuals, SPACE, settings)


# --- one step ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CORRECTED)
@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        *[("noise", 0.03, 0.06), ("noise", 0.8, 1.4), ("noise", 7.0, 14.6), ("noise", 0.0, 0.03)],
        *[("flow", 0.003, 0.006), ("flow", 0.4, 0.5), ("flow", 0.9, 1.0), ("flow", 0.0, 0.01)],
    ],
)
def test_a_step_solves_the_implicit_equation(kind, low, high, name):
    model, low, high = data(kind), torch.tensor(low), torch.tensor(high)
    x = model.flow_to(model.draw(), torch.tensor(0.0), low)
    found, residuals = invert_step(model.denoise, x, low, high, x, METHODS[name](3), within(200, 1e-7))
    assert relative(found, model.step_back(x, low, high)) < 1e-6
    assert max(len(history) for history in residuals) == len(model.calls) < 200


def two_peaks() -> TwoPeaks:
    return TwoPeaks(torch.rand(2, 4, 8, 8, generator=seeded(5)) * 0.2 + 0.1)


def test_where_the_denoiser_is_steep_plain_iteration_fails_and_anderson_finds_the_only_solution():
    """Against scipy's bisection of each element: the equation's slope is 1 - c + c D' > 0, so there is one root."""
    model, low, high = two_peaks(), torch.tensor(0.3), torch.tensor(0.5)
    x = model.draw() * torch.rand(2, 4, 8, 8, generator=seeded(6))  # many between the peaks

    def missed(y, start, deviation):
        y, start, one = torch.from_numpy(y), torch.from_numpy(start), TwoPeaks(torch.from_numpy(deviation)[None])
        slope = (y - one.denoise(y, high.double(), [0])[0]) / high.double()
        return (y - start - (high - low).double() * slope).numpy()

    given = (x.double().numpy(), model.deviation.double().numpy())
    solved = elementwise.find_root(missed, (-20.0, 20.0), args=given)
    assert solved.success.all()
    root = torch.from_numpy(solved.x)
    errors = {}
    for name, method in {"plain": plain(), "anderson": anderson(5)}.items():
        found, _ = invert_step(model.denoise, x, low, high, x, method, within(60, 1e-7))
        errors[name] = relative(found, root)
    assert errors["anderson"] < 1e-5 < 1e-2 < errors["plain"]


# --- whole inversions -------------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("name", CORRECTED)
def test_sampling_with_euler_brings_the_latent_back(kind, name):
    model, sigmas = data(kind), schedule(kind, 10)
    x = model.draw()
    found = trajectory_of(model, x, sigmas, InversionSettings(name, 200, 1e-7))
    assert relative(sample_down(model.denoise, found.states[-1], sigmas), x) < 1e-6
    assert torch.equal(found.states[0], x) and len(found.states) == len(sigmas)


@every_kind
def test_every_state_is_that_of_the_closed_form_steps(kind):
    model, sigmas = data(kind), schedule(kind, 8)
    states = trajectory_of(model, model.draw(), sigmas).states
    expected = states[0].double()
    for step, (low, high) in enumerate(itertools.pairwise(sigmas), start=1):
        expected = model.step_back(expected, low, high)
        assert relative(states[step], expected) < 1e-6


def test_two_peaks_are_inverted_over_the_whole_schedule():
    model, sigmas = two_peaks(), schedule("noise", 20)
    x = model.draw()
    found = trajectory_of(model, x, sigmas, InversionSettings("anderson", 40, 1e-6), window=5)
    assert found.open_steps() == []
    assert relative(sample_down(model.denoise, found.states[-1], sigmas), x) < 1e-5


@every_kind
def test_with_smaller_steps_the_noise_tends_to_the_probability_flow_at_first_order(kind):
    """Each halving of the steps halves the distance to the exact ordinary differential equation's solution."""
    model, low, high = data(kind), 0.05, 0.95
    x, errors = model.draw(), []
    for steps in (10, 20, 40):
        sigmas = torch.logspace(math.log10(low), math.log10(high), steps + 1)
        noisy = trajectory_of(model, x, sigmas, InversionSettings("anderson", 50, 1e-6)).states[-1]
        errors.append(relative(noisy, model.flow_to(x, sigmas[0], sigmas[-1])))
    for coarse, fine in itertools.pairwise(errors):
        assert 1.7 < coarse / fine < 2.3
    assert errors[-1] < 0.05


@every_kind
def test_down_to_zero_is_inverted_too_where_the_model_predicts_all_detail(kind):
    model = data(kind)
    sigmas = torch.cat([torch.zeros(1), schedule(kind, 10)])
    x = model.draw()
    noisy = trajectory_of(model, x, sigmas).states[-1]
    assert relative(sample_down(model.denoise, noisy, sigmas), x) < 2e-6


def test_a_video_latent_of_five_dimensions():
    mean = torch.randn(2, 4, 3, 5, 5, generator=seeded(1))
    model, sigmas = GaussianData("flow", mean, torch.full_like(mean, 0.7)), schedule("flow", 6)
    x = model.draw()
    noisy = trajectory_of(model, x, sigmas).states[-1]
    assert noisy.shape == x.shape
    assert relative(sample_down(model.denoise, noisy, sigmas), x) < 1e-6


@every_kind
@pytest.mark.parametrize("name", CORRECTED)
@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 1e-4, 1e-5, 1e-6])
def test_the_predicted_error_is_of_the_order_of_the_true_one(kind, name, tolerance):
    """Never less than a third of it. At 1e-2 most steps take one call, which says little: there it may be much too high."""
    model, sigmas = data(kind), schedule(kind, 15)
    x = model.draw()
    found = trajectory_of(model, x, sigmas, InversionSettings(name, 200, tolerance))
    back = sample_down(model.denoise, found.states[-1], sigmas)
    assert found.open_steps() == []
    for sample in range(2):
        true = relative(back[sample], x[sample])
        assert true / 3 < found.predicted_error(sample) < (60 if tolerance > 1e-3 else 30) * true


def test_a_smaller_tolerance_costs_more_and_brings_more():
    model, sigmas = data("noise"), schedule("noise", 15)
    x, errors, calls = model.draw(), [], []
    for tolerance in (1e-2, 1e-3, 1e-4, 1e-5):
        found = trajectory_of(model, x, sigmas, InversionSettings("anderson", 50, tolerance))
        errors.append(relative(sample_down(model.denoise, found.states[-1], sigmas), x))
        calls.append(found.total_calls)
    assert calls == sorted(set(calls)) and errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-2 * errors[0]


def test_euler_takes_one_call_a_step_and_correction_is_what_makes_it_exact():
    model, sigmas = data("noise"), schedule("noise", 15)
    x = model.draw()
    found = trajectory_of(model, x, sigmas, InversionSettings("euler", 20, 1e-5))
    assert len(model.calls) == found.total_calls == found.steps
    low, high = sigmas[:2]
    torch.testing.assert_close(found.states[1], x + (x - model.denoise(x, high, [0, 1])) / high * (high - low))
    assert relative(sample_down(model.denoise, found.states[-1], sigmas), x) > 1e-3


def test_a_batch_is_inverted_as_one_by_one_and_its_first_latent_is_left_alone():
    model, sigmas = data("noise", batch=3), schedule("noise", 10)
    model.deviation[1] *= 0.02  # harder: almost all is noise at once
    x = model.draw()
    before = x.clone()
    together = trajectory_of(model, x, sigmas, InversionSettings("anderson", 50, 1e-4))
    assert torch.equal(x, before)
    counts = [[len(step[sample]) for step in together.residuals] for sample in range(3)]
    assert counts[1] != counts[0]
    assert sum(len(samples) for samples in model.calls) == sum(map(sum, counts))  # what has ended costs nothing
    for sample in range(3):
        one = GaussianData("noise", model.mean[sample, None], model.deviation[sample, None])
        alone = trajectory_of(one, x[sample, None], sigmas, InversionSettings("anderson", 50, 1e-4))
        assert [len(step[0]) for step in alone.residuals] == counts[sample]
        torch.testing.assert_close(alone.states[:, 0], together.states[:, sample], rtol=1e-4, atol=1e-5)


# --- where to look first ----------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("tolerance", [1e-3, 1e-5])
def test_the_extrapolated_guess_saves_calls(kind, tolerance):
    """Against the same steps, solved from the latent below them."""
    model, sigmas = data(kind), schedule(kind, 20)
    state = model.draw()
    extrapolated = trajectory_of(model, state, sigmas, InversionSettings("anderson", 50, tolerance)).total_calls
    model.calls.clear()
    for low, high in itertools.pairwise(sigmas):

        def step_back(y, samples, x=state, low=low, high=high):
            return x[samples] + (y - model.denoise(y, high, samples)) / high * (high - low)

        state = solve(step_back, state, anderson(), within(50, tolerance)).x
    assert extrapolated < 0.85 * len(model.calls)


def test_an_earlier_inversion_makes_the_next_one_cheaper_and_changes_nothing():
    model, sigmas = data("noise"), schedule("noise", 15)
    x = model.draw()
    rough = trajectory_of(model, x, sigmas, InversionSettings("anderson", 50, 1e-3))
    fine = InversionSettings("anderson", 50, 1e-6)
    fresh = trajectory_of(model, x, sigmas, fine)
    continued = trajectory_of(model, x, sigmas, fine, guesses=rough.states)
    again = trajectory_of(model, x, sigmas, fine, guesses=fresh.states)
    assert again.total_calls <= 1.5 * again.steps
    assert again.total_calls < continued.total_calls < fresh.total_calls
    for found in (continued, again):
        assert relative(found.states, fresh.states) < 1e-5
    moved = x + 0.01 * torch.randn(x.shape, generator=seeded(9))
    near = trajectory_of(model, moved, sigmas, fine, guesses=fresh.states)
    assert near.total_calls < trajectory_of(model, moved, sigmas, fine).total_calls
    assert relative(sample_down(model.denoise, near.states[-1], sigmas), moved) < 1e-5


# --- the budget -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("calls", [15, 16, 22, 31, 45, 60, 100, 1000])
@pytest.mark.parametrize("tolerance", [0.0, 1e-4])
def test_a_budget_is_never_exceeded_and_leaves_every_step_a_call(calls, tolerance):
    model, sigmas = data("noise", batch=3), schedule("noise", 15)
    model.deviation[1] *= 0.02
    found = trajectory_of(model, model.draw(), sigmas, InversionSettings("anderson", 50, tolerance, calls))
    for sample in range(3):
        counts = [len(step[sample]) for step in found.residuals]
        assert min(counts) >= 1 and sum(counts) <= calls
        if calls <= 45 and not tolerance:
            assert sum(counts) == calls  # nothing is left over


def test_hard_steps_borrow_from_easy_ones():
    """Where the peaks part, steps take three times the calls of the others. The same calls, 4 in each, bring far less."""
    model, sigmas = two_peaks(), schedule("noise", 20)
    x = model.draw()
    free = trajectory_of(model, x, sigmas, InversionSettings("anderson", 50, 1e-5))
    shared = trajectory_of(model, x, sigmas, InversionSettings("anderson", 50, 1e-5, 80))
    fixed = trajectory_of(model, x, sigmas, InversionSettings("anderson", 4, 0.0))
    backs = [sample_down(model.denoise, found.states[-1], sigmas) for found in (shared, fixed)]
    for sample in range(2):
        wanted = [len(step[sample]) for step in free.residuals]
        given = [len(step[sample]) for step in shared.residuals]
        hardest, easiest = max(range(20), key=wanted.__getitem__), min(range(20), key=wanted.__getitem__)
        assert given[easiest] < 4 < given[hardest]
        assert sum(given) <= 80 == sum(len(step[sample]) for step in fixed.residuals)
        assert relative(backs[0][sample], x[sample]) < 0.1 * relative(backs[1][sample], x[sample])


@pytest.mark.parametrize("calls", [14, 1, 0])
def test_a_budget_below_one_call_a_step_is_refused_before_any(calls):
    model = data("noise")
    with pytest.raises(ValueError, match="15 steps"):
        invert(model.denoise, model.draw(), schedule("noise", 15), InversionSettings(calls=calls))
    assert model.calls == []
    CallBudget(InversionSettings(calls=15), 15, 1)


# --- what models do ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_no_number_from_the_model_names_the_item_the_step_and_the_sigma(bad):
    model, sigmas = data("noise"), schedule("noise", 10)

    def denoise(x, sigma, samples):
        denoised = model.denoise(x, sigma, samples)
        if sigma >= sigmas[4] and 1 in samples:
            denoised[samples.index(1), 0, 0, 0] = bad
        return denoised

    with pytest.raises(NotFinite, match=rf"item 2 .*step 4 of 10 .*{float(sigmas[4]):.4g}") as caught:
        invert(denoise, model.draw(), sigmas, InversionSettings())
    assert caught.value.sample == 1


@pytest.mark.parametrize("iterations", [0, -1])
def test_no_iterations_are_refused(iterations):
    model = data("noise")
    with pytest.raises(ValueError, match="iterations"):
        invert(model.denoise, model.draw(), schedule("noise", 3), InversionSettings(iterations=iterations))
    assert model.calls == []


@every_kind
@pytest.mark.parametrize("number", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_is_inverted_to_its_own_rounding(kind, number):
    """The solver keeps float32: the latent comes back from that same model far better than its rounding of each step."""
    model, sigmas = data(kind), schedule(kind, 10)
    asked = set()

    def denoise(x, sigma, samples):
        asked.add(x.dtype)
        return model.denoise(x.to(number).float(), sigma, samples).to(number)

    x = model.draw()
    states, residuals = invert(denoise, x, sigmas, InversionSettings("anderson", 50, 0.0))
    assert asked == {torch.float32} == {state.dtype for state in states}
    back = sample_down(denoise, states[-1], sigmas)
    found = Trajectory(sigmas, torch.stack(states), residuals, SPACE, EXACT)
    epsilon = torch.finfo(number).eps
    for sample in range(2):
        assert relative(back[sample], x[sample]) < 2 * epsilon
        assert found.predicted_error(sample) > relative(back[sample], x[sample]) / 3
    assert max(len(history) for step in residuals for history in step) < 50  # it sees that nothing improves


def test_after_each_step_its_state_is_shown():
    model, sigmas = data("noise"), schedule("noise", 7)
    shown = []
    states, _ = invert(
        model.denoise, model.draw(), sigmas, InversionSettings(), after_step=lambda *step: shown.append(step)
    )
    assert [step for step, _ in shown] == list(range(7))
    assert all(state is states[step + 1] for step, state in shown)


# --- the error, measured ----------------------------------------------------------------------------------------------


@every_kind
def test_the_measured_error_is_that_of_euler_written_out(kind):
    model, sigmas = data(kind), schedule(kind, 8)
    found = trajectory_of(model, model.draw(), sigmas, InversionSettings("plain", 2, 0.0))
    back, visited = sample_down(model.denoise, found.states[-1], sigmas), []
    measured = relative_errors(model.denoise, list(found.states), sigmas, visited.append)
    assert visited == list(range(len(sigmas) - 2, -1, -1))
    wanted = (back - found.states[0]).flatten(1).norm(dim=1) / found.states[0].flatten(1).norm(dim=1)
    assert measured == pytest.approx(wanted.tolist(), rel=1e-4)
