import math
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reedit.models.training.reed import REEDSettings

LIMITED = [one for one in fields(REEDSettings) if one.metadata["least"] is not None]
CHOSEN = [one for one in fields(REEDSettings) if one.metadata["choices"]]


def test_every_number_has_a_least_value_every_text_its_choices_and_all_an_explanation():
    for one in fields(REEDSettings):
        kind = type(one.default)
        assert one.metadata["help"].endswith(".")
        assert (one in LIMITED) == (kind in (int, float)) and (one in CHOSEN) == (kind is str)
    REEDSettings().check()


@given(st.data())
def test_any_number_below_its_range_is_refused_by_name(data):
    one = data.draw(st.sampled_from(LIMITED))
    least, whole = one.metadata["least"], isinstance(one.default, int)
    if whole:
        value = data.draw(st.integers(max_value=least - 1))
    else:
        value = data.draw(st.floats(max_value=least, exclude_max=True) | st.just(math.nan))
    with pytest.raises(ValueError, match=rf"^{one.name} is .*, and must be {least} or more\.$"):
        replace(REEDSettings(), **{one.name: value}).check()


@given(st.data())
def test_any_number_above_its_range_is_refused_by_name(data):
    one = data.draw(st.sampled_from([one for one in LIMITED if one.metadata["most"] is not None]))
    most = one.metadata["most"]
    value = data.draw(st.floats(min_value=most, exclude_min=True))
    with pytest.raises(ValueError, match=rf"^{one.name} is .*, and must be {most} or less\.$"):
        replace(REEDSettings(), **{one.name: value}).check()


@given(st.data())
def test_any_text_that_is_no_choice_is_refused_by_name_with_the_choices(data):
    one = data.draw(st.sampled_from(CHOSEN))
    value = data.draw(st.text().filter(lambda text: text not in one.metadata["choices"]))
    with pytest.raises(ValueError) as refused:
        replace(REEDSettings(), **{one.name: value}).check()
    assert str(refused.value) == f"{one.name} is {value!r}. Choose one of {', '.join(one.metadata['choices'])}."


@given(st.data())
def test_every_value_in_its_range_is_taken(data):
    one = data.draw(st.sampled_from(LIMITED))
    least, most = one.metadata["least"], one.metadata["most"]
    inside = st.integers if isinstance(one.default, int) else st.floats
    settings = replace(REEDSettings(last_passes=10**9), **{one.name: data.draw(inside(least, most or 10**9))})
    if settings.last_passes >= settings.first_passes:
        settings.check()


def test_the_chain_does_not_end_shorter_than_it_starts():
    with pytest.raises(ValueError, match=r"last_passes is 3, and must be first_passes \(4\) or more\."):
        REEDSettings(first_passes=4, last_passes=3).check()
