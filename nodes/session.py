"""The edit session: noting edits, showing them, and bringing painted pixels back."""

from __future__ import annotations

from typing import Any

import comfy.utils
import torch
from comfy_api.v0_0_2 import io, ui
from torch import Tensor

from ..models.cells import check_mask, touched_cells
from ..models.metrics.timeline import contact_strip
from ..models.session.merge import merge_cells, painted_mask
from ..models.session.record import EditRecord, observe, read_record, with_record
from .autoencoders import decode_pictures
from .graph import producer_of
from .vae_checks import check_latent_fits, check_picture, pixels_per_cell


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


class ReEditMergePixels(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReEditMergePixels",
            display_name="ReEdit Merge Pixels",
            category="ReEdit/session",
            description="Brings painted pixels back into the latent. Only the cells that were painted are taken from the "
            "encoder; every other cell stays as it is, bit for bit.",
            search_aliases=["paint", "encode painted", "composite"],
            inputs=[
                io.Latent.Input("samples", tooltip="The latent whose picture was painted on."),
                io.Image.Input(
                    "pixels", tooltip="The painted picture: ReEdit Decode's, of the same size, changed by hand."
                ),
                io.Vae.Input("vae", tooltip="The VAE that decoded the picture."),
                io.String.Input("label", default="painted", tooltip="Your words for this edit."),
                io.Float.Input(
                    "threshold",
                    default=0.01,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    round=0.001,
                    tooltip="Without a mask: how much a pixel must differ from the decoded latent to count as painted. "
                    "The default passes over 8-bit rounding.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="What was painted (a painter node gives it). Without it the decoded latent is compared.",
                ),
            ],
            outputs=[
                io.Latent.Output(),
                io.Mask.Output(display_name="painted", tooltip="The pixels taken as painted."),
            ],
        )

    @classmethod
    def execute(
        cls,
        samples: dict[str, Any],
        pixels: Tensor,
        vae: Any,
        label: str = "painted",
        threshold: float = 0.01,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        latent = samples["samples"]
        check_latent_fits(latent, vae)
        if latent.ndim != 4:
            raise ValueError("samples is a video's latent; painted pixels can be merged into pictures' latents only.")
        picture = check_picture(pixels)
        height, width = (side * pixels_per_cell(vae) for side in latent.shape[-2:])
        if picture.shape[:3] != (latent.shape[0], height, width):
            raise ValueError(
                f"pixels is {picture.shape[0]} picture(s) of {picture.shape[2]}×{picture.shape[1]}, but the latent's are "
                f"{latent.shape[0]} of {width}×{height}. Paint on what ReEdit Decode gives, and keep its size."
            )
        if mask is None:
            painted = painted_mask(decode_pictures(vae, latent), picture.to(latent.device), threshold)
        else:
            painted = check_mask(mask, latent.shape[0], height, width)
        record = observe(samples)
        cells = touched_cells(painted, *latent.shape[-2:])
        if not bool(cells.any()):  # nothing was painted: nothing is encoded, and there is no edit to note
            return io.NodeOutput(with_record(samples, record), painted)
        merged = merge_cells(latent, vae.encode(picture), cells)
        record = record.with_edit(
            merged,
            label,
            "ReEditMergePixels",
            {"threshold": threshold},
            painted,
            encoded_pixels=picture[..., 0].numel(),
        )
        return io.NodeOutput(with_record(samples, record), painted)


def decode_record(record: EditRecord, vae: Any) -> list[Tensor]:
    """The picture of the source and of every edit, each (B, H, W, 3)."""
    steps = range(len(record.edits) + 1)
    for number in steps:
        check_latent_fits(record.samples_at(number), vae)
    pictures, progress = [], comfy.utils.ProgressBar(len(steps))
    for number in steps:
        pictures.append(decode_pictures(vae, record.samples_at(number)))
        progress.update(1)  # the host looks for an interrupt here
    return pictures


class ReEditTimeline(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReEditTimeline",
            display_name="ReEdit Timeline",
            category="ReEdit/session",
            description="Shows every step of the session side by side: the source, then each edit with its label.",
            search_aliases=["history", "contact sheet"],
            inputs=[
                io.Latent.Input("samples", tooltip="The latent, with the session's record in it."),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the latent."),
                io.Int.Input("columns", default=6, min=1, max=64, tooltip="Pictures in one row."),
            ],
            outputs=[
                io.Image.Output(display_name="timeline", tooltip="One picture with all steps and their labels."),
                io.Image.Output(
                    display_name="pictures",
                    tooltip="The steps as a batch: the source first. Steps of another size than the last are left out.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, samples: dict[str, Any], vae: Any, columns: int = 6) -> io.NodeOutput:
        record = observe(samples)
        pictures = decode_record(record, vae)
        labels = ["source"] + [f"{edit.number}. {edit.label}" for edit in record.edits]
        strip = contact_strip([picture[0] for picture in pictures], labels, columns)[None]
        same_size = torch.cat([picture for picture in pictures if picture.shape == pictures[-1].shape])
        return io.NodeOutput(strip, same_size, ui=ui.PreviewImage(strip, cls=cls))
