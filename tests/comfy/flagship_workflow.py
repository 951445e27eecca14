"""The graph that shows what the pack is for: one latent, edited by four of its tools and by three of other people's."""

from __future__ import annotations

from dataclasses import replace

from chain_builder import BOXES, DRAWN_FOR, SAMPLING, SCALES, VISION_MODEL, ChainBuilder
from edit_chain import BOTTOM_LEFT, CIRCLE, SOURCE
from guidance_workflows import invert_and_guide
from rpiae_workflows import add_dinov2
from session_workflows import CROSS, PLATE, Described
from tiny_sd.language import caption
from workflow_writer import Link, WorkflowWriter

MANY_TOOLS_NOTE = f"""## Many tools, one latent

One picture is encoded once. Then five edits follow, each on the latent that the one before it left; three of them by
nodes that know nothing of this pack.

- **Ours**: an instruction in a mask (EMILIE), and a word of the prompt changed (AIDI: invert, then edit where the words are).
- **Other people's**: ComfyUI's *KSampler* with a noise mask, a piece of the latent copied with core nodes, and painting on
  the picture, which *ReEdit Merge Pixels* brings back.
- At the end: every step side by side, what drifted, and what a vision model (DINOv2) says that the picture means now.
- The last group is muted: *Load REED-VAE* and *Load eps-VAE* with decoders that *train_reed* and *train_epsilon* make for
  your VAE. Choose your files, and set its nodes to *Always*.
{VISION_MODEL}
{DRAWN_FOR}
{BOXES}
"""
_PURPLE = replace(SOURCE.objects[0], colour="purple")
INSTRUCTION = "make the circle purple"
BEFORE = replace(SOURCE, objects=(_PURPLE, SOURCE.objects[1]))
AFTER = replace(SOURCE, objects=(_PURPLE, replace(SOURCE.objects[1], colour="orange")))
MUTED = 2  # LiteGraph's mode "Never"


def many_tools_one_latent(models: dict[str, str], described: Described = None) -> WorkflowWriter:
    """models: the files of "instruct", "repaint", "vae", "dinov2", "reed" and "epsilon"."""
    known = ("instruct", "repaint", "vae")
    build = ChainBuilder({name: models[name] for name in known}, described)
    add = build.writer.add
    source = build.encode()
    latent = _instructed(build, source)
    latent = _by_prompt(build, latent)
    latent = _repainted(build, latent)
    latent = _copied(build, latent)
    latent = build.step(4, PLATE, latent)
    x, y = build.corner(5)
    build.writer.group("what came of it", (x - 20, y - 70, 1940, 1540), "#a55")
    last = add("ReEditDecode", (x, y), (320, 100), "the picture now", samples=latent, vae=build.vae)
    add("SaveImage", (x, y + 160), (400, 400), "the result", images=last.out(0), filename_prefix="reedit/many_tools")
    add("ReEditTimeline", (x + 440, y), (740, 700), "", samples=last.out(1), vae=build.vae, columns=3)
    add("ReEditDriftMeter", (x + 1220, y), (660, 700), "", samples=last.out(1), vae=build.vae)
    before = add("ReEditDecode", (x, y + 760), (320, 100), "the source", samples=source, vae=build.vae).out()
    encoder = add_dinov2(build.writer, models, described, (x, y + 920))
    pictures = {"source": before, "edited": last.out(0), "encoder": encoder}
    add("ReEditSemanticDrift", (x + 440, y + 760), (740, 560), "", **pictures)
    _other_decoders(build, models, last.out(1), x, y + 1600)
    return build.writer


def _frame(build: ChainBuilder, index: int, title: str, colour: str) -> tuple[float, float]:
    x, y = build.corner(index)
    build.writer.group(f"{index + 1}. {title}", (x - 20, y - 70, build.WIDTH, build.HEIGHT), colour)
    return x, y


def _instructed(build: ChainBuilder, latent: Link) -> Link:
    """EMILIE: an instruction on the latent, in a mask."""
    x, y = _frame(build, 0, f"EMILIE: {INSTRUCTION}", "#3f789e")
    add = build.writer.add
    mask = build.mask(CIRCLE, x, y)
    model, negative = build.model["instruct"], build.negative["instruct"]
    positive = add("CLIPTextEncode", (x, y), (330, 160), "", text=INSTRUCTION, clip=build.clip["instruct"]).out()
    guider = add(
        "ReEditInstructGuider",
        (x + 370, y),
        (300, 250),
        "",
        model=model,
        positive=positive,
        negative=negative,
        samples=latent,
        mask=mask,
        **SCALES,
    ).out()
    schedule = {name: SAMPLING[name] for name in ("steps", "scheduler", "denoise")}
    sigmas = add("BasicScheduler", (x + 370, y + 310), (300, 130), "", model=model, **schedule).out()
    sampled = _sampled(build, guider, sigmas, latent, 2, x + 720, y)
    inputs = {"samples": sampled, "label": INSTRUCTION, "mask": mask}
    return add("ReEditCommit", (x + 1060, y), (400, 130), "", **inputs).out()


