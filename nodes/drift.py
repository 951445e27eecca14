"""How far the picture has drifted from its source."""

from __future__ import annotations

import math
from typing import Any

import comfy.utils
from comfy_api.v0_0_2 import io, ui
from torch import Tensor

from ..models.cells import check_mask
from ..models.metrics.comparison import NO_PERCEPTUAL_DISTANCE, Comparison
from ..models.metrics.drift import StepDrift, measure, measure_step, spectrum_curves
from ..models.metrics.drift_plot import plot_drift
from ..models.metrics.drift_text import describe
from ..models.metrics.perceptual import load_perceptual_distance
from ..models.session.record import SOURCE, EditRecord, observe, with_record
from .reports import as_json
from .timeline import decode_record
from .vae_checks import check_latent_fits, check_picture, pixels_per_cell


def check_reference(reference: Tensor, record: EditRecord, vae: Any) -> Tensor:
    """Return the reference as the VAE would have encoded it: three channels, cropped to whole cells.

    ValueError if it has another size than the current step, or another batch than 1 or the source's.
    """
    if vae is None:
        raise ValueError(
            "reference is connected but vae is not. Connect the VAE, so that there are pictures to compare."
        )
    samples = record.samples_at(record.current)
    check_latent_fits(samples, vae)
    ratio = pixels_per_cell(vae)
    height, width = (ratio * side for side in samples.shape[-2:])
    cropped = vae.vae_encode_crop_pixels(check_picture(reference, "reference"))[..., :3]
    if cropped.shape[1:3] != (height, width):
        raise ValueError(
            f"reference is {reference.shape[2]}×{reference.shape[1]}, but the picture is {width}×{height} at the current "
            "step. Give a picture of that size, or check out a step of the reference's size."
        )
    batch = record.source.shape[0]
    if len(cropped) not in (1, batch):
        raise ValueError(
            f"reference is a batch of {len(cropped)}, but the session began with {batch}: give 1 or {batch}."
        )
    return cropped.cpu()


def number_of(value: float | None) -> float:
    """What is not measured is not a number, as other nodes understand it."""
    return math.nan if value is None else value


def float_outputs(now: StepDrift) -> tuple[float, ...]:
    """The figures of a step in the order of the node's FLOAT outputs."""
    inside, outside = now.inside, now.outside
    shift = outside.colour_shift if outside else None
    return (
        number_of(outside.psnr if outside else None),
        number_of(outside.ssim if outside else None),
        number_of(outside.ms_ssim if outside else None),
        number_of(inside.psnr if inside else None),
        number_of(now.lpips),
        max(map(abs, shift)) if shift else math.nan,
        number_of(now.latent_change_outside),
    )


class ReEditDriftMeter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReEditDriftMeter",
            display_name="ReEdit Drift Meter",
            category="ReEdit/drift",
            description="Measures, for each edit of the session, what moved that should not have: the latent and the picture "
            "inside and outside of what was edited, its colours, its fine detail and its spectrum.",
            search_aliases=["psnr", "ssim", "lpips", "quality", "degradation"],
            inputs=[
                io.Latent.Input("samples", tooltip="The latent, with the session's record in it."),
                io.Vae.Input("vae", optional=True, tooltip="Without it only the latents are measured."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="What counts as edited: everything above black. Without it the masks of the edits on the way to "
                    "the current step, all together; an edit without a mask counts everywhere.",
                ),
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip="Compare with this picture, the original file for example, and not with the decoded source. It "
                    "needs the size of the current step.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="plot"),
                io.String.Output(display_name="report", tooltip="One entry for each edit, as JSON."),
                io.Latent.Output(tooltip="The latent as it came in, with its record brought up to date."),
                io.Float.Output(
                    display_name="psnr_outside",
                    tooltip="dB, of the current step outside of what was edited. Infinite: identical. This and the following "
                    "are NaN (not a number) where they cannot be measured; summary says why.",
                ),
                io.Float.Output(display_name="ssim_outside", tooltip="1 is identical."),
                io.Float.Output(
                    display_name="ms_ssim_outside", tooltip="1 is identical. Sees larger structures than SSIM."
                ),
                io.Float.Output(display_name="psnr_inside", tooltip="dB, of what was edited."),
                io.Float.Output(
                    display_name="lpips", tooltip="Perceptual distance of the whole picture; 0 is identical."
                ),
                io.Float.Output(
                    display_name="colour_shift_outside",
                    tooltip="The mean change of red, green or blue, whichever changed most, in grey levels of 255.",
                ),
                io.Float.Output(
                    display_name="latent_change_outside",
                    tooltip="The largest change of the latent where nothing was edited; 0 is bit-identical.",
                ),
                io.String.Output(display_name="summary", tooltip="The current step in a few sentences."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, samples: dict[str, Any], vae: Any = None, mask: Tensor | None = None, reference: Tensor | None = None
    ) -> io.NodeOutput:
        record = observe(samples)
        if mask is not None:
            mask = check_mask(mask, record.source.shape[0], *samples["samples"].shape[-2:])
        if reference is not None:
            reference = check_reference(reference, record, vae)
        comparison = Comparison(
            reference, mask, load_perceptual_distance() if vae is not None else NO_PERCEPTUAL_DISTANCE
        )
        pictures = None
        if vae is not None:
            pictures = [picture[..., :3].cpu() for picture in decode_record(record, vae)]
        progress = comfy.utils.ProgressBar(max(1, len(record.edits)))
        rows = measure(record, pictures, comparison, lambda: progress.update(1))
        if record.current == SOURCE:
            now = measure_step(record, SOURCE, pictures, comparison)
        else:
            now = rows[record.current - 1].total
        curves = [] if pictures is None else spectrum_curves(record, pictures, comparison)
        plot = plot_drift(rows, curves, record.path_to(record.current))[None]
        report, summary = as_json(rows), describe(now, record.current)
        shown = {**ui.PreviewImage(plot, cls=cls).as_dict(), "text": (report, summary)}
        return io.NodeOutput(plot, report, with_record(samples, record), *float_outputs(now), summary, ui=shown)
