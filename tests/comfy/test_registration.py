"""The pack in a running host: what it registers, and how. The host only logs a pack that fails to load."""

from __future__ import annotations

import inspect
import json
import os
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
from reedit.nodes import NODES

ROOT = Path(__file__).parents[2]
SNAPSHOT = Path(__file__).with_name("schema_snapshot.json")


@pytest.fixture(scope="module")
def object_info(server):
    return server.get("/object_info")


def test_every_node_is_there_and_the_pack_loaded_without_a_word(server, object_info):
    wanted = {node.define_schema().node_id for node in NODES}
    assert wanted <= object_info.keys()
    assert {name for name in object_info if name.startswith("ReEdit")} == wanted
    assert "IMPORT FAILED" not in server.log
    lines = [line for line in server.log.splitlines() if "ReEdit" in line and ("rror" in line or "raceback" in line)]
    assert lines == []


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_inputs_are_the_arguments_of_execute(node):
    schema = node.define_schema()
    assert schema.node_id == node.__name__
    parameters = list(inspect.signature(node.execute).parameters.values())
    names = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}
    optional = {parameter.name for parameter in parameters if parameter.default is not inspect.Parameter.empty}
    if len(names) < len(parameters):  # what it takes besides is the fields of its settings
        names |= {field.name for field in fields(node.settings)}
        optional |= {field.name for field in fields(node.settings) if field.default is not MISSING}
    assert sorted(item.id for item in schema.inputs) == sorted(names)
    assert {item.id for item in schema.inputs if item.optional} <= optional


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_every_node_explains_itself(node):
    schema = node.define_schema()
    assert schema.category.startswith("ReEdit/") and schema.description and schema.display_name
    for item in schema.inputs:
        assert item.tooltip, f"{schema.node_id}.{item.id} has no tooltip"
    assert (ROOT / "web" / "docs" / f"{schema.node_id}.md").is_file()


def described(node: dict) -> dict:
    """What a saved workflow depends on: inputs in order with their types and defaults, and outputs."""
    inputs = []
    for group in ("required", "optional"):
        for name, (kind, *rest) in node["input"].get(group, {}).items():
            options = rest[0] if rest else {}
            # The files in a folder differ from machine to machine.
            choices = (
                options.get("options") if name not in ("vae_name", "decoder_name", "model_name", "session") else None
            )
            inputs.append([group, name, kind, options.get("default"), choices])
    return {"inputs": inputs, "outputs": list(map(list, zip(node["output"], node["output_name"], strict=True)))}


def test_the_schemas_are_those_that_were_recorded(object_info):
    """Saved workflows store widget values by position: append, never insert, then record anew with REEDIT_RECORD=1."""
    now = {name: described(info) for name, info in sorted(object_info.items()) if name.startswith("ReEdit")}
    if os.environ.get("REEDIT_RECORD"):
        SNAPSHOT.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
    assert json.loads(SNAPSHOT.read_text(encoding="utf-8")) == now


def test_it_loads_under_another_folder_name(tmp_path):
    """As when the folder is cloned under a name of the user's own: the name is no Python name, and relative imports hold."""
    import asyncio
    import sys

    import nodes as host_nodes

    link = tmp_path / "my edit-nodes 2"
    link.symlink_to(ROOT, target_is_directory=True)
    before = dict(host_nodes.NODE_CLASS_MAPPINGS)
    assert asyncio.run(host_nodes.load_custom_node(str(link), module_parent="custom_nodes"))
    loaded = {name for name in host_nodes.NODE_CLASS_MAPPINGS if name.startswith("ReEdit")}
    assert loaded == {node.__name__ for node in NODES}
    assert sys.modules["nodes"] is host_nodes
    host_nodes.NODE_CLASS_MAPPINGS.clear()
    host_nodes.NODE_CLASS_MAPPINGS.update(before)
