"""The history panel's texts in web/history/texts/: one file for each language, every one complete."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from locale_texts import ENGLISH, flatten, read_texts
from test_locales import ENGLISH_WORDS, LANGUAGES, SCRIPTS

FOLDER = Path(__file__).parents[2] / "web" / "history" / "texts"
START = "export default "  # the rest of a file is JSON
TAIWAN = "zh-TW"  # of which the host has the page, and the pack has no names of nodes
PANEL_LANGUAGES = (*LANGUAGES, TAIWAN)
PLACE = re.compile(r"\{\w*\}")
COUNTED = "edits"
# The forms that Intl.PluralRules may ask for; where one is missing, the panel takes "other".
FORMS = {"ru": {"one", "few", "many", "other"}, **{name: {"other"} for name in ("zh", TAIWAN, "ja", "ko")}}
LETTERS = {**SCRIPTS, TAIWAN: SCRIPTS["zh"], "ja": f"{SCRIPTS['ja']}|{SCRIPTS['zh']}"}
SAME = {"fr": {"source"}}  # the same word in that language


def read(language: str) -> dict:
    return json.loads((FOLDER / f"{language}.js").read_text(encoding="utf-8").removeprefix(START))


def node_names(language: str) -> dict[str, str]:
    """The names of our nodes as the page shows them in a language, by their English ones."""
    shown = read_texts(language)
    return {
        english: shown.get(path, english) for path, english in read_texts(ENGLISH).items() if path[-1] == "display_name"
    }


def test_there_is_a_file_for_each_language_of_the_pack():
    assert {path.stem for path in FOLDER.iterdir()} == {ENGLISH, *PANEL_LANGUAGES}
    module = FOLDER.with_suffix(".js").read_text(encoding="utf-8")
    assert set(re.findall(r'"\./texts/(.+)\.js"', module)) == {ENGLISH, *PANEL_LANGUAGES}


def test_the_panel_says_no_other_texts_than_these():
    """Each is used, and none is asked for that is not there."""
    scripts = "".join(path.read_text(encoding="utf-8") for path in FOLDER.parents[1].glob("**/*.js"))
    asked = set(re.findall(r'\btext\("(\w+)"', scripts)) | set(re.findall(r'\bchoice\("(\w+)"', scripts))
    assert asked == set(read(ENGLISH))


@pytest.mark.parametrize("language", PANEL_LANGUAGES)
def test_every_text_is_there_and_says_the_same(language):
    english, texts = read(ENGLISH), read(language)
    assert list(texts) == list(english)
    assert set(texts[COUNTED]) == FORMS.get(language, {"one", "other"})
    names = node_names(language)
    for (key, *form), text in flatten(texts):
        source = english[key]["other"] if form else english[key]
        assert sorted(PLACE.findall(text)) == sorted(PLACE.findall(source)), text
        assert "{" not in PLACE.sub("", text)
        assert text == text.strip() and PLACE.sub("", text), key
        assert text != source or key in SAME.get(language, ()), key
        assert not ENGLISH_WORDS.search(text), text
        assert re.search(LETTERS.get(language, ""), text), text
        named = [shown for name, shown in names.items() if name in source]
        assert [name for name in named if name not in text] == [], text
