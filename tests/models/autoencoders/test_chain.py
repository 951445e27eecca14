"""The chain of encodes and decodes, against the host's own VAE and against what is known of clamping and rounding."""

import numpy as np
import pytest
import torch
from reedit.models.autoencoders.chain import as_kept, run_chain


def test_what_is_kept_is_clamped_and_rounded_as_in_numpy():
    decoded = torch.linspace(-0.5, 1.5, 999)
    clamped = np.clip(decoded.numpy(), 0, 1)
    assert np.array_equal(as_kept(decoded, False).numpy(), clamped)
    eight_bit = as_kept(decoded, True)
    steps = (255 * eight_bit.double()).numpy()
    assert np.abs(steps - np.rint(steps)).max() < 1e-4 and steps.min() == 0 and steps.max() == 255
    assert np.abs(eight_bit.numpy() - clamped).max() <= 0.5 / 255 + 1e-6
    assert torch.equal(as_kept(eight_bit, True), eight_bit)  # what an image file holds stays what it is


@pytest.mark.parametrize("eight_bit", [False, True])
def test_the_gradient_goes_straight_through_and_the_values_are_the_same(eight_bit):
    with torch.inference_mode(False), torch.enable_grad():
        decoded = torch.linspace(-0.5, 1.5, 99).clone().requires_grad_(True)
        kept = as_kept(decoded, eight_bit)
        weights = torch.arange(99.0)
        (kept * weights).sum().backward()
    assert torch.equal(decoded.grad, weights)
    torch.testing.assert_close(kept.detach(), as_kept(decoded.detach(), eight_bit), rtol=0, atol=2e-7)


@pytest.mark.parametrize("eight_bit", [False, True])
def test_a_chain_is_the_hosts_vae_in_a_loop(tiny_vae, scenes, eight_bit):
    picture, expected = scenes, []
    for _ in range(4):
        picture = tiny_vae.decode(tiny_vae.encode(picture))
        if eight_bit:
            picture = torch.from_numpy(np.rint(255 * picture.numpy()).astype(np.uint8)).float() / 255
        expected.append(picture)
    passes = run_chain(
        lambda pictures: tiny_vae.encode(pictures.movedim(1, -1)),
        lambda latent: tiny_vae.decode(latent).movedim(-1, 1),
        scenes.movedim(-1, 1),
        4,
        eight_bit,
    )
    found = [picture.movedim(1, -1) for picture in passes]
    assert len(found) == 4 and not torch.equal(found[0], found[-1])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_the_original_is_not_changed_and_no_pass_is_taken_before_it_is_asked_for():
    taken = []

    def decode(latent: torch.Tensor) -> torch.Tensor:
        taken.append(len(taken))
        return latent * 2

    original = torch.full((1, 3, 2, 2), 0.75)
    chain = run_chain(lambda picture: picture, decode, original, 3)
    assert taken == []
    assert torch.equal(next(chain), torch.ones(1, 3, 2, 2)) and taken == [0]
    assert torch.equal(original, torch.full((1, 3, 2, 2), 0.75))
