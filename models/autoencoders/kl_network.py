"""A KL autoencoder as a module that can be trained, built by diffusers from the tensors of a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from .kl_layout import DECODER_PARTS, NORM_GROUPS, KLConfig, describe_faults, find_faults, read_config, to_ldm_layout


class KLNetwork(nn.Module):
    """Encoder and decoder with the weights of `weights`, in float32.

    weights: tensors under their ldm names (`to_ldm_layout`), encoder and decoder. Raises ValueError, saying what is wrong,
    where they are none of an autoencoder of this family.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.config = read_config(weights)
        with torch.device("meta"):
            autoencoder: Any = build_autoencoder(self.config, quantisers="post_quant_conv.weight" in weights)
        faults = find_faults(weights, to_ldm_layout(autoencoder.state_dict()))
        if faults:
            raise ValueError(f"{describe_faults(faults)}.")
        self.autoencoder = autoencoder.to_empty(device="cpu").float()
        for name, tensor in to_ldm_layout(self.autoencoder.state_dict()).items():
            tensor.copy_(weights[name])

    def encode(self, picture: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1, sides multiples of the ratio, to the latent's mean, (B, C, H / ratio, W / ratio)."""
        return self.autoencoder.encode(2 * picture - 1).latent_dist.mode()

    def decode(self, latent: Tensor) -> Tensor:
        """A latent to pictures, (B, 3, H, W), about 0..1 and not clamped."""
        return self.autoencoder.decode(latent).sample / 2 + 0.5

    def decoder_parameters(self) -> dict[str, nn.Parameter]:
        """All that is trained where the encoder, and with it the latents, must stay: the decoder and its quantiser."""
        return {
            name: parameter for name, parameter in self.autoencoder.named_parameters() if name.startswith(DECODER_PARTS)
        }

    def decoder_tensors(self) -> dict[str, Tensor]:
        """The decoder and its quantiser as they are now, under their ldm names."""
        tensors = to_ldm_layout(self.autoencoder.state_dict())
        return {name: value for name, value in tensors.items() if name.startswith(DECODER_PARTS)}

    def enable_gradient_checkpointing(self) -> None:
        """Keep little in memory for a gradient, and compute the rest anew."""
        self.autoencoder.enable_gradient_checkpointing()


def build_autoencoder(config: KLConfig, quantisers: bool = True) -> AutoencoderKL:
    """Diffusers' autoencoder of these sizes, weights fresh. quantisers: with convolutions on both sides of the latent."""
    levels = range(len(config.multipliers))
    attends = [level in config.attention_levels for level in levels]
    return AutoencoderKL(
        down_block_types=tuple("AttnDownEncoderBlock2D" if here else "DownEncoderBlock2D" for here in attends),
        up_block_types=tuple("AttnUpDecoderBlock2D" if here else "UpDecoderBlock2D" for here in reversed(attends)),
        block_out_channels=tuple(config.width * multiplier for multiplier in config.multipliers),
        layers_per_block=config.blocks,
        latent_channels=config.latent_channels,
        norm_num_groups=NORM_GROUPS,
        use_quant_conv=quantisers,
        use_post_quant_conv=quantisers,
    )
