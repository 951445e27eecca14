import itertools
import math

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reedit.models.diffusion.fixed_point import (
    RISE,
    NotFinite,
    anderson,
    anderson_weights,
    damped,
    empirical,
    plain,
    solve,
    within,
)

METHODS = {"plain": plain(), "empirical": empirical(), "damped": damped()}
METHODS |= {"anderson 2": anderson(2), "anderson 3": anderson(3)}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)

# The errors after 3, 5 and 11 calls that a trial of its own found, by the span of the eigenvalues (PAPERS.md 3.4, item 3).
TRIAL = [
    ((-0.95, 0.3), "plain", (1.7e-1, 1.2e-1, 5.8e-2)),
    ((-0.95, 0.3), "empirical", (1.3e-1, 3.4e-2, 3.5e-3)),
    ((-0.95, 0.3), "damped", (1.4e-1, 4.8e-2, 2.5e-3)),
    ((-0.95, 0.3), "anderson 2", (2.5e-2, 2.6e-3, 7e-6)),
    ((-1.5, 0.3), "empirical", (2.6e-1, 5e-2, 3.2e-2)),
    ((-1.5, 0.3), "anderson 2", (5.4e-2, 7.6e-3, 4.3e-5)),
    ((-2.5, 0.3), "damped", (1.3e-1, 4.8e-2, 3.2e-3)),
    ((-2.5, 0.3), "anderson 3", (8.9e-2, 1.4e-2, 1.8e-4)),
    ((-0.3, 0.95), "anderson 2", (5.4e-1, 2.9e-1, 3.5e-2)),
]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Linear:
    """f(x) = root + J (x - root) on rows of N, the matrix given or diagonal. Keeps what it was asked."""

    def __init__(self, jacobian: torch.Tensor, root: torch.Tensor):
        self.jacobian = torch.diag(jacobian) if jacobian.ndim == 1 else jacobian
        self.root = root
        self.asked: list[torch.Tensor] = []
        self.samples: list[list[int]] = []

    def __call__(self, x, samples):
        self.asked.append(x.clone())
        self.samples.append(list(samples))
        root = self.root[samples]
        return root + (x - root) @ self.jacobian.T


def spread(low: float, high: float, size: int = 400) -> torch.Tensor:
    return torch.linspace(low, high, size)


def relative_error(solution, f: Linear, guess: torch.Tensor) -> float:
    return float((solution.x - f.root).norm() / (guess - f.root).norm())


def one_by_one(f, guess, method, ended):
    """Solve each sample of a batch on its own."""
    return [
        solve(lambda x, samples, sample=sample: f(x, [sample]), guess[sample : sample + 1], method, ended)
        for sample in range(len(guess))
    ]


@pytest.mark.parametrize(("span", "name", "errors"), TRIAL)
def test_linear_maps_come_as_near_as_in_the_trial(span, name, errors):
    for calls, expected in zip((3, 5, 11), errors, strict=True):
        found = []
        for seed in range(3):
            f = Linear(spread(*span), normal(1, 400, seed=seed))
            guess = f.root + normal(1, 400, seed=100 + seed)
            found.append(relative_error(solve(f, guess, METHODS[name], within(calls)), f, guess))
            assert len(f.asked) == calls
        assert expected / 3 < np.exp(np.mean(np.log(found))) < expected * 3


@pytest.mark.parametrize(
    ("lowest", "diverging"),
    [(-0.95, ()), (-1.5, ("plain",)), (-2.5, ("plain", "empirical")), (-3.5, ("plain", "empirical", "damped"))],
)
def test_which_methods_run_away(lowest, diverging):
    """Eigenvalues in (-1, 1), (-2, 1) and (-3, 1) are what plain, averaged and damped iteration bear."""
    for name, method in METHODS.items():
        f = Linear(spread(lowest, 0.3), normal(1, 400))
        guess = f.root + normal(1, 400, seed=1)
        solution = solve(f, guess, method, within(40))
        first, last = solution.residuals[0][0].absolute, solution.residuals[0][-1].absolute
        if name in diverging:
            assert last > 10 * first
        elif lowest > -3:
            assert last < 0.1 * first
        assert relative_error(solution, f, guess) < 1.001  # the best iterate is what comes back


