"""Decoding as denoising: the printed time grids, the paper's sizes, and flows whose solution is known."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from reedit.models.autoencoders.epsilon import EpsilonDecoder, build_unet, picture_noise, time_grid
from reedit.models.autoencoders.epsilon_layout import (
    SIZES,
    EpsilonConfig,
    StoredEpsilonDecoder,
    config_of_size,
    read_epsilon_decoder,
)
from safetensors.torch import save_file
from tiny_sd.train_autoencoder import AUTOENCODERS, DEMO, RATIO_8
from tiny_sd.train_autoencoder import build as build_autoencoder

TINY = config_of_size("tiny", latent_channels=4, ratio=4)


@pytest.fixture(scope="module")
def decoder():
    torch.manual_seed(1)
    return EpsilonDecoder(TINY).eval()


def gaussian_velocity(config: EpsilonConfig, mean: float, deviation: float):
    """The exact velocity, E[noise - gamma x0 | x_t], where x0 ~ N(mean, deviation²) in every place."""
    scale, offset = config.gamma * deviation, config.gamma * mean

    def velocity(noised, time, condition):
        t = time[:, None, None, None]
        gain = (t - (1 - t) * scale**2) / (((1 - t) * scale) ** 2 + t**2)
        return gain * (noised - (1 - t) * offset) - offset

    return velocity


@pytest.mark.parametrize(
    ("steps", "printed"),
    [
        (1, [1, 0]),
        (2, [1, 0.8516, 0]),
        (3, [1, 0.9130, 0.7657, 0]),
        (5, [1, 0.9521, 0.8905, 0.8043, 0.6590, 0]),
    ],
)
def test_the_time_grids_are_those_of_the_paper(steps, printed):
    assert time_grid(steps) == pytest.approx(printed, abs=5e-5)


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="steps is 0, and must be 1 or more"):
        time_grid(0)


@pytest.mark.parametrize(
    ("size", "millions", "within"),
    [("M", 49.33, 0.0002), ("L", 88.98, 0.0002), ("XL", 140.63, 0.0002), ("H", 355.62, 0.0002), ("B", 20.63, 0.08)],
)
def test_the_sizes_have_the_papers_number_of_parameters(size, millions, within):
    with torch.device("meta"):
        unet = build_unet(config_of_size(size, latent_channels=8, ratio=16))
    count = sum(parameter.numel() for parameter in unet.parameters()) / 1e6
    assert count == pytest.approx(millions, rel=within)


@pytest.mark.parametrize("gamma", [0.6, 1.0])
def test_of_gaussian_data_the_flow_makes_the_known_picture(decoder, gamma):
    """The flow of N(m, s²) carries noise e to m + s e; Euler's error falls with the steps."""
    config = replace(TINY, gamma=gamma)
    flow = EpsilonDecoder(config)
    exact = 0.2 + 0.3 * picture_noise(5, 16, 16)
    errors = []
    for steps in (256, 1024, 4096):
        made = flow.decode(torch.zeros(1, 4, 4, 4), 5, steps, gaussian_velocity(config, 0.2, 0.3))
        errors.append(float((2 * made - 1 - exact).abs().max()))
    assert errors[1] < errors[0] / 2.5
    assert errors[2] < errors[1] / 3.5
    assert errors[2] < 0.01


@pytest.mark.parametrize("time", [0.0, 0.3, 0.9, 1.0])
def test_preconditioned_a_silent_network_gives_the_exact_velocity_of_gaussian_data(time):
    """Where the latent tells nothing and x0 ~ N(0, V), the velocity is linear in x_t: E[v | x_t] = c x_t."""
    config = replace(TINY, picture_variance=0.09, preconditioned=True)
    decoder = EpsilonDecoder(config)
    noised, times = torch.randn(2, 3, 16, 16), torch.full((2,), time)
    exact = gaussian_velocity(config, 0.0, 0.3)(noised, times, None)
    assert torch.allclose(decoder.velocity_of(torch.zeros_like(noised), noised, times), exact, atol=1e-6)


@pytest.mark.parametrize("time", [0.1, 0.5, 0.9, 1.0])
def test_preconditioned_the_network_is_to_say_numbers_of_unit_variance(time):
    decoder = EpsilonDecoder(replace(TINY, preconditioned=True))
    picture = TINY.picture_variance**0.5 * torch.randn(8, 3, 64, 64)
    noise, times = torch.randn_like(picture), torch.full((8,), time)
    noised = decoder.noised(picture, noise, times)
    none, one = (decoder.velocity_of(torch.full_like(noised, value), noised, times) for value in (0.0, 1.0))
    answer = (decoder.target(picture, noise) - none) / (one - none)
    assert float(answer.var()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("size", "autoencoder"), [("tiny", DEMO), ("tiny, 4 levels", RATIO_8)])
def test_the_tiny_sizes_have_the_parameters_of_the_demos_decoders(size, autoencoder):
    sizes = AUTOENCODERS[autoencoder]
    with torch.device("meta"):
        unet = build_unet(config_of_size(size, sizes.latent_channels, 2 ** (len(sizes.block_out_channels) - 1)))
        decoder = build_autoencoder(sizes).decoder
    denoising, plain = (sum(parameter.numel() for parameter in each.parameters()) for each in (unet, decoder))
    assert denoising == pytest.approx(plain, rel=0.025)


