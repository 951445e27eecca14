"""Which words of a prompt are meant: both prompts of an edit, encoded, each with the columns that its changed words moved."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from comfy_api.v0_0_2 import io
from torch import Tensor

from ..models.diffusion.prompt_change import (
    column_weights,
    differing_words,
    equal_columns,
    find_phrase,
    is_punctuation,
    matching_columns,
)
from ..models.diffusion.prompt_tokens import WORDS, PromptTokens
from .emilie import Conditioning
from .prompt_reading import EncodedPrompt, encode_prompt, encode_without, read_phrase

Places = dict[str, list[int]]  # of the words that are meant, as each text encoder has them


class Compared(NamedTuple):
    """A CONDITIONING that a prompt's is held against, and for columns of the prompt those in it with the same token."""

    entries: Conditioning
    columns: dict[int, int]


class ReEditPromptWords(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReEditPromptWords",
            display_name="ReEdit Prompt Words",
            category="ReEdit/guidance",
            description="Encodes the prompt of the picture as it is and that of the picture as it shall be, and notes in "
            "which words they differ. ReEdit Blended Guider looks in the picture for what those words mean.",
            search_aliases=["CLIP text encode", "prompt to prompt", "attention words", "edit prompt", "token indices"],
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder of the model that will edit."),
                io.String.Input(
                    "source",
                    multiline=True,
                    default="",
                    tooltip="The picture as it is, in words; the prompt that it was inverted with.",
                ),
                io.String.Input(
                    "target",
                    multiline=True,
                    default="",
                    tooltip="The picture as it shall be: best the source with a few words changed. Empty: only the words "
                    "below are looked for, in the source.",
                ),
                io.String.Input(
                    "words",
                    default="",
                    tooltip="The words that are meant, or phrases, with commas between them. Empty: those in which source "
                    "and target differ.",
                ),
                io.Float.Input(
                    "carried",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    advanced=True,
                    tooltip="How much other words count that the text encoder gives another meaning because of these: it "
                    "carries a change to the words that follow. 0: only the words themselves.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="source"),
                io.Conditioning.Output(display_name="target"),
                io.String.Output(display_name="words", tooltip="The words that were taken, and how much others count."),
            ],
        )

    @classmethod
    def execute(cls, clip: Any, source: str, target: str = "", words: str = "", carried: float = 1.0) -> io.NodeOutput:
        return io.NodeOutput(*encode_prompts_with_words(clip, source, target, words, carried))


def encode_with_words(clip: Any, prompt: str, words: str, carried: float = 1.0) -> Conditioning:
    """The CONDITIONING of one prompt, of which each entry carries, as PromptTokens, which columns stand for the words.

    words: words or phrases of the prompt with commas between them. carried, 0..1: how much the other words count by what
    they would mean without these. ValueError where there are no words, or the prompt lacks one of them.
    """
    check_clip(clip)
    phrases = _phrases(words)
    if not phrases:
        raise ValueError("words is empty. Write those words of the prompt that are to be looked for.")
    encoded = encode_prompt(clip, prompt, "prompt")
    (meant,) = _given_places(clip, phrases, {"prompt": encoded})
    return _with_words(encoded, meant, _without(clip, encoded, meant, carried), carried)


def encode_prompts_with_words(
    clip: Any, source: str, target: str, words: str = "", carried: float = 1.0
) -> tuple[Conditioning, Conditioning, str]:
    """Both prompts' CONDITIONING, whose entries carry PromptTokens, and in a line each which words were taken.

    words and carried as for encode_with_words; with no words given those in which the prompts differ. Without a target its
    conditioning is the source's. ValueError where no words differ and none are given, or neither prompt has one of those.
    """
    check_clip(clip)
    phrases = _phrases(words)
    if not phrases and not target.strip():
        raise ValueError(
            "target is empty. Write the prompt of the edited picture, or name the words that are meant in words."
        )
    before = encode_prompt(clip, source, "source")
    after = encode_prompt(clip, target, "target") if target.strip() else before
    if phrases:
        meant, meant_after = _given_places(clip, phrases, {"source": before, "target": after})
    else:
        meant, meant_after = _differing_places(before, after)
    same_after = _merged(equal_columns(before.readings[key], after.readings[key]) for key in before.readings)
    moved = any(column != column_after for column_after, column in same_after.items())
    compared = Compared(after.entries, {column: column_after for column_after, column in same_after.items()})
    compared_after = Compared(before.entries, same_after)
    # A word that was left out or added moves those behind it, and that alone changes their encoding.
    if (phrases or moved) and any(meant.values()):
        compared = _without(clip, before, meant, carried)
    if (phrases or moved) and any(meant_after.values()):
        compared_after = _without(clip, after, meant_after, carried)
    first = _with_words(before, meant, compared, carried)
    exchanged = any(meant.values()) and any(meant_after.values())
    from_source = _from_source(before, after, exchanged)
    second = _with_words(after, meant_after, compared_after, carried, from_source)
    return first, second, f"source: {_in_words(before, meant, first)}\ntarget: {_in_words(after, meant_after, second)}"


