"""A person opens our template in the real ComfyUI, in a real browser, chooses models and presses Run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import requests
from chain_builder import MODELS
from edit_chain import edits
from installation import PACK
from PIL import Image
from templates import choose_demo_models, saved
from tiny_sd.world import SIZE

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / "workflows" / "mixed_edit_chain.json"
SAVED = saved(WORKFLOW.stem)
RUN_SECONDS = 600


@pytest.fixture(scope="module")
def templates(frontend):
    """The names in our pack's corner of the template browser, which stays open."""
    names = frontend.open_templates(PACK)
    frontend.screenshot("template_browser")
    return names


@pytest.fixture(scope="module")
def loaded(frontend, templates):
    """The workflow, loaded by clicking it, and what the page then finds wrong with it."""
    frontend.load_template(WORKFLOW.stem, len(SAVED["nodes"]))
    complaints = frontend.read_errors()
    frontend.zoom_to()
    frontend.screenshot("workflow_loaded")
    return complaints


@pytest.fixture(scope="module")
def ran(frontend, loaded):
    """The workflow after a run with the demo's models."""
    choose_demo_models(frontend, SAVED["nodes"])
    frontend.run(RUN_SECONDS)
    frontend.zoom_to(frontend.group_bounds("what came of it"))


def node_titled(title: str) -> int:
    (number,) = (node["id"] for node in SAVED["nodes"] if title in (node.get("title"), node["type"]))
    return number


def test_the_template_browser_offers_our_workflows(templates):
    assert sorted(templates) == sorted(path.stem for path in WORKFLOW.parent.glob("*.json"))


def test_every_template_has_a_picture(server):
    """The browser asks for this address; without a picture there it shows a coloured square."""
    for workflow in WORKFLOW.parent.glob("*.json"):
        answer = requests.get(f"{server.url}/api/workflow_templates/{PACK}/{workflow.stem}.jpg", timeout=60)
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/jpeg"), workflow.name


def test_the_page_knows_every_node(frontend, loaded):
    nodes = frontend.nodes()
    assert Counter(node["type"] for node in nodes) == Counter(node["type"] for node in SAVED["nodes"])
    assert [node["type"] for node in nodes if not node["registered"]] == []
    assert [node["type"] for node in nodes if node["type"].startswith("ReEdit") and not node["description"]] == []


def test_the_page_names_the_missing_models_and_nothing_else(loaded):
    assert list(loaded) == ["missing-model"]
    named = [MODELS[kind]["name"] for kind in ("instruct", "repaint", "vae")]
    assert all(name in loaded["missing-model"] for name in named)
    assert loaded["missing-model"].count(".safetensors") == len(named)


def test_no_node_lies_on_another_or_is_too_small(frontend, loaded):
    assert frontend.faults_of_layout() == []


def test_help_pages_are_served(server):
    pages = sorted((ROOT / "web" / "docs").glob("*.md"))
    assert pages
    known = requests.get(f"{server.url}/object_info", timeout=60).json()
    assert [page.stem for page in pages if page.stem not in known] == []
    for page in pages:
        answer = requests.get(f"{server.url}/extensions/{PACK}/docs/{page.name}", timeout=60)
        assert answer.status_code == 200, page.name
        assert answer.content == page.read_bytes(), page.name


def test_the_help_page_opens_beside_the_graph(frontend, loaded):
    page = ROOT / "web" / "docs" / "ReEditEncode.md"
    encode = node_titled("ReEditEncode")
    (bounds,) = (node["bounds"] for node in frontend.nodes() if node["id"] == encode)
    frontend.zoom_to(bounds)
    text, pictures = frontend.help_of(encode, f"/extensions/{PACK}/docs/{page.name}")
    assert page.read_text(encoding="utf-8").splitlines()[0].strip("# ") in text
    with Image.open(page.parent / "pictures" / f"{page.stem}.jpg") as picture:
        assert pictures == [list(picture.size)]


def test_the_workflow_runs_and_shows_its_pictures(frontend, ran):
    assert frontend.pictures(node_titled("the picture now")) == [[SIZE, SIZE]]
    assert frontend.pictures(node_titled("every step")) == [[SIZE, SIZE]] * (len(edits()) + 1)
    ((width, height),) = frontend.pictures(node_titled("ReEditTimeline"))
    assert width > SIZE and height > SIZE
    assert len(frontend.pictures(node_titled("ReEditDriftMeter"))) == 1
    assert [node["type"] for node in frontend.nodes() if node["failed"]] == []
    frontend.screenshot("workflow_run")


def test_resting_on_a_node_tells_what_it_does(frontend, ran):
    timeline = node_titled("ReEditTimeline")
    (description,) = (node["description"] for node in frontend.nodes() if node["id"] == timeline)
    assert frontend.tooltip_of(timeline) == description


def test_nothing_of_ours_raised_an_error_in_the_browser(frontend, ran):
    assert [error for error in frontend.errors if "reedit" in error.lower()] == []
