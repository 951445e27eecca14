"""The chains that people build most often, each as one node: an edit by instruction, an edit by prompt, a masked repaint.

What edits stands inside, and the latent runs through: as in the templates, of which each of these is one step.
"""

from __future__ import annotations

from blueprint_writer import BlueprintWriter
from chain_builder import CFG, SAMPLING
from instruct_workflows import SAMPLER

SCHEDULE = {"scheduler": SAMPLING["scheduler"], "denoise": SAMPLING["denoise"]}


def instruction_edit() -> BlueprintWriter:
    """One step of instruct_chain."""
    writer = BlueprintWriter(
        "ReEdit Instruction Edit",
        "One edit by instruction, on the latent itself, noted in its history. model: an InstructPix2Pix model, or one that "
        "takes a reference latent (Flux Kontext and the like: text_scale 1). latent: from ReEdit Encode, or from the edit "
        "before. mask: where the instruction may act; without it, in the whole picture.",
        (400, 460),
        first=1001,
    )
    add = writer.add
    model, clip, latent, mask = (writer.socket(name) for name in ("model", "clip", "latent", "mask"))
    instruction = writer.widget("instruction")
    label = writer.widget("label")
    scales = {name: writer.widget(name) for name in ("text_scale", "image_scale")}
    steps, seed = writer.widget("steps", SAMPLING["steps"]), writer.widget("seed", 0)

    positive = add("CLIPTextEncode", (0, 0), (340, 160), "instruction", text=instruction, clip=clip).out()
    negative = add("CLIPTextEncode", (0, 230), (340, 120), "negative prompt", text="", clip=clip).out()
    guided = {"model": model, "positive": positive, "negative": negative, "samples": latent, "mask": mask, **scales}
    guider = add("ReEditInstructGuider", (400, 0), (300, 250), "", **guided).out()
    noise = add("RandomNoise", (400, 320), (300, 90), "", noise_seed=seed).out()
    sampler = add("KSamplerSelect", (400, 480), (300, 80), "", sampler_name=SAMPLER).out()
    sigmas = add("BasicScheduler", (400, 630), (300, 130), "", model=model, steps=steps, **SCHEDULE).out()
    sampling = {"noise": noise, "guider": guider, "sampler": sampler, "sigmas": sigmas, "latent_image": latent}
    edited = add("SamplerCustomAdvanced", (760, 0), (300, 140), "", **sampling).out()
    writer.give("latent", add("ReEditCommit", (1120, 0), (300, 150), "", samples=edited, label=label, mask=mask).out())
    return writer


def prompt_edit() -> BlueprintWriter:
    """The template of the same name, without its second try."""
    writer = BlueprintWriter(
        "ReEdit Prompt Edit",
        "Say what the picture shows, and then the same with a few words changed: only what those words mean is edited. The "
        "latent is inverted first, so all the rest comes back bit for bit. model: SD1.5, SD2, SDXL, SD3 or Flux; any "
        "other that ReEdit Invert takes with a mask. mask: one of your own instead of the model's.",
        (400, 640),
        first=2001,
    )
    add = writer.add
    model, clip, latent, mask = (writer.socket(name) for name in ("model", "clip", "latent", "mask"))
    texts = {name: writer.widget(name) for name in ("source", "target")}
    label, steps = writer.widget("label"), writer.widget("steps", SAMPLING["steps"])
    guidance = {name: writer.widget(name) for name in ("cfg", "low", "high", "inject")}

    prompts = add("ReEditPromptWords", (0, 0), (380, 330), "the two prompts", clip=clip, **texts)
    negative = add("CLIPTextEncode", (0, 400), (380, 120), "negative prompt", text="", clip=clip).out()
    inverted = add(
        "ReEditInvert", (440, 0), (340, 520), "", model=model, positive=prompts.out(0), samples=latent, steps=steps
    )
    conditioning = {"source": prompts.out(0), "target": prompts.out(1), "negative": negative}
    guided = {"model": model, **conditioning, "trajectory": inverted.out(3), "mask": mask, **guidance}
    guider = add("ReEditBlendedGuider", (840, 0), (340, 520), "", **guided).out()
    euler = add("KSamplerSelect", (840, 590), (340, 80), "", sampler_name="euler").out()
    sampling = {"noise": inverted.out(1), "sigmas": inverted.out(2), "guider": guider, "sampler": euler}
    edited = add("SamplerCustomAdvanced", (1240, 0), (300, 140), "", latent_image=latent, **sampling).out()
    found = add("ReEditGuidanceMask", (1240, 210), (300, 330), "", guider=guider, samples=edited)
    noted = {"samples": edited, "label": label, "mask": found.out()}
    writer.show(found)
    writer.give("latent", add("ReEditCommit", (1600, 0), (300, 150), "", **noted).out())
    writer.give("mask", found.out())
    writer.give("report", inverted.out(4))
    return writer


def masked_repaint() -> BlueprintWriter:
    """The step of the mixed templates that is not an instruction (chain_builder.py)."""
    writer = BlueprintWriter(
        "ReEdit Masked Repaint",
        "Repaints what is inside a mask, with any model and sampler; outside, the latent stays bit for bit, and the edit is "
        "noted in its history. prompt: the whole picture as it shall be. mask: white is repainted.",
        (400, 620),
        first=3001,
    )
    add = writer.add
    model, clip, latent, mask = (writer.socket(name) for name in ("model", "clip", "latent", "mask"))
    prompt, unwanted = writer.widget("prompt"), writer.widget("negative_prompt")
    label, seed = writer.widget("label"), writer.widget("seed", 0)
    sampling = {name: writer.widget(name, value) for name, value in {"cfg": CFG["repaint"], **SAMPLING}.items()}

    positive = add("CLIPTextEncode", (0, 0), (340, 160), "prompt", text=prompt, clip=clip).out()
    negative = add("CLIPTextEncode", (0, 230), (340, 160), "negative prompt", text=unwanted, clip=clip).out()
    held = add("ReEditGradientMask", (0, 460), (340, 100), "", model=model, mask=mask).out()
    given = {"model": held, "positive": positive, "negative": negative, "latent_image": latent, "seed": seed}
    sampled = add("KSampler", (400, 0), (300, 270), "", **given, **sampling).out()
    writer.give("latent", add("ReEditCommit", (760, 0), (300, 150), "", samples=sampled, label=label, mask=mask).out())
    return writer
