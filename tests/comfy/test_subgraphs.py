"""The shipped blueprints: up to date with the nodes, and served by the real host."""

from __future__ import annotations

import json

import pytest
from author_subgraphs import BLUEPRINTS, FOLDER, file_of
from author_workflows import as_text, pack_version


@pytest.mark.parametrize("blueprint", BLUEPRINTS, ids=lambda blueprint: blueprint.name)
def test_the_file_is_what_author_subgraphs_writes(server, blueprint):
    written = as_text(blueprint.as_blueprint(server.get("/object_info"), pack_version()))
    assert file_of(blueprint).read_text(encoding="utf-8") == written


@pytest.mark.parametrize("blueprint", BLUEPRINTS, ids=lambda blueprint: blueprint.name)
def test_a_missing_node_can_be_looked_up(server, blueprint):
    """All of them are there, and each says which pack it comes from."""
    (definition,) = json.loads(file_of(blueprint).read_text(encoding="utf-8"))["definitions"]["subgraphs"]
    known = server.get("/object_info")
    for node in definition["nodes"]:
        assert node["type"] in known
        assert node["properties"]["cnr_id"] and node["properties"]["ver"]


def test_the_host_serves_them_as_ours(server):
    ours = {
        number: entry["name"]
        for number, entry in server.get("/global_subgraphs").items()
        if entry["info"]["node_pack"] == "custom_nodes.ComfyUI-ReEdit"
    }
    assert sorted(ours.values()) == sorted(blueprint.name for blueprint in BLUEPRINTS)
    assert {file.name for file in FOLDER.iterdir()} == {file_of(blueprint).name for blueprint in BLUEPRINTS}
    for number, name in ours.items():
        assert json.loads(server.get(f"/global_subgraphs/{number}")["data"])["nodes"][0]["title"] == name
