import pytest
import torch
from reedit.models.autoencoders.kl_layout import KLConfig, to_ldm_layout
from reedit.models.autoencoders.kl_network import KLNetwork, build_autoencoder
from reedit.nodes.autoencoders import build_host_vae, with_quantisers
from safetensors.torch import load_file


def test_it_encodes_and_decodes_as_the_host_does(tiny_vae, scenes, weights_folder):
    network = KLNetwork(to_ldm_layout(load_file(weights_folder / "tiny_sd_autoencoder.safetensors")))
    with torch.no_grad():
        latent = network.encode(scenes.movedim(-1, 1))
        picture = network.decode(latent)
    torch.testing.assert_close(latent, tiny_vae.encode(scenes), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(picture.clamp(0, 1).movedim(1, -1), tiny_vae.decode(latent), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        KLConfig(32, (1, 2, 2), 1, 16, ()),
        KLConfig(32, (1, 1, 2, 4), 2, 4, (3,)),
        KLConfig(64, (1, 2), 3, 8, (0, 1)),
    ],
)
@pytest.mark.parametrize("quantisers", [True, False])
def test_any_size_of_the_family_is_built_as_the_host_builds_it(config, quantisers):
    torch.manual_seed(0)
    weights = to_ldm_layout(build_autoencoder(config, quantisers).state_dict())
    network = KLNetwork(weights)
    assert network.config == config
    host = build_host_vae(with_quantisers(weights, config.latent_channels), config)
    picture = torch.rand(1, 3, 4 * config.ratio, 8 * config.ratio)
    with torch.no_grad():
        latent = network.encode(picture)
        torch.testing.assert_close(latent, host.encode(picture.movedim(1, -1)), rtol=1e-4, atol=1e-4)
        decoded = network.decode(latent).clamp(0, 1).movedim(1, -1)
    torch.testing.assert_close(decoded, host.decode(latent), rtol=1e-4, atol=1e-4)


def test_only_the_decoder_and_its_quantiser_are_trained(weights_folder):
    network = KLNetwork(to_ldm_layout(load_file(weights_folder / "tiny_sd_autoencoder.safetensors")))
    names = network.decoder_parameters()
    assert "post_quant_conv.weight" in names and "decoder.conv_out.bias" in names
    assert not any(name.startswith(("encoder.", "quant_conv.")) for name in names)
    kept = sum(parameter.numel() for parameter in network.parameters()) - sum(p.numel() for p in names.values())
    assert kept == sum(
        parameter.numel()
        for name, parameter in network.autoencoder.named_parameters()
        if name.startswith(("encoder.", "quant_conv."))
    )


def test_missing_and_misshapen_tensors_are_named(weights_folder):
    weights = to_ldm_layout(load_file(weights_folder / "tiny_sd_autoencoder.safetensors"))
    with pytest.raises(ValueError, match=r"decoder\.conv_out\.bias is missing"):
        KLNetwork({name: value for name, value in weights.items() if name != "decoder.conv_out.bias"})
    with pytest.raises(ValueError, match=r"encoder\.conv_out\.bias is \(3,\), not \(8,\)"):
        KLNetwork(weights | {"encoder.conv_out.bias": torch.zeros(3)})
