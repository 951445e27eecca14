"""What a training run is told: named, explained and checked in one place, for the command line and for the nodes."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

PRECISIONS = ("float32", "bfloat16")


def setting(default: Any, help: str, least: float | None = None, most: float | None = None, choices: Any = ()) -> Any:
    """A field of a settings class. least, most: the range of a number, both included. choices: what a text may be."""
    return field(default=default, metadata={"help": help, "least": least, "most": most, "choices": choices})


@dataclass(frozen=True)
class TrainingSettings:
    """What every training has. `check` raises ValueError that names the setting, what is wrong and what to do."""

    steps: int = setting(4000, "How many steps to train for; the learning rate falls to 0 over them.", 1)
    batch: int = setting(2, "Pictures of one step on one device at one time.", 1)
    accumulation: int = setting(1, "Batches whose gradients make one step.", 1)
    crop: int = setting(256, "The side of the training pictures, in pixels.", 16)
    learning_rate: float = setting(1e-4, "The highest learning rate of AdamW.", 0, 1)
    warm_up: int = setting(100, "Steps over which the learning rate rises.", 0)
    average_decay: float = setting(0.999, "Decay of the moving average of the weights, which is what is kept.", 0, 1)
    clip: float = setting(1.0, "The largest norm of a step's gradient.", 0)
    precision: str = setting("float32", "What the networks compute in; losses are float32.", choices=PRECISIONS)
    held_out: int = setting(8, "Pictures that are never trained on, for the figures.", 1)
    validate_every: int = setting(250, "Steps between two rows of figures, each with a sample grid.", 1)
    save_every: int = setting(100, "Steps between two saves to resume from.", 1)
    seed: int = setting(0, "Chooses the pictures, their crops and all else that is random.", 0)

    @property
    def betas(self) -> tuple[float, float]:
        """AdamW's two decays: of the mean of the gradients, and of the mean of their squares."""
        return 0.9, 0.99

    @property
    def rate_falls(self) -> bool:
        """Whether the learning rate falls to 0 over the steps. If not, it stays after the warm-up."""
        return True

    def check(self) -> None:
        """Raise ValueError that names the first setting which is out of its range, and what it may be."""
        for one in fields(self):
            value, limits = getattr(self, one.name), one.metadata
            if limits["choices"] and value not in limits["choices"]:
                raise ValueError(f"{one.name} is {value!r}. Choose one of {', '.join(limits['choices'])}.")
            if limits["least"] is not None and not value >= limits["least"]:
                raise ValueError(f"{one.name} is {value}, and must be {limits['least']} or more.")
            if limits["most"] is not None and not value <= limits["most"]:
                raise ValueError(f"{one.name} is {value}, and must be {limits['most']} or less.")
