"""REED's loss and gradient: against the host's VAE, against plain autograd through a chain written out, in closed form."""

import math

import numpy as np
import pytest
import torch
from reedit.models.training.reed import MEASURED_PASSES, REEDLoss, REEDTask
from reedit.nodes.autoencoders import build_host_vae
from small_training import CONFIG, fresh_network, fresh_weights, small_settings
from torch import nn


@pytest.fixture
def original() -> torch.Tensor:
    return torch.rand(2, 3, 16, 16)


def make_task(**changes) -> REEDTask:
    return REEDTask(fresh_network(), small_settings(**changes))


# --- the value --------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("eight_bit", [False, True])
@pytest.mark.parametrize("target", ["first step", "original"])
@pytest.mark.parametrize("passes", [1, 2, 5])
def test_the_loss_is_what_the_hosts_vae_makes_it(original, passes, target, eight_bit):
    host = build_host_vae(fresh_weights(), CONFIG)
    pictures, clamps = [original.movedim(1, -1)], False
    for _ in range(passes):
        latent = host.encode(pictures[-1])
        raw = host.first_stage_model.decode(latent) / 2 + 0.5
        clamps = clamps or bool((raw < 0).any() or (raw > 1).any())
        decoded = host.decode(latent).numpy()
        pictures.append(torch.from_numpy(np.rint(255 * decoded) / 255 if eight_bit else decoded).float())
    assert clamps  # else it would say nothing of clamping

    def distance(one: torch.Tensor, other: torch.Tensor) -> float:
        difference = (one - other).double()
        return 0.7 * float(difference.square().mean()) + 0.2 * float(difference.abs().mean())

    anchor = distance(pictures[1], pictures[0])
    chain = distance(pictures[-1], pictures[1 if target == "first step" else 0])
    settings = {"target": target, "squared": 0.7, "absolute": 0.2, "anchor": 0.4}
    losses = make_task(**settings).module(original, passes=passes, eight_bit=eight_bit)
    # An 8-bit step on the other side of a rounding edge is rare, and its share of the mean small.
    close = {"rel": 2e-3 if eight_bit else 1e-4}
    assert float(losses["anchor"]) == pytest.approx(anchor, **close)
    if passes == 1:
        assert "chain" not in losses and float(losses["loss"]) == pytest.approx(0.4 * anchor, **close)
    else:
        assert float(losses["chain"]) == pytest.approx(chain, **close)
        assert float(losses["loss"]) == pytest.approx(0.4 * anchor + chain, **close)


# --- the gradient -----------------------------------------------------------------------------------------------------


def gradients(task: REEDTask, loss: torch.Tensor) -> torch.Tensor:
    return torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss, list(task.parameters.values()))])


def explicit_loss(task: REEDTask, original: torch.Tensor, passes: int, cut_before: int | None, hold: bool = True):
    """MSE(x^k, x^1) + MSE(x^1, x^0) in diffusers' own terms. cut_before: the pass whose input has no gradient."""
    autoencoder = task.network.autoencoder
    picture, first = original, original
    for number in range(1, passes + 1):
        picture = picture.detach() if number == cut_before else picture
        latent = autoencoder.encode(2 * picture - 1).latent_dist.mean
        decoded = autoencoder.decode(latent).sample / 2 + 0.5
        picture = decoded + (decoded.clamp(0, 1) - decoded).detach()
        first = picture if number == 1 else first
    held = first.detach() if hold else first
    return (picture - held).square().mean() + (first - original).square().mean()


PLAIN = {"squared": 1.0, "absolute": 0.0, "anchor": 1.0}


@pytest.mark.parametrize("gradient_passes", [3, 4, 20])
def test_with_as_many_passes_as_there_are_it_is_the_whole_chains_gradient(original, gradient_passes):
    task = make_task(gradient_passes=gradient_passes, **PLAIN)
    found = gradients(task, task.module(original, passes=3, eight_bit=False)["loss"])
    expected = gradients(task, explicit_loss(task, original, 3, None))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("gradient_passes", [1, 2, 3])
