"""REED's training of a decoder that denoises: through one step from the same noise in every pass."""

from __future__ import annotations

import pytest
import torch
from reedit.models.autoencoders.epsilon import EpsilonDecoder, picture_noise
from reedit.models.autoencoders.epsilon_layout import config_of_size
from reedit.models.autoencoders.epsilon_network import EpsilonNetwork
from reedit.models.training.loop import train
from reedit.models.training.pictures import PictureFolder
from reedit.models.training.reed import REEDSettings, REEDTask
from reedit.models.training.run_folder import RunFolder
from small_training import SMALL, fresh_network


@pytest.fixture
def network() -> EpsilonNetwork:
    torch.manual_seed(0)
    return EpsilonNetwork(fresh_network(), EpsilonDecoder(config_of_size("tiny", latent_channels=4, ratio=2)))


def test_a_pass_is_the_encoder_and_one_step_from_the_seeds_noise(network):
    picture = torch.rand(2, 3, 16, 16)
    latent = network.encode(picture)
    decoder, noise = network.decoder, picture_noise(0, 16, 16).expand(2, -1, -1, -1)
    velocity = decoder.velocity(noise, torch.ones(2), decoder.condition(latent))
    assert torch.allclose(network.decode(latent), (noise - velocity) / 0.6 / 2 + 0.5, atol=1e-5)
    assert torch.equal(latent, network.encoder.encode(picture))


def test_a_decoder_of_other_latents_is_refused(network):
    with pytest.raises(ValueError, match="latents of 4 channels at a ratio of 2.*takes 4 channels at 4"):
        EpsilonNetwork(network.encoder, EpsilonDecoder(config_of_size("tiny", latent_channels=4, ratio=4)))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_reed_trains_the_denoising_network_alone(network, checkpointing):
    settings = REEDSettings(crop=16, first_passes=3, last_passes=3, perceptual=0.0, checkpointing=checkpointing)
    task = REEDTask(network, settings)
    task.module(torch.rand(1, 3, 16, 16), 3, True)["loss"].backward()
    assert all(parameter.grad is not None for parameter in network.decoder.unet.parameters())
    assert all(parameter.grad is None for parameter in network.encoder.parameters())
    assert task.trained_tensors().keys() == network.decoder.unet.state_dict().keys()


def test_training_brings_the_chain_nearer(network, pictures, tmp_path):
    settings = REEDSettings(**{**SMALL, "steps": 40, "batch": 2, "perceptual": 0.0, "validate_every": 5})
    folder = PictureFolder(pictures, settings.crop, settings.held_out, settings.seed)
    rows = train(REEDTask(network, settings), folder, RunFolder(tmp_path / "run"), {}, cpu=True)
    assert rows[-1]["psnr@5"] > rows[0]["psnr@5"] + 1
