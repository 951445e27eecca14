"""Dynamic incrementation: how many passes the chain has, and when it gets longer (REED-VAE, section 3.1)."""

from __future__ import annotations

from typing import Any


class DynamicIncrementation:
    """k, the number of passes: it starts at `first` and grows by `increment` up to `last` when training stands still.

    The paper says only that k is raised when the loss at the present k no longer falls. Here (PAPERS.md 1.5.3): a moving
    average of the validation loss at this k that fell by less than `improvement`, a share of it, over `window` steps.
    """

    SMOOTHING = 0.5  # the weight of the past in the moving average

    def __init__(self, first: int, last: int, increment: int, window: int, improvement: float) -> None:
        self.passes, self.last, self.increment = first, last, increment
        self.window, self.improvement = window, improvement
        self.history: list[list[float]] = []  # (step, averaged loss) at the present number of passes

    def observe(self, step: int, loss: float) -> bool:
        """Take note of the validation loss after `step`; whether the chain got longer by it."""
        smooth = self.SMOOTHING if self.history else 0.0
        before = self.history[-1][1] if self.history else 0.0
        self.history.append([step, smooth * before + (1 - smooth) * loss])
        old = [value for when, value in self.history if when <= step - self.window]
        if self.passes >= self.last or not old or self.history[-1][1] < old[-1] * (1 - self.improvement):
            return False
        self.passes = min(self.passes + self.increment, self.last)
        self.history = []
        return True

    def state(self) -> dict[str, Any]:
        """What it must know to go on, as JSON can hold it."""
        return {"passes": self.passes, "history": self.history}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        self.passes, self.history = int(state["passes"]), [list(entry) for entry in state["history"]]
