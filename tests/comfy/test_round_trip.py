"""The round-trip test in a running host: its template's graph, and the cancel button."""

from __future__ import annotations

import json
import uuid

import demo
import requests
import websocket
from chain_builder import DEMO_MODELS, PICTURE
from edit_chain import truth
from reed_workflows import reed_round_trip
from saved_workflows import run_shipped
from workflow_writer import WorkflowWriter


def graph(server, passes: int) -> dict:
    demo.save_picture(truth(None), server.folder("input") / PICTURE)
    writer = WorkflowWriter()
    vae = writer.add("ReEditLoadREEDVAE", vae_name=DEMO_MODELS["vae"]).out()
    picture = writer.add("LoadImage", image=PICTURE).out()
    writer.add("ReEditRoundTripTest", images=picture, vae=vae, passes=passes, eight_bit=True)
    return writer.as_queued()


def test_cancelling_keeps_the_passes_that_are_done(server):
    client = uuid.uuid4().hex
    connection = websocket.create_connection(f"ws://127.0.0.1:{server.port}/ws?clientId={client}", timeout=300)
    try:
        body = {"prompt": graph(server, 200), "client_id": client}
        requests.post(f"{server.url}/prompt", json=body, timeout=60).raise_for_status()
        seen: list[str] = []
        while "execution_interrupted" not in seen:
            message = connection.recv()
            event = json.loads(message) if isinstance(message, str) else {"type": "a preview"}
            seen.append(event["type"])
            assert event["type"] not in ("execution_success", "execution_error"), event
            if event["type"] == "progress" and event["data"]["value"] >= 2:
                requests.post(f"{server.url}/interrupt", timeout=60).raise_for_status()
    finally:
        connection.close()
    folder = server.folder("output") / "reedit"
    (vae,) = json.loads((folder / "round_trip_00001.json").read_text(encoding="utf-8"))["vaes"]
    assert 2 <= len(vae["passes"]) < 200
    for name in ("round_trip_00001.png", "round_trip_00001_sheet.png"):
        assert demo.open_picture(folder / name).min() < demo.open_picture(folder / name).max()
    assert f"stopped after {len(vae['passes'])} of 200 passes" in server.log
    (shown,) = server.run(graph(server, 2)).values()  # the host goes on as if nothing had been
    report = json.loads(shown["text"][0])
    assert report["vaes"][0]["passes"] == vae["passes"][:2] and len(shown["images"]) == 2
    assert demo.open_picture(server.output_file(shown["images"][0])).shape[1] == 1300


def test_the_template_shows_that_the_corrected_reed_decoder_holds_better(server):
    demo.save_picture(truth(None), server.folder("input") / PICTURE)
    shown = run_shipped("reed_round_trip", server)
    assert "Other VAE held better" in shown["in words"]["text"][0]


def test_the_graph_of_the_template_shows_both_vaes(server):
    """A VAE beside itself is alike, and the sheet's two rows are the same but for the names above them."""
    demo.save_picture(truth(None), server.folder("input") / PICTURE)
    graph = reed_round_trip({"vae": DEMO_MODELS["vae"], "reed": DEMO_MODELS["vae"]}, corrections=0)
    outputs = server.run(graph.as_queued())
    shown = {node.title: outputs[str(node.number)] for node in graph.nodes if str(node.number) in outputs}
    assert shown["in words"]["text"][0].endswith("After pass 25 both are alike.")
    sheet = demo.open_picture(server.output_file(shown["the contact sheet"]["images"][0]))
    one, other = (sheet[bottom - 8 - 256 : bottom - 8] for bottom in (len(sheet) // 2 + 4, len(sheet)))
    assert (one == other).all() and one.std() > 0.1
    assert demo.open_picture(server.output_file(shown["the curves"]["images"][0])).shape == (1100, 1300, 3)
