"""The picture of an inversion: real inversions of a closed-form denoiser, and what of them can be read off the figure."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from reedit.models.diffusion.inversion import invert
from reedit.models.diffusion.inversion_plot import WARNING, inversion_figure, plot_inversion
from reedit.models.diffusion.inversion_text import verdict
from reedit.models.diffusion.trajectory import InversionSettings, LatentSpace, Trajectory


def gaussian(x, sigma):
    """The exact denoiser of data with standard deviations from 0.05 to 1.5, one for each place."""
    deviations = torch.linspace(0.05, 1.5, x[0].numel()).view(x.shape[1:])
    return x * deviations**2 / (deviations**2 + sigma**2)


def steep(x, sigma):
    """D' is -1e30: f grows beyond float32 at the second call."""
    return -1e30 * x


def inverted(steps: int, batch: int = 1, denoise=gaussian, scale: float = 1.0, **settings) -> Trajectory:
    how = InversionSettings(**settings)
    sigmas = torch.logspace(math.log10(0.0292), math.log10(14.6), steps + 1)
    latents = scale * torch.randn(batch, 4, 8, 8) * torch.linspace(1, 3, batch)[:, None, None, None]
    states, residuals = invert(lambda x, sigma, samples: denoise(x, sigma), latents, sigmas, how)
    return Trajectory(sigmas, torch.stack(states), residuals, LatentSpace("SD15", "ModelSamplingDiscrete", 4), how)


def warned(picture) -> bool:
    """Whether a pixel has exactly the warning colour."""
    colour = torch.tensor([int(WARNING[place : place + 2], 16) for place in (1, 3, 5)])
    return bool(((picture * 255).round().int() == colour).all(-1).any())


CASES = {
    "converged": ({"steps": 20}, False),
    "not converged": ({"steps": 20, "iterations": 2}, True),
    "one step": ({"steps": 1}, True),
    "one call a step": ({"steps": 20, "method": "euler"}, True),
    "100 steps": ({"steps": 100, "tolerance": 0.0}, False),
    "100 steps, none converged": ({"steps": 100, "iterations": 1}, True),
    "batch": ({"steps": 8, "batch": 3, "tolerance": 1e-3}, False),
    "large batch": ({"steps": 20, "batch": 50, "iterations": 2}, True),
    "runs away": ({"steps": 5, "denoise": steep, "method": "plain"}, True),
    "residuals of 0": ({"steps": 5, "scale": 0.0}, False),
    "residuals of 0 in a batch": ({"steps": 5, "batch": 2, "scale": 0.0}, False),
    "200 calls a step": (
        {"steps": 2, "denoise": lambda x, sigma: 0.99 * x, "method": "plain", "iterations": 200},
        False,
    ),
}


@pytest.mark.parametrize(("case", "misses"), CASES.values(), ids=CASES)
@pytest.mark.filterwarnings("error")  # numpy warns of what is no number, matplotlib where a figure cannot be laid out
def test_every_inversion_can_be_drawn_and_warns_where_it_did_not_converge(case, misses):
    trajectory = inverted(**case)
    assert bool(trajectory.open_steps()) is misses
    picture = plot_inversion(trajectory)
    assert picture.shape == (1150, 1000, 3) and picture.dtype == torch.float32
    assert 0 <= float(picture.min()) < float(picture.max()) <= 1
    assert warned(picture) is misses


def panels(trajectory: Trajectory):
    """The axes of the calls' residuals, of the steps' calls, of their residuals, and of the errors."""
    figure = inversion_figure(trajectory)
    iterations, calls, errors, *others = figure.axes
    (left,) = [axes for axes in others if axes.get_ylabel() == "relative residual"]
    return iterations, calls, left, errors


def curves(axes) -> list[list[float]]:
    return [[float(value) for value in line.get_ydata()] for line in axes.lines if line.get_linestyle() != "--"]


