"""The attention that the hook reads against the queries and keys that the host's own kernel is handed."""

from __future__ import annotations

import comfy.samplers
import pytest
import torch
from host_graph import SOURCE, prompt, quarters
from reedit.models.diffusion.attention_maps import RunningMap
from reedit.models.diffusion.prompt_tokens import WORDS, PromptTokens
from reedit.nodes.attention_capture import OVERRIDE, AttentionCapture, can_be_read
from torch.nn import functional

EDITED = SOURCE.replace("purple", "green")
SIGMA = 1.0


@pytest.fixture(scope="module")
def model(text_to_image):
    return text_to_image[0]


@pytest.fixture(scope="module")
def latents(tiny_vae, scenes):
    return quarters(tiny_vae, scenes[:2])["samples"]


def marked(conditioning, *columns: int, from_source=None):
    weights = torch.zeros(conditioning[0][0].shape[1])
    weights[list(columns)] = 1.0
    return [
        [encoding, {**options, WORDS: PromptTokens(weights, ("word",), from_source)}]
        for encoding, options in conditioning
    ]


def call(model, latents, branches, prepare=lambda capture, model_options: None, model_options=None):
    """One call of the host's with each branch's conditioning; the capture is installed unless prepare is None."""
    patched = model.clone()
    patched.model_options = model_options or patched.model_options
    capture = AttentionCapture(model.model)
    found = []

    def sample(denoiser, x, sigmas, extra_args, callback, disable):
        guider, options = denoiser.inner_model, extra_args["model_options"]
        conditions = [guider.conds[name] for name in sorted(guider.conds)]
        for entries in conditions:
            capture.know(entries)
        prepare(capture, options)
        timestep = x.new_full((len(x),), SIGMA)
        found.extend(comfy.samplers.calc_cond_batch(guider.inner_model, conditions, x, timestep, options))
        return x

    if prepare is not None:
        capture.install(patched.model_options)
    else:
        prepare = lambda capture, options: None  # noqa: E731
    guider = comfy.samplers.CFGGuider(patched)
    guider.inner_set_conds({f"branch {number}": branch for number, branch in enumerate(branches)})
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(3))
    guider.sample(
        noise, latents, comfy.samplers.KSAMPLER(sample), torch.tensor([SIGMA, 0.0]), disable_pbar=True, seed=0
    )
    return found, capture


def reading(*branches: int):
    def prepare(capture, options):
        capture.maps = {branch: RunningMap() for branch in branches}

    return prepare


def kernels_own(model, latents, branch, grid, weights):
    """The same map from the queries and keys of every attention to the prompt, by torch's own attention."""
    maps = []

    def override(kernel, q, k, v, heads, *args, **kwargs):
        if k.shape[1] == 77 and q.shape[1] == grid[0] * grid[1]:
            query, key = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k))
            values = weights[None, None, :, None].expand(*key.shape)
            maps.append(functional.scaled_dot_product_attention(query, key, values)[..., 0].mean(1))
        return kernel(q, k, v, heads, *args, **kwargs)

    options = {"transformer_options": {OVERRIDE: override}}
    call(model, latents, [branch], None, options)
    return torch.stack(maps).mean(0).view(len(latents), 1, *grid), len(maps)


def test_the_map_is_that_of_the_queries_and_keys_at_layers_of_the_grid(model, text_to_image, latents):
    branch = marked(prompt(text_to_image[1], SOURCE), 3, 4)
    weights = branch[0][1][WORDS].weights
    _, capture = call(model, latents, [branch], reading(0))
    expected, layers = kernels_own(model, latents, branch, (8, 8), weights)
    assert layers == 3  # of this UNet's seven attentions to the prompt, those of a quarter picture's whole resolution
    torch.testing.assert_close(capture.maps[0].mean(), expected)
    assert capture.grids == {(8, 8), (4, 4)}


def test_reading_changes_no_bit_of_the_prediction(model, text_to_image, latents):
    branch = marked(prompt(text_to_image[1], SOURCE), 3, 4)
    plain, _ = call(model, latents, [branch], None)
    read, _ = call(model, latents, [branch], reading(0))
    assert torch.equal(plain[0], read[0])


def test_each_branch_of_a_batch_is_read_by_itself(model, text_to_image, latents):
    first = marked(prompt(text_to_image[1], SOURCE), 3)
    second = marked(prompt(text_to_image[1], EDITED), 12, 13)
    _, together = call(model, latents, [first, second], reading(0, 1))
    for number, branch in enumerate((first, second)):
        _, alone = call(model, latents, [branch], reading(0))
        torch.testing.assert_close(together.maps[number].mean(), alone.maps[0].mean(), atol=1e-5, rtol=1e-4)


def test_a_prompt_that_the_host_repeats_to_another_ones_length_counts_as_one(model, text_to_image, latents):
    short = marked(prompt(text_to_image[1], SOURCE), 3, 4)
    long = prompt(text_to_image[1], ", ".join([SOURCE] * 4))
    assert long[0][0].shape[1] == 2 * short[0][0].shape[1]
    _, together = call(model, latents, [short, long], reading(0))
    _, alone = call(model, latents, [short], reading(0))
    torch.testing.assert_close(together.maps[0].mean(), alone.maps[0].mean(), atol=1e-5, rtol=1e-4)


