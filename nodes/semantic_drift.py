"""How far an edit moved the meaning of a picture."""

from __future__ import annotations

import math
from typing import Any

import comfy.clip_vision
import torch
from comfy_api.v0_0_2 import io, ui
from torch import Tensor

from ..models.cells import check_mask
from ..models.metrics.semantic_drift import mask_share, patch_drift, summarise
from ..models.metrics.semantic_drift_plot import plot_semantic_drift
from .dinov2 import patch_tokens
from .reports import as_json
from .rpiae import RPiAEVAE
from .vae_checks import check_picture


def tokens_of(encoder: Any, pixels: Tensor) -> Tensor:
    """The tokens of the patches of pictures, (B, patches, C). Raises ValueError for what has no such tokens."""
    if isinstance(encoder, RPiAEVAE):
        return encoder.tokens(pixels)
    if isinstance(encoder, comfy.clip_vision.ClipVisionModel):
        return patch_tokens(encoder, pixels)
    raise ValueError(
        f"encoder ({type(encoder).__name__}) has no tokens that say what is in a picture. Connect a vision model from Load "
        "DINOv2 or Load CLIP Vision, or an RPiAE from Load RPiAE."
    )


def check_pair(source: Tensor, edited: Tensor) -> tuple[Tensor, Tensor]:
    """Source and edit as three channels, of one size, as many of the one as of the other. ValueError where they differ."""
    source, edited = check_picture(source, "source"), check_picture(edited, "edited")
    if source.shape[1:] != edited.shape[1:]:
        raise ValueError(
            f"source is {source.shape[2]}×{source.shape[1]}, and edited is {edited.shape[2]}×{edited.shape[1]}. Patches are "
            "compared place by place: give pictures of one size."
        )
    if len(source) not in (1, len(edited)):
        raise ValueError(
            f"source is a batch of {len(source)}, and edited one of {len(edited)}: give 1 source or as many."
        )
    return source.expand(len(edited), -1, -1, -1), edited


class ReEditSemanticDrift(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReEditSemanticDrift",
            display_name="ReEdit Semantic Drift",
            category="ReEdit/drift",
            description="Measures how far an edit moved what is in the picture, patch by patch: the angle between a vision "
            "model's tokens of the source and of the edit. Grain and compression hardly count; another object does.",
            search_aliases=["dinov2", "clip", "similarity", "meaning", "heat map"],
            inputs=[
                io.Image.Input("source", tooltip="The picture before the edit."),
                io.Image.Input("edited", tooltip="The picture after it, of the same size."),
                io.MultiType.Input(
                    "encoder",
                    types=[io.ClipVision, io.Vae],
                    tooltip="The vision model whose tokens are compared: a DINOv2 from Load DINOv2 or Load CLIP Vision, or "
                    "an RPiAE from Load RPiAE, which takes square pictures.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="What was to be edited. With it, drift is of what it covers, and drift_outside of the rest.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="heat_map", tooltip="Source, edit and drift side by side."),
                io.Mask.Output(
                    display_name="drift_map",
                    tooltip="1 - cosine of each patch, at the picture's size: 0 is the same meaning, 1 no likeness.",
                ),
                io.Float.Output(
                    display_name="drift", tooltip="The mean over the mask, or over the picture; of a batch the largest."
                ),
                io.Float.Output(
                    display_name="drift_outside",
                    tooltip="The mean outside of the mask. NaN (not a number) without one.",
                ),
                io.String.Output(display_name="report", tooltip="The figures of every picture, as JSON."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, source: Tensor, edited: Tensor, encoder: Any, mask: Tensor | None = None) -> io.NodeOutput:
        source, edited = check_pair(source, edited)
        count, height, width = edited.shape[:3]
        if mask is not None:
            mask = check_mask(mask, count, height, width)
        drift = patch_drift(tokens_of(encoder, source), tokens_of(encoder, edited)).cpu()
        side = math.isqrt(drift.shape[1])
        drift = drift.unflatten(1, (side, side))
        share = None if mask is None else mask_share(mask.cpu(), side, side).expand(count, -1, -1)
        found = [summarise(drift[number], None if share is None else share[number]) for number in range(count)]
        shown_mask = None if mask is None else outline_of(mask.cpu(), count, height, width)
        plots = [
            plot_semantic_drift(
                source[number],
                edited[number],
                drift[number],
                found[number],
                None if shown_mask is None else shown_mask[number],
            )
            for number in range(count)
        ]
        heat_map = torch.stack(plots)
        drift_map = torch.nn.functional.interpolate(drift[:, None], (height, width), mode="nearest-exact")[:, 0].clamp(
            0, 1
        )
        outside = [one.outside for one in found if one.outside is not None]
        report = as_json(found)
        shown = {**ui.PreviewImage(heat_map, cls=cls).as_dict(), "text": (report,)}
        inside = max(one.drift for one in found)
        return io.NodeOutput(heat_map, drift_map, inside, max(outside, default=math.nan), report, ui=shown)


def outline_of(mask: Tensor, count: int, height: int, width: int) -> Tensor:
    """A mask at the picture's size, one for each picture."""
    sized = torch.nn.functional.interpolate(mask[:, None], (height, width), mode="bilinear")[:, 0]
    return sized.expand(count, -1, -1)
