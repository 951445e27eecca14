"""A REED decoder in the real host: the same latents to the bit, and every workflow of ours with it in the base's place."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _host
import folder_paths
import nodes as host
import torch
from _reed_arms import BASE_FILE, FILES, LATENT, decoder_file
from _reed_pictures import LARGE, SCENES, pictures_of
from _report import goal
from reedit.models.autoencoders.kl_file import StoredAutoencoder, read_autoencoder
from reedit.models.autoencoders.kl_layout import ldm_names
from reedit.nodes.autoencoders import ReEditLoadREEDVAE, load_kl_vae
from torch import Tensor

sys.path.append(str(_host.TESTS / "comfy"))

import demo
from chain_builder import DEMO_MODELS, MODELS, PICTURE
from edit_chain import truth
from live_server import LiveServer
from reed_workflows import PICTURES as TRAINING_PICTURES
from saved_workflows import FOLDER, LOADERS, for_the_demo, run_workflow

BASE_DIRECTORY = Path(__file__).parents[2] / "build" / "comfy"
ENCODER = ("encoder.", "quant_conv.")
ENCODED = {SCENES: 50, LARGE: 5}
# A workflow that goes on with the session that another one saves comes after it.
LAST = ("continue_tomorrow",)


def different_bits(one: Tensor, other: Tensor) -> int:
    """How many values of two tensors differ in any bit; all of them where the shapes or the types differ."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return max(one.numel(), other.numel())
    whole = {2: torch.int16, 4: torch.int32}[one.element_size()]
    return int((one.contiguous().view(whole) != other.contiguous().view(whole)).sum())


@torch.inference_mode()
def same_latents(weights: Path, seed: int) -> dict[str, Any]:
    """By the arm: how many values of the encoder, and of the latents of the host's VAEEncode, differ from the base's."""
    folder_paths.add_model_folder_path("vae", str(_host.WEIGHTS))
    base = load_kl_vae(BASE_FILE)
    pictures = {kind: pictures_of(kind, count, seed) for kind, count in ENCODED.items()}
    latents = {kind: host.VAEEncode().encode(base, batch)[0]["samples"] for kind, batch in pictures.items()}
    figures = {}
    for arm in FILES:
        file = decoder_file(arm, weights)
        folder_paths.add_model_folder_path("vae", str(file.parent))
        vae = ReEditLoadREEDVAE.execute(file.name, base)[0]
        ours, theirs = vae.first_stage_model.state_dict(), base.first_stage_model.state_dict()
        encoder = [name for name in theirs if name.startswith(ENCODER)]
        figures[arm] = {
            "values of the encoder": sum(theirs[name].numel() for name in encoder),
            "of these other than the base's": sum(different_bits(ours[name], theirs[name]) for name in encoder),
        }
        for kind, batch in pictures.items():
            samples = host.VAEEncode().encode(vae, batch)[0]["samples"]
            figures[arm][f"values of the latents, {len(batch)} {kind}"] = samples.numel()
            figures[arm][f"of these other than the base's, {kind}"] = different_bits(samples, latents[kind])
    return figures


def write_whole(weights: Path, file: Path) -> None:
    """The base's encoder and the full recipe's decoder as one file, as a training without --decoder-only writes it."""
    base, decoder = read_autoencoder(BASE_FILE), read_autoencoder(decoder_file(LATENT, weights))
    encoder = {name: base.tensors[name] for name, ldm in ldm_names(base.tensors).items() if ldm.startswith(ENCODER)}
    StoredAutoencoder({**encoder, **decoder.tensors}).save(file, {"kind": "written by dev.py bench reed"})


def run_workflows(weights: Path, words: str = "") -> dict[str, Any]:
    """Every shipped workflow with the REED decoder as its VAE, in a running host: seconds, or the host's words of failure.

    words: of the names of those that are wanted.
    """
    folder = BASE_DIRECTORY / "models" / "vae"
    file = folder / f"bench_reed_{os.getpid()}.safetensors"
    trained = [folder / MODELS[kind]["name"] for kind in ("reed", "epsilon")]  # templates write them
    made_here = [file, *(one for one in trained if not one.exists())]
    scratch = Path(tempfile.mkdtemp(prefix="bench_reed_"))
    named = (path.stem for path in FOLDER.glob("*.json") if words in path.stem)
    names = sorted(named, key=lambda name: (name in LAST, name))
    figures: dict[str, Any] = {}
    try:
        write_whole(weights, file)
        with LiveServer(Path(os.environ["COMFYUI_PATH"]), BASE_DIRECTORY, scratch) as server:
            demo.save_picture(truth(None), server.folder("input") / PICTURE)
            demo.save_training_pictures(server.folder("input") / TRAINING_PICTURES)
            for name in names:
                started = time.perf_counter()
                try:
                    nodes = run_with(name, file.name, server)
                    figures[name] = {"nodes that showed something": nodes, "s": time.perf_counter() - started}
                except (RuntimeError, ValueError, KeyError) as error:
                    figures[name] = {"error": str(error)[-2000:]}
                print(f"{name}: {figures[name]}", flush=True)
    finally:
        for one in made_here:
            one.unlink(missing_ok=True)
        shutil.rmtree(scratch, ignore_errors=True)
    return figures


def run_with(name: str, vae: str, server: LiveServer) -> int:
    """Run one workflow with the demo's models and this VAE; how many nodes showed something."""
    workflow = FOLDER / f"{name}.json"
    nodes = json.loads(workflow.read_text(encoding="utf-8"))["nodes"]
    wanted = {node["widgets_values"][0] for node in nodes if node["type"] in LOADERS}
    models = {**DEMO_MODELS, "vae": vae, "reed": vae}
    names = {entry["name"]: models[kind] for kind, entry in MODELS.items() if entry["name"] in wanted}
    return len(run_workflow(for_the_demo(workflow, names, server), server))


def measure(weights: Path, seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The figures, and the goals that they meet or miss."""
    latents, workflows = same_latents(weights, seed), run_workflows(weights)
    differing = sum(
        count for arm in latents.values() for name, count in arm.items() if name.startswith("of these other")
    )
    failed = [name for name, figures in workflows.items() if "error" in figures]
    goals = [
        goal("values of encoders and latents that are not the base's to the bit", differing, "at most", 0, "values"),
        goal(
            f"of our {len(workflows)} workflows, those that fail with the REED decoder's VAE",
            len(failed),
            "at most",
            0,
            "workflows",
            ", ".join(failed),
        ),
    ]
    return {"encodes against the base's": latents, "workflows with the REED decoder's VAE": workflows}, goals