@pytest.mark.parametrize("eigenvalue", [-2.4, -0.9, -0.3, 0.5, 0.95])
def test_one_dimension_follows_the_closed_forms(eigenvalue):
    calls = 8
    averaged = [1.0, eigenvalue]
    while len(averaged) < calls:
        averaged.append(eigenvalue * (averaged[-1] + averaged[-2]) / 2)
    expected = {
        plain(): [eigenvalue**n for n in range(calls)],
        damped(0.3): [(0.7 + 0.3 * eigenvalue) ** n for n in range(calls)],
        empirical(): averaged,
    }
    if -2 < eigenvalue < 0.8:  # no rise that starts it again, and no coefficient above the cap
        expected[anderson(1)] = [1.0, eigenvalue, 0.0]  # two points give the line
    for method, errors in expected.items():
        f = Linear(torch.tensor([eigenvalue]), torch.zeros(1, 1))  # root 0: what is asked is the error
        solution = solve(f, torch.ones(1, 1), method, within(len(errors)))
        torch.testing.assert_close(torch.cat(f.asked).flatten(), torch.tensor(errors), rtol=1e-4, atol=2e-6)
        measured = [residual.absolute for residual in solution.residuals[0]]
        np.testing.assert_allclose(measured, np.abs((eigenvalue - 1) * np.array(errors)), rtol=1e-4, atol=5e-6)
        np.testing.assert_allclose(
            [residual.relative for residual in solution.residuals[0][:2]], abs((eigenvalue - 1) / eigenvalue), rtol=1e-4
        )


def non_normal(size: int, seed: int = 0) -> torch.Tensor:
    """Eigenvalues in [-0.8, 0.5], with eigenvectors that are far from orthogonal."""
    return torch.diag(spread(-0.8, 0.5, size)) + torch.triu(normal(size, size, seed=seed), 1) * 0.15


