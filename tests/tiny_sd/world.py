"""The drawn world of the demo family: scenes of flat shapes on a textured background, with exact object masks.

Everything in a scene can be read off its picture (no hidden randomness), so the picture after an edit is exact too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SIZE = 64  # pixels on each side of a picture
_SUPERSAMPLING = 4  # shape edges are antialiased by drawing them this many times larger

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.10, 0.12),
    "green": (0.10, 0.75, 0.20),
    "blue": (0.12, 0.20, 0.90),
    "yellow": (0.97, 0.88, 0.10),
    "purple": (0.55, 0.12, 0.65),
    "orange": (0.98, 0.50, 0.05),
    "white": (0.97, 0.97, 0.97),
    "black": (0.05, 0.05, 0.06),
}
SHAPES = ("circle", "square", "triangle", "cross")
SIZES: dict[str, tuple[float, float]] = {"small": (7.0, 9.0), "large": (11.0, 14.0)}  # radius range in pixels
BACKGROUNDS = ("grass", "sand", "water", "brick", "stone")


@dataclass(frozen=True)
class SceneObject:
    """One flat shape: `x`, `y` and `radius` in pixels, the shape inscribed in the circle of that radius."""

    shape: str
    colour: str
    size: str
    radius: float
    x: float
    y: float


@dataclass(frozen=True)
class Scene:
    """A background of one kind under one light (`brightness` 0.85 to 1.15), with one to three objects on it."""

    background: str
    brightness: float
    objects: tuple[SceneObject, ...]


def random_scene(generator: np.random.Generator, most_objects: int = 3) -> Scene:
    """Draw a scene at random. Objects never touch, and no two share a shape, so "the circle" names one of them."""
    wanted = int(generator.choice(np.arange(1, most_objects + 1)))
    shapes = generator.permutation(SHAPES)
    objects: list[SceneObject] = []
    for shape in shapes[:wanted]:
        size = str(generator.choice(list(SIZES)))
        radius = float(generator.uniform(*SIZES[size]))
        for _ in range(50):
            x, y = (float(value) for value in generator.uniform(radius + 2, SIZE - radius - 2, 2))
            if all(np.hypot(x - other.x, y - other.y) > radius + other.radius + 2 for other in objects):
                objects.append(SceneObject(str(shape), str(generator.choice(list(COLOURS))), size, radius, x, y))
                break
    return Scene(str(generator.choice(BACKGROUNDS)), float(generator.uniform(0.85, 1.15)), tuple(objects))


def object_mask(item: SceneObject) -> np.ndarray:
    """Coverage of one object, (SIZE, SIZE) float32 in 0..1, antialiased at the edge."""
    count = SIZE * _SUPERSAMPLING
    axis = (np.arange(count) + 0.5) / _SUPERSAMPLING
    dx, dy = axis[None, :] - item.x, axis[:, None] - item.y
    radius = item.radius
    if item.shape == "circle":
        inside = dx**2 + dy**2 <= radius**2
    elif item.shape == "square":
        side = radius * 0.85
        inside = (np.abs(dx) <= side) & (np.abs(dy) <= side)
    elif item.shape == "triangle":
        # Apex up, base at 0.7 radius below the centre.
        inside = (dy <= 0.7 * radius) & (np.abs(dx) <= (dy + radius) * 0.58)
    elif item.shape == "cross":
        arm = radius * 0.36
        inside = ((np.abs(dx) <= arm) & (np.abs(dy) <= radius)) | ((np.abs(dy) <= arm) & (np.abs(dx) <= radius))
    else:
        raise ValueError(f"unknown shape {item.shape!r}; the world has {', '.join(SHAPES)}")
    return inside.reshape(SIZE, _SUPERSAMPLING, SIZE, _SUPERSAMPLING).mean((1, 3), dtype=np.float32)


def draw_background(kind: str) -> np.ndarray:
    """The texture of one kind of background at brightness 1, (SIZE, SIZE, 3) float32 in 0..1."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    if kind == "grass":
        pattern = np.sin(x * 1.1 + 1.5 * np.sin(y * 0.23)) * np.cos(y * 0.45 + x * 0.07)
        base, swing = (0.33, 0.45, 0.24), (0.05, 0.09, 0.04)
    elif kind == "sand":
        pattern = np.sin(y * 0.55 + 1.2 * np.sin(x * 0.13))
        base, swing = (0.76, 0.67, 0.50), (0.06, 0.06, 0.05)
    elif kind == "water":
        pattern = np.sin(x * 0.35 + 0.6 * np.sin(y * 0.5)) * np.sin(y * 0.8)
        base, swing = (0.32, 0.53, 0.62), (0.05, 0.07, 0.08)
    elif kind == "brick":
        row = np.floor(y / 8)
        joint = (y % 8 < 1) | ((x + 8 * (row % 2)) % 16 < 1)
        pattern = np.where(joint, 1.0, -0.2).astype(np.float32)
        base, swing = (0.55, 0.37, 0.32), (0.14, 0.14, 0.13)
    elif kind == "stone":
        pattern = np.sin(x * 0.31 + 2.0 * np.sin(y * 0.19)) + 0.6 * np.sin(y * 0.71 - x * 0.43)
        base, swing = (0.46, 0.46, 0.49), (0.06, 0.06, 0.06)
    else:
        raise ValueError(f"unknown background {kind!r}; the world has {', '.join(BACKGROUNDS)}")
    return np.asarray(base, np.float32) + pattern[..., None] * np.asarray(swing, np.float32)


_BACKGROUND_PICTURES = {kind: draw_background(kind) for kind in BACKGROUNDS}


def draw(scene: Scene) -> np.ndarray:
    """The picture of a scene, (SIZE, SIZE, 3) float32 in 0..1."""
    picture = _BACKGROUND_PICTURES[scene.background] * scene.brightness
    for item in scene.objects:
        mask = object_mask(item)[..., None]
        picture = picture * (1 - mask) + np.asarray(COLOURS[item.colour], np.float32) * mask
    return np.clip(picture, 0.0, 1.0).astype(np.float32)
