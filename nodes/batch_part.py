"""Calling a guider on some items of a batch, each with its own conditioning."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.conds
import comfy.hooks
import torch
from torch import Tensor

# What a model carries when nothing has been patched into it. Whatever else is there may be made for the whole batch.
PLAIN_OPTIONS = {"transformer_options", "registered_hooks", "to_load_options"}
PLAIN_TRANSFORMER_OPTIONS = {"sample_sigmas", "callbacks"}
VIDEO = "num_video_frames"  # the host's name in Stable Video Diffusion's conditioning, whose batch is one video


class BatchDenoiser:
    """denoise(x, sigma, samples) by the host's model: x is (A, ...), and samples says which A of the batch these are.

    Only these go through the model where the conditioning can be taken apart. Where it cannot (a noise mask, a ControlNet,
    anything patched into the model), the whole batch does, and the others' part is thrown away.
    """

    def __init__(self, model: Any, x: Tensor, extra_args: dict[str, Any]):
        self.model = model
        self.extra_args = extra_args
        self.x = x.clone()
        self.denoised = torch.zeros_like(x)
        self.guider = model.inner_model
        self.divisible = extra_args.get("denoise_mask") is None and can_be_divided(
            getattr(self.guider, "conds", None), extra_args.get("model_options", {})
        )

    def __call__(self, x: Tensor, sigma: Tensor, samples: list[int]) -> Tensor:
        if len(samples) == len(self.x):
            self.x, self.denoised = x, self._call(x, sigma)
            return self.denoised
        self.x = self.x.index_copy(0, torch.tensor(samples, device=x.device), x)
        if self.divisible:
            with conditioning_of(self.guider, samples):
                part = self._call(x, sigma)
        else:
            part = self._call(self.x, sigma)[samples]
        self.denoised = self.denoised.index_copy(0, torch.tensor(samples, device=x.device), part)
        return part

    def _call(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.model(x, sigma * x.new_ones([len(x)]), **self.extra_args)


def can_be_divided(conditioning: Any, model_options: dict[str, Any]) -> bool:
    """Whether every part of the conditioning is known to belong to one item of the batch, or to all of them alike."""
    transformer_options = {
        name for name, value in model_options.get("transformer_options", {}).items() if not _is_empty(value)
    }
    if set(model_options) - PLAIN_OPTIONS or transformer_options - PLAIN_TRANSFORMER_OPTIONS:
        return False
    return isinstance(conditioning, dict) and all(
        _entry_is_divisible(entry) for entries in conditioning.values() for entry in entries
    )


@contextmanager
def conditioning_of(guider: Any, samples: list[int]) -> Iterator[None]:
    """The guider, while this lasts, with the conditioning of these items alone."""
    whole = guider.conds
    guider.conds = {name: [_entry_of(entry, samples) for entry in entries] for name, entries in whole.items()}
    try:
        yield
    finally:
        guider.conds = whole


def _entry_of(entry: dict[str, Any], samples: list[int]) -> dict[str, Any]:
    part = {**entry, "model_conds": {name: _part(value, samples) for name, value in entry["model_conds"].items()}}
    if entry.get("mask") is not None:
        part["mask"] = _rows(entry["mask"], samples)
    return part


def _part(value: Any, samples: list[int]) -> Any:
    if isinstance(value, comfy.conds.CONDConstant):
        return value
    if isinstance(value, comfy.conds.CONDList):
        return value._copy_with([_rows(item, samples) for item in value.cond])
    return value._copy_with(_rows(value.cond, samples))


def _rows(values: Tensor, samples: list[int]) -> Tensor:
    """The rows that belong to these items: the host repeats a shorter batch from its beginning."""
    return values if len(values) == 1 else values[[sample % len(values) for sample in samples]]


def _entry_is_divisible(entry: dict[str, Any]) -> bool:
    if entry.get("control") is not None or entry.get("gligen") is not None:
        return False
    hooks = entry.get("hooks")
    if hooks is not None and any(hook.hook_type != comfy.hooks.EnumHookType.Weight for hook in hooks.hooks):
        return False
    values = entry.get("model_conds", {})
    return VIDEO not in values and all(_is_divisible(value) for value in values.values())


def _is_divisible(value: Any) -> bool:
    if isinstance(value, comfy.conds.CONDConstant):  # the host leaves it as it is, so it must not hold rows
        return value.cond is None or isinstance(value.cond, (bool, int, float, str))
    return isinstance(value, comfy.conds.CONDRegular)


def _is_empty(value: Any) -> bool:
    return isinstance(value, (dict, list)) and not any(value.values() if isinstance(value, dict) else value)
