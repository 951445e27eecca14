"""Instructions that each act inside a mask, several in one sampling run."""

from __future__ import annotations

import math
from typing import Any

from comfy_api.v0_0_2 import io
from torch import Tensor

from ..models.cells import check_mask
from .instruct_guider import PREDICTION, RESULT, TEXT_TERM, InstructGuider, Instruction, InstructSettings
from .picture_conditioning import INPAINT, Conditioning, check_takes_picture, with_values

INSTRUCTION = "reedit_instruction"  # the key under which a CONDITIONING's entry carries its mask and scales

TEXT_SCALE_TOOLTIP = (
    "How strongly the instruction is followed: 7.5 is usual for InstructPix2Pix, 1 for models that are "
    "distilled or have a guidance of their own (Flux Kontext)."
)


def scale_inputs() -> list[Any]:
    return [
        io.Float.Input("text_scale", default=7.5, min=0.0, max=100.0, step=0.1, round=0.01, tooltip=TEXT_SCALE_TOOLTIP),
        io.Float.Input(
            "image_scale",
            default=1.5,
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            tooltip="How strongly the picture is kept: more where an edit changes too much, less where it does not take. At "
            "1 a third of the model's work is saved.",
        ),
    ]


def check_scales(text_scale: float, image_scale: float) -> None:
    """Raise ValueError for scales that no edit can be made with."""
    if not (math.isfinite(text_scale) and text_scale > 0):
        raise ValueError(
            f"text_scale is {text_scale:g}, with which the instruction would do nothing. 7.5 is usual for InstructPix2Pix, "
            "and 1 for distilled models."
        )
    if not (math.isfinite(image_scale) and image_scale >= 0):
        raise ValueError(f"image_scale is {image_scale:g}; it must be 0 or more. 1.5 is usual for InstructPix2Pix.")


class ReEditInstruction(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReEditInstruction",
            display_name="ReEdit Instruction",
            category="ReEdit/emilie",
            description="One instruction with its own mask and scales. Chain several and give them to ReEdit Instruct "
            "Guider: all are carried out in one sampling run.",
            search_aliases=["regional instruction", "multi mask edit", "regional prompt", "EMILIE"],
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="The instruction, from CLIP Text Encode."),
                io.Mask.Input(
                    "mask",
                    tooltip="Where the instruction acts: white in full, grey less, black not at all. Where masks of several "
                    "instructions overlap, they share the place.",
                ),
                *scale_inputs(),
                io.Conditioning.Input(
                    "others", optional=True, tooltip="Further instructions, from another ReEdit Instruction."
                ),
            ],
            outputs=[
                io.Conditioning.Output(tooltip="All instructions so far: the positive of ReEdit Instruct Guider."),
            ],
        )

    @classmethod
    def execute(
        cls,
        conditioning: Conditioning,
        mask: Tensor,
        text_scale: float = 7.5,
        image_scale: float = 1.5,
        others: Conditioning | None = None,
    ) -> io.NodeOutput:
        check_scales(text_scale, image_scale)
        if not bool(mask.any()):
            raise ValueError(
                "mask is zero everywhere, so the instruction could do nothing. Paint the part to edit white."
            )
        marked = with_values(conditioning, {INSTRUCTION: Instruction(mask, text_scale, image_scale)})
        return io.NodeOutput([*(others or []), *marked])


