"""What the host tells a node about the graph around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

UNKNOWN_TOOL = "unknown"


def producer_of(prompt: Mapping[str, Any] | None, node_id: str | None, input_name: str) -> tuple[str, dict[str, Any]]:
    """The class of the node that feeds an input, and the values of its widgets.

    prompt: the queued graph, {id: {"class_type", "inputs"}}. Where the host does not tell, ("unknown", {}).
    """
    node = (prompt or {}).get(str(node_id), {})
    link = node.get("inputs", {}).get(input_name)
    if not isinstance(link, list) or len(link) != 2:
        return UNKNOWN_TOOL, {}
    producer = (prompt or {}).get(str(link[0]), {})
    # In a queued graph a link is a list [node, slot]; everything else is a widget's value.
    values = {name: value for name, value in producer.get("inputs", {}).items() if not isinstance(value, list)}
    return producer.get("class_type", UNKNOWN_TOOL), values
