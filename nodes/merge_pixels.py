"""Bringing painted pixels back into the latent."""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io
from torch import Tensor

from ..models.cells import check_mask, touched_cells
from ..models.session.merge import merge_cells, painted_mask
from ..models.session.record import observe, with_record
from .autoencoders import decode_pictures
from .vae_checks import check_latent_fits, check_picture, pixels_per_cell


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
