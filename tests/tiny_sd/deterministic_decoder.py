"""An ordinary decoder trained as an eps-VAE decoder is: the same losses, discriminator, pictures and loop. For comparing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.autoencoders.kl_network import KLNetwork, build_autoencoder
from models.training.discriminator import AdversaryLoss
from models.training.distance import PictureDistance
from models.training.epsilon import EpsilonSettings, EpsilonTask
from models.training.judged_task import build_adversary


class DeterministicLoss(nn.Module):
    """|D(z) - x|² + perceptual · distance + adversarial · fool, with x in -1..1 as eps-VAE's losses have it.

    The discriminator sees no noised picture and no time: zeros stand in their place.
    """

    def __init__(self, network: KLNetwork, settings: EpsilonSettings, adversary: AdversaryLoss | None) -> None:
        super().__init__()
        self.network, self.settings = network, settings
        self.distance = PictureDistance(0, 0, settings.perceptual, settings.crop)
        self.fool = adversary.fool if adversary else None
        self.judged: dict[str, Tensor] = {}

    def forward(self, original: Tensor, adversarial: bool, numbers: Sequence[int]) -> dict[str, Tensor]:
        """Scalars by name. original: (B, 3, S, S) in 0..1. numbers: of the pictures; nothing here is random."""
        with torch.no_grad():
            latent = self.network.encode(original)
        decoded = self.network.decode(latent)
        estimate, picture = 2 * decoded - 1, 2 * original - 1
        loss = (estimate - picture).square().mean()
        losses = {"squared": loss.detach()}
        if self.settings.perceptual:
            perceptual = self.distance(decoded, original)
            losses["perceptual"] = perceptual.detach()
            loss = loss + perceptual
        if adversarial and self.fool:
            noised, time = torch.zeros_like(picture), torch.zeros(len(picture))
            fooling = self.fool(estimate, noised, time)
            losses["adversarial"] = fooling.detach()
            loss = loss + self.settings.adversarial * fooling
            self.judged = {"picture": picture, "estimate": estimate.detach(), "noised": noised, "time": time}
        return losses | {"loss": loss}


class DeterministicTask(EpsilonTask):
    """What the training loop runs: as for an eps-VAE decoder, with one of the autoencoder's own kind, from fresh weights."""

    name = "deterministic"

    def __init__(self, network: KLNetwork, settings: EpsilonSettings) -> None:
        torch.manual_seed(settings.seed)
        fresh = build_autoencoder(network.config).state_dict()
        parameters = network.requires_grad_(False).decoder_parameters()
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(fresh[name])
        self.network, self.settings, self.parameters = network, settings, parameters
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        self.adversary = build_adversary(settings) if settings.adversarial else None
        self.adversary_rate = settings.discriminator_rate
        self.module = DeterministicLoss(network, settings, self.adversary)

    @torch.no_grad()
    def validate(self, step: int, held_out: Tensor) -> tuple[dict[str, float], list[Tensor]]:
        """psnr, in dB, and the originals beside what the decoder made of them."""
        made = self.network.decode(self.network.encode(held_out)).clamp(0, 1)
        error = (made - held_out).square().mean((1, 2, 3))
        return {"psnr": round(float((-10 * error.clamp(min=1e-12).log10()).mean()), 3)}, [held_out, made]

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        pass

    def trained_tensors(self) -> dict[str, Tensor]:
        return self.network.decoder_tensors()
