from itertools import pairwise

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import font_manager
from reedit.models.metrics import timeline_text
from reedit.models.metrics.timeline_text import ELLIPSIS, find_font, wrap_text

NEVER_A_LETTER = "\uffff"  # drawn as the box that stands for a missing letter


def is_drawn(letter, font):
    return bytes(font.getmask(letter)) != bytes(font.getmask(NEVER_A_LETTER))


@pytest.mark.parametrize("text", ["Größe × 2 – café", "сделай фон мягче", "ανοιχτό κόκκινο", "make it red…"])
@pytest.mark.parametrize("weight", ["normal", "bold"])
def test_letters_of_europe_are_drawn(text, weight):
    font = find_font(text, 15, weight)
    assert font.getname()[0] == "DejaVu Sans"
    assert all(is_drawn(letter, font) for letter in text if letter != " ")


@pytest.fixture
def installed_font(tmp_path, monkeypatch):
    """A font with letters that DejaVu Sans lacks, as if the user had installed it."""
    letters = "把杯子变成红色R"
    names = {ord(letter): f"letter{index}" for index, letter in enumerate(letters)}
    pen = TTGlyphPen(None)
    for corner in ((100, 0), (100, 700), (600, 700)):
        (pen.moveTo if corner == (100, 0) else pen.lineTo)(corner)
    pen.closePath()
    empty = TTGlyphPen(None).glyph()
    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", *names.values()])
    builder.setupCharacterMap(names)
    builder.setupGlyf({".notdef": empty, **{name: pen.glyph() for name in names.values()}})
    builder.setupHorizontalMetrics(dict.fromkeys((".notdef", *names.values()), (700, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupOS2()
    builder.setupNameTable({"familyName": "A Font of the User", "styleName": "Regular"})
    builder.setupPost()
    builder.save(tmp_path / "font.ttf")
    files = [*font_manager.findSystemFonts(), str(tmp_path / "font.ttf")]
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: files)
    forget_fonts()
    yield "A Font of the User"
    forget_fonts()


def forget_fonts():
    """The fonts are looked for once; a new one is seen when the host is started again."""
    timeline_text._installed_fonts.cache_clear()
    timeline_text._find_font_file.cache_clear()


def test_letters_that_only_another_installed_font_has_are_drawn_with_it(installed_font):
    for text in ("把杯子变成红色", "R 杯子"):
        assert find_font(text, 15, "bold").getname()[0] == installed_font
    assert find_font("R", 15).getname()[0] == "DejaVu Sans"


def test_a_text_that_no_font_has_is_no_error():
    unassigned = "\U000e0fff"
    assert wrap_text(unassigned, find_font(unassigned, 15), 100, 3) == [unassigned]


@given(st.text(max_size=120), st.integers(20, 200), st.integers(1, 4))
def test_lines_fit_and_together_are_the_text(text, width, most_lines):
    """All letters come back in order, or the last line says that there were more."""
    font = find_font("", 15)
    lines = wrap_text(text, font, width, most_lines)
    assert len(lines) <= most_lines
    assert all(font.getlength(line) <= width or len(line) == 1 for line in lines)
    letters, shown = "".join(text.split()), "".join("".join(lines).split())
    if shown != letters:
        assert len(lines) == most_lines and shown.endswith(ELLIPSIS)
        assert letters.startswith(shown.removesuffix(ELLIPSIS))


def test_lines_break_between_words_where_they_can():
    font = find_font("", 15)
    text = "a red circle on a wooden table"
    lines = wrap_text(text, font, 100, 10)
    assert len(lines) > 1 and " ".join(lines) == text
    for line, following in pairwise(lines):  # no line has room for the word after it
        assert font.getlength(f"{line} {following.split()[0]}") > 100


def test_scripts_without_spaces_break_anywhere():
    """The first line is filled, though there is a word of Latin before the run of Chinese."""
    text = "make " + "杯" * 60
    font = find_font("", 15)
    first = wrap_text(text, font, 200, 10)[0]
    assert first.startswith("make 杯") and font.getlength(first + "杯") > 200
