"""`dev.py bench panel`: how long the history panel with 200 edits takes to open, beside the host's own list of workflows.

Goal from issue 10. The real host, its real page and a real browser; the two panels are opened in turns, the host's with as
many workflows in it as ours has edits. Writes build/bench/panel.json and build/screenshots/bench_panel.png.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import _host
import torch
from _report import goal, write_report
from reedit.models.session.record import EditRecord, with_record
from reedit.models.session.storage import SUFFIX, save_session

sys.path += [str(_host.TESTS / "comfy"), str(_host.TESTS / "browser")]

import conftest
from chain_builder import DEMO_MODELS
from comfy_frontend import ComfyFrontend, open_browser
from history_tab import build_graph
from live_server import LiveServer

BASE_DIRECTORY = Path(__file__).parents[2] / "build" / "comfy"
RUN_SECONDS = 300
BRANCH = 40  # edits after which the session goes back, and on from there
OURS, HOSTS = "history panel", "the host's list of workflows"
BUTTONS = {OURS: "reedit-history", HOSTS: "workflows"}
ROWS = {OURS: ".reedit-step", HOSTS: ".workflows-sidebar-tab .p-tree-node-leaf"}
# Click, wait until every row stands there, and then until the browser has drawn them: the second frame after that begins.
OPEN = """async ([button, rows, count]) => {
  const frame = () => new Promise(requestAnimationFrame)
  const click = () => document.querySelector(`.${button}-tab-button`).click()
  const started = performance.now()
  click()
  while (document.querySelectorAll(rows).length < count) {
    if (performance.now() - started > 60000) throw new Error(`${document.querySelectorAll(rows).length} rows of ${count}`)
    await frame()
  }
  await frame()
  await frame()
  const opened = performance.now() - started
  click()
  while (document.querySelector(rows)) await frame()
  await new Promise((done) => setTimeout(done, 200))
  return opened / 1000
}"""


def session_of(edits: int, seed: int) -> EditRecord:
    """A session of many edits, each of a sixteenth of the cells, with a branch here and there."""
    generator = torch.Generator().manual_seed(seed)
    samples = torch.randn(1, 4, 16, 16, generator=generator)
    record = EditRecord(samples)
    for number in range(1, edits + 1):
        samples = samples.clone()
        top, left = torch.randint(0, 12, (2,), generator=generator).tolist()
        samples[..., top : top + 4, left : left + 4] += 0.3
        record = record.with_edit(samples, f"edit {number}", "KSampler")
        if number % BRANCH == 0:
            record = record.at(number - BRANCH // 4)
            samples = record.samples_at(record.current)
    return record


def furnish(server: LiveServer, edits: int, seed: int) -> str:
    """Put the session and the workflows where the host looks for them. Returns the session's name in ReEdit Load Session."""
    save_session(server.folder("output") / f"long{SUFFIX}", with_record({}, session_of(edits, seed)), {})
    folder = server.folder("user") / "default" / "workflows"
    folder.mkdir(parents=True)
    empty = {"nodes": [], "links": [], "groups": [], "config": {}, "extra": {}, "version": 0.4}
    for number in range(edits + 1):
        (folder / f"workflow {number:03}.json").write_text(json.dumps(empty), encoding="utf-8")
    return f"long{SUFFIX} [output]"


def run_session(frontend: ComfyFrontend, session: str) -> None:
    """Run a graph that tells of the session, with a picture of every step."""
    vae = {"vae_name": DEMO_MODELS["vae"]}
    graph: list[dict[str, Any]] = [
        {"name": "session", "type": "ReEditLoadSession", "pos": [100, 100], "widgets": {"session": session}},
        {"name": "vae", "type": "ReEditLoadREEDVAE", "pos": [100, 400], "widgets": vae},
        {"name": "decode", "type": "ReEditDecode", "pos": [700, 100], "inputs": {"samples": "session", "vae": "vae"}},
        {"name": "preview", "type": "PreviewImage", "pos": [1100, 100], "inputs": {"images": "decode"}},
    ]
    build_graph(frontend, graph)
    frontend.run(RUN_SECONDS)


def measure(frontend: ComfyFrontend, edits: int, repeats: int) -> dict[str, list[float]]:
    """The seconds of each opening, by panel. The two take turns, so that both meet the same machine."""
    seconds: dict[str, list[float]] = {OURS: [], HOSTS: []}
    for _ in range(repeats):
        for panel, times in seconds.items():
            times.append(frontend.page.evaluate(OPEN, [BUTTONS[panel], ROWS[panel], edits + 1]))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--edits", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, open_browser() as page:
        server = LiveServer(conftest.HOST, BASE_DIRECTORY, Path(scratch))
        session = furnish(server, options.edits, options.seed)
        with server:
            frontend = ComfyFrontend(page)
            frontend.open(server.url)
            run_session(frontend, session)
            seconds = measure(frontend, options.edits, options.repeats)
            page.locator(f".{BUTTONS[OURS]}-tab-button").click()
            frontend.screenshot("bench_panel")
    figures = {
        "rows in each panel": options.edits + 1,
        "processors": os.cpu_count(),
        **{
            panel: {"first, s": times[0], "median of the others, s": median(times[1:]), "slowest, s": max(times)}
            for panel, times in seconds.items()
        },
        "every opening, s": seconds,
    }
    print(f"{'seconds to open':32} {'first':>8} {'median':>8} {'slowest':>8}")
    for panel, times in seconds.items():
        print(f"{panel:32} {times[0]:8.3f} {median(times[1:]):8.3f} {max(times):8.3f}")
    ratio = median(seconds[OURS][1:]) / median(seconds[HOSTS][1:])
    goals = [
        goal(f"the panel with {options.edits} edits opens", median(seconds[OURS][1:]), "less than", 0.5, "s"),
        goal("the same, against the host's list of as many workflows", ratio, "at most", 1.0, "×"),
    ]
    write_report("panel", options.seed, figures, goals)


if __name__ == "__main__":
    main()
