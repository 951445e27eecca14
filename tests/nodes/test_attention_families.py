"""Attention maps and the blended guider on models of the families' real layouts: UNets, SD3's and Flux's transformers."""

from __future__ import annotations

from typing import NamedTuple

import comfy.model_patcher
import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced
from host_graph import euler
from random_families import BIG, FAMILIES, loaded
from reedit.models.diffusion.attention_maps import RunningMap
from reedit.models.diffusion.prompt_tokens import WORDS, PromptTokens
from reedit.nodes.attention_capture import OVERRIDE, AttentionCapture
from reedit.nodes.guidance import ReEditBlendedGuider, ReEditGuidanceMask, attention_in
from reedit.nodes.inversion import ReEditInvert
from torch.nn import functional

JOINT = {"sd3", "flux"}  # text and image in one attention
SHAPE = (7, 15)  # cells: an odd number of rows and another of columns, of which layers and patches round up the half
GRID = (4, 8)  # of queries: a UNet's at half of the latent's resolution, a transformer's patches
TOKENS = 77
BATCH = 2


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow if name in BIG else ()) for name in FAMILIES],
)
def family(request):
    with loaded(request.param) as family:
        yield family


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def prompts(family) -> tuple[list, list]:
    """Two conditionings of one model, alike but for the text; of each some words are meant, in parts."""
    ((text, options),) = family.conditioning
    other = text.clone()
    other[:, 5:] = torch.randn(other[:, 5:].shape, generator=seeded(8))
    marks = [PromptTokens(torch.rand(TOKENS, generator=seeded(seed)) ** 8, ("words",)) for seed in (1, 2)]
    columns = torch.arange(TOKENS).roll(3)
    columns[20:] = -1
    marks[1] = PromptTokens(marks[1].weights, marks[1].words, columns)
    return tuple([[each, {**options, WORDS: mark}]] for each, mark in zip((text, other), marks, strict=True))


def latents(family) -> torch.Tensor:
    """(BATCH, C, *SHAPE), as large as real ones."""
    clean = torch.randn(BATCH, family.latent_channels, *SHAPE, generator=seeded(3))
    return family.model.model.process_latent_out(clean)


# --- one call of the model --------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """What one attention was handed: query and key are (branches · BATCH, heads, tokens, depth)."""

    query: torch.Tensor
    key: torch.Tensor
    branches: list[int]


class Recorder:
    """An override as other packs have it: it notes what comes by and leaves the attention to the host."""

    def __init__(self):
        self.seen: list[Seen] = []

    def __call__(self, kernel, q, k, v, heads, *args, **kwargs):
        split = kwargs.get("skip_reshape", False)
        query, key = (part if split else part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k))
        branches = kwargs["transformer_options"]["cond_or_uncond"]
        self.seen.append(Seen(query.clone(), key.clone(), list(branches)))
        return kernel(q, k, v, heads, *args, **kwargs)


class PairGuider(comfy.samplers.CFGGuider):
    """Predicts with both prompts in one call, and returns the predictions one after the other."""

    def __init__(self, model, capture=None, maps=None, replacing=None):
        super().__init__(model)
        self.capture, self.maps, self.replacing = capture, maps, replacing

    def outer_sample(self, *args, **kwargs):
        if self.capture is not None:
            self.capture.install(self.model_options)
        return super().outer_sample(*args, **kwargs)

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        conditions = [self.conds[name] for name in ("source", "target")]
        if self.capture is not None:
            for entries in conditions:
                self.capture.know(entries)
            self.capture.maps, self.capture.replacing = self.maps or {}, self.replacing
        return torch.cat(comfy.samplers.calc_cond_batch(self.inner_model, conditions, x, timestep, model_options))


def predictions(family, model, capture=None, **options) -> torch.Tensor:
    """(2 · BATCH, C, *SHAPE): of both prompts, at one noise level in the middle of the model's."""
    guider = PairGuider(model, capture, **options)
    guider.inner_set_conds(dict(zip(("source", "target"), prompts(family), strict=True)))
    found = []

    def once(denoiser, x, sigmas, extra_args, callback, disable):
        found.append(denoiser(x, sigmas[0].expand(len(x)), **extra_args))
        return x

    sigmas = torch.stack([torch.tensor(0.6 if family.name in JOINT else 1.0), torch.tensor(0.0)])
    noise = torch.randn(BATCH, family.latent_channels, *SHAPE, generator=seeded(4))
    guider.sample(noise, latents(family), comfy.samplers.KSAMPLER(once), sigmas, seed=0)
    return found[0]


