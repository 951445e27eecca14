"""The texts in locales/: English as the schemas have it, seven complete translations of it, and the host serving them all."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path

import pytest
from locale_texts import ENGLISH, english_texts, flatten, read_texts, record_english
from reedit.nodes import NODES

LANGUAGES = ("zh", "ja", "ko", "de", "fr", "es", "ru")
# What vue-i18n takes for its own syntax. The host's frontend compiles names and descriptions but shows tooltips as they
# are, so that no way of escaping suits both.
SYNTAX = re.compile(r"[{}@|]")
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?")
SPELT_NUMBERS = {
    "0": "zero",
    "1": "a an one first once",
    "2": "two twice second",
    "3": "three third",
    "4": "four quarter",
}
WORD = re.compile(r"(?<![\w.])[A-Za-z](?:[\w/.-]*\w)?")
# These look like names, and have translations.
TRANSLATED_WORDS = ("MASK", "NOISE", "GB", "latent_image", "subfolder/name")
# The host's own nodes under the names that its frontend gives them; where a language is missing it is the English one.
HOST_NODES = json.loads(Path(__file__).with_name("host_node_names.json").read_text(encoding="utf-8"))
# Labels that are the same word in the language, or that its users leave in English.
SAME_EVERYWHERE = ("cfg", "checkpointing", "dtype", "eta", "gamma", "lpips", "sigmas", "vae")
SAME_IN = {
    "es": "clip/error/prompt",
    "fr": "ReEdit Instruction/accumulation/clip/coefficients/corrections/images/inversion/latent/passes/pixels/prompt/session"
    "/source/strict",
}
# Words that no sentence of ours in another language needs; "of DDPM" and "mean and std" are choices of a combo.
ENGLISH_WORDS = re.compile(r"(?<!-)\b(the|which|of(?! DDPM)|with|where|that|from|and(?! std)|is|are|for|its)\b", re.I)
SCRIPTS = {"zh": "[\u4e00-\u9fff]", "ja": "[\u3040-\u30ff]", "ko": "[\uac00-\ud7a3]", "ru": "[\u0400-\u04ff]"}
Key = tuple[str, ...]  # where a text stands: the file, the node and so on


@pytest.fixture(scope="module")
def english() -> dict[Key, str]:
    return read_texts(ENGLISH)


def say(faults: dict[Key, str]) -> str:
    return "\n".join(f"{'.'.join(path[1:])}: {fault}" for path, fault in faults.items())


def each(language: str, english: dict[Key, str]) -> list[tuple[Key, str, str]]:
    """Every translated text with its path and its English; what is missing is another test's matter."""
    texts = read_texts(language)
    return [(path, text, texts[path]) for path, text in english.items() if path in texts]


def test_the_english_texts_are_those_of_the_schemas(english):
    """Record them anew with REEDIT_RECORD=1; translations of what has changed go, and the tests below name them."""
    if os.environ.get("REEDIT_RECORD"):
        record_english(LANGUAGES)
        english.clear()
        english.update(read_texts(ENGLISH))
    now = dict(flatten(english_texts()))
    changed = [path for path in now | english if now.get(path) != english.get(path)]
    differing = {path: now.get(path, "no longer in the schema") for path in changed}
    assert not differing, (
        f"locales/en is not what the schemas say; run this test with REEDIT_RECORD=1:\n{say(differing)}"
    )
    assert list(english) == list(now), "locales/en is not in the schemas' order; REEDIT_RECORD=1 sorts it"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_translated(language, english):
    texts = read_texts(language)
    missing = {path: f"missing, in English “{text}”" for path, text in english.items() if path not in texts}
    superfluous = {path: "superfluous" for path in texts if path not in english}
    assert not missing | superfluous, say(missing | superfluous)
    assert list(texts) == list(english), "the texts are not in the schema's order; REEDIT_RECORD=1 sorts them"


