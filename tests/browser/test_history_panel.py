"""Template, run, panel, checkout, run again: the history panel in the real page."""

from __future__ import annotations

import shutil

import pytest
import torch
from chain_builder import DEMO_MODELS
from history_tab import HistoryTab, build_graph
from installation import PACK
from playwright.sync_api import expect
from reedit.models.session.record import EditRecord, with_record
from reedit.models.session.storage import SUFFIX, save_session
from session_workflows import CROSS, PURPLE, YELLOW
from templates import load_with_demo_models

RUN_SECONDS = 300
MANY = 200
BRANCHES = ["source", f"1. {PURPLE.label}", f"2. {CROSS.label}", f"3. {YELLOW.label}"]
LEAST_CONTRAST = 4.5
# Notes the size of every picture that arrives while a graph runs, with the node that it is for.
LISTEN = """() => {
  window.shownLive = []
  window.app.api.addEventListener("b_preview_with_metadata", ({ detail: { blob, displayNodeId } }) => {
    window.shownLive.push(createImageBitmap(blob).then(({ width, height }) => [displayNodeId, [width, height]]))
  })
}"""

# Opens another workflow with the same nodes.
OTHER_WORKFLOW = "() => window.app.loadGraphData({ ...window.app.rootGraph.serialize(), id: crypto.randomUUID() })"


@pytest.fixture(scope="module", autouse=True)
def long_session(server):
    """A session of 200 edits in the output folder, before the page reads the list of files. Returns its name there."""
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(1, 4, 16, 16, generator=generator)
    record = EditRecord(samples)
    for number in range(1, MANY + 1):
        samples = samples.clone()
        top, left = torch.randint(0, 12, (2,), generator=generator).tolist()
        samples[..., top : top + 4, left : left + 4] += 0.3
        record = record.with_edit(samples, f"edit {number}", "KSampler")
        if number % 40 == 0:
            record = record.at(number - 10)
            samples = record.samples_at(record.current)
    save_session(server.folder("output") / f"long{SUFFIX}", with_record({}, record), {})
    return f"long{SUFFIX} [output]"


@pytest.fixture(scope="module")
def messages(frontend):
    """Every message in the browser's console, of any kind, that our script wrote or that names it, and what it threw."""
    found = []

    def note(text):
        if f"/extensions/{PACK}/" in text:
            found.append(text)

    frontend.page.on("console", lambda message: note(f"{message.type}: {message.text} ({message.location['url']})"))
    frontend.page.on("pageerror", lambda error: note(f"{error.message}\n{error.stack}"))
    return found


@pytest.fixture(scope="module")
def tab(frontend, messages):
    return HistoryTab(frontend)


@pytest.fixture(scope="module")
def branches(frontend, tab):
    """The template with two branches, run, and the panel opened. Returns the id of its Checkout node."""
    nodes = load_with_demo_models(frontend, "undo_and_branch")
    tab.toggle()
    expect(tab.empty).to_be_visible()
    frontend.run(RUN_SECONDS)
    expect(tab.rows).to_have_count(len(BRANCHES))
    return next(node["id"] for node in nodes if node["type"] == "ReEditCheckout")


def test_the_panel_shows_every_step_and_its_picture(tab, branches):
    assert tab.labels() == BRANCHES and tab.current() == 3
    loaded = "() => [...document.querySelectorAll('.reedit-step img')].filter((one) => one.naturalWidth).length === 4"
    tab.page.wait_for_function(loaded)
    assert tab.compared() == [BRANCHES[1], BRANCHES[3]]  # the step before is not the one above


def test_pointing_at_a_step_compares_it_and_the_slider_follows_the_pointer(tab, branches):
    tab.row(1).hover()
    assert tab.compared() == BRANCHES[:2]
    tab.panel.get_by_role("button", name="the source").click()
    tab.row(2).hover()
    assert tab.compared() == [BRANCHES[0], BRANCHES[2]]
    tab.panel.get_by_role("button", name="the step before").click()
    frame = tab.panel.locator(".reedit-frame").bounding_box()
    tab.page.mouse.move(frame["x"] + frame["width"] / 4, frame["y"] + 20)
    assert abs(float(tab.cut().removesuffix("%")) - 25) <= 1


