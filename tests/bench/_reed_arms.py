"""The arms of REED-VAE's ablation: the decoders that are compared, and what the training of each cost, from its log."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import _host
import torch
from reedit.models.autoencoders.kl_file import read_autoencoder
from reedit.models.autoencoders.kl_layout import KLConfig, read_config
from reedit.models.autoencoders.kl_network import KLNetwork, build_autoencoder
from reedit.models.training.reed import REEDSettings, REEDTask
from reedit.nodes.autoencoders import load_kl_vae
from reedit.nodes.correction import DEFAULT_CORRECTIONS, CorrectedVAE
from tiny_sd.differences import restored
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

BASE = "untouched base"
VANILLA, ITERATIVE, FIRST_STEP = "vanilla", "iterative", "iterative + first-step loss"
FULL = "full recipe"  # the paper's: iterative, first-step loss and dynamic incrementation
LATENT = "full recipe + latent term"  # ours, and the demo family's decoder
# No training: decoding is corrected by the encoder (models/autoencoders/correction.py), as often as the node does it; ours.
CORRECTED = {f"{arm}, corrected": arm for arm in (BASE,)}
LESSER = (BASE, VANILLA, ITERATIVE, FIRST_STEP)  # what the paper's full recipe is to be better than
JUDGED = (FULL, LATENT, *CORRECTED)
BASE_FILE = _host.WEIGHTS / "tiny_sd_autoencoder.safetensors"
# Of each arm: its decoder and its log, in the folder of weights.
FILES = {
    VANILLA: ("ablation/vanilla.safetensors", "ablation/vanilla.jsonl"),
    ITERATIVE: ("ablation/iterative.safetensors", "ablation/iterative.jsonl"),
    FIRST_STEP: ("ablation/first_step_loss.safetensors", "ablation/first_step_loss.jsonl"),
    FULL: ("ablation/full.safetensors", "ablation/full.jsonl"),
    LATENT: ("tiny_sd_reed_decoder.safetensors", "reed_decoder.jsonl"),
}
ARMS = (BASE, *FILES, *CORRECTED)
SETTLING, COUNTED = 30, 10  # steps


def decoder_file(arm: str, weights: Path) -> Path:
    """The file with an arm's decoder; the base's is whole, and the ablation's are restored from what they differ by."""
    arm = CORRECTED.get(arm, arm)
    if arm == BASE:
        return BASE_FILE
    file = weights / FILES[arm][0]
    return file if arm == LATENT else restored(file, BASE_FILE)


@cache
def autoencoder(arm: str, weights: Path) -> Any:
    """An arm's VAE: its decoder over the base, as the loader node does it, or another arm's, corrected."""
    if arm in CORRECTED:
        return CorrectedVAE(autoencoder(CORRECTED[arm], weights), DEFAULT_CORRECTIONS)
    base = load_kl_vae(BASE_FILE)
    return base if arm == BASE else load_kl_vae(decoder_file(arm, weights), base)


def about(arm: str, weights: Path) -> dict[str, Any]:
    """What the training wrote into an arm's file: its settings, its last figures, the perceptual distance, the base."""
    return json.loads(read_autoencoder(decoder_file(arm, weights)).metadata["reedit"])


class NoNumbers(KLNetwork):
    """An autoencoder for tensors that have a shape and nothing else: what is done with it can be counted without doing it."""

    def __init__(self, config: KLConfig) -> None:
        nn.Module.__init__(self)
        self.config, self.autoencoder = config, build_autoencoder(config)


@contextmanager
def without_numbers() -> Iterator[None]:
    """Tensors made inside have no numbers; training is on."""
    with torch.inference_mode(False), torch.enable_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        yield


def training_cost(arm: str, weights: Path) -> dict[str, Any]:
    """What an arm's training steps took: pictures through the networks, forward and back, and floating-point operations.

    A row of the log holds for the steps since the row before. What the figures of the log cost is left out.
    """
    settings = REEDSettings(**about(arm, weights)["settings"])
    rows = [json.loads(line) for line in (weights / FILES[arm][1]).read_text(encoding="utf-8").splitlines()]
    steps_with: Counter[int] = Counter()
    for before, row in pairwise([{"step": 0}, *rows]):
        steps_with[int(row["k"])] += row["step"] - before["step"]
    total: Counter[str] = Counter()
    for passes, steps in steps_with.items():
        for name, count in step_cost(settings, passes).items():
            total[name] += round(count * steps)
    return {
        "steps": sum(steps_with.values()),
        "new pictures a step": settings.batch * settings.accumulation,
        "steps by the chain's length": {str(passes): steps for passes, steps in sorted(steps_with.items())},
        **total,
    }


@cache
def step_cost(settings: REEDSettings, passes: int) -> dict[str, float]:
    """Of one step on the mean, counted while the real loss runs without numbers.

    Where chains are kept from step to step, the steps that are counted come when there are as many as there will be.
    """
    counts: Counter[str] = Counter()

    def counted(name: str, network: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def call(value: Tensor) -> Tensor:
            counts[f"pictures through the {name}"] += len(value)
            output = network(value)
            if output.requires_grad:
                output.register_hook(lambda gradient: counts.update({f"gradients back through the {name}": len(value)}))
            return output

        return call

    config = read_config(read_autoencoder(BASE_FILE).in_ldm_layout())
    uncounted, steps = (SETTLING, COUNTED) if settings.kept_chains else (0, 1)
    with without_numbers():
        task = REEDTask(NoNumbers(config), settings)
        network: Any = task.network
        network.encode, network.decode = counted("encoder", network.encode), counted("decoder", network.decode)
        pictures = torch.empty(settings.batch, 3, settings.crop, settings.crop)
        for _ in range(uncounted):
            task.module(pictures, passes, False)
        counts.clear()
        with FlopCounterMode(display=False) as counter:
            for _ in range(steps):
                task.module(pictures, passes, False)["loss"].backward()
    counts["floating-point operations"] = counter.get_total_flops()
    return {name: count * settings.accumulation / steps for name, count in counts.items()}
