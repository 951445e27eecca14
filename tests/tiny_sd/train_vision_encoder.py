"""Pre-trains the small vision model that the demo's RPiAE starts from: a DINOv2 with registers, on the drawn world's labels.

`python -m tiny_sd.train_vision_encoder` in tests/. Each patch's token is to tell the shape and the colour of the object that
covers it, and the background: by labels and not by self-distillation, which wants far more pictures and time. Pictures are
blurred, noised and lit otherwise, so that tokens say what is there and not how it was stored.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[2]))  # the pack's models, which need no host
from models.autoencoders.dinov2 import PICTURE_DEVIATION, PICTURE_MEAN, StoredDINOv2, stored_tensors
from models.autoencoders.rpiae import build_encoder
from models.autoencoders.rpiae_layout import RPiAEConfig

from .training_loop import WEIGHTS_FOLDER, train
from .world import BACKGROUNDS, COLOURS, SHAPES, SIZE, Scene, draw, object_mask, random_scene

STEPS, BATCH, LEARNING_RATE = 3000, 32, 1e-3
CONFIG = RPiAEConfig(
    side=SIZE,
    patch=8,
    positions=8,
    width=96,
    layers=4,
    heads=3,
    registers=2,
    mlp_ratio=2,
    channels=16,
    bridge_layers=1,
    bridge_heads=1,
    decoder_width=96,
    decoder_layers=3,
    decoder_heads=3,
    decoder_hidden=192,
    decoder_patch=8,
)
NAME = "tiny_sd_dinov2"
FILE = WEIGHTS_FOLDER / f"{NAME}.safetensors"
COVERED, TOUCHED = 0.2, 0.02  # shares of a patch: an object's from here; the background's up to here; no label between
IGNORED = -100
AROUND = 5  # patches a side


def patch_labels(scene: Scene) -> dict[str, Tensor]:
    """For each patch, (64,) whole numbers: the shape and the colour of its object, or those after the last for none.

    Where an object hardly touches a patch, there is no label: `IGNORED`. The background's kind is every patch's.
    around: (64, 25) in 0..1, how far objects cover the 5×5 patches around each: without having to say so, patches take
    thousands of steps to look at one another, from which alone they know a shape.
    """
    shape, colour = np.full((CONFIG.cells,) * 2, len(SHAPES)), np.full((CONFIG.cells,) * 2, len(COLOURS))
    covered = np.zeros(shape.shape, np.float32)
    for item in scene.objects:
        cover = object_mask(item).reshape(CONFIG.cells, CONFIG.patch, CONFIG.cells, CONFIG.patch).mean((1, 3))
        covered += cover
        for labels, label in ((shape, SHAPES.index(item.shape)), (colour, list(COLOURS).index(item.colour))):
            labels[cover > TOUCHED] = IGNORED
            labels[cover >= COVERED] = label
    background = np.full_like(shape, BACKGROUNDS.index(scene.background))
    found = {"shape": shape, "colour": colour, "background": background}
    around = functional.unfold(torch.from_numpy(covered)[None, None], AROUND, padding=AROUND // 2)[0].mT
    return {name: torch.from_numpy(labels).flatten() for name, labels in found.items()} | {"around": around}


def labelled_scenes(seed: int | tuple[int, ...], count: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Pictures, (count, 3, SIZE, SIZE) in 0..1, and their patches' labels, each (count, 64)."""
    random = np.random.default_rng(seed)
    scenes = [random_scene(random) for _ in range(count)]
    pictures = torch.from_numpy(np.stack([draw(scene) for scene in scenes])).movedim(-1, 1)
    labels = [patch_labels(scene) for scene in scenes]
    return pictures, {name: torch.stack([one[name] for one in labels]) for name in labels[0]}


def worn(pictures: Tensor, random: np.random.Generator) -> Tensor:
    """Pictures as they may come: blurred, noised, lit a little otherwise."""
    count = len(pictures)

    def drawn(low: float, high: float) -> Tensor:
        return torch.from_numpy(random.uniform(low, high, (count, 1, 1, 1)).astype(np.float32))

    small = functional.interpolate(pictures, scale_factor=0.5, mode="area")
    blurred = functional.interpolate(small, scale_factor=2.0, mode="bilinear")
    noise = torch.from_numpy(random.standard_normal(pictures.shape, np.float32))
    coarse = functional.interpolate(noise[..., ::4, ::4], scale_factor=4.0, mode="bilinear")
    mixed = torch.lerp(pictures, blurred, drawn(-0.3, 1)) * drawn(0.93, 1.07)
    return (mixed + drawn(0, 0.08) * noise + drawn(0, 0.08) * coarse).clamp(0, 1)


def fresh_encoder() -> nn.Module:
    """At DINOv2's own start, of small weights and positions, patches take thousands of steps to see one another."""
    encoder = build_encoder(CONFIG)
    for module in encoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    nn.init.normal_(encoder.embeddings.position_embeddings, std=0.5)
    return encoder


class Labelled(nn.Module):
    """The encoder, and a linear reading of its tokens for each kind of label."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = fresh_encoder()
        kinds = {
            "shape": len(SHAPES) + 1,
            "colour": len(COLOURS) + 1,
            "background": len(BACKGROUNDS),
            "around": AROUND**2,
        }
        self.heads = nn.ModuleDict({name: nn.Linear(CONFIG.width, count) for name, count in kinds.items()})

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in (PICTURE_MEAN, PICTURE_DEVIATION))
        tokens = self.encoder((pictures - mean) / deviation).last_hidden_state[:, 1 + CONFIG.registers :]
        return {name: head(tokens.float()) for name, head in self.heads.items()}


@torch.no_grad()
def accuracies(model: Labelled) -> dict[str, float]:
    """Shares of the held-out scenes' patches that are told rightly."""
    pictures, labels = labelled_scenes(10**9, 128)
    found = {}
    told = model(pictures)
    told.pop("around")
    for name, logits in told.items():
        known = labels[name] != IGNORED
        found[name] = round(float((logits.argmax(-1) == labels[name])[known].float().mean()), 4)
    return found


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(0)
    model = Labelled()

    def loss_of_step(step: int) -> dict[str, Tensor]:
        pictures, labels = labelled_scenes((7, step), BATCH)
        random = np.random.default_rng((8, step))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(worn(pictures, random))
        around = functional.binary_cross_entropy_with_logits(logits.pop("around"), labels["around"].clamp(0, 1))
        losses = {
            name: functional.cross_entropy(logits[name].flatten(0, 1), labels[name].flatten(), ignore_index=IGNORED)
            for name in logits
        }
        return losses | {"around": around, "loss": sum(losses.values()) + 3 * around}

    trained = train(NAME, model, loss_of_step, STEPS, LEARNING_RATE, evaluate=accuracies, evaluate_every=250)
    StoredDINOv2(CONFIG.heads, {name: one.half() for name, one in stored_tensors(trained.encoder).items()}).save(FILE)


if __name__ == "__main__":
    main()
