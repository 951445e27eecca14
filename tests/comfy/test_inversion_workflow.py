"""The inversion template in a real host: its report says that it worked, and the pictures show it."""

from __future__ import annotations

import json

import demo
import pytest
from chain_builder import PICTURE
from edit_chain import truth
from saved_workflows import run_shipped

OURS, DROPPED_IN, FLIPPED = "ReEdit Invert", "FlipSigmas, ReEdit sampler", "FlipSigmas, euler"


@pytest.fixture(scope="module")
def outputs(server):
    demo.save_picture(truth(None), server.folder("input") / PICTURE)
    return run_shipped("invert_and_reconstruct", server)


def drift(outputs: dict, name: str) -> dict:
    """What the whole way there and back did, everywhere, since no mask held it."""
    (row,) = json.loads(outputs[f"drift: {name}"]["text"][0])
    return row


def test_the_report_tells_a_person_that_it_worked(outputs):
    verdict, report = outputs["ReEditInversionReport"]["text"]
    assert verdict.startswith("Converged in all") and report.startswith(verdict) and "Checked: " in report
    assert len(outputs["ReEditInversionReport"]["images"]) == 1


def test_the_pictures_come_back_with_ours_and_not_without(server, outputs):
    pictures = {
        name: demo.open_picture(server.output_file(outputs[name]["images"][0])) for name in (OURS, DROPPED_IN, FLIPPED)
    }
    source = truth(None)
    close, far = (demo.psnr(source, pictures[name]) for name in (OURS, FLIPPED))
    assert close > 30 and far < close - 3
    assert abs(demo.psnr(source, pictures[DROPPED_IN]) - close) < 0.1
    for name in (OURS, DROPPED_IN):
        assert drift(outputs, name)["total"]["inside"]["psnr"] > 60  # against the decoded source
        assert drift(outputs, name)["max_abs_latent_change"] < drift(outputs, FLIPPED)["max_abs_latent_change"] / 100