def test_the_keyboard_reaches_everything(tab, branches):
    tab.slider.focus()
    before = float(tab.cut().removesuffix("%"))
    tab.page.keyboard.press("ArrowRight")
    assert float(tab.cut().removesuffix("%")) == before + 1
    for _ in range(3):  # the two buttons, then the list
        tab.page.keyboard.press("Tab")
    assert tab.focused() == str(tab.current())
    for key, number in (("ArrowUp", 2), ("ArrowUp", 1), ("Home", 0), ("ArrowUp", 0), ("End", 3), ("ArrowDown", 3)):
        tab.page.keyboard.press(key)
        assert tab.focused() == str(number)
    tab.page.keyboard.press("Home")
    outline = "() => getComputedStyle(document.activeElement).outlineStyle"
    assert tab.page.evaluate(outline) == "solid"
    tab.page.keyboard.press("Enter")
    assert tab.widget(branches) == "source"
    assert "is set to “source”" in tab.status() and "Run the graph" in tab.status()


def test_a_click_checks_out_and_the_next_run_goes_there(frontend, tab, branches):
    tab.row(2).click()
    assert tab.widget(branches) == "2"
    expect(tab.row(2)).to_have_class("reedit-step reedit-beside reedit-next")
    frontend.run(RUN_SECONDS)
    expect(tab.rows).to_have_count(len(BRANCHES))
    tab.page.wait_for_function("title => document.querySelector('.reedit-left').textContent === title", arg=BRANCHES[2])
    expect(tab.list.locator(".reedit-next")).to_have_count(0)  # it went there
    assert tab.current() == 3 and tab.compared() == [BRANCHES[2], BRANCHES[3]]  # the same edit, now on the other branch
    frontend.screenshot("history_panel")


def test_what_is_typed_into_the_node_is_marked_too(frontend, tab, branches):
    frontend.set_widget(branches, "edit", "1")
    expect(tab.row(1)).to_have_class("reedit-step reedit-next")
    frontend.set_widget(branches, "edit", "2")  # where it is
    expect(tab.list.locator(".reedit-next")).to_have_count(0)


@pytest.mark.parametrize("nodes_2", [True, False], ids=["Nodes 2.0", "classic canvas"])
def test_the_selected_node_decides_what_is_shown(frontend, tab, branches, nodes_2):
    tab.setting("Comfy.VueNodes.Enabled", nodes_2)
    bounds = {node["id"]: node["bounds"] for node in frontend.nodes()}
    (first, *_) = [node["id"] for node in frontend.nodes() if node["type"] == "ReEditCommit"]
    for node, steps, title in ((first, 2, "ReEdit Commit"), (branches, 3, "one edit back")):
        frontend.zoom_to(bounds[node])
        tab.page.wait_for_timeout(500)  # the nodes follow the canvas a moment later
        frontend.select(node)
        expect(tab.rows).to_have_count(steps)
        assert tab.title().endswith(title)
    tab.row(1).click()
    assert tab.widget(branches) == "1"
    if nodes_2:  # what the page shows is not the widget itself
        expect(tab.page.locator(f"[data-node-id='{branches}'] input").first).to_have_value("1")


@pytest.mark.parametrize("palette", ["light", "dark"])
def test_every_text_can_be_read(frontend, tab, branches, palette):
    tab.setting("Comfy.ColorPalette", palette)
    texts = (".reedit-title", ".reedit-from", ".reedit-label", ".reedit-notes", ".reedit-against span", ".reedit-badge")
    faint = {text: tab.contrast(text) for text in texts}
    assert {text: value for text, value in faint.items() if value < LEAST_CONTRAST} == {}


