"""What can be read linearly off tokens or latents: the shape and the colour of the object in a patch."""

from __future__ import annotations

from collections.abc import Callable

import _host  # noqa: F401
import torch
from tiny_sd.train_vision_encoder import labelled_scenes
from tiny_sd.world import COLOURS, SHAPES
from torch import Tensor
from torch.nn import functional

CLASSES = {"colour": len(COLOURS), "shape": len(SHAPES)}
TRAINED_ON, TRIED_ON = 1200, 400  # scenes
STEPS, WEIGHT_DECAY = 60, 1e-4  # of L-BFGS, each with a search along the line
WHOLE = 0.5  # the share of a patch that an object covers from which on the patch is asked


def objects_patches(represent: Callable[[Tensor], Tensor], seed: int, count: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Of the patches that an object covers by half or more: their features, (N, C), and their labels.

    represent: pictures (B, 3, S, S) to features (B, patches, C).
    """
    pictures, labels = labelled_scenes(seed, count)
    with torch.inference_mode():
        features = torch.cat([represent(part) for part in pictures.split(50)]).float().clone()
    # The middle of the patches around each is how far it is covered itself.
    covered = labels["around"][..., labels["around"].shape[-1] // 2] >= WHOLE
    known = covered & (labels["shape"] >= 0) & (labels["shape"] < CLASSES["shape"])
    return features[known], {name: labels[name][known] for name in CLASSES}


def linear_accuracy(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], classes: int) -> float:
    """The share of the test features that multinomial logistic regression on the others tells rightly."""
    features, labels = train
    mean, deviation = features.mean(0), features.std(0).clamp(min=1e-6)
    inputs, tried = ((one - mean) / deviation for one in (features, test[0]))
    weight = torch.zeros(features.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = functional.cross_entropy(inputs @ weight + bias, labels) + WEIGHT_DECAY * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        return float(((tried @ weight + bias).argmax(1) == test[1]).float().mean())


def probe(represent: Callable[[Tensor], Tensor], seed: int) -> dict[str, float]:
    """Accuracy in %, by what is read: "colour" and "shape"."""
    train, labels = objects_patches(represent, seed + 1000, TRAINED_ON)
    test, truth = objects_patches(represent, seed + 2000, TRIED_ON)
    return {
        name: 100 * linear_accuracy((train, labels[name]), (test, truth[name]), classes)
        for name, classes in CLASSES.items()
    }