def test_it_goes_back_through_the_last_passes_and_the_first_one_and_no_further(original, gradient_passes):
    passes = 4
    task = make_task(gradient_passes=gradient_passes, **PLAIN)
    found = gradients(task, task.module(original, passes=passes, eight_bit=False)["loss"])
    cut = passes - gradient_passes + 1
    expected = gradients(task, explicit_loss(task, original, passes, cut))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    # And those are different gradients: with one pass more or less it would not have passed.
    whole = gradients(task, explicit_loss(task, original, passes, None))
    other = gradients(task, explicit_loss(task, original, passes, cut + 1 if cut < passes else cut - 1))
    assert (found - whole).norm() > 1e-2 * whole.norm() and (found - other).norm() > 1e-2 * other.norm()


def test_the_first_pass_is_held_as_the_target(original):
    task = make_task(gradient_passes=20, **PLAIN)
    found = gradients(task, task.module(original, passes=3, eight_bit=False)["loss"])
    moving = gradients(task, explicit_loss(task, original, 3, None, hold=False))
    assert (found - moving).norm() > 0.05 * moving.norm()


def test_rounding_to_8_bits_does_not_stop_the_gradient(original):
    task = make_task(gradient_passes=20, **PLAIN)
    smooth, rounded = (gradients(task, task.module(original, 3, eight_bit)["loss"]) for eight_bit in (False, True))
    assert not torch.equal(smooth, rounded)
    assert float(nn.functional.cosine_similarity(smooth, rounded, dim=0)) > 0.99


@pytest.mark.parametrize("gradient_passes", [2, 20])
def test_checkpointing_changes_nothing_but_the_memory(original, gradient_passes):
    found = []
    for checkpointing in (False, True):
        task = make_task(gradient_passes=gradient_passes, checkpointing=checkpointing, **PLAIN)
        found.append(gradients(task, task.module(original, passes=4, eight_bit=True)["loss"]))
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-9)


