"""The edit session: noting edits and going back to them."""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io
from torch import Tensor

from ..models.cells import check_mask
from ..models.session.record import read_record, with_record
from .graph import producer_of


class ReEditCommit(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReEditCommit",
            display_name="ReEdit Commit",
            category="ReEdit/session",
            description="Notes in the latent's record what the node before it did: label, tool, parameters, mask, result.",
            search_aliases=["history", "save edit", "undo"],
            inputs=[
                io.Latent.Input("samples", tooltip="What the tool made: a sampler's output, say."),
                io.String.Input("label", default="", tooltip="Your words for this edit. Empty: the tool's name."),
                io.String.Input(
                    "tool", default="", tooltip="Empty: the node that the latent comes from.", advanced=True
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="Where the edit was allowed to act; it is noted, not applied."
                ),
            ],
            outputs=[io.Latent.Output()],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, samples: dict[str, Any], label: str = "", tool: str = "", mask: Tensor | None = None
    ) -> io.NodeOutput:
        latent = samples["samples"]
        record = read_record(samples)
        if mask is not None:
            mask = check_mask(mask, latent.shape[0], *latent.shape[-2:])
        producer, parameters = producer_of(cls.hidden.prompt, cls.hidden.unique_id, "samples")
        tool = tool or producer
        return io.NodeOutput(with_record(samples, record.with_edit(latent, label or tool, tool, parameters, mask)))