def test_tokens_that_were_appended_are_not_meant(model, text_to_image, latents):
    branch = marked(prompt(text_to_image[1], SOURCE), 3, 4)
    appended = [[torch.cat([branch[0][0]] * 2, 1), branch[0][1]]]  # as Conditioning Concat does
    _, twice = call(model, latents, [appended], reading(0))
    _, once = call(model, latents, [branch], reading(0))
    torch.testing.assert_close(twice.maps[0].mean(), once.maps[0].mean() / 2, atol=1e-5, rtol=1e-4)


def test_a_branch_sees_its_own_latent(model, text_to_image, latents):
    branch = prompt(text_to_image[1], SOURCE)
    other = torch.randn(latents.shape)

    def own_latent(capture, options):
        capture.latents = {0: other}

    found, _ = call(model, latents, [branch, branch], own_latent)
    plain, _ = call(model, latents, [branch, branch], None)
    assert not torch.allclose(found[0], plain[0], atol=1e-2)
    torch.testing.assert_close(found[1], plain[1])


def injecting(capture, options):
    capture.replacing = (0, 1)


def test_attending_as_oneself_changes_nothing(model, text_to_image, latents):
    source = prompt(text_to_image[1], SOURCE)
    same = marked(source, 3, from_source=torch.arange(77))
    plain, _ = call(model, latents, [source, same], None)
    injected, capture = call(model, latents, [source, same], injecting)
    assert capture.was_replaced
    for before, after in zip(plain, injected, strict=True):
        torch.testing.assert_close(before, after)


def test_what_is_said_changes_and_where_it_is_looked_for_does_not(model, text_to_image, latents):
    """With all keys from the source the attention of both branches is the same, so both read the same map."""
    source = marked(prompt(text_to_image[1], SOURCE), 3)
    edited = marked(prompt(text_to_image[1], EDITED), 3, from_source=torch.arange(77))

    def both(capture, options):
        reading(0, 1)(capture, options)
        capture.replacing = (0, 1)

    outputs, capture = call(model, latents, [source, edited], both)
    assert torch.equal(capture.maps[0].mean(), capture.maps[1].mean())
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-2)


def test_columns_without_a_source_keep_their_own_keys(model, text_to_image, latents):
    source = marked(prompt(text_to_image[1], SOURCE), 3)
    own = torch.arange(77)
    own[5:9] = -1
    edited = marked(prompt(text_to_image[1], EDITED), 3, from_source=own)
    seen = []

    def override(kernel, q, k, v, heads, *args, **kwargs):
        if k.shape[1] == 77:
            seen.append((q, k))
        return kernel(q, k, v, heads, *args, **kwargs)

    call(model, latents, [source, edited], injecting, {"transformer_options": {OVERRIDE: override}})
    q, k = seen[0]
    branches = q.chunk(2)
    assert torch.equal(*branches)
    kept, edited_keys = k.chunk(2)
    same = (kept == edited_keys).all(dim=(0, 2))
    assert torch.equal(same, own >= 0)


def test_pictures_of_which_nothing_takes_anothers_place_attend_by_themselves(model, text_to_image, latents):
    """In a batch with a prompt for each picture: the first keeps the source's attention, the second its own."""
    source = marked(prompt(text_to_image[1], SOURCE), 3)
    places = torch.stack([torch.arange(77), torch.full((77,), -1)])
    edited = marked(prompt(text_to_image[1], EDITED), 3, from_source=places)
    injected, _ = call(model, latents, [source, edited], injecting)
    alone, _ = call(model, latents, [source, edited], None)
    torch.testing.assert_close(injected[1][1], alone[1][1])
    assert not torch.allclose(injected[1][0], alone[1][0], atol=1e-2)


def test_what_others_have_hooked_in_is_called_as_before(model, text_to_image, latents):
    calls = []

    def override(kernel, q, k, v, heads, *args, **kwargs):
        calls.append("override")
        return kernel(q, k, v, heads, *args, **kwargs)

    def patch(queries, keys, values, options):
        calls.append("patch")
        return queries, keys, values

    branch = marked(prompt(text_to_image[1], SOURCE), 3)
    options = {"transformer_options": {OVERRIDE: override, "patches": {"attn2_patch": [patch]}}}
    call(model, latents, [branch], None, options)
    before = list(calls)
    calls.clear()
    options = {"transformer_options": {OVERRIDE: override, "patches": {"attn2_patch": [patch]}}}
    call(model, latents, [branch], reading(0), options)
    assert calls == before
    assert {"override", "patch"} == set(calls)


def test_the_model_itself_is_not_patched(model, text_to_image, latents):
    call(model, latents, [marked(prompt(text_to_image[1], SOURCE), 3)], reading(0))
    assert model.model_options["transformer_options"] == {}
    assert can_be_read(model.model)
