"""Weights of a loss's terms that follow from their gradients: for the pivot, and for a discriminator's judgement."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def pivot_distance(found: Tensor, pivot: Tensor) -> Tensor:
    """How far an encoder's output has moved from that of its frozen copy on the same pictures: the mean square.

    RPiAE's pivot regulariser (Gong et al., arXiv 2603.19206; PAPERS.md 5.3), for any encoder: tokens or latents, both of one
    shape. Nothing goes back into `pivot`.
    """
    return functional.mse_loss(found.float(), pivot.detach().float())


def balancing_weight(loss: Tensor, term: Tensor, layer: Tensor, least: float, most: float) -> Tensor:
    """The weight at which a term pulls as hard at a layer as the loss: |grad loss| / (|grad term| + least), at most `most`.

    A scalar without a gradient. loss, term: scalars; layer: a parameter that both depend on. Their graph is kept.
    """
    pulls = [torch.autograd.grad(one, layer, retain_graph=True)[0].float().norm() for one in (loss, term)]
    return (pulls[0] / (pulls[1] + least)).clamp(max=most).detach()
