"""The blended guider in the host's own sampling: what changes, what does not, what it costs, and what it leaves behind."""

from __future__ import annotations

from contextlib import contextmanager

import comfy.model_management
import comfy.samplers
import comfy.utils
import comfy_execution.progress
import pytest
import torch
from comfy_execution.graph import DynamicPrompt
from comfy_execution.progress import NodeState, ProgressRegistry
from comfy_execution.utils import CurrentNodeContext
from comfy_extras import nodes_custom_sampler as custom
from host_graph import SOURCE, counted_rows, guider, inverted, prompt, quarters, sampled
from reedit.nodes import live_pictures
from reedit.nodes.guidance import ReEditBlendedGuider, ReEditGuidanceMask
from reedit.nodes.live_pictures import mask_picture
from reedit.nodes.prompt_words import ReEditPromptWords

TARGET = SOURCE.replace("purple", "green")
SETTINGS = {
    "cfg": 3.0,
    "outside": "trajectory",
    "mask_from": "reconstruction",
    "look_ahead": 2,
    "low": 0.4,
    "high": 0.7,
    "blur": 0.0,
    "inject": 0.25,
}


@pytest.fixture(scope="module")
def model(text_to_image):
    return text_to_image[0]


@pytest.fixture(scope="module")
def prompts(text_to_image):
    with torch.inference_mode():
        return ReEditPromptWords.execute(text_to_image[1], SOURCE, TARGET, "", 1.0).result[:2]


@pytest.fixture(scope="module")
def negative(text_to_image):
    with torch.inference_mode():
        return prompt(text_to_image[1], "")


@pytest.fixture(scope="module")
def latent(tiny_vae, scenes):
    with torch.inference_mode():
        return quarters(tiny_vae, scenes[:1])


@pytest.fixture(scope="module")
def inversion(model, prompts, latent):
    """(noisy latent, noise, sigmas, trajectory, report), exact enough for all that follows."""
    with torch.inference_mode():
        return inverted(model, prompts[0], latent)


@pytest.fixture
def blended(model, prompts, negative, inversion):
    def make(source=None, **settings):
        given = {**SETTINGS, "trajectory": inversion[3], **settings}
        return ReEditBlendedGuider.execute(model, source or prompts[0], prompts[1], negative, **given)[0]

    return make


@pytest.fixture
def edited(blended, inversion, latent):
    """The edit's samples, and the guider that made them."""

    def run(sampler=None, **settings):
        guide = blended(**settings)
        return sampled(guide, inversion[2], latent, inversion[1], sampler), guide

    return run


def half(value: float = 1.0):
    """A mask of the left half of the picture."""
    mask = torch.zeros(1, 32, 32)
    mask[..., :16] = value
    return mask


def last_mask(guide):
    return list(guide.masks.values())[-1][-1]


def same_outside(result, latent, guide) -> bool:
    outside = (last_mask(guide) == 0).expand_as(result)
    assert 0 < outside.sum() < outside.numel()
    return torch.equal(result[outside], latent["samples"][outside])


# --- what changes, and what does not ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "euler_ancestral", "dpmpp_3m_sde", "lms"])
def test_cells_outside_come_back_bit_for_bit_with_any_sampler(edited, latent, sampler):
    result, guide = edited(custom.KSamplerSelect.execute(sampler)[0])
    assert same_outside(result, latent, guide)
    inside = (last_mask(guide) == 1).expand_as(result)
    assert (result - latent["samples"])[inside].abs().max() > 0.1


@pytest.mark.parametrize(
    "change", [{"inject": 0.0}, {"inject": 1.0}, {"look_ahead": 0}, {"mask_from": "both"}, {"cfg": 1.0}]
)
def test_cells_outside_come_back_bit_for_bit_with_any_setting(edited, latent, change):
    result, guide = edited(**change)
    assert same_outside(result, latent, guide)


def test_with_disable_noise_cells_outside_come_back_up_to_rounding(blended, inversion, latent):
    guide = blended()
    result = sampled(guide, inversion[2], inversion[0])
    outside = (last_mask(guide) == 0).expand_as(result)
    torch.testing.assert_close(result[outside], latent["samples"][outside], atol=1e-5, rtol=1e-5)


def test_following_the_source_brings_the_rest_back_as_exactly_as_the_inversion_was(edited, latent):
    for trajectory in ({}, {"trajectory": None}):
        result, guide = edited(outside="source", **trajectory)
        outside = (last_mask(guide) == 0).expand_as(result)
        torch.testing.assert_close(result[outside], latent["samples"][outside], atol=5e-3, rtol=0)


