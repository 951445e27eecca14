"""Training in a running host: the templates' graphs, and the cancel button."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path

import demo
import pytest
import requests
import websocket
from chain_builder import DEMO_MODELS, PICTURE
from edit_chain import truth
from epsilon_workflows import TRIAL as EPSILON_TRIAL
from epsilon_workflows import train_epsilon
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


def run_training(server, graph: WorkflowWriter, trained_file: Path, trial: dict) -> tuple[dict, str, dict]:
    """Run a template's graph under this test's name, and look at what every training gives.

    What its nodes showed by their titles, the log's last line, and what the file says.
    """
    (training,) = [node for node in graph.nodes if node.kind.startswith("ReEditTrain")]
    training.inputs["name"] = NAME
    outputs = server.run(graph.as_queued())
    shown = {node.title or node.kind: outputs[str(node.number)] for node in graph.nodes if str(node.number) in outputs}
    assert shown["the file in models/vae"]["text"] == [trained_file.name]
    with safe_open(trained_file, framework="pt") as file:
        about = json.loads(file.metadata()["reedit"])
    assert {name: about["settings"][name] for name in trial} == trial
    (last,) = shown["the log"]["text"][0].splitlines()
    assert f"step {trial['steps']} " in last
    grid = demo.open_picture(server.output_file(shown["pictures it was not trained on"]["images"][0]))
    samples = server.folder("output") / "reedit" / "training" / NAME / "samples"
    assert (grid == demo.open_picture(samples / f"{trial['steps']:07}.png")).all()
    shutil.rmtree(samples.parent)
    return shown, last, about


def test_the_graph_of_train_reed_trains_and_compares(server, pictures, trained_file):
    shown, last, about = run_training(server, train_reed({"vae": DEMO_MODELS["vae"]}), trained_file, TRIAL)
    assert f"psnr@25 {about['figures']['psnr@25']}" in last
    report = json.loads(shown["ReEditRoundTripTest"]["text"][0])
    assert [len(vae["passes"]) for vae in report["vaes"]] == [25, 25]


def test_the_graph_of_train_epsilon_trains_and_decodes(server, pictures, trained_file):
    graph = train_epsilon({"vae": DEMO_MODELS["vae"]})
    shown, last, about = run_training(server, graph, trained_file, EPSILON_TRIAL)
    assert about["kind"] == "epsilon decoder" and f"psnr@3 {about['figures']['psnr@3']}" in last
    beside = demo.open_picture(server.output_file(shown["both"]["images"][0]))
    plain, denoised = beside[:, :64], beside[:, -64:]
    assert demo.psnr(plain, truth(None)) > 30
    assert denoised.std() > 0.05 and demo.psnr(denoised, plain) < 25  # a few steps: noise, with colours coming through


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
