import pytest
import torch
from diffusers import AutoencoderKL
from reedit.models.autoencoders.kl_layout import find_faults, read_config, to_ldm_layout, with_quantisers
from reedit.nodes.autoencoders import build_host_vae


def diffusers_autoencoder(widths: tuple[int, ...], layers: int, channels: int, quantiser: bool = True) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=layers,
        latent_channels=channels,
        norm_num_groups=32,
        use_quant_conv=quantiser,
        use_post_quant_conv=quantiser,
    ).eval()


@pytest.mark.parametrize(
    ("widths", "layers", "channels", "quantiser"),
    [
        ((32, 64, 96), 1, 4, True),
        ((32, 64, 128, 128), 2, 4, True),  # Stable Diffusion's proportions
        ((32, 64, 128, 128), 2, 16, False),  # Flux's: no quant_conv
        ((64, 64), 3, 8, True),
        ((32, 32, 64, 64, 96), 1, 4, True),
    ],
)
def test_the_host_computes_what_diffusers_computes(widths, layers, channels, quantiser):
    """Reference: diffusers' own implementation of the same weights, for widths, depths and ratios of all kinds."""
    reference = diffusers_autoencoder(widths, layers, channels, quantiser)
    weights = to_ldm_layout(reference.state_dict())
    config = read_config(weights)
    assert config.width == widths[0]
    assert [config.width * multiplier for multiplier in config.multipliers] == list(widths)
    assert (config.blocks, config.latent_channels, config.ratio) == (layers, channels, 2 ** (len(widths) - 1))
    vae = build_host_vae(with_quantisers(weights, channels), config)
    assert find_faults(vae.first_stage_model.state_dict(), vae.first_stage_model.state_dict()) == []
    pixels = torch.rand(2, 64, 96, 3)
    latent = vae.encode(pixels)
    expected = reference.encode(pixels.movedim(-1, 1) * 2 - 1).latent_dist.mode()
    assert latent.shape == (2, channels, 64 // config.ratio, 96 // config.ratio)
    torch.testing.assert_close(latent, expected, atol=2e-5, rtol=1e-4)
    decoded = reference.decode(expected).sample.movedim(1, -1) / 2 + 0.5
    torch.testing.assert_close(vae.decode(expected), decoded.clamp(0, 1), atol=2e-5, rtol=1e-4)


def test_ldm_layout_and_a_checkpoints_prefix_are_read_alike():
    weights = to_ldm_layout(diffusers_autoencoder((32, 64), 1, 4).state_dict())
    assert to_ldm_layout(weights).keys() == weights.keys()
    inside_checkpoint = {f"first_stage_model.{name}": value for name, value in weights.items()}
    inside_checkpoint["model.diffusion_model.out.0.weight"] = torch.zeros(1)
    assert to_ldm_layout(inside_checkpoint).keys() == weights.keys()


def test_a_file_without_an_autoencoder_is_refused():
    with pytest.raises(ValueError, match=r"no KL autoencoder.*decoder\.conv_in\.weight.*1 tensors"):
        to_ldm_layout({"lora_up.weight": torch.zeros(2, 2)})


def test_missing_tensors_are_named():
    weights = to_ldm_layout(diffusers_autoencoder((32, 64), 1, 4).state_dict())
    expected = dict(weights)
    del weights["decoder.conv_out.weight"]
    weights["encoder.conv_in.weight"] = torch.zeros(32, 4, 3, 3)
    weights["quant_conv.bias"] = torch.full((8,), float("nan"))
    assert find_faults(weights, expected) == [
        "encoder.conv_in.weight is (32, 4, 3, 3), not (32, 3, 3, 3)",
        "decoder.conv_out.weight is missing",
        "quant_conv.bias holds NaN or infinite values",
    ]


def test_widths_that_cannot_be_built_are_refused():
    weights = to_ldm_layout(diffusers_autoencoder((64, 96), 1, 4).state_dict())
    with pytest.raises(ValueError, match=r"\[64, 96\] channels wide; each must be a multiple of the first \(64\)"):
        read_config(weights, "encoder")
