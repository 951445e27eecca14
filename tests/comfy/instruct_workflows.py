"""Graphs that edit by instruction with the instruct guider: one after the other on the latent, and several at once."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

from chain_builder import SAMPLING, SCALES, Box, ChainBuilder
from edit_chain import CIRCLE, SOURCE, SQUARE
from session_workflows import Described
from workflow_writer import Link, WorkflowWriter

SAMPLER = "euler_ancestral"  # the one that InstructPix2Pix was made with
PURPLE, GREEN, SAND = "make the circle purple", "make the square green", "change the background to sand"
YELLOW = "make the circle yellow"

_CIRCLE, _SQUARE = SOURCE.objects
ALL_AT_ONCE = replace(
    SOURCE, background="sand", objects=(replace(_CIRCLE, colour="purple"), replace(_SQUARE, colour="green"))
)
ONE_BY_ONE = replace(ALL_AT_ONCE, objects=(replace(_CIRCLE, colour="yellow"), ALL_AT_ONCE.objects[1]))


class Instructed:
    """What both graphs share: the sampler's parts, the masks, and a sampler for each edit."""

    def __init__(self, build: ChainBuilder) -> None:
        self.build, self.add = build, build.writer.add
        build.writer.group("what all edits share", (-20, -70, 640, 760), "#888")
        schedule = {name: SAMPLING[name] for name in ("steps", "scheduler", "denoise")}
        self.sampler = self.add("KSamplerSelect", (0, 0), (280, 80), "", sampler_name=SAMPLER).out()
        self.sigmas = self.add(
            "BasicScheduler", (0, 140), (280, 130), "", model=build.model["instruct"], **schedule
        ).out()

    # The masks, where a graph asks for them.

    @cached_property
    def circle(self) -> Link:
        return self.mask("the circle", CIRCLE, 0, 330)

    @cached_property
    def square(self) -> Link:
        return self.mask("the square", SQUARE, 310, 330)

    @cached_property
    def background(self) -> Link:
        pair = {"destination": self.circle, "source": self.square, "x": 0, "y": 0, "operation": "add"}
        both = self.add("MaskComposite", (310, 0), (280, 130), "both", **pair).out()
        return self.add("InvertMask", (310, 190), (280, 40), "the background", mask=both).out()

    def mask(self, title: str, box: Box, x: float, y: float) -> Link:
        left, top, width, height = box
        white = self.add("SolidMask", (x, y), (280, 110), "", value=1.0, width=width, height=height).out()
        on_canvas = {"destination": self.build.canvas, "source": white, "x": left, "y": top, "operation": "add"}
        return self.add("MaskComposite", (x, y + 160), (280, 130), title, **on_canvas).out()

    def text(self, instruction: str, x: float, y: float, title: str) -> Link:
        clip = self.build.clip["instruct"]
        return self.add("CLIPTextEncode", (x, y), (340, 120), title, text=instruction, clip=clip).out()

    def edited(
        self,
        positive: Link,
        latent: Link,
        seed: int,
        x: float,
        y: float,
        mask: Link | None = None,
        sampler: Link | None = None,
    ) -> Link:
        """The guider and its sampler, beside each other."""
        masked = {} if mask is None else {"mask": mask}
        models = {"model": self.build.model["instruct"], "negative": self.build.negative["instruct"]}
        guider = self.add(
            "ReEditInstructGuider",
            (x, y),
            (300, 250),
            "",
            positive=positive,
            samples=latent,
            **models,
            **SCALES,
            **masked,
        ).out()
        noise = self.add("RandomNoise", (x, y + 310), (300, 90), "", noise_seed=seed).out()
        sampling = {"noise": noise, "guider": guider, "sampler": sampler or self.sampler, "sigmas": self.sigmas}
        return self.add("SamplerCustomAdvanced", (x + 340, y), (300, 140), "", latent_image=latent, **sampling).out()

    def noted(self, latent: Link, label: str, x: float, y: float, mask: Link | None = None) -> Link:
        masked = {} if mask is None else {"mask": mask}
        return self.add("ReEditCommit", (x, y), (300, 130), "", samples=latent, label=label, **masked).out()

    def shown(self, latent: Link, title: str, x: float, y: float) -> Link:
        """The picture. Returns the latent, passed through."""
        decoded = self.add("ReEditDecode", (x, y), (300, 80), "", samples=latent, vae=self.build.vae)
        prefix = f"reedit/{title.replace(' ', '_')}"
        self.add("SaveImage", (x, y + 140), (300, 340), title, images=decoded.out(0), filename_prefix=prefix)
        return decoded.out(1)


