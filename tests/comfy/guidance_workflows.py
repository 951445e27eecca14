"""Graphs that edit by prompt: one word changes, and the picture changes where the model sees it."""

from __future__ import annotations

from dataclasses import replace

from chain_builder import SAMPLING, ChainBuilder
from edit_chain import SOURCE
from session_workflows import Described
from tiny_sd.language import caption
from workflow_writer import Link, Node, WorkflowWriter

Box = tuple[tuple[float, float], tuple[float, float]]

CIRCLE, SQUARE = SOURCE.objects
TARGET = replace(SOURCE, objects=(replace(CIRCLE, colour="yellow"), SQUARE))
REPAINTED = replace(SOURCE, objects=(CIRCLE, replace(SQUARE, colour="orange")))
WORDS = f"{SQUARE.colour} {SQUARE.shape}"


def invert_and_guide(
    build: ChainBuilder, prompts: Node, latent: Link, invert: Box, guide: Box, euler: Box
) -> dict[str, Link]:
    """What SamplerCustomAdvanced is given to edit a latent by two prompts, those of the node ReEditPromptWords.

    invert, guide, euler: the position and the size of the nodes that this takes.
    """
    add, model = build.writer.add, build.model["repaint"]
    inverted = add("ReEditInvert", *invert, model=model, positive=prompts.out(0), samples=latent)
    guider = add(
        "ReEditBlendedGuider",
        *guide,
        model=model,
        source=prompts.out(0),
        target=prompts.out(1),
        negative=build.negative["repaint"],
        trajectory=inverted.out(3),
    )
    return {
        "sampler": add("KSamplerSelect", *euler, sampler_name="euler").out(),
        "noise": inverted.out(1),
        "guider": guider.out(),
        "sigmas": inverted.out(2),
        "latent_image": latent,
    }


def prompt_edit(models: dict[str, str], described: Described = None) -> WorkflowWriter:
    """Load, encode, invert, edit by prompt, decode, and how far the rest has drifted; then once more with new noise."""
    build = ChainBuilder(models, described)
    add = build.writer.add
    latent = build.encode()

    build.writer.group("1. say what it shows, and what it is to show", (-20, -70, 460, 560), "#3f789e")
    texts = {"source": caption(SOURCE), "target": caption(TARGET), "words": ""}
    prompts = add("ReEditPromptWords", (0, 0), (420, 330), "the two prompts", clip=build.clip["repaint"], **texts)
    add("PreviewAny", (0, 390), (420, 80), "the words that are meant", source=prompts.out(2))

    build.writer.group("2. invert it", (-20, 520, 460, 620), "#3f789e")
    build.writer.group("3. edit it, where the words are", (470, -70, 2520, 1210), "#8a8")
    boxes = {"invert": ((0, 590), (420, 520)), "guide": ((490, 0), (400, 520)), "euler": ((490, 580), (400, 80))}
    sampling = invert_and_guide(build, prompts, latent, **boxes)
    edited = add("SamplerCustomAdvanced", (930, 0), (340, 140), "", **sampling).out()
    _shown(build, sampling["guider"], edited, "edited by prompt", 930, 200)

    build.writer.group("4. if an edit does not take: new noise inside the mask", (470, 1170, 2520, 880), "#b58b2a")
    sampling["sampler"] = add("ReEditStochasticSampler", (490, 1240), (400, 130), "", eta=0.1, seed=1).out()
    again = add("SamplerCustomAdvanced", (490, 1430), (400, 140), "", **sampling).out()
    _shown(build, sampling["guider"], again, "with new noise", 930, 1240)
    return build.writer


def _shown(build: ChainBuilder, guider: Link, edited: Link, name: str, x: float, y: float) -> None:
    """The mask, the step in the session, the picture, and what moved outside of the mask."""
    add = build.writer.add
    mask = add("ReEditGuidanceMask", (x, y), (340, 330), f"mask: {name}", guider=guider, samples=edited).out()
    noted = add("ReEditCommit", (x, y + 390), (340, 130), "", samples=edited, label=name, mask=mask).out()
    add("ReEditTimeline", (x + 1420, y), (620, 600), f"timeline: {name}", samples=noted, vae=build.vae)
    decoded = add("ReEditDecode", (x, y + 580), (340, 80), "", samples=noted, vae=build.vae)
    prefix = f"reedit/{name.replace(' ', '_')}"
    add("SaveImage", (x + 380, y), (340, 380), name, images=decoded.out(0), filename_prefix=prefix)
    add("ReEditDriftMeter", (x + 760, y), (620, 720), f"drift: {name}", samples=noted, vae=build.vae)


def attention_mask(models: dict[str, str], described: Described = None) -> WorkflowWriter:
    """A mask from words, looked at, and used by core nodes to repaint what it found."""
    build = ChainBuilder(models, described)
    add = build.writer.add
    model, latent = build.model["repaint"], build.encode()

    build.writer.group("1. find it by its words", (-20, -70, 800, 760), "#3f789e")
    asked = {"prompt": caption(SOURCE), "words": WORDS}
    mask = add(
        "ReEditAttentionMask",
        (0, 0),
        (400, 480),
        "",
        model=model,
        clip=build.clip["repaint"],
        samples=latent,
        **asked,
    ).out()
    add("MaskPreview", (430, 0), (330, 380), "where the words are", mask=mask)

    build.writer.group("2. use it: here, to repaint with core nodes", (800, -70, 1850, 760), "#8a8")
    positive = add(
        "CLIPTextEncode",
        (820, 0),
        (360, 160),
        "what it is to show",
        text=caption(REPAINTED),
        clip=build.clip["repaint"],
    ).out()
    wider = add(
        "GrowMask", (820, 220), (360, 90), "with room around it", mask=mask, expand=4, tapered_corners=True
    ).out()
    held = add("SetLatentNoiseMask", (820, 370), (360, 60), "", samples=latent, mask=wider).out()
    sampling = {"model": model, "positive": positive, "negative": build.negative["repaint"], "latent_image": held}
    sampled = add("KSampler", (1220, 0), (340, 270), "", seed=2, cfg=5.0, **SAMPLING, **sampling).out()
    noted = add("ReEditCommit", (1220, 330), (340, 130), "", samples=sampled, label="repainted", mask=wider).out()
    decoded = add("ReEditDecode", (1220, 520), (340, 80), "", samples=noted, vae=build.vae)
    prefix = "reedit/repainted_by_words"
    add("SaveImage", (1600, 0), (360, 380), "repainted", images=decoded.out(0), filename_prefix=prefix)
    add("ReEditTimeline", (2010, 0), (620, 600), "", samples=noted, vae=build.vae)
    return build.writer
