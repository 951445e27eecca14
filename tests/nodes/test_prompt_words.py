import comfy.hooks
import comfy.sd
import comfy.sdxl_clip
import comfy.supported_models_base
import comfy.text_encoders.flux
import comfy.text_encoders.sd2_clip
import comfy.text_encoders.sd3_clip
import comfy.text_encoders.z_image
import nodes as host_nodes
import pytest
import torch
from comfy_extras.nodes_hooks import SetClipHooks
from host_graph import SOURCE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reedit.models.diffusion.prompt_tokens import WORDS
from reedit.nodes.prompt_words import ReEditPromptWords, encode_with_words
from safetensors.torch import save_file

TARGET = SOURCE.replace("purple", "green")
LONG = "sand stone brick , " * 25  # more than a CLIP takes at once
SMALL_CLIP = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 3}
FAMILIES = {
    "sd2": (comfy.text_encoders.sd2_clip.SD2Tokenizer, comfy.text_encoders.sd2_clip.SD2ClipModel),
    "sdxl": (comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel),
    "sd3": (comfy.text_encoders.sd3_clip.SD3Tokenizer, comfy.text_encoders.sd3_clip.sd3_clip()),
    "sd3 without T5": (comfy.text_encoders.sd3_clip.SD3Tokenizer, comfy.text_encoders.sd3_clip.sd3_clip(t5=False)),
    "sd3 with T5 alone": (
        comfy.text_encoders.sd3_clip.SD3Tokenizer,
        comfy.text_encoders.sd3_clip.sd3_clip(clip_l=False, clip_g=False),
    ),
    "flux": (comfy.text_encoders.flux.FluxTokenizer, comfy.text_encoders.flux.flux_clip()),
}


def random_text_encoder(tokenizer, model, width: int, attention: bool = False):
    """The host's text encoder of a family: its tokenizers, its way to put encoders together, and small random networks.

    Without attention they do not know either where a token stands, so that each is encoded by itself. Two prompts' encodings
    then tell which columns hold the same token: a truth that owes nothing to the tokenizers.
    """
    small = {f"clip_{name}_model_config": {**SMALL_CLIP, "projection_dim": 32} for name in "lgh"}
    small |= {"t5xxl_model_config": {"d_model": width, "d_ff": 32, "num_heads": 1, "num_layers": 1}}
    target = comfy.supported_models_base.ClipTarget(tokenizer, model)
    clip = comfy.sd.CLIP(target, model_options={**small, "dtype": torch.float32})
    generator = torch.Generator().manual_seed(0)
    for name, weights in clip.cond_stage_model.named_parameters():
        mixes_tokens = "position_embedding" in name or "self_attn.out_proj" in name or "SelfAttention.o." in name
        if mixes_tokens and not attention:
            weights.zero_()
        elif weights.ndim < 2:
            weights.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            weights.normal_(std=weights.shape[-1] ** -0.5, generator=generator)
    return clip


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    width = 4096 if "sd3" in request.param else 32  # SD3 fills its CLIPs' columns up to the width of T5's
    with torch.inference_mode():
        return random_text_encoder(*FAMILIES[request.param], width)


@pytest.fixture
def clip(text_to_image):
    return text_to_image[1]


@pytest.fixture
def embeddings(clip, tmp_path, monkeypatch):
    """Textual inversions that the demo family's text encoder can load."""
    generator = torch.Generator().manual_seed(1)
    for name, shape in {"spots": (64,), "three": (3, 64), "narrow": (1, 32)}.items():
        save_file({"emb_params": torch.randn(shape, generator=generator)}, tmp_path / f"{name}.safetensors")
    monkeypatch.setattr(clip.tokenizer.clip_l, "embedding_directory", str(tmp_path))


def run(clip, source, target="", words="", carried=1.0):
    return ReEditPromptWords.execute(clip, source, target, words, carried).result


def tokens_of(conditioning):
    return conditioning[0][1][WORDS]


def encoding(clip, text):
    """(T, D), as the host's own node has it."""
    return host_nodes.CLIPTextEncode().encode(clip, text)[0][0][0][0]


def places(flags):
    return flags.nonzero().flatten().tolist()


