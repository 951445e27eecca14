from dataclasses import replace

import pytest
import torch
from reedit.models.autoencoders.chain import as_kept
from reedit.models.training.kept_chains import Chain, KeptChains
from reedit.models.training.reed import REEDSettings, REEDTask

SETTINGS = REEDSettings(
    crop=16, batch=2, kept_chains=3, gradient_passes=1, first_passes=4, last_passes=4, perceptual=0, eight_bit=0
)


def chains_at(*passes):
    return [Chain(torch.full((4, 2, 2), float(n)), torch.zeros(4, 2, 2), torch.zeros(3, 8, 8), n) for n in passes]


def test_chains_are_taken_out_and_put_back_until_they_are_long_enough():
    kept = KeptChains(at_once=2, seed=0)
    kept.put(chains_at(1, 2, 3, 4), longest=4)
    assert sorted(chain.passes for chain in kept.chains) == [1, 2, 3]
    taken = kept.take()
    assert len(taken) == 2 and len(kept.chains) == 1
    kept.put(taken, longest=3)
    assert all(chain.passes < 3 for chain in kept.chains if chain in taken)


def test_there_is_room_for_eight_steps_chains_and_all_get_their_turn():
    kept = KeptChains(at_once=2, seed=0)
    kept.put(chains_at(*range(1, 100)), longest=1000)
    assert len(kept.chains) == 16
    seen = set()
    for _ in range(200):
        taken = kept.take()
        seen |= {chain.passes for chain in taken}
        kept.put(taken, longest=1000)
    assert seen == set(range(1, 17))


def test_the_state_gives_the_same_draws_again():
    one, other = KeptChains(at_once=2, seed=3), KeptChains(at_once=2, seed=3)
    one.put(chains_at(*range(1, 9)), longest=20)
    one.take()
    other.load_state(one.state(), torch.device("cpu"))
    for _ in range(3):
        assert [chain.passes for chain in one.take()] == [chain.passes for chain in other.take()]


def test_nothing_kept_is_a_state_too():
    other = KeptChains(at_once=2, seed=0)
    other.load_state(KeptChains(at_once=2, seed=0).state(), torch.device("cpu"))
    assert other.take() == []


@pytest.fixture
def task(small_network):
    return REEDTask(small_network, SETTINGS)


def test_with_a_decoder_that_stands_still_kept_chains_are_the_chains_themselves(task):
    """Weights that do not change: the k-th latent kept is that of k passes made at once."""
    torch.manual_seed(0)
    original = torch.rand(2, 3, 16, 16)
    network = task.network
    with torch.no_grad():
        picture, latents, firsts = original, [], []
        for _ in range(3):
            picture = as_kept(network.decode(network.encode(picture)), False)
            latents.append(network.encode(picture))
            firsts = firsts or [picture]
    losses = []
    for _ in range(30):
        losses.append(task.module(original, 4, False))
        for chain in task.module.kept.chains:
            expected = latents[chain.passes - 1]
            nearest = min(float((chain.latent - one).abs().max()) for one in expected)
            assert nearest < 1e-4 * float(expected.abs().max())
    passes = {chain.passes for chain in task.module.kept.chains}
    assert passes == {1, 2, 3}
    assert all(set(one) == {"anchor", "chain", "loss"} for one in losses[1:])


def test_its_loss_compares_each_kept_picture_with_its_first_pass(task):
    torch.manual_seed(0)
    original = torch.rand(2, 3, 16, 16)
    network = task.network
    with torch.no_grad():
        first = as_kept(network.decode(network.encode(original)), False)
        second = as_kept(network.decode(network.encode(first)), False)
    task.module(original, 4, False)
    losses = task.module(original, 4, False)  # both chains that the first step began make their second pass
    distance = task.module.distance
    torch.testing.assert_close(losses["chain"], distance(second, first), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(
        losses["loss"].detach(), distance(first, original) + losses["chain"], rtol=1e-4, atol=1e-7
    )


def test_compared_with_the_original_where_that_is_the_target(small_network):
    torch.manual_seed(0)
    original = torch.rand(2, 3, 16, 16)
    task = REEDTask(small_network, replace(SETTINGS, target="original"))
    task.module(original, 4, False)
    losses = task.module(original, 4, False)
    with torch.no_grad():
        first = as_kept(small_network.decode(small_network.encode(original)), False)
        second = as_kept(small_network.decode(small_network.encode(first)), False)
    torch.testing.assert_close(losses["chain"], task.module.distance(second, original), rtol=1e-4, atol=1e-7)


def test_the_gradient_goes_through_the_decoder_alone(task):
    original = torch.rand(2, 3, 16, 16)
    for _ in range(3):
        losses = task.module(original, 4, False)
    losses["loss"].backward()
    assert all(parameter.grad is not None for parameter in task.parameters.values())
    names = set(task.parameters)
    assert all(p.grad is None for name, p in task.network.autoencoder.named_parameters() if name not in names)
    assert all(not chain.latent.requires_grad and not chain.target.requires_grad for chain in task.module.kept.chains)


def test_the_latent_term_is_how_far_a_chain_is_from_where_it_began(small_network):
    torch.manual_seed(0)
    original = torch.rand(2, 3, 16, 16)
    task = REEDTask(small_network, replace(SETTINGS, latent=0.5))
    task.module(original, 4, False)
    losses = task.module(original, 4, False)
    with torch.no_grad():
        origin = small_network.encode(original)
        first = as_kept(small_network.decode(origin), False)
        second = as_kept(small_network.decode(small_network.encode(first)), False)
        found = small_network.encode(torch.cat([first, second]))
    origins = origin.repeat(2, 1, 1, 1)
    expected = ((found - origins) ** 2).mean() / origins.var()
    torch.testing.assert_close(losses["latent"], expected, rtol=1e-3, atol=1e-7)
    without = losses["loss"].detach() - 0.5 * losses["latent"]
    torch.testing.assert_close(without, losses["anchor"] + losses["chain"], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("passes", [2, 4])
def test_without_kept_chains_it_is_that_of_the_last_pass(small_network, passes):
    torch.manual_seed(0)
    original = torch.rand(2, 3, 16, 16)
    task = REEDTask(small_network, replace(SETTINGS, kept_chains=0, latent=0.5))
    losses = task.module(original, passes, False)
    with torch.no_grad():
        origin = found = small_network.encode(original)
        for _ in range(passes):
            found = small_network.encode(as_kept(small_network.decode(found), False))
    expected = ((found - origin) ** 2).mean() / origin.var()
    torch.testing.assert_close(losses["latent"], expected, rtol=1e-3, atol=1e-7)
    without = losses["loss"].detach() - 0.5 * losses["latent"]
    torch.testing.assert_close(without, losses["anchor"] + losses["chain"], rtol=1e-4, atol=1e-7)
    losses["loss"].backward()
    assert all(parameter.grad is not None for parameter in task.parameters.values())