def check_clip(clip: Any) -> None:
    """ValueError where a loader found no text encoder."""
    if clip is None:
        raise ValueError("clip is empty: the checkpoint holds no text encoder. Load one with Load CLIP.")


def _phrases(words: str) -> list[str]:
    # Commas as Chinese and Japanese keyboards type them, too.
    return [phrase.strip() for phrase in re.split("[,，、]", words) if phrase.strip()]


def _given_places(clip: Any, phrases: list[str], prompts: dict[str, EncodedPrompt]) -> list[Places]:
    """Where the phrases stand in each of the prompts. ValueError, with all the words there are, for one that is in none."""
    meant: list[Places] = [{key: [] for key in prompt.readings} for prompt in prompts.values()]
    for phrase in phrases:
        found = False
        for places, prompt in zip(meant, prompts.values(), strict=True):
            as_read = read_phrase(clip, phrase, list(prompt.readings), "words")
            for key, reading in prompt.readings.items():
                here = find_phrase(reading.words, as_read[key])
                places[key] = sorted({*places[key], *here})
                found = found or bool(here)
        if not found:
            there = " ".join(f"The words of {name} are: {_names(prompt)}." for name, prompt in prompts.items())
            raise ValueError(f"{phrase!r} in words is not in {' or '.join(prompts)}. {there}")
    return meant


def _differing_places(before: EncodedPrompt, after: EncodedPrompt) -> tuple[Places, Places]:
    """Where the words stand in which two prompts differ. ValueError where there are none."""
    both = {key: differing_words(before.readings[key], after.readings[key]) for key in before.readings}
    if not any(places or places_after for places, places_after in both.values()):
        raise ValueError(
            "source and target have the same words, as the text encoder reads them. Change target, or name the words that "
            "are meant in words."
        )
    return {key: places for key, (places, _) in both.items()}, {key: places for key, (_, places) in both.items()}


def _without(clip: Any, prompt: EncodedPrompt, meant: Places, carried: float) -> Compared:
    """The prompt with the words that are meant struck out, in which its other words stand where they are."""
    if carried == 0:
        return Compared(prompt.entries, {})
    struck_out = _columns(prompt, meant)
    others = {column for reading in prompt.readings.values() for word in reading.words for column in word.columns}
    return Compared(encode_without(clip, prompt, struck_out), {column: column for column in others - struck_out})


def _columns(prompt: EncodedPrompt, meant: Places) -> set[int]:
    words = (reading.words[place] for key, reading in prompt.readings.items() for place in meant[key])
    return {column for word in words for column in word.columns}


def _with_words(
    prompt: EncodedPrompt, meant: Places, compared: Compared, carried: float, from_source: Tensor | None = None
) -> Conditioning:
    """The prompt's CONDITIONING, each entry with its PromptTokens."""
    texts = [[reading.words[place].text for place in meant[key]] for key, reading in prompt.readings.items()]
    words = next((tuple(dict.fromkeys(found)) for found in texts if found), ())
    columns, entries = _columns(prompt, meant), []
    for (encoding, options), (other, _) in zip(prompt.entries, compared.entries, strict=True):
        weights = column_weights(encoding[0], other[0], columns, compared.columns, carried)
        entries.append([encoding, {**options, WORDS: PromptTokens(weights, words, from_source)}])
    return entries


def _from_source(before: EncodedPrompt, after: EncodedPrompt, exchanged: bool) -> Tensor:
    """For each column of the target's conditioning, (T,) long, the one of the source's that says the same, or -1.

    Where words are only left out or added nothing takes another's place, and no attention is to be kept: all are -1.
    """
    readings = ((before.readings[key], after.readings[key]) for key in before.readings if exchanged)
    matches = _merged(matching_columns(*pair) for pair in readings)
    encoding = after.entries[0][0]
    return torch.tensor([matches.get(column, -1) for column in range(encoding.shape[1])], device=encoding.device)


def _merged(columns: Iterable[dict[int, int]]) -> dict[int, int]:
    """One for all text encoders. Those that share columns share their words as well."""
    return {column: other for of_one in columns for column, other in of_one.items()}


def _names(prompt: EncodedPrompt) -> str:
    return ", ".join(dict.fromkeys(word.text for word in next(iter(prompt.readings.values())).words)) or "none"


def _in_words(prompt: EncodedPrompt, meant: Places, conditioning: Conditioning) -> str:
    """The words that were taken, and the others that count by a tenth or so."""
    tokens: PromptTokens = conditioning[0][1][WORDS]
    key, reading = next(iter(prompt.readings.items()))
    others = [
        word for place, word in enumerate(reading.words) if place not in meant[key] and not is_punctuation(word.text)
    ]
    counts = [f"{word.text} {float(tokens.weights[list(word.columns)].max()):.1f}" for word in others]
    carried = ", ".join(count for count in counts if not count.endswith(" 0.0"))
    return (", ".join(tokens.words) or "no word") + (f"; carried: {carried}" if carried else "")