@pytest.mark.parametrize("calls", [2, 3, 5, 7])
def test_with_a_long_memory_anderson_is_one_map_beyond_gmres(calls):
    """Walker and Ni 2011, theorem 2.2, against scipy: x_n of Anderson's is f of GMRES's x_(n-1), on (1 - J) x = b."""
    f = Linear(non_normal(30), normal(1, 30, seed=1))
    guess = f.root + normal(1, 30, seed=2)
    found = solve(f, guess, anderson(10, regularisation=0, largest=1e9), within(calls)).x
    system = np.eye(30) - f.jacobian.double().numpy()
    gmres, _ = scipy.sparse.linalg.gmres(
        system, system @ f.root[0].double().numpy(), x0=guess[0].double().numpy(), rtol=0, restart=calls - 1, maxiter=1
    )
    torch.testing.assert_close(found, f(torch.from_numpy(gmres).float()[None], [0]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("distinct", [1, 2, 3, 4])
def test_anderson_is_exact_once_it_remembers_as_many_differences_as_there_are_eigenvalues(distinct):
    eigenvalues = torch.linspace(-0.95, 0.4, distinct).repeat(50)
    f = Linear(eigenvalues, normal(1, len(eigenvalues)))
    guess = f.root + normal(1, len(eigenvalues), seed=1)
    errors = [relative_error(solve(f, guess, anderson(4), within(calls)), f, guess) for calls in range(1, distinct + 2)]
    assert errors[-1] < 1e-5 and min(errors[:-1]) > 1e-3


@every_method
def test_turning_the_space_turns_the_iterates(method):
    f, turn = Linear(non_normal(20), normal(1, 20, seed=1)), torch.linalg.qr(normal(20, 20, seed=3)).Q
    turned = Linear(turn @ f.jacobian @ turn.T, f.root @ turn.T)
    guess = normal(1, 20, seed=2)
    solve(f, guess, method, within(7))
    solve(turned, guess @ turn.T, method, within(7))
    torch.testing.assert_close(torch.cat(turned.asked), torch.cat(f.asked) @ turn.T, rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 5), st.integers(5, 40), st.integers(0, 2**31))
def test_weights_minimise_the_residual_among_those_of_sum_one(count, size, seed):
    """Against least squares with the constraint as one heavy row."""
    residuals, heavy = np.random.default_rng(seed).standard_normal((size, count)), 1e6
    expected, *_ = np.linalg.lstsq(np.vstack([residuals, np.full(count, heavy)]), np.r_[np.zeros(size), heavy])
    found = anderson_weights(residuals.T @ residuals, 0.0, math.inf)
    assert found.sum() == pytest.approx(1, abs=1e-9)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_weights_that_need_large_coefficients_fall_back_to_the_mean_of_two():
    residuals = np.array([[5.0, 1.0, 0.99], [0.0, 1.0, 0.99]])
    gram = residuals.T @ residuals
    assert np.abs(anderson_weights(gram, 0.0, math.inf)).sum() > 10
    np.testing.assert_array_equal(anderson_weights(gram, 0.0, 10.0), [0, 0.5, 0.5])


def test_the_cap_also_bounds_the_iterates():
    """Secants on an eigenvalue near 1 want a coefficient of 1/(1 - L): only a cap above it allows them."""
    steps = {}
    for largest in (10.0, 1000.0):
        f = Linear(torch.tensor([0.98]), torch.zeros(1, 1))
        solve(f, torch.ones(1, 1), anderson(1, largest=largest), within(3))
        steps[largest] = float(f.asked[2])
    assert steps[10.0] == pytest.approx((0.98 + 0.98**2) / 2, rel=1e-5)
    assert steps[1000.0] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("residual", [0.0, 1e-30, 1.0])
def test_weights_stay_finite_where_residuals_are_alike(residual):
    weights = anderson_weights(np.full((3, 3), residual), 1e-10, 10.0)
    assert np.isfinite(weights).all() and weights.sum() == pytest.approx(1)


class Kinked:
    """A map of slope -0.5 near its root 0, and slope -8 beyond a distance of 1. Keeps what it was asked and gave."""

    def __init__(self):
        self.asked, self.given = [], []

    def __call__(self, x, samples):
        scale = torch.linspace(0.5, 1.5, x.shape[1])
        value = -0.5 * scale * x - 7.5 * (x.abs() - 1).clamp(min=0) * x.sign() * scale
        self.asked.append(x.clone())
        self.given.append(value.clone())
        return value


def test_a_rise_returns_to_the_best_iterate_with_a_step_that_halves_and_recovers():
    f = Kinked()
    solution = solve(f, normal(1, 12) * 12, anderson(3), within(60, 1e-6))
    sizes = [residual.absolute for residual in solution.residuals[0]]
    restarts, halvings, since = 0, 0, 1
    for call in range(len(sizes) - 1):
        best = int(np.argmin(sizes[: call + 1]))
        if sizes[call] > RISE * sizes[best] and since > 2:
            restarts, halvings, since = restarts + 1, halvings + 1, 0
            torch.testing.assert_close(f.asked[call + 1], torch.lerp(f.asked[best], f.given[best], 0.5**halvings))
        elif best == call and since > 1:
            halvings = max(0, halvings - 1)
        since += 1
    assert restarts >= 1
    assert solution.best(0).absolute < 1e-5  # the map is wild, but its root is found


@pytest.mark.parametrize(("lowest", "calls", "limit"), [(-4.0, 5, 0.1), (-6.0, 10, 0.06), (-8.0, 10, 0.15)])
def test_eigenvalues_that_make_full_steps_rise_again_and_again(lowest, calls, limit):
    f = Linear(spread(lowest, 0.3), normal(1, 400))
    guess = f.root + normal(1, 400, seed=1)
    errors = [relative_error(solve(f, guess, anderson(), within(count)), f, guess) for count in range(2, calls + 1)]
    assert max(errors) < 1.001 and errors[-1] < limit


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(METHODS)), st.integers(0, 2**31), st.floats(0.1, 30), st.integers(1, 12))
def test_the_best_iterate_is_never_lost(name, seed, wildness, calls):
    asked, phase = [], normal(1, 6, seed=seed)

    def f(x, samples):
        asked.append(x.clone())
        return torch.sin(wildness * x + phase)

    solution = solve(f, normal(1, 6, seed=seed + 1), METHODS[name], within(calls))
    sizes = [float((f(x, [0]) - x).square().mean().sqrt()) for x in list(asked)]
    np.testing.assert_allclose([residual.absolute for residual in solution.residuals[0]], sizes, rtol=1e-5)
    best = int(np.argmin(sizes))
    assert solution.best(0).absolute == pytest.approx(sizes[best])
    # Near a root residuals are rounding, and which of them is the least is another CPU's to say.
    as_good = [number for number, size in enumerate(sizes) if size <= 1.001 * sizes[best] + 1e-8]
    if calls - 1 not in as_good:
        assert any(torch.equal(solution.x, asked[number]) for number in as_good)
    assert solution.best(0).absolute <= sizes[0] * (1 + 1e-6)