def with_recorder(model) -> tuple[comfy.model_patcher.ModelPatcher, Recorder]:
    recorded, recorder = model.clone(), Recorder()
    recorded.model_options["transformer_options"][OVERRIDE] = recorder
    return recorded, recorder


@pytest.fixture(scope="module")
def plain(family):
    """The predictions of the model as it is, and what its attentions are handed in them."""
    with torch.inference_mode():
        recorded, recorder = with_recorder(family.model)
        return predictions(family, family.model), predictions(family, recorded), recorder.seen


def of_branch(values: torch.Tensor, seen: Seen, branch: int) -> torch.Tensor:
    return values.chunk(len(seen.branches))[seen.branches.index(branch)]


def text_and_image(family, seen: list[Seen]) -> tuple[slice, slice]:
    """Where a transformer's text and image stand. In its first layer the keys that differ with the prompt are the text's."""
    first = seen[0]
    differ = (of_branch(first.key, first, 0) != of_branch(first.key, first, 1)).any(-1).any(0).any(0).nonzero()
    assert differ.flatten().tolist() == list(range(5, TOKENS))  # the prompts' first five tokens are alike
    count = GRID[0] * GRID[1]
    assert first.key.shape[2] == TOKENS + count
    return slice(0, TOKENS), slice(TOKENS, TOKENS + count)


def attention_to_words(family, seen: list[Seen], branch: int) -> torch.Tensor:
    """The map by its definition, from all queries and keys at once: (BATCH, 1, *GRID), the mean of the layers of the grid."""
    weights = prompts(family)[branch][0][1][WORDS].weights
    text, image = text_and_image(family, seen) if family.name in JOINT else (slice(None), slice(None))
    maps = []
    for layer in seen:
        if family.name not in JOINT and (layer.query.shape[2], layer.key.shape[2]) != (GRID[0] * GRID[1], TOKENS):
            continue
        query, key = of_branch(layer.query, layer, branch)[:, :, image], of_branch(layer.key, layer, branch)[:, :, text]
        logits = torch.einsum("bhnd,bhtd->bhnt", query.double(), key.double()) / query.shape[-1] ** 0.5
        maps.append((logits.softmax(-1) * weights).sum(-1).mean(1))
    assert maps
    return torch.stack(maps).mean(0).view(BATCH, 1, *GRID).float()


def test_both_prompts_maps_are_what_all_queries_and_keys_give_and_no_bit_of_the_output_changes(family, plain):
    capture, maps = AttentionCapture(family.model.model, 2), {0: RunningMap(), 1: RunningMap()}
    read = predictions(family, family.model, capture, maps=maps)
    undisturbed, recorded, seen = plain
    assert torch.equal(read, undisturbed) and torch.equal(recorded, undisturbed)
    for branch, found in maps.items():
        expected = attention_to_words(family, seen, branch)
        assert expected.std() > 1e-3 * expected.mean()  # not a map that is the same everywhere
        torch.testing.assert_close(found.mean(), expected, rtol=1e-4, atol=1e-6)


def test_what_is_hooked_in_already_is_called_as_often_as_without(family, plain):
    recorded, recorder = with_recorder(family.model)
    patched = []

    def patch(n, context, value, options):
        patched.append(tuple(n.shape))
        return n, context, value

    recorded.set_model_attn2_patch(patch)
    predictions(family, recorded)
    without = list(patched), [layer.query.shape for layer in recorder.seen]
    patched.clear()
    recorder.seen.clear()
    read = predictions(
        family, recorded, AttentionCapture(family.model.model, 2), maps={0: RunningMap(), 1: RunningMap()}
    )
    assert torch.equal(read, plain[0])
    assert (patched, [layer.query.shape for layer in recorder.seen]) == without
    assert bool(patched) == (family.name not in JOINT)


