"""What the host tells a node about the graph around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

UNKNOWN_TOOL = "unknown"
# Nodes that hand a latent on as it is, and through which input: the tool is the node before them.
PASSED_THROUGH = {
    "ReEditAlign": "samples",
    "ReEditDecode": "samples",
    "ReEditDriftMeter": "samples",
    "ReEditEpsilonDecode": "samples",
    "ReEditLatentConditioning": "samples",
    "ReEditSaveSession": "samples",
    "SetLatentNoiseMask": "samples",
}
LONGEST_TEXT = 2000  # characters of one parameter

Prompt = Mapping[str, Any]


def producer_of(prompt: Prompt | None, node_id: str | None, input_name: str) -> tuple[str, dict[str, Any]]:
    """The class of the node that made what feeds an input, and its parameters.

    Parameters are the values of its widgets, and under "input.widget" those of the nodes wired into it: a sampler's prompt
    is "positive.text", a guider's scale "guider.cfg". prompt: the queued graph, {id: {"class_type", "inputs"}}. Where the
    host does not tell, ("unknown", {}).
    """
    graph = prompt or {}
    producer = _feeding(graph, graph.get(str(node_id), {}), input_name)
    while producer.get("class_type") in PASSED_THROUGH:
        producer = _feeding(graph, producer, PASSED_THROUGH[producer["class_type"]])
    parameters = _widgets(producer)
    for name in producer.get("inputs", {}):
        wired = _widgets(_feeding(graph, producer, name))
        parameters |= {f"{name}.{widget}": value for widget, value in wired.items()}
    return producer.get("class_type", UNKNOWN_TOOL), parameters


def _feeding(graph: Prompt, node: Mapping[str, Any], input_name: str) -> Mapping[str, Any]:
    """The node that is linked to an input, {} without one. In a queued graph a link is a list [node, slot]."""
    link = node.get("inputs", {}).get(input_name)
    return graph.get(str(link[0]), {}) if isinstance(link, list) and len(link) == 2 else {}


def _widgets(node: Mapping[str, Any]) -> dict[str, Any]:
    """A node's widgets that hold a plain value."""
    values = {
        name: value for name, value in node.get("inputs", {}).items() if isinstance(value, (bool, int, float, str))
    }
    return {name: value[:LONGEST_TEXT] if isinstance(value, str) else value for name, value in values.items()}
