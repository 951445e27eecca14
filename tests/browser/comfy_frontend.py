"""ComfyUI's own page in a real browser: what a person does with it, and what a person sees."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import (
    ConsoleMessage,
    Error,
    Page,
    Response,
    TimeoutError,
    ViewportSize,
    expect,
    sync_playwright,
)

Bounds = tuple[float, float, float, float]  # left, top, width and height, in the graph's units
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
PATIENCE = 120_000  # milliseconds that anything on the page may take: continuous integration shares its processors
GREETING = 20_000  # milliseconds within which the greeting to a new user appears
WINDOW: ViewportSize = {"width": 1920, "height": 1080}
# LiveServer starts the host with --disable-api-nodes, which forbids the page to talk to anybody else; it tries anyway.
FORBIDDEN = "Content Security Policy"
# Help pages are asked for in the user's language first, then without one.
HELP_IN_ENGLISH = "/en.md"
# The sandbox needs rights that containers lack; the rest keeps the browser from talking to anybody but the host.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")

# Notes the end of the next run before it is queued, since a short run may end before anybody asks.
_LISTEN = """() => {
  window.endOfRun = null
  for (const kind of ["execution_success", "execution_error", "execution_interrupted"])
    window.app.api.addEventListener(kind, (event) => { window.endOfRun ??= { kind, ...event.detail } }, { once: true })
}"""
_CHOOSE = """([id, name, value]) => {
  const node = window.app.graph.getNodeById(id)
  const widget = node.widgets.find((one) => one.name === name)
  const choices = widget.options.values
  if (!choices.includes(value))
    throw new Error(`${node.type} ${id}: "${value}" is not on offer for ${name}, only: ${choices.join(", ")}`)
  widget.setValue(value, { e: new PointerEvent("pointerup"), node, canvas: window.app.canvas })
  return widget.value
}"""
_SET_WIDGET = """([id, name, value]) => {
  window.app.graph.getNodeById(id).widgets.find((one) => one.name === name).value = value
}"""
_TITLE_OF = """(id) => {
  const [x, y] = window.app.graph.getNodeById(id).pos
  const { left, top } = window.app.canvas.canvas.getBoundingClientRect()
  const [across, down] = window.app.canvas.ds.convertOffsetToCanvas([x + 60, y - 15])
  return [left + across, top + down]
}"""
_SHOWN_PICTURES = """(id) => {
  const pictures = window.app.graph.getNodeById(id).imgs
  return pictures?.length && pictures.every((one) => one.complete) ? pictures : null
}"""
# Of pictures, once they have loaded or turned out not to be there.
_SIZES = """(pictures) => Promise.all(pictures.map(async (one) => {
  await one.decode().catch(() => {})
  return [one.naturalWidth, one.naturalHeight]
}))"""
_DROP = """([name, bytes]) => {
  const carried = new DataTransfer()
  carried.items.add(new File([new Uint8Array(bytes)], name))
  document.dispatchEvent(new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true }))
}"""
_NODES = """() => window.app.graph.nodes.map((node) => ({
  id: Number(node.id),
  type: node.type,
  title: node.title,
  description: node.constructor.nodeData?.description ?? "",
  registered: node.type in LiteGraph.registered_node_types,
  bounds: [...node.getBounding()],
  size: [...node.size],
  least_size: [...node.computeSize()],
  failed: Boolean(node.has_errors),
}))"""


class RunFailed(Exception):
    """The host refused the graph or a node raised; the message holds what the host said."""


def browser_program() -> str:
    """The Chromium to use: what REEDIT_BROWSER names, or else the first one on the path."""
    named = os.environ.get("REEDIT_BROWSER")
    found = named or next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is None or not shutil.which(found):
        raise FileNotFoundError(
            f"REEDIT_BROWSER={named} is not a program."
            if named
            else "There is no Chromium on the path. Install it (Debian, Ubuntu: apt install chromium), or name the "
            "executable of a Chromium, Chrome or Edge with REEDIT_BROWSER."
        )
    return found


def _queues_a_graph(answer: Response) -> bool:
    return answer.request.method == "POST" and answer.url.endswith("/prompt")


@contextmanager
def open_browser() -> Iterator[Page]:
    """An empty page of a headless browser with a fresh profile, in English."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_program(), args=ARGUMENTS, timeout=PATIENCE)
        try:
            context = browser.new_context(viewport=WINDOW, locale="en-US")
            context.grant_permissions(["clipboard-read", "clipboard-write"])  # to see what the page copies
            page = context.new_page()
            page.set_default_timeout(PATIENCE)
            expect.set_options(timeout=PATIENCE)
            yield page
        finally:
            browser.close()