def test_an_edit_attends_with_the_sources_queries_and_its_words_keys(family, plain):
    """The first attention to the prompt, where both branches are still what they are without the injection."""
    recorded, recorder = with_recorder(family.model)
    capture = AttentionCapture(family.model.model, 2)
    predictions(family, recorded, capture, replacing=(0, 1))
    assert capture.was_replaced
    seen = plain[2]
    text, image = text_and_image(family, seen) if family.name in JOINT else (slice(None), slice(None))
    number = next(number for number, layer in enumerate(seen) if family.name in JOINT or layer.key.shape[2] == TOKENS)
    before, after = seen[number], recorder.seen[number]
    for values_before, values_after in ((before.query, after.query), (before.key, after.key)):
        assert torch.equal(of_branch(values_before, before, 0), of_branch(values_after, after, 0))
    source_query, query = (of_branch(before.query, before, 0), of_branch(after.query, after, 1))
    assert torch.equal(query[:, :, image], source_query[:, :, image])
    source_key, own_key, key = (
        of_branch(layer.key, layer, branch) for layer, branch in ((before, 0), (before, 1), (after, 1))
    )
    columns = prompts(family)[1][0][1][WORDS].from_source
    for column, same in enumerate(columns.tolist()):
        expected = own_key[:, :, text][:, :, column] if same < 0 else source_key[:, :, text][:, :, same]
        assert torch.equal(key[:, :, text][:, :, column], expected), column
    if family.name in JOINT:
        own_query = of_branch(before.query, before, 1)
        assert torch.equal(key[:, :, image], own_key[:, :, image])
        assert torch.equal(query[:, :, text], own_query[:, :, text])


# --- the nodes --------------------------------------------------------------------------------------------------------


def state_of(model):
    """What a run must leave as it found it: hooks, patches, and the network's own forward and weights."""
    network = model.model.diffusion_model
    weights = [parameter.double().sum().item() for parameter in list(network.parameters())[:8]]
    forwards = {name: module.forward for name, module in network.named_modules()}
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules())
    options = comfy.model_patcher.create_model_options_clone(model.model_options)
    return options, dict(model.patches), dict(model.object_patches), dict(model.wrappers), forwards, hooks, weights


@pytest.fixture(scope="module")
def inversion(family):
    """(noise, sigmas, trajectory) of three steps of plain DDIM inversion: exact enough for what is kept bit for bit."""
    with torch.inference_mode():
        scheduler = "simple" if family.name in JOINT else "karras"
        settings = {"method": "euler", "iterations": 1, "tolerance": 1e-3, "largest_ratio": 1e4}
        source, latent = prompts(family)[0], {"samples": latents(family)}
        return ReEditInvert.execute(family.model, source, latent, 3, scheduler, 1.0, **settings).result[1:4]


def levels(family, trajectory) -> tuple[float, float]:
    """Between which a third of the cells is black and a third white, whatever these weights attend to."""
    attention = attention_in(family.model, prompts(family)[0], latents(family), 1, trajectory, 0, 2)
    resized = functional.interpolate(attention, SHAPE, mode="bilinear")
    share = resized / resized.amax((2, 3), keepdim=True)
    return share.quantile(1 / 3).item(), share.quantile(2 / 3).item()


def edited(family, inversion, sampler=None, **settings):
    noise, sigmas, trajectory = inversion
    source, target = prompts(family)
    given = {"outside": "trajectory", "mask_from": "reconstruction", "look_ahead": 1, "blur": 0.0, "inject": 0.5}
    guider = ReEditBlendedGuider.execute(
        family.model, source, target, family.conditioning, 3.0, detail="2", trajectory=trajectory, **(given | settings)
    )[0]
    latent = {"samples": latents(family)}
    result = SamplerCustomAdvanced.execute(noise, guider, sampler or euler(), sigmas, latent)[0]
    mask = ReEditGuidanceMask.execute(guider, result)[0]
    ratio = family.model.get_model_object("latent_format").spacial_downscale_ratio
    return result["samples"], mask[:, None, ::ratio, ::ratio]


def test_the_blended_guider_keeps_black_cells_bit_for_bit_and_leaves_the_model_as_it_was(family, inversion):
    before = state_of(family.model)
    low, high = levels(family, inversion[2])
    samples, mask = edited(family, inversion, low=low, high=high)
    black, white = (mask == 0).expand_as(samples), (mask == 1).expand_as(samples)
    assert 0.2 < black.float().mean() < 0.5 and 0.2 < white.float().mean() < 0.5
    known = latents(family)
    assert torch.equal(samples[black], known[black])
    assert torch.isfinite(samples).all() and (samples != known)[white].float().mean() > 0.99
    assert state_of(family.model) == before


@pytest.mark.parametrize("outside", ["source", "paper"])
def test_the_other_ways_outside_the_mask_run_too(family, inversion, outside):
    """With the mask of each step, from both branches."""
    before = state_of(family.model)
    samples, mask = edited(
        family, inversion, outside=outside, mask_from="both", look_ahead=0, low=0.3, high=0.9, inject=1.0
    )
    assert torch.isfinite(samples).all() and mask.shape == (BATCH, 1, *SHAPE) and mask.max() == 1
    assert state_of(family.model) == before
