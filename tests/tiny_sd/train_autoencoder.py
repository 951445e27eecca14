"""Trains the demo family's KL autoencoder: 64 px pictures, ratio 4, 4 channels; and one that compresses twice as much.

`python -m tiny_sd.train_autoencoder [NAME …]` in tests/.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

from .training_loop import RUNS_FOLDER, WEIGHTS_FOLDER, chosen_names, train
from .world import SIZE, draw, random_scene

STEPS, BATCH, LEARNING_RATE, KL_WEIGHT = 2600, 16, 2e-3, 5e-6
SCALE_FACTOR = 0.18215  # of Stable Diffusion 1.5: latents are stored 1 / 0.18215 times larger than unit variance


@dataclass(frozen=True)
class Sizes:
    block_out_channels: tuple[int, ...]
    latent_channels: int


DEMO, RATIO_8 = "autoencoder", "autoencoder_ratio_8"
# The second is for the eps-VAE decoders alone: 8×8 cells of 8 channels, half the numbers of 16×16 cells of 4.
AUTOENCODERS = {DEMO: Sizes((32, 64, 96), 4), RATIO_8: Sizes((32, 64, 64, 96), 8)}


def file_of(name: str) -> Path:
    """Where an autoencoder is kept; the second lies in weights/ with a decoder of train_epsilon.py's alone."""
    return (WEIGHTS_FOLDER if name == DEMO else RUNS_FOLDER) / f"tiny_sd_{name}.safetensors"


def build(sizes: Sizes) -> AutoencoderKL:
    levels = len(sizes.block_out_channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=sizes.block_out_channels,
        layers_per_block=1,
        latent_channels=sizes.latent_channels,
        norm_num_groups=32,
        scaling_factor=SCALE_FACTOR,
    )


def paint_over(generator: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Strokes, blobs and gradients of any colour: what people paint by hand must pass through the autoencoder too."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    for _ in range(int(generator.integers(1, 5))):
        colour = generator.uniform(0, 1, 3).astype(np.float32)
        x0, y0, x1, y1 = generator.uniform(0, SIZE, 4)
        along = np.clip(((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / ((x1 - x0) ** 2 + (y1 - y0) ** 2 + 1e-3), 0, 1)
        distance = np.hypot(x - x0 - along * (x1 - x0), y - y0 - along * (y1 - y0))
        cover = np.clip(generator.uniform(1, 7) - distance + 0.5, 0, 1)[..., None] * generator.uniform(0.4, 1)
        picture = picture * (1 - cover) + colour * cover
    if generator.random() < 0.3:
        slope = generator.uniform(-0.4, 0.4, (2, 3)).astype(np.float32)
        picture = picture + (x[..., None] / SIZE - 0.5) * slope[0] + (y[..., None] / SIZE - 0.5) * slope[1]
    return np.clip(picture, 0, 1).astype(np.float32)


def pictures(seed: int, count: int, painted: float) -> torch.Tensor:
    """(count, 3, SIZE, SIZE) in -1..1; a share `painted` of them is painted over and shifted."""
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(count):
        picture = draw(random_scene(generator))
        if generator.random() < painted:
            shift = tuple(int(value) for value in generator.integers(0, SIZE, 2))
            picture = paint_over(generator, np.roll(picture, shift, (0, 1)))
        drawn.append(picture)
    return torch.from_numpy(np.stack(drawn)).movedim(-1, 1) * 2 - 1


@torch.no_grad()
def psnr_on_held_out(model: AutoencoderKL, count: int = 64, seed: int = 10**9) -> dict[str, float]:
    batch = pictures(seed, count, painted=0.0)
    decoded = model.decode(model.encode(batch).latent_dist.mode()).sample.clamp(-1, 1)
    error = ((decoded - batch) / 2).square().mean((1, 2, 3))
    return {"psnr": round(float((-10 * error.log10()).mean()), 2)}


@torch.no_grad()
def scale_latents(model: AutoencoderKL) -> None:
    """Fold a factor into the convolutions around the latent, so that its standard deviation is 1 / SCALE_FACTOR."""
    latents = model.encode(pictures(10**8, 256, painted=0.0)).latent_dist.mode()
    factor = 1 / SCALE_FACTOR / float(latents.std())
    mean_rows = slice(0, model.config.latent_channels)
    model.quant_conv.weight[mean_rows] *= factor
    model.quant_conv.bias[mean_rows] *= factor
    model.quant_conv.bias[model.config.latent_channels :] += 2 * float(np.log(factor))
    model.post_quant_conv.weight /= factor


def train_autoencoder(name: str) -> None:
    torch.manual_seed(0)
    model = build(AUTOENCODERS[name])

    def loss_of_step(step: int) -> dict[str, torch.Tensor]:
        batch = pictures(step, BATCH, painted=0.4)
        torch.manual_seed(step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            posterior = model.encode(batch).latent_dist
            decoded = model.decode(posterior.sample()).sample.float()
        error = (decoded - batch).square().mean()
        divergence = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        loss = error + 0.1 * (decoded - batch).abs().mean() + KL_WEIGHT * divergence
        return {"loss": loss, "mse": error, "kl": divergence}

    trained = train(name, model, loss_of_step, STEPS, LEARNING_RATE, evaluate=psnr_on_held_out)
    scale_latents(trained)
    # The diffusers layout, which ReEditLoadREEDVAE reads as well as the ldm one.
    weights = {key: value.half().contiguous() for key, value in trained.state_dict().items()}
    save_file(weights, file_of(name))


def main() -> None:
    logging.basicConfig(level=logging.INFO)
    for name in chosen_names(__doc__, AUTOENCODERS):
        train_autoencoder(name)


if __name__ == "__main__":
    main()
