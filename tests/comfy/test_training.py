"""Training in a running host: the template's graph, and the cancel button."""

from __future__ import annotations

import json
import uuid

import demo
import pytest
import requests
import websocket
from chain_builder import DEMO_MODELS, PICTURE
from edit_chain import truth
from reed_workflows import PICTURES, TRIAL, train_reed
from safetensors import safe_open
from workflow_writer import WorkflowWriter

NAME = "trained_by_a_test"


@pytest.fixture
def trained_file(base_directory):
    """Where the host writes the VAE that is trained here: under a name that nobody else uses, and it is gone afterwards."""
    file = base_directory / "models" / "vae" / f"{NAME}.safetensors"
    file.unlink(missing_ok=True)
    yield file
    file.unlink(missing_ok=True)


@pytest.fixture
def pictures(server):
    demo.save_picture(truth(None), server.folder("input") / PICTURE)
    demo.save_training_pictures(server.folder("input") / PICTURES)


def test_the_graph_of_the_template_trains_and_compares(server, pictures, trained_file):
    graph = train_reed({"vae": DEMO_MODELS["vae"]})
    (training,) = [node for node in graph.nodes if node.kind == "ReEditTrainREED"]
    training.inputs["name"] = NAME
    outputs = server.run(graph.as_queued())
    shown = {node.title or node.kind: outputs[str(node.number)] for node in graph.nodes if str(node.number) in outputs}
    assert shown["the file in models/vae"]["text"] == [trained_file.name]
    with safe_open(trained_file, framework="pt") as file:
        about = json.loads(file.metadata()["reedit"])
    assert {name: about["settings"][name] for name in TRIAL} == TRIAL
    (last,) = shown["the log"]["text"][0].splitlines()
    assert f"step {TRIAL['steps']} " in last and f"psnr@25 {about['figures']['psnr@25']}" in last
    report = json.loads(shown["ReEditRoundTripTest"]["text"][0])
    assert [len(vae["passes"]) for vae in report["vaes"]] == [25, 25]
    grid = demo.open_picture(server.output_file(shown["pictures it was not trained on"]["images"][0]))
    samples = server.folder("output") / "reedit" / "training" / NAME / "samples"
    assert (grid == demo.open_picture(samples / f"{TRIAL['steps']:07}.png")).all()


def test_cancelling_keeps_the_state_and_running_again_goes_on(server, pictures, trained_file):
    writer = WorkflowWriter()
    vae = writer.add("ReEditLoadREEDVAE", vae_name=DEMO_MODELS["vae"]).out()
    settings = {**TRIAL, "steps": 1000, "batch": 1, "warm_up": 0, "perceptual": 0.0}
    writer.add("ReEditTrainREED", vae=vae, pictures=PICTURES, name=f"{NAME}_2", **settings)
    first = steps_until_cancelled(server, writer.as_queued())
    second = steps_until_cancelled(server, writer.as_queued())
    assert first[0] == 1 and second[0] == first[-1] + 1
    assert server.log.count("ReEdit Train REED was stopped") == 2
    assert not trained_file.with_stem(f"{NAME}_2").exists()


def steps_until_cancelled(server, graph: dict) -> list[int]:
    """Queue a graph and press cancel after some progress. The steps that the host told of, the last one too."""
    client = uuid.uuid4().hex
    connection = websocket.create_connection(f"ws://127.0.0.1:{server.port}/ws?clientId={client}", timeout=300)
    told: list[int] = []
    try:
        body = {"prompt": graph, "client_id": client}
        requests.post(f"{server.url}/prompt", json=body, timeout=60).raise_for_status()
        while True:
            message = connection.recv()
            if not isinstance(message, str):
                continue
            event = json.loads(message)
            assert event["type"] not in ("execution_success", "execution_error"), event
            if event["type"] == "execution_interrupted":
                break
            if event["type"] == "progress" and event["data"]["max"] == 1000:
                told.append(event["data"]["value"])
                if len(told) == 1:
                    requests.post(f"{server.url}/interrupt", timeout=60).raise_for_status()
    finally:
        connection.close()
    folder = server.folder("output") / "reedit" / "training" / f"{NAME}_2"
    with safe_open(folder / "state.safetensors", framework="pt") as file:
        told.append(json.loads(file.get_tensor("progress").numpy().tobytes())["step"])
    return told
