"""Our templates in the page, as a person opens them and chooses the demo's models."""

from __future__ import annotations

import json
from typing import Any

from chain_builder import DEMO_MODELS, MODELS
from comfy_frontend import ComfyFrontend
from installation import PACK
from saved_workflows import FOLDER, LOADERS, demo_guidance

FIRST = ("undo_and_branch", "continue_tomorrow")  # the second opens what the first saved


def saved(template: str) -> dict[str, Any]:
    """The workflow as it stands in the file."""
    return json.loads((FOLDER / f"{template}.json").read_text(encoding="utf-8"))


def choose_demo_models(frontend: ComfyFrontend, nodes: list[dict[str, Any]]) -> None:
    """Choose, in every loader of a template's nodes, what stands for its model in the demo family, and write its guidance."""
    demo_names = {entry["name"]: DEMO_MODELS[kind] for kind, entry in MODELS.items()}
    for node in nodes:
        if node["type"] in LOADERS:
            frontend.choose(node["id"], LOADERS[node["type"]], demo_names[node["widgets_values"][0]])
    for number, widget, value in demo_guidance(nodes):
        frontend.set_widget(number, widget, value)


def load_with_demo_models(frontend: ComfyFrontend, template: str) -> list[dict[str, Any]]:
    """Open one of our templates, choose the demo's models in it, and return its nodes."""
    nodes = saved(template)["nodes"]
    frontend.open_templates(PACK)
    frontend.load_template(template, len(nodes))
    choose_demo_models(frontend, nodes)
    return nodes