def test_the_right_velocity_gives_the_picture_back_in_one_step(decoder):
    picture, noise = torch.rand(3, 3, 16, 16) * 2 - 1, torch.randn(3, 3, 16, 16)
    time = torch.tensor([0.1, 0.5, 1.0])
    noised = decoder.noised(picture, noise, time)
    assert torch.allclose(decoder.estimate(noised, time, decoder.target(picture, noise)), picture, atol=1e-5)


@pytest.mark.parametrize("time", [0.0, 0.3, 0.9, 1.0])
def test_what_the_network_sees_of_the_picture_has_unit_variance(decoder, time):
    picture = TINY.picture_variance**0.5 * torch.randn(8, 3, 64, 64)
    times = torch.full((8,), time)
    seen = decoder.network_input(
        decoder.noised(picture, torch.randn_like(picture), times), times, torch.zeros(8, 4, 64, 64)
    )
    assert float(seen[:, :3].var()) == pytest.approx(1, abs=0.02)


def test_latents_are_normalised_and_upsampled_to_the_nearest():
    decoder = EpsilonDecoder(replace(TINY, latent_shift=1.0, latent_scale=2.0))
    seen = decoder.condition(torch.arange(16.0).reshape(1, 4, 2, 2))
    assert seen.shape == (1, 4, 8, 8)
    assert seen[0, 1, :4, 4:].unique().tolist() == [8.0]  # channel 1, right above: (5 - 1) · 2


def test_a_picture_is_the_same_in_any_batch_and_another_with_another_seed(decoder):
    latent = torch.randn(3, 4, 8, 8)
    together = decoder.decode(latent, 7, 2)
    for number in range(3):
        assert torch.allclose(
            decoder.decode(latent[number : number + 1], 7, 2), together[number : number + 1], atol=1e-5
        )
    assert not torch.allclose(decoder.decode(latent, 8, 2), together, atol=1e-3)


def test_sides_that_cannot_be_halved_often_enough_are_padded_and_cut():
    config = replace(TINY, ratio=2)
    made = EpsilonDecoder(config).eval().decode(torch.randn(1, 4, 5, 7), 0, 1)
    assert made.shape == (1, 3, 10, 14)
    assert bool(made.isfinite().all())


@pytest.mark.parametrize("shape", [(1, 8, 4, 4), (1, 4, 4)])
def test_latents_of_another_kind_are_refused(decoder, shape):
    with pytest.raises(ValueError, match=r"latents of 4 channels at a ratio of 4"):
        decoder.decode(torch.zeros(shape), 0, 1)


def test_a_videos_latent_is_refused_by_name(decoder):
    with pytest.raises(ValueError, match="a video's latent"):
        decoder.decode(torch.zeros(1, 4, 2, 4, 4), 0, 1)


def test_each_step_is_told(decoder):
    told = []
    decoder.decode(torch.zeros(1, 4, 2, 2), 0, 3, on_step=told.append)
    assert told == [1, 2, 3]


def test_a_file_gives_back_what_was_saved(decoder, tmp_path):
    config = replace(TINY, gamma=0.7, latent_scale=0.5, preconditioned=True)
    stored = StoredEpsilonDecoder(config, decoder.unet.state_dict(), {"base": "abc"}, {"other": "x"})
    stored.save(tmp_path / "decoder.safetensors")
    read = read_epsilon_decoder(tmp_path / "decoder.safetensors")
    assert (read.config, read.about, read.metadata) == (config, {"base": "abc"}, {"other": "x"})
    assert all(torch.equal(read.tensors[name], value) for name, value in decoder.unet.state_dict().items())


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({}, "holds no eps-VAE decoder"),
        ({"reedit": "no json"}, "cannot be used"),
        ({"reedit": "[]"}, "holds no eps-VAE decoder"),
        ({"reedit": json.dumps({"kind": "REED decoder"})}, "holds no eps-VAE decoder"),
        ({"reedit": json.dumps({"kind": "epsilon decoder"})}, "does not say the decoder's sizes"),
        (
            {"reedit": json.dumps({"kind": "epsilon decoder", "config": {"width": 1}})},
            "does not say the decoder's sizes",
        ),
    ],
)
def test_files_of_something_else_are_refused_by_name(tmp_path, metadata, said):
    save_file({"a": torch.zeros(1)}, tmp_path / "some.safetensors", metadata)
    with pytest.raises(ValueError, match=f"some.safetensors.*{said}"):
        read_epsilon_decoder(tmp_path / "some.safetensors")


def test_a_damaged_file_is_refused_by_name(tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(ValueError, match="cut.safetensors is not a readable"):
        read_epsilon_decoder(tmp_path / "cut.safetensors")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"width": 42}, "width is 42, and must be a multiple of norm_groups, 4"),
        ({"gamma": 0.0}, "gamma is 0.0"),
        ({"ratio": 3}, "ratio is 3"),
        ({"multipliers": ()}, "multipliers are"),
    ],
)
def test_sizes_that_cannot_be_built_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        EpsilonDecoder(replace(TINY, **change))


def test_an_unknown_size_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=", ".join(SIZES)):
        config_of_size("S", 4, 8)
