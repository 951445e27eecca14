"""Blended guidance as the paper prints it, and predictions that lead where they are to lead."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as some
from reedit.models.diffusion.blended_guidance import denoised_towards, guidance_scale
from reedit.models.diffusion.trajectory import LatentSpace, Trajectory


def test_the_papers_form_with_guidance_1_outside():
    mask = torch.tensor([0.0, 0.25, 1.0])
    assert guidance_scale(mask, 7.0).tolist() == [1.0, 2.5, 7.0]  # (w - 1) M + 1, figure 2


@given(cfg=some.floats(0, 20), outside=some.floats(0, 20), share=some.floats(0, 1))
def test_guidance_lies_between_both(cfg, outside, share):
    scale = float(guidance_scale(torch.tensor(share, dtype=torch.float64), cfg, outside))
    assert min(cfg, outside) - 1e-6 <= scale <= max(cfg, outside) + 1e-6


@given(sigma=some.floats(0.1, 15), share=some.floats(0, 0.95), seed=some.integers(0, 99))
def test_eulers_step_arrives_where_it_was_sent(sigma, share, seed):
    generator = torch.Generator().manual_seed(seed)
    x, wanted = torch.randn(2, 5, generator=generator, dtype=torch.float64).unbind()
    lower = sigma * share
    denoised = denoised_towards(x, sigma, wanted, lower)
    torch.testing.assert_close(x + (lower - sigma) * (x - denoised) / sigma, wanted)


def stored(sigmas: list[float]) -> Trajectory:
    states = torch.randn(len(sigmas), 1, 2, 3, 3)
    return Trajectory(torch.tensor(sigmas), states, ((),) * (len(sigmas) - 1), LatentSpace("SD15", "EPS", 2))


def test_a_trajectory_is_straight_between_its_states():
    trajectory = stored([0.1, 0.5, 2.0])
    for sigma, state in zip(trajectory.sigmas, trajectory.states, strict=True):
        assert torch.equal(trajectory.at(float(sigma)), state)
    expected = trajectory.states[1] * 0.5 + trajectory.states[2] * 0.5
    torch.testing.assert_close(trajectory.at(1.25), expected)


def test_a_trajectory_ends_where_it_ends():
    trajectory = stored([0.1, 0.5, 2.0])
    assert torch.equal(trajectory.at(0.0), trajectory.states[0])
    assert torch.equal(trajectory.at(99.0), trajectory.states[-1])
    alone = stored([0.1, 2.0])
    torch.testing.assert_close(alone.at(1.05), alone.states.mean(0))
