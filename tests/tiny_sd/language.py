"""What is said about the drawn world: captions, and edits as (instruction, scene before, scene after, mask)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .world import BACKGROUNDS, COLOURS, SHAPES, Scene, SceneObject, object_mask

EDIT_KINDS = ("colour", "shape", "background", "removal")

_INSTRUCTIONS = {
    "colour": ("make the {shape} {colour}", "paint the {shape} {colour}"),
    "shape": ("turn the {shape} into a {new_shape}", "replace the {shape} with a {new_shape}"),
    "background": ("change the background to {background}", "put it on {background}"),
    "removal": ("remove the {shape}", "erase the {shape}"),
}


@dataclass(frozen=True)
class Edit:
    """One edit with its exact outcome. `mask` is (SIZE, SIZE) float32: the pixels that the edit may touch."""

    kind: str
    instruction: str
    before: Scene
    after: Scene
    subject: SceneObject | None
    mask: np.ndarray


def place(item: SceneObject) -> str:
    """Where an object stands, in words: "top left", "center", …"""
    vertical = "top" if item.y < 24 else "bottom" if item.y > 40 else ""
    horizontal = "left" if item.x < 24 else "right" if item.x > 40 else ""
    return " ".join(word for word in (vertical, horizontal) if word) or "center"


def describe(item: SceneObject) -> str:
    return f"a {item.size} {item.colour} {item.shape} at the {place(item)}"


def caption(scene: Scene) -> str:
    """The sentence that a text-to-image model is given for a scene."""
    return f"{' and '.join(describe(item) for item in scene.objects)}, on {scene.background}"


def make_edit(generator: np.random.Generator, scene: Scene, kind: str) -> Edit:
    """An edit of the given kind, at random among those that change `scene`."""
    item = scene.objects[int(generator.integers(len(scene.objects)))]
    words = {"shape": item.shape}
    if kind == "colour":
        words["colour"] = str(generator.choice([name for name in COLOURS if name != item.colour]))
        changed: SceneObject | None = replace(item, colour=words["colour"])
    elif kind == "shape":
        present = {other.shape for other in scene.objects}
        words["new_shape"] = str(generator.choice([name for name in SHAPES if name not in present]))
        changed = replace(item, shape=words["new_shape"])
    elif kind == "removal":
        changed = None
    elif kind == "background":
        words["background"] = str(generator.choice([name for name in BACKGROUNDS if name != scene.background]))
    else:
        raise ValueError(f"unknown kind of edit {kind!r}; there are {', '.join(EDIT_KINDS)}")
    instruction = str(generator.choice(_INSTRUCTIONS[kind])).format(**words)
    if kind == "background":
        covered = np.clip(sum(object_mask(other) for other in scene.objects), 0, 1)
        return Edit(kind, instruction, scene, replace(scene, background=words["background"]), None, 1 - covered)
    objects = tuple(changed if other is item else other for other in scene.objects)
    after = replace(scene, objects=tuple(other for other in objects if other is not None))
    mask = object_mask(item)
    if changed is not None:
        mask = np.maximum(mask, object_mask(changed))
    return Edit(kind, instruction, scene, after, item, mask)


def vocabulary() -> list[str]:
    """Every word that captions and instructions use, in a fixed order."""
    sentences = [form for forms in _INSTRUCTIONS.values() for form in forms]
    plain = " ".join(sentences).replace("{", " ").replace("}", " ").split()
    words = {word for word in plain if "_" not in word}
    words |= {"small", "large", "a", "at", "the", "and", "on", ",", "top", "bottom", "left", "right", "center"}
    return sorted(words | set(COLOURS) | set(SHAPES) | set(BACKGROUNDS))
