"""The steps of a session as pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.utils
import torch
from comfy_api.v0_0_2 import io, ui
from torch import Tensor

from ..models.metrics.timeline import session_sheet
from ..models.session.cell_change import digest
from ..models.session.record import EditRecord, observe
from .autoencoders import decode_pictures
from .history import describe_session
from .latent_previews import QuickDecoder
from .vae_checks import check_latent_fits


def decode_record(record: EditRecord, vae: Any) -> list[Tensor]:
    """The picture of the source and of every edit, each (B, H, W, 3)."""
    return decode_steps(
        record, lambda samples: check_latent_fits(samples, vae), lambda samples: decode_pictures(vae, samples)
    )


def decode_steps(
    record: EditRecord, check: Callable[[Tensor], None], decode: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    """The picture of the source and of every edit. Steps with the same latent are decoded once and share their picture.

    check: raises an error for a latent that cannot be decoded; it sees all of them before the first is decoded.
    """
    latents = []
    for number in range(len(record.edits) + 1):
        samples = record.samples_at(number)
        check(samples)
        latents.append(digest(samples))
    pictures: dict[str, Tensor] = {}
    progress = comfy.utils.ProgressBar(len(set(latents)))
    for number, latent in enumerate(latents):
        if latent not in pictures:
            pictures[latent] = decode(record.samples_at(number))
            progress.update(1)  # the host looks for an interrupt here
    return [pictures[latent] for latent in latents]


class ReEditTimeline(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReEditTimeline",
            display_name="ReEdit Timeline",
            category="ReEdit/session",
            description="Shows the whole session on one sheet: the source, every edit with its label, its mask and what it "
            "changed, and the branches.",
            search_aliases=["history", "contact sheet", "branches"],
            inputs=[
                io.Latent.Input("samples", tooltip="The latent, with the session's record in it."),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="The VAE that belongs to the latent. Without it, model gives quick previews.",
                ),
                io.Int.Input(
                    "columns", default=6, min=1, max=64, tooltip="Steps in one row; a longer session goes on below."
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Only used without vae: the model that the latent is for. The host's previewer makes the "
                    "pictures: TAESD if its file is in models/vae_approx, otherwise rough colours.",
                ),
                io.Int.Input(
                    "thumbnail",
                    default=256,
                    min=64,
                    max=1024,
                    step=32,
                    optional=True,
                    tooltip="The longer side of each picture on the sheet, in pixels.",
                ),
                io.Boolean.Input(
                    "show_masks", default=True, optional=True, tooltip="Outlines where each edit was allowed to act."
                ),
            ],
            outputs=[
                io.Image.Output(display_name="timeline", tooltip="One picture with all steps and their labels."),
                io.Image.Output(
                    display_name="pictures",
                    tooltip="The steps as a batch: the source first. Steps of another size or batch than the newest are left "
                    "out.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        samples: dict[str, Any],
        vae: Any = None,
        columns: int = 6,
        model: Any = None,
        thumbnail: int = 256,
        show_masks: bool = True,
    ) -> io.NodeOutput:
        if vae is None and model is None:
            raise ValueError(
                "vae and model are both missing. Connect vae for the real pictures, or model for quick previews of them."
            )
        record = observe(samples)
        if vae is not None:
            pictures = decode_record(record, vae)
        else:
            quick = QuickDecoder(model)
            pictures = decode_steps(record, quick.check, quick.decode)
        sheet = session_sheet(record, pictures, columns, thumbnail, show_masks, faithful=vae is not None)[None]
        same_size = torch.cat([picture for picture in pictures if picture.shape == pictures[-1].shape])
        shown = ui.PreviewImage(sheet, cls=cls).as_dict()
        told = describe_session(record, dict(enumerate(pictures)), exact=vae is not None)
        return io.NodeOutput(sheet, same_size, ui={**shown, **told})