def test_a_mask_everywhere_is_the_hosts_own_guidance(edited, model, prompts, negative, inversion, latent):
    expected = sampled(guider(model, prompts[1], negative, 3.0), inversion[2], latent, inversion[1])
    for outside in ("paper", "source", "trajectory"):
        result, _ = edited(outside=outside, inject=0.0, mask=torch.ones(1, 32, 32))
        torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-4)


def test_the_papers_guidance_is_1_outside_and_cfg_inside(edited, model, prompts, negative, inversion, latent):
    """One step with a mask of one half: each half is what the host's guider makes of it."""
    sigmas = inversion[2][:2]
    guide = edited(outside="paper", inject=0.0, mask=half())[1]
    result = sampled(guide, sigmas, latent, inversion[1])
    for side, cfg in ((slice(0, 4), 3.0), (slice(4, 8), 1.0)):
        expected = sampled(guider(model, prompts[1], negative, cfg), sigmas, latent, inversion[1])
        torch.testing.assert_close(result[..., side], expected[..., side], atol=1e-4, rtol=1e-4)


def test_a_grey_mask_lies_between(edited, latent):
    changes = [
        (edited(mask=half(value), inject=0.0)[0] - latent["samples"])[..., :4].norm() for value in (0.1, 0.5, 1.0)
    ]
    assert changes[0] < changes[1] < changes[2]


def test_injection_changes_the_edit_and_nothing_else(edited, latent):
    (kept, first), (free, second) = edited(inject=1.0), edited(inject=0.0)
    assert torch.equal(last_mask(first), last_mask(second))
    assert not torch.allclose(kept, free, atol=1e-2)


def test_the_latents_noise_mask_holds_as_with_the_hosts_guider(blended, model, prompts, negative, inversion, latent):
    held = {**latent, "noise_mask": torch.ones(1, 1, 32, 32)}
    held["noise_mask"][..., 16:, :] = 0
    result = sampled(blended(mask=half()), inversion[2], held, inversion[1])
    by_host = sampled(guider(model, prompts[1], negative, 3.0), inversion[2], held, inversion[1])
    # Where both masks say so. The host leaves the last sigma's noise in what it holds, ours nothing outside of its own mask.
    torch.testing.assert_close(result[..., 4:, :4], by_host[..., 4:, :4], atol=1e-4, rtol=0)
    assert (result - latent["samples"])[..., :4, :4].abs().max() > 0.1


def test_pictures_of_a_batch_do_not_see_each_other(model, prompts, negative, tiny_vae, scenes):
    pair = quarters(tiny_vae, scenes[:2])
    noise, sigmas, trajectory = inverted(model, prompts[0], pair)[1:4]
    guide = ReEditBlendedGuider.execute(model, *prompts, negative, **SETTINGS, trajectory=trajectory)[0]
    together = sampled(guide, sigmas, pair, noise)
    first = {"samples": pair["samples"][:1]}
    _, noise, sigmas, trajectory, _ = inverted(model, prompts[0], first)
    guide = ReEditBlendedGuider.execute(model, *prompts, negative, **SETTINGS, trajectory=trajectory)[0]
    alone = sampled(guide, sigmas, first, noise)
    torch.testing.assert_close(together[:1], alone, atol=2e-2, rtol=0)  # their inversions differ by the tolerance


# --- the mask ---------------------------------------------------------------------------------------------------------


def test_the_mask_is_of_the_words_and_comes_out_after_sampling(edited, latent, tiny_vae):
    result, guide = edited()
    mask, steps = ReEditGuidanceMask.execute(guide, {"samples": result}).result
    assert mask.shape == (1, 32, 32)
    assert steps.shape == (1, 32, 32)  # found before the first step, it never changes
    assert torch.equal(mask[:, ::4, ::4], last_mask(guide)[:, 0])
    assert mask.max() == 1
    assert mask.min() == 0


def test_without_a_look_ahead_each_step_has_its_mask(edited, inversion):
    result, guide = edited(look_ahead=0)
    _, steps = ReEditGuidanceMask.execute(guide, {"samples": result}).result
    assert len(steps) == len(inversion[2]) - 1
    assert not torch.equal(steps[0], steps[-1])


