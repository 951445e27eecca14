"""`dev.py demo`: ten edits of one picture in the real host, ours beside the pixel round trip, measured and drawn.

Runs workflows/mixed_edit_chain.json as it is shipped, but for the names of the model files and the guidance that they want,
and the same edits with core nodes; writes report.json, source.png, final.png and timeline.png.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from chain_builder import DEMO_MODELS, PICTURE, SIZE, TOOLS, ChainEdit, box_mask
from edit_chain import edits, round_trip_chain, truth
from live_server import LiveServer
from PIL import Image
from safetensors.numpy import load_file
from saved_workflows import run_shipped
from tiny_sd.world import draw, random_scene

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))

from models.metrics.timeline import contact_strip

PIXELS = SIZE * SIZE


def save_picture(picture: np.ndarray, file: Path) -> None:
    Image.fromarray((picture * 255).round().astype(np.uint8)).save(file)


def save_training_pictures(folder: Path, count: int = 16) -> None:
    """Pictures of the drawn world, SIZE×SIZE, for a decoder to be trained on."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for number in range(count):
        save_picture(draw(random_scene(generator)), folder / f"{number:02}.png")


def open_picture(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"), np.float32) / 255


def psnr(picture: np.ndarray, reference: np.ndarray, where: np.ndarray | None = None) -> float:
    """PSNR in dB of (H, W, 3) pictures in 0..1, over the pixels marked in (H, W) bool."""
    error = (picture - reference) ** 2
    return float(-10 * np.log10(max(float((error if where is None else error[where]).mean()), 1e-10)))


def untouched() -> np.ndarray:
    """(SIZE, SIZE) bool: the pixels that no edit of the chain was allowed to touch."""
    return ~np.any([box_mask(edit.box) for edit in edits()], axis=0)


def entry(edit: ChainEdit, change: float, picture: np.ndarray, encoded_pixels: int) -> dict[str, Any]:
    return {
        "label": edit.label,
        "tool": TOOLS[edit.tool],
        "outside_mask_max_abs_latent_change": change,
        "psnr_to_truth": round(psnr(picture, truth(edit)), 2),
        "encoded_pixels": encoded_pixels,
    }


def run_ours(server: LiveServer) -> tuple[list[dict[str, Any]], list[np.ndarray], Path]:
    """Run the shipped workflow. Returns an entry and a picture for each edit, and the final picture's file."""
    shown = run_shipped("mixed_edit_chain", server)
    drift = json.loads(shown["ReEditDriftMeter"]["text"][0])
    steps = [open_picture(server.output_file(image)) for image in shown["every step"]["images"]]
    rows = [
        entry(edit, row["outside_mask_max_abs_latent_change"], picture, row["encoded_pixels"])
        for edit, row, picture in zip(edits(), drift, steps[1:], strict=True)
    ]
    return rows, steps[1:], server.output_file(shown["the picture now"]["images"][0])


def run_round_trip(server: LiveServer) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """Run the same edits with core nodes; measures what a latent tool would find after each."""
    server.run(round_trip_chain(DEMO_MODELS).as_queued())
    folder = server.folder("output") / "round_trip"

    def latent(number: int) -> np.ndarray:
        (file,) = folder.glob(f"latent_{number:02d}_*.latent")
        return load_file(file)["latent_tensor"]

    rows, pictures = [], []
    for number, edit in enumerate(edits(), 1):
        (file,) = folder.glob(f"after_{number:02d}_*.png")
        pictures.append(open_picture(file))
        cell = SIZE // latent(0).shape[-1]
        cells = box_mask(edit.box).reshape(SIZE // cell, cell, SIZE // cell, cell).any((1, 3))
        change = np.abs(latent(number) - latent(number - 1))[..., ~cells].max()
        # One encode brings the latent; InstructPix2Pix's own conditioning encodes the same picture once more. Painting
        # itself encodes nothing, but the tool after it has to.
        encodes = {"instruct": 2, "repaint": 1, "paint": 0}[edit.tool]
        rows.append(entry(edit, float(change), pictures[-1], encodes * PIXELS))
    return rows, pictures


def summarise(
    ours: list[dict[str, Any]], ours_last: np.ndarray, base: list[dict[str, Any]], base_last: np.ndarray
) -> dict:
    source, region = truth(None), untouched()
    encoded = PIXELS + sum(row["encoded_pixels"] for row in ours)  # the source's one encode counts too
    base_encoded = sum(row["encoded_pixels"] for row in base)
    ours_psnr, base_psnr = psnr(ours_last, source, region), psnr(base_last, source, region)
    return {
        "edits": len(ours),
        "tools": sorted({row["tool"] for row in ours}),
        "outside_mask_max_abs_latent_change": max(row["outside_mask_max_abs_latent_change"] for row in ours),
        "baseline_outside_mask_max_abs_latent_change": max(row["outside_mask_max_abs_latent_change"] for row in base),
        "encoded_pixels": encoded,
        "baseline_encoded_pixels": base_encoded,
        "encoded_pixels_ratio": round(encoded / base_encoded, 3),
        "untouched_psnr": round(ours_psnr, 2),
        "baseline_untouched_psnr": round(base_psnr, 2),
        "untouched_psnr_gain": round(ours_psnr - base_psnr, 2),
        "final_psnr_to_truth": ours[-1]["psnr_to_truth"],
        "baseline_final_psnr_to_truth": base[-1]["psnr_to_truth"],
    }


def draw_timeline(ways: dict[str, list[np.ndarray]], file: Path) -> None:
    """One strip of pictures for each way of editing: the source under the way's name, then every edit."""
    labels = [f"{number}. {edit.label}" for number, edit in enumerate(edits(), 1)]
    strips = []
    for name, pictures in ways.items():
        steps = [torch.from_numpy(picture) for picture in (truth(None), *pictures)]
        strips.append(contact_strip(steps, [name, *labels], columns=len(steps)))
    save_picture(torch.cat(strips).numpy(), file)


def failures(ours: list[dict[str, Any]], summary: dict[str, Any]) -> list[str]:
    """In words, what the demo promises and this run does not hold."""
    broken = []
    for row in ours:
        if row["outside_mask_max_abs_latent_change"] != 0.0:
            broken.append(f"“{row['label']}” changed the latent outside its mask")
    if summary["encoded_pixels_ratio"] >= 1 / 3:
        broken.append(
            f"encoded {summary['encoded_pixels_ratio']} of the baseline's pixels; less than a third is promised"
        )
    if summary["untouched_psnr_gain"] < 3:
        broken.append(
            f"the untouched region is {summary['untouched_psnr_gain']} dB closer to the source; 3 dB are promised"
        )
    return broken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "demo")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="write the picture that is edited, and nothing else"
    )
    options = parser.parse_args()
    if options.picture:
        save_picture(truth(None), options.picture)
        return 0
    output = options.output.resolve()
    shutil.rmtree(output, ignore_errors=True)
    scratch = output / "server"
    scratch.mkdir(parents=True)
    started = time.monotonic()
    with LiveServer(Path(os.environ["COMFYUI_PATH"]), ROOT / "build" / "comfy", scratch) as server:
        save_picture(truth(None), server.folder("input") / PICTURE)
        version = server.get("/system_stats")["system"]["comfyui_version"]
        print(f"ComfyUI {version} runs; editing one picture ten times with three kinds of tool …", flush=True)
        ours, our_pictures, final = run_ours(server)
        print("… and the same ten edits with a pixel round trip each …", flush=True)
        base, base_pictures = run_round_trip(server)
        shutil.copy2(final, output / "final.png")
    save_picture(truth(None), output / "source.png")
    draw_timeline(
        {
            "the exact pictures": [truth(edit) for edit in edits()],
            "ReEdit: the latent is the document": our_pictures,
            "core nodes: a pixel round trip each": base_pictures,
        },
        output / "timeline.png",
    )
    summary = summarise(ours, our_pictures[-1], base, base_pictures[-1])
    report = {"host_version": version, "edits": ours, "baseline": base, "summary": summary}
    (output / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, value in summary.items():
        print(f"  {name.replace('_', ' ')}: {value}")
    print(f"Look at {output / 'timeline.png'} ({time.monotonic() - started:.0f} s).")
    broken = failures(ours, summary)
    for line in broken:
        print(f"FAILED: {line}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
