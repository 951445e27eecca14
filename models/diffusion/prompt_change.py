"""What a change of words changes in a prompt: which words, in which columns, and how far the encoding of each column.

Prompt-to-prompt (Hertz et al. 2022, arXiv 2208.01626) takes the attention of the changed words alone. But a causal text
encoder also writes a change into the columns of the words that follow, and a model may well look there: so these columns
count by how far their encoding moved.
"""

from __future__ import annotations

import difflib
import string
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Word:
    """A word of a prompt: the emphasis that the prompt gives it, and the columns of the conditioning that it stands in."""

    text: str
    emphasis: float
    columns: tuple[int, ...]


@dataclass(frozen=True)
class Reading:
    """A prompt as one text encoder reads it.

    words: in their order. starts: for each chunk the column of its start token, fillings: those of what ends and fills it.
    """

    words: tuple[Word, ...]
    starts: tuple[int | None, ...]
    fillings: tuple[tuple[int, ...], ...]


def is_punctuation(text: str) -> bool:
    """Whether a word holds nothing but punctuation. Emoji are no punctuation."""
    return all(letter in string.punctuation or unicodedata.category(letter)[0] == "P" for letter in text)


def differing_words(source: Reading, target: Reading) -> tuple[list[int], list[int]]:
    """The places of the words in which two prompts differ, in each of them. Punctuation is not meant by itself."""
    in_source: list[int] = []
    in_target: list[int] = []
    for operation, first, end, target_first, target_end in _comparison(source, target):
        if operation != "equal":
            in_source += _without_punctuation(source, range(first, end))
            in_target += _without_punctuation(target, range(target_first, target_end))
    return in_source, in_target


def find_phrase(words: Sequence[Word], phrase: Sequence[Word]) -> list[int]:
    """The places of the words that, one after the other, are those of the phrase, wherever it stands, in any case."""
    texts = [word.text.casefold() for word in words]
    wanted = [word.text.casefold() for word in phrase]
    if not wanted:
        return []
    found = [place for place in range(len(texts)) if texts[place : place + len(wanted)] == wanted]
    return sorted({place + step for place in found for step in range(len(wanted))})


def equal_columns(source: Reading, target: Reading) -> dict[int, int]:
    """For the target's columns whose word the source has as well: the source's column."""
    return dict(_paired(source, target, {"equal"}))


def matching_columns(source: Reading, target: Reading) -> dict[int, int]:
    """For the target's columns that say what a column of the source says, or say another word in its place: that column.

    Words that were exchanged for as many others count, where they have as many tokens. In each chunk the start tokens
    match, and in their order the tokens that end and fill it.
    """
    matches = dict(_paired(source, target, {"equal", "replace"}))
    for start, target_start in zip(source.starts, target.starts, strict=False):  # one may have more chunks
        if start is not None and target_start is not None:
            matches[target_start] = start
    for filling, target_filling in zip(source.fillings, target.fillings, strict=False):
        matches |= dict(zip(target_filling, filling, strict=False))
    return matches


def change_of_encoding(first: Tensor, second: Tensor) -> Tensor:
    """How far the encodings of the same tokens, both (N, D), are apart: the square, relative to their own, (N,) in 0..1.

    |first - second|² / mean(|first|², |second|²), at most 1.
    """
    first, second = first.float(), second.float()
    size = (first.square().sum(-1) + second.square().sum(-1)) / 2
    distance = (first - second).square().sum(-1)
    return (distance / size.clamp(min=torch.finfo(torch.float32).tiny)).clamp(max=1.0)


def column_weights(
    encoding: Tensor, compared: Tensor, meant: Collection[int], same: Mapping[int, int], carried: float
) -> Tensor:
    """How much each column of an encoding (T, D) stands for the words that are meant, (T,) float32 in 0..1.

    meant: the columns of those words, of weight 1. same: columns of encoding and, for each, the column of compared, (N, D),
    that holds the same token without those words, or with others; they get carried (0..1) times the change. All others get 0.
    """
    weights = torch.zeros(len(encoding), device=encoding.device)
    if same and carried > 0:
        own, other = list(same), list(same.values())
        weights[own] = carried * change_of_encoding(encoding[own], compared[other])
    weights[list(meant)] = 1.0
    return weights


def _comparison(source: Reading, target: Reading) -> Sequence[tuple[str, int, int, int, int]]:
    # Two prompts may also differ in nothing but the emphasis of a word.
    first, second = ([(word.text.casefold(), word.emphasis) for word in reading.words] for reading in (source, target))
    return difflib.SequenceMatcher(None, first, second, autojunk=False).get_opcodes()


def _paired(source: Reading, target: Reading, operations: set[str]) -> Iterator[tuple[int, int]]:
    for operation, first, end, target_first, target_end in _comparison(source, target):
        if operation not in operations or end - first != target_end - target_first:
            continue
        for word, target_word in zip(source.words[first:end], target.words[target_first:target_end], strict=True):
            if len(word.columns) == len(target_word.columns):
                yield from zip(target_word.columns, word.columns, strict=True)


def _without_punctuation(reading: Reading, places: range) -> list[int]:
    return [place for place in places if not is_punctuation(reading.words[place].text)]
