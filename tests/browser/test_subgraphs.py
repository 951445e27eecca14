"""The blueprints in the real page: found, added, wired and run as one chain, as a person would do it."""

from __future__ import annotations

import json
import re

import pytest
from author_subgraphs import BLUEPRINTS
from chain_builder import DEMO_MODELS, PICTURE
from comfy_frontend import WINDOW
from edit_chain import SOURCE
from guidance_workflows import TARGET
from history_tab import HistoryTab, build_graph
from playwright.sync_api import expect
from tiny_sd.language import caption

RUN_SECONDS = 120
STEPS = 4  # it is the wiring that is looked at
SIDE = 64  # of the canvas that masks are drawn on
BOX = {"x": 0, "y": 44}  # the lower left corner, 20 pixels a side
PROMPT, REPAINT, INSTRUCTION = "ReEdit Prompt Edit", "ReEdit Masked Repaint", "ReEdit Instruction Edit"
# In the order in which the latent runs through them. What is not named here stays as the blueprint has it.
VALUES = {
    PROMPT: {"source": caption(SOURCE), "target": caption(TARGET), "label": "another colour", "steps": STEPS},
    REPAINT: {"prompt": caption(SOURCE), "label": "the corner", "seed": 6, "steps": STEPS},
    INSTRUCTION: {"instruction": "make the square green", "label": "a green square", "seed": 2, "steps": STEPS},
}
SOCKETS = ["model", "clip", "latent", "mask"]
WIDGETS = {
    PROMPT: ["source", "target", "label", "steps", "cfg", "low", "high", "inject"],
    REPAINT: ["prompt", "negative_prompt", "label", "seed", "cfg", "steps", "sampler_name", "scheduler", "denoise"],
    INSTRUCTION: ["instruction", "label", "text_scale", "image_scale", "steps", "seed"],
}
OUTPUTS = {PROMPT: ["latent", "mask", "report"], REPAINT: ["latent"], INSTRUCTION: ["latent"]}
MODELS = {PROMPT: "repaint", REPAINT: "repaint", INSTRUCTION: "instruct"}

# Everything of a graph with blueprints but the blueprints: models, picture, latent and mask.
AROUND = [
    *(
        {"name": kind, "type": "CheckpointLoaderSimple", "pos": [-800, 200 * row], "widgets": {"ckpt_name": name}}
        for row, (kind, name) in enumerate((kind, DEMO_MODELS[kind]) for kind in ("repaint", "instruct"))
    ),
    {"name": "vae", "type": "ReEditLoadREEDVAE", "pos": [-800, 400], "widgets": {"vae_name": DEMO_MODELS["vae"]}},
    {"name": "picture", "type": "LoadImage", "pos": [-800, 560], "widgets": {"image": PICTURE}},
    {"name": "latent", "type": "ReEditEncode", "pos": [-400, 560], "inputs": {"pixels": "picture", "vae": "vae"}},
    {
        "name": "canvas",
        "type": "SolidMask",
        "pos": [-400, 0],
        "widgets": {"value": 0, "width": SIDE, "height": SIDE},
    },
    {"name": "white", "type": "SolidMask", "pos": [-400, 180], "widgets": {"value": 1, "width": 20, "height": 20}},
    {
        "name": "mask",
        "type": "MaskComposite",
        "pos": [-400, 360],
        "widgets": {**BOX, "operation": "add"},
        "inputs": {"destination": "canvas", "source": "white"},
    },
    {"name": "drift", "type": "ReEditDriftMeter", "pos": [1500, 0], "inputs": {"vae": "vae"}},
]
_WIRE = """([from, output, to, input]) => {
  const [source, target] = [from, to].map((id) => window.app.graph.getNodeById(id))
  const slot = (slots, name) => slots.findIndex((one) => one.name === name)
  source.connect(typeof output === "number" ? output : slot(source.outputs, output), target, slot(target.inputs, input))
}"""
_FACE = """(id) => {
  const { inputs, outputs, widgets } = window.app.graph.getNodeById(id)
  return {
    sockets: inputs.filter((one) => !one.widget).map((one) => one.label ?? one.name),
    widgets: widgets.map((one) => one.label ?? one.name),
    outputs: outputs.map((one) => one.label ?? one.name),
  }
}"""


@pytest.fixture(scope="module")
def opening_errors(frontend):
    """What the page complained of before anybody did anything: files that a new user does not have."""
    return list(frontend.errors)


