"""Writes a graph in the two formats there are: as the frontend saves it, and as the queue takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR"}
PACK = "reedit"


class Link(NamedTuple):
    """One output of a node."""

    node: int
    slot: int


@dataclass
class Node:
    number: int
    kind: str
    inputs: dict[str, Any]
    title: str
    position: tuple[float, float]
    size: tuple[float, float]
    properties: dict[str, Any] = field(default_factory=dict)
    mode: int = 0  # LiteGraph's: 0 always, 2 never

    def out(self, slot: int = 0) -> Link:
        return Link(self.number, slot)


class WorkflowWriter:
    """Collects nodes; `as_queued` and `as_saved` write them. first: the number of the first node."""

    def __init__(self, first: int = 1) -> None:
        self.first = first
        self.nodes: list[Node] = []
        self.groups: list[dict[str, Any]] = []
        self.notes: list[dict[str, Any]] = []

    def add(
        self,
        kind: str,
        position: tuple[float, float] = (0, 0),
        size: tuple[float, float] = (270, 130),
        title: str = "",
        properties: Mapping[str, Any] | None = None,
        **inputs: Any,
    ) -> Node:
        """Add a node. `inputs` are links (Node.out) or widget values, by name."""
        node = Node(self.first + len(self.nodes), kind, inputs, title, position, size, dict(properties or {}))
        self.nodes.append(node)
        return node

    def group(self, title: str, bounding: tuple[float, float, float, float], colour: str) -> None:
        self.groups.append(
            {"id": len(self.groups) + 1, "title": title, "bounding": list(bounding), "color": colour, "font_size": 24}
        )

    def note(self, text: str, position: tuple[float, float], size: tuple[float, float]) -> None:
        self.notes.append({"text": text, "pos": list(position), "size": list(size)})

    def as_queued(self) -> dict[str, dict[str, Any]]:
        """{id: {"class_type", "inputs"}}, a link as [id, slot]."""

        def value(item: Any) -> Any:
            return [str(item.node), item.slot] if isinstance(item, Link) else item

        return {
            str(node.number): {
                "class_type": node.kind,
                "inputs": {name: value(item) for name, item in node.inputs.items()},
                "_meta": {"title": node.title or node.kind},
            }
            for node in self.nodes
        }

    def as_saved(self, object_info: Mapping[str, Any], version: str, models: list[dict[str, str]]) -> dict[str, Any]:
        """The frontend's format, 0.4. object_info: the host's description of its nodes; version: the pack's."""
        links: list[list[Any]] = []
        written = [self._saved_node(node, object_info[node.kind], links, version) for node in self.nodes]
        by_number = {node["id"]: node for node in written}
        for number, source, slot, *_ in links:
            output = by_number[source]["outputs"][slot]
            output["links"] = [*(output["links"] or []), number]
        for note in self.notes:
            written.append(
                {
                    "id": len(written) + 1,
                    "type": "MarkdownNote",
                    "pos": note["pos"],
                    "size": note["size"],
                    "flags": {},
                    "order": 0,
                    "mode": 0,
                    "inputs": [],
                    "outputs": [],
                    "properties": {},
                    "widgets_values": [note["text"]],
                    "color": "#432",
                    "bgcolor": "#653",
                }
            )
        return {
            "last_node_id": len(written),
            "last_link_id": len(links),
            "nodes": written,
            "links": links,
            "groups": self.groups,
            "config": {},
            "extra": {"ds": {"scale": 0.5, "offset": [0, 0]}},
            "models": models,
            "version": 0.4,
        }

    @staticmethod
    def _saved_node(node: Node, info: Mapping[str, Any], links: list[list[Any]], version: str) -> dict[str, Any]:
        sockets, widgets = [], []
        declared = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
        unknown = set(node.inputs) - set(declared)
        if unknown:
            raise ValueError(f"{node.kind} has no input {', '.join(sorted(unknown))}; it has {', '.join(declared)}.")
        for name, (kind, *rest) in declared.items():
            options = rest[0] if rest else {}
            value = node.inputs.get(name)
            if isinstance(kind, list) or kind in WIDGET_TYPES:
                widgets.append(node.inputs.get(name, options.get("default")))
                if options.get("control_after_generate"):
                    widgets.append("fixed")
                if options.get("image_upload") and kind != "STRING":  # the Painter's text has no button
                    widgets.append("image")
                continue
            socket: dict[str, Any] = {"name": name, "type": kind, "link": None}
            if isinstance(value, Link):
                links.append([len(links) + 1, value.node, value.slot, node.number, len(sockets), kind])
                socket["link"] = len(links)
            sockets.append(socket)
        ours = node.kind.startswith("ReEdit")
        origin = {"cnr_id": PACK, "ver": version} if ours else {"cnr_id": "comfy-core", "ver": "0.30.0"}
        saved = {
            "id": node.number,
            "type": node.kind,
            "pos": list(node.position),
            "size": list(node.size),
            "flags": {},
            "order": node.number - 1,
            "mode": node.mode,
            "inputs": sockets,
            "outputs": [
                {"name": name, "type": kind, "links": None, "slot_index": slot}
                for slot, (name, kind) in enumerate(zip(info["output_name"], info["output"], strict=True))
            ],
            "properties": {**origin, "Node name for S&R": node.kind, **node.properties},
            "widgets_values": widgets,
        }
        if node.title:
            saved["title"] = node.title
        if ours:
            saved["color"], saved["bgcolor"] = "#223", "#335"
        return saved
