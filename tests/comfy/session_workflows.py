"""Graphs that show what a session is for: going back and branching, carrying on tomorrow, painting."""

from __future__ import annotations

from dataclasses import replace

from chain_builder import ChainBuilder, ChainEdit
from edit_chain import BOTTOM_LEFT, CIRCLE, SOURCE, SQUARE
from tiny_sd.world import Scene, SceneObject
from workflow_writer import Link, WorkflowWriter

SESSION = "reedit/undo_and_branch"  # in the host's output folder
SESSION_FILE = f"{SESSION}.reedit.safetensors [output]"
Described = dict[str, dict[str, str]] | None

_CIRCLE, _SQUARE = SOURCE.objects
_PURPLE = replace(_CIRCLE, colour="purple")
_CROSS = SceneObject("cross", "white", "small", 8.0, 10.0, 54.0)
_YELLOW = SceneObject("square", "yellow", "small", 8.0, 10.0, 54.0)
_GREEN = replace(_SQUARE, colour="green")


def _scene(*objects: SceneObject) -> Scene:
    return replace(SOURCE, objects=objects)


PURPLE = ChainEdit("instruct", "make the circle purple", CIRCLE, _scene(_PURPLE, _SQUARE))
# Seeds with which the demo's small model does what it is asked to.
CROSS = ChainEdit("repaint", "repaint: a white cross", BOTTOM_LEFT, _scene(_PURPLE, _SQUARE, _CROSS), seed=6)
YELLOW = ChainEdit("repaint", "repaint: a yellow square", BOTTOM_LEFT, _scene(_PURPLE, _SQUARE, _YELLOW), seed=6)
GREEN = ChainEdit("instruct", "make the square green", SQUARE, _scene(_PURPLE, _GREEN, _CROSS))
PLATE = ChainEdit("paint", "paint a white plate", (4, 48, 12, 12), SOURCE, (((4, 48, 12, 12), "white"),))


def _show(build: ChainBuilder, latent: Link, title: str, x: float, y: float) -> Link:
    """Decode a latent into a picture with a name of its own. Returns the latent, passed through."""
    decoded = build.writer.add("ReEditDecode", (x, y), (270, 80), samples=latent, vae=build.vae)
    name = f"reedit/{title.replace(' ', '_')}"
    build.writer.add("SaveImage", (x, y + 140), (400, 320), title, images=decoded.out(0), filename_prefix=name)
    return decoded.out(1)


def undo_and_branch(models: dict[str, str], described: Described = None) -> WorkflowWriter:
    """Two edits; back by one; another second edit. Both are kept, shown side by side, and saved as one file."""
    build = ChainBuilder(models, described)
    add = build.writer.add
    first = build.step(0, PURPLE, build.encode())
    second = build.step(1, CROSS, first)
    x, y = build.corner(2)
    build.writer.group("3. undo", (x - 20, y - 70, 800, build.HEIGHT), "#a55")
    seen = _show(build, second, "with the cross", x, y)
    back = add("ReEditCheckout", (x + 440, y), (320, 130), "one edit back", samples=seen, edit="back 1").out()
    branch = build.step(3, YELLOW, back)
    x, y = build.corner(4)
    build.writer.group("both branches", (x - 20, y - 70, 2280, 900), "#a55")
    latent = _show(build, branch, "with the yellow square", x, y)
    inputs = {"samples": latent, "filename": SESSION, "existing": "replace"}
    saved = add("ReEditSaveSession", (x, y + 530), (400, 230), "", **inputs).out()
    add("ReEditTimeline", (x + 450, y), (880, 800), "", samples=saved, vae=build.vae, columns=4)
    add("ReEditDriftMeter", (x + 1375, y), (860, 800), samples=saved, vae=build.vae)
    return build.writer


def continue_tomorrow(models: dict[str, str], described: Described = None) -> WorkflowWriter:
    """Open the file that undo_and_branch saved, go to its other branch by label, and edit on."""
    build = ChainBuilder(models, described)
    add = build.writer.add
    opened = add("ReEditLoadSession", (-980, 1010), (420, 130), "", session=SESSION_FILE).out()
    other = add("ReEditCheckout", (-520, 1090), (380, 130), "the other branch", samples=opened, edit=CROSS.label).out()
    latent = build.step(0, GREEN, other)
    x, y = build.corner(1)
    build.writer.group("the session now", (x - 20, y - 70, 1400, 900), "#a55")
    latent = _show(build, latent, "continued", x, y)
    add("ReEditTimeline", (x + 450, y), (880, 800), "", samples=latent, vae=build.vae, columns=4)
    return build.writer


def paint_and_merge(models: dict[str, str], described: Described = None) -> WorkflowWriter:
    """A painted stroke comes back without a round trip; then your own brush; then the model finishes what was painted."""
    build = ChainBuilder(models, described)
    add = build.writer.add
    latent = build.encode()
    latent = build.step(0, PLATE, latent)
    x, y = build.corner(1)
    build.writer.group(
        "2. your own brush: paint here and run again", (x - 20, y - 70, build.WIDTH, build.HEIGHT), "#b58b2a"
    )
    decoded = add("ReEditDecode", (x, y), (270, 80), samples=latent, vae=build.vae)
    canvas = add("Painter", (x + 330, y), (620, 600), "", image=decoded.out(0), mask="", width=512, height=512)
    inputs = {"samples": decoded.out(1), "pixels": canvas.out(0), "decoded": decoded.out(0), "vae": build.vae}
    merged = add("ReEditMergePixels", (x + 1000, y), (400, 330), "", label="painted by hand", **inputs)
    add("MaskPreview", (x + 1000, y + 390), (400, 210), "what was found to be painted", mask=merged.out(1))
    finished = replace(YELLOW, after=_scene(_CIRCLE, _SQUARE, _YELLOW))
    latent = build.step(2, finished, merged.out(0))
    x, y = build.corner(3)
    build.writer.group("what came of it", (x - 20, y - 70, 2280, 900), "#a55")
    latent = _show(build, latent, "painted and finished", x, y)
    add("ReEditTimeline", (x + 450, y), (880, 800), "", samples=latent, vae=build.vae, columns=4)
    add("ReEditDriftMeter", (x + 1375, y), (860, 800), samples=latent, vae=build.vae)
    return build.writer
