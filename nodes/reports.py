"""Reports of nodes as text that other programs can read."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, is_dataclass
from typing import Any


def as_json(report: Any) -> str:
    """Dataclasses, lists and dicts as JSON text. What JSON cannot say (infinity, not a number) becomes "infinite" or null."""
    return json.dumps(_plain(report), indent=2, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "infinite" if value > 0 else None
    return value