def test_the_masks_belong_to_the_run_that_made_the_latent(blended, inversion, latent):
    guide = blended(look_ahead=0)
    first = sampled(guide, inversion[2], latent, inversion[1])
    second = sampled(guide, inversion[2][:4], latent, inversion[1])
    masks = [ReEditGuidanceMask.execute(guide, {"samples": samples})[1] for samples in (first, second)]
    assert [len(mask) for mask in masks] == [len(inversion[2]) - 1, 3]
    with pytest.raises(ValueError, match="not what a sampler has made"):
        ReEditGuidanceMask.execute(guide, latent)


def test_an_own_mask_overrides_or_multiplies(edited):
    found = last_mask(edited()[1])
    assert torch.equal(
        last_mask(edited(mask=half(0.5), mask_use="multiply")[1]), found * half(0.5)[None, ..., ::4, ::4]
    )
    assert torch.equal(last_mask(edited(mask=half(0.5))[1]), half(0.5)[None, ..., ::4, ::4])


def test_words_that_are_only_added_are_looked_for_in_the_edit(text_to_image, model, negative, inversion, latent):
    prompts = ReEditPromptWords.execute(
        text_to_image[1], "a small circle", "a small circle and a large white cross"
    ).result
    guide = ReEditBlendedGuider.execute(model, *prompts[:2], negative, **SETTINGS, trajectory=inversion[3])[0]
    result = sampled(guide, inversion[2], latent, inversion[1])
    assert len(ReEditGuidanceMask.execute(guide, {"samples": result})[1]) > 1


# --- what it costs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "ahead", "each"),
    [
        ({"inject": 0.0}, 2, 2),  # target and negative
        ({"inject": 1.0}, 2, 3),  # and the source, in the same call
        ({"inject": 0.0, "cfg": 1.0}, 2, 1),
        ({"inject": 0.0, "look_ahead": 0}, 0, 3),
        ({"inject": 0.0, "outside": "source"}, 2, 3),
        ({"inject": 0.0, "outside": "paper"}, 2, 2),
        ({"inject": 0.0, "mask": torch.ones(1, 32, 32)}, 0, 2),
    ],
)
def test_no_branch_is_computed_that_nothing_needs(edited, model, inversion, settings, ahead, each):
    with counted_rows(model) as rows:
        edited(**settings)
    assert rows == [1] * ahead + [each] * (len(inversion[2]) - 1)


# --- what it leaves behind --------------------------------------------------------------------------------------------


@contextmanager
def unpatched(model):
    """The ModelPatcher is as it was, after whatever happens in here."""
    before = (dict(model.model_options), dict(model.patches), dict(model.object_patches), dict(model.wrappers))
    transformer_options = dict(model.model_options["transformer_options"])
    forward = model.model.diffusion_model.forward
    yield
    assert (dict(model.model_options), dict(model.patches), dict(model.object_patches), dict(model.wrappers)) == before
    assert model.model_options["transformer_options"] == transformer_options
    assert model.model.diffusion_model.forward == forward


def test_a_run_leaves_the_model_as_it_was(edited, model):
    with unpatched(model):
        guide = edited()[1]
    assert guide.model_options["transformer_options"] == {}
    assert guide.soft_mask is None


@pytest.mark.parametrize("when", ["looking ahead", "sampling"])
def test_an_interrupted_run_leaves_the_model_as_it_was_and_the_next_works(edited, model, when):
    expected, _ = edited()
    calls = 0

    def interrupt(module, inputs):
        nonlocal calls
        calls += 1
        if calls == (1 if when == "looking ahead" else 5):
            comfy.model_management.interrupt_current_processing()
            comfy.model_management.throw_exception_if_processing_interrupted()

    hook = model.model.diffusion_model.register_forward_pre_hook(interrupt)
    with unpatched(model), pytest.raises(comfy.model_management.InterruptProcessingException):
        edited()
    hook.remove()
    assert torch.equal(edited()[0], expected)


def test_an_error_in_the_middle_leaves_the_model_as_it_was(edited, model):
    def fail(module, inputs):
        raise RuntimeError("out of memory")

    hook = model.model.diffusion_model.register_forward_pre_hook(fail)
    with unpatched(model), pytest.raises(RuntimeError, match="out of memory"):
        edited()
    hook.remove()


def test_two_guiders_of_one_model_do_not_meet(blended, model, inversion, latent):
    with unpatched(model):
        guides = [blended(), blended(outside="paper", look_ahead=0)]
        results = [sampled(guide, inversion[2], latent, inversion[1]) for guide in guides]
        again = [sampled(guide, inversion[2], latent, inversion[1]) for guide in reversed(guides)]
    assert not torch.equal(*results)
    for first, second in zip(results, reversed(again), strict=True):
        assert torch.equal(first, second)


