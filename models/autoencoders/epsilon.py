"""eps-VAE: decoding a latent as one to three steps of denoising.

Zhao et al., "Epsilon-VAE: Denoising as Visual Decoding" (ICML 2025, arXiv 2410.04081). The encoder is frozen here, any
autoencoder's; what the paper leaves open is settled in PAPERS.md 2.5.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.nn import functional

from .epsilon_layout import EpsilonConfig

GRID_STEEPNESS = 100.0  # n of equation 12; m is 1
TIME_SCALE = 1000.0  # the network's time embedding is made for 0..1000


def time_grid(steps: int) -> list[float]:
    """The times of `steps` Euler steps, from 1 to 0, `steps` + 1 of them: shorter where there is more noise (equation 12).

    rho(t) = (log m - log(t (m - n) + n)) / (log m - log n) at t = 0, 1 / steps, …, 1, with m = 1 and n = 100.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}, and must be 1 or more. 1 to 3 are best.")
    n = GRID_STEEPNESS
    return [math.log(number / steps * (1 - n) + n) / math.log(n) for number in range(steps + 1)]


def picture_noise(seed: int, height: int, width: int) -> Tensor:
    """Standard normal noise, (1, 3, height, width) float32, the same on every device: all pictures of a batch start from it.

    So a picture is the same in whatever batches the latents are decoded.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn((1, 3, height, width), generator=generator)


def build_unet(config: EpsilonConfig) -> UNet2DModel:
    """ADM's U-Net of these sizes, from diffusers' blocks, weights fresh (section 3.1, table 6).

    It takes the noised picture and, channel by channel beside it, the latent upsampled to the picture's size.
    """
    levels = range(len(config.multipliers))
    attends = [level in config.attention_levels for level in levels]
    return UNet2DModel(
        in_channels=3 + config.latent_channels,
        out_channels=3,
        block_out_channels=tuple(config.width * multiplier for multiplier in config.multipliers),
        layers_per_block=config.blocks,
        down_block_types=tuple("AttnDownBlock2D" if here else "ResnetDownsampleBlock2D" for here in attends),
        up_block_types=tuple("AttnUpBlock2D" if here else "ResnetUpsampleBlock2D" for here in reversed(attends)),
        downsample_type="resnet",
        upsample_type="resnet",
        resnet_time_scale_shift="scale_shift",
        attention_head_dim=config.head_channels,
        norm_num_groups=config.norm_groups,
    )


class EpsilonDecoder(nn.Module):
    """The network, the flow that it was trained for, and decoding.

    With x0 the picture in -1..1 and gamma its scale, x_t = (1 - t) gamma x0 + t noise (equation 5), and the network says the
    velocity, noise - gamma x0 (equation 6).
    """

    def __init__(self, config: EpsilonConfig) -> None:
        super().__init__()
        config.check()
        self.config = config
        self.unet: Any = build_unet(config)

    # --- the flow -----------------------------------------------------------------------------------------------------

    def noised(self, picture: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """x_t of pictures (B, 3, H, W) in -1..1. time: (B,) in 0..1."""
        t = time[:, None, None, None]
        return (1 - t) * self.config.gamma * picture + t * noise

    def target(self, picture: Tensor, noise: Tensor) -> Tensor:
        """The velocity that the network is to say, (B, 3, H, W)."""
        return noise - self.config.gamma * picture

    def estimate(self, noised: Tensor, time: Tensor, velocity: Tensor) -> Tensor:
        """The picture that a velocity leads to in one step: (x_t - t v) / gamma (equation 9), about -1..1."""
        return (noised - time[:, None, None, None] * velocity) / self.config.gamma

    def velocity(self, noised: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """The velocity that the network says, (B, 3, H, W) float32. condition: from `condition`, of the same size."""
        answer = self.unet(self.network_input(noised, time, condition), TIME_SCALE * time).sample.float()
        return self.velocity_of(answer, noised, time)

    def velocity_of(self, answer: Tensor, noised: Tensor, time: Tensor) -> Tensor:
        """The velocity that the network's answer, (B, 3, H, W) float32, stands for: the answer itself, as in the paper.

        Preconditioned (Karras et al., NeurIPS 2022, for this flow) it is c x_t + r answer, where c x_t is the best guess that
        is linear in x_t and r the deviation of what that leaves. A small network then need not copy the noise, of which an
        error of 3 % is 30 dB in the picture already.
        """
        if not self.config.preconditioned:
            return answer
        t, variance = time[:, None, None, None].float(), self._variance(time)
        signal = self.config.gamma**2 * self.config.picture_variance
        return (t - (1 - t) * signal) / variance * noised.float() + (signal / variance).sqrt() * answer

    def network_input(self, noised: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """What the network sees, in its own dtype: x_t brought to unit variance, and the condition beside it.

        The variance of x_t is ((1 - t) gamma)² Var(x0) + t² (section 3.3; PAPERS.md 2.5.1).
        """
        scaled = noised.float() * self._variance(time).rsqrt()
        return torch.cat([scaled, condition.float()], 1).to(self.unet.dtype)

    def _variance(self, time: Tensor) -> Tensor:
        """Of x_t, (B, 1, 1, 1)."""
        t = time[:, None, None, None].float()
        return ((1 - t) * self.config.gamma) ** 2 * self.config.picture_variance + t**2

    def condition(self, latent: Tensor) -> Tensor:
        """A latent, (B, C, h, w) as the encoder gives it, normalised and upsampled to pictures' size, to the nearest."""
        normal = (latent.float() - self.config.latent_shift) * self.config.latent_scale
        return functional.interpolate(normal, scale_factor=self.config.ratio, mode="nearest")

    # --- decoding -----------------------------------------------------------------------------------------------------

    def decode(
        self,
        latent: Tensor,
        seed: int,
        steps: int,
        velocity: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
        on_step: Callable[[int], None] = lambda step: None,
    ) -> Tensor:
        """A latent, (B, C, h, w), to pictures, (B, 3, h · ratio, w · ratio), about 0..1 and not clamped, in float32.

        Euler's method on the velocity from noise, t = 1, to the picture, t = 0, on `time_grid` (section 3.3). velocity: takes
        the place of the method of that name, as one does that works in tiles. on_step: called after each step.
        Raises ValueError where the latent's channels are not the decoder's.
        """
        self.config.check_latent(latent.shape)
        velocity = velocity or self.velocity
        height, width = (side * self.config.ratio for side in latent.shape[-2:])
        condition = self.condition(_pad_to_multiples(latent, self.config.cells))
        picture = picture_noise(seed, *condition.shape[-2:]).to(latent.device)
        picture = picture.expand(len(latent), -1, -1, -1)
        for step, (now, then) in enumerate(pairwise(time_grid(steps)), 1):
            time = torch.full((len(latent),), now, device=latent.device)
            picture = picture + (then - now) * velocity(picture, time, condition)
            on_step(step)
        return picture[..., :height, :width] / self.config.gamma / 2 + 0.5


def _pad_to_multiples(latent: Tensor, cells: int) -> Tensor:
    """Right and bottom edge repeated until the sides are multiples of `cells`: the network halves its maps so often."""
    height, width = latent.shape[-2:]
    return functional.pad(latent, (0, -width % cells, 0, -height % cells), mode="replicate")
