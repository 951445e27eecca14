"""Writes a chain of nodes as a subgraph blueprint: one node on the outside, which ComfyUI lists in its node library."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from workflow_writer import PACK, Link, Node, WorkflowWriter

INPUTS, OUTPUTS = -10, -20  # LiteGraph's numbers for the two ends of a subgraph
PICTURES = "$$canvas-image-preview"  # the frontend's name for the pictures that a node shows when it has run
END_WIDTH, SLOT_HEIGHT, ROOM = 160, 20, 80


@dataclass(frozen=True)
class Promoted:
    """A widget of an inner node that stands on the outside. value: what it begins with; None: as the node itself does."""

    slot: int
    value: Any = None


class InnerLink(NamedTuple):
    """The fields of a link in a subgraph, as the frontend names them."""

    id: int
    origin_id: int
    origin_slot: int
    target_id: int
    target_slot: int
    type: str


class BlueprintWriter(WorkflowWriter):
    """Collects the inner nodes and what the outside has: sockets, widgets and outputs; `as_blueprint` writes them.

    An input or output of the outside has the type of what it is wired to inside. size: of the node on the outside. first: the
    number of the first inner node, which is best one that no graph has yet: frontend 1.58 renumbers those that it has when
    it puts the node on the canvas, and then shows no more pictures on the outside.
    """

    def __init__(self, name: str, description: str, size: tuple[float, float], first: int) -> None:
        super().__init__(first)
        self.name, self.description, self.size = name, description, size
        self.inputs: dict[str, bool] = {}  # by name, whether it is a widget
        self.outputs: dict[str, Link] = {}
        self.pictures: list[Node] = []

    def socket(self, name: str) -> Link:
        """An input on the outside, to be given to inner nodes like any link."""
        self.inputs[name] = False
        return Link(INPUTS, len(self.inputs) - 1)

    def widget(self, name: str, value: Any = None) -> Promoted:
        """A widget on the outside, to be given to inner nodes in the place of a value."""
        self.inputs[name] = True
        return Promoted(len(self.inputs) - 1, value)

    def give(self, name: str, link: Link) -> None:
        """An output on the outside."""
        self.outputs[name] = link

    def show(self, node: Node) -> None:
        """Show the pictures of an inner node on the outside too."""
        self.pictures.append(node)

    def as_blueprint(self, object_info: Mapping[str, Any], version: str) -> dict[str, Any]:
        """The file's content. object_info: the host's description of its nodes; version: the pack's."""
        collected: list[list[Any]] = []
        nodes = [self._inner_node(node, object_info[node.kind], collected, version) for node in self.nodes]
        outputs_of = {node["id"]: node["outputs"] for node in nodes}
        for slot, (number, source_slot) in enumerate(self.outputs.values()):
            kind = outputs_of[number][source_slot]["type"]
            collected.append([len(collected) + 1, number, source_slot, OUTPUTS, slot, kind])
        links = [InnerLink(*link) for link in collected]
        for link in links:
            if link.origin_id != INPUTS:
                output = outputs_of[link.origin_id][link.origin_slot]
                output["links"] = [*(output["links"] or []), link.id]
        return {
            "revision": 0,
            "last_node_id": self.first + len(nodes),
            "last_link_id": 0,
            "nodes": [self._outer_node(links, version)],
            "links": [],
            "definitions": {"subgraphs": [self._definition(nodes, links)]},
            "extra": {},
            "version": 0.4,
        }

    def _inner_node(self, node: Node, info: Mapping[str, Any], links: list[list[Any]], version: str) -> dict[str, Any]:
        promoted = {name: value for name, value in node.inputs.items() if isinstance(value, Promoted)}
        first = {name: widget.value for name, widget in promoted.items() if widget.value is not None}
        given = {name: value for name, value in node.inputs.items() if name not in promoted}
        saved = self._saved_node(replace(node, inputs=given | first), info, links, version)
        # The page gives each widget an input too, behind the sockets, and links count their places.
        sockets = {socket["name"] for socket in saved["inputs"]}
        declared = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
        unknown = set(promoted) - (set(declared) - sockets)
        if unknown:
            raise ValueError(f"{node.kind} has no widget {', '.join(sorted(unknown))}.")
        for name, (kind, *_) in declared.items():
            if name in sockets:
                continue
            socket = {"name": name, "type": "COMBO" if isinstance(kind, list) else kind, "widget": {"name": name}}
            number = None
            if name in promoted:
                number = len(links) + 1
                target = [node.number, len(saved["inputs"])]
                links.append([number, INPUTS, promoted[name].slot, *target, socket["type"]])
            saved["inputs"].append({**socket, "link": number})
        return saved

    def _outer_node(self, links: list[InnerLink], version: str) -> dict[str, Any]:
        inputs = [
            {"name": name, "type": inside[0].type, **({"widget": {"name": name}} if is_widget else {}), "link": None}
            for (name, is_widget), inside in zip(self.inputs.items(), self._behind_inputs(links), strict=True)
        ]
        pictures = [
            {"name": PICTURES, "sourceNodeId": str(node.number), "sourcePreviewName": PICTURES}
            for node in self.pictures
        ]
        return {
            "id": self.first + len(self.nodes),
            "type": self._identifier(),
            "pos": [0, 0],
            "size": list(self.size),
            "flags": {},
            "order": 0,
            "mode": 0,
            "inputs": inputs,
            "outputs": [{"name": name, "type": link.type, "links": []} for name, link in self._given(links)],
            "properties": {"cnr_id": PACK, "ver": version, "previewExposures": pictures},
            "widgets_values": [],
            "title": self.name,
            "color": "#223",
            "bgcolor": "#335",
        }

    def _definition(self, nodes: list[dict[str, Any]], links: list[InnerLink]) -> dict[str, Any]:
        left = min(node.position[0] for node in self.nodes) - END_WIDTH - ROOM
        right = max(node.position[0] + node.size[0] for node in self.nodes) + ROOM
        inputs = [
            {
                "id": self._identifier("input", name),
                "name": name,
                "type": inside[0].type,
                "linkIds": [link.id for link in inside],
            }
            for name, inside in zip(self.inputs, self._behind_inputs(links), strict=True)
        ]
        outputs = [
            {"id": self._identifier("output", name), "name": name, "type": link.type, "linkIds": [link.id]}
            for name, link in self._given(links)
        ]
        return {
            "id": self._identifier(),
            "version": 1,
            "state": {
                "lastGroupId": 0,
                "lastNodeId": self.first + len(nodes) - 1,
                "lastLinkId": len(links),
                "lastRerouteId": 0,
            },
            "revision": 0,
            "config": {},
            "name": self.name,
            "inputNode": {"id": INPUTS, "bounding": [left, 0, END_WIDTH, SLOT_HEIGHT * (len(inputs) + 2)]},
            "outputNode": {"id": OUTPUTS, "bounding": [right, 0, END_WIDTH, SLOT_HEIGHT * (len(outputs) + 2)]},
            "inputs": inputs,
            "outputs": outputs,
            "widgets": [],
            "nodes": nodes,
            "groups": [],
            "links": [link._asdict() for link in links],
            "extra": {},
            "category": "ReEdit",
            "description": self.description,
        }

    def _behind_inputs(self, links: list[InnerLink]) -> list[list[InnerLink]]:
        """For each input of the outside, the links that leave it inside."""
        return [
            [link for link in links if (link.origin_id, link.origin_slot) == (INPUTS, slot)]
            for slot in range(len(self.inputs))
        ]

    def _given(self, links: list[InnerLink]) -> list[tuple[str, InnerLink]]:
        """Each output of the outside, and the link that feeds it."""
        return list(zip(self.outputs, (link for link in links if link.target_id == OUTPUTS), strict=True))

    def _identifier(self, *names: str) -> str:
        """The same each time the file is written, and another for each blueprint."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join((PACK, self.name, *names))))