def test_checkpointing_keeps_less(original):
    """What autograd keeps for the way back, counted by its own hook: of 4 passes, without and with checkpointing."""
    kept = []
    for checkpointing in (False, True):
        task, sizes = make_task(gradient_passes=4, checkpointing=checkpointing), {}

        def pack(tensor: torch.Tensor, sizes: dict = sizes) -> torch.Tensor:
            sizes[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            losses = task.module(original, passes=4, eight_bit=False)
        kept.append(sum(sizes.values()))
        del losses
    assert kept[1] < kept[0] / 20


def test_the_encoder_gets_no_gradient_and_every_part_of_the_decoder_one(original):
    task = make_task(perceptual=0.1)
    task.module(original, passes=3, eight_bit=True)["loss"].backward()
    for name, parameter in task.network.autoencoder.named_parameters():
        decoder = name.startswith(("decoder.", "post_quant_conv."))
        assert parameter.requires_grad == decoder == (name in task.parameters)
        assert (parameter.grad is not None) == decoder
        if decoder:
            assert parameter.grad.isfinite().all()
            assert name.endswith("bias") or parameter.grad.abs().max() > 0  # a bias before a norm may move nothing


class Scale(nn.Module):
    """decode(z) = s·z, encode(x) = x / t: with r = s / t, x^k = r^k · x^0, and all there is to know is in closed form."""

    def __init__(self, scale: float, encoder_scale: float) -> None:
        super().__init__()
        self.scale, self.encoder_scale = nn.Parameter(torch.tensor(scale, dtype=torch.float64)), encoder_scale

    def encode(self, picture: torch.Tensor) -> torch.Tensor:
        return picture.double() / self.encoder_scale

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        return self.scale * latent


@pytest.mark.parametrize("target", ["first step", "original"])
@pytest.mark.parametrize("gradient_passes", [1, 2, 5, 6, 7])
@pytest.mark.parametrize("passes", [1, 2, 6])
def test_a_chain_that_scales_has_the_loss_and_the_gradient_of_its_closed_form(passes, gradient_passes, target):
    """L = m (r^k - r)² + a m (r - 1)², with m the mean square of x^0; the second r, and what is cut off, is held."""
    scale, encoder_scale, weight = 1.8, 2.0, 0.3
    original = 0.2 + 0.7 * torch.rand(1, 3, 4, 4)
    network = Scale(scale, encoder_scale)
    loss = REEDLoss(
        network, small_settings(gradient_passes=gradient_passes, target=target, absolute=0.0, anchor=weight)
    )(original, passes, False)["loss"]
    loss.backward()
    ratio, mean_square = scale / encoder_scale, float(original.double().square().mean())
    aim = ratio if target == "first step" else 1.0
    away = ratio**passes - aim if passes > 1 else 0.0
    expected = mean_square * (away**2 + weight * (ratio - 1) ** 2)
    # The gradient sees r^k as r^(through) times a number that is held.
    through = min(gradient_passes, passes)
    slope = 2 * away * through * ratio ** (passes - 1) + 2 * weight * (ratio - 1)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert float(network.scale.grad) == pytest.approx(mean_square * slope / encoder_scale, rel=1e-5)


# --- the task ---------------------------------------------------------------------------------------------------------


def test_eight_bit_steps_are_the_share_that_is_set_and_follow_from_the_step():
    task, again = make_task(eight_bit=0.3), make_task(eight_bit=0.3)
    drawn = [task.arguments(step)["eight_bit"] for step in range(1000)]
    assert drawn == [again.arguments(step)["eight_bit"] for step in range(1000)]
    assert abs(sum(drawn) / 1000 - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 1000)
    other = make_task(eight_bit=0.3, seed=1)
    assert drawn != [other.arguments(step)["eight_bit"] for step in range(1000)]
    for share in (0.0, 1.0):
        sure = make_task(eight_bit=share)
        assert {sure.arguments(step)["eight_bit"] for step in range(50)} == {bool(share)}


@torch.no_grad()
def test_the_figures_are_those_of_the_hosts_vae_in_8_bits(original):
    task = make_task(first_passes=3)
    figures, shown = task.validate(1, original)
    host, picture, pictures = build_host_vae(fresh_weights(), CONFIG), original.movedim(1, -1), []
    for _ in range(25):
        picture = torch.round(255 * host.decode(host.encode(picture))) / 255
        pictures.append(picture)
    for passes in MEASURED_PASSES:
        error = (pictures[passes - 1] - original.movedim(1, -1)).double().square().mean((1, 2, 3))
        # A step of 8 bits that falls to the other side of a rounding edge, as it may on another CPU, grows along the chain.
        near = 0.05 if passes <= 5 else 0.4
        assert figures[f"psnr@{passes}"] == pytest.approx(float((10 * torch.log10(1 / error)).mean()), abs=near)
    first, third = pictures[0], pictures[2]
    expected = (third - first).square().mean() + (first - original.movedim(1, -1)).square().mean()
    assert figures["validation"] == pytest.approx(float(expected), rel=1e-2) and figures["k"] == 3
    assert len(shown) == 1 + len(MEASURED_PASSES) and torch.equal(shown[0], original)
    torch.testing.assert_close(shown[1].movedim(1, -1), first, rtol=0, atol=1.01 / 255)


def test_the_chain_grows_by_the_validation_loss(original):
    task = make_task(first_passes=2, last_passes=4, increment=2, plateau_window=10)
    for step in (5, 10, 15):  # the weights stay as they are, and so does the loss
        assert task.arguments(step)["passes"] == 2
        task.validate(step, original)
    assert task.arguments(16)["passes"] == 4
    later = make_task(first_passes=2, last_passes=4, increment=2, plateau_window=10)
    later.load_state(task.state())
    assert later.arguments(16)["passes"] == 4


def test_a_crop_that_is_no_multiple_of_the_ratio_is_refused():
    with pytest.raises(ValueError, match=r"crop is 17, and this VAE needs a multiple of 2\."):
        make_task(crop=17)