def _sampled(build: ChainBuilder, guider: Link, sigmas: Link, latent: Link, seed: int, x: float, y: float) -> Link:
    add = build.writer.add
    noise = add("RandomNoise", (x, y + 310), (290, 90), "", noise_seed=seed).out()
    euler = add("KSamplerSelect", (x, y + 460), (290, 80), "", sampler_name="euler").out()
    sampling = {"noise": noise, "guider": guider, "sampler": euler, "sigmas": sigmas, "latent_image": latent}
    return add("SamplerCustomAdvanced", (x, y), (290, 140), "", **sampling).out()


def _by_prompt(build: ChainBuilder, latent: Link) -> Link:
    """AIDI: the latent inverted, and edited where the words that changed are."""
    x, y = _frame(build, 1, "AIDI: change a word of the prompt", "#3f789e")
    add = build.writer.add
    texts = {"source": caption(BEFORE), "target": caption(AFTER), "words": ""}
    prompts = add("ReEditPromptWords", (x, y), (330, 330), "the two prompts", clip=build.clip["repaint"], **texts)
    boxes = {
        "invert": ((x + 370, y), (330, 590)),
        "guide": ((x + 740, y), (330, 460)),
        "euler": ((x, y + 390), (330, 80)),
    }
    sampling = invert_and_guide(build, prompts, latent, **boxes)
    sampled = add("SamplerCustomAdvanced", (x + 740, y + 500), (330, 110), "", **sampling).out()
    mask = add("ReEditGuidanceMask", (x + 1110, y), (350, 330), "", guider=sampling["guider"], samples=sampled).out()
    inputs = {"samples": sampled, "label": "another word in the prompt", "mask": mask}
    return add("ReEditCommit", (x + 1110, y + 390), (350, 130), "", **inputs).out()


def _repainted(build: ChainBuilder, latent: Link) -> Link:
    """ComfyUI's own inpainting, on the latent as it is. The next node of ours notes it of its own accord."""
    x, y = _frame(build, 2, f"ComfyUI's own nodes: {CROSS.label}", "#8a8")
    mask = build.mask(BOTTOM_LEFT, x, y)
    positive = build.prompt(CROSS, x, y)
    held = build.writer.add("SetLatentNoiseMask", (x + 370, y), (300, 60), "", samples=latent, mask=mask).out()
    sampling = {"model": build.model["repaint"], "positive": positive, "negative": build.negative["repaint"]}
    sampled = build.sample(CROSS, 6, x + 720, y, latent_image=held, **sampling)
    inputs = {"samples": sampled, "label": CROSS.label, "mask": mask}
    return build.writer.add("ReEditCommit", (x + 1060, y), (400, 130), "", **inputs).out()


def _copied(build: ChainBuilder, latent: Link) -> Link:
    """A piece of the latent, cut out and put beside, with core nodes."""
    x, y = _frame(build, 3, "ComfyUI's own nodes: a piece of the latent copied", "#8a8")
    add = build.writer.add
    # Core nodes count eight pixels to a cell, whatever the VAE.
    piece = {"width": 64, "height": 64, "x": 0, "y": 64}
    cut = add("LatentCrop", (x, y), (300, 150), "cut out", samples=latent, **piece).out()
    place = {"x": 0, "y": 0, "feather": 0}
    put = {"samples_to": latent, "samples_from": cut, **place}
    pasted = add("LatentComposite", (x + 370, y), (300, 150), "and put higher up", **put).out()
    inputs = {"samples": pasted, "label": "a piece copied"}
    return add("ReEditCommit", (x + 720, y), (400, 130), "", **inputs).out()


def _other_decoders(build: ChainBuilder, models: dict[str, str], latent: Link, x: float, y: float) -> None:
    """The same latent through decoders that were trained for its VAE: nobody has them until they are trained."""
    writer, first = build.writer, len(build.writer.nodes)
    writer.group("muted: the same latent, with decoders of your own", (x - 20, y - 70, 1940, 560), "#666")
    add = writer.add
    reed = add("ReEditLoadREEDVAE", (x, y), (400, 120), "a REED-VAE", vae_name=models["reed"], base_vae=build.vae).out()
    seen = add("ReEditDecode", (x, y + 180), (400, 100), "decoded by it", samples=latent, vae=reed).out()
    loading = {"decoder_name": models["epsilon"], "base_vae": build.vae, "steps": 3, "seed": 0}
    epsilon = add("ReEditLoadEpsilonVAE", (x + 440, y), (400, 200), "an eps-VAE", **loading).out()
    decoding = {"samples": latent, "vae": epsilon, "steps": 3, "seed": 0}
    denoised = add("ReEditEpsilonDecode", (x + 440, y + 260), (400, 140), "denoised by it", **decoding).out()
    stitching = {"direction": "right", "match_image_size": True, "spacing_width": 4, "spacing_color": "white"}
    beside = add("ImageStitch", (x + 880, y), (320, 150), "", image1=seen, image2=denoised, **stitching).out()
    prefix = "reedit/many_tools_decoders"
    add("SaveImage", (x + 1240, y), (600, 400), "REED-VAE and eps-VAE", images=beside, filename_prefix=prefix)
    for node in writer.nodes[first:]:
        node.mode = MUTED
