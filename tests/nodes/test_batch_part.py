"""Parts of a batch through the host's model: fewer items, the same numbers."""

from __future__ import annotations

from types import SimpleNamespace

import comfy.conds
import comfy.hooks
import comfy.samplers
import nodes as host_nodes
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from host_graph import (
    control_net,
    counted_rows,
    guider,
    inverted,
    prompt,
    quarters,
    random_lora,
    relative,
    sampled,
)
from hypothesis import given
from hypothesis import strategies as st
from reedit.nodes.batch_part import BatchDenoiser, can_be_divided, conditioning_of
from reedit.nodes.emilie import ReEditGradientMask

FALLING = torch.tensor([3.0, 1.2, 0.5, 0.2, 0.08, 0.0])
PROMPTS = ("a large red circle at the center, on grass", "a small white cross at the top left, on stone", "")


@pytest.fixture(scope="module")
def model(text_to_image):
    return text_to_image[0]


@pytest.fixture(scope="module")
def prompts(text_to_image):
    with torch.inference_mode():
        return [prompt(text_to_image[1], words) for words in PROMPTS]


@pytest.fixture(scope="module")
def together(prompts):
    """One CONDITIONING with a prompt for each item."""
    return [[torch.cat([words[0][0] for words in prompts]), prompts[0][0][1]]]


@pytest.fixture(scope="module")
def latents(tiny_vae, scenes):
    """The quarter of three scenes; the second has little in it."""
    with torch.inference_mode():
        samples = quarters(tiny_vae, scenes[:3])["samples"]
        samples[1] = 0.3 * samples[1].mean((-2, -1), keepdim=True)
        return {"samples": samples}


@pytest.fixture(scope="module")
def alone(model, prompts, latents):
    """Each item's noisy latent when it is inverted alone."""
    with torch.inference_mode():
        return torch.cat(
            [
                inverted(model, words, {"samples": latents["samples"][[item]]}, sigmas=FALLING)[0]["samples"]
                for item, words in enumerate(prompts)
            ]
        )


def in_a_run(model, positive, negative, latents, function, cfg=1.0):
    """What function(model of the sampler, its x, its extra arguments) returns inside one of the host's runs."""
    results = []

    def sampler_function(wrapped, x, sigmas, extra_args, **_):
        results.append(function(wrapped, x, extra_args))
        return x

    whole = guider(model, positive, negative, cfg)
    samples = latents["samples"]
    whole.sample(torch.zeros_like(samples), samples, comfy.samplers.KSAMPLER(sampler_function), FALLING, seed=0)
    return results[0]


# --- inversion of a batch ---------------------------------------------------------------------------------------------


def test_each_item_is_as_if_alone_and_costs_nothing_once_it_has_converged(model, together, latents, alone):
    with counted_rows(model) as rows:
        noisy, _, sigmas, trajectory, report = inverted(model, together, latents, sigmas=FALLING)
    for found, known in zip(noisy["samples"], alone, strict=True):
        assert relative(found, known) < 1e-4
    assert relative(sampled(guider(model, together), sigmas, noisy), latents["samples"]) < 1e-4, report
    spent = [[len(history) for history in step] for step in trajectory.residuals]
    assert sum(rows) == sum(map(sum, spent)) and len(rows) == trajectory.total_calls
    assert set(rows) == {1, 2, 3}  # else nothing is tested here
    assert rows == [sum(count > call for count in step) for step in spent for call in range(max(step))]


def noise_mask(model, conditioning, latents):
    mask = torch.ones(1, 32, 32)
    mask[..., 24:] = 0
    return model, conditioning, host_nodes.SetLatentNoiseMask().set_mask(latents, mask)[0]


def patched(model, conditioning, latents):
    """A patch that does different things to different places in the batch."""
    clone = model.clone()

    def louder(arguments):
        factor = torch.linspace(1.0, 1.02, len(arguments["input"])).view(-1, 1, 1, 1)
        return factor * arguments["denoised"]

    clone.set_model_sampler_post_cfg_function(louder)
    return clone, conditioning, latents


def gradient_mask(model, conditioning, latents):
    mask = torch.ones(1, 32, 32)
    mask[..., 24:] = 0
    return ReEditGradientMask.execute(model, mask, True, latents)[0], conditioning, latents


