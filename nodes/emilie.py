"""EMILIE: edits that iterate on the latent, each held inside its mask."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from comfy.patcher_extension import WrappersMP
from comfy_api.v0_0_2 import io
from torch import Tensor

from ..models.cells import brightest_in_cells, check_mask
from ..models.diffusion.gradient_mask import keep_outside, known_for_run, mask_denoised
from ..models.session.record import observe, with_record
from .picture_conditioning import (
    INPAINT,
    Conditioning,
    check_channels,
    check_takes_picture,
    masked_picture,
    with_picture,
)


class ReEditLatentConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReEditLatentConditioning",
            display_name="ReEdit Latent Conditioning",
            category="ReEdit/emilie",
            description="Gives the latent itself, never its pixels, to an edit model or an inpainting model as the picture "
            "to work on. So an edit starts from what the edit before it made, without an encode in between.",
            search_aliases=[
                "instruct pix2pix",
                "InstructPixToPixConditioning",
                "InpaintModelConditioning",
                "ReferenceLatent",
                "kontext",
                "edit conditioning",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model that will edit: InstructPix2Pix, an inpainting model, or one with reference latents "
                    "(Flux Kontext, Flux 2, Qwen-Image-Edit). Which of them it is, it is asked.",
                ),
                io.Conditioning.Input("positive", tooltip="The instruction or prompt, from CLIP Text Encode."),
                io.Conditioning.Input("negative", tooltip="The negative prompt; an empty one will do."),
                io.Latent.Input("samples", tooltip="The latent to edit."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White is edited. An inpainting model needs one: this, or the latent's noise mask. Another size "
                    "is resized; the proportions must be the picture's. For other models it becomes the latent's noise mask.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="The model's own VAE. Only an inpainting model needs it, for the grey that it is shown "
                    "under the mask; the picture is not encoded.",
                ),
                io.Boolean.Input(
                    "noise_mask",
                    default=True,
                    optional=True,
                    tooltip="Sets mask as the latent's noise mask too, so that sampling changes only what it covers. Off: "
                    "the latent comes out without a noise mask.",
                ),
            ],
            outputs=[
                io.Conditioning.Output("positive"),
                io.Conditioning.Output("negative"),
                io.Latent.Output(
                    display_name="latent",
                    tooltip="The latent as it came in, and its noise mask: the sampler's latent_image, so that a mask has "
                    "something to keep.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Conditioning,
        negative: Conditioning,
        samples: dict[str, Any],
        mask: Tensor | None = None,
        vae: Any = None,
        noise_mask: bool = True,
    ) -> io.NodeOutput:
        latent = samples["samples"]
        kind = check_takes_picture(model, latent)
        in_pixels = masked = None
        if kind == INPAINT:
            in_pixels, masked = masked_picture(latent, samples.get("noise_mask") if mask is None else mask, vae)
        elif mask is not None:
            in_pixels = check_mask(mask, latent.shape[0], *latent.shape[-2:])[:, None]
        both = [with_picture(kind, conditioning, latent, in_pixels, masked) for conditioning in (positive, negative)]
        passed = with_record(samples, observe(samples))
        if not noise_mask:
            passed.pop("noise_mask", None)
        elif in_pixels is not None:
            passed["noise_mask"] = in_pixels
        return io.NodeOutput(*both, passed)


class ReEditGradientMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReEditGradientMask",
            display_name="ReEdit Gradient Mask",
            category="ReEdit/emilie",
            description="Holds whatever the sampler does inside a mask: outside, the edit's gradient is zero. "
            "Works with any sampler, and beside Set Latent Noise Mask and Differential Diffusion.",
            search_aliases=["mask edit", "inpaint", "regional edit", "EMILIE"],
            inputs=[
                io.Model.Input("model", tooltip="Any model; the sampler that it goes to is held inside the mask."),
                io.Mask.Input(
                    "mask",
                    tooltip="White is edited, black is kept, grey is in between. Another size is resized to the latent; "
                    "the proportions must be the picture's.",
                ),
                io.Boolean.Input(
                    "strict",
                    default=True,
                    tooltip="Cells where the mask, or the latent's noise mask, is black come out bit for bit as they went "
                    "in.",
                ),
                io.Latent.Input(
                    "samples",
                    optional=True,
                    tooltip="What to keep outside the mask. Without it, the latent given to the sampler; connect it where "
                    "that latent is empty or already noisy (a second sampler after split sigmas).",
                ),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(
        cls, model: Any, mask: Tensor, strict: bool = True, samples: dict[str, Any] | None = None
    ) -> io.NodeOutput:
        known = None if samples is None else samples["samples"]
        if known is not None:
            check_channels(model.get_model_object("latent_format").latent_channels, known)
            check_mask(mask, known.shape[0], *known.shape[-2:])
        masked = model.clone()
        outer_sample, predict_noise = gradient_mask_wrappers(mask, strict, known)
        masked.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "reedit_gradient_mask", outer_sample)
        masked.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "reedit_gradient_mask", predict_noise)
        return io.NodeOutput(masked)


@dataclass
class Held:
    """What one sampling run keeps outside the mask. `scaled` is `known` in the model's own scale, once it is wanted."""

    known: Tensor
    cells: Tensor
    scaled: Tensor | None = None


