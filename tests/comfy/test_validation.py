"""Templates and blueprints as comfy-cli sees them without a running host, by what a host told of its nodes once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from chain_builder import MODELS, PICTURE
from saved_workflows import FOLDER, LOADERS, comfy
from session_workflows import SESSION

RECORD = Path(__file__).with_name("object_info.json")
TEMPLATES = sorted(FOLDER.glob("*.json"))
TOLD = ("input", "input_order", "output", "output_name", "output_is_list", "output_node", "name")
# What a machine has on which the templates run: the files that differ from machine to machine.
FILES = {
    **{f"{kind}.{widget}": sorted(model["name"] for model in MODELS.values()) for kind, widget in LOADERS.items()},
    "LoadImage.image": [PICTURE],
    "ReEditLoadSession.session": [f"{SESSION}.reedit.safetensors [output]"],
}


def nodes_in(file: Path) -> list[dict[str, Any]]:
    return json.loads(file.read_text(encoding="utf-8"))["nodes"]


def with_files(kind: str, told: dict[str, Any]) -> dict[str, Any]:
    """What the host tells of a node, with the files that the templates name in the place of those on this machine."""
    kept = {name: told[name] for name in TOLD}
    for inputs in kept["input"].values():
        for name, spec in inputs.items():
            files = FILES.get(f"{kind}.{name}")
            if files and spec[0] == "COMBO":
                spec[1]["options"] = files
            elif files:
                spec[0] = files
    return kept


@pytest.fixture(scope="module")
def object_info(server) -> dict[str, Any]:
    told = server.get("/object_info")
    used = {node["type"] for file in TEMPLATES for node in nodes_in(file)} & told.keys()
    return {kind: with_files(kind, told[kind]) for kind in sorted(used)}


def test_the_record_is_what_the_host_tells(object_info):
    """Where it is not, on purpose: record anew with REEDIT_RECORD=1."""
    if os.environ.get("REEDIT_RECORD"):
        RECORD.write_text(json.dumps(object_info, indent=1) + "\n", encoding="utf-8")
    assert json.loads(RECORD.read_text(encoding="utf-8")) == object_info


def validated(workflow: Path, scratch: Path) -> dict[str, Any]:
    command = ["--json", "workflow", "validate", "--workflow", workflow, "--input", RECORD]
    (last, *_) = comfy(command, scratch).splitlines()[::-1]
    return json.loads(last)["data"]


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.stem)
def test_a_template_is_valid(file, tmp_path):
    found = validated(file, tmp_path)
    assert found["valid"] and (found["errors"], found["warnings"]) == ([], [])


def test_a_template_that_is_broken_would_be_found(tmp_path):
    workflow = json.loads((FOLDER / "rpiae.json").read_text(encoding="utf-8"))
    (encode,) = [node for node in workflow["nodes"] if node["type"] == "ReEditEncode"]
    encode["widgets_values"][0] = "squeeze"
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(workflow), encoding="utf-8")
    with pytest.raises(RuntimeError, match="squeeze"):
        validated(broken, tmp_path)
