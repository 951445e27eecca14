"""The edit session: noting edits and going back to them."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.v0_0_2 import io
from torch import Tensor

from ..models.cells import check_mask, mask_like_samples
from ..models.diffusion.gradient_mask import keep_outside as put_back_outside
from ..models.session.checkout import find_step
from ..models.session.record import SOURCE, observe, read_record, with_record
from .graph import producer_of
from .history import describe_session

ROUNDING = 1e-3  # latent units: what a sampler that works in float32 may leave of the noise mask's outside


class ReEditCommit(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReEditCommit",
            display_name="ReEdit Commit",
            category="ReEdit/session",
            description="Notes in the latent's record what the node before it did: label, tool, parameters, mask, result. "
            "Outside the mask the latent is put back bit for bit.",
            search_aliases=["history", "save edit", "undo"],
            inputs=[
                io.Latent.Input("samples", tooltip="What the tool made: a sampler's output, say."),
                io.String.Input("label", default="", tooltip="Your words for this edit. Empty: the tool's name."),
                io.String.Input(
                    "tool", default="", tooltip="Empty: the node that the latent comes from.", advanced=True
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the edit was meant to act. Without it: the latent's noise mask if the tool kept to it, "
                    "otherwise the cells that changed.",
                ),
                io.Boolean.Input(
                    "keep_outside",
                    default=True,
                    optional=True,  # graphs queued by older scripts do not name it
                    tooltip="Puts the cells where the mask is black back as they were before the edit, bit for bit: "
                    "samplers leave rounding errors there. Off: the mask is only noted.",
                ),
            ],
            outputs=[io.Latent.Output()],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        samples: dict[str, Any],
        label: str = "",
        tool: str = "",
        mask: Tensor | None = None,
        keep_outside: bool = True,
    ) -> io.NodeOutput:
        latent, record = samples["samples"], read_record(samples)
        if mask is not None:
            mask = check_mask(mask, latent.shape[0], *latent.shape[-2:])
        if record.is_unrecorded and record.is_current(latent):
            # A node in between has noted the change already, without a name: this edit takes its place.
            record = record.without_unrecorded()
        before = record.samples_at(record.current)
        if before.shape == latent.shape:
            mask = followed_noise_mask(samples, before) if mask is None else mask
            if mask is not None and keep_outside:
                latent = put_back_outside(latent, before, mask_like_samples(mask, latent))
        told = cls.hidden  # None where another program calls the node outside a graph
        producer, parameters = producer_of(told and told.prompt, told and told.unique_id, "samples")
        tool = tool or producer
        record = record.with_edit(latent, label or tool, tool, parameters, mask)
        return io.NodeOutput(with_record(samples, record, latent), ui=describe_session(record))


def followed_noise_mask(latent: dict[str, Any], before: Tensor) -> Tensor | None:
    """The LATENT's noise mask as (B, H, W), if what changed since `before` lies inside it; otherwise None.

    A noise mask stays in a LATENT long after the sampler it was meant for, so one that was not followed says nothing.
    """
    noise_mask, samples = latent.get("noise_mask"), latent["samples"]
    if noise_mask is None or not bool(noise_mask.any()):
        return None
    height, width = samples.shape[-2:]
    try:
        mask = check_mask(noise_mask, samples.shape[0], height, width, name="noise_mask")
    except ValueError:  # made for another picture
        return None
    outside = mask_like_samples(mask, samples) == 0
    moved = (samples - before.to(samples)).abs() * outside
    return mask if float(moved.max()) <= ROUNDING else None


class ReEditCheckout(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReEditCheckout",
            display_name="ReEdit Checkout",
            category="ReEdit/session",
            description="Goes to any step of the session: undo, redo, or the start of a branch. The latent comes back "
            "bit for bit, and all other steps stay in the record.",
            search_aliases=["undo", "redo", "history", "branch", "go back"],
            inputs=[
                io.Latent.Input("samples", tooltip="The latent, with the session's record in it."),
                io.String.Input(
                    "edit",
                    default="back 1",
                    tooltip="“back 1” for the step before, the number of an edit, its label (the newest with that label), "
                    "or “source”.",
                ),
            ],
            outputs=[
                io.Latent.Output(tooltip="The latent of that step. What is edited next becomes a branch from there."),
                io.Mask.Output(
                    display_name="mask", tooltip="Where that edit acted; white everywhere if it has no mask."
                ),
                io.String.Output(display_name="label"),
            ],
        )

    @classmethod
    def execute(cls, samples: dict[str, Any], edit: str = "back 1") -> io.NodeOutput:
        record = observe(samples)  # a change that nobody noted is kept too, and can be gone back to
        record = record.at(find_step(record, edit))
        latent = with_record(samples, record)
        if record.current == SOURCE:
            mask, label = None, "source"
        else:
            mask, label = record.edit(record.current).mask, record.edit(record.current).label
        if mask is None:
            mask = torch.ones(1, *latent["samples"].shape[-2:])
        return io.NodeOutput(latent, mask, label, ui=describe_session(record))
