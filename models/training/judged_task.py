"""What a training task with a discriminator tells the loop of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .discriminator import NORM_GROUPS, AdversaryLoss, Discriminator
from .fresh_weights import seeded


class JudgedTask:
    """The part of `loop.AdversarialTask` that is the same for all. module.judged: what its loss made of the pictures last.

    settings: with adversarial (a weight), adversarial_start, penalty and penalty_every.
    """

    settings: Any
    module: Any
    adversary: nn.Module | None

    def sample_arguments(self, numbers: range) -> dict[str, Any]:
        """What the loss is told of the pictures with these numbers."""
        return {"numbers": numbers}

    def adversary_arguments(self, step: int) -> dict[str, Any] | None:
        """What the adversary is told at this step, just after the loss was computed."""
        if not self.judges(step):
            return None
        settings = self.settings
        # Every so many steps, and so many times as strong: in the mean over the steps it is `penalty`.
        penalised = (step - settings.adversarial_start) % settings.penalty_every == 0
        return {**self.module.judged, "penalty": settings.penalty * settings.penalty_every if penalised else 0.0}

    def state_tensors(self) -> dict[str, Tensor]:
        """None: all that is random follows from the pictures' numbers."""
        return {}

    def load_state_tensors(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Nothing is taken up."""

    def judges(self, step: int) -> bool:
        """Whether the discriminator judges at this step, and learns."""
        return self.adversary is not None and step >= self.settings.adversarial_start


def check_discriminator(settings: Any) -> None:
    """Raise ValueError where no discriminator can be built. settings: with discriminator_width."""
    if settings.discriminator_width % NORM_GROUPS:
        raise ValueError(
            f"discriminator_width is {settings.discriminator_width}, and must be a multiple of {NORM_GROUPS}."
        )


def build_adversary(settings: Any) -> AdversaryLoss:
    """A discriminator with fresh weights that follow from the seed, and its loss. settings: seed, discriminator_width."""
    with seeded(settings.seed):
        return AdversaryLoss(Discriminator(settings.discriminator_width))
