"""eps-VAE's training: velocity, a perceptual distance and a discriminator on the one-step estimate, the encoder frozen.

Zhao et al., "Epsilon-VAE: Denoising as Visual Decoding" (ICML 2025, arXiv 2410.04081), sections 3.1 to 3.3 and C.2. What the
paper leaves open is settled in PAPERS.md 2.5.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..autoencoders.chain import as_kept
from ..autoencoders.epsilon_layout import SIZES, EpsilonConfig, config_of_size
from .discriminator import NORM_GROUPS, AdversaryLoss
from .distance import PictureDistance
from .fresh_weights import seeded
from .judged_task import JudgedTask, build_adversary, check_discriminator
from .pictures import PictureFolder
from .settings import TrainingSettings, setting

if TYPE_CHECKING:  # diffusers takes seconds to import, and the node that shows these settings does not need it
    from ..autoencoders.epsilon import EpsilonDecoder
    from ..autoencoders.kl_network import KLNetwork

MEASURED_STEPS = (1, 3)  # of decoding: the paper's fastest and its best
MEASURED_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the flow, for the velocity's loss
VALIDATION_SEED = 0  # of the noise that decoding starts from
MEASURED_PICTURES = 64  # from which the variance of pictures and the moments of latents are taken
SMALLEST_DEVIATION = 1e-6  # below it, latents that are all the same would be scaled to noise


@dataclass(frozen=True)
class EpsilonSettings(TrainingSettings):
    """The settings of eps-VAE training. The defaults are the paper's where it says one, but for a shorter warm-up."""

    steps: int = setting(100_000, "How many steps to train for. The paper takes a million, of 256 pictures each.", 1)
    batch: int = setting(8, "Pictures of one step on one device at one time.", 1)
    crop: int = setting(128, "The side of the training pictures, in pixels. The decoder works at other sizes too.", 16)
    warm_up: int = setting(1000, "Steps over which the learning rate rises.", 0)
    size: str = setting(
        "B", "Of the decoder, by the paper's names; tiny is the smallest, for trying out.", choices=tuple(SIZES)
    )
    gamma: float = setting(0.6, "The picture's scale against the noise; 1 is none.", 0.01, 10)
    perceptual: float = setting(
        0.5, "Weight of LPIPS, or of MS-SSIM where its weights are not there, on the one-step estimate.", 0
    )
    adversarial: float = setting(0.5, "Weight of the discriminator's judgement; 0: there is none.", 0)
    adversarial_start: int = setting(0, "The step from which on the discriminator is trained and judges.", 0)
    penalty: float = setting(
        10.0, "Weight of half the discriminator's squared gradient on real pictures (R1), in the mean.", 0
    )
    penalty_every: int = setting(
        16, "Steps of the discriminator between two that have this penalty, as many times as strong.", 1
    )
    discriminator_width: int = setting(
        64, f"Channels of the discriminator at half a picture's size, a multiple of {NORM_GROUPS}.", NORM_GROUPS
    )
    discriminator_rate: float = setting(
        1.0,
        "The discriminator's learning rate, as a share of learning_rate: lower it where learning_rate is far above 1e-4.",
        0,
    )
    time_mean: float = setting(0.0, "Mean of the logit of the times that are trained: higher is more noise.", -10, 10)
    time_deviation: float = setting(1.0, "Standard deviation of the logit of the times that are trained.", 0, 10)
    latent_scale: float = setting(
        0.0, "What latents are multiplied by; 0: it and latent_shift are measured on the pictures.", 0
    )
    latent_shift: float = setting(0.0, "What is taken from latents before that.", -1000, 1000)
    decay: bool = setting(False, "Let the learning rate fall to 0 over the steps; the paper keeps it.")
    checkpointing: bool = setting(False, "Keep little of the decoder in memory and compute it anew: it takes longer.")
    preconditioned: bool = setting(
        False,
        "The network says only what the noised picture alone does not tell of the velocity: ours, not the paper's.",
    )

    @property
    def betas(self) -> tuple[float, float]:
        """AdamW's two decays, the paper's (C.2)."""
        return 0.0, 0.999

    @property
    def rate_falls(self) -> bool:
        """Whether the learning rate falls to 0 over the steps, as `decay` says."""
        return self.decay

    def check(self) -> None:
        """Raise ValueError that names the setting which is out of its range, or does not go with another."""
        super().check()
        check_discriminator(self)
        if self.latent_shift and not self.latent_scale:
            raise ValueError(
                f"latent_shift is {self.latent_shift}, and latent_scale is 0, which measures both. Set latent_scale too."
            )


