"""Bringing painted pixels back into the latent."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import comfy.utils
import torch
from comfy_api.v0_0_2 import io
from torch import Tensor

from ..models.autoencoders.receptive_field import measure_context
from ..models.cells import ASPECT_TOLERANCE, check_mask, touched_cells
from ..models.session.merge import find_windows, merge_weights, merge_window, put_window
from ..models.session.painted import lay_over, painted_mask, without_specks
from ..models.session.record import observe, with_record
from .autoencoders import decode_pictures
from .history import describe_session
from .vae_checks import check_latent_fits, check_picture, pixels_per_cell

FEATHERED, DIFFERENCE, HARD = "feathered", "difference", "hard"

_contexts: WeakKeyDictionary[torch.nn.Module, int] = WeakKeyDictionary()


class ReEditMergePixels(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReEditMergePixels",
            display_name="ReEdit Merge Pixels",
            category="ReEdit/session",
            description="Brings painted pixels back into the latent. Only the cells that were painted, and those right "
            "beside them, come from the encoder; every other cell stays as it is, bit for bit.",
            search_aliases=["paint", "encode painted", "composite"],
            inputs=[
                io.Latent.Input("samples", tooltip="The latent whose picture was painted on."),
                io.Image.Input(
                    "pixels",
                    tooltip="The painted picture: ReEdit Decode's, of the same size, changed by hand. A layer with an "
                    "alpha channel is laid over it.",
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
                # The widgets below are optional since graphs queued by older scripts do not name them.
                io.Int.Input(
                    "minimum_area",
                    default=4,
                    min=1,
                    max=1_000_000,
                    optional=True,
                    tooltip="Without a mask: connected regions of fewer pixels are passed over as specks.",
                ),
                io.Combo.Input(
                    "blend",
                    options=[FEATHERED, DIFFERENCE, HARD],
                    default=FEATHERED,
                    optional=True,
                    tooltip="How the paint joins the rest. feathered: the cells beside the paint change with it, and no "
                    "seam shows. difference: the same, but only what the paint changed is added; for glazes, and for "
                    "painting the same place again and again; twice the work. hard: no cell beside the paint changes.",
                ),
                io.Int.Input(
                    "feather",
                    default=1,
                    min=0,
                    max=16,
                    optional=True,
                    tooltip="How many cells around the painted ones change with them. Not used by hard.",
                ),
                io.Image.Input(
                    "decoded",
                    optional=True,
                    tooltip="The picture that was painted on, as ReEdit Decode gave it. Saves decoding the latent again.",
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
        minimum_area: int = 4,
        blend: str = FEATHERED,
        feather: int = 1,
        decoded: Tensor | None = None,
    ) -> io.NodeOutput:
        latent = samples["samples"]
        check_inputs(latent, pixels, vae, decoded)
        batch, height, width = pixels.shape[:3]
        painted = None if mask is None else check_mask(mask, batch, height, width)
        before = None if decoded is None else decoded[..., :3]
        if before is None and (mask is None or blend == DIFFERENCE or pixels.shape[-1] == 4):
            before = decode_pictures(vae, latent)
        target = pixels if before is None or pixels.shape[-1] == 3 else lay_over(pixels, before.to(pixels))
        parameters: dict[str, Any] = {"blend": blend}
        if painted is None:
            assert before is not None  # it was decoded above
            painted = without_specks(painted_mask(before.to(target), target, threshold), minimum_area)
            parameters |= {"threshold": threshold, "minimum_area": minimum_area}
        record = observe(samples)
        cells = touched_cells(painted, *latent.shape[-2:]).expand(batch, -1, -1, -1)
        if not bool(cells.any()):  # nothing was painted: nothing is encoded, and there is no edit to note
            return io.NodeOutput(with_record(samples, record), painted, ui=describe_session(record))
        if before is not None:
            before = before.to(target)
            target = torch.where(touched_cells(painted, height, width)[:, 0, :, :, None], target, before)
        if blend != HARD:
            parameters["feather"] = feather
        weights = merge_weights(cells, 0 if blend == HARD else feather)
        merged, encoded_pixels = merge(latent, target, weights, vae, before if blend == DIFFERENCE else None)
        # The mask is on the latent's grid, since cells change as a whole.
        record = record.with_edit(merged, label, "ReEditMergePixels", parameters, weights[:, 0], encoded_pixels)
        shown = describe_session(record, {record.current: target})
        return io.NodeOutput(with_record(samples, record, merged), painted, ui=shown)


def check_inputs(latent: Tensor, pixels: Tensor, vae: Any, decoded: Tensor | None) -> None:
    """Raise ValueError for a latent, a picture or a decoded picture that do not belong together."""
    check_latent_fits(latent, vae)
    if latent.ndim != 4:
        raise ValueError("samples is a video's latent; painted pixels can be merged into pictures' latents only.")
    height, width = (side * pixels_per_cell(vae) for side in latent.shape[-2:])
    for name, picture in {"pixels": pixels, "decoded": decoded}.items():
        if picture is None:
            continue
        colours = check_picture(picture, name)
        count, its_height, its_width = colours.shape[:3]
        if (count, its_height, its_width) == (latent.shape[0], height, width):
            continue
        sizes = f"{its_width}×{its_height}, but the latent's are {latent.shape[0]} of {width}×{height}."
        if (its_height, its_width) == (height, width):
            advice = "Give one picture for each latent of the batch."
        elif abs(its_width * height - its_height * width) <= ASPECT_TOLERANCE * its_height * width:
            advice = f"It looks resized: resize it back to {width}×{height}, and better paint at that size."
        else:
            advice = f"It looks cropped or padded: put it back where it was, on {width}×{height} pixels."
        raise ValueError(f"{name} is {count} picture(s) of {sizes} {advice}")


def encoder_context(vae: Any) -> int:
    """The context, in cells, that this VAE's encoder needs; measured when first asked for, and kept as long as the VAE."""
    model = vae.first_stage_model
    if model not in _contexts:
        _contexts[model] = measure_context(vae.encode, pixels_per_cell(vae))
    return _contexts[model]


def merge(latent: Tensor, target: Tensor, weights: Tensor, vae: Any, before: Tensor | None) -> tuple[Tensor, int]:
    """The latent with the painted picture in it, and how many pixels were encoded for it. See `merge_window`."""
    windows = find_windows(weights, encoder_context(vae))
    progress = comfy.utils.ProgressBar(len(windows))
    merged = latent.clone()
    for window in windows:
        put_window(merged, merge_window(latent, target, weights, window, vae.encode, before), weights, window)
        progress.update(1)
    pictures = 1 if before is None else 2
    return merged, pictures * pixels_per_cell(vae) ** 2 * sum(window.area for window in windows)
