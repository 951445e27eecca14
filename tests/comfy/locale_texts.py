"""The texts of locales/: the English ones as the nodes' schemas have them, and how they are read, compared and written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reedit.nodes import NODES

LOCALES = Path(__file__).parents[2] / "locales"
ENGLISH = "en"
FILES = ("main", "nodeDefs")  # of those that the host reads, the ones that we have texts for
# Categories that the host has too, and translates itself. Ours would replace its words.
HOST_CATEGORIES = ("guidance", "training")
Texts = dict[str, Any]


def english_texts() -> dict[str, Texts]:
    """What the files of locales/en have to say, by file."""
    definitions = {node.__name__: _definition(node.GET_NODE_INFO_V1()) for node in NODES}
    categories = [node.define_schema().category.split("/")[1] for node in NODES]
    own = {name: name for name in categories if name not in HOST_CATEGORIES}
    return {"main": {"nodeCategories": own}, "nodeDefs": definitions}


def _definition(info: Mapping[str, Any]) -> Texts:
    """The texts of one node, as the host's frontend looks them up."""
    inputs = {}
    for group in ("required", "optional"):
        for name, (_, options) in info["input"].get(group, {}).items():
            inputs[name] = {"name": options.get("display_name") or name, "tooltip": options["tooltip"]}
    outputs = {}
    described = zip(info["output"], info["output_name"], info["output_tooltips"], strict=True)
    for index, (kind, name, tooltip) in enumerate(described):
        texts = {} if name == kind else {"name": name}  # the host has words of its own for its types
        if tooltip:
            texts["tooltip"] = tooltip
        if texts:
            outputs[str(index)] = texts
    definition = {"display_name": info["display_name"], "description": info["description"], "inputs": inputs}
    return {**definition, "outputs": outputs} if outputs else definition


def flatten(texts: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """The texts with their paths, in order."""
    for key, value in texts.items():
        if isinstance(value, Mapping):
            yield from flatten(value, (*above, key))
        else:
            yield (*above, key), value


def read_texts(language: str) -> dict[tuple[str, ...], str]:
    """All texts of a language by their path, whose first part is the file."""
    texts = {}
    for file in FILES:
        path = LOCALES / language / f"{file}.json"
        texts.update(flatten({file: json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}}))
    return texts


def write_texts(language: str, texts: Mapping[tuple[str, ...], str]) -> None:
    tree: Texts = {}
    for path, text in texts.items():
        place = tree
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = text
    (LOCALES / language).mkdir(parents=True, exist_ok=True)
    for file in FILES:
        written = json.dumps(tree.get(file, {}), indent=2, ensure_ascii=False)
        (LOCALES / language / f"{file}.json").write_text(written + "\n", encoding="utf-8")


def record_english(languages: tuple[str, ...]) -> None:
    """Write the English texts anew, and take out of the other languages what was translated from other words.

    So a translation that is there was made from the English beside it; of what is taken out, git has the old words.
    """
    before, now = read_texts(ENGLISH), dict(flatten(english_texts()))
    for language in languages:
        texts = read_texts(language)
        kept = (path for path in now if path in texts and before.get(path, now[path]) == now[path])
        write_texts(language, {path: texts[path] for path in kept})
    write_texts(ENGLISH, now)
