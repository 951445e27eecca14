import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reedit.models.diffusion.prompt_change import (
    Reading,
    Word,
    change_of_encoding,
    column_weights,
    differing_words,
    equal_columns,
    find_phrase,
    is_punctuation,
    matching_columns,
)


def reading(text, first=0, filling=2, sizes=None, emphasis=1.0):
    """A prompt in one chunk: a start token, words of one token each, or as many as sizes says, and what fills it up."""
    column, words = first + 1, []
    for word in text.split():
        size = (sizes or {}).get(word, 1)
        words.append(Word(word, emphasis, tuple(range(column, column + size))))
        column += size
    return Reading(tuple(words), (first,), (tuple(range(column, column + filling)),))


def texts(read, places):
    return [read.words[place].text for place in places]


prompts = st.lists(st.sampled_from(["a", "red", "circle", ",", "on", "sand"]), max_size=12).map(" ".join)


@pytest.mark.parametrize(
    ("source", "target", "in_source", "in_target"),
    [
        ("a red circle", "a blue circle", ["red"], ["blue"]),
        ("a red circle", "a red circle with hat", [], ["with", "hat"]),
        ("a red circle and a cross", "a red circle", ["and", "a", "cross"], []),
        ("a red circle", "A Red CIRCLE", [], []),
        ("a red circle", "a red , circle .", [], []),
        ("a red , circle", "a big circle", ["red"], ["big"]),
        ("", "circle", [], ["circle"]),
    ],
)
def test_the_words_in_which_two_prompts_differ(source, target, in_source, in_target):
    source, target = reading(source), reading(target)
    places, target_places = differing_words(source, target)
    assert (texts(source, places), texts(target, target_places)) == (in_source, in_target)


@given(prompts, prompts)
def test_without_the_differing_words_two_prompts_say_the_same(source, target):
    source, target = reading(source), reading(target)
    left = []
    for read, places in zip((source, target), differing_words(source, target), strict=True):
        left.append([w.text for n, w in enumerate(read.words) if n not in places and not is_punctuation(w.text)])
    assert left[0] == left[1]


def test_a_long_prompt_is_compared_word_by_word():
    """Python's own comparison takes words for noise that come often in 200 or more, if it is let."""
    text = "a red circle " * 80
    places, target_places = differing_words(reading(text), reading(text + "blue"))
    assert places == [] and target_places == [240]


def test_another_emphasis_is_a_difference():
    places, target_places = differing_words(reading("circle"), reading("circle", emphasis=1.3))
    assert places == target_places == [0]


@pytest.mark.parametrize(("text", "expected"), [(",", True), ("…!", True), ("+", True), ("3", False), ("🎈", False)])
def test_what_is_punctuation(text, expected):
    assert is_punctuation(text) is expected


@given(prompts, prompts)
def test_a_phrase_is_found_where_its_words_follow_each_other(text, phrase):
    words, wanted = reading(text).words, reading(phrase).words
    starts = [
        first
        for first in range(len(words))
        if wanted and f" {phrase} " == f" {' '.join(word.text for word in words[first : first + len(wanted)])} "
    ]
    assert find_phrase(words, wanted) == sorted({first + n for first in starts for n in range(len(wanted))})


@given(prompts)
def test_a_prompt_matches_itself_column_by_column(text):
    read = reading(text, first=7)
    everything = [*read.starts, *itertools.chain(*(word.columns for word in read.words)), *read.fillings[0]]
    assert matching_columns(read, read) == {column: column for column in everything}


def test_exchanged_words_match_where_they_have_as_many_tokens():
    source = reading("a red circle on sand", sizes={"circle": 2})
    assert matching_columns(source, reading("a blue circle on sand", sizes={"circle": 2}))[2] == 2
    longer = matching_columns(source, reading("a purple circle on sand", sizes={"circle": 2, "purple": 3}))
    assert longer == {0: 0, 1: 1, 5: 3, 6: 4, 7: 5, 8: 6, 9: 7, 10: 8}  # nothing for purple's, 2 to 4


def test_only_equal_words_are_compared():
    assert equal_columns(reading("a red circle"), reading("a big blue circle")) == {1: 1, 4: 3}


def test_what_fills_up_a_chunk_matches_in_its_order():
    matches = matching_columns(reading("a red circle", filling=2), reading("a", filling=4))
    assert matches == {0: 0, 1: 1, 2: 4, 3: 5}  # nothing for 4 and 5: the source's chunk is full


def test_chunks_that_the_source_lacks_match_nothing():
    target = Reading((), (0, 5), ((1, 2, 3, 4), (6, 7, 8, 9)))
    assert matching_columns(Reading((), (0,), ((1, 2),)), target) == {0: 0, 1: 1, 2: 2}


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.9, 1.4])
def test_the_change_of_an_encoding_that_was_scaled(scale):
    first = torch.randn(5, 16)
    expected = (1 - scale) ** 2 / ((1 + scale**2) / 2)
    torch.testing.assert_close(change_of_encoding(first, scale * first), torch.full((5,), expected))


def test_the_change_of_an_encoding_is_at_most_1_and_nothing_for_zeros():
    first, zeros = torch.randn(5, 16), torch.zeros(5, 16)
    assert torch.equal(change_of_encoding(first, -first), torch.ones(5))
    assert torch.equal(change_of_encoding(zeros, zeros), torch.zeros(5))
    half = first.half()
    assert change_of_encoding(half, half * 1000).isfinite().all()  # the squares pass what half precision holds


def test_the_weights_of_columns():
    encoding = torch.eye(6)
    compared = encoding.clone()
    compared[5] *= 0.5  # holds the same token as column 4 of encoding, at another place
    compared = compared[[0, 1, 2, 3, 5, 4]]
    weights = column_weights(encoding, compared, {1}, {1: 3, 2: 2, 4: 5, 5: 4}, carried=0.8)
    torch.testing.assert_close(weights, torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0, 0.8 * 0.25 / 0.625]))
    assert column_weights(encoding, compared, {1}, {5: 4}, carried=0.0).tolist() == [0, 1, 0, 0, 0, 0]
    assert column_weights(encoding, compared, set(), {}, carried=1.0).tolist() == [0] * 6