@every_method
def test_a_call_an_iteration_and_the_guess_is_left_alone(method):
    f, guess = Linear(spread(-0.9, 0.3, 20), normal(1, 20)), normal(1, 20, seed=1)
    before = guess.clone()
    for calls in (1, 2, 6):
        f.asked.clear()
        assert len(solve(f, guess, method, within(calls)).residuals[0]) == len(f.asked) == calls
    assert torch.equal(guess, before) and torch.equal(f.asked[0], before)


@every_method
def test_a_batch_is_solved_as_one_by_one_and_what_has_ended_is_not_asked_again(method):
    """Four samples that end after different numbers of calls: each as if it were alone."""
    root = normal(4, 30)
    rates = torch.tensor([0.9, 0.2, 0.0, 0.6])[:, None] * torch.linspace(-1, 0.4, 30)

    def f(x, samples):
        assert x.shape == (len(samples), 30)
        asked.append(samples)
        return root[samples] + (x - root[samples]) * rates[samples]

    asked: list[list[int]] = []
    guess = root + normal(4, 30, seed=1)
    ended = within(60, 3e-4)
    together = solve(f, guess, method, ended)
    calls = [len(history) for history in together.residuals]
    assert asked == [[s for s in range(4) if calls[s] > call] for call in range(max(calls))]
    assert len(set(calls)) >= 3
    for sample, alone in enumerate(one_by_one(f, guess, method, ended)):
        torch.testing.assert_close(alone.x[0], together.x[sample], rtol=1e-5, atol=1e-6)
        assert len(alone.residuals[0]) == calls[sample]
        for here, there in zip(alone.residuals[0], together.residuals[sample], strict=True):
            assert here.absolute == pytest.approx(there.absolute, rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_no_number_at_the_guess_names_the_sample(bad):
    def f(x, samples):
        value = 0.5 * x
        value[[sample == 2 for sample in samples]] = bad
        return value

    with pytest.raises(NotFinite, match="sample 2") as caught:
        solve(f, torch.ones(4, 3), anderson(), within(5))
    assert caught.value.sample == 2


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@every_method
def test_no_number_later_on_ends_or_restarts_a_sample_and_never_shows(method, bad):
    """Of two samples the second gives no number at its third and sixth call, at one place of its vector."""
    calls, rates = itertools.count(1), spread(-0.95, 0.3, 10)

    def f(x, samples):
        value = 1 + rates * x
        if 1 in samples and next(calls) in (3, 6):
            value[samples.index(1), 4] = bad
        return value

    guess = normal(2, 10)
    solution = solve(f, guess, method, within(15))
    assert torch.isfinite(solution.x).all()
    untouched = one_by_one(lambda x, samples: 1 + rates * x, guess, method, within(15))
    torch.testing.assert_close(solution.x[0], untouched[0].x[0])
    sizes = [residual.absolute for residual in solution.residuals[1]]
    if method.guarded:  # only two calls are lost
        assert [n for n, size in enumerate(sizes) if math.isinf(size)] == [2, 5]
        assert len(sizes) == 15 and sizes[-1] < 1e-4 * sizes[0]
    else:
        assert len(sizes) == 3 and math.isinf(sizes[2])
        root = 1 / (1 - rates)
        assert (solution.x[1] - root).norm() < (guess[1] - root).norm()


@pytest.mark.parametrize("arguments", [(0,), (-3,), (5, -1e-3), (5, 0.0, -1e-3)])
def test_ends_that_mean_nothing_are_refused(arguments):
    with pytest.raises(ValueError, match="iterations|tolerance"):
        within(*arguments)
    with pytest.raises(ValueError, match="window"):
        anderson(0)


@every_method
def test_tolerances(method):
    f = Linear(spread(-0.9, 0.3, 50), normal(1, 50))
    guess = normal(1, 50, seed=1)
    whole = solve(f, guess, method, within(12)).residuals[0]
    assert len(whole) == 12  # tolerance 0 spends all iterations
    relative = solve(f, guess, method, within(12, tolerance=whole[4].relative * 1.001)).residuals[0]
    assert len(relative) <= 5 and relative[-1].relative <= whole[4].relative * 1.001
    absolute = solve(f, guess, method, within(12, absolute_tolerance=whole[4].absolute * 1.001)).residuals[0]
    assert len(absolute) <= 5 and absolute[-1].absolute <= whole[4].absolute * 1.001
    assert all(residual.absolute > absolute[-1].absolute for residual in absolute[:-1])


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["damped", "anderson 3"])
def test_a_model_in_half_precision_is_solved_to_its_own_rounding(kind, name):
    root, rates, asked = normal(1, 200), spread(-1.2, 0.3, 200), []

    def f(x, samples):
        asked.append(x.dtype)
        return (root + rates * (x - root)).to(kind)

    solution = solve(f, normal(1, 200, seed=1).to(kind), METHODS[name], within(30))
    assert set(asked) == {torch.float32} and solution.x.dtype == torch.float32
    assert solution.best(0).relative < torch.finfo(kind).eps
    assert (solution.x - root).norm() < 4 * torch.finfo(kind).eps * root.norm()


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (2, 4, 3, 3), (2, 4, 2, 3, 3)])
@every_method
def test_any_shape(method, shape):
    root = normal(*shape)

    def f(x, samples):
        assert x.shape == (len(samples), *shape[1:])
        return root[samples] - 0.3 * (x - root[samples])

    solution = solve(f, torch.zeros(shape), method, within(40, 1e-6))
    assert solution.x.shape == shape
    torch.testing.assert_close(solution.x, root, rtol=1e-5, atol=1e-5)


def test_a_map_that_gives_zero_everywhere_has_converged_at_zero():
    solution = solve(lambda x, samples: torch.zeros_like(x), torch.ones(1, 4), anderson(), within(9, 1e-5))
    assert torch.equal(solution.x, torch.zeros(1, 4))
    assert [residual.relative for residual in solution.residuals[0]] == [math.inf, 0.0]


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 6), st.floats(0.05, 0.9), st.integers(1, 4), st.integers(2, 12), st.integers(0, 2**31))
def test_anderson_shrinks_the_residual_of_a_contraction_as_fast_as_its_norm(size, norm, window, calls, seed):
    """Toth and Kelley 2015, theorem 2.1: for a linear map of norm c, the residual after n iterations is c^n of the first."""
    matrix = normal(size, size, seed=seed)
    f = Linear(norm * matrix / torch.linalg.matrix_norm(matrix, 2), normal(1, size, seed=seed + 1))
    method = anderson(window, largest=math.inf)
    solution = solve(f, f.root + normal(1, size, seed=seed + 2), method, within(calls))
    sizes = np.array([residual.absolute for residual in solution.residuals[0]])
    assert (sizes <= sizes[0] * (1.001 * norm ** np.arange(len(sizes)) + 1e-5)).all()
