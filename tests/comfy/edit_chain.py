"""Ten edits of one drawn picture, with their exact outcome: as our graph, and as the graph of core nodes people use today."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from chain_builder import DEMO_CFG, Box, ChainBuilder, ChainEdit
from tiny_sd.world import COLOURS, Scene, SceneObject, draw
from workflow_writer import WorkflowWriter

CIRCLE: Box = (40, 0, 24, 24)
SQUARE: Box = (44, 44, 20, 20)
BOTTOM_LEFT: Box = (0, 44, 20, 20)
SOURCE = Scene(
    "grass",
    1.0,
    (
        SceneObject("circle", "red", "large", 11.0, 51.0, 13.0),
        SceneObject("square", "blue", "small", 8.5, 53.5, 53.5),
    ),
)


def _scene(*objects: SceneObject) -> Scene:
    return replace(SOURCE, objects=objects)


def edits() -> list[ChainEdit]:
    """The chain, with the scene and the strokes that each edit should leave."""
    circle, square = SOURCE.objects
    purple = replace(circle, colour="purple")
    triangle = replace(square, shape="triangle")
    orange = replace(triangle, colour="orange")
    cross = SceneObject("cross", "white", "small", 8.0, 10.0, 54.0)
    red_cross = replace(cross, colour="red")
    yellow = SceneObject("square", "yellow", "small", 8.0, 10.0, 54.0)
    plate, window = ((4, 48, 12, 12), "white"), ((4, 52, 12, 4), "blue")
    return [
        ChainEdit("instruct", "make the circle purple", CIRCLE, _scene(purple, square)),
        ChainEdit("instruct", "turn the square into a triangle", SQUARE, _scene(purple, triangle)),
        ChainEdit("paint", "paint a white plate", plate[0], _scene(purple, triangle), (plate,)),
        ChainEdit("instruct", "paint the triangle orange", SQUARE, _scene(purple, orange), (plate,)),
        ChainEdit("paint", "paint a blue stripe", window[0], _scene(purple, orange), (plate, window)),
        ChainEdit("repaint", "repaint: a white cross", BOTTOM_LEFT, _scene(purple, orange, cross)),
        ChainEdit("instruct", "make the cross red", BOTTOM_LEFT, _scene(purple, orange, red_cross)),
        ChainEdit("instruct", "remove the circle", CIRCLE, _scene(orange, red_cross)),
        ChainEdit("repaint", "repaint: a yellow square", BOTTOM_LEFT, _scene(orange, yellow), seed=11),
        ChainEdit("instruct", "make the triangle blue", SQUARE, _scene(replace(orange, colour="blue"), yellow)),
    ]


def truth(edit: ChainEdit | None) -> np.ndarray:
    """The exact picture after an edit (None: the source), (SIZE, SIZE, 3) float32 in 0..1."""
    picture = draw(SOURCE if edit is None else edit.after)
    for (left, top, width, height), colour in () if edit is None else edit.strokes:
        picture[top : top + height, left : left + width] = COLOURS[colour]
    return picture


def our_chain(models: dict[str, str], described: dict[str, dict[str, str]] | None = None) -> WorkflowWriter:
    """The latent is the document: one encode at the start, and one for each time somebody paints."""
    build = ChainBuilder(models, described)
    add, latent = build.writer.add, build.encode()
    for index, edit in enumerate(edits()):
        latent = build.step(index, edit, latent)
    x, y = build.corner(len(edits()))
    build.writer.group("what came of it", (x - 20, y - 70, 2255, 900), "#a55")
    last = add("ReEditDecode", (x, y), (270, 80), samples=latent, vae=build.vae)
    add("SaveImage", (x, y + 140), (400, 320), "the picture now", images=last.out(0), filename_prefix="reedit/final")
    timeline = add("ReEditTimeline", (x + 450, y), (860, 800), "", samples=last.out(1), vae=build.vae, columns=4)
    steps = (x, y + 510)
    add("SaveImage", steps, (400, 290), "every step", images=timeline.out(1), filename_prefix="reedit/step")
    add("ReEditDriftMeter", (x + 1355, y), (860, 800), samples=last.out(1), vae=build.vae)
    return build.writer


def round_trip_chain(models: dict[str, str]) -> WorkflowWriter:
    """The same ten edits with core nodes: each decodes to pixels, the next one encodes them again.

    models: the demo's. The VAE alone comes from our loader, since the host's own knows one width.
    """
    build = ChainBuilder(models, cfg=DEMO_CFG)
    add = build.writer.add
    picture = build.picture
    latent = add("VAEEncode", pixels=picture, vae=build.vae).out()
    add("SaveLatent", samples=latent, filename_prefix="round_trip/latent_00")
    for index, edit in enumerate(edits()):
        mask = build.mask(edit.box, 0, 0)
        if edit.tool == "paint":
            picture = build.paint(edit, picture, mask, 0, 0)
        else:
            positive, negative = build.prompt(edit, 0, 0), build.negative[edit.tool]
            if edit.tool == "instruct":
                conditioning = add(
                    "InstructPixToPixConditioning", positive=positive, negative=negative, vae=build.vae, pixels=picture
                )
                positive, negative = conditioning.out(0), conditioning.out(1)
            masked = add("SetLatentNoiseMask", samples=latent, mask=mask).out()
            model = build.model[edit.tool]
            inputs = {"model": model, "positive": positive, "negative": negative, "latent_image": masked}
            sampled = build.sample(edit, index + 1, 0, 0, **inputs)
            picture = add("VAEDecode", samples=sampled, vae=build.vae).out()
        latent = add("VAEEncode", pixels=picture, vae=build.vae).out()
        add("SaveImage", images=picture, filename_prefix=f"round_trip/after_{index + 1:02d}")
        add("SaveLatent", samples=latent, filename_prefix=f"round_trip/latent_{index + 1:02d}")
    return build.writer
