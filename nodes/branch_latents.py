"""Branches of one model call that see another noisy latent than the sampler's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from torch import Tensor

KEY = "reedit_branch_latents"


def with_own_latents(x: Tensor, branches: list[int], latents: Mapping[int, Tensor]) -> Tensor:
    """A model's input in which the branches that have a latent of their own see that one.

    x: the inputs of all branches in a row, (len(branches)·B, C, [T,] H, W). branches: the host's cond_or_uncond.
    """
    if not any(branch in latents for branch in branches):
        return x
    chunks = x.chunk(len(branches))
    return torch.cat([latents.get(branch, chunk) for branch, chunk in zip(branches, chunks, strict=True)])


class BranchLatents:
    """latents: what each branch sees in the calls to come, by its number in calc_cond_batch's list."""

    def __init__(self) -> None:
        self.latents: dict[int, Tensor] = {}

    def install(self, model_options: dict[str, Any]) -> None:
        """Put the hook into a run's own options. The model is not touched."""
        options = model_options.setdefault("transformer_options", {})
        add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, self._apply_model, options)

    def _apply_model(
        self,
        execute: Callable[..., Tensor],
        x: Tensor,
        t: Tensor,
        c_concat: Any,
        c_crossattn: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        options = args[1] if len(args) > 1 else kwargs["transformer_options"]
        x = with_own_latents(x, options["cond_or_uncond"], self.latents)
        return execute(x, t, c_concat, c_crossattn, *args, **kwargs)
