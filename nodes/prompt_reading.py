"""The words of a prompt in the tokens of the host's text encoders, and in the columns of the conditioning they become."""

from __future__ import annotations

import itertools
import numbers
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..models.diffusion.prompt_change import Reading, Word, is_punctuation
from .emilie import Conditioning

Token = tuple[Any, float, int]  # its number or an embedding's vector, its emphasis, its segment: 0 for what is no word
Chunk = list[Token]  # as many tokens as the encoder takes at once
Tokens = dict[str, list[Chunk]]  # of each text encoder

END_OF_WORD = "</w>"  # as CLIP's vocabulary writes it
START_OF_WORD = "▁"  # as SentencePiece, and with it T5, writes it
EMBEDDING = re.compile(r"embedding:([^\s,:()<\[]+)")


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt, its CONDITIONING, and what each text encoder that stands in it has read. Columns are the conditioning's."""

    tokens: Tokens
    entries: Conditioning
    spans: dict[str, range]
    readings: dict[str, Reading]


def encode_prompt(clip: Any, text: str, name: str) -> EncodedPrompt:
    """Encode a prompt as CLIP Text Encode does, and find its words. ValueError, which says name, where that fails."""
    tokens = tokenize(clip, text, name)
    entries = encode_tokens(clip, tokens)
    if not all(bool(embedding.isfinite().all()) for embedding, _ in entries):
        raise ValueError(
            f"The text encoder makes NaN or infinite values of {name}. Is a weight in it as large as that?"
        )
    spans = columns_by_encoder(clip, tokens, entries)
    # The host leaves out an embedding that is made for another width, and fills up at the end.
    tokens = {key: [_fitting(sub_tokenizer(clip, key), chunk) for chunk in tokens[key]] for key in tokens}
    return EncodedPrompt(tokens, entries, spans, _readings(clip, tokens, text, spans))


def read_phrase(clip: Any, phrase: str, keys: Sequence[str], name: str) -> dict[str, tuple[Word, ...]]:
    """A phrase in the words of these text encoders."""
    tokens = tokenize(clip, phrase, name)
    whole = {key: range(sum(map(len, tokens[key]))) for key in keys}
    return {key: reading.words for key, reading in _readings(clip, tokens, phrase, whole).items()}


def encode_without(clip: Any, prompt: EncodedPrompt, columns: Collection[int]) -> Conditioning:
    """The CONDITIONING of a prompt with commas for all that stands in these columns.

    Taking the tokens out would move all words behind them, and that alone changes an encoding.
    """
    commas = tokenize(clip, ",", "a comma")
    tokens = dict(prompt.tokens)
    for key, span in prompt.spans.items():
        comma = next(token for token in reversed(commas[key][0]) if token[2])
        places = itertools.count(span.start)
        tokens[key] = [[comma if next(places) in columns else token for token in chunk] for chunk in prompt.tokens[key]]
    return encode_tokens(clip, tokens)


def tokenize(clip: Any, text: str, name: str) -> Tokens:
    try:
        return clip.tokenize(text, return_word_ids=True)
    except IndexError as error:  # the host looks for the embedding's name
        raise ValueError(
            f"{name} says 'embedding:' without a name after it. Write the name, or leave it out."
        ) from error


def encode_tokens(clip: Any, tokens: Tokens) -> Conditioning:
    pairs = {key: [[token[:2] for token in chunk] for chunk in chunks] for key, chunks in tokens.items()}
    return clip.encode_from_tokens_scheduled(pairs)


def sub_tokenizer(clip: Any, key: str) -> Any:
    return getattr(clip.tokenizer, _attribute(clip.tokenizer, key), None)


def columns_by_encoder(clip: Any, tokens: Tokens, entries: Conditioning) -> dict[str, range]:
    """For each text encoder whose tokens have columns in the conditioning: which. ValueError where that cannot be told.

    CLIPs share their columns. T5 comes after them (SD3), or takes their place (Flux).
    """
    styles = {key: _word_mark(sub_tokenizer(clip, key)) for key in tokens}
    present = [
        key for key in tokens if getattr(clip.cond_stage_model, _attribute(clip.tokenizer, key), None) is not None
    ]
    clips = [key for key in present if styles[key] == END_OF_WORD]
    others = [key for key in present if styles[key] == START_OF_WORD]
    lengths = {key: sum(map(len, tokens[key])) for key in present}
    shared = min((lengths[key] for key in clips), default=0)
    width = {embedding.shape[1] if embedding.ndim == 3 else None for embedding, _ in entries}
    if None not in styles.values() and len(others) <= 1:
        after = lengths[others[0]] if others else 0
        if width == {shared + after}:
            return dict.fromkeys(clips, range(shared)) | dict.fromkeys(others, range(shared, shared + after))
        if others and width == {after}:
            return dict.fromkeys(others, range(after))
    raise ValueError(
        f"Where words stand in the conditioning of {type(clip.cond_stage_model).__name__.strip('_')} is not known. It is "
        "known for CLIP (Stable Diffusion 1 and 2, SDXL), for T5 (Flux), and for both (SD3), not for other language models. "
        "Connect a mask of your own instead."
    )


