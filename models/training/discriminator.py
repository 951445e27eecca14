"""The discriminator of eps-VAE's training: it tells a decoder's estimate of a picture from the picture itself.

Zhao et al., "Epsilon-VAE: Denoising as Visual Decoding" (ICML 2025), denoising trajectory matching, equations 10 and 11.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

NORM_GROUPS = 8  # of every group norm: widths are multiples of it
TIME_CHANNELS = 128
TIME_SCALE = 1000.0  # the embedding is made for 0..1000
SLOPE = 0.2  # of the leaky rectifiers on their lower side


def embed_time(time: Tensor) -> Tensor:
    """Sines and cosines of a time at wavelengths from 2 pi to 20000 pi, (B, 128). time: (B,) in 0..1."""
    half = TIME_CHANNELS // 2
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(half, device=time.device) / half)
    angles = TIME_SCALE * time.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)


class TimedBlock(nn.Module):
    """A convolution, and a group norm whose scale and shift come from the time (AdaGN)."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        size = 4 if stride == 2 else 3
        self.convolution = nn.Conv2d(channels, out_channels, size, stride, padding=1)
        self.norm = nn.GroupNorm(NORM_GROUPS, out_channels, affine=False)
        self.modulation = nn.Linear(TIME_CHANNELS, 2 * out_channels)

    def forward(self, maps: Tensor, time: Tensor) -> Tensor:
        """Maps, (B, channels, H, W), to (B, out_channels, H / stride, W / stride), half sides rounded down.

        time: its embedding, (B, 128), as `Discriminator` makes it.
        """
        scale, shift = self.modulation(time)[..., None, None].chunk(2, 1)
        return functional.leaky_relu(self.norm(self.convolution(maps)) * (1 + scale) + shift, SLOPE)


class Discriminator(nn.Module):
    """D(x, x_t, t) of equations 10 and 11: one logit for each patch of a picture; high says that x is the true x_0 of x_t.

    VQGAN's patch discriminator in outline (three halvings), with the time brought in by AdaGN. width: channels at half the
    picture's size, a multiple of 8; they double with each halving and once more after the last.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(TIME_CHANNELS, TIME_CHANNELS), nn.SiLU())
        self.first = nn.Conv2d(6, width, 4, 2, padding=1)
        with torch.no_grad():
            # It is blind to x_t at first: through a noise of variance 1, small differences of x take it far longer to find.
            self.first.weight[:, 3:].zero_()
        self.blocks = nn.ModuleList(
            [TimedBlock(width, 2 * width, 2), TimedBlock(2 * width, 4 * width, 2), TimedBlock(4 * width, 8 * width, 1)]
        )
        self.last = nn.Conv2d(8 * width, 1, 3, padding=1)

    def forward(self, picture: Tensor, noised: Tensor, time: Tensor) -> Tensor:
        """Logits, (B, 1, H / 8, W / 8). picture: x, noised: x_t, both (B, 3, H, W), sides 8 or more; time: (B,) in 0..1."""
        embedded = self.time(embed_time(time).to(picture.dtype))
        maps = functional.leaky_relu(self.first(torch.cat([picture, noised], 1)), SLOPE)
        for block in self.blocks:
            maps = block(maps, embedded)
        return self.last(maps)


def fooling_loss(fake: Tensor) -> Tensor:
    """The non-saturating loss of what is judged, -log sigmoid(D) in the mean: log 2 at logits of 0."""
    return functional.softplus(-fake).mean()


def telling_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The judge's own loss, -log sigmoid(D(real)) - log(1 - sigmoid(D(fake))) in the mean: 2 log 2 at logits of 0."""
    return functional.softplus(-real).mean() + functional.softplus(fake).mean()


def gradient_penalty(discriminator: nn.Module, picture: Tensor, noised: Tensor, time: Tensor) -> Tensor:
    """R1 on real pairs (Mescheder et al., ICML 2018): the mean squared norm of the logits' gradient by the pair.

    The gradient is that of the sum of a picture's logits, and its squared norm is divided by their number: that is the
    squared norm for one patch as far as patches do not overlap, so that it means the same at every size. To be
    differentiated: it keeps the gradient's graph. Shapes as for `Discriminator`.
    """
    pair = [picture.detach().requires_grad_(), noised.detach().requires_grad_()]
    logits = discriminator(*pair, time)
    gradients = torch.autograd.grad(logits.sum(), pair, create_graph=True)
    squares = sum((gradient.square().sum((1, 2, 3)) for gradient in gradients), torch.zeros((), device=logits.device))
    return squares.mean() / logits[0].numel()


class AdversaryLoss(nn.Module):
    """The discriminator with its own loss, and with the loss that it is to what it judges."""

    def __init__(self, discriminator: nn.Module) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(
        self, picture: Tensor, estimate: Tensor, noised: Tensor, time: Tensor, penalty: float
    ) -> dict[str, Tensor]:
        """The discriminator's loss, scalars by name, "loss" among them. picture: x_0, and estimate: of it, from x_t `noised`.

        penalty: the weight of half the gradient penalty at this step; 0: none is computed.
        """
        real, fake = self.discriminator(picture, noised, time), self.discriminator(estimate.detach(), noised, time)
        telling = telling_loss(real.float(), fake.float())
        losses = {"loss": telling, "real": real.float().mean().detach(), "fake": fake.float().mean().detach()}
        losses["penalty"] = torch.zeros_like(telling)
        if penalty:
            # A gradient of a gradient is too fine for bfloat16.
            with torch.autocast(picture.device.type, enabled=False):
                term = penalty / 2 * gradient_penalty(self.discriminator, picture, noised, time)
            losses |= {"loss": telling + term, "penalty": term.detach()}
        return losses

    def fool(self, estimate: Tensor, noised: Tensor, time: Tensor) -> Tensor:
        """The loss of an estimate, whose gradient goes back to the estimate and not into the discriminator."""
        held = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        return fooling_loss(functional_call(self.discriminator, held, (estimate, noised, time)).float())
