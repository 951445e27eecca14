"""How far the picture has drifted from its source."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from comfy_api.v0_0_2 import io, ui

from ..models.metrics.drift import EditDrift, measure
from ..models.metrics.drift_plot import plot_drift
from ..models.session.record import observe, with_record
from .timeline import decode_record


def as_json(rows: list[EditDrift]) -> str:
    """The rows as JSON text. What JSON cannot say (infinity, not a number) becomes null or "infinite"."""

    def plain(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return "infinite" if value > 0 else None
        return value

    return json.dumps([{key: plain(value) for key, value in asdict(row).items()} for row in rows], indent=2)


class ReEditDriftMeter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReEditDriftMeter",
            display_name="ReEdit Drift Meter",
            category="ReEdit/drift",
            description="Measures, for each edit of the session, what moved: the latent outside the edit's mask, the picture "
            "where no edit was allowed to act, and how much fine detail is left.",
            search_aliases=["psnr", "quality", "degradation"],
            inputs=[
                io.Latent.Input("samples", tooltip="The latent, with the session's record in it."),
                io.Vae.Input("vae", optional=True, tooltip="Without it only the latents are measured."),
            ],
            outputs=[
                io.Image.Output(display_name="plot"),
                io.String.Output(display_name="report", tooltip="One entry for each edit, as JSON."),
                io.Latent.Output(tooltip="The latent as it came in, with its record brought up to date."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, samples: dict[str, Any], vae: Any = None) -> io.NodeOutput:
        record = observe(samples)
        pictures = None if vae is None else decode_record(record, vae)
        rows = measure(record, pictures)
        plot, report = plot_drift(rows)[None], as_json(rows)
        shown = {**ui.PreviewImage(plot, cls=cls).as_dict(), **ui.PreviewText(report).as_dict()}
        return io.NodeOutput(plot, report, with_record(samples, record), ui=shown)
