"""RPiAE's templates in a running host, and the one with many tools."""

from __future__ import annotations

import json

import demo
import numpy as np
import pytest
from chain_builder import PICTURE
from edit_chain import truth
from flagship_workflow import AFTER
from saved_workflows import FOLDER, run_shipped
from session_workflows import CROSS, PLATE
from tiny_sd.judge import object_verdict


def run(server, name: str, **changes) -> dict:
    demo.save_picture(truth(None), server.folder("input") / PICTURE)
    return run_shipped(name, server, **changes)


def picture(server, outputs: dict, name: str) -> np.ndarray:
    return demo.open_picture(server.output_file(outputs[name]["images"][0]))


def test_semantic_drift_is_where_the_instruction_was(server):
    shown = run(server, "semantic_drift")
    for title in ("in the mask", "without a mask"):
        (figures,) = json.loads(shown[f"figures {title}"]["text"][0])
        assert figures["drift"] > 0.1 > 5 * figures["outside"] and figures["patches"] == [8, 8]
        row, column = figures["most_at"]
        assert row < 3 and column >= 5  # the circle is in the upper right corner
        assert picture(server, shown, f"heat map {title}").std() > 0.05


def test_the_rpiae_gives_the_picture_back_and_sees_what_is_painted(server):
    shown = run(server, "rpiae")
    beside = picture(server, shown, "through it, and the original")
    assert demo.psnr(beside[:, :64], truth(None)) > 24 and np.abs(beside[:, -64:] - truth(None)).max() < 1 / 255
    (figures,) = json.loads(shown["ReEditSemanticDrift"]["text"][0])
    assert figures["drift"] > 5 * figures["outside"]
    row, column = figures["most_at"]
    assert row <= 3 and 4 <= column <= 7  # the paint lies from (36, 8) to (56, 28)


def test_the_graph_of_train_rpiae_trains_its_three_stages(server, base_directory):
    demo.save_training_pictures(server.folder("input") / "my_pictures")
    names = [f"rpiae_{stage}" for stage in ("pivot", "bridge", "decoder")]
    files = [base_directory / "models" / "vae" / f"{name}.safetensors" for name in names]
    try:
        shown = run(server, "train_rpiae")
    finally:
        for file in files:
            file.unlink(missing_ok=True)
    for stage, figure in (("pivot", "pivot_error"), ("bridge", "feature_error"), ("decoder", "psnr")):
        (log,) = shown[f"log: {stage}"]["text"]
        assert "step 8 " in log and figure in log
    assert picture(server, shown, "through it").shape == (64, 64, 3)


@pytest.fixture(scope="module")
def many_tools(server):
    return run(server, "many_tools_one_latent", unmuted=True)


def test_many_tools_pass_one_latent_on(server, many_tools):
    result = picture(server, many_tools, "the result")
    circle, square = AFTER.objects
    assert object_verdict(result, circle) == (True, True) and object_verdict(result, square)[0]
    rows = json.loads(many_tools["ReEditDriftMeter"]["text"][0])
    assert [row["tool"] for row in rows][2:4] == ["KSampler", "LatentComposite"]
    assert [row["label"] for row in rows][2] == CROSS.label and rows[-1]["label"] == PLATE.label
    masked = [row["outside_mask_max_abs_latent_change"] for row in (*rows[:3], rows[-1])]
    assert masked == [0.0] * 4
    assert json.loads(many_tools["ReEditSemanticDrift"]["text"][0])[0]["drift"] > 0.02


def test_the_decoders_of_ones_own_draw_the_same_picture(server, many_tools):
    beside = picture(server, many_tools, "REED-VAE and eps-VAE")
    result = picture(server, many_tools, "the result")
    for decoded in (beside[:, :64], beside[:, -64:]):
        assert demo.psnr(decoded, result) > 22


def test_as_shipped_it_runs_without_them(server):
    """Somebody who has the image models alone, and none of ours: those nodes are muted."""
    workflow = json.loads((FOLDER / "many_tools_one_latent.json").read_text(encoding="utf-8"))
    nodes, links = workflow["nodes"], workflow["links"]
    muted = {node["type"] for node in nodes if node["mode"] == 2}
    assert {"ReEditLoadEpsilonVAE", "ReEditEpsilonDecode"} <= muted
    awake = {node["id"] for node in nodes if node["mode"] == 0}
    assert all(source in awake for _, source, _, target, *_ in links if target in awake)
