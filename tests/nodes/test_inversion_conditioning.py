"""What the host can say about a picture besides a prompt: each is inverted and sampled, and changes the inversion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import comfy.hooks
import comfy.sd
import nodes as host_nodes
import pytest
import torch
from comfy_extras.nodes_hooks import CreateHookKeyframe, SetHookKeyframes, SetModelHooksOnCond
from host_graph import SOURCE, control_net, guider, inverted, prompt, quarters, random_lora, relative, sampled
from reedit.nodes.emilie import ReEditGradientMask, ReEditLatentConditioning

FALLING = torch.tensor([1.0, 0.4, 0.17, 0.07, 0.0])
PART = 0.75  # of the schedule: a sigma between the first two steps


class Graph(NamedTuple):
    """What the sampler gets. With keep_clean it gets the clean latent and a NOISE, else the noisy latent."""

    model: Any
    positive: list
    latent: dict
    keep_clean: bool = False


class Sources(NamedTuple):
    clip: Any
    scenes: torch.Tensor


def left_half(size: int) -> torch.Tensor:
    """A MASK: 1 in the left half."""
    mask = torch.zeros(1, size, size)
    mask[..., : size // 2] = 1
    return mask


def other_prompt(sources: Sources) -> list:
    return prompt(sources.clip, "a large red circle at the center, on grass")


def combined(first: list, second: list) -> list:
    return host_nodes.ConditioningCombine().combine(first, second)[0]


def area(graph: Graph, sources: Sources) -> Graph:
    (part,) = host_nodes.ConditioningSetArea().append(other_prompt(sources), 32, 64, 32, 0, 1.0)
    return graph._replace(positive=combined(graph.positive, part))


def mask(graph: Graph, sources: Sources) -> Graph:
    (part,) = host_nodes.ConditioningSetMask().append(other_prompt(sources), left_half(32), "default", 1.0)
    return graph._replace(positive=combined(graph.positive, part))


def two_prompts(graph: Graph, sources: Sources) -> Graph:
    return graph._replace(positive=combined(graph.positive, other_prompt(sources)))


def timestep_range(graph: Graph, sources: Sources) -> Graph:
    set_range = host_nodes.ConditioningSetTimestepRange().set_range
    (early,) = set_range(other_prompt(sources), 0.0, PART)
    (late,) = set_range(graph.positive, PART, 1.0)
    return graph._replace(positive=combined(early, late))


def noise_mask(graph: Graph, sources: Sources) -> Graph:
    return graph._replace(latent=host_nodes.SetLatentNoiseMask().set_mask(graph.latent, left_half(32))[0])


def noise_mask_and_noise(graph: Graph, sources: Sources) -> Graph:
    return noise_mask(graph, sources)._replace(keep_clean=True)


def lora(graph: Graph, sources: Sources) -> Graph:
    patched, _ = comfy.sd.load_lora_for_models(graph.model, None, random_lora(graph.model), 1.0, 0.0)
    return graph._replace(model=patched)


def lora_hook(graph: Graph, sources: Sources) -> Graph:
    hooks = comfy.hooks.create_hook_lora(random_lora(graph.model), 1.0, 0.0)
    return graph._replace(positive=SetModelHooksOnCond().attach_hook(graph.positive, hooks)[0])


def lora_hook_with_keyframes(graph: Graph, sources: Sources) -> Graph:
    """The hook is strong while the noise is, and off for the rest."""
    hooks = comfy.hooks.create_hook_lora(random_lora(graph.model), 1.0, 0.0)
    (keyframes,) = CreateHookKeyframe().create_hook_keyframe(1.0, 0.0)
    (keyframes,) = CreateHookKeyframe().create_hook_keyframe(0.0, PART, keyframes)
    (hooks,) = SetHookKeyframes().set_hook_keyframes(hooks, keyframes)
    return graph._replace(positive=SetModelHooksOnCond().attach_hook(graph.positive, hooks)[0])


def with_control_net(graph: Graph, sources: Sources) -> Graph:
    net = control_net(graph.model)
    image = sources.scenes[:1, :32, :32]
    positive, _ = host_nodes.ControlNetApplyAdvanced().apply_controlnet(
        graph.positive, graph.positive, net, image, 0.5, 0.0, PART
    )
    return graph._replace(positive=positive)


def gradient_mask(graph: Graph, sources: Sources) -> Graph:
    return graph._replace(model=ReEditGradientMask.execute(graph.model, left_half(32))[0], keep_clean=True)


def gradient_mask_on_the_noisy_latent(graph: Graph, sources: Sources) -> Graph:
    return graph._replace(model=ReEditGradientMask.execute(graph.model, left_half(32), True, graph.latent)[0])


FEATURES: list[Callable[[Graph, Sources], Graph]] = [
    area,
    mask,
    two_prompts,
    timestep_range,
    noise_mask,
    noise_mask_and_noise,
    lora,
    lora_hook,
    lora_hook_with_keyframes,
    with_control_net,
    gradient_mask,
    gradient_mask_on_the_noisy_latent,
]
KEEPING = (noise_mask, noise_mask_and_noise, gradient_mask, gradient_mask_on_the_noisy_latent)


@pytest.fixture(scope="module")
def plain_graph(text_to_image, tiny_vae, scenes):
    model, clip = text_to_image
    with torch.inference_mode():
        return Graph(model, prompt(clip, SOURCE), quarters(tiny_vae, scenes[:1]))


@pytest.fixture(scope="module")
def without(plain_graph):
    """The noisy latent of the inversion without any of the features."""
    with torch.inference_mode():
        return inverted(*plain_graph[:3], sigmas=FALLING)[0]["samples"]


def there_and_back(graph: Graph) -> torch.Tensor:
    """The noisy latent, after it has been sampled with the same conditioning and found to be right."""
    noisy, noise, sigmas, trajectory, report = inverted(*graph[:3], sigmas=FALLING)
    assert not trajectory.open_steps(), report
    latent = (graph.latent, noise) if graph.keep_clean else (noisy, None)
    back = sampled(guider(graph.model, graph.positive), sigmas, *latent)
    assert relative(back, graph.latent["samples"]) < 1e-4
    return noisy["samples"]


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.__name__)
def test_it_comes_back_and_matters(plain_graph, without, text_to_image, scenes, feature):
    graph = feature(plain_graph, Sources(text_to_image[1], scenes))
    noisy = there_and_back(graph)
    assert relative(noisy, without) > 1e-2
    if feature in KEEPING:
        clean = plain_graph.latent["samples"]
        torch.testing.assert_close(noisy[..., 4:], clean[..., 4:], rtol=1e-5, atol=1e-5)
        assert relative(noisy[..., :4], clean[..., :4]) > 0.1


def test_a_hook_is_on_where_its_keyframes_say(plain_graph, without, text_to_image, scenes):
    """Where the whole inversion lies after the last keyframe, which turns the hook off, it is as without one."""
    graph = lora_hook_with_keyframes(plain_graph, Sources(text_to_image[1], scenes))
    late = FALLING[1:]
    switched_off = inverted(*graph[:3], sigmas=late)[0]["samples"]
    assert torch.equal(switched_off, inverted(*plain_graph[:3], sigmas=late)[0]["samples"])


def test_the_model_is_as_it_was_after_all_of_these(plain_graph, without):
    assert torch.equal(inverted(*plain_graph[:3], sigmas=FALLING)[0]["samples"], without)


def test_an_editing_model_is_inverted_beside_the_picture_that_it_edits(instruct_pix2pix, plain_graph):
    editor, clip = instruct_pix2pix
    words = prompt(clip, "make the circle green")
    positive, _, latent = ReEditLatentConditioning.execute(editor, words, words, plain_graph.latent).result
    noisy = there_and_back(Graph(editor, positive, latent))
    assert relative(noisy, inverted(editor, words, plain_graph.latent, sigmas=FALLING)[0]["samples"]) > 1e-2
