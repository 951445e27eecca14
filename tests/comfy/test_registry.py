"""What the Comfy registry gets: comfy-cli's own checks, and an archive that is the pack and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from installation import copy_checkout
from saved_workflows import comfy, comfy_warned

ROOT = Path(__file__).parents[2]
PASSED = "All validation checks passed"
# Asks the pack for its nodes, as the host does, with the host in a folder of its own.
LOADS = """
import asyncio, importlib, sys
sys.argv = ["main.py", "--cpu"]
sys.path[:0] = [{host!r}, {folder!r}]
import comfy.options
comfy.options.enable_args_parsing()
pack = importlib.import_module({name!r})
print(len(asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())))
"""


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    """The archive, unpacked."""
    folder = tmp_path_factory.mktemp("registry") / "checkout"
    copy_checkout(folder, leave_out="tests/tiny_sd/weights/")
    # It ends well whatever it finds, so its words count.
    assert PASSED in comfy_warned(["node", "validate"], folder.parent, folder)
    comfy(["node", "pack"], folder.parent, folder)
    unpacked = folder.parent / "reedit_from_the_registry"
    with zipfile.ZipFile(folder / "node.zip") as archive:
        archive.extractall(unpacked)
    return unpacked


def test_the_archive_holds_what_users_need_and_nothing_else(packed):
    tops = {path.name for path in packed.iterdir()}
    code = {"__init__.py", "nodes", "models", "web", "workflows", "subgraphs", "locales"}
    assert tops == code | {"LICENSE", "README.md", "pyproject.toml", "requirements.txt"}
    for name in code:
        tracked = {path.relative_to(ROOT) for path in sorted((ROOT / name).rglob("*")) if path.is_file()}
        there = {path.relative_to(packed) for path in sorted((packed / name).rglob("*")) if path.is_file()}
        made = {path for path in tracked if "__pycache__" in path.parts}
        assert there == tracked - made
    assert sum(path.stat().st_size for path in packed.rglob("*")) < 10e6


def test_the_pictures_of_the_readme_are_in_the_archive(packed):
    for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (packed / "README.md").read_text(encoding="utf-8")):
        assert (packed / name).is_file(), name


def test_the_archive_loads_by_itself(packed):
    from reedit.nodes import NODES

    script = LOADS.format(host=os.environ["COMFYUI_PATH"], folder=str(packed.parent), name=packed.name)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=packed.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == str(len(NODES))


def test_the_registrys_checks_would_refuse_code_made_of_text(tmp_path):
    shutil.copy2(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "bad.py").write_text("exec(input())\n", encoding="utf-8")
    said = comfy_warned(["node", "validate"], tmp_path / "home", tmp_path)
    assert PASSED not in said and "S102" in said
