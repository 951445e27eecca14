"""Corrected decoding: against linear autoencoders, whose error after any number of corrections is known, and the demo's."""

from __future__ import annotations

import pytest
import torch
from reedit.models.autoencoders.chain import run_chain
from reedit.models.autoencoders.correction import decode_corrected
from reedit.models.autoencoders.kl_file import read_autoencoder
from reedit.models.autoencoders.kl_network import KLNetwork


def linear(errors: list[float]):
    """encode(decode(z)) = z - error · z, with an error of its own in each channel."""
    off = torch.tensor(errors).view(1, -1, 1, 1)
    return (lambda picture: (1 - off) * picture), (lambda latent: latent)


@pytest.mark.parametrize("corrections", [0, 1, 2, 5])
def test_each_correction_multiplies_the_error_by_itself(corrections):
    errors = [0.5, -0.3, 0.1]
    encode, decode = linear(errors)
    latent = torch.randn(2, 3, 4, 4)
    read = encode(decode_corrected(encode, decode, latent, corrections))
    expected = latent * torch.tensor(errors).view(1, -1, 1, 1) ** (corrections + 1)
    torch.testing.assert_close(latent - read, expected, rtol=1e-4, atol=1e-6)


def test_a_step_that_leads_away_is_taken_back_for_its_picture_alone():
    """The second picture is read three times as large: the first step makes it worse."""
    gain = torch.tensor([0.8, 3.0]).view(2, 1, 1, 1)
    latent = torch.randn(2, 3, 4, 4)
    decoded = decode_corrected(lambda picture: gain * picture, lambda z: z, latent, 4)
    torch.testing.assert_close(decoded[1], latent[1])
    torch.testing.assert_close(gain[0] * decoded[0], latent[0] * (1 - 0.2**5), rtol=1e-4, atol=1e-5)


def test_it_costs_what_it_says():
    calls = []
    decode_corrected(lambda x: x, lambda z: z, torch.zeros(1, 1, 2, 2), 3, lambda: calls.append(1))
    assert len(calls) == 3 + 4


def test_fewer_than_none_are_refused():
    with pytest.raises(ValueError, match="corrections is -1"):
        decode_corrected(lambda x: x, lambda z: z, torch.zeros(1, 1, 2, 2), -1)


def test_the_demos_pictures_survive_ten_passes(weights_folder, scenes):
    network = KLNetwork(read_autoencoder(weights_folder / "tiny_sd_autoencoder.safetensors").in_ldm_layout())
    pictures = scenes[:3].movedim(-1, 1)

    def kept(latent):
        return network.decode(latent).clamp(0, 1)

    def after_ten(decode):
        *_, last = run_chain(network.encode, decode, pictures, 10, eight_bit=True)
        return float(-10 * (last - pictures).square().mean().log10())

    plain = after_ten(network.decode)
    assert after_ten(lambda latent: decode_corrected(network.encode, kept, latent, 1)) > plain + 6