def test_the_panel_and_its_tab_follow_the_language_of_the_page(tab, branches):
    tab.speak("ru", "Шаблоны")
    expect(tab.panel.locator(".reedit-title")).to_have_text("История правок")
    expect(tab.sidebar.get_by_role("button", name="История правок: шаги сеанса")).to_have_text("История правок")
    expect(tab.rows).to_have_count(len(BRANCHES))
    assert tab.labels() == ["исходное", *BRANCHES[1:]]  # labels are the user's own words
    assert tab.title().startswith("3 правки · ")
    tab.row(0).click()
    assert tab.widget(branches) == "source"  # as the node takes it
    tab.speak("pt-BR", "Aplicativos")  # which we do not have
    expect(tab.panel.locator(".reedit-title")).to_have_text("Edit History")
    tab.speak("en", "Templates")
    expect(tab.button).to_have_text("Edit History")


def test_the_steps_are_there_when_the_page_was_loaded_anew(frontend, tab, branches):
    nodes = len(frontend.nodes())
    frontend.page.reload()
    frontend.page.wait_for_function("count => window.app?.graph?.nodes.length === count", arg=nodes)
    tab.toggle()
    expect(tab.rows).to_have_count(len(BRANCHES))
    assert tab.labels() == BRANCHES and tab.current() == 3
    tab.page.wait_for_function("() => document.querySelector('.reedit-after').naturalWidth")  # the host has it still
    frontend.page.evaluate(OTHER_WORKFLOW)
    expect(tab.empty).to_be_visible()


@pytest.fixture(scope="module")
def long(frontend, tab, branches, long_session):
    """The long session, decoded with the panel closed, so that none of its thumbnails has been asked for."""
    tab.toggle()
    tab.panel.wait_for(state="hidden")
    vae = {"vae_name": DEMO_MODELS["vae"]}
    graph = [
        {"name": "session", "type": "ReEditLoadSession", "pos": [100, 100], "widgets": {"session": long_session}},
        {"name": "vae", "type": "ReEditLoadREEDVAE", "pos": [100, 400], "widgets": vae},
        {"name": "decode", "type": "ReEditDecode", "pos": [700, 100], "inputs": {"samples": "session", "vae": "vae"}},
        {"name": "preview", "type": "PreviewImage", "pos": [1100, 100], "inputs": {"images": "decode"}},
    ]
    ids = build_graph(frontend, graph)
    frontend.run(RUN_SECONDS)
    return ids


def test_a_long_session_loads_only_the_thumbnails_in_view(tab, long):
    asked = []
    tab.page.on("request", lambda request: asked.append(request.url) if "subfolder=reedit" in request.url else None)
    tab.toggle()
    expect(tab.rows).to_have_count(MANY + 1)
    expect(tab.row(tab.current())).to_be_in_viewport()
    tab.page.wait_for_timeout(1000)
    assert 5 < len(asked) < MANY / 2
    tab.row(tab.current()).focus()
    tab.page.keyboard.press("Home")
    expect(tab.row(0)).to_be_in_viewport()