@pytest.mark.parametrize("language", (ENGLISH, *LANGUAGES))
def test_no_text_is_empty_or_breaks_the_hosts_messages(language):
    faults = {}
    for path, text in read_texts(language).items():
        if not text or text != text.strip():
            faults[path] = "empty, or with blanks around it"
        elif found := SYNTAX.search(text):
            faults[path] = f"{found[0]} means something to vue-i18n: say it without"
    assert not faults, say(faults)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_is_left_in_english(language, english):
    faults = {}
    for path, source, text in each(language, english):
        sentence = path[-1] in ("description", "tooltip")
        if not sentence and text == source and text in (*SAME_EVERYWHERE, *SAME_IN.get(language, "").split("/")):
            continue
        if text == source:
            faults[path] = f"as in English: {text}"
        elif sentence and (found := ENGLISH_WORDS.search(text)):
            faults[path] = f"English “{found[0]}” in: {text}"
        elif sentence and language in SCRIPTS and not re.search(SCRIPTS[language], text):
            faults[path] = f"not in the language's script: {text}"
    assert not faults, say(faults)


@pytest.mark.parametrize("language", LANGUAGES)
def test_numbers_are_the_same(language, english):
    """Digits as the widgets show them, 0.15 in every language. A number that English spells out may be digits."""
    faults = {}
    for path, source, text in each(language, english):
        if path[-1] == "name":
            continue
        wanted, found = Counter(NUMBER.findall(source)), Counter(NUMBER.findall(text))
        words = set(re.findall("[a-z]+", source.lower()))
        spelt = {number for number, names in SPELT_NUMBERS.items() if words & set(names.split())}
        extra = set(found - wanted) - spelt
        if wanted - found or extra:
            faults[path] = f"lacks {list(wanted - found)}, adds {sorted(extra)}: {text}"
    assert not faults, say(faults)


def names_in(text: str) -> set[str]:
    """Its words that are names and not language: VAE, UNet, SD1.5, sgm_uniform, models/vae."""
    words = {re.sub("(?<=[A-Z])s$", "", word) for word in WORD.findall(text)}  # VAEs too
    return {
        word
        for word in words
        if word not in TRANSLATED_WORDS and (re.search(r"[\d_/]", word) or len(re.findall("[A-Z]", word)) > 1)
    }


def is_label(path: Key, node: Key) -> bool:
    return path[:2] == node and path[-1] == "name"


def choices() -> dict[Key, list[str]]:
    """The choices of every combo by the path of its tooltip. They are values, and shown in English."""
    found = {}
    for node in NODES:
        for item in node.define_schema().inputs:
            if item.io_type == "COMBO":
                options = [option for option in item.as_dict().get("options") or () if isinstance(option, str)]
                found["nodeDefs", node.__name__, "inputs", item.id, "tooltip"] = options
    return found


@pytest.mark.parametrize("language", LANGUAGES)
def test_names_are_kept_and_those_of_nodes_and_inputs_are_the_ones_shown(language, english):
    texts, options = read_texts(language), choices()
    nodes = {text: texts.get(path, "") for path, text in english.items() if path[-1] == "display_name"}
    nodes |= {name: names.get(language, name) for name, names in HOST_NODES.items()}
    faults = {}
    for path, source, text in each(language, english):
        if path[-1] not in ("description", "tooltip"):
            continue
        wanted = []
        for name in sorted(nodes, key=len, reverse=True):
            if name in source:
                wanted.append(nodes[name])
                source = source.replace(name, "")
        # An input or an output that is named, learning_rate say, goes by its label in the language.
        labels = {text: texts[other] for other, text in english.items() if other in texts and is_label(other, path[:2])}
        wanted += [labels.get(name, name) for name in names_in(source)]
        wanted += [option for option in options.get(path, ()) if re.search(rf"\b{re.escape(option)}\b", source)]
        if lacking := [name for name in wanted if name not in text]:
            faults[path] = f"lacks {lacking}: {text}"
    assert not faults, say(faults)


def test_the_host_serves_them(server):
    served = server.get("/i18n")
    for language in (ENGLISH, *LANGUAGES):
        texts = dict(flatten(served[language]))
        wanted = {path[1:] if path[0] == "main" else path: text for path, text in read_texts(language).items()}
        assert {path: texts.get(path) for path in wanted} == wanted
