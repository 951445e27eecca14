"""REED-VAE: the decoder is trained on what it makes of its own pictures after k encode-decode passes.

Almog, Shamir, Fried: REED-VAE (CGF 44(2), 2025): iterative training (3.1), first-step loss (3.2), dynamic incrementation
(3.3). The paper leaves the losses' weights, the plateau and the gradient's way open: PAPERS.md 1.5 has our choices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..autoencoders.chain import as_kept, run_chain
from .distance import PictureDistance
from .incrementation import DynamicIncrementation
from .kept_chains import Chain, KeptChains
from .settings import TrainingSettings, setting

if TYPE_CHECKING:  # diffusers takes seconds to import, and the node that shows these settings does not need it
    from ..autoencoders.epsilon_network import EpsilonNetwork
    from ..autoencoders.kl_network import KLNetwork

KIND = "REED decoder"  # what the metadata of a trained file says of it
TARGETS = ("first step", "original")
MEASURED_PASSES = (1, 5, 15, 25)  # of the paper's tables


@dataclass(frozen=True)
class REEDSettings(TrainingSettings):
    """The settings of REED training. The defaults are those of PAPERS.md 1.5; with one pass it trains an ordinary decoder."""

    first_passes: int = setting(4, "Passes of the chain at the start.", 1)
    last_passes: int = setting(20, "Passes of the chain at most.", 1)
    increment: int = setting(2, "By how many passes the chain grows when training stands still.", 1)
    plateau_window: int = setting(500, "Steps over which the validation loss must fall, or the chain grows.", 1)
    plateau_improvement: float = setting(0.01, "By which share it must fall.", 0, 1)
    target: str = setting(
        "first step",
        "What the last pass is compared with: the first pass (the paper's first-step loss) or the original.",
        choices=TARGETS,
    )
    anchor: float = setting(1.0, "Weight of the first pass's distance from the original: without it blur is cheap.", 0)
    squared: float = setting(1.0, "Weight of the mean squared error in each distance.", 0)
    absolute: float = setting(0.1, "Weight of the mean absolute error in each distance.", 0)
    perceptual: float = setting(0.1, "Weight of LPIPS, or of MS-SSIM where its weights are not there.", 0)
    eight_bit: float = setting(0.5, "Share of the steps whose chain rounds pictures to 8 bits between passes.", 0, 1)
    gradient_passes: int = setting(2, "Passes at the chain's end through which the gradient goes back.", 1)
    kept_chains: int = setting(
        0,
        "Pictures a step whose chains go on from earlier steps: it then costs few passes, however long the chain. 0: every "
        "step runs its chains from the start, as the paper does.",
        0,
    )
    checkpointing: bool = setting(
        False, "Keep little of these passes in memory and compute it anew: 512 px then fit a card of 24 GB."
    )
    latent: float = setting(
        0.0,
        "Weight of how far the last pass's latent is from the original's. The paper has no such term; it teaches the decoder "
        "to draw what the encoder reads back as it was.",
        0,
    )

    def check(self) -> None:
        """Raise ValueError that names the setting which is out of its range, or does not go with another."""
        super().check()
        if self.last_passes < self.first_passes:
            raise ValueError(
                f"last_passes is {self.last_passes}, and must be first_passes ({self.first_passes}) or more."
            )


class REEDLoss(nn.Module):
    """The loss of one step: D(x^k, x^1) + anchor · D(x^1, x^0), with x^i = decode(encode(x^{i-1})) and x^1 held.

    PAPERS.md 1.5.1; D is `PictureDistance`. On top of it comes, with `latent` as its weight, the mean square of
    encode(x^k) - encode(x^0), as a share of the latent's variance: ours, not the paper's.
    The first passes run without a gradient; it goes back through the last `gradient_passes` of them, and through the first.
    """

    def __init__(self, network: KLNetwork | EpsilonNetwork, settings: REEDSettings) -> None:
        super().__init__()
        self.network, self.settings = network, settings
        if settings.checkpointing:
            # Within a network that is computed anew (`_remember`), block by block: without, 2.5 times the memory.
            network.enable_gradient_checkpointing()
        self.distance = PictureDistance(settings.squared, settings.absolute, settings.perceptual, settings.crop)
        self.kept = KeptChains(settings.kept_chains, settings.seed)

    def forward(self, original: Tensor, passes: int, eight_bit: bool) -> dict[str, Tensor]:
        """Scalars by name, "loss" among them. original: (B, 3, H, W) in 0..1, sides multiples of the autoencoder's ratio."""
        network = self.network
        with torch.no_grad():
            latent = network.encode(original)
        if self.settings.kept_chains:
            return self._go_on(original, latent, passes, eight_bit)
        first = as_kept(self._remember(network.decode, latent), eight_bit)
        anchor = self.distance(first, original)
        losses = {"anchor": anchor.detach(), "loss": self.settings.anchor * anchor}
        if passes > 1:
            with_gradient = min(self.settings.gradient_passes, passes - 1)
            picture = first if self.settings.gradient_passes >= passes else first.detach()
            with torch.no_grad():
                for _ in range(passes - 1 - with_gradient):
                    picture = as_kept(self._pass(picture), eight_bit)
            for _ in range(with_gradient):
                picture = as_kept(self._remember(self._pass, picture), eight_bit)
            target = first.detach() if self.settings.target == "first step" else original
            chain = self.distance(picture, target)
            losses |= {"chain": chain.detach(), "loss": losses["loss"] + chain}
            if self.settings.latent:
                self._add_latent(losses, self._remember(network.encode, picture), latent)
        return losses

    def _add_latent(self, losses: dict[str, Tensor], found: Tensor, origin: Tensor) -> None:
        """Add how far latents are from where their chains began. Both (B, C, h, w)."""
        difference = found.float() - origin.float()
        share = difference.square().mean() / origin.float().var().clamp(min=1e-12)
        losses |= {"latent": share.detach(), "loss": losses["loss"] + self.settings.latent * share}

    def _go_on(self, original: Tensor, latent: Tensor, passes: int, eight_bit: bool) -> dict[str, Tensor]:
        """The loss with kept chains: new pictures make their first pass, kept ones their next, together.

        Every pass of a chain is compared with the target here, not the last alone.
        """
        chains = self.kept.take() if passes > 1 else []
        latents = torch.cat([latent, *(chain.latent[None] for chain in chains)])
        pictures = as_kept(self._remember(self.network.decode, latents), eight_bit)
        first, further = pictures.split([len(original), len(chains)])
        anchor = self.distance(first, original)
        losses = {"anchor": anchor.detach(), "loss": self.settings.anchor * anchor}
        if chains:
            for _ in range(self.settings.gradient_passes - 1):
                further = as_kept(self._remember(self._pass, further), eight_bit)
            chain = self.distance(further, torch.stack([one.target for one in chains]))
            losses |= {"chain": chain.detach(), "loss": losses["loss"] + chain}
        if passes > 1:
            origins = torch.cat([latent, *(chain.origin[None] for chain in chains)])
            if self.settings.latent:
                found = self._remember(self.network.encode, torch.cat([first, further]))
                self._add_latent(losses, found, origins)
            else:
                with torch.no_grad():
                    found = self.network.encode(torch.cat([first, further]))
            targets = [
                *(first.detach() if self.settings.target == "first step" else original),
                *(one.target for one in chains),
            ]
            done = [1] * len(original) + [one.passes + self.settings.gradient_passes for one in chains]
            found = found.detach().float()
            self.kept.put([Chain(*one) for one in zip(found, origins.float(), targets, done, strict=True)], passes)
        return losses

    def _pass(self, picture: Tensor) -> Tensor:
        return self.network.decode(self.network.encode(picture))

    def _remember(self, network: Any, value: Tensor) -> Tensor:
        """One network's output, its activations kept for the gradient or, with checkpointing, computed anew when needed."""
        if self.settings.checkpointing:
            return checkpoint(network, value, use_reentrant=False)
        return network(value)


