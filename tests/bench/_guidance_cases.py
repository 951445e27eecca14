"""One way to make the edits of the guidance benchmark in the host, measured edit by edit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import nodes as host
import torch
from _guidance_world import Lot, lot, models, words_for
from _report import defaults
from comfy_extras.nodes_custom_sampler import CFGGuider, KSamplerSelect, SamplerCustomAdvanced
from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion
from reedit.models.cells import touched_cells
from reedit.nodes.guidance import ReEditAttentionMask, ReEditBlendedGuider, ReEditGuidanceMask
from reedit.nodes.inversion_sampler import InvertedNoise
from reedit.nodes.stochastic_sampler import ReEditStochasticSampler
from tiny_sd.judge import edit_verdict
from tiny_sd.language import caption
from torch import Tensor

PLAIN, BOX, DIFFERENTIAL = "plain CFG", "CFG in a box by hand", "DifferentialDiffusion"
TRUTH = "the true object's mask"
NAMED = "words named by hand"
OUR_LEVELS = "the levels of our guider"


@dataclass(frozen=True)
class Case:
    """way: PLAIN, BOX, DIFFERENTIAL, or one of our guider's for what is outside of its mask.

    eta: of the stochastic sampler; None: euler. options: our guider's other widgets, where they are not at their defaults.
    mask: OUR_LEVELS gives the mask of DIFFERENTIAL the levels that our guider has, and not ReEdit Attention Mask. Our guider
    may be given TRUTH, a mask of the object's pixels, or NAMED, words to find.
    """

    way: str
    cfg: float
    eta: float | None = None
    mask: str = ""
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        stochastic = "" if self.eta is None else f", eta {self.eta:g}"
        changed = "".join(f", {name} {value}" for name, value in self.options)
        return f"{self.way}, cfg {self.cfg:g}{stochastic}{changed}" + (f", {self.mask}" if self.mask else "")


@dataclass(frozen=True)
class Edited:
    """samples: as the sampler gave them. mask: (B, SIZE, SIZE) in 0..1, which the way found for itself or was given."""

    samples: Tensor
    mask: Tensor | None


def sampled(case: Case, lot: Lot, guider: Any, latent: dict[str, Any], sigmas: Tensor) -> Tensor:
    """The host's SamplerCustomAdvanced from the inverted noise, the same for every way."""
    if case.eta is None:
        sampler = KSamplerSelect.execute("euler")[0]
    else:
        sampler = ReEditStochasticSampler.execute(case.eta, 0)[0]
    noise = InvertedNoise(lot.trajectory, models()[0])
    return SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent)[0]["samples"]


def plain(case: Case, lot: Lot) -> Edited:
    guider = CFGGuider.execute(models()[0], lot.target, lot.negative, case.cfg)[0]
    return Edited(sampled(case, lot, guider, {"samples": lot.samples}, lot.sigmas), None)


def masked(case: Case, lot: Lot) -> Edited:
    """With the host's noise mask. It goes on to sigma 0, where the host puts the source latent back as it was."""
    model = models()[0]
    mask = lot.boxes
    if case.way == DIFFERENTIAL:
        model = DifferentialDiffusion.execute(model)[0]
        mask = attention_masks(case, lot)
    latent = host.SetLatentNoiseMask().set_mask({"samples": lot.samples}, mask)[0]
    guider = CFGGuider.execute(model, lot.target, lot.negative, case.cfg)[0]
    sigmas = torch.cat([lot.sigmas, lot.sigmas.new_zeros(1)])
    return Edited(sampled(case, lot, guider, latent, sigmas), mask)


def attention_masks(case: Case, lot: Lot) -> Tensor:
    """ReEdit Attention Mask of what the edit is about, as one would connect it to the host's nodes. (B, SIZE, SIZE)."""
    model, clip, _ = models()
    widgets = defaults(ReEditAttentionMask)
    if case.mask == OUR_LEVELS:
        widgets |= {name: defaults(ReEditBlendedGuider)[name] for name in ("low", "high", "blur")}
    each = []
    for number, edit in enumerate(lot.edits):
        chosen = {**widgets, "prompt": caption(edit.before), "words": words_for(edit)}
        chosen["trajectory"] = lot.trajectory_of(number)
        latent = {"samples": lot.samples[number : number + 1]}
        each.append(ReEditAttentionMask.execute(model, clip, latent, **chosen)[0])
    return torch.cat(each)


