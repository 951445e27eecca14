"""Weights that follow from gradients, against gradients that are known."""

import copy

import pytest
import torch
from reedit.models.autoencoders.kl_network import KLNetwork
from reedit.models.training.balance import balancing_weight, pivot_distance


@pytest.fixture
def picture():
    return torch.rand((1, 3, 16, 16), generator=torch.Generator().manual_seed(5))


def test_the_weighted_term_pulls_as_hard_as_the_loss():
    layer = torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
    loss, term = (layer**2).sum(), (3 * layer).sum()
    weight = balancing_weight(loss, term, layer, 0.0, 1e9)
    assert weight.item() == pytest.approx((4 + 16 + 1) ** 0.5 / 27**0.5)
    assert not weight.requires_grad
    pulls = [torch.autograd.grad(one, layer, retain_graph=True)[0].norm() for one in (loss, weight * term)]
    assert pulls[0].item() == pytest.approx(pulls[1].item())


def test_a_term_without_a_pull_gets_the_largest_weight_and_no_more():
    layer = torch.ones(4, requires_grad=True)
    assert balancing_weight((5 * layer).sum(), (0 * layer).sum(), layer, 1e-6, 100.0).item() == 100.0
    assert balancing_weight((5 * layer).sum(), (0 * layer).sum(), layer, 1.0, 100.0).item() == pytest.approx(10)
    assert balancing_weight((0 * layer).sum(), (2 * layer).sum(), layer, 1e-6, 100.0).item() == 0


def test_the_pivot_holds_any_encoder(small_network: KLNetwork, picture):
    """A KL autoencoder's too: its latents stay near where they were while another loss moves the encoder."""
    encode = small_network.encode
    with torch.no_grad():
        pivot = encode(picture)

    def moved(weight: float) -> float:
        encoder = copy.deepcopy(small_network)
        last = encoder.autoencoder.quant_conv.weight
        optimizer = torch.optim.SGD(encoder.autoencoder.encoder.parameters(), lr=0.02)
        for _ in range(8):
            latent = encoder.encode(picture)
            loss, term = (latent - 3).square().mean(), pivot_distance(latent, pivot)
            share = weight * balancing_weight(loss, term, last, 1e-4, 1e5) if weight else 0.0
            optimizer.zero_grad()
            (loss + share * term).backward()
            optimizer.step()
        return pivot_distance(encoder.encode(picture), pivot).item()

    free, held = moved(0.0), moved(2.0)
    assert held < 0.5 * free and free > 1e-3


def test_nothing_goes_back_into_the_pivot():
    found, pivot = torch.ones(2, 3, requires_grad=True), torch.zeros(2, 3, requires_grad=True)
    pivot_distance(found, pivot).backward()
    assert pivot.grad is None and torch.allclose(found.grad, torch.full((2, 3), 2 / 6))
