"""A module's parameters with their optimizer: what one step does to them, and what a save keeps of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from .settings import TrainingSettings

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW remembers of each parameter


class TrainedPart:
    """A module, prepared for the processes that train it, and AdamW over those of its parameters that are trained.

    prefix: stands before the names in `tensors`, so that a save can hold several parts.
    """

    def __init__(
        self,
        module: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        settings: TrainingSettings,
        accelerator: Accelerator,
        prefix: str = "",
    ) -> None:
        self.parameters, self.prefix, self.clip, self.accelerator = parameters, prefix, settings.clip, accelerator
        optimizer = torch.optim.AdamW(
            parameters.values(), lr=settings.learning_rate, betas=settings.betas, weight_decay=0
        )
        self.module: Any
        self.optimizer: Any
        self.module, self.optimizer = accelerator.prepare(module, optimizer)

    def begin_step(self, learning_rate: float) -> None:
        """Forget the gradients of the step before."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=True)

    def end_step(self) -> None:
        """Clip the gradients and go along them."""
        if self.clip:
            self.accelerator.clip_grad_norm_(self.parameters.values(), self.clip)
        self.optimizer.step()

    def tensors(self) -> dict[str, Tensor]:
        """The parameters and what the optimizer remembers of each, by name."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            tensors[f"{self.prefix}parameter.{name}"] = parameter
            tensors |= {f"{self.prefix}{key}.{name}": value for key, value in self.optimizer.state[parameter].items()}
        return tensors

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what `tensors` gave. Raises ValueError where they are those of another module."""
        for name, parameter in self.parameters.items():
            saved = tensors.get(f"{self.prefix}parameter.{name}")
            if saved is None or saved.shape != parameter.shape:
                raise ValueError(f"a run of another kind of training: it has no {self.prefix}{name} of this size")
            parameter.copy_(saved)
            moments = {key: tensors.get(f"{self.prefix}{key}.{name}") for key in _MOMENTS}
            if moments["step"] is not None:  # a part that has not taken a step yet remembers nothing
                self.optimizer.state[parameter] = {
                    key: value if key == "step" else value.to(self.accelerator.device)
                    for key, value in moments.items()
                    if value is not None
                }
