"""A graph that shows what an inversion is worth: there and back, beside what FlipSigmas alone gives."""

from __future__ import annotations

from chain_builder import ChainBuilder
from edit_chain import SOURCE
from session_workflows import Described
from tiny_sd.language import caption
from workflow_writer import Link, WorkflowWriter

STEPS = {"steps": 20, "scheduler": "karras"}


def invert_and_reconstruct(models: dict[str, str], described: Described = None) -> WorkflowWriter:
    """Three inversions of one latent, each sampled back with the host's euler, and how close each comes."""
    build = ChainBuilder(models, described, guided=False)
    add = build.writer.add
    model, latent = build.model["repaint"], build.encode()
    build.writer.group("what all three share", (-20, -70, 380, 760), "#888")
    positive = add(
        "CLIPTextEncode", (0, 0), (340, 160), "what the picture shows", text=caption(SOURCE), clip=build.clip["repaint"]
    ).out()
    guider = add("BasicGuider", (0, 230), (340, 60), "guidance 1", model=model, conditioning=positive).out()
    euler = add("KSamplerSelect", (0, 360), (340, 80), "", sampler_name="euler").out()
    sigmas = add("BasicScheduler", (0, 500), (340, 130), "", model=model, denoise=1.0, **STEPS).out()

    build.writer.group("1. ReEdit Invert, and its report", (400, -70, 2090, 1060), "#3f789e")
    inverted = add(
        "ReEditInvert",
        (420, 0),
        (400, 520),
        "",
        model=model,
        positive=positive,
        samples=latent,
        sigmas=sigmas,
        tolerance=1e-5,
        check=True,
    )
    add("ReEditInversionReport", (860, 0), (620, 940), "", trajectory=inverted.out(3))
    back = {"noise": inverted.out(1), "sigmas": inverted.out(2), "latent_image": latent}
    _sample_back(build, guider, euler, back, "ReEdit Invert", 1520, 0)

    none = add("DisableNoise", (0, 760), (340, 30)).out()
    flipped = add("FlipSigmas", (0, 860), (340, 30), sigmas=sigmas).out()
    dropped_in = add("ReEditInversionSampler", (0, 960), (340, 180), "", method="anderson", tolerance=1e-5).out()
    rows = (
        ("2. FlipSigmas with our sampler in euler's place", "FlipSigmas, ReEdit sampler", dropped_in, "#8a8"),
        ("3. FlipSigmas and euler: what ComfyUI gives without us", "FlipSigmas, euler", euler, "#a55"),
    )
    for row, (title, name, sampler, colour) in enumerate(rows):
        y = 1080 + row * 1080
        build.writer.group(title, (400, y - 70, 1430, 1060), colour)
        upwards = {"guider": guider, "sampler": sampler, "sigmas": flipped, "latent_image": latent, "noise": none}
        noisy = add("SamplerCustomAdvanced", (420, y), (400, 140), "upwards", **upwards).out()
        back = {"noise": none, "sigmas": sigmas, "latent_image": noisy}
        _sample_back(build, guider, euler, back, name, 860, y)
    return build.writer


def _sample_back(
    build: ChainBuilder, guider: Link, euler: Link, inputs: dict[str, Link], name: str, x: float, y: float
) -> None:
    """Sample, note the result in the session, and show it and how far it is from the source."""
    add = build.writer.add
    sampled = add("SamplerCustomAdvanced", (x, y), (300, 140), "and back", guider=guider, sampler=euler, **inputs).out()
    noted = add("ReEditCommit", (x, y + 200), (300, 130), samples=sampled, label=name).out()
    decoded = add("ReEditDecode", (x, y + 390), (300, 80), samples=noted, vae=build.vae)
    prefix = f"reedit/{name.replace(', ', '_').replace(' ', '_')}"
    add("SaveImage", (x + 330, y), (290, 330), name, images=decoded.out(0), filename_prefix=prefix)
    add("ReEditDriftMeter", (x + 330, y + 380), (620, 560), f"drift: {name}", samples=noted, vae=build.vae)
