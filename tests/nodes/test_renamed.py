"""Renamed nodes: what a workflow that was saved under an old name becomes, by the host's own manager."""

import asyncio
from types import SimpleNamespace

import nodes as host_nodes
import pytest
from app.node_replace_manager import NodeReplaceManager
from comfy_api.v0_0_2 import io
from reedit.nodes import NODES
from reedit.nodes.autoencoders import ReEditDecode
from reedit.nodes.renamed import RENAMED, register_renamed
from server import PromptServer

OLD = io.NodeReplace(
    new_node_id="ReEditDecode",
    old_node_id="ReEditLook",
    old_widget_ids=["tile"],
    input_mapping=[
        {"new_id": "samples", "old_id": "latent"},
        {"new_id": "vae", "old_id": "vae"},
        {"new_id": "tile_size", "old_id": "tile"},
    ],
    output_mapping=[{"new_idx": 0, "old_idx": 1}, {"new_idx": 1, "old_idx": 0}],
)


@pytest.fixture
def manager(monkeypatch):
    manager = NodeReplaceManager()
    monkeypatch.setattr(PromptServer, "instance", SimpleNamespace(node_replace_manager=manager), raising=False)
    monkeypatch.setitem(host_nodes.NODE_CLASS_MAPPINGS, "ReEditDecode", ReEditDecode)
    return manager


def test_a_saved_graph_runs_with_the_new_name(manager):
    asyncio.run(register_renamed([OLD]))
    prompt = {
        "1": {"class_type": "ReEditLook", "inputs": {"latent": ["9", 0], "vae": ["8", 0], "tile": 64}, "_meta": {}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 1]}, "_meta": {}},
    }
    manager.apply_replacements(prompt)
    assert prompt["1"]["class_type"] == "ReEditDecode"
    assert prompt["1"]["inputs"] == {"samples": ["9", 0], "vae": ["8", 0], "tile_size": 64}
    assert prompt["2"]["inputs"]["images"] == ["1", 0]


def test_every_entry_leads_to_a_node_and_from_none():
    here = {node.define_schema().node_id: node.define_schema() for node in NODES}
    for one in RENAMED:
        assert one.new_node_id in here and one.old_node_id not in here
        inputs = {entry.id for entry in here[one.new_node_id].inputs}
        assert {entry["new_id"] for entry in one.input_mapping or ()} <= inputs