@pytest.fixture(scope="module")
def around(frontend, opening_errors):
    """The graph into which the blueprints are put. Returns the ids of its nodes by name."""
    return build_graph(frontend, AROUND)


@pytest.fixture(scope="module")
def added(frontend, around):
    """Each blueprint, searched for by its name and put on the canvas. Returns their ids by name."""
    page = frontend.page
    for column, name in enumerate(VALUES):
        frontend.zoom_to((column * 500, -450, 500, 900))
        page.wait_for_timeout(1000)  # the canvas follows a moment later
        middle = (WINDOW["width"] / 2, WINDOW["height"] / 2)
        page.mouse.move(middle[0], middle[1] - 50)  # from elsewhere, or the page sees no movement
        page.mouse.move(*middle)
        # What a double-click does, which the page now and then does not see soon after the click before it.
        page.evaluate("window.app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
        page.get_by_role("dialog").get_by_role("combobox").fill(name)
        page.get_by_role("option", name=name).first.wait_for()
        page.keyboard.press("Enter")
        page.get_by_role("dialog").wait_for(state="hidden")
        page.wait_for_function("window.app.canvas.state.ghostNodeId != null")  # it hangs on the pointer
        page.mouse.click(*middle)
        page.wait_for_function("window.app.canvas.state.ghostNodeId == null")  # until a click puts it down
    page.evaluate("window.app.canvas.deselectAll()")
    return {node["title"]: node["id"] for node in frontend.nodes() if node["title"] in VALUES}


@pytest.fixture(scope="module")
def ran(frontend, server, around, added):
    """What the drift meter at the end of the chain says of each edit."""

    def wire(*link):
        frontend.page.evaluate(_WIRE, list(link))

    before = around["latent"]
    for name, values in VALUES.items():
        loader, node = around[MODELS[name]], added[name]
        wire(loader, 0, node, "model")
        wire(loader, 1, node, "clip")
        wire(before, 0, node, "latent")
        for widget, value in values.items():
            frontend.set_widget(node, widget, value)
        before = node
    wire(around["mask"], 0, added[REPAINT], "mask")  # the other two can do without
    wire(before, 0, around["drift"], "samples")
    frontend.run(RUN_SECONDS)
    outputs = server.outputs_of(frontend.page.evaluate("window.endOfRun.prompt_id"))
    return json.loads(outputs[str(around["drift"])]["text"][0])


def test_the_node_library_lists_them_under_the_pack(frontend, around):
    page = frontend.page
    library = page.get_by_test_id("side-toolbar").get_by_role("button", name="Node Library")
    library.click()
    search = page.get_by_placeholder(re.compile(r"^Search( Nodes)?\.\.\.$"))  # newer pages say what they search
    search.fill("ReEdit")
    for blueprint in BLUEPRINTS:
        expect(page.get_by_text(blueprint.name, exact=True)).to_be_visible()
    frontend.screenshot("subgraphs_in_the_library")
    search.fill("")
    library.click()


@pytest.mark.parametrize("name", VALUES)
def test_the_outside_shows_what_a_person_needs(frontend, added, name):
    face = frontend.page.evaluate(_FACE, added[name])
    assert face == {"sockets": SOCKETS, "widgets": WIDGETS[name], "outputs": OUTPUTS[name]}


def test_nothing_is_too_small_or_covered(frontend, added):
    faults = frontend.faults_of_layout()
    assert [fault for fault in faults if any(name in fault for name in added)] == []


def test_they_run_as_one_chain_and_each_notes_its_edit(ran):
    assert [row["label"] for row in ran] == [values["label"] for values in VALUES.values()]
    assert [row["tool"] for row in ran] == ["SamplerCustomAdvanced", "KSampler", "SamplerCustomAdvanced"]
    assert all(row["changed_cells"] > 0 for row in ran)
    by_prompt, repainted, _ = ran
    for masked in (by_prompt, repainted):
        assert masked["changed_cells"] < 0.3 and masked["outside_mask_max_abs_latent_change"] == 0


def test_the_mask_that_was_found_is_shown_on_the_outside(frontend, ran, added):
    HistoryTab(frontend).setting("Comfy.VueNodes.Enabled", True)
    frontend.zoom_to((0, -50, 1500, 850))
    expect(frontend.page.locator(f"[data-node-id='{added[PROMPT]}'] img")).to_be_visible()
    frontend.screenshot("subgraphs")


def test_nothing_in_the_console(frontend, ran, opening_errors):
    assert [error for error in opening_errors if "blueprint" in error.lower()] == []
    assert frontend.errors[len(opening_errors) :] == []