def test_inputs_are_not_changed(edited, inversion, latent, prompts):
    states, samples = inversion[3].states.clone(), latent["samples"].clone()
    weights = prompts[0][0][0].clone()
    edited()
    assert torch.equal(inversion[3].states, states)
    assert torch.equal(latent["samples"], samples)
    assert torch.equal(prompts[0][0][0], weights)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trajectory": None}, "Connect ReEdit Invert's, or choose source"),
        ({"low": 0.7, "high": 0.4}, "low must be below high"),
    ],
)
def test_settings_that_do_not_go_together(blended, settings, message):
    with pytest.raises(ValueError, match=message):
        blended(**settings)


def test_prompts_without_marked_words(model, text_to_image, negative, inversion):
    plain = prompt(text_to_image[1], SOURCE)
    with pytest.raises(ValueError, match="ReEdit Prompt Words, or give a mask"):
        ReEditBlendedGuider.execute(model, plain, plain, negative, **SETTINGS, trajectory=inversion[3])
    ReEditBlendedGuider.execute(model, plain, plain, negative, **SETTINGS, trajectory=inversion[3], mask=half())


def test_a_prompt_for_a_part_only(model, prompts, negative, inversion):
    parts = [[[encoding, {**options, "area": (4, 4, 0, 0)}] for encoding, options in prompt] for prompt in prompts]
    for source, target, where in ((parts[0], prompts[1], "reconstruction"), (prompts[0], parts[1], "both")):
        settings = {**SETTINGS, "trajectory": inversion[3], "mask_from": where}
        with pytest.raises(ValueError, match="is limited to an area"):
            ReEditBlendedGuider.execute(model, source, target, negative, **settings)


@pytest.mark.parametrize(
    ("given", "settings", "message"),
    [
        ("another size", {}, "Invert this latent"),
        ("another picture", {}, "of another picture"),
        ("noisy", {"trajectory": None, "outside": "paper"}, "look_ahead needs the clean latent"),
        ("video", {}, "not for video"),
        ("itself", {"mask": torch.ones(1, 8, 32)}, "proportions"),
        ("itself", {"mask": torch.zeros(1, 32, 32)}, "zero everywhere"),
        ("itself", {"detail": "8"}, "Choose another detail"),
    ],
)
def test_bad_input_is_refused_before_the_first_step(blended, model, inversion, latent, given, settings, message):
    samples = latent["samples"]
    latents = {
        "another size": samples[..., :4],
        "another picture": samples.flip(-1),
        "noisy": inversion[0]["samples"],
        "video": samples[:, :, None],
        "itself": samples,
    }
    noise = None if given == "noisy" else inversion[1]
    if given in ("another size", "another picture", "video"):
        noise = custom.RandomNoise.execute(1)[0]
    with counted_rows(model) as rows, pytest.raises(ValueError, match=message):
        sampled(blended(**settings), inversion[2], {"samples": latents[given]}, noise)
    assert len(rows) <= (2 if "detail" in settings else 0)


def test_a_mask_of_another_guider(model, prompts, negative):
    with pytest.raises(ValueError, match="only a ReEdit Blended Guider"):
        ReEditGuidanceMask.execute(guider(model, prompts[0], negative, 3.0), {"samples": torch.ones(1, 4, 8, 8)})


# --- what is shown meanwhile ------------------------------------------------------------------------------------------


def test_the_mask_is_shown_on_the_guiders_own_node_while_the_sampler_runs(edited, monkeypatch):
    """Through the host's own progress registry, which tells the page which node is at work."""
    shown, registry = [], ProgressRegistry("run", DynamicPrompt({}))
    monkeypatch.setattr(comfy_execution.progress, "global_progress_registry", registry)
    monkeypatch.setattr(live_pictures, "INTERVAL", 0.0)

    def hook(value, total, preview, node_id):
        if node_id is not None:  # the sampler's own progress bar names no node
            registry.update_progress(node_id, value, total, preview)
            shown.append((value, total, preview[1]))

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    with CurrentNodeContext("run", "12"):
        _, guide = edited()
    steps = len(list(guide.masks.values())[-1])
    assert [value for value, *_ in shown] == list(range(1, steps + 1))
    assert shown[-1][2].tobytes() == mask_picture(last_mask(guide)).tobytes()
    assert set(registry.nodes) == {"12"} and registry.nodes["12"]["state"] is NodeState.Finished
