"""What every benchmark writes: build/bench/NAME.json with its figures, and which of its issue's goals are met."""

from __future__ import annotations

import json
import math
import operator
import platform
from pathlib import Path
from typing import Any

import torch
from _readme import differences

FOLDER = Path(__file__).parents[2] / "build" / "bench"
_COMPARISONS = {"at most": operator.le, "at least": operator.ge, "less than": operator.lt}


def defaults(node: Any) -> dict[str, Any]:
    """The values that a node's widgets have when nobody touches them."""
    inputs = node.define_schema().inputs
    return {entry.id: entry.default for entry in inputs if getattr(entry, "default", None) is not None}


def goal(name: str, measured: float, comparison: str, wanted: float, unit: str, why: str = "") -> dict[str, Any]:
    """One goal with what was measured. comparison: "at most", "at least" or "less than"; `why` explains a miss."""
    met = _COMPARISONS[comparison](measured, wanted)
    entry = {"name": name, "measured": measured, "goal": wanted, "comparison": comparison, "unit": unit, "met": met}
    return entry if met else {**entry, "why": why or "not looked into"}


def _plain(value: Any) -> Any:
    """A figure as JSON can say it: infinity, as of two equal pictures' PSNR, becomes a word."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return "infinite" if isinstance(value, float) and math.isinf(value) else value


def write_report(name: str, seed: int, figures: dict[str, Any], goals: list[dict[str, Any]]) -> Path:
    """Write build/bench/NAME.json, and print the goals, of which those that are not met stay in the list, and what README
    says otherwise."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    report = {"name": name, "seed": seed, "versions": versions, "goals": goals, "figures": figures}
    text = json.dumps(_plain(report), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    file = FOLDER / f"{name}.json"
    file.write_text(text, encoding="utf-8")
    for entry in goals:
        mark = "met    " if entry["met"] else "NOT MET"
        print(
            f"{mark} {entry['name']}: {entry['measured']:.6g} {entry['unit']} ({entry['comparison']} {entry['goal']})"
        )
    print(f"figures in {file}")
    for sentence in differences(name, json.loads(text)["figures"]):
        print(f"README says otherwise: {sentence}")
    return file