def missing_rows(first, second):
    """The rows of the first that the second has nowhere, up to rounding."""
    return places(torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist").amin(1) > 1e-3)


def relative_change(first, second):
    """What carried multiplies, as the help page has it."""
    return ((first - second).norm() ** 2 / ((first.norm() ** 2 + second.norm() ** 2) / 2)).clamp(max=1)


# --- all families -----------------------------------------------------------------------------------------------------

EXCHANGED = [
    ("a purple circle, on stone", "a green circle, on stone"),
    ("a (purple:1.3) circle on (stone:0.7)", "a (green:1.3) circle on (stone:0.7)"),
    ("a red-haired girl in the café!", "a red-haired woman in the café!"),
    (LONG + "a purple circle", LONG + "a green circle"),
    ("a purple circle on sand", "a purple circle on (sand:1.4)"),
]
LEFT_OUT_OR_ADDED = [
    (LONG + "a purple circle", LONG + "a circle"),
    ("a circle", "a circle on oak " + LONG.replace(",", "")),
    ("wide oak, a purple circle", "a purple circle"),
    ("", "a purple circle"),
]
MOVED = [
    ("a purple circle", "a very large green square"),
    ("wide oak, a purple circle", "a green circle"),
    (LONG + "a purple circle on sand", LONG + "a circle on stone"),
]


@pytest.mark.parametrize(("source", "target"), EXCHANGED)
def test_the_columns_that_are_meant_are_those_whose_token_changed(family, source, target):
    before, after, _ = run(family, source, target)
    changed = (encoding(family, source) - encoding(family, target)).norm(dim=-1) > 1e-3
    assert changed.any()
    # Here nothing is carried to other words: weights are 0 or 1.
    torch.testing.assert_close(tokens_of(before).weights, changed.float(), atol=1e-4, rtol=0)
    torch.testing.assert_close(tokens_of(after).weights, changed.float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("source", "target"), LEFT_OUT_OR_ADDED)
def test_where_nothing_takes_anothers_place_no_attention_is_to_be_kept(family, source, target):
    _, after, _ = run(family, source, target)
    assert set(tokens_of(after).from_source.tolist()) == {-1}


@pytest.mark.parametrize(("source", "target"), EXCHANGED + MOVED)
def test_from_source_leads_to_the_same_token(family, source, target):
    _, after, _ = run(family, source, target)
    tokens = tokens_of(after)
    here, there = encoding(family, target), encoding(family, source)
    assert tokens.from_source.shape == (len(here),)
    assert tokens.from_source.max() < len(there)
    unchanged = (tokens.weights < 0.5) & (tokens.from_source >= 0)
    torch.testing.assert_close(here[unchanged], there[tokens.from_source[unchanged]], atol=1e-4, rtol=1e-4)
    # What has no partner is meant, or is no word: the start of another chunk, what fills up a shorter prompt.
    alone = (tokens.weights < 0.5) & (tokens.from_source < 0)
    assert missing_rows(here[alone], encoding(family, "")) == []
    if (source, target) in EXCHANGED:
        assert tokens.from_source.tolist() == list(range(len(here)))


@pytest.mark.parametrize(
    ("words", "without"),
    [
        ("Red-Haired, PURPLE", {"red-haired ": "", "purple ": ""}),
        ("one purple circle", {"one purple circle, ": ""}),
        ("stone", {"stone": "brick"}),  # wherever it stands
        ("girl", {"girl": ""}),
    ],
)
def test_given_words_are_those_that_the_prompt_lacks_without_them(family, words, without):
    prompt = f"one purple circle, {LONG} and the red-haired girl"
    conditioning = encode_with_words(family, prompt, words)
    other = prompt
    for old, new in without.items():
        other = other.replace(old, new)
    here = encoding(family, prompt)
    meant = places(tokens_of(conditioning).weights == 1)
    assert meant == missing_rows(here, encoding(family, other))
    assert meant


@pytest.mark.parametrize("prompt", ["a purple circle", "", LONG + "(end:1.4)", "a (red:1.2) café, 東京 🎈"])
def test_the_conditioning_is_the_hosts_own(family, prompt):
    before, after, _ = run(family, prompt, "something else entirely")
    for conditioning, text in ((before, prompt), (after, "something else entirely")):
        ((expected, options),) = host_nodes.CLIPTextEncode().encode(family, text)[0]
        assert torch.equal(conditioning[0][0], expected)
        assert set(conditioning[0][1]) == {*options, WORDS}
        pooled = options["pooled_output"]
        assert pooled is None or torch.equal(conditioning[0][1]["pooled_output"], pooled)


# --- what a causal text encoder carries on: the demo family -----------------------------------------------------------


def test_what_is_carried_is_the_change_of_each_words_encoding(clip):
    before, after, _ = run(clip, SOURCE, TARGET)
    here, there = encoding(clip, SOURCE), encoding(clip, TARGET)
    words = len(SOURCE.replace(",", " ,").split())
    expected = [0.0, *(float(relative_change(here[n], there[n])) for n in range(1, words + 1)), *[0.0] * (76 - words)]
    first = SOURCE.split().index("purple") + 1
    expected[first] = 1.0
    assert expected[:first] == [0.0] * first  # nothing before the changed word knows of it
    assert max(expected[first + 1 :]) > 0.5
    for conditioning in (before, after):
        torch.testing.assert_close(tokens_of(conditioning).weights, torch.tensor(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("a purple circle at the left, on stone", "a circle at the left, on stone", ""),
        ("a purple circle at the left, on stone", "a green circle at the left, on sand", "purple"),
        ("a purple circle at the left, on stone", "", "purple"),
    ],
)
def test_a_word_that_is_left_out_or_given_is_compared_with_a_comma_in_its_place(clip, source, target, words):
    """So that all other words stand where they stood: a shift alone changes their encoding."""
    before, _, _ = run(clip, source, target, words)
    here, there = encoding(clip, source), encoding(clip, source.replace("purple", ","))
    weights = tokens_of(before).weights
    assert weights[2] == 1.0
    for column in range(3, 10):  # circle to stone
        torch.testing.assert_close(weights[column], relative_change(here[column], there[column]))


def test_both_encoders_of_sdxl_are_asked_what_a_word_carries():
    clip = random_text_encoder(*FAMILIES["sdxl"], 32, attention=True)
    conditioning = encode_with_words(clip, "a purple circle at the left, on stone", "purple")
    here, there = (
        encoding(clip, "a purple circle at the left, on stone"),
        encoding(clip, "a , circle at the left, on stone"),
    )
    expected = torch.stack([relative_change(*rows) for rows in zip(here[3:10], there[3:10], strict=True)])
    assert expected.min() > 1e-3
    torch.testing.assert_close(tokens_of(conditioning).weights[3:10], expected)


def test_carried_scales_what_other_words_count(clip):
    whole, half, none = (
        tokens_of(run(clip, SOURCE, TARGET, carried=carried)[0]).weights for carried in (1.0, 0.5, 0.0)
    )
    meant = SOURCE.split().index("purple") + 1
    assert places(none) == [meant]
    assert whole[meant] == half[meant] == none[meant] == 1
    others = torch.arange(len(whole)) != meant
    torch.testing.assert_close(half[others], whole[others] / 2)


def test_words_that_only_the_target_has(clip):
    before, after, text = run(clip, "a circle on sand", "a circle with a hat on sand")
    assert tokens_of(before).words == ()
    assert tokens_of(after).words == ("with", "a", "hat")
    assert places(tokens_of(after).weights == 1)[:3] == [3, 4, 5]
    assert tokens_of(after).from_source.max() == -1
    assert text.startswith("source: no word") and "\ntarget: with, a, hat" in text


def test_without_a_target_both_are_the_source(clip):
    before, after, text = run(clip, "a red circle, on sand", " \n", "sand")
    assert torch.equal(before[0][0], after[0][0])
    assert torch.equal(tokens_of(before).weights, tokens_of(after).weights)
    assert tokens_of(before).from_source is None
    assert tokens_of(after).from_source.tolist() == list(range(77))
    assert text == "source: sand\ntarget: sand"


def test_one_prompt_alone_is_encoded_as_a_source_without_a_target(clip):
    alone = encode_with_words(clip, SOURCE, "purple circle", carried=0.7)
    before = run(clip, SOURCE, "", "purple circle", carried=0.7)[0]
    assert torch.equal(alone[0][0], before[0][0])
    assert torch.equal(tokens_of(alone).weights, tokens_of(before).weights)


def test_every_entry_of_a_schedule_has_its_own_weights(clip):
    """With a LoRA of the text encoder whose strength changes while sampling, the host encodes a prompt several times."""
    lora, key = {}, "lora_te_text_model_encoder_layers_1_self_attn_v_proj"
    lora[f"{key}.lora_up.weight"], lora[f"{key}.lora_down.weight"] = torch.randn(64, 2), torch.randn(2, 64)
    hooks = comfy.hooks.create_hook_lora(lora, 0.0, 1.0)
    keyframes = comfy.hooks.HookKeyframeGroup()
    for strength, start in ((0.0, 0.0), (1.0, 0.5)):
        keyframes.add(comfy.hooks.HookKeyframe(strength=strength, start_percent=start))
    hooks.set_keyframes_on_hooks(keyframes)
    (hooked,) = SetClipHooks().apply_hooks(clip, True, True, hooks)
    before, after, _ = run(hooked, SOURCE, TARGET)
    expected = [host_nodes.CLIPTextEncode().encode(hooked, text)[0] for text in (SOURCE, TARGET)]
    assert len(before) == len(after) == 2
    weights = []
    for entry, first, second in zip(before, *expected, strict=True):
        assert torch.equal(entry[0], first[0])
        weights.append(entry[1][WORDS].weights)
        torch.testing.assert_close(weights[-1][5], relative_change(first[0][0, 5], second[0][0, 5]))
    assert not torch.allclose(*weights)


# --- embeddings -------------------------------------------------------------------------------------------------------


def test_an_embedding_is_one_word_of_as_many_columns_as_it_has_vectors(clip, embeddings):
    before, after, _ = run(
        clip, "a embedding:three circle, on sand", "a (embedding:spots:1.2) circle, on sand", carried=0.0
    )
    assert tokens_of(before).words == ("embedding:three",)
    assert tokens_of(after).words == ("embedding:spots",)
    assert places(tokens_of(before).weights) == [2, 3, 4]
    assert places(tokens_of(after).weights) == [2]
    assert tokens_of(after).from_source[:5].tolist() == [0, 1, -1, 5, 6]


def test_an_embedding_can_be_given_by_its_name(clip, embeddings):
    conditioning = encode_with_words(
        clip, "embedding:spots and embedding:three, on sand", "embedding:three", carried=0.0
    )
    assert places(tokens_of(conditioning).weights) == [3, 4, 5]


@pytest.mark.parametrize("name", ["narrow", "unknown"])
def test_an_embedding_that_the_host_leaves_out_has_no_columns(clip, embeddings, name):
    """It leaves out what is made for another width, and what is not there."""
    source = f"a embedding:{name} red circle"
    before, _, _ = run(clip, source, source.replace("red", "blue"), carried=0.0)
    changed = encoding(clip, source) != encoding(clip, source.replace("red", "blue"))
    assert (
        places(tokens_of(before).weights) == places(changed.any(-1))[:1] == [2]
    )  # the first that a causal encoder changes


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target", "words", "message"),
    [
        ("a circle", "a circle", "", "same words"),
        ("a circle", "A circle, !", "", "same words"),
        ("", "", "", "target is empty"),
        ("a circle", " ", " , ", "target is empty"),
        (
            "a red dog",
            "a blue dog",
            "dog, cat",
            "'cat' in words is not in source or target.*are: a, red, dog.*a, blue, dog",
        ),
        ("a red dog", "", "red cat", "'red cat'"),
        ("a red doghouse", "", "dog", "'dog'"),
        ("", "", "dog", "are: none"),
        ("a (red:nan) dog", "a dog", "", "NaN.*source"),
        ("a dog", "a (red:inf) dog", "", "NaN.*target"),
    ],
)
def test_what_cannot_be_meant_is_refused(clip, source, target, words, message):
    with pytest.raises(ValueError, match=message):
        run(clip, source, target, words)