def test_a_line_for_each_step_and_its_calls():
    trajectory = inverted(6)
    iterations, calls, left, _ = panels(trajectory)
    histories = [[residual.relative for residual in step[0]] for step in trajectory.residuals]
    assert sorted(curves(iterations)) == sorted(histories)
    assert [bar.get_height() for bar in calls.patches] == [len(history) for history in histories]
    assert curves(left) == [[min(history) for history in histories]]
    for axes in (iterations, left):
        (line,) = [line for line in axes.lines if line.get_linestyle() == "--"]
        assert list(line.get_ydata()) == [trajectory.settings.tolerance] * 2
        low, high = axes.get_ylim()
        assert all(low < value < high for curve in curves(axes) for value in curve) and low < 1e-5 < high
    labels = [label.get_text().split("\n") for label in calls.get_xticklabels()]
    assert [int(step) for step, _ in labels] == [1, 2, 3, 4, 5, 6]
    assert [float(sigma) for _, sigma in labels] == pytest.approx(trajectory.sigmas[1:].tolist(), rel=0.05)


def test_the_worst_item_is_drawn_at_every_call():
    trajectory = inverted(4, batch=3, iterations=3)
    assert {len(history) for step in trajectory.residuals for history in step} == {3}
    all_of_them = torch.tensor([[[r.relative for r in history] for history in step] for step in trajectory.residuals])
    iterations, _, left, _ = panels(trajectory)
    torch.testing.assert_close(torch.tensor(curves(iterations)), all_of_them.amax(1))
    torch.testing.assert_close(torch.tensor(curves(left)), all_of_them.amin(2).amax(1)[None])


def test_an_item_that_has_ended_stays_at_its_last_residual():
    easy = inverted(4, tolerance=1e-2)
    hard = inverted(4, tolerance=1e-5)
    both = replace(
        hard, residuals=tuple((*first, *second) for first, second in zip(easy.residuals, hard.residuals, strict=True))
    )
    for curve, step in zip(curves(panels(both)[0]), both.residuals, strict=True):
        ended, going_on = ([residual.relative for residual in history] for history in step)
        ended += ended[-1:] * (len(going_on) - len(ended))
        assert curve == [max(pair) for pair in zip(ended, going_on, strict=True)]


def test_steps_that_did_not_converge_stand_out():
    trajectory = inverted(12, iterations=3)
    missed = trajectory.open_steps()
    assert 1 < len(missed) < 12
    iterations, calls, left, _ = panels(trajectory)
    worst = sorted(missed, key=lambda step: -trajectory.remaining(step, 0).relative)
    assert {text.get_text() for text in iterations.texts} == {f"step {step + 1}" for step in worst[:5]}
    thick = [line for line in iterations.lines if line.get_linewidth() > 2]
    assert sorted(map(list, (line.get_ydata() for line in thick))) == sorted(
        [residual.relative for residual in trajectory.residuals[step][0]] for step in missed
    )
    (points,) = [line for line in left.lines if line.get_color() == WARNING]
    assert [int(number) - 1 for number in points.get_xdata()] == missed
    colours = [bar.get_facecolor() for bar in calls.patches]
    assert [step for step in range(12) if colours[step] == colours[missed[0]]] == missed


def test_the_error_adds_up_or_stands_for_each_item():
    single = inverted(8)
    (sums,) = curves(panels(single)[3])
    assert len(sums) == 8 and sums == sorted(sums) and sums[-1] == pytest.approx(single.predicted_error(0))
    batch = inverted(8, batch=5)
    heights = [bar.get_height() for bar in panels(batch)[3].patches]
    assert heights == pytest.approx([batch.predicted_error(sample) for sample in range(5)])
    checked = replace(batch, measured=(1e-3, 2e-3, 3e-3, 4e-3, 5e-3))
    (points,) = panels(checked)[3].lines
    assert list(points.get_ydata()) == list(checked.measured)
    *_, errors = panels(inverted(8, method="euler"))
    assert [text.get_text() for text in errors.texts] == ["not known: uncorrected"] and not errors.lines


@pytest.mark.parametrize("iterations", [2, 30])
def test_the_verdict_is_the_title(iterations):
    trajectory = inverted(20, iterations=iterations)
    title = inversion_figure(trajectory).get_suptitle()
    assert title == verdict(trajectory) and title.startswith(
        "Converged" if iterations == 30 else "Did not converge in "
    )


@pytest.mark.parametrize("steps", [1, 16, 17, 200])
def test_labels_of_steps_do_not_touch(steps):
    """By their widths as they are drawn."""
    trajectory = inverted(1)
    trajectory = replace(
        trajectory,
        residuals=trajectory.residuals * steps,
        sigmas=torch.linspace(0.0011, 0.0099, steps + 1),  # whose labels are long
    )
    figure = inversion_figure(trajectory)
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[1].get_xticklabels()]
    assert boxes and all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
