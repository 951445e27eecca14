"""Chains of encode-decode passes that go on from step to step, so that a long one costs a step no more than a short one.

An addition to the paper's training, in the manner of persistent contrastive divergence (Tieleman, ICML 2008): a picture
that has come to its 12th pass got there by decoders a few steps older. As the decoder changes slowly, that is nearly the
chain that it would make now, and 11 passes are saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_ROOM = 8  # times the chains of one step: the more, the less do pictures that began together stay together


@dataclass(frozen=True, eq=False)  # tensors have no one answer to ==
class Chain:
    """One picture's chain.

    latent: (C, h, w) of x^passes; origin: that of x^0. target: what its passes are compared with, (3, H, W).
    """

    latent: Tensor
    origin: Tensor
    target: Tensor
    passes: int


class KeptChains:
    """Up to eight times `at_once` chains, of which each step takes `at_once`, or all while there are fewer."""

    def __init__(self, at_once: int, seed: int) -> None:
        self.at_once, self.seed, self.taken = at_once, seed, 0
        self.chains: list[Chain] = []

    def take(self) -> list[Chain]:
        """Some chains, taken out. `put` brings them back further on."""
        random = np.random.default_rng((self.seed, self.taken, 2))
        self.taken += 1
        chosen = random.permutation(len(self.chains))[: self.at_once]
        taken = [self.chains[number] for number in chosen]
        self.chains = [chain for number, chain in enumerate(self.chains) if number not in set(chosen.tolist())]
        return taken

    def put(self, chains: list[Chain], longest: int) -> None:
        """Keep chains, those that have not reached `longest` passes, as far as there is room."""
        kept = [chain for chain in chains if chain.passes < longest]
        self.chains = (self.chains + kept)[: _ROOM * self.at_once]

    def state(self) -> dict[str, Tensor]:
        """Everything as tensors, by name."""
        state = {"taken": torch.tensor(self.taken)}
        if self.chains:
            state["passes"] = torch.tensor([chain.passes for chain in self.chains])
            state["latents"] = torch.stack([chain.latent for chain in self.chains])
            state["origins"] = torch.stack([chain.origin for chain in self.chains])
            state["targets"] = torch.stack([chain.target for chain in self.chains])
        return state

    def load_state(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Take up what `state` gave, the chains on this device."""
        self.taken, self.chains = int(state["taken"]), []
        if "passes" in state:
            tensors = [state[name].to(device) for name in ("latents", "origins", "targets")]
            self.chains = [Chain(*one) for one in zip(*tensors, state["passes"].tolist(), strict=True)]