def gradient_mask_wrappers(
    mask: Tensor, strict: bool, known: Tensor | None
) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """Two wrappers: around a whole sampling run and around each of its predictions.

    What they share travels in the run's own options under a key of this pair alone: so several gradient masks on one model
    add up, nothing is left on the model when a run is interrupted, and one node may serve two runs at a time.
    """
    key = f"reedit_gradient_mask_{uuid.uuid4().hex}"

    def outer_sample(
        executor: Any,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Any,
        sigmas: Tensor,
        denoise_mask: Tensor | None = None,
        *arguments: Any,
        **options: Any,
    ) -> Tensor:
        if len(options.get("latent_shapes") or ()) > 1:
            raise ValueError("The gradient mask cannot hold a nested latent (several streams in one).")
        held = hold(mask, latent_image, known)
        # The guider's options are its own copy for this run.
        executor.class_obj.model_options.setdefault("transformer_options", {})[key] = held
        # A run that stops above sigma 0 hands on a noisy latent, in which the clean one has no place yet.
        finished = float(sigmas[-1]) == 0.0
        # Some samplers (uni_pc) write into their sigmas, on a CPU into the host's cache: the next run would never reach 0.
        result = executor(noise, latent_image, sampler, sigmas.clone(), denoise_mask, *arguments, **options)
        return keep_outside(result, held.known, held.cells, denoise_mask) if strict and finished else result

    def predict_noise(
        executor: Any, x: Tensor, timestep: Tensor, model_options: dict[str, Any], seed: int | None = None
    ) -> Tensor:
        held: Held = model_options["transformer_options"][key]
        if x.shape[1:] != held.known.shape[1:]:
            raise ValueError(
                f"The gradient mask holds a latent of {tuple(held.known.shape)}, but this sampler has gone on to one of "
                f"{tuple(x.shape)}: it enlarges the latent, or works on a part of it. Choose another sampler."
            )
        if held.scaled is None or held.scaled.device != x.device:
            held.scaled = executor.class_obj.inner_model.process_latent_in(held.known.to(x))
            held.cells = held.cells.to(x)
        return mask_denoised(executor(x, timestep, model_options, seed), held.scaled, held.cells)

    return outer_sample, predict_noise


def hold(mask: Tensor, latent_image: Tensor, known: Tensor | None) -> Held:
    """What to keep in a run on `latent_image`. ValueError where there is nothing to keep, or where it does not fit."""
    reference = latent_image if known is None else known
    if not bool(reference.any()):
        raise ValueError(
            "The gradient mask has nothing to keep: the latent given to the sampler is empty. "
            "Give the sampler the picture's latent, or connect it to samples of ReEdit Gradient Mask."
        )
    reference = known_for_run(reference, latent_image, "the gradient mask")
    checked = check_mask(mask, latent_image.shape[0], *latent_image.shape[-2:])
    return Held(reference, brightest_in_cells(checked, latent_image))
