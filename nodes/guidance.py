"""Blended guidance: an edit where the prompt says, and only there (AIDI, arXiv 2309.04907, section 3.3)."""

from __future__ import annotations

from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy_api.v0_0_2 import io, ui
from torch import Tensor

from ..models.cells import check_samples
from ..models.diffusion.attention_maps import soft_mask
from ..models.diffusion.trajectory import Trajectory
from ..models.session.cell_change import digest
from .attention_capture import AttentionCapture
from .attention_look import check_can_look, check_picture, look, noise_levels, noisy_latents
from .blended_guider import PAPER, RECONSTRUCTION, BlendedGuider, BlendSettings
from .blended_guider import TRAJECTORY as STORED
from .emilie import Conditioning, check_channels
from .inversion import TRAJECTORY
from .inversion_sampler import latent_space
from .prompt_words import encode_with_words

AUTO = "auto"
OVERRIDE, MULTIPLY = "override", "multiply"


def mask_inputs(low: float, high: float) -> list[Any]:
    """The widgets that make a mask of a map of attention."""
    return [
        io.Float.Input(
            "low",
            default=low,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Where attention is below this share of its largest value, the mask is exactly 0. Lower takes in more.",
        ),
        io.Float.Input(
            "high",
            default=high,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Where attention is above this share of its largest value, the mask is 1. In between a smooth step.",
        ),
        io.Float.Input(
            "blur",
            default=0.0,
            min=0.0,
            max=20.0,
            step=0.1,
            tooltip="Blurs the attention before the two levels are applied; in latent cells. Smooths ragged masks.",
        ),
    ]


def detail_input() -> Any:
    return io.Combo.Input(
        "detail",
        options=[AUTO, "1", "2", "4", "8"],
        default=AUTO,
        advanced=True,
        tooltip="Which layers of a UNet are read: those where one query stands for so many latent cells a side. auto: 4, as "
        "in the papers, and finer for small pictures. SD3 and Flux have one resolution only.",
    )


def check_levels(low: float, high: float) -> None:
    if low >= high:
        raise ValueError(f"low is {low:g} and high {high:g}: low must be below high. Lower low, or raise high.")


def cells_of(detail: str) -> int | None:
    return None if detail == AUTO else int(detail)


def mask_as_pixels(cells: Tensor, ratio: int) -> Tensor:
    """(B, 1, H, W) cells as a MASK of the picture's size, (B, H·ratio, W·ratio), each cell a square of its own value."""
    return cells[:, 0].float().cpu().repeat_interleave(ratio, 1).repeat_interleave(ratio, 2)


