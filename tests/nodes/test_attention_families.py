"""Attention maps and the blended guider on models of the families' real layouts: UNets, SD3's and Flux's transformers."""

from __future__ import annotations

from typing import NamedTuple

import comfy.ldm.flux.model
import comfy.ldm.modules.diffusionmodules.mmdit as mmdit
import comfy.model_patcher
import comfy.samplers
import comfy.sd
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced
from host_graph import euler
from random_families import BIG, FAMILIES, ON_META, PREFIX, Family, loaded, random_conditioning, random_weights
from reedit.models.diffusion.attention_maps import RunningMap
from reedit.models.diffusion.prompt_tokens import WORDS, PromptTokens
from reedit.nodes.attention_capture import OVERRIDE, AttentionCapture
from reedit.nodes.guidance import ReEditBlendedGuider, ReEditGuidanceMask, attention_in
from reedit.nodes.inversion import ReEditInvert
from torch.nn import functional

JOINT = {"sd3", "flux", "sd35_medium", "flux2"}  # text and image in one attention
SHAPE = (7, 15)  # cells: an odd number of rows and another of columns, of which layers and patches round up the half
GRID = {"flux2": SHAPE}  # of queries. The others': a UNet's at half of the latent's resolution, a transformer's patches
HALF = (4, 8)
TOKENS = 77
PADDED = {"flux2": 512}  # to which the host lengthens a prompt, with empty tokens before it
BATCH = 2


def sd35_medium() -> ModelPatcher:
    """One of 24 blocks and narrow: what is new in it is a second attention, of the image to itself."""
    text = {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 128}}
    network = mmdit.OpenAISignatureMMDITWrapper(
        input_size=None,
        patch_size=2,
        in_channels=16,
        depth=2,
        adm_in_channels=2048,
        context_embedder_config=text,
        num_patches=16**2,
        pos_embed_max_size=16,
        qk_norm="rms",
        x_block_self_attn_layers=[0],
        **ON_META,
    )
    return random_model(network, PREFIX)


def flux2() -> ModelPatcher:
    """Two of 56 blocks and narrow."""
    network = comfy.ldm.flux.model.Flux(
        in_channels=128,
        out_channels=128,
        vec_in_dim=None,
        context_in_dim=64,
        hidden_size=128,
        mlp_ratio=3.0,
        num_heads=1,
        depth=1,
        depth_single_blocks=1,
        axes_dim=[32, 32, 32, 32],
        theta=2000,
        patch_size=1,
        qkv_bias=False,
        guidance_embed=True,
        txt_ids_dims=[3],
        global_modulation=True,
        mlp_silu_act=True,
        ops_bias=False,
        **ON_META,
    )
    return random_model(network, "")


def random_model(network: torch.nn.Module, prefix: str) -> ModelPatcher:
    shapes = {prefix + name: weight.shape for name, weight in network.state_dict().items()}
    return comfy.sd.load_diffusion_model_state_dict(random_weights(shapes, 0))


NARROW = {  # with the conditioning that each takes
    "sd35_medium": (sd35_medium, random_conditioning(0, 4096, TOKENS, pooled=2048)),
    "flux2": (flux2, random_conditioning(0, 64, TOKENS, guidance=3.5)),
}


@pytest.fixture(
    scope="module",
    params=[*NARROW, *(pytest.param(name, marks=pytest.mark.slow if name in BIG else ()) for name in FAMILIES)],
)
def family(request):
    if request.param in NARROW:
        make, conditioning = NARROW[request.param]
        with torch.inference_mode():
            model = make()
        yield Family(request.param, model, conditioning, model.model.latent_format.latent_channels)
    else:
        with loaded(request.param) as family:
            yield family


def grid_of(family) -> tuple[int, int]:
    return GRID.get(family.name, HALF)


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


