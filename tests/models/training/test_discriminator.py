"""The discriminator's losses and its penalty in closed form, and what its judgement depends on."""

import math

import pytest
import torch
from reedit.models.training.discriminator import (
    AdversaryLoss,
    Discriminator,
    fooling_loss,
    gradient_penalty,
    telling_loss,
)
from torch import nn


class Linear(nn.Module):
    """Logits that are linear in the pair: a convolution over 6 channels; the time is passed over."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(6, 1, side, stride=side)

    def forward(self, picture, noised, time):
        return self.convolution(torch.cat([picture, noised], 1))


def seeing() -> Discriminator:
    """One that has learned to look at the noised picture."""
    discriminator = Discriminator(8)
    with torch.no_grad():
        discriminator.first.weight[:, 3:].normal_(std=0.1)
    return discriminator


@pytest.fixture
def pair():
    return torch.randn(3, 3, 16, 16), torch.randn(3, 3, 16, 16), torch.tensor([0.1, 0.5, 0.9])


@pytest.mark.parametrize("side", [1, 4, 16])
def test_the_penalty_of_a_linear_discriminator_is_its_squared_weight_norm(pair, side):
    """Whether it sees pixels, patches or whole pictures."""
    discriminator = Linear(side)
    expected = float(discriminator.convolution.weight.detach().square().sum())
    assert gradient_penalty(discriminator, *pair).item() == pytest.approx(expected, rel=1e-5)


def test_the_penalty_teaches_the_discriminator(pair):
    """Of a linear one the penalty's own gradient is twice the weights."""
    discriminator = Linear(4)
    gradient_penalty(discriminator, *pair).backward()
    weight = discriminator.convolution.weight
    assert torch.allclose(weight.grad, 2 * weight, rtol=1e-4, atol=1e-7)


def test_the_penalty_of_the_discriminator_is_that_of_its_finite_differences(pair):
    torch.manual_seed(2)
    discriminator = seeing().double()
    picture, noised, time = (one[:1].double() for one in pair)
    found = gradient_penalty(discriminator, picture, noised, time).item()
    squares = 0.0
    with torch.no_grad():
        for which in range(2):
            for place in range(picture.numel()):
                ends = []
                for move in (1e-5, -1e-5):
                    moved = [picture.clone(), noised.clone()]
                    moved[which].view(-1)[place] += move
                    ends.append(float(discriminator(*moved, time).sum()))
                squares += ((ends[0] - ends[1]) / 2e-5) ** 2
    assert found == pytest.approx(squares / 4, rel=1e-4)  # 16 pixels make 2 × 2 logits


@pytest.mark.parametrize("logit", [-3.0, 0.0, 2.0])
def test_the_losses_are_those_of_the_non_saturating_game(logit):
    logits = torch.full((2, 1, 2, 2), logit)
    likely = 1 / (1 + math.exp(-logit))
    assert float(fooling_loss(logits)) == pytest.approx(-math.log(likely))
    assert float(telling_loss(logits, -2 * logits)) == pytest.approx(
        -math.log(likely) - math.log(1 - 1 / (1 + math.exp(2 * logit)))
    )
    if logit == 0:
        assert float(fooling_loss(logits)) == pytest.approx(math.log(2))
        assert float(telling_loss(logits, logits)) == pytest.approx(2 * math.log(2))


@pytest.mark.parametrize("side", [16, 64])
def test_there_is_a_logit_for_each_patch_of_8_pixels(side):
    picture = torch.randn(2, 3, side, side)
    assert Discriminator(8)(picture, picture, torch.rand(2)).shape == (2, 1, side // 8, side // 8)


@pytest.mark.parametrize("what", ["picture", "noised", "time"])
def test_the_picture_what_was_made_of_it_and_the_time_all_matter(pair, what):
    discriminator = seeing()
    given = dict(zip(("picture", "noised", "time"), pair, strict=True))
    before = discriminator(**given)
    after = discriminator(**{**given, what: given[what].flip(0)})
    assert torch.allclose(before[1], after[1], atol=1e-6)  # the middle one of three stays
    assert (before[0] - after[0]).abs().max() > 1e-2


def test_a_fresh_one_is_blind_to_the_noised_picture_and_can_learn_to_see_it(pair):
    discriminator, (picture, noised, time) = Discriminator(8), pair
    logits = discriminator(picture, noised, time)
    assert torch.equal(logits, discriminator(picture, 2 * noised, time))
    logits.sum().backward()
    assert bool((discriminator.first.weight.grad[:, 3:] != 0).any())


def test_the_judged_gets_a_gradient_and_the_judge_none(pair):
    adversary = AdversaryLoss(Discriminator(8))
    estimate = pair[0].clone().requires_grad_()
    loss = adversary.fool(estimate, *pair[1:])
    loss.backward()
    assert estimate.grad is not None and bool((estimate.grad != 0).any())
    assert all(parameter.grad is None for parameter in adversary.parameters())
    expected = fooling_loss(adversary.discriminator(estimate, *pair[1:]))
    assert torch.allclose(loss.detach(), expected.detach())


def test_the_judge_learns_of_both_pairs_and_the_judged_nothing(pair):
    adversary = AdversaryLoss(Discriminator(8))
    picture, noised, time = pair
    estimate = torch.randn_like(picture).requires_grad_()
    plain = adversary(picture, estimate, noised, time, penalty=0.0)
    strict = adversary(picture, estimate, noised, time, penalty=6.0)
    real, fake = adversary.discriminator(picture, noised, time), adversary.discriminator(estimate, noised, time)
    assert plain["loss"].item() == pytest.approx(telling_loss(real, fake).item())
    assert float(plain["penalty"]) == 0
    term = 3 * gradient_penalty(adversary.discriminator, picture, noised, time).item()
    assert float(strict["penalty"]) == pytest.approx(term)
    assert strict["loss"].item() == pytest.approx(plain["loss"].item() + term)
    strict["loss"].backward()
    assert estimate.grad is None
    assert all(parameter.grad is not None for parameter in adversary.parameters())


def test_a_discriminator_learns_to_tell(pair):
    """Blurred pictures from sharp ones, which is what it is for."""
    torch.manual_seed(3)
    adversary = AdversaryLoss(Discriminator(8))
    optimizer = torch.optim.Adam(adversary.parameters(), lr=2e-3, betas=(0.0, 0.999))
    for _ in range(100):
        picture, noised, time = torch.randn(8, 3, 16, 16), torch.randn(8, 3, 16, 16), torch.rand(8)
        blurred = nn.functional.avg_pool2d(picture, 3, 1, 1)
        losses = adversary(picture, blurred, noised, time, penalty=0.0)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    assert losses["loss"].item() < math.log(2)
