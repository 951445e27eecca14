"""comfy-cli, the ecosystem's own tool: puts other values into a saved workflow and runs it on a server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chain_builder import CFG, DEMO_CFG, DEMO_MODELS, DEMO_SCALES, MODELS
from live_server import LiveServer

FOLDER = Path(__file__).parents[2] / "workflows"
# And the widget that names the file.
LOADERS = {
    "CheckpointLoaderSimple": "ckpt_name",
    "ReEditLoadREEDVAE": "vae_name",
    "ReEditLoadEpsilonVAE": "decoder_name",
    "ReEditLoadRPiAE": "vae_name",
    "ReEditLoadDINOv2": "model_name",
}
CFG_PLACE = 3  # among the widgets of KSampler: seed, what becomes of it, steps, cfg

# No tracking, no update check, no home folder: what comfy-cli writes stays in the scratch folder it is given.
_QUIET = {"DO_NOT_TRACK": "1", "COMFY_NO_WATCH": "1"}


def comfy(arguments: list[str | Path], scratch: Path, folder: Path | None = None) -> str:
    """Run comfy-cli, in a folder, and return what it printed. RuntimeError with its words if it fails."""
    return _run(arguments, scratch, folder).stdout


def comfy_warned(arguments: list[str | Path], scratch: Path, folder: Path | None = None) -> str:
    """The same, and what it said beside."""
    done = _run(arguments, scratch, folder)
    return done.stdout + done.stderr


def _run(arguments: list[str | Path], scratch: Path, folder: Path | None) -> subprocess.CompletedProcess[str]:
    home = scratch / "comfy_cli"
    home.mkdir(parents=True, exist_ok=True)
    program = Path(sys.executable).parent / ("comfy.exe" if os.name == "nt" else "comfy")
    done = subprocess.run(
        [str(program), "--skip-prompt", "--no-enable-telemetry", *(str(word) for word in arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=folder,
        env={**os.environ, **_QUIET, "HOME": str(home), "XDG_CONFIG_HOME": str(home), "PYTHONIOENCODING": "utf-8"},
    )
    if done.returncode != 0:
        raise RuntimeError(
            f"comfy {' '.join(map(str, arguments[:2]))} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        )
    return done


def demo_guidance(nodes: list[dict[str, Any]]) -> list[tuple[int, str, float]]:
    """What the demo's small models want in place of what a template says, which is for the models that it names: (node's id,
    widget, value)."""
    found: list[tuple[int, str, float]] = []
    for node in nodes:
        if node["type"] in ("ReEditInstructGuider", "ReEditInstruction"):
            found += [(node["id"], widget, value) for widget, value in DEMO_SCALES.items()]
        elif node["type"] == "KSampler" and node["widgets_values"][CFG_PLACE] == CFG["instruct"]:
            found.append((node["id"], "cfg", DEMO_CFG["instruct"]))
    return found


def for_the_demo(
    workflow: Path, names: Mapping[str, str], server: LiveServer, texts: Mapping[str, str] | None = None
) -> Path:
    """A copy of a saved workflow in the server's scratch folder, in which model files have the demo's names, and edits by
    instruction the guidance that the demo's model wants.

    names: {name in the workflow: name to put in its place}; each must be there. texts: {"node's title.widget": value}; a node
    without a title goes by its type.
    """
    nodes = json.loads(workflow.read_text(encoding="utf-8"))["nodes"]
    values = {
        f"{node['id']}.{LOADERS[node['type']]}": names[node["widgets_values"][0]]
        for node in nodes
        if node["type"] in LOADERS
    }
    if set(names.values()) != set(values.values()):
        raise ValueError(f"{workflow.name} does not name each of {', '.join(names)}.")
    values |= {f"{number}.{widget}": value for number, widget, value in demo_guidance(nodes)}
    numbers = {node.get("title") or node["type"]: node["id"] for node in nodes}
    for place, text in (texts or {}).items():
        title, widget = place.rsplit(".", 1)
        values[f"{numbers[title]}.{widget}"] = text
    slots = [f"{address}={value}" for address, value in values.items()]
    text = comfy(
        ["workflow", "set-slot", workflow, *slots, "--stdout", "--host", "127.0.0.1", "--port", str(server.port)],
        server.scratch,
    )
    changed = server.scratch / workflow.name
    changed.write_text(json.dumps(json.loads(text)["data"]["workflow_json"]), encoding="utf-8")
    return changed


def run_workflow(workflow: Path, server: LiveServer) -> dict[str, Any]:
    """Convert a saved workflow with comfy-cli, run it, and return what its nodes showed: {node id: {…}}."""
    text = comfy(
        ["run", "--workflow", workflow, "--wait", "--json", "--host", "127.0.0.1", "--port", str(server.port)],
        server.scratch,
    )
    events = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    (last,) = [event for event in events if event["type"] == "envelope"]
    return server.outputs_of(last["data"]["prompt_id"])


def run_shipped(
    name: str, server: LiveServer, texts: Mapping[str, str] | None = None, unmuted: bool = False
) -> dict[str, dict[str, Any]]:
    """Run a shipped workflow with the demo's models. What each node showed, by its title or, where it has none, its type.

    texts: what to write into widgets first, {"node's title.widget": value}. unmuted: run what is muted in the file too.
    """
    workflow = FOLDER / f"{name}.json"
    known = json.loads(workflow.read_text(encoding="utf-8"))
    wanted = {node["widgets_values"][0] for node in known["nodes"] if node["type"] in LOADERS}
    names = {entry["name"]: DEMO_MODELS[kind] for kind, entry in MODELS.items() if entry["name"] in wanted}
    chosen = for_the_demo(workflow, names, server, texts)
    if unmuted:
        changed = json.loads(chosen.read_text(encoding="utf-8"))
        for node in changed["nodes"]:
            node["mode"] = 0
        chosen.write_text(json.dumps(changed), encoding="utf-8")
    outputs = run_workflow(chosen, server)
    titles = {str(node["id"]): node.get("title") or node["type"] for node in known["nodes"]}
    return {titles[number]: shown for number, shown in outputs.items()}
