"""The history panel in the page: what a person does with it, and what a person sees of it."""

from __future__ import annotations

from typing import Any

from comfy_frontend import ComfyFrontend
from playwright.sync_api import Locator, expect

_BUILD = """(nodes) => {
  window.app.clean()
  window.app.graph.clear()
  const made = {}
  for (const { name, type, pos, widgets, inputs } of nodes) {
    const node = window.LiteGraph.createNode(type)
    node.pos = pos
    window.app.graph.add(node)
    for (const [widget, value] of Object.entries(widgets ?? {}))
      node.widgets.find((one) => one.name === widget).value = value
    for (const [input, from] of Object.entries(inputs ?? {}))
      made[from].connect(0, node, node.inputs.findIndex((one) => one.name === input))
    made[name] = node
  }
  return Object.fromEntries(Object.entries(made).map(([name, node]) => [name, Number(node.id)]))
}"""
_MARK_NODES = "() => window.app.graph.nodes.forEach((node) => { node.isOld = true })"
_NODES_ARE_NEW = "() => window.app.graph.nodes.length && window.app.graph.nodes.every((node) => !node.isOld)"
# How far a text stands out from what lies behind it, as WCAG counts it: 4.5 is enough to read.
_CONTRAST = """(element) => {
  const pixel = (colour) => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true })
    canvas.fillStyle = colour
    canvas.fillRect(0, 0, 1, 1)
    return [...canvas.getImageData(0, 0, 1, 1).data]
  }
  const light = ([red, green, blue]) => {
    const [r, g, b] = [red, green, blue].map((one) => one / 255)
      .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4))
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  let behind = element
  while (behind && pixel(getComputedStyle(behind).backgroundColor)[3] < 255) behind = behind.parentElement
  const [one, other] = [getComputedStyle(element).color, getComputedStyle(behind ?? document.body).backgroundColor]
    .map((colour) => light(pixel(colour)))
  return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05)
}"""


def build_graph(frontend: ComfyFrontend, nodes: list[dict[str, Any]]) -> dict[str, int]:
    """Put nodes in an empty graph, and return their ids by name.

    Each is {"name", "type", "pos", "widgets", "inputs"}; an input takes the first output of the node that it names.
    """
    return frontend.page.evaluate(_BUILD, nodes)


class HistoryTab:
    def __init__(self, frontend: ComfyFrontend) -> None:
        self.frontend = frontend
        self.page = frontend.page
        self.panel = self.page.locator(".reedit-history")
        self.sidebar = self.page.get_by_test_id("side-toolbar")
        self.button = self.sidebar.get_by_role("button", name="Edit History")
        self.slider = self.panel.get_by_role("slider")
        self.list = self.panel.get_by_role("listbox")
        self.empty = self.panel.locator(".reedit-empty")

    def toggle(self) -> None:
        self.button.click()

    @property
    def rows(self) -> Locator:
        return self.list.get_by_role("option")

    def row(self, number: int) -> Locator:
        return self.list.locator(f"[data-step='{number}']")

    def labels(self) -> list[str]:
        return self.panel.locator(".reedit-label").all_inner_texts()

    def current(self) -> int:
        """The number of the step that is marked as current."""
        return int(self.list.locator("[aria-selected=true]").get_attribute("data-step") or -1)

    def compared(self) -> list[str]:
        """The names under the two pictures that lie on one another."""
        return [self.panel.locator(f".reedit-{side}").inner_text() for side in ("left", "right")]

    def status(self) -> str:
        return self.panel.get_by_role("status").inner_text()

    def title(self) -> str:
        return self.panel.locator(".reedit-from").inner_text()

    def cut(self) -> str:
        """Where the line between the two pictures stands."""
        return self.page.evaluate("document.querySelector('.reedit-frame').style.getPropertyValue('--reedit-cut')")

    def focused(self) -> str | None:
        """The number of the step that has the keyboard's focus."""
        return self.page.evaluate("document.activeElement.dataset.step ?? null")

    def contrast(self, selector: str) -> float:
        return self.panel.locator(selector).first.evaluate(_CONTRAST)

    def widget(self, node: int) -> str:
        return self.page.evaluate("id => window.app.graph.getNodeById(id).widgets[0].value", node)

    def speak(self, language: str, word: str) -> None:
        """Set the page's language, and wait until its sidebar has the word, and it has opened the workflow anew."""
        self.page.evaluate(_MARK_NODES)
        self.setting("Comfy.Locale", language)
        expect(self.sidebar).to_contain_text(word)
        self.page.wait_for_function(_NODES_ARE_NEW)

    def setting(self, name: str, value: Any) -> None:
        self.page.evaluate("([name, value]) => window.app.extensionManager.setting.set(name, value)", [name, value])
