"""For `dev.py bench reed`: what encoding and decoding in tiles change, against the whole picture at once. In grey levels."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import _host
import nodes as host_nodes
import torch
from _reed_pictures import photographs, scenes
from _report import goal
from reedit.nodes.autoencoders import ReEditDecode, ReEditEncode, load_kl_vae
from torch import Tensor

SIZES = {256: 64, 512: 128}  # the side of a picture and of its tiles, in pixels
OURS, HOSTS = "ReEdit's tiles", "the host's tiles"
ABOUT = (
    "Both of tiles of the same size; the host's overlap by a quarter, ReEdit's not at all. Encoding is judged by the "
    "pictures that the whole decoder makes of the two latents. tile's colour: by how much the mean colour of a square of a "
    "tile's size is off, at most. step: by how much the colour jumps where it should not between two neighbouring lines of "
    "pixels, on average along the line, at most. The demo autoencoder was trained on pictures of 64 px alone: its norms "
    "take it worse than a large one's when they see a part of a larger picture."
)


@torch.inference_mode()
def measure(seed: int) -> dict[str, Any]:
    """The figures of both kinds of tiles, for scenes put side by side and for a photograph, in two sizes."""
    vae = load_kl_vae(_host.WEIGHTS / "tiny_sd_autoencoder.safetensors")
    figures: dict[str, Any] = {"about": ABOUT, "pictures": {}}
    for side, tile in SIZES.items():
        for name, picture in (("scenes", mosaic(side, seed)), ("a photograph", photographs(side)[:1])):
            figures["pictures"][f"{name}, {side} px in tiles of {tile}"] = measure_picture(vae, picture, tile)
    return figures


def mosaic(side: int, seed: int) -> Tensor:
    """As many drawn scenes as fill a square, (1, side, side, 3)."""
    across = side // 64
    rows = scenes(across**2, seed).unflatten(0, (across, across))  # (row, column, y, x, colour)
    return rows.permute(0, 2, 1, 3, 4).reshape(1, side, side, 3)


def measure_picture(vae: Any, picture: Tensor, tile: int) -> dict[str, Any]:
    """picture: (1, H, W, 3). The figures of encoding and decoding it with each kind of tiles."""
    latent, whole_encode = timed(lambda: vae.encode(picture))
    decoded, whole_decode = timed(lambda: vae.decode(latent))
    encoders: dict[str, Callable[[], Tensor]] = {
        OURS: lambda: ReEditEncode.execute(picture, vae, "refuse", tile).result[0]["samples"],
        HOSTS: lambda: host_nodes.VAEEncodeTiled().encode(vae, picture, tile, tile // 4)[0]["samples"],
    }
    decoders: dict[str, Callable[[], Tensor]] = {
        OURS: lambda: ReEditDecode.execute({"samples": latent}, vae, tile).result[0],
        HOSTS: lambda: host_nodes.VAEDecodeTiled().decode(vae, {"samples": latent}, tile, tile // 4)[0],
    }
    figures: dict[str, Any] = {"encode": {}, "decode": {}}
    for name in (OURS, HOSTS):
        tiled, seconds = timed(encoders[name])
        off = float((tiled - latent).norm() / latent.norm())
        figures["encode"][name] = {
            **compare(vae.decode(tiled), decoded, tile),
            "latent's relative error": off,
            "time, whole = 1": seconds / whole_encode,
        }
        tiled, seconds = timed(decoders[name])
        figures["decode"][name] = {**compare(tiled, decoded, tile), "time, whole = 1": seconds / whole_decode}
    return figures


def timed(work: Callable[[], Tensor]) -> tuple[Tensor, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def compare(tiled: Tensor, whole: Tensor, tile: int) -> dict[str, float]:
    """Two pictures, (1, H, W, 3) in 0..1, of sides that are multiples of `tile`."""
    difference = 255 * (tiled - whole).double()[0]
    squares = difference.unflatten(1, (-1, tile)).unflatten(0, (-1, tile)).mean((1, 3))
    steps = [difference.diff(dim=direction).mean(1 - direction).abs().max() for direction in (0, 1)]
    return {
        "max": float(difference.abs().max()),
        "mean": float(difference.abs().mean()),
        "tile's colour": float(squares.abs().max()),
        "step": float(max(steps)),
    }


def tile_goals(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """No seam: in no picture is the colour of a tile off, or a step where there is none, by half a grey level."""
    goals = []
    for work in ("encode", "decode"):
        ours = [picture[work][OURS] for picture in figures["pictures"].values()]
        for name, what in (
            ("tile's colour", "a tile's mean colour is off"),
            ("step", "the colour steps across a line"),
        ):
            worst = max(figure[name] for figure in ours)
            goals.append(goal(f"{work} in tiles: by how much {what}", worst, "at most", 0.5, "grey levels"))
    return goals


if __name__ == "__main__":
    import json

    measured = measure(0)
    print(json.dumps(measured, indent=1))
    for entry in tile_goals(measured):
        print(entry)
