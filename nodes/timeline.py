"""The steps of a session as pictures."""

from __future__ import annotations

from typing import Any

import comfy.utils
import torch
from comfy_api.v0_0_2 import io, ui
from torch import Tensor

from ..models.metrics.timeline import contact_strip
from ..models.session.record import EditRecord, observe
from .autoencoders import decode_pictures
from .vae_checks import check_latent_fits


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
