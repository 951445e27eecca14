"""Whether semantic drift tells edited patches from others, and stays quiet under what a VAE's round trips add."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import _host  # noqa: F401
import numpy as np
import torch
from _epsilon_arms import DEMO, in_batches, kl_network
from reedit.models.autoencoders.chain import run_chain
from reedit.models.metrics.semantic_drift import mask_share, patch_drift
from scipy.stats import mannwhitneyu
from tiny_sd.language import EDIT_KINDS, make_edit
from tiny_sd.world import draw, random_scene
from torch import Tensor

EDITED, UNTOUCHED = 0.5, 0.0  # the share of a patch from which on, or up to which, it counts as the one or the other
PASSES = 5  # of encoding and decoding, whose error is the noise


class Pairs:
    """Drawn edits: before, after, (N, 3, S, S) in 0..1, masks (N, S, S), and their kinds."""

    def __init__(self, count: int, seed: int) -> None:
        random = np.random.default_rng((seed, 9))
        edits = [
            make_edit(random, random_scene(random), EDIT_KINDS[number % len(EDIT_KINDS)]) for number in range(count)
        ]
        self.kinds = [edit.kind for edit in edits]
        self.before, self.after = (
            torch.from_numpy(np.stack([draw(scene) for scene in scenes])).movedim(-1, 1)
            for scenes in ([edit.before for edit in edits], [edit.after for edit in edits])
        )
        self.masks = torch.from_numpy(np.stack([edit.mask for edit in edits]))


def worn(pairs: Pairs, weights: Path) -> Tensor:
    """The sources with the error of some round trips through the demo's VAE, scaled to the edit's mean squared error each."""
    network = kl_network(DEMO.base, DEMO.base, weights)

    def passes(pictures: Tensor) -> Tensor:
        return list(run_chain(network.encode, network.decode, pictures, PASSES, True))[-1]

    error = in_batches(passes, pairs.before) - pairs.before
    wanted = (pairs.after - pairs.before).square().mean((1, 2, 3))
    scale = (wanted / error.square().mean((1, 2, 3))).sqrt()
    return pairs.before + scale[:, None, None, None] * error


def area(drift: Tensor, share: Tensor) -> float:
    """The area under the curve (AUC): how often an edited patch has drifted further than an untouched one."""
    edited, untouched = drift[share >= EDITED], drift[share <= UNTOUCHED]
    return float(mannwhitneyu(edited.numpy(), untouched.numpy()).statistic / (len(edited) * len(untouched)))


def measure(tokens: Callable[[Tensor], Tensor], pairs: Pairs, noised: Tensor) -> dict[str, Any]:
    """AUCs and mean drifts of a vision model's tokens. tokens: pictures to (B, patches, C)."""
    before, after, worn_out = (in_batches(tokens, one) for one in (pairs.before, pairs.after, noised))
    side = round(before.shape[1] ** 0.5)
    share = mask_share(pairs.masks, side, side).flatten(1)
    edit, noise = patch_drift(before, after), patch_drift(before, worn_out)
    kinds = {kind: torch.tensor([one == kind for one in pairs.kinds]) for kind in EDIT_KINDS}
    touched = share >= EDITED
    return {
        "AUC, edited patches against untouched ones": area(edit, share),
        "AUC by kind of edit": {kind: area(edit[chosen], share[chosen]) for kind, chosen in kinds.items()},
        "AUC of the same patches under noise": area(noise, share),
        "AUC, edited patches against the same under noise": float(
            mannwhitneyu(edit[touched].numpy(), noise[touched].numpy()).statistic / int(touched.sum()) ** 2
        ),
        "mean drift of edited patches": float(edit[touched].mean()),
        "mean drift of untouched patches": float(edit[share <= UNTOUCHED].mean()),
        "mean drift under noise": float(noise.mean()),
    }
