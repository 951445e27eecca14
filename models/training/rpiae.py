"""RPiAE's training in three stages: the encoder held near its pivot, the bridge to few channels, the pixel decoder.

Gong et al., "RPiAE: A Representation-Pivoted Autoencoder" (arXiv 2603.19206). Losses and defaults follow the authors' code
(PAPERS.md 5.3); where ours differ, it is said.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..autoencoders.rpiae_layout import RPiAEConfig
from .balance import balancing_weight, pivot_distance
from .discriminator import NORM_GROUPS, AdversaryLoss
from .distance import PictureDistance
from .judged_task import JudgedTask, build_adversary, check_discriminator
from .settings import TrainingSettings, setting

if TYPE_CHECKING:  # transformers takes seconds to import, and the node that shows these settings does not need it
    from ..autoencoders.dinov2 import StoredDINOv2
    from ..autoencoders.rpiae import RPiAE

PIVOT, BRIDGE, DECODER = STAGES = ("pivot", "bridge", "decoder")
# Of the pixel decoder: width, layers, heads and width of the MLPs. XL is the published one.
DECODERS = {
    "XL": (1152, 28, 16, 4096),
    "L": (1024, 24, 16, 4096),
    "B": (768, 12, 12, 3072),
    "tiny": (96, 3, 3, 192),
}
# Of the gradients' ratio: what is added below, and the most that it may be.
PIVOT_BALANCE, JUDGE_BALANCE = (1e-4, 1e5), (1e-6, 1e4)
HEAD_CHANNELS, MOST_HEADS = 64, 8  # of the bridge's attention


@dataclass(frozen=True)
class RPiAESettings(TrainingSettings):
    """The settings of RPiAE's training, of one stage. The defaults are the authors' but for batch and steps."""

    stage: str = setting(
        PIVOT,
        "What is trained: encoder and pixel decoder, the encoder held near what it was (pivot); then the bridge to few "
        "channels; then the pixel decoder again, behind the bridge.",
        choices=STAGES,
    )
    steps: int = setting(80_000, "How many steps to train for; the learning rate falls to 0 over them.", 1)
    batch: int = setting(8, "Pictures of one step on one device at one time. The authors take 256 and 512.", 1)
    crop: int = setting(256, "The side of the training pictures, in pixels: the only size that is decoded.", 16)
    learning_rate: float = setting(2e-4, "The highest learning rate of AdamW.", 0, 1)
    warm_up: int = setting(5000, "Steps over which the learning rate rises.", 0)
    average_decay: float = setting(0.9978, "Decay of the moving average of the weights, which is what is kept.", 0, 1)
    clip: float = setting(0.0, "The largest norm of a step's gradient; 0: any.", 0)
    noise: float = setting(
        0.8,
        "The largest deviation of the noise on the encoder's tokens, against which pivot and bridge are trained.",
        0,
    )
    absolute: float = setting(1.0, "Weight of the mean absolute difference, in pivot and decoder.", 0)
    perceptual: float = setting(
        1.0, "Weight of LPIPS, or of MS-SSIM where its weights are not there, in pivot and decoder.", 0
    )
    pivot: float = setting(
        0.75,
        "Weight of how far tokens are from the frozen encoder's, in the pivot stage; 0: they may go anywhere.",
        0,
    )
    pivot_constant: int = setting(
        1000,
        "Steps for which that weight is taken as it is; then it is a share of the picture's pull at the encoder.",
        0,
    )
    feature: float = setting(1.0, "Weight of the tokens' mean squared error behind the bridge, in the bridge stage.", 0)
    divergence: float = setting(
        1e-3, "Weight of the latent's divergence from a standard normal, in the bridge stage.", 0
    )
    reconstruction: float = setting(0.05, "Weight of the picture's mean absolute difference in the bridge stage.", 0)
    adversarial: float = setting(
        0.75, "Weight of the discriminator, as a share of the picture's pull at the decoder's end; 0: there is none.", 0
    )
    adversarial_start: int = setting(40_000, "The step from which on the discriminator is trained and judges.", 0)
    penalty: float = setting(
        10.0, "Weight of half the discriminator's squared gradient on real pictures (R1), in the mean.", 0
    )
    penalty_every: int = setting(
        16, "Steps of the discriminator between two that have this penalty, as many times as strong.", 1
    )
    discriminator_width: int = setting(
        64, f"Channels of the discriminator at half a picture's size, a multiple of {NORM_GROUPS}.", NORM_GROUPS
    )
    discriminator_rate: float = setting(1.0, "The discriminator's learning rate, as a share of learning_rate.", 0)
    patches: int = setting(
        16,
        "From a DINOv2: patches a side of the encoder's input, to which pictures are scaled; 16 of 14 pixels are 224.",
        1,
    )
    channels: int = setting(64, "From a DINOv2: channels of the latent.", 1)
    bridge_layers: int = setting(6, "From a DINOv2: layers of the bridge's decoder.", 1)
    decoder: str = setting("XL", "From a DINOv2: the pixel decoder's size.", choices=tuple(DECODERS))

    @property
    def betas(self) -> tuple[float, float]:
        """AdamW's two decays, the authors'."""
        return 0.9, 0.95

    def check(self) -> None:
        """Raise ValueError that names the setting which is out of its range."""
        super().check()
        check_discriminator(self)

    @property
    def judged(self) -> bool:
        """Whether there is a discriminator: the bridge stage has none."""
        return bool(self.adversarial) and self.stage != BRIDGE


def plan_from_dinov2(stored: StoredDINOv2, settings: RPiAESettings) -> RPiAEConfig:
    """The sizes of an RPiAE on this encoder. Raises ValueError that names the setting where they do not fit."""
    if settings.crop % settings.patches:
        raise ValueError(f"crop is {settings.crop}, and must be a multiple of patches, {settings.patches}.")
    if stored.swiglu:
        raise ValueError("The base is a DINOv2 of size g, with gated MLPs, which RPiAE has not. Take S, B or L.")
    width, layers, heads, hidden = DECODERS[settings.decoder]
    own = {name: value for name, value in stored.sizes().items() if name != "swiglu"}
    return RPiAEConfig(
        **own,
        side=settings.patches * stored.patch,
        channels=settings.channels,
        bridge_layers=settings.bridge_layers,
        bridge_heads=min(MOST_HEADS, max(1, stored.width // HEAD_CHANNELS)),
        decoder_width=width,
        decoder_layers=layers,
        decoder_heads=heads,
        decoder_hidden=hidden,
        decoder_patch=settings.crop // settings.patches,
    )


class RPiAELoss(nn.Module):
    """The loss of one step of one stage; D is `PictureDistance`, E the encoder, and E' its copy from before the training.

    pivot: D(x, draw(E(x) + noise)) + w |E(x) - E'(x)|². bridge, with moments and tokens of the bridge: feature
    |tokens(mean(E(x) + noise)) - E(x)|² + divergence KL + reconstruction L1. decoder: D(x, draw(tokens(mean(E(x))))). In the
    first and the last comes the discriminator's judgement on top. The KL is m² + s² - 1 - log s², without the half, and what
    is decoded is the mean: both as in the authors' code.
    """

    def __init__(self, network: RPiAE, settings: RPiAESettings, adversary: AdversaryLoss | None) -> None:
        super().__init__()
        self.network, self.settings = network, settings
        self.distance = PictureDistance(0, settings.absolute, settings.perceptual, settings.crop)
        # Neither is a module of this one: the copy is never trained, the adversary's parameters are another optimizer's.
        self.frozen = [copy.deepcopy(network.encoder).requires_grad_(False)] if self._held else []
        self.fool = adversary.fool if adversary else None
        self.judged: dict[str, Tensor] = {}

    @property
    def _held(self) -> bool:
        return self.settings.stage == PIVOT and bool(self.settings.pivot)

    def forward(self, original: Tensor, balanced: bool, adversarial: bool, numbers: Sequence[int]) -> dict[str, Tensor]:
        """Scalars by name, "loss" among them. original: (B, 3, S, S) in 0..1, the pictures of these numbers.

        balanced: whether the pivot's weight follows the gradients at this step. adversarial: whether the picture is judged.
        """
        if self.settings.stage == BRIDGE:
            return self._bridge(original, numbers)
        tokens = self._tokens(original)
        if self.settings.stage == PIVOT:
            drawn_from = self._noised(tokens, numbers)
        else:
            with torch.no_grad():
                mean, _ = self.network.moments(tokens)
                drawn_from = self.network.tokens_of(mean)
        picture = self.network.draw(drawn_from)
        distance = self.distance(picture, original)
        losses = {"distance": distance.detach(), "loss": distance}
        if self._held:
            self._add_pivot(losses, distance, tokens, original, balanced)
        if adversarial and self.fool:
            self._add_judgement(losses, self.fool, distance, picture, original)
        return losses

    def _tokens(self, original: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.settings.stage == PIVOT):
            return self.network.tokens(original).float()

    def _noised(self, tokens: Tensor, numbers: Sequence[int]) -> Tensor:
        """Tokens with normal noise of a deviation from 0 to `noise`, which follow from the pictures' numbers."""
        if not self.settings.noise:
            return tokens
        noises = []
        for number in numbers:
            random = np.random.default_rng((self.settings.seed, number, 4))
            deviation = np.float32(self.settings.noise * random.random())
            noises.append(deviation * random.standard_normal(tokens.shape[1:], np.float32))
        return tokens + torch.from_numpy(np.stack(noises)).to(tokens.device)

    def _add_pivot(
        self, losses: dict[str, Tensor], distance: Tensor, tokens: Tensor, original: Tensor, balanced: bool
    ) -> None:
        with torch.no_grad():
            pivot = self.network.tokens(original, self.frozen[0].to(original.device))
        drift = pivot_distance(tokens, pivot)
        weight = torch.tensor(self.settings.pivot, device=drift.device)
        if balanced:
            weight = weight * balancing_weight(distance, drift, last_parameter(self.network.encoder), *PIVOT_BALANCE)
        losses |= {"pivot": drift.detach(), "pivot_weight": weight, "loss": losses["loss"] + weight * drift}

    def _add_judgement(
        self,
        losses: dict[str, Tensor],
        fool: Callable[[Tensor, Tensor, Tensor], Tensor],
        distance: Tensor,
        picture: Tensor,
        original: Tensor,
    ) -> None:
        """The authors judge by a DINO's features and by a hinge; here it is the discriminator of our other training."""
        real, estimate = 2 * original - 1, 2 * picture - 1
        noised, time = torch.zeros_like(real), torch.zeros(len(real), device=real.device)  # it has nothing of that kind
        fooling = fool(estimate, noised, time)
        last = self.network.pixel_decoder.decoder_pred.weight
        weight = self.settings.adversarial * balancing_weight(distance, fooling, last, *JUDGE_BALANCE)
        losses |= {"adversarial": fooling.detach(), "loss": losses["loss"] + weight * fooling}
        self.judged = {"picture": real, "estimate": estimate.detach(), "noised": noised, "time": time}

    def _bridge(self, original: Tensor, numbers: Sequence[int]) -> dict[str, Tensor]:
        settings, tokens = self.settings, self._tokens(original)
        mean, log_variance = self.network.moments(self._noised(tokens, numbers))
        bridged = self.network.tokens_of(mean)
        feature = functional.mse_loss(bridged.float(), tokens)
        mean, log_variance = mean.float(), log_variance.float()
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        reconstruction = functional.l1_loss(self.network.draw(bridged).float(), original)
        loss = settings.feature * feature + settings.divergence * divergence
        losses = {"feature": feature, "divergence": divergence, "reconstruction": reconstruction}
        return {
            **{name: value.detach() for name, value in losses.items()},
            "loss": loss + settings.reconstruction * reconstruction,
        }


