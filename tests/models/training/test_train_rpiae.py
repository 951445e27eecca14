"""RPiAE's three stages: each loss against its formula, what each trains, and the files from a DINOv2 to an RPiAE."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from reedit.models.autoencoders.dinov2 import load_dinov2
from reedit.models.autoencoders.rpiae import RPiAE, load_rpiae
from reedit.models.autoencoders.rpiae_layout import read_rpiae
from reedit.models.files import fingerprint
from reedit.models.training.pictures import PictureFolder
from reedit.models.training.rpiae import (
    BRIDGE,
    DECODER,
    PIVOT,
    STAGES,
    RPiAELoss,
    RPiAETask,
    last_parameter,
    trained_parameters,
)
from reedit.models.training.train_rpiae import read_base, start_network, train_rpiae
from small_rpiae import small_dinov2, small_settings, train_stages, write_dinov2
from small_training import StopHere, stop_after, write_autoencoder
from torch.nn import functional

NUMBERS = range(4, 6)


@pytest.fixture
def original() -> torch.Tensor:
    return torch.rand((2, 3, 16, 16), generator=torch.Generator().manual_seed(6))


@pytest.fixture
def network() -> RPiAE:
    """Fresh, but no layer so small that it does nothing."""
    network = start_network(small_dinov2(), small_settings())
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return network


@pytest.fixture(scope="module")
def stages(tmp_path_factory, pictures) -> dict[str, Path]:
    return train_stages(tmp_path_factory.mktemp("stages"), pictures)


def noise_of(settings, tokens: torch.Tensor) -> torch.Tensor:
    drawn = []
    for number in NUMBERS:
        random = np.random.default_rng((settings.seed, number, 4))
        drawn.append(settings.noise * random.random() * random.standard_normal(tokens.shape[1:], np.float32))
    return torch.from_numpy(np.stack(drawn)).float()


def loss_of(network: RPiAE, original: torch.Tensor, balanced: bool = False, **changes) -> dict[str, torch.Tensor]:
    settings = small_settings(**changes)
    trained_parameters(network, settings.stage)
    return RPiAELoss(network, settings, None)(original, balanced, False, NUMBERS)


# --- the losses -------------------------------------------------------------------------------------------------------


def test_the_pivot_stage_draws_from_noised_tokens_and_holds_the_encoder(network, original):
    settings = small_settings()
    trained_parameters(network, PIVOT)
    loss = RPiAELoss(network, settings, None)
    held = network.tokens(original).detach()
    with torch.no_grad():  # it has moved since
        last_parameter(network.encoder).add_(0.5)
    found = loss(original, False, False, NUMBERS)
    tokens = network.tokens(original)
    distance = (network.draw(tokens + noise_of(settings, tokens)) - original).abs().mean()
    pivot = (tokens - held).square().mean()
    assert found["distance"].item() == pytest.approx(distance.item(), rel=1e-5)
    assert found["pivot"].item() == pytest.approx(pivot.item(), rel=1e-5) and pivot > 1e-3
    assert found["loss"].item() == pytest.approx((distance + 0.75 * pivot).item(), rel=1e-5)

    balanced = loss(original, True, False, NUMBERS)
    last = list(network.encoder.parameters())[-1]  # as the authors' code falls back to
    pulls = [torch.autograd.grad(one, last, retain_graph=True)[0].norm() for one in (distance, pivot)]
    assert balanced["pivot_weight"].item() == pytest.approx(0.75 * (pulls[0] / (pulls[1] + 1e-4)).item(), rel=1e-4)
    total = distance + balanced["pivot_weight"] * pivot
    assert balanced["loss"].item() == pytest.approx(total.item(), rel=1e-5)


def test_without_a_pivot_the_encoder_goes_where_the_picture_wants_it(network, original):
    found = loss_of(network, original, pivot=0.0)
    assert "pivot" not in found and found["loss"].item() == found["distance"].item()


def test_the_bridge_stage_matches_clean_tokens_from_noised_ones(network, original):
    settings = small_settings(stage=BRIDGE, feature=1.5, divergence=0.2, reconstruction=0.3)
    found = loss_of(network, original, stage=BRIDGE, feature=1.5, divergence=0.2, reconstruction=0.3)
    tokens = network.tokens(original)
    mean, log_variance = network.moments(tokens + noise_of(settings, tokens))
    bridged = network.tokens_of(mean)
    feature = functional.mse_loss(bridged, tokens)
    standard = torch.distributions.Normal(torch.zeros(()), torch.ones(()))
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    divergence = 2 * torch.distributions.kl_divergence(posterior, standard).mean()  # theirs is without the half
    reconstruction = (network.draw(bridged) - original).abs().mean()
    for name, value in (("feature", feature), ("divergence", divergence), ("reconstruction", reconstruction)):
        assert found[name].item() == pytest.approx(value.item(), rel=1e-4), name
    total = 1.5 * feature + 0.2 * divergence + 0.3 * reconstruction
    assert found["loss"].item() == pytest.approx(total.item(), rel=1e-4)


def test_the_decoder_stage_draws_from_the_latents_mean(network, original):
    found = loss_of(network, original, stage=DECODER)
    distance = (network.decode(network.encode(original)) - original).abs().mean()
    assert found["loss"].item() == pytest.approx(distance.item(), rel=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_trains_its_parts_and_no_others(network, original, stage):
    parts = {
        PIVOT: {"encoder", "pixel_decoder"},
        BRIDGE: {"bridge_encoder", "bridge_decoder"},
        DECODER: {"pixel_decoder"},
    }
    trained = trained_parameters(network, stage)
    RPiAELoss(network, small_settings(stage=stage), None)(original, False, False, NUMBERS)["loss"].backward()
    moved = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert {name.split(".")[0] for name in moved} == parts[stage]
    # The variance of a latent that is never sampled has no part in a decoded picture.
    assert moved == trained.keys() and not any("mask_token" in name for name in moved)


def test_the_judgement_is_a_share_of_the_pictures_pull_at_the_decoders_end(network, original):
    settings = small_settings(stage=DECODER, adversarial=0.5)
    task = RPiAETask(network, settings)
    loss = task.module
    found = loss(original, False, True, NUMBERS)
    (plain,) = [loss(original, False, False, NUMBERS)["loss"]]
    last = network.pixel_decoder.decoder_pred.weight
    pull = torch.autograd.grad(plain, last)[0].norm()
    judged = torch.autograd.grad(found["loss"] - loss(original, False, False, NUMBERS)["loss"], last)[0].norm()
    assert judged.item() == pytest.approx(0.5 * pull.item(), rel=1e-3)
    told = task.adversary_arguments(settings.adversarial_start)
    assert torch.equal(told["picture"], 2 * original - 1) and told["estimate"].grad_fn is None
    assert all(parameter.grad is None for parameter in task.adversary.parameters())
    assert RPiAETask(network, small_settings(stage=BRIDGE)).adversary is None


# --- whole stages -----------------------------------------------------------------------------------------------------


def test_three_stages_lead_from_a_dinov2_to_an_rpiae(stages, pictures, tmp_path):
    stored = {stage: read_rpiae(path) for stage, path in stages.items()}
    assert [stored[stage].about["stage"] for stage in STAGES] == list(STAGES)
    for stage, before in ((BRIDGE, PIVOT), (DECODER, BRIDGE)):
        assert stored[stage].about["base"] == fingerprint(stored[before].tensors)
        kept = [
            name
            for name in stored[stage].tensors
            if torch.equal(stored[stage].tensors[name], stored[before].tensors[name])
        ]
        moved = stored[stage].tensors.keys() - set(kept)
        bridge = {name for name in stored[stage].tensors if name.startswith("vb_")}
        decoder = {name for name in stored[stage].tensors if name.startswith("decoder.")} - {
            "decoder.decoder_pos_embed"
        }
        assert moved <= (bridge if stage == BRIDGE else decoder) and len(moved) > 10
    held = PictureFolder(pictures, 16, 1, 0).held_out_pictures()
    network = load_rpiae(stored[DECODER])
    error = (network.decode(network.encode(held)).clamp(0, 1) - held).square().mean()
    assert stored[DECODER].about["figures"]["psnr"] == pytest.approx(-10 * error.log10().item(), abs=2e-3)


def test_it_starts_at_the_dinov2s_own_tokens(original):
    stored = small_dinov2()
    network = start_network(stored, small_settings())
    normal = (original - network.picture_mean) / network.picture_deviation
    expected = load_dinov2(stored)(normal).last_hidden_state[:, 3:]
    assert torch.allclose(network.tokens(original), expected, atol=1e-5)  # its last norm is 1 and 0


def test_pictures_come_nearer_and_the_pivot_holds(tmp_path, pictures):
    """What it is all for, in small."""
    base = write_dinov2(tmp_path / "dinov2.safetensors")
    settings = {
        "steps": 60,
        "batch": 4,
        "learning_rate": 5e-3,
        "validate_every": 20,
        "save_every": 60,
        "adversarial": 0.0,
    }
    rows = {}
    for pivot in (0.0, 2.0):
        chosen = small_settings(pivot=pivot, **settings)
        rows[pivot] = train_rpiae(base, pictures, tmp_path / f"{pivot}.safetensors", chosen, cpu=True)
        assert rows[pivot][-1]["psnr"] > rows[pivot][0]["psnr"] + 1
    start = load_rpiae(read_rpiae(tmp_path / "0.0.safetensors"))
    held = PictureFolder(pictures, 16, 1, 0).held_out_pictures()
    before = start_network(small_dinov2(), small_settings()).tokens(held)
    free = (start.tokens(held) - before).square().mean().item()
    assert rows[2.0][-1]["pivot_error"] < 0.5 * free


def test_a_run_that_is_stopped_goes_on_to_the_same_file(tmp_path, pictures):
    base, settings = write_dinov2(tmp_path / "dinov2.safetensors"), small_settings(steps=4)
    rows = train_rpiae(base, pictures, tmp_path / "whole.safetensors", settings, cpu=True)
    run, output = tmp_path / "run", tmp_path / "parts.safetensors"
    with pytest.raises(StopHere):
        train_rpiae(base, pictures, output, settings, run, stop_after(3), cpu=True)
    assert not output.exists()
    assert train_rpiae(base, pictures, output, settings, run, cpu=True) == rows
    whole, parts = (read_rpiae(tmp_path / f"{name}.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(parts.tensors[name], value) for name, value in whole.tensors.items())


def test_the_file_keeps_the_bases_precision(tmp_path, pictures):
    half = {name: tensor.half() for name, tensor in small_dinov2().tensors.items()}
    stored = copy.copy(small_dinov2())
    object.__setattr__(stored, "tensors", half)
    train_rpiae(stored, pictures, tmp_path / "half.safetensors", small_settings(steps=1, validate_every=1), cpu=True)
    assert {tensor.dtype for tensor in read_rpiae(tmp_path / "half.safetensors").tensors.values()} == {torch.float16}


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "changes", "said"),
    [
        ({"registers": 0}, {}, "without registers"),
        ({}, {"stage": BRIDGE}, "train pivot first"),
        ({}, {"patches": 5}, "crop is 16, and must be a multiple of patches, 5"),
        ({"swiglu": True, "mlp_ratio": 4}, {}, "size g"),
        ({}, {"discriminator_width": 12}, "discriminator_width is 12"),
        ({}, {"stage": "both"}, "stage is 'both'"),
    ],
)
def test_what_will_not_do_is_refused_before_any_work(tmp_path, pictures, sizes, changes, said):
    base = write_dinov2(tmp_path / "dinov2.safetensors", **sizes)
    with pytest.raises(ValueError, match=said):
        train_rpiae(base, pictures, tmp_path / "out.safetensors", small_settings(**changes), cpu=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dinov2.safetensors"]


def test_an_rpiae_wants_pictures_of_its_own_size(tmp_path, pictures, stages):
    with pytest.raises(ValueError, match="crop is 20, and this RPiAE makes pictures of 16"):
        train_rpiae(
            stages[BRIDGE], pictures, tmp_path / "out.safetensors", small_settings(stage=DECODER, crop=20), cpu=True
        )


def test_a_base_that_is_something_else_is_named(tmp_path):
    base = write_autoencoder(tmp_path / "kl.safetensors")
    with pytest.raises(ValueError, match=r"kl\.safetensors"):
        read_base(base)
    torch.save({"ema": {}}, tmp_path / "empty.pt")
    with pytest.raises(ValueError, match=r"empty\.pt"):
        read_base(tmp_path / "empty.pt")