def draw_time_and_noise(settings: EpsilonSettings, numbers: Sequence[int], side: int) -> tuple[Tensor, Tensor]:
    """Times, (B,) in 0..1, logit-normal (section 3.3), and standard normal noise, (B, 3, side, side).

    They follow from the pictures' numbers and the seed, so a run that resumes, or of more processes, draws the same.
    """
    times, noises = [], []
    for number in numbers:
        random = np.random.default_rng((settings.seed, number, 3))
        logit = settings.time_mean + settings.time_deviation * random.standard_normal()
        times.append(1 / (1 + np.exp(-logit)))
        noises.append(random.standard_normal((3, side, side), np.float32))
    return torch.tensor(times, dtype=torch.float32), torch.from_numpy(np.stack(noises))


@torch.no_grad()
def measure(
    config: EpsilonConfig, network: KLNetwork, folder: PictureFolder, settings: EpsilonSettings, device: torch.device
) -> EpsilonConfig:
    """The config with picture_variance, latent_shift and latent_scale, measured on the first training pictures.

    The shift and the scale are the settings' where they say them. device: where the network is. Raises ValueError where its
    latents are no numbers.
    """
    pictures = [folder.sample(number) for number in range(MEASURED_PICTURES)]
    variance = max(_moments(2 * picture - 1 for picture in pictures)[1], SMALLEST_DEVIATION**2)
    shift, scale = settings.latent_shift, settings.latent_scale
    if not scale:
        shift, spread = _moments(network.encode(picture[None].to(device)) for picture in pictures)
        if not math.isfinite(shift):
            raise ValueError("vae: its encoder makes latents that are no numbers. Is its file whole?")
        scale = 1 / max(spread**0.5, SMALLEST_DEVIATION)
    return replace(config, picture_variance=variance, latent_shift=shift, latent_scale=scale)


def _moments(tensors: Iterable[Tensor]) -> tuple[float, float]:
    """The mean and the variance of all numbers in some tensors, of which one at a time is in memory."""
    count, total, squares = 0, 0.0, 0.0
    for tensor in tensors:
        count += tensor.numel()
        total += float(tensor.double().sum())
        squares += float(tensor.double().square().sum())
    return total / count, max(0.0, squares / count - (total / count) ** 2)


class EpsilonLoss(nn.Module):
    """The loss of one step: |v - G(x_t, t, z)|² + perceptual · D(estimate, x_0) + adversarial · fool (section C.2).

    All of them are of one answer G of the network: the estimate is (x_t - t G) / gamma (equation 9). What the adversary is
    to be told of it is kept in `judged`.
    """

    def __init__(
        self, network: KLNetwork, decoder: EpsilonDecoder, settings: EpsilonSettings, adversary: AdversaryLoss | None
    ) -> None:
        super().__init__()
        self.network, self.decoder, self.settings = network, decoder, settings
        self.distance = PictureDistance(0, 0, settings.perceptual, settings.crop)
        # A method is no module of this one: the adversary's parameters are another optimizer's.
        self.fool = adversary.fool if adversary else None
        self.judged: dict[str, Tensor] = {}

    def forward(self, original: Tensor, adversarial: bool, numbers: Sequence[int]) -> dict[str, Tensor]:
        """Scalars by name, "loss" among them. original: (B, 3, S, S) in 0..1, the pictures of these numbers.

        adversarial: whether the discriminator judges at this step.
        """
        decoder = self.decoder
        with torch.no_grad():
            condition = decoder.condition(self.network.encode(original))
        drawn = draw_time_and_noise(self.settings, numbers, original.shape[-1])
        time, noise = (one.to(original.device) for one in drawn)
        picture = 2 * original - 1
        noised = decoder.noised(picture, noise, time)
        velocity = decoder.velocity(noised, time, condition)
        loss = functional.mse_loss(velocity, decoder.target(picture, noise))
        losses = {"velocity": loss.detach()}
        estimate = decoder.estimate(noised, time, velocity)
        if self.settings.perceptual:
            perceptual = self.distance(as_kept(estimate / 2 + 0.5, False), original)
            losses["perceptual"] = perceptual.detach()
            loss = loss + perceptual  # the distance has its weight in it
        if adversarial and self.fool:
            fooling = self.fool(estimate, noised, time)
            losses["adversarial"] = fooling.detach()
            loss = loss + self.settings.adversarial * fooling
            self.judged = {"picture": picture, "estimate": estimate.detach(), "noised": noised, "time": time}
        return losses | {"loss": loss}