def blended(case: Case, lot: Lot) -> Edited:
    """ReEdit Blended Guider, its widgets as they come but for what the case says."""
    values = defaults(ReEditBlendedGuider) | {"cfg": case.cfg, "outside": case.way} | dict(case.options)
    mask = (lot.truth > 0.5).float() if case.mask == TRUTH else None
    conditionings = (lot.named if case.mask == NAMED else lot.source, lot.target, lot.negative)
    guider = ReEditBlendedGuider.execute(models()[0], *conditionings, trajectory=lot.trajectory, mask=mask, **values)[0]
    samples = sampled(case, lot, guider, {"samples": lot.samples}, lot.sigmas)
    return Edited(samples, ReEditGuidanceMask.execute(guider, {"samples": samples})[0])


WAYS: dict[str, Callable[[Case, Lot], Edited]] = {PLAIN: plain, BOX: masked, DIFFERENTIAL: masked}


def run(case: Case, first: int, count: int, seed: int) -> dict[str, Any]:
    """Figures of each edit of a batch, lists of `count`; and "samples" and "mask", tensors or None."""
    torch.set_num_threads(1)
    with torch.inference_mode():
        batch = lot(first, count, seed)
        return measured(batch, WAYS.get(case.way, blended)(case, batch))


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """What was measured of several batches, as of one."""
    return {name: _joined([part[name] for part in parts]) for name in parts[0]}


def _joined(parts: list[Any]) -> Any:
    if parts[0] is None:
        return None
    return torch.cat(parts) if isinstance(parts[0], Tensor) else [value for part in parts for value in part]


def measured(lot: Lot, edited: Edited) -> dict[str, Any]:
    """Of each edit: the share of right pixels inside, what changed outside, and how the mask lies."""
    vae = models()[2]
    pictures, reconstructed = vae.decode(edited.samples).clamp(0, 1), vae.decode(lot.samples).clamp(0, 1)
    truth = lot.truth > 0.5
    verdicts = [edit_verdict(picture.numpy(), edit) for picture, edit in zip(pictures, lot.edits, strict=True)]
    figures: dict[str, Any] = {
        "kind": [edit.kind for edit in lot.edits],
        "right inside": [verdict.right_inside for verdict in verdicts],
        "squared error outside": squared_errors(pictures, lot.sources, ~truth),
        "squared error outside, against the VAE's own": squared_errors(pictures, reconstructed, ~truth),
        "IoU": None,
        "largest change where the mask is 0": None,
        "samples": edited.samples,
        "mask": edited.mask,
    }
    if edited.mask is not None:
        mask = edited.mask > 0.5
        figures["IoU"] = ((mask & truth).sum((1, 2)) / (mask | truth).sum((1, 2))).tolist()
        untouched = ~touched_cells(edited.mask, *lot.samples.shape[-2:])
        figures["largest change where the mask is 0"] = largest_changes(edited.samples, lot.samples, untouched)
    return figures


def squared_errors(pictures: Tensor, wanted: Tensor, where: Tensor) -> list[float]:
    """Each picture's mean squared error over some of its pixels. pictures: (B, H, W, 3). where: (B, H, W) bool."""
    errors = (pictures - wanted).square().mean(-1)
    return [float(error[place].mean()) for error, place in zip(errors, where, strict=True)]


def largest_changes(samples: Tensor, source: Tensor, where: Tensor) -> list[float]:
    """Of each latent, over some of its cells; 0 where there are none. where: (B, 1, h, w) bool."""
    changes = (samples - source).abs().amax(1, keepdim=True)
    return torch.where(where, changes, 0.0).amax((1, 2, 3)).tolist()
