"""Which tokens of a prompt are meant, carried along with its conditioning."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

WORDS = "reedit_words"  # the key of a conditioning's options that holds its PromptTokens


@dataclass(frozen=True, eq=False)  # tensors have no one answer to ==
class PromptTokens:
    """The T columns of a conditioning, (B, T, D), as its words see them.

    weights: (T,) or (B, T) float32 in 0..1, how much a column stands for the words that are meant. from_source: of the edited
    prompt only, (T,) or (B, T) long, the column of the source prompt that says the same, -1 where none does; -1 for
    all where nothing takes another's place, so that the source's attention is not to be kept. words: as the prompt has them.
    """

    weights: Tensor
    words: tuple[str, ...]
    from_source: Tensor | None = None