class EpsilonTask(JudgedTask):
    """What the training loop (`loop.train`) runs: the loss, the adversary, the figures and the samples.

    decoder: with fresh weights and a measured config (`build_decoder`).
    """

    name = "epsilon"

    def __init__(self, network: KLNetwork, decoder: EpsilonDecoder, settings: EpsilonSettings) -> None:
        check_crop(settings, decoder.config)
        self.network, self.decoder, self.settings = network, decoder, settings
        network.requires_grad_(False)
        if settings.checkpointing:
            decoder.unet.enable_gradient_checkpointing()
        self.adversary = build_adversary(settings) if settings.adversarial else None
        self.adversary_rate = settings.discriminator_rate
        self.module = EpsilonLoss(network, decoder, settings, self.adversary)
        self.parameters: dict[str, nn.Parameter] = dict(decoder.unet.named_parameters())

    def arguments(self, step: int) -> dict[str, Any]:
        """What the loss is told at this step."""
        return {"adversarial": self.judges(step)}

    @torch.no_grad()
    def validate(self, step: int, held_out: Tensor) -> tuple[dict[str, float], list[Tensor]]:
        """psnr@N, in dB, after N steps of decoding, the velocity's loss, and the originals and what the decoder made of them.

        The networks hold the averaged weights when this is called. Noise and times are the same every time.
        """
        decoder, figures, shown = self.decoder, {}, [held_out]
        latent = self.network.encode(held_out).float()
        for steps in MEASURED_STEPS:
            made = decoder.decode(latent, VALIDATION_SEED, steps).clamp(0, 1)
            error = (made - held_out).square().mean((1, 2, 3))
            figures[f"psnr@{steps}"] = round(float((-10 * error.clamp(min=1e-12).log10()).mean()), 3)
            shown.append(made)
        picture, condition = 2 * held_out - 1, decoder.condition(latent)
        noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(VALIDATION_SEED)).to(picture)
        losses = []
        for time in MEASURED_TIMES:
            times = torch.full((len(picture),), time, device=picture.device)
            velocity = decoder.velocity(decoder.noised(picture, noise, times), times, condition)
            losses.append(float(functional.mse_loss(velocity, decoder.target(picture, noise))))
        figures["validation"] = sum(losses) / len(losses)
        return figures, shown

    def state(self) -> dict[str, Any]:
        """What was measured before the first step: other pictures later must not move it."""
        config = asdict(self.decoder.config)
        return {name: config[name] for name in ("picture_variance", "latent_shift", "latent_scale")}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""
        self.decoder.config = replace(self.decoder.config, **state)

    def trained_tensors(self) -> dict[str, Tensor]:
        """The network as it is now, under diffusers' names."""
        return dict(self.decoder.unet.state_dict())


def plan_decoder(network: KLNetwork, settings: EpsilonSettings) -> EpsilonConfig:
    """The sizes of the decoder that the settings ask for, over this autoencoder's latents; nothing is measured yet."""
    config = config_of_size(settings.size, network.config.latent_channels, network.config.ratio)
    check_crop(settings, config)
    return replace(config, gamma=settings.gamma, preconditioned=settings.preconditioned)


def check_crop(settings: EpsilonSettings, config: EpsilonConfig) -> None:
    """Raise ValueError where the crop cannot be halved at every level of the autoencoder and of the decoder."""
    multiple = config.ratio * config.cells
    if settings.crop % multiple:
        raise ValueError(
            f"crop is {settings.crop}, and this VAE with a decoder of size {settings.size} needs a multiple of {multiple}."
        )


def build_decoder(config: EpsilonConfig, seed: int) -> EpsilonDecoder:
    """A decoder with fresh weights that follow from the seed."""
    from ..autoencoders.epsilon import EpsilonDecoder

    with seeded(seed):
        return EpsilonDecoder(config)