def last_parameter(module: nn.Module) -> nn.Parameter:
    """The last that is trained: where the authors' code weighs the pivot against the picture."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad][-1]


class RPiAETask(JudgedTask):
    """What the training loop (`loop.train`) runs: the loss of one stage, the adversary, the figures and the samples."""

    name = "rpiae"

    def __init__(self, network: RPiAE, settings: RPiAESettings) -> None:
        if settings.crop != network.config.picture_side:
            raise ValueError(
                f"crop is {settings.crop}, and this RPiAE makes pictures of {network.config.picture_side}."
            )
        self.network, self.settings = network, settings
        self.parameters = trained_parameters(network, settings.stage)
        self.adversary = build_adversary(settings) if settings.judged else None
        self.adversary_rate = settings.discriminator_rate
        self.module = RPiAELoss(network, settings, self.adversary)

    def arguments(self, step: int) -> dict[str, Any]:
        """What the loss is told at this step."""
        return {"balanced": step >= self.settings.pivot_constant, "adversarial": self.judges(step)}

    @torch.no_grad()
    def validate(self, step: int, held_out: Tensor) -> tuple[dict[str, float], list[Tensor]]:
        """psnr, in dB, of what the stage trains, how far tokens moved, and the originals beside what was made of them.

        The network holds the averaged weights when this is called. pivot: from the frozen encoder's; feature: by the bridge.
        """
        network, figures = self.network, {}
        tokens = drawn_from = network.tokens(held_out).float()
        if self.settings.stage != PIVOT:
            drawn_from = network.tokens_of(network.moments(tokens)[0]).float()
            figures["feature_error"] = float(functional.mse_loss(drawn_from, tokens))
        for frozen in self.module.frozen:
            figures["pivot_error"] = float(pivot_distance(tokens, network.tokens(held_out, frozen.to(held_out.device))))
        made = network.draw(drawn_from).float().clamp(0, 1)
        error = (made - held_out).square().mean((1, 2, 3))
        figures["psnr"] = round(float((-10 * error.clamp(min=1e-12).log10()).mean()), 3)
        return figures, [held_out, made]

    def state(self) -> dict[str, Any]:
        """Nothing: a stage changes nothing but its parameters."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Nothing is taken up."""


def trained_parameters(network: RPiAE, stage: str) -> dict[str, nn.Parameter]:
    """Those that a stage trains, by name; all others need no gradient any more."""
    parts = {
        PIVOT: ("encoder.", "pixel_decoder."),
        BRIDGE: ("bridge_encoder.", "bridge_decoder."),
        DECODER: ("pixel_decoder.",),
    }[stage]
    network.requires_grad_(False)
    chosen = {
        name: parameter
        for name, parameter in network.named_parameters()
        if name.startswith(parts) and not name.endswith("mask_token")  # of DINOv2's own training
    }
    for parameter in chosen.values():
        parameter.requires_grad_(True)
    return chosen