class REEDTask:
    """What the training loop (`loop.train`) runs: the loss, what it is told at each step, the figures and the samples."""

    name = "reed"

    def __init__(self, network: KLNetwork | EpsilonNetwork, settings: REEDSettings) -> None:
        if settings.crop % network.config.ratio:
            raise ValueError(f"crop is {settings.crop}, and this VAE needs a multiple of {network.config.ratio}.")
        self.network, self.settings = network, settings
        network.requires_grad_(False)
        self.parameters = network.decoder_parameters()
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
        self.module = REEDLoss(network, settings)
        self.incrementation = DynamicIncrementation(
            settings.first_passes,
            settings.last_passes,
            settings.increment,
            settings.plateau_window,
            settings.plateau_improvement,
        )

    def arguments(self, step: int) -> dict[str, Any]:
        """What the loss is told at this step."""
        random = np.random.default_rng((self.settings.seed, step, 1))
        return {"passes": self.incrementation.passes, "eight_bit": bool(random.random() < self.settings.eight_bit)}

    @torch.no_grad()
    def validate(self, step: int, held_out: Tensor) -> tuple[dict[str, float], list[Tensor]]:
        """Figures after `step`, and the originals and what some passes made of them. The chain may get longer by it.

        The networks hold the averaged weights when this is called. The chain is that of the round-trip test, 8-bit.
        """
        figures: dict[str, float] = {"k": self.incrementation.passes}
        shown, first, loss = [held_out], held_out, 0.0
        last = max(*MEASURED_PASSES, self.incrementation.passes)
        for number, picture in enumerate(run_chain(self.network.encode, self.network.decode, held_out, last, True), 1):
            if number == 1:
                first = picture
            if number == self.incrementation.passes:
                target = first if self.settings.target == "first step" else held_out
                loss = float((picture - target).square().mean() + (first - held_out).square().mean())
            if number in MEASURED_PASSES:
                error = (picture - held_out).square().mean((1, 2, 3))
                figures[f"psnr@{number}"] = round(float((-10 * error.clamp(min=1e-12).log10()).mean()), 3)
                shown.append(picture)
        figures["validation"] = loss
        self.incrementation.observe(step, loss)
        return figures, shown

    def state(self) -> dict[str, Any]:
        """How many passes the chain has, and why."""
        return {"incrementation": self.incrementation.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""
        self.incrementation.load_state(state["incrementation"])

    def state_tensors(self) -> dict[str, Tensor]:
        """The chains that go on at later steps; each process has its own."""
        return self.module.kept.state() if self.settings.kept_chains else {}

    def load_state_tensors(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Take up what `state_tensors` gave, or nothing where it is lost: chains then start anew."""
        if state:
            self.module.kept.load_state(state, device)

    def trained_tensors(self) -> dict[str, Tensor]:
        """The decoder as it is now, under the names in its file."""
        return self.network.decoder_tensors()
