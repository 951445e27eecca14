"""A frozen encoder and an eps-VAE decoder as one autoencoder: for chains of passes, and for REED's training."""

from __future__ import annotations

from torch import Tensor, nn

from .epsilon import EpsilonDecoder
from .kl_network import KLNetwork


class EpsilonNetwork(nn.Module):
    """What `KLNetwork` is, with decoding as denoising: `steps` steps from the noise of `seed`, the same in every pass.

    Raises ValueError where the decoder's latents are none of the encoder's.
    """

    def __init__(self, encoder: KLNetwork, decoder: EpsilonDecoder, seed: int = 0, steps: int = 1) -> None:
        super().__init__()
        made, taken = ((one.latent_channels, one.ratio) for one in (encoder.config, decoder.config))
        if made != taken:
            raise ValueError(
                f"The encoder makes latents of {made[0]} channels at a ratio of {made[1]}, and the decoder takes "
                f"{taken[0]} channels at {taken[1]}. Take the autoencoder that the decoder was trained for."
            )
        self.config = encoder.config
        self.encoder, self.decoder = encoder, decoder
        self.seed, self.steps = seed, steps

    def encode(self, picture: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1, sides multiples of the ratio, to the latent's mean, (B, C, H / ratio, W / ratio)."""
        return self.encoder.encode(picture)

    def decode(self, latent: Tensor) -> Tensor:
        """A latent to pictures, (B, 3, H, W), about 0..1 and not clamped."""
        return self.decoder.decode(latent, self.seed, self.steps)

    def decoder_parameters(self) -> dict[str, nn.Parameter]:
        """All that is trained where the encoder, and with it the latents, must stay."""
        return dict(self.decoder.unet.named_parameters())

    def decoder_tensors(self) -> dict[str, Tensor]:
        """The decoder as its file holds it."""
        return self.decoder.unet.state_dict()

    def enable_gradient_checkpointing(self) -> None:
        """Keep little in memory for a gradient, and compute the rest anew."""
        self.encoder.enable_gradient_checkpointing()
        self.decoder.unet.enable_gradient_checkpointing()