class ComfyFrontend:
    """The page, and every error it reported: `errors` holds one text for each, with the address it came from."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        page.on("console", self._note_message)
        page.on("pageerror", self._note_exception)
        page.on("crash", lambda _: self.errors.append("The page crashed."))

    def _note_message(self, message: ConsoleMessage) -> None:
        address = message.location["url"]
        if message.type == "error" and FORBIDDEN not in message.text and not address.endswith(HELP_IN_ENGLISH):
            self.errors.append(f"{message.text} ({address})")

    def _note_exception(self, error: Error) -> None:
        self.errors.append(f"{error.message}\n{error.stack or ''}")

    # --- what a person does ------------------------------------------------------------------------------------------

    def open(self, url: str) -> None:
        self.page.goto(url, timeout=PATIENCE)
        self.page.wait_for_function("window.app?.extensionManager && window.app.graph")
        self._close_greeting()
        # It covers the lower right corner of every screenshot.
        self.page.get_by_test_id("close-minimap-button").click()

    def _close_greeting(self) -> None:
        """ComfyUI opens its template browser for a user it does not know."""
        dialog = self.page.get_by_role("dialog")
        try:
            dialog.first.wait_for(timeout=GREETING)
        except TimeoutError:
            return  # another version may greet nobody
        while dialog.count():
            self.page.get_by_role("button", name="Close dialog").last.click()
            self.page.wait_for_timeout(1000)

    def open_templates(self, pack: str) -> list[str]:
        """Open the template browser at a custom node's templates, and return their names."""
        self.page.get_by_test_id("side-toolbar").get_by_role("button", name="Templates").click()
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_role("button", name=pack, exact=True).click()
        # Its name stands on the button, and then above its cards too; in newer versions also on a button that leads back.
        expect(dialog.get_by_text(pack, exact=True)).not_to_have_count(1)
        prefix = "template-workflow-"
        cards = dialog.locator(f"[data-testid^={prefix}]")
        cards.first.wait_for()
        return [(card.get_attribute("data-testid") or "").removeprefix(prefix) for card in cards.all()]

    def load_template(self, name: str, nodes: int) -> None:
        """Click a template in the open template browser, and wait until that many nodes stand in the graph."""
        self.page.get_by_test_id(f"template-workflow-{name}").click()
        self.page.get_by_role("dialog").wait_for(state="hidden")
        self.page.wait_for_function("count => window.app.graph.nodes.length === count", arg=nodes)

    def drop(self, file: Path, nodes: int) -> None:
        """Drop a file on the page, and wait until that many nodes stand in the graph."""
        self.page.evaluate(_DROP, [file.name, list(file.read_bytes())])
        self.page.wait_for_function("count => window.app.graph.nodes.length === count", arg=nodes)

    def missing_models(self) -> dict[str, tuple[str, str]]:
        """Open the list of the graph's missing models, and leave it open: {name: (address that it copies, its folder)}."""
        self.page.get_by_test_id("error-overlay-see-errors").click()
        rows = self.page.get_by_test_id("missing-model-importable-rows").get_by_role("button", name="Copy URL")
        rows.first.wait_for()
        found = {}
        for button in rows.all():
            button.click()
            # The button, beside the name, above the folder.
            name, folder = button.locator("xpath=../..").inner_text().split()
            found[name] = (self.page.evaluate("navigator.clipboard.readText()"), folder)
        return found

    def address_of_download(self, name: str) -> str:
        """Press Download at a model of the open list. The address that the browser then asks for, which nobody answers."""
        with self.page.context.expect_event("request", lambda request: request.url.endswith(name)) as asked:
            self.page.get_by_role("button", name=f"Download {name}").click()
        return asked.value.url

    def read_errors(self) -> dict[str, str]:
        """Open the list of what the page finds wrong with the graph, return its text for each heading, and close it."""
        self.page.get_by_test_id("error-overlay-see-errors").click()
        panel = self.page.get_by_test_id("properties-panel")
        groups = panel.locator("section[data-testid^=error-group-]")
        groups.first.wait_for()
        found = {(group.get_attribute("data-testid") or ""): group.inner_text() for group in groups.all()}
        panel.get_by_role("button", name="Toggle properties panel").click()
        panel.wait_for(state="hidden")
        return {name.removeprefix("error-group-"): text for name, text in found.items()}

    def choose(self, node: int, widget: str, value: str) -> str:
        """Choose a value in a widget's list, as its menu does. Fails where the list lacks it."""
        return self.page.evaluate(_CHOOSE, [node, widget, value])

    def set_widget(self, node: int, name: str, value: Any) -> None:
        """Write a widget's value, of which the page tells nobody."""
        self.page.evaluate(_SET_WIDGET, [node, name, value])

    def select(self, node: int) -> None:
        """Click on a node's title; the node must be in view."""
        self.page.mouse.click(*self.page.evaluate(_TITLE_OF, node))

    def run(self, seconds: float) -> None:
        """Press Run and wait until the graph has run. RunFailed with the host's words where it does not succeed."""
        self.page.evaluate(_LISTEN)
        with self.page.expect_response(_queues_a_graph) as sent:
            self.page.get_by_test_id("queue-button").click()
        if sent.value.status != 200:
            raise RunFailed(sent.value.text())
        self.page.wait_for_function("window.endOfRun", timeout=seconds * 1000)
        end = self.page.evaluate("window.endOfRun")
        if end["kind"] != "execution_success":
            where = f"{end.get('node_type')} (node {end.get('node_id')})"
            raise RunFailed(f"{end['kind']} at {where}: {end.get('exception_message', '')}")

    # --- what a person sees ------------------------------------------------------------------------------------------

    def nodes(self) -> list[dict[str, Any]]:
        return self.page.evaluate(_NODES)

    def faults_of_layout(self) -> list[str]:
        """In words, which nodes are smaller than what they show, and which lie on one another."""
        nodes, faults = self.nodes(), []
        for number, node in enumerate(nodes):
            left, top, width, height = node["bounds"]
            if node["size"][0] < node["least_size"][0] or node["size"][1] < node["least_size"][1]:
                faults.append(f"{node['title']} is {node['size']} and needs {node['least_size']}")
            for other in nodes[number + 1 :]:
                x, y, across, down = other["bounds"]
                apart = left + width <= x or x + across <= left or top + height <= y or y + down <= top
                if not apart:
                    faults.append(f"{node['title']} and {other['title']} lie on one another")
        return faults

    def group_bounds(self, title: str) -> Bounds:
        return self.page.evaluate(
            "title => [...window.app.graph.groups.find((group) => group.title === title)._bounding]", title
        )

    def zoom_to(self, bounds: Bounds | None = None) -> None:
        """Show these bounds, or the whole graph."""
        if bounds is None:
            self.page.evaluate("window.app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        else:
            self.page.evaluate("bounds => window.app.canvas.ds.fitToBounds(bounds, { zoom: 0.9 })", bounds)
        self.page.evaluate("window.app.canvas.setDirty(true, true)")

    def pictures(self, node: int) -> list[list[int]]:
        """Width and height of each picture that a node shows; the node must be in view, else it does not load them."""
        shown = self.page.wait_for_function(_SHOWN_PICTURES, arg=node)
        return shown.evaluate("all => all.map((one) => [one.naturalWidth, one.naturalHeight])")

    def tooltip_of(self, node: int) -> str:
        """What appears when the pointer rests on a node's title; the node must be in view."""
        left, top = self.page.evaluate(_TITLE_OF, node)
        self.page.mouse.move(left + 4, top)
        self.page.mouse.move(left, top)
        tooltip = self.page.locator(".node-tooltip")
        tooltip.wait_for()
        return tooltip.inner_text()

    def help_of(self, node: int, address: str) -> tuple[str, list[list[int]]]:
        """A node's help page, which ComfyUI fetches from this address: its text and its pictures' [width, height], which
        are 0 for one that is not there; the node must be in view."""
        self.select(node)
        with self.page.expect_response(lambda answer: answer.url.endswith(address)) as fetched:
            self.page.get_by_test_id("info-button").click()
        panel = self.page.get_by_test_id("properties-panel")
        panel.get_by_role("heading", level=1).wait_for()
        text = panel.inner_text()
        pictures = panel.locator("img").evaluate_all(_SIZES)
        panel.get_by_role("button", name="Toggle properties panel").click()
        panel.wait_for(state="hidden")
        self.page.evaluate("window.app.canvas.deselectAll()")
        assert fetched.value.status == 200, address
        return text, pictures

    def screenshot(self, name: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.mouse.move(WINDOW["width"] / 2, 20)  # among the tabs, where it brings up no tooltip
        self.page.wait_for_timeout(2000)  # the canvas draws a moment after the page has settled
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", timeout=PATIENCE)
