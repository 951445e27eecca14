"""Long chains of edits: taking back what they do by accident."""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io
from torch import Tensor

from ..models.cells import check_mask
from ..models.session.alignment import (
    EXACT_CELLS,
    METHODS,
    align,
    check_settings,
    count_edits,
    note_alignment,
    reference_at,
)
from ..models.session.record import SOURCE, EditRecord, observe, with_record
from .session import followed_noise_mask


class ReEditAlign(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReEditAlign",
            display_name="ReEdit Align",
            category="ReEdit/emilie",
            description="Takes back what an edit did by accident outside of its mask: the slow drift of colours and "
            "contrast in a long chain of edits. Goes after a sampler or a commit, before the next edit.",
            search_aliases=[
                "drift",
                "VAE-LFA",
                "low frequency alignment",
                "match mean and std",
                "re-anchor",
                "colour shift",
            ],
            inputs=[
                io.Latent.Input("samples", tooltip="The latent after an edit, with the session's record in it."),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default=EXACT_CELLS,
                    tooltip="exact cells: everything outside the mask goes back. low frequencies: slow changes over the "
                    "picture go, detail stays; for masks that may be too tight. low-frequency mean and std: each channel's "
                    "low frequencies get their mean and contrast back. mean and std: each channel does as a whole. For edits "
                    "without a mask, any but exact cells, with a small strength (0.15).",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How much of it is taken back. 0: nothing. For edits without a mask, about 0.15: otherwise the "
                    "edit itself is taken back with the drift.",
                ),
                io.Float.Input(
                    "radius",
                    default=1.0,
                    min=0.1,
                    max=64.0,
                    step=0.1,
                    tooltip="What counts as a low frequency: the low pass is a Gaussian whose standard deviation is this "
                    "many latent cells.",
                    advanced=True,
                ),
                io.Float.Input(
                    "memory",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="For earlier edits without a mask: how much of the picture before them the reference keeps. "
                    "0: all that they changed was meant. 1: none of it. For edits with a mask each cell is as it was when it "
                    "was last meant to change, whatever this says.",
                    advanced=True,
                ),
                io.Int.Input(
                    "every",
                    default=1,
                    min=1,
                    max=1000,
                    tooltip="Act only at every n-th edit, counted from the source; after the others the latent passes "
                    "through as it is.",
                    advanced=True,
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the newest edit was meant to act; it is noted in the record. Without it: the mask that "
                    "the record has for this edit, or the noise mask that the sampler kept to. Where there is none, nothing "
                    "is excluded.",
                ),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(
        cls,
        samples: dict[str, Any],
        method: str = EXACT_CELLS,
        strength: float = 1.0,
        radius: float = 1.0,
        memory: float = 0.0,
        every: int = 1,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        check_settings(method, strength, radius, memory, every)
        latent, record = samples["samples"], observe(samples)
        if mask is not None:
            mask = check_mask(mask, latent.shape[0], *latent.shape[-2:])
        if record.current == SOURCE:  # no edit yet, so nothing has drifted
            return io.NodeOutput(with_record(samples, record, latent))
        edit = record.edit(record.current)
        if mask is None:
            mask = noise_mask_of_edit(samples, record) if record.is_unrecorded else None
            mask = edit.mask if mask is None else mask
        if count_edits(record) % every:
            is_newest = record.current == len(record.edits)
            if is_newest and mask is not None:  # what later edits are aligned to depends on it
                record = note_alignment(record, latent, {}, mask)
            return io.NodeOutput(with_record(samples, record, latent))
        check_comparable(record, method, mask)
        aligned = align(latent, reference_at(record, edit.parent, memory), mask, method, strength, radius)
        settings = {"method": method, "strength": strength, "radius": radius, "memory": memory, "every": every}
        parameters = {f"align.{name}": value for name, value in settings.items()}
        return io.NodeOutput(with_record(samples, note_alignment(record, aligned, parameters, mask), aligned))


def noise_mask_of_edit(latent: dict[str, Any], record: EditRecord) -> Tensor | None:
    """The LATENT's noise mask as (B, H, W), if the current edit kept to it."""
    before = record.samples_at(record.edit(record.current).parent)
    return followed_noise_mask(latent, before) if before.shape == latent["samples"].shape else None


def check_comparable(record: EditRecord, method: str, mask: Tensor | None) -> None:
    """Raise ValueError where the current edit has nothing to be aligned to, or where the method would only undo it."""
    edit = record.edit(record.current)
    before = tuple(record.source.shape) if edit.parent == SOURCE else record.edit(edit.parent).change.shape
    if before != edit.change.shape:
        raise ValueError(
            f"samples has shape {edit.change.shape}, but before its newest edit, “{edit.label}”, the latent had {before}: "
            "there is nothing to align it to. Place ReEdit Align after the edit that follows, and not after this one."
        )
    if method == EXACT_CELLS and mask is None:
        raise ValueError(
            f"method “{EXACT_CELLS}” puts everything outside of the mask back, but nothing says where “{edit.label}” was "
            "meant to act: all of it would be undone. Connect its mask, or choose another method, with a small strength."
        )
