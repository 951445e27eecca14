"""Measures the demo family on 200 scenes it was not trained on, through the host's own loader and KSampler.

`python -m tiny_sd.measure` in tests/, with the host's folder on PYTHONPATH; writes weights/measured.json and MEASURED.md.
"""

from __future__ import annotations

import comfy.cli_args

comfy.cli_args.args.cpu = True  # before the host looks for devices

import argparse
import json
from pathlib import Path
from typing import Any

import comfy.sd
import nodes as host_nodes
import numpy as np
import torch

from . import family
from .judge import EditVerdict, edit_verdict, object_verdict
from .language import EDIT_KINDS, caption, make_edit
from .train_diffusion import load_autoencoder
from .training_loop import WEIGHTS_FOLDER
from .world import draw, random_scene

FIRST_SEED, SCENES, BATCH = 5_000_000, 200, 50
SAMPLING = {"steps": 20, "sampler_name": "euler", "scheduler": "karras", "denoise": 1.0}
CFG = {"text_to_image": 5.0, "instruct_pix2pix": 3.0}
REPORT = Path(__file__).with_name("MEASURED.md")


def decode(autoencoder: torch.nn.Module, latents: torch.Tensor) -> np.ndarray:
    """(n, 4, 16, 16) as the host stores them to (n, 64, 64, 3) in 0..1."""
    pixels = torch.cat([autoencoder.decode(part).sample for part in latents.split(BATCH)])
    return (pixels / 2 + 0.5).clamp(0, 1).movedim(1, -1).numpy()


def encode(autoencoder: torch.nn.Module, pictures: np.ndarray) -> torch.Tensor:
    pixels = torch.from_numpy(pictures).movedim(-1, 1) * 2 - 1
    return torch.cat([autoencoder.encode(part).latent_dist.mode() for part in pixels.split(BATCH)])


def load(name: str) -> tuple[Any, Any]:
    family.register()
    file = WEIGHTS_FOLDER / f"tiny_sd_{name}.safetensors"
    return comfy.sd.load_checkpoint_guess_config(str(file), output_vae=False, output_clip=True)[:2]


def sample(model: Any, clip: Any, texts: list[str], latents: torch.Tensor, images: torch.Tensor | None) -> torch.Tensor:
    """One picture for each text with the host's KSampler, which takes a batch with one text: so the texts are one batch
    of conditionings, stacked."""

    def conditioning(words: list[str]) -> list[list[Any]]:
        encoded = [clip.encode_from_tokens_scheduled(clip.tokenize(text))[0] for text in words]
        options = dict(encoded[0][1]) | ({} if images is None else {"concat_latent_image": images})
        return [[torch.cat([entry[0] for entry in encoded]), options]]

    positive, negative = conditioning(texts), conditioning([""] * len(texts))
    (result,) = host_nodes.KSampler().sample(
        model,
        FIRST_SEED,
        cfg=CFG["text_to_image" if images is None else "instruct_pix2pix"],
        positive=positive,
        negative=negative,
        latent_image={"samples": latents},
        **SAMPLING,
    )
    return result["samples"]


def measure_autoencoder(autoencoder: torch.nn.Module, pictures: np.ndarray) -> dict[str, float]:
    """PSNR in dB after one pass and after ten, 8-bit pictures in between."""
    passed, result = pictures, {}
    for count in range(1, 11):
        passed = np.round(decode(autoencoder, encode(autoencoder, passed)) * 255).astype(np.float32) / 255
        error = ((passed - pictures) ** 2).mean((1, 2, 3))
        result[f"psnr_pass_{count}"] = round(float((-10 * np.log10(error)).mean()), 2)
    return {key: result[key] for key in ("psnr_pass_1", "psnr_pass_5", "psnr_pass_10")}


def measure_text_to_image(autoencoder: torch.nn.Module, scenes: list) -> dict[str, float]:
    model, clip = load("text_to_image")
    verdicts = []
    for first in range(0, len(scenes), BATCH):
        part = scenes[first : first + BATCH]
        latents = sample(model, clip, [caption(scene) for scene in part], torch.zeros(len(part), 4, 16, 16), None)
        for picture, scene in zip(decode(autoencoder, latents), part, strict=True):
            verdicts += [object_verdict(picture, item) for item in scene.objects]
    colour, shape = (sum(column) / len(verdicts) for column in zip(*verdicts, strict=True))
    return {"objects": len(verdicts), "asked_colour": round(colour, 3), "asked_colour_and_shape": round(shape, 3)}


def measure_edits(autoencoder: torch.nn.Module, scenes: list, kind: str) -> dict[str, float]:
    """Edits without a mask: the model has to find the place by itself."""
    model, clip = load("instruct_pix2pix")
    verdicts: list[EditVerdict] = []
    for first in range(0, len(scenes), BATCH):
        part = scenes[first : first + BATCH]
        made = [make_edit(np.random.default_rng(FIRST_SEED + first + n), scene, kind) for n, scene in enumerate(part)]
        before = encode(autoencoder, np.stack([draw(scene) for scene in part]))
        latents = sample(model, clip, [edit.instruction for edit in made], before, before)
        pictures = decode(autoencoder, latents)
        verdicts += [edit_verdict(picture, edit) for picture, edit in zip(pictures, made, strict=True)]
    return {
        "edits": len(verdicts),
        "matches": round(float(np.mean([verdict.matches for verdict in verdicts])), 3),
        "psnr": round(float(np.mean([verdict.psnr for verdict in verdicts])), 2),
    }


def report(measured: dict[str, Any]) -> str:
    auto, text = measured["autoencoder"], measured["text_to_image"]
    lines = [
        "Written by measure.py; do not edit.",
        "",
        f"On {measured['scenes']} scenes never trained on, {SAMPLING['steps']} steps of {SAMPLING['sampler_name']} on the "
        f"{SAMPLING['scheduler']} schedule, cfg {CFG['text_to_image']:g} for text to image and "
        f"{CFG['instruct_pix2pix']:g} for instructions, no mask:",
        "",
        "| what | figure |",
        "|---|---|",
        f"| autoencoder, PSNR after 1 / 5 / 10 passes | {' / '.join(str(auto[key]) for key in auto)} dB |",
        f"| text to image: an object has the asked colour | {text['asked_colour']:.1%} of {text['objects']} |",
        f"| text to image: … and the asked shape | {text['asked_colour_and_shape']:.1%} |",
    ]
    for kind in EDIT_KINDS:
        row = measured["instruct_pix2pix"][kind]
        lines.append(
            f"| instruction, {kind}: matches the exact picture | {row['matches']:.1%}, PSNR {row['psnr']} dB |"
        )
    return "\n".join(lines) + "\n"


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=SCENES)
    count = parser.parse_args().scenes
    scenes = [random_scene(np.random.default_rng(FIRST_SEED + number)) for number in range(count)]
    autoencoder = load_autoencoder()
    measured = {
        "scenes": count,
        "autoencoder": measure_autoencoder(autoencoder, np.stack([draw(scene) for scene in scenes])),
        "text_to_image": measure_text_to_image(autoencoder, scenes),
        "instruct_pix2pix": {kind: measure_edits(autoencoder, scenes, kind) for kind in EDIT_KINDS},
    }
    (WEIGHTS_FOLDER / "measured.json").write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    REPORT.write_text(report(measured), encoding="utf-8")
    print(report(measured))


if __name__ == "__main__":
    main()
