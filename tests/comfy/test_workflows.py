"""The shipped workflows: complete, up to date with the nodes, and the demo's promises held in a real host."""

from __future__ import annotations

import json
from pathlib import Path

import demo
import pytest
import torch
from author_workflows import WORKFLOWS, as_text
from chain_builder import DEMO_MODELS, MODELS, PICTURE
from edit_chain import truth
from live_server import GraphFailed
from PIL import Image
from reedit.nodes import NODES
from workflow_writer import WorkflowWriter

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "CheckpointLoaderSimple": "checkpoints",
    "ReEditLoadREEDVAE": "vae",
    "ReEditLoadEpsilonVAE": "vae",
    "ReEditLoadRPiAE": "vae",
    "ReEditLoadDINOv2": "clip_vision",
}
FILES = sorted((ROOT / "workflows").glob("*.json"))


def nodes_of(file: Path) -> list[dict]:
    return json.loads(file.read_text(encoding="utf-8"))["nodes"]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_the_file_is_what_author_workflows_writes(server, name):
    written = as_text(WORKFLOWS[name](server.get("/object_info")))
    assert (ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8") == written


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_workflow_has_what_a_user_needs_to_open_it(server, file):
    workflow = json.loads(file.read_text(encoding="utf-8"))
    known = server.get("/object_info").keys() | {"MarkdownNote"}
    without_address = {entry["name"] for entry in MODELS.values() if "url" not in entry}
    for node in workflow["nodes"]:
        assert node["type"] in known
        if node["type"] != "MarkdownNote":
            assert node["properties"]["cnr_id"] and node["properties"]["ver"]
        if node["type"] in FOLDERS and node["widgets_values"][0] not in without_address:
            (model,) = node["properties"]["models"]
            assert model["name"] == node["widgets_values"][0] and model["directory"] == FOLDERS[node["type"]]
            assert model["url"].startswith("https://huggingface.co/")
            # In its repository a model of transformers is called like all others.
            *_, repository, _, _, file_name = model["url"].split("/")
            own = f"{repository}.safetensors" if file_name == "model.safetensors" else file_name
            assert model["name"] == own
            assert model in workflow["models"]
    with Image.open(file.with_suffix(".jpg")) as thumbnail:
        assert thumbnail.format == "JPEG" and max(thumbnail.size) <= 1000


def test_every_node_of_the_pack_is_in_a_workflow():
    used = {node["type"] for file in FILES for node in nodes_of(file)}
    assert {node.__name__ for node in NODES} <= used


def test_ten_edits_hold_what_the_demo_promises(server):
    """The shipped workflow through comfy-cli, beside the pixel round trip."""
    demo.save_picture(truth(None), server.folder("input") / PICTURE)
    ours, our_pictures, _ = demo.run_ours(server)
    base, base_pictures = demo.run_round_trip(server)
    summary = demo.summarise(ours, our_pictures[-1], base, base_pictures[-1])
    assert demo.failures(ours, summary) == []
    assert summary["edits"] == 10 and len(summary["tools"]) == 3


def test_an_error_reaches_the_user_with_the_name_of_its_node(server):
    demo.save_picture(truth(None), server.folder("input") / PICTURE)
    writer = WorkflowWriter()
    vae = writer.add("ReEditLoadREEDVAE", vae_name=DEMO_MODELS["vae"]).out()
    picture = writer.add("LoadImage", image=PICTURE).out()
    latent = writer.add("ReEditEncode", pixels=picture, vae=vae, fit="refuse").out()
    black = writer.add("SolidMask", value=0.0, width=64, height=64).out()
    committed = writer.add("ReEditCommit", samples=latent, label="nothing", tool="", mask=black).out()
    writer.add("ReEditTimeline", samples=committed, vae=vae, columns=4)
    with pytest.raises(GraphFailed, match=r"ReEditCommit \(node 5\): mask is zero everywhere"):
        server.run(writer.as_queued())


def test_the_record_survives_the_hosts_nodes(server):
    """KSampler and LatentComposite copy a LATENT key by key; what they did shows up as an unrecorded edit."""
    demo.save_picture(truth(None), server.folder("input") / PICTURE)
    writer = WorkflowWriter()
    vae = writer.add("ReEditLoadREEDVAE", vae_name=DEMO_MODELS["vae"]).out()
    checkpoint = writer.add("CheckpointLoaderSimple", ckpt_name=DEMO_MODELS["repaint"])
    prompt = writer.add("CLIPTextEncode", text="a small red circle at the top, on grass", clip=checkpoint.out(1)).out()
    picture = writer.add("LoadImage", image=PICTURE).out()
    latent = writer.add("ReEditEncode", pixels=picture, vae=vae, fit="refuse").out()
    sampled = writer.add(
        "KSampler",
        model=checkpoint.out(0),
        seed=1,
        steps=2,
        cfg=1.0,
        sampler_name="euler",
        scheduler="karras",
        positive=prompt,
        negative=prompt,
        latent_image=latent,
        denoise=0.5,
    ).out()
    pasted = writer.add("LatentComposite", samples_to=latent, samples_from=sampled, x=0, y=0, feather=0).out()
    meter = writer.add("ReEditDriftMeter", samples=pasted, vae=vae)
    (row,) = json.loads(server.run(writer.as_queued())[str(meter.number)]["text"][0])
    assert row["tool"] == "unrecorded" and row["changed_cells"] == 1.0


def test_a_mask_of_the_canvas_reaches_the_latent(server):
    """What edit_chain.py relies on: a box on the 64×64 canvas is the same box of cells, whatever the picture's size."""
    from reedit.models.cells import mask_to_cells

    canvas = torch.zeros(1, 64, 64)
    canvas[:, 44:, :20] = 1.0
    for side, cells in ((16, 5), (32, 10), (64, 20)):
        assert mask_to_cells(canvas, side, side).sum() == cells * cells
