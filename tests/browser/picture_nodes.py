"""Makes the pictures of the help pages: runs the templates in the real page and crops each node out of it.

`python tests/browser/picture_nodes.py [NODE …]` with the environment's Python, COMFYUI_PATH and REEDIT_BROWSER set.
"""

from __future__ import annotations

import os
import sys
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parent / "comfy")]

from chain_builder import PICTURE
from comfy_frontend import Bounds, ComfyFrontend, open_browser
from demo import save_picture, save_training_pictures
from edit_chain import truth
from installation import PACK, ROOT, install
from live_server import LiveServer
from PIL import Image
from playwright.sync_api import ViewportSize
from reed_workflows import PICTURES as TRAINING_PICTURES
from saved_workflows import FOLDER
from templates import FIRST, choose_demo_models, saved

PAGES = ROOT / "web" / "docs"
PICTURES = PAGES / "pictures"
LARGEST = 700  # pixels across: the page's column at GitHub is little wider, and the properties panel much narrower
MARGIN = 22  # pixels around a node, with a piece of each of its links
AWAY = 4000  # pixels by which the other nodes of the graph make room
RUN_SECONDS = 600
MOST_BYTES = 45_000
QUALITIES = (82, 72, 62, 52, 42)
# High enough for a training node with all of its settings, the bars of the page above and below it.
WINDOW: ViewportSize = {"width": 1700, "height": 1500}
LAST = ("many_tools_one_latent", "mixed_edit_chain")  # long, with nodes that stand in others as well
MUTED = 2  # the mode of a node that does not run
# A node is taken from the first template that has it, but for these: there it shows more.
CHOSEN = {
    "ReEditCommit": ("prompt_edit", 13),
    "ReEditDecode": ("instruct_chain", 34),
    "ReEditEncode": ("prompt_edit", 5),
    "ReEditSemanticDrift": ("semantic_drift", 18),
}
# What shows the result of a node that shows none itself, beside it in the picture.
SHOWN_BY = {
    "ReEditAttentionMask": "MaskPreview",
    "ReEditDecode": "SaveImage",
    "ReEditPromptWords": "PreviewAny",
}
GAP = 40  # pixels between the two
# Widths other than in the template, for a plot or a name that can be read.
WIDTHS = {"ReEditDriftMeter": 656, "ReEditLoadSession": 500, "ReEditRoundTripTest": 656}

# Leaves the wanted nodes alone in the middle of the page, as high as what they show and under the names they are found by.
# The others make room, so that links come from the left and leave to the right. Groups and the links of others would only
# show as colours behind the node; the links come back for the next picture.
_ARRANGE = """([wanted, width, gap, away]) => {
  const { graph, canvas } = window.app
  for (const group of [...graph.groups]) graph.remove(group)
  for (const [id, link] of window.hiddenLinks) graph.links.set(id, link)
  window.hiddenLinks = new Map(
    [...graph.links].filter(([, link]) => ![link.origin_id, link.target_id].some((end) => wanted.includes(Number(end))))
  )
  for (const id of window.hiddenLinks.keys()) graph.links.delete(id)
  const [subject, beside] = wanted.map((id) => graph.getNodeById(id))
  const after = new Set([...graph.links.values()].filter((one) => one.origin_id === subject.id).map((one) => one.target_id))
  for (const node of graph.nodes)
    if (node !== subject && node !== beside)
      node.pos = [subject.pos[0] + (after.has(node.id) ? away : -away), node.pos[1]]
  subject.title = subject.constructor.title
  subject.has_errors = false  // the page is slow to see that the model it missed is another now
  if (subject.imgs?.length > 1) subject.imageIndex = 0
  const shown = [subject, beside].filter(Boolean)
  for (const node of shown) {
    const across = node === subject ? (width ?? node.size[0]) : Math.min(node.size[0], 300)
    const preview = node.widgets?.find((widget) => widget.name.startsWith("$$"))
    const picture = preview && node.imgs?.[0]
    const scale = picture && Math.min(1, across / picture.naturalWidth)
    const least = 220  // the page lets no picture have less room
    const high = picture ? preview.y + Math.max(least, scale * picture.naturalHeight) + 24 : node.computeSize()[1]
    node.setSize([across, node === subject || picture ? high : node.size[1]])
  }
  if (beside) beside.pos = [subject.pos[0] + subject.size[0] + gap, subject.pos[1]]
  const title = LiteGraph.NODE_TITLE_HEIGHT
  const left = subject.pos[0]
  const top = subject.pos[1] - title
  const right = Math.max(...shown.map((node) => node.pos[0] + node.size[0]))
  const bottom = Math.max(...shown.map((node) => node.pos[1] + node.size[1]))
  const page = canvas.canvas.getBoundingClientRect()
  canvas.deselectAll()
  canvas.ds.scale = 1
  canvas.ds.offset = [Math.round(page.width / 2 - (left + right) / 2), Math.round(page.height / 2 - (top + bottom) / 2)]
  canvas.setDirty(true, true)
  return [left, top, right - left, bottom - top]
}"""
_ON_PAGE = """([left, top, width, height]) => {
  const { canvas, ds } = window.app.canvas
  const page = canvas.getBoundingClientRect()
  const [x, y] = ds.convertOffsetToCanvas([left, top])
  return [page.left + x, page.top + y, width, height]
}"""
_PICTURES_LOADED = """(ids) => ids.every((id) =>
  (window.app.graph.getNodeById(id).imgs ?? []).every((one) => one.complete && one.naturalWidth))"""