def controlled(model, conditioning, latents):
    """Each item has a picture of its own to follow."""
    pictures = torch.rand(3, 32, 32, 3, generator=torch.Generator().manual_seed(4))
    (positive, _) = host_nodes.ControlNetApplyAdvanced().apply_controlnet(
        conditioning, conditioning, control_net(model), pictures, 0.5, 0.0, 1.0
    )
    return model, positive, latents


@pytest.mark.parametrize("change", [noise_mask, patched, gradient_mask, controlled], ids=lambda change: change.__name__)
def test_what_may_be_made_for_the_whole_batch_gets_the_whole_batch(model, together, latents, change):
    graph = change(model, together, latents)
    with counted_rows(model) as rows:
        noisy, _, sigmas, trajectory, report = inverted(*graph, sigmas=FALLING)
    assert rows == [3] * trajectory.total_calls
    assert not trajectory.open_steps(), report
    assert relative(sampled(guider(*graph[:2]), sigmas, noisy), latents["samples"]) < 1e-4


# --- the parts themselves ---------------------------------------------------------------------------------------------


def areas_and_masks(model, prompts, together):
    """Areas, a mask for each item, a hook and a time, on conditionings with one prompt and with one for each item."""
    masks = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(3))
    (in_area,) = host_nodes.ConditioningSetArea().append(prompts[0], 32, 64, 16, 0, 0.7)
    (masked,) = host_nodes.ConditioningSetMask().append(together, masks, "default", 0.8)
    (late,) = host_nodes.ConditioningSetTimestepRange().set_range(prompts[1], 0.5, 1.0)
    hooks = comfy.hooks.create_hook_lora(random_lora(model), 0.5, 0.0)
    return together + in_area + masked + late + comfy.hooks.set_hooks_for_conditioning(prompts[2], hooks)


@pytest.mark.parametrize("samples", [[0], [1, 2], [0, 2], [2]])
def test_a_part_is_denoised_as_in_the_whole(model, prompts, together, latents, samples):
    positive = areas_and_masks(model, prompts, together)

    def compare(wrapped, x, extra_args):
        sigma = FALLING[2]
        denoise = BatchDenoiser(wrapped, x, extra_args)
        assert denoise.divisible
        with counted_rows(model) as all_rows:
            whole = denoise(x, sigma, [0, 1, 2])
        conditioning = wrapped.inner_model.conds
        moved = x[samples] * 1.1
        with counted_rows(model) as rows:
            part = denoise(moved, sigma, samples)
        assert 3 * sum(rows) == len(samples) * sum(all_rows)
        assert wrapped.inner_model.conds is conditioning
        # What a preview shows: the whole batch, with what is newest of each item.
        assert torch.equal(denoise.x[samples], moved) and torch.equal(denoise.denoised[samples], part)
        others = [item for item in range(3) if item not in samples]
        assert torch.equal(denoise.x[others], x[others]) and torch.equal(denoise.denoised[others], whole[others])
        return part, denoise(denoise.x, sigma, [0, 1, 2])[samples]

    part, expected = in_a_run(model, positive, prompts[2], latents, compare, cfg=3.0)
    torch.testing.assert_close(part, expected, rtol=1e-4, atol=1e-4)


def test_the_conditioning_is_whole_again_after_an_error(model, together, prompts, latents):
    def interrupted(wrapped, x, extra_args):
        inner = wrapped.inner_model
        whole = inner.conds
        entry = whole["positive"][0]
        with pytest.raises(KeyboardInterrupt), conditioning_of(inner, [1]):
            assert len(inner.conds["positive"][0]["model_conds"]["c_crossattn"].cond) == 1
            raise KeyboardInterrupt
        assert inner.conds is whole and whole["positive"][0] is entry
        assert len(entry["model_conds"]["c_crossattn"].cond) == 3
        return True

    assert in_a_run(model, together, prompts[2], latents, interrupted)


CONDS = [comfy.conds.CONDRegular, comfy.conds.CONDCrossAttn, comfy.conds.CONDNoiseShape, comfy.conds.CONDList]


@given(st.sampled_from(CONDS), st.integers(1, 6), st.integers(1, 5), st.data())
def test_the_rows_are_those_that_the_host_would_give_the_items(kind, rows, batch, data):
    """Whatever number of rows the conditioning has, fewer or more than the batch."""
    samples = sorted(data.draw(st.sets(st.integers(0, batch - 1), min_size=1)))
    values = torch.arange(rows * 2.0).view(rows, 2, 1, 1)
    value = kind([values, values + 100] if kind is comfy.conds.CONDList else values)
    inner = SimpleNamespace(conds={"positive": [{"model_conds": {"c": value}}]})
    with conditioning_of(inner, samples):
        part = inner.conds["positive"][0]["model_conds"]["c"]
    assert type(part) is kind
    found = part.process_cond(batch_size=len(samples), area=None).cond
    whole = value.process_cond(batch_size=batch, area=None).cond
    for one, expected in zip(found, whole, strict=True) if kind is comfy.conds.CONDList else [(found, whole)]:
        assert torch.equal(one, expected[samples])


