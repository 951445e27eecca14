"""README's figures come from the benchmarks: each stands in a sentence that a benchmark can make again."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent / "bench"
sys.path.append(str(BENCH))

from _readme import README, SENTENCES, Sentence, differences

TEXT = README.read_text(encoding="utf-8")
MEASURED = TEXT.split("## What was measured")[1].split("**Mixed tools.**")[0]  # what comes then is of the demo
# In the text, and not inside of a command, a link or a name.
FIGURE = re.compile(r"(?<![\w/.@-])\d[\d.]*\d?(?:e-\d+)?(?![\w*])")


@pytest.mark.parametrize("sentence", SENTENCES, ids=lambda sentence: f"{sentence.benchmark}: {sentence.text[:40]}")
def test_readme_has_the_sentence_once(sentence):
    assert (BENCH / f"{sentence.benchmark}.py").is_file()
    assert len(re.findall(sentence.pattern, TEXT)) == 1


def test_no_figure_of_what_was_measured_lacks_its_benchmark():
    text = MEASURED
    for sentence in SENTENCES:
        text = re.sub(sentence.pattern, "", text)
    assert FIGURE.findall(text) == []


def test_what_was_measured_is_put_into_the_sentence(monkeypatch, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("It takes 10.4 MiB, or 3 % of 1e-4.", encoding="utf-8")
    sentence = Sentence("session", "takes {:.1f} MiB, or {:.0f} % of 1e{:.0f}.", lambda figures: figures["all"])
    monkeypatch.setattr("_readme.README", readme)
    monkeypatch.setattr("_readme.SENTENCES", [sentence])
    assert re.search(sentence.pattern, readme.read_text(encoding="utf-8"))
    assert differences("session", {"all": [10.42, 3.2, -4]}) == []
    assert differences("session", {"all": [10.46, 3.2, -4]}) == ["takes 10.5 MiB, or 3 % of 1e-4."]
    assert differences("seams", {}) == []
    assert differences("session", {}) == []  # not measured
    readme.write_text("It takes 10.4 MiB, or 13 % of 1e-4.", encoding="utf-8")
    assert differences("session", {"all": [10.42, 3.2, -4]}) == ["takes 10.4 MiB, or 3 % of 1e-4."]