def templates_in_order() -> list[str]:
    between = {file.stem for file in FOLDER.glob("*.json")} - {*FIRST, *LAST}
    return [*FIRST, *sorted(between), *LAST]


def places(wanted: list[str]) -> dict[str, tuple[str, int]]:
    """For each node's id the template and the number of the node that stands for it: the first that is not muted."""
    found = {}
    for template in templates_in_order():
        for node in saved(template)["nodes"]:
            if node.get("mode", 0) != MUTED:
                found.setdefault(node["type"], (template, node["id"]))
    return {name: CHOSEN.get(name) or found[name] for name in wanted}


def beside(nodes: dict[int, dict[str, Any]], links: list[list[Any]], number: int) -> list[int]:
    """The node, and the one that shows its result where the table names one."""
    kind = SHOWN_BY.get(nodes[number]["type"])
    return [number, *[end for _, start, _, end, *_ in links if start == number and nodes[end]["type"] == kind][:1]]


def photograph(frontend: ComfyFrontend, numbers: list[int], width: int | None) -> Image.Image:
    """These nodes of the open graph as the page shows them, with a margin. width: of the first, None for its own."""
    page = frontend.page
    page.mouse.move(150, WINDOW["height"] - 150)  # on the empty canvas, where it brings up nothing
    for _ in range(2):  # a picture is only fetched once its node is in view, and the node's height is of its picture
        bounds: Bounds = page.evaluate(_ARRANGE, [numbers, width, GAP, AWAY])
        page.wait_for_timeout(1200)  # the canvas draws a moment after the page has settled
        page.wait_for_function(_PICTURES_LOADED, arg=numbers)
    left, top, across, high = page.evaluate(_ON_PAGE, bounds)
    area = {"x": left - MARGIN, "y": top - MARGIN, "width": across + 2 * MARGIN, "height": high + 2 * MARGIN}
    return Image.open(BytesIO(page.screenshot(clip=area))).convert("RGB")


def save(picture: Image.Image, name: str) -> None:
    """As good as fits into the size that a picture of the registry's archive may have."""
    if picture.width > LARGEST:
        height = round(picture.height * LARGEST / picture.width)
        picture = picture.resize((LARGEST, height), Image.Resampling.LANCZOS)
    for quality in QUALITIES:
        content = BytesIO()
        picture.save(content, "JPEG", quality=quality, optimize=True)
        if content.tell() <= MOST_BYTES:
            break
    (PICTURES / f"{name}.jpg").write_bytes(content.getvalue())


def picture_template(frontend: ComfyFrontend, template: str, wanted: dict[str, int]) -> None:
    """Run a template with the demo's models and save the pictures of these nodes in it: {node id: its number}."""
    workflow = saved(template)
    frontend.open_templates(PACK)
    frontend.load_template(template, len(workflow["nodes"]))
    choose_demo_models(frontend, workflow["nodes"])
    frontend.run(RUN_SECONDS)
    frontend.page.evaluate("window.hiddenLinks = new Map()")
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for name, number in wanted.items():
        save(photograph(frontend, beside(nodes, workflow["links"], number), WIDTHS.get(name)), name)
        print(f"{name}: {template}, node {number}", flush=True)


def main() -> None:
    place = places(sys.argv[1:] or sorted(page.stem for page in PAGES.glob("*.md")))
    needed = {template for template, _ in place.values()}
    if FIRST[1] in needed:
        needed.add(FIRST[0])
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        base = install(Path(folder) / "installation", ROOT / "build" / "comfy" / "models")
        scratch = Path(folder) / "scratch"
        scratch.mkdir()
        with LiveServer(Path(os.environ["COMFYUI_PATH"]), base, scratch) as server, open_browser() as page:
            save_picture(truth(None), server.folder("input") / PICTURE)
            save_training_pictures(server.folder("input") / TRAINING_PICTURES)
            page.set_viewport_size(WINDOW)
            frontend = ComfyFrontend(page)
            frontend.open(server.url)
            for template in filter(needed.__contains__, templates_in_order()):
                picture_template(
                    frontend, template, {name: at for name, (where, at) in place.items() if where == template}
                )


if __name__ == "__main__":
    main()