def test_an_embedding_without_a_name_is_refused(clip, embeddings):
    with pytest.raises(ValueError, match="target says 'embedding:' without a name"):
        run(clip, "a circle", "a embedding:")


def test_one_prompt_needs_words(clip):
    with pytest.raises(ValueError, match="words is empty"):
        encode_with_words(clip, "a circle", "")


def test_a_checkpoint_without_a_text_encoder_is_refused():
    with pytest.raises(ValueError, match="clip is empty"):
        run(None, "a circle", "a cross")


def test_a_language_model_is_refused_by_name():
    z_image = comfy.text_encoders.z_image
    target = comfy.supported_models_base.ClipTarget(z_image.ZImageTokenizer, z_image.te())
    small = {**SMALL_CLIP, "num_key_value_heads": 1}
    clip = comfy.sd.CLIP(target, model_options={"qwen3_4b_model_config": small, "dtype": torch.float32})
    for weights in clip.cond_stage_model.parameters():
        weights.fill_(0.01)
    with pytest.raises(ValueError, match="ZImageTEModel is not known.*CLIP.*T5"):
        run(clip, "a circle", "a cross")


odd_prompts = st.lists(
    st.sampled_from(
        ["a", "Red", "circle", ",", "(", ")", ":1.3", "\\(", "[", "é", "🎈", "<|endoftext|>", "\n", "'s", "12"]
    )
    | st.sampled_from(["embedding:three", "embedding:spots,", "embedding:", "embedding:no", LONG])
    | st.text(max_size=4),
    max_size=8,
)


@given(
    st.builds(str.join, st.sampled_from(["", " "]), odd_prompts),
    st.builds(str.join, st.sampled_from(["", " "]), odd_prompts),
    st.sampled_from(["", "red", "circle, a", "embedding:three"]),
)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_odd_prompts_are_encoded_or_refused(clip, embeddings, source, target, words):
    try:
        conditionings = run(clip, source, target, words)[:2]
    except ValueError:
        return
    for conditioning, text in zip(conditionings, (source, target if target.strip() else source), strict=True):
        assert torch.equal(conditioning[0][0][0], encoding(clip, text))
        weights = tokens_of(conditioning).weights
        assert weights.shape == conditioning[0][0].shape[1:2]
        assert ((weights >= 0) & (weights <= 1)).all()
    from_source = tokens_of(conditionings[1]).from_source
    assert ((from_source >= -1) & (from_source < conditionings[0][0][0].shape[1])).all()
    assert len(set(partners := from_source[from_source >= 0].tolist())) == len(partners)