def instruct_chain(models: dict[str, str], described: Described = None) -> WorkflowWriter:
    """Four instructions one after the other, two of them masked; and one once more with the line that the paper prints."""
    build = ChainBuilder(models, described)
    source = build.encode()
    parts = Instructed(build)
    add, latent = parts.add, source
    # Seeds with which the demo's small model does what it is asked to.
    for index, (instruction, mask, seed) in enumerate(
        ((SAND, None, 4), (PURPLE, parts.circle, 2), (GREEN, parts.square, 8))
    ):
        x, y = 660 + index % 2 * 1420, index // 2 * 620
        where = "the whole picture" if mask is None else "inside a mask"
        build.writer.group(f"{index + 1}. {instruction}: {where}", (x - 20, y - 70, 1380, 580), "#3f789e")
        sampled = parts.edited(
            parts.text(instruction, x, y, f"instruction {index + 1}"), latent, seed, x + 380, y, mask
        )
        latent = parts.noted(sampled, instruction, x + 1060, y, mask)
    x, y = 2080, 620
    build.writer.group(f"4. {YELLOW}: without a mask, and then aligned", (x - 20, y - 70, 1720, 580), "#8a8")
    sampled = parts.edited(parts.text(YELLOW, x, y, "instruction 4"), latent, 10, x + 380, y)
    aligned = add("ReEditAlign", (x + 1060, y), (300, 250), "", samples=sampled, mask=parts.circle).out()
    latent = parts.noted(aligned, YELLOW, x + 1390, y, parts.circle)

    x, y = 660, 1240
    build.writer.group("what came of it", (x - 20, y - 70, 2000, 900), "#a55")
    latent = parts.shown(latent, "four instructions", x, y)
    add("ReEditTimeline", (x + 340, y), (760, 800), "", samples=latent, vae=build.vae, columns=3)
    add("ReEditDriftMeter", (x + 1140, y), (800, 800), samples=latent, vae=build.vae)

    x = 2700
    build.writer.group("the line that the paper prints, for reference", (x - 20, y - 70, 1420, 900), "#888")
    printed = add("ReEditPrintedUpdate", (x, y + 180), (340, 150), "", mask=parts.circle).out()
    sampled = parts.edited(
        parts.text(PURPLE, x, y, "the same as instruction 2"), source, 1, x + 380, y, sampler=printed
    )
    parts.shown(sampled, "as printed", x + 1060, y)
    return build.writer


def multi_mask_instruct(models: dict[str, str], described: Described = None) -> WorkflowWriter:
    """Three instructions, each in its own mask, in one sampling run."""
    build = ChainBuilder(models, described)
    latent = build.encode()
    parts = Instructed(build)
    add = parts.add
    joined: dict[str, Link] = {}
    build.writer.group("three instructions, a mask each", (640, -70, 760, 900), "#3f789e")
    masked = ((PURPLE, parts.circle), (GREEN, parts.square), (SAND, parts.background))
    for index, (instruction, mask) in enumerate(masked):
        y = index * 280
        given = {
            "conditioning": parts.text(instruction, 660, y, f"instruction {index + 1}"),
            "mask": mask,
            **SCALES,
            **joined,
        }
        joined = {"others": add("ReEditInstruction", (1040, y), (340, 180), "", **given).out()}
    build.writer.group("one sampling run", (1420, -70, 1040, 580), "#8a8")
    sampled = parts.edited(joined["others"], latent, 1, 1440, 0)
    noted = parts.noted(sampled, "three instructions at once", 2120, 0)
    build.writer.group("what came of it", (2480, -70, 1120, 900), "#a55")
    shown = parts.shown(noted, "all at once", 2500, 0)
    add("ReEditTimeline", (2840, 0), (740, 700), "", samples=shown, vae=build.vae)
    return build.writer