def test_a_thumbnail_that_is_gone_leaves_the_rest(frontend, tab, long, server):
    tab.toggle()
    tab.panel.wait_for(state="hidden")
    shutil.rmtree(server.scratch / "temp" / "reedit")
    tab.toggle()
    row = tab.row(MANY // 2)  # none of its like was in view before
    row.scroll_into_view_if_needed()
    expect(row.locator("img")).to_have_class("reedit-gone")
    row.hover()
    before = row.bounding_box()
    expect(tab.panel.locator(".reedit-missing")).to_contain_text("The picture is gone")
    assert row.bounding_box() == before  # nothing moves under the pointer


def test_where_no_checkout_is_the_panel_adds_one(tab, long):
    tab.row(MANY // 2).click()
    expect(tab.panel.get_by_role("status")).to_contain_text("No ReEdit Checkout")
    tab.panel.get_by_role("button", name="Add ReEdit Checkout").click()
    added = "() => window.app.graph.nodes.find((node) => node.type === 'ReEditCheckout')"
    assert tab.page.evaluate(f"({added})().widgets[0].value") == str(MANY // 2)
    link = tab.page.evaluate(
        f"(({{ origin_id, origin_slot }}) => [Number(origin_id), origin_slot])(({added})().getInputLink(0))"
    )
    assert link == [long["decode"], 1]  # the latent that ReEdit Decode passes on


def test_a_checkout_that_a_link_sets_is_left_alone(tab, long):
    wire = """() => {
      const checkout = window.app.graph.nodes.find((node) => node.type === "ReEditCheckout")
      const words = window.LiteGraph.createNode("PrimitiveString")
      window.app.graph.add(words)
      words.connect(0, checkout, checkout.inputs.findIndex((input) => input.widget?.name === "edit"))
      return [Number(words.id), Number(checkout.id)]
    }"""
    words, checkout = tab.page.evaluate(wire)
    before = tab.widget(checkout)
    tab.row(2).click()
    expect(tab.panel.get_by_role("status")).to_contain_text("No ReEdit Checkout")
    assert tab.widget(checkout) == before
    tab.page.evaluate("id => window.app.graph.remove(window.app.graph.getNodeById(id))", words)
    tab.row(2).click()
    assert tab.widget(checkout) == "2"


def test_a_session_is_followed_in_and_out_of_subgraphs(frontend, tab, long):
    """The session is made within one, and the Checkout that the panel added stands outside."""
    into = """(ids) => {
      const { graph } = window.app
      const { node, subgraph } = graph.convertToSubgraph(new Set(ids.map((id) => graph.getNodeById(id))))
      window.inner = subgraph
      window.app.canvas.select(node)
    }"""
    frontend.set_widget(long["decode"], "tile_size", 64)  # else nothing runs, and nothing tells
    frontend.page.evaluate(into, [long[name] for name in ("session", "vae", "decode")])
    expect(tab.empty).to_be_visible()  # nothing has told of it yet
    frontend.run(RUN_SECONDS)
    expect(tab.rows).to_have_count(MANY + 1)
    value = "() => window.app.rootGraph.nodes.find((node) => node.type === 'ReEditCheckout').widgets[0].value"
    tab.row(3).click()
    assert tab.page.evaluate(value) == "3"
    frontend.page.evaluate("window.app.canvas.setGraph(window.inner)")
    expect(tab.rows).to_have_count(MANY + 1)
    tab.row(4).click()
    assert tab.page.evaluate(value) == "4"
    remove = """() => {
      const { rootGraph } = window.app
      rootGraph.remove(rootGraph.nodes.find((node) => node.type === "ReEditCheckout"))
    }"""
    tab.page.evaluate(remove)
    tab.row(5).click()
    tab.panel.get_by_role("button", name="Add ReEdit Checkout").click()
    inside = (
        "() => window.inner.nodes.filter((node) => node.type === 'ReEditCheckout').map((node) => node.widgets[0].value)"
    )
    assert tab.page.evaluate(inside) == ["5"]  # beside the node whose session it is
    frontend.page.evaluate("window.app.canvas.setGraph(window.app.rootGraph)")


def test_a_graph_without_a_session_says_what_to_do(tab, long, frontend):
    build_graph(frontend, [{"name": "latent", "type": "EmptyLatentImage", "pos": [100, 100]}])
    frontend.page.evaluate("window.app.canvas.selectItems(window.app.graph.nodes)")
    expect(tab.empty).to_be_visible()
    expect(tab.list).to_be_hidden()


def test_nodes_show_their_residual_and_their_mask_while_they_run(frontend, tab):
    """Each on its own node, although the mask is found while the sampler runs."""
    nodes = load_with_demo_models(frontend, "prompt_edit")
    for node in nodes:
        if node["type"] == "ReEditInvert":
            frontend.set_widget(node["id"], "steps", 4)  # enough to look at
    frontend.page.evaluate(LISTEN)
    frontend.run(RUN_SECONDS)
    shown = frontend.page.evaluate("async () => Object.fromEntries(await Promise.all(window.shownLive))")
    sizes = {node["type"]: shown.get(str(node["id"])) for node in nodes}
    assert sizes["ReEditInvert"] == [480, 280]
    assert sizes["ReEditBlendedGuider"] == [256, 256]


def test_nothing_in_the_console_comes_from_our_script(tab, branches, messages):
    assert messages == []