class ReEditInstructGuider(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReEditInstructGuider",
            display_name="ReEdit Instruct Guider",
            category="ReEdit/emilie",
            description="Guides an edit by instruction with two scales, one for the text and one for the picture, each "
            "instruction inside its mask. The picture is the latent itself: what one edit made is what the next one edits.",
            search_aliases=[
                "instruct pix2pix",
                "Dual CFG Guider",
                "three-way guidance",
                "image cfg",
                "EMILIE",
                "masked edit",
            ],
            inputs=[
                io.Model.Input("model", tooltip="An InstructPix2Pix model, or one that takes a reference latent."),
                io.Conditioning.Input(
                    "positive", tooltip="The instruction, or several from ReEdit Instruction with a mask each."
                ),
                io.Conditioning.Input("negative", tooltip="The negative prompt; an empty one will do."),
                io.Latent.Input("samples", tooltip="The latent to edit. Give the same to the sampler."),
                *scale_inputs(),
                io.Combo.Input(
                    "mask_on",
                    options=[TEXT_TERM, PREDICTION, RESULT],
                    default=TEXT_TERM,
                    tooltip="What the mask is laid on. text term: where it is grey, the instruction counts less. "
                    "prediction: there only the step towards it is weaker. result: all is edited, and the outside put back "
                    "in the end.",
                ),
                io.Boolean.Input(
                    "strict",
                    default=True,
                    tooltip="Cells where no mask is are held at every step, and come out bit for bit as they went in.",
                ),
                io.Float.Input(
                    "alone",
                    default=0.6,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Of several instructions: the share of the steps, from the first, in which each sees the "
                    "picture as it was where others act; then they are drawn to fit. Most models know one edit at a time: "
                    "at 0, they see one done and leave the others.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the instruction acts, if it has no mask of its own; where any may act, if all have. "
                    "Another size of the same proportions is resized.",
                ),
            ],
            outputs=[io.Guider.Output(tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Conditioning,
        negative: Conditioning,
        samples: dict[str, Any],
        text_scale: float = 7.5,
        image_scale: float = 1.5,
        mask_on: str = TEXT_TERM,
        strict: bool = True,
        alone: float = 0.6,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        picture = samples["samples"]
        kind = check_takes_picture(model, picture)
        if kind == INPAINT:
            raise ValueError(
                "model is an inpainting model, which takes no instruction. Use ReEdit Latent Conditioning with CFG Guider, "
                "or load an InstructPix2Pix model."
            )
        check_scales(text_scale, image_scale)
        grouped = instructions_in(positive)
        limit = mask if all(instruction is not None for instruction, _ in grouped) else None
        own = Instruction(mask if limit is None else None, text_scale, image_scale)
        instructions = [(entries, own if instruction is None else instruction) for instruction, entries in grouped]
        check_masks([instruction for _, instruction in instructions], limit, picture)
        settings = InstructSettings(image_scale, mask_on, strict, alone, limit)
        return io.NodeOutput(InstructGuider(model, kind, instructions, negative, picture, settings))


def instructions_in(positive: Conditioning) -> list[tuple[Instruction | None, Conditioning]]:
    """The entries of each instruction, in the order in which they came; None for those that ReEdit Instruction did not "
    "mark."""
    grouped: list[tuple[Instruction | None, Conditioning]] = []
    for entry in positive:
        mark = entry[1].get(INSTRUCTION)
        for instruction, entries in grouped:
            if instruction is mark:
                entries.append(entry)
                break
        else:
            grouped.append((mark, [entry]))
    if not grouped:
        raise ValueError("positive is empty. Connect CLIP Text Encode, or ReEdit Instruction.")
    return grouped


def check_masks(instructions: list[Instruction], limit: Tensor | None, picture: Tensor) -> None:
    """Raise ValueError unless each of several instructions has a mask, and all masks fit the picture's latent."""
    without = sum(instruction.mask is None for instruction in instructions)
    if without and len(instructions) > 1:
        raise ValueError(
            f"positive holds {len(instructions)} instructions, but only {len(instructions) - without} of them have a mask. "
            "Give each its own with ReEdit Instruction, or connect mask for the one that has none."
        )
    height, width = picture.shape[-2:]
    for number, instruction in enumerate(instructions, 1):
        if instruction.mask is not None:
            name = "mask" if len(instructions) == 1 else f"mask of instruction {number}"
            check_mask(instruction.mask, len(picture), height, width, name)
    if limit is not None:
        check_mask(limit, len(picture), height, width)