# --- what can be divided ----------------------------------------------------------------------------------------------


def entry(**values):
    return {"positive": [{"model_conds": {"c_crossattn": comfy.conds.CONDCrossAttn(torch.zeros(2, 1, 1))}, **values}]}


def conditioned_by(value, name="something"):
    return {"positive": [{"model_conds": {name: value}}]}


@pytest.mark.parametrize(
    ("conditioning", "divisible"),
    [
        (entry(), True),
        (entry(area=(8, 8, 0, 0), strength=0.5, mask=torch.ones(2, 8, 8), timestep_start=3.0), True),
        (entry(hooks=comfy.hooks.create_hook_lora({}, 1.0, 0.0)), True),
        (entry(control=None, gligen=None), True),
        (conditioned_by(comfy.conds.CONDConstant(24)), True),
        (conditioned_by(comfy.conds.CONDConstant("words")), True),
        (conditioned_by(comfy.conds.CONDConstant(None)), True),
        (entry(control=object()), False),
        (entry(gligen=("position", object(), [])), False),
        (conditioned_by(comfy.conds.CONDConstant(torch.zeros(2, 1))), False),
        (conditioned_by(comfy.conds.CONDConstant([torch.zeros(2, 1)])), False),
        (conditioned_by(comfy.conds.CONDConstant((torch.zeros(2, 1),))), False),
        (conditioned_by(comfy.conds.CONDConstant([torch.Size([2, 4, 8, 8])])), False),
        (conditioned_by(comfy.conds.CONDConstant(14), "num_video_frames"), False),
        (conditioned_by(object()), False),
        (None, False),
        ([], False),
    ],
)
def test_conditioning_is_divided_where_every_part_of_it_is_known(conditioning, divisible):
    assert can_be_divided(conditioning, {}) is divisible


def test_a_hook_that_may_do_anything_is_not_divided():
    """A hook on one conditioning alone leaves no trace in the model's options before the host calls the model."""
    hook = comfy.hooks.TransformerOptionsHook({"patches": {}}, comfy.hooks.EnumHookScope.HookedOnly)
    hooks = comfy.hooks.create_hook_lora({}, 1.0, 0.0)
    hooks.add(hook)
    assert not can_be_divided(entry(hooks=hooks), {})


PATCHES = {
    "attention": lambda model: model.set_model_attn2_patch(lambda q, k, v, options: (q, k, v)),
    "attention override": lambda model: model.model_options["transformer_options"].update(
        optimized_attention_override=lambda function, *args, **kwargs: function(*args, **kwargs)
    ),
    "around the network": lambda model: model.set_model_unet_function_wrapper(
        lambda apply_model, arguments: apply_model(arguments["input"], arguments["timestep"], **arguments["c"])
    ),
    "guidance": lambda model: model.set_model_sampler_cfg_function(lambda arguments: arguments["cond"]),
    "after guidance": lambda model: model.set_model_sampler_post_cfg_function(lambda arguments: arguments["denoised"]),
    "around a prediction": lambda model: model.add_wrapper_with_key(
        WrappersMP.PREDICT_NOISE, "test", lambda executor, *args, **kwargs: executor(*args, **kwargs)
    ),
    "around the diffusion model": lambda model: model.add_wrapper_with_key(
        WrappersMP.DIFFUSION_MODEL, "test", lambda executor, *args, **kwargs: executor(*args, **kwargs)
    ),
    "noise mask": lambda model: model.set_model_denoise_mask_function(lambda sigma, mask, extra_options: mask),
}


@pytest.mark.parametrize("kind", PATCHES)
def test_a_patched_model_gets_the_whole_batch(model, together, prompts, latents, kind):
    clone = model.clone()
    PATCHES[kind](clone)
    assert not in_a_run(clone, together, prompts[2], latents, lambda *run: BatchDenoiser(*run).divisible)
    assert in_a_run(model, together, prompts[2], latents, lambda *run: BatchDenoiser(*run).divisible)
