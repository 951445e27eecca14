"""A fresh installation in the real page: each template opens whole, looks right, and runs once its models are chosen."""

from __future__ import annotations

from collections import Counter

import demo
import pytest
from installation import PACK, install
from reed_workflows import PICTURES
from saved_workflows import FOLDER
from templates import FIRST, choose_demo_models, saved

RUN_SECONDS = 600
# test_mixed_edit_chain is about that one.
NAMES = (*FIRST, *sorted({file.stem for file in FOLDER.glob("*.json")} - {*FIRST, "mixed_edit_chain"}))


@pytest.fixture(scope="module")
def base_directory(base_directory, tmp_path_factory):
    """An installation of its own, which has nothing but ComfyUI, what `git clone` puts there, and the demo's models."""
    return install(tmp_path_factory.mktemp("installation"), base_directory / "models")


@pytest.fixture(scope="module", autouse=True)
def pictures(server):
    """What a person who trains has put into the input folder."""
    demo.save_training_pictures(server.folder("input") / PICTURES)


@pytest.mark.parametrize("name", NAMES)
def test_a_template_opens_and_runs(frontend, name):
    known = saved(name)["nodes"]
    frontend.open_templates(PACK)
    frontend.load_template(name, len(known))
    nodes = frontend.nodes()
    assert Counter(node["type"] for node in nodes) == Counter(node["type"] for node in known)
    assert [node["type"] for node in nodes if not node["registered"]] == []
    assert frontend.faults_of_layout() == []
    choose_demo_models(frontend, known)
    frontend.run(RUN_SECONDS)
    frontend.zoom_to()
    frontend.screenshot(f"template_{name}")


def test_a_shared_workflow_tells_where_its_missing_models_are(frontend):
    """A file from somebody else, dropped on the page; the host's own dialog offers what the file says of its models."""
    wanted = saved("prompt_edit")
    frontend.drop(FOLDER / "prompt_edit.json", len(wanted["nodes"]))
    links = frontend.missing_models()
    # What it copies is the page of the file, where a person sees whose it is.
    page = {model["name"]: model["url"].replace("/resolve/", "/blob/") for model in wanted["models"]}
    assert links == {model["name"]: (page[model["name"]], model["directory"]) for model in wanted["models"]}
    frontend.screenshot("missing_models")
    for model in wanted["models"]:
        assert frontend.address_of_download(model["name"]) == model["url"]


def test_nothing_of_ours_raised_an_error_in_the_browser(frontend):
    assert [error for error in frontend.errors if "reedit" in error.lower()] == []