def predictions(family, model, capture=None, pair=None, **options) -> torch.Tensor:
    """(2 · BATCH, C, *SHAPE): of both prompts, at one noise level in the middle of the model's."""
    guider = PairGuider(model, capture, **options)
    guider.inner_set_conds(dict(zip(("source", "target"), pair or prompts(family), strict=True)))
    found = []

    def once(denoiser, x, sigmas, extra_args, callback, disable):
        found.append(denoiser(x, sigmas[0].expand(len(x)), **extra_args))
        return x

    sigmas = torch.stack([torch.tensor(0.6 if family.name in JOINT else 1.0), torch.tensor(0.0)])
    noise = torch.randn(BATCH, family.latent_channels, *SHAPE, generator=seeded(4))
    guider.sample(noise, latents(family), comfy.samplers.KSAMPLER(once), sigmas, seed=0)
    return found[0]


def with_recorder(model) -> tuple[ModelPatcher, Recorder]:
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
    end = PADDED.get(family.name, TOKENS)
    assert differ.flatten().tolist() == list(range(end - TOKENS + 5, end))  # the prompts' first five tokens are alike
    rows, columns = grid_of(family)
    assert first.key.shape[2] == end + rows * columns
    return slice(0, end), slice(end, end + rows * columns)


def attention_to_words(family, seen: list[Seen], branch: int) -> torch.Tensor:
    """The map by its definition, from all queries and keys, (BATCH, 1, rows, columns): the mean of the layers of the grid."""
    weights = prompts(family)[branch][0][1][WORDS].weights
    (rows, columns), missing = grid_of(family), PADDED.get(family.name, TOKENS) - TOKENS
    text, image = text_and_image(family, seen) if family.name in JOINT else (slice(None), slice(None))
    maps = []
    for layer in seen:
        if family.name in JOINT:
            to_prompt = layer.key.shape[2] > rows * columns  # and not of the image to itself
        else:
            to_prompt = (layer.query.shape[2], layer.key.shape[2]) == (rows * columns, TOKENS)
        if not to_prompt:
            continue
        query, key = of_branch(layer.query, layer, branch)[:, :, image], of_branch(layer.key, layer, branch)[:, :, text]
        logits = torch.einsum("bhnd,bhtd->bhnt", query.double(), key.double()) / query.shape[-1] ** 0.5
        maps.append((logits.softmax(-1)[..., missing:] * weights).sum(-1).mean(1))
    assert maps
    return torch.stack(maps).mean(0).view(BATCH, 1, rows, columns).float()


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
    missing = PADDED.get(family.name, TOKENS) - TOKENS
    for column, same in enumerate(prompts(family)[1][0][1][WORDS].from_source.tolist(), missing):
        expected = own_key[:, :, text][:, :, column] if same < 0 else source_key[:, :, text][:, :, missing + same]
        assert torch.equal(key[:, :, text][:, :, column], expected), column
    if family.name in JOINT:
        own_query = of_branch(before.query, before, 1)
        assert torch.equal(key[:, :, image], own_key[:, :, image])
        assert torch.equal(query[:, :, text], own_query[:, :, text])


def test_flux_2_prompts_of_two_lengths_are_brought_to_one_and_words_still_find_each_other():
    """Its text encoder gives as many tokens as the prompt has, and the host puts empty ones before them."""
    make, conditioning = NARROW["flux2"]
    family = Family("flux2", make(), conditioning, 128)
    source, target = prompts(family)
    source[0][0] = source[0][0][:, :60]
    same = torch.arange(TOKENS).clamp(max=59)
    target[0][1][WORDS] = PromptTokens(target[0][1][WORDS].weights, ("words",), same)
    recorded, recorder = with_recorder(family.model)
    predictions(family, recorded, AttentionCapture(family.model.model), (source, target), replacing=(0, 1))
    first = recorder.seen[0]
    own, said = (of_branch(first.key, first, branch)[:, :, : PADDED["flux2"]] for branch in (0, 1))
    assert torch.equal(said[:, :, -TOKENS:], own[:, :, -60:][:, :, same])


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