class ReEditBlendedGuider(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReEditBlendedGuider",
            display_name="ReEdit Blended Guider",
            category="ReEdit/guidance",
            description="Guides an edit by prompt: strongly where the model sees the words that changed, and not at all "
            "elsewhere, where the inverted picture comes back as it was.",
            search_aliases=[
                "AIDI",
                "prompt to prompt",
                "attention mask",
                "soft mask",
                "local edit",
                "blended guidance",
            ],
            inputs=[
                io.Model.Input("model", tooltip="The model that the picture was inverted with."),
                io.Conditioning.Input(
                    "source",
                    tooltip="What the picture shows, from ReEdit Prompt Words; the prompt it was inverted with.",
                ),
                io.Conditioning.Input("target", tooltip="What it is to show, from ReEdit Prompt Words."),
                io.Conditioning.Input("negative", tooltip="The negative prompt; an empty one will do."),
                io.Float.Input(
                    "cfg",
                    default=3.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Guidance inside the mask. Outside it is 1.",
                ),
                io.Combo.Input(
                    "outside",
                    options=[STORED, RECONSTRUCTION, PAPER],
                    default=STORED,
                    tooltip="What happens where the mask is black. trajectory: each step is taken from ReEdit Invert's "
                    "trajectory, so those cells come back bit for bit. source: the source prompt's own sampling is "
                    "followed. paper: the target prompt with guidance 1, as AIDI has it, which may change everything a "
                    "little.",
                ),
                io.Combo.Input(
                    "mask_from",
                    options=["reconstruction", "both"],
                    default="reconstruction",
                    tooltip="Where the words are looked for. reconstruction: in the source picture, where the source "
                    "prompt's words stand. both: also where the edit puts the new words.",
                ),
                io.Int.Input(
                    "look_ahead",
                    default=3,
                    min=0,
                    max=20,
                    tooltip="Model calls before the first step that look for the words in the source at low noise, where "
                    "they are seen best; that part of the mask then stays. 0: the mask of each step is the mean of the "
                    "steps so far, as AIDI has it, and is poor in the first steps.",
                ),
                *mask_inputs(0.25, 0.4),
                io.Float.Input(
                    "inject",
                    default=0.7,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="For this share of the steps, from the first, the edit pays attention to its prompt as the "
                    "source does: things stay where they are. 0 lets the edit choose its own places. Costs the source's "
                    "model calls.",
                ),
                detail_input(),
                TRAJECTORY.Input(
                    "trajectory", optional=True, tooltip="From ReEdit Invert; needed where outside is trajectory."
                ),
                io.Mask.Input("mask", optional=True, tooltip="A mask of your own."),
                io.Combo.Input(
                    "mask_use",
                    options=[OVERRIDE, MULTIPLY],
                    default=OVERRIDE,
                    optional=True,
                    tooltip="override: your mask alone, and no attention is read. multiply: the attention's mask within "
                    "yours.",
                ),
            ],
            outputs=[
                io.Guider.Output(tooltip="For SamplerCustomAdvanced, with ReEdit Invert's noise and sigmas, and euler.")
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        source: Conditioning,
        target: Conditioning,
        negative: Conditioning,
        cfg: float,
        outside: str,
        mask_from: str,
        look_ahead: int,
        low: float,
        high: float,
        blur: float,
        inject: float,
        detail: str = AUTO,
        trajectory: Trajectory | None = None,
        mask: Tensor | None = None,
        mask_use: str = OVERRIDE,
    ) -> io.NodeOutput:
        check_levels(low, high)
        both = mask_from == "both"
        if outside == STORED and trajectory is None:
            raise ValueError("outside is trajectory, but none is connected. Connect ReEdit Invert's, or choose source.")
        read = {"source": source} | ({"target": target} if both else {})
        for name, conditioning in read.items():
            if any("area" in options for _, options in conditioning):
                raise ValueError(f"{name} is limited to an area, but its words are looked for in the whole picture.")
        if mask is None or mask_use == MULTIPLY:
            check_can_look(model, source, target)
        settings = BlendSettings(
            cfg, outside, both, look_ahead, low, high, blur, inject, cells_of(detail), mask_use == MULTIPLY
        )
        guider = BlendedGuider(model, settings, trajectory, mask)
        guider.inner_set_conds({"source": source, "target": target, "negative": negative})
        return io.NodeOutput(guider)


class ReEditGuidanceMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReEditGuidanceMask",
            display_name="ReEdit Guidance Mask",
            category="ReEdit/guidance",
            description="The mask that a blended guider worked with, once its sampler has run.",
            search_aliases=["attention mask", "soft mask"],
            inputs=[
                io.Guider.Input("guider", tooltip="The ReEdit Blended Guider that the sampler used."),
                io.Latent.Input("samples", tooltip="The sampler's output, so that this runs after it."),
            ],
            outputs=[
                io.Mask.Output(
                    display_name="mask", tooltip="Of the last step, in the picture's size: for ReEdit Commit."
                ),
                io.Mask.Output(
                    display_name="steps", tooltip="The first picture's mask at each step; one where it never changed."
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, guider: Any, samples: dict[str, Any]) -> io.NodeOutput:
        if not isinstance(guider, BlendedGuider):
            raise ValueError(f"guider is a {type(guider).__name__}; only a ReEdit Blended Guider has a mask.")
        steps = guider.masks.get(digest(samples["samples"]))
        if steps is None:
            raise ValueError(
                "samples is not what a sampler has made with this guider. Connect the sampler's output directly; if it is, "
                "run the sampler again (change its seed)."
            )
        ratio = guider.model_patcher.get_model_object("latent_format").spacial_downscale_ratio
        firsts = torch.cat([step[:1] for step in steps])
        if bool((firsts == firsts[:1]).all()):
            firsts = firsts[:1]
        shown = mask_as_pixels(firsts, ratio)
        preview = ui.PreviewImage(shown[..., None].expand(-1, -1, -1, 3), cls=cls)
        return io.NodeOutput(mask_as_pixels(steps[-1], ratio), shown, ui=preview)


class ReEditAttentionMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReEditAttentionMask",
            display_name="ReEdit Attention Mask",
            category="ReEdit/guidance",
            description="Where in a picture the model sees some words of a prompt, as a MASK for any node: Set Latent Noise "
            "Mask, Differential Diffusion, ReEdit Gradient Mask, a composite.",
            search_aliases=["prompt mask", "cross attention", "DAAM", "heatmap", "segment by words", "auto mask"],
            inputs=[
                io.Model.Input("model", tooltip="A text-to-image model: a UNet (SD1.5, SD2, SDXL), SD3 or Flux."),
                io.Clip.Input("clip", tooltip="The model's text encoder."),
                io.Latent.Input("samples", tooltip="The clean latent of the picture."),
                io.String.Input(
                    "prompt", multiline=True, tooltip="What the picture shows, as you would prompt for it."
                ),
                io.String.Input("words", tooltip="The words of the prompt to find, separated by commas."),
                io.Int.Input(
                    "calls",
                    default=3,
                    min=1,
                    max=20,
                    tooltip="Model calls, each at another noise level; their maps are averaged.",
                ),
                *mask_inputs(0.4, 0.7),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Of the noise that the picture is looked at through. Ignored where trajectory is connected.",
                ),
                detail_input(),
                TRAJECTORY.Input(
                    "trajectory",
                    optional=True,
                    tooltip="The picture's inversion, if there is one: it is then looked at in its own noise, which shows "
                    "more.",
                ),
            ],
            outputs=[io.Mask.Output(display_name="mask", tooltip="In the picture's size, 0 to 1.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        samples: dict[str, Any],
        prompt: str,
        words: str,
        calls: int,
        low: float,
        high: float,
        blur: float,
        seed: int,
        detail: str = AUTO,
        trajectory: Trajectory | None = None,
    ) -> io.NodeOutput:
        check_levels(low, high)
        latent = check_picture_latent(model, samples)
        if trajectory is not None:
            trajectory.check_fits(latent_space(model), tuple(latent.shape))
        conditioning = encode_with_words(clip, prompt, words)
        check_can_look(model, conditioning)
        attention = attention_in(model, conditioning, latent, calls, trajectory, seed, cells_of(detail))
        height, width = latent.shape[-2:]
        mask = soft_mask(attention, (height, width), low, high, blur)
        return io.NodeOutput(mask_as_pixels(mask, model.get_model_object("latent_format").spacial_downscale_ratio))


def check_picture_latent(model: Any, samples: dict[str, Any]) -> Tensor:
    """The latent's samples. ValueError unless they are a picture's, not empty, with the model's channels."""
    given = samples["samples"]
    check_samples(given)
    check_picture(given)
    if not bool(given.any()):
        raise ValueError("samples is an empty latent: there is no picture to look at. Encode one.")
    check_channels(model.get_model_object("latent_format").latent_channels, given)
    return given


def attention_in(
    model: Any,
    conditioning: Conditioning,
    latent: Tensor,
    calls: int,
    trajectory: Trajectory | None,
    seed: int,
    cells: int | None,
) -> Tensor:
    """The map of attention, (B, 1, rows, columns), of the conditioning's words in a clean latent."""
    patched = model.clone()
    capture = AttentionCapture(model.model, cells)
    capture.install(patched.model_options)
    sampling = model.get_model_object("model_sampling")
    levels = noise_levels(sampling, calls)
    found: list[Tensor] = []

    def looking(denoiser: Any, x: Tensor, sigmas: Tensor, extra_args: Any, callback: Any, disable: Any) -> Tensor:
        guider = denoiser.inner_model
        clean = guider.inner_model.process_latent_in(latent.float()).to(x)
        states = noisy_latents(sampling, levels, clean, trajectory, seed)
        conditions = guider.conds["positive"]
        capture.know(conditions)
        progress = comfy.utils.ProgressBar(calls)
        found.append(look(guider.inner_model, conditions, capture, states, extra_args["model_options"], progress))
        return x

    guider = comfy.samplers.CFGGuider(patched)
    guider.inner_set_conds({"positive": conditioning})
    sigmas = torch.tensor([*sorted(levels, reverse=True), 0.0])
    guider.sample(
        torch.zeros_like(latent), latent, comfy.samplers.KSAMPLER(looking), sigmas, disable_pbar=True, seed=seed
    )
    return found[0]