def _attribute(tokenizer: Any, key: str) -> str:
    """The host calls the parts of a tokenizer, and those of the model, as their tokens or with clip_ before it."""
    return f"clip_{key}" if hasattr(tokenizer, f"clip_{key}") else key


def _word_mark(tokenizer: Any) -> str | None:
    for piece in getattr(tokenizer, "inv_vocab", {}).values():
        if piece.endswith(END_OF_WORD):
            return END_OF_WORD
        if piece.startswith(START_OF_WORD):
            return START_OF_WORD
    return None


def _fitting(tokenizer: Any, chunk: Chunk) -> Chunk:
    width = getattr(tokenizer, "embedding_size", None)
    fitting = [token for token in chunk if not torch.is_tensor(token[0]) or token[0].shape[-1] == width]
    return fitting + [(tokenizer.pad_token, 1.0, 0)] * (len(chunk) - len(fitting))


def _readings(clip: Any, tokens: Tokens, text: str, spans: dict[str, range]) -> dict[str, Reading]:
    embeddings = _embeddings(clip, text) if "embedding:" in text else {}
    return {
        key: _read(sub_tokenizer(clip, key), tokens[key], span, embeddings.get(key, {})) for key, span in spans.items()
    }


def _embeddings(clip: Any, text: str) -> dict[str, dict[str, Tensor]]:
    """Of each text encoder, the first vectors of the embeddings that a prompt names."""
    found: dict[str, dict[str, Tensor]] = {}
    for name in dict.fromkeys(EMBEDDING.findall(text)):
        for key, chunks in clip.tokenize(f"embedding:{name}").items():
            vectors = [token for chunk in chunks for token, _ in chunk if torch.is_tensor(token)]
            if vectors:
                found.setdefault(key, {})[f"embedding:{name}"] = vectors[0]
    return found


def _read(tokenizer: Any, chunks: list[Chunk], span: range, embeddings: dict[str, Tensor]) -> Reading:
    starts, fillings, words = [], [], []
    column = span.start
    for chunk in chunks:
        start = column if tokenizer.start_token is not None else None
        no_words = [column + place for place, token in enumerate(chunk) if token[2] == 0]
        starts.append(start)
        fillings.append(tuple(place for place in no_words if place != start and place in span))
        column += len(chunk)
    flat = [token for chunk in chunks for token in chunk]
    for group in _words(tokenizer, flat):
        text = _text(tokenizer, [flat[place][0] for place in group], embeddings)
        columns = tuple(span.start + place for place in group if span.start + place in span)
        if text and columns:
            words.append(Word(text, flat[group[0]][1], columns))
    return Reading(tuple(words), tuple(starts), tuple(fillings))


def _words(tokenizer: Any, tokens: Sequence[Token]) -> Iterator[list[int]]:
    """The places of the tokens of each word. A word goes on where a chunk ends."""
    group: list[int] = []
    for place, token in enumerate(tokens):
        if token[2] == 0:
            continue
        if group and _is_new(tokenizer, tokens[group[-1]], token):
            yield group
            group = []
        group.append(place)
    if group:
        yield group


def _is_new(tokenizer: Any, before: Token, token: Token) -> bool:
    """Whether a word starts with this token."""
    if before[2] != token[2]:
        return True
    if not isinstance(token[0], numbers.Integral):
        return False  # one of an embedding's vectors
    last, piece = tokenizer.inv_vocab[before[0]], tokenizer.inv_vocab[token[0]]
    if last.endswith(END_OF_WORD) or piece.startswith(START_OF_WORD):
        return True
    # CLIP parts punctuation from words. SentencePiece does not, where no space is between them.
    last, piece = last.strip(START_OF_WORD), piece.strip(START_OF_WORD)
    return bool(last) and is_punctuation(last) != is_punctuation(piece)


def _text(tokenizer: Any, tokens: list[Any], embeddings: dict[str, Tensor]) -> str:
    if isinstance(tokens[0], numbers.Integral):
        return tokenizer.tokenizer.decode(tokens).strip()
    for name, vector in embeddings.items():
        if torch.equal(tokens[0], vector):
            return name
    return "embedding"
