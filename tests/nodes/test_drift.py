"""The drift meter in a session of the demo family, checked against scikit-image and the host's own decoder."""

import json
import math

import numpy as np
import pytest
import torch
from comfy_api.v0_0_2 import ui
from pytorch_msssim import ms_ssim
from reedit.models.metrics.similarity import MS_SSIM_SIDE
from reedit.models.session.record import observe, with_record
from reedit.nodes.autoencoders import ReEditEncode
from reedit.nodes.drift import ReEditDriftMeter
from skimage import data
from skimage.metrics import peak_signal_noise_ratio

FLOATS = ("psnr_outside", "ssim_outside", "ms_ssim_outside", "psnr_inside", "lpips", "colour_shift_outside")
NAMES = ("plot", "report", "latent", *FLOATS, "latent_change_outside", "summary")


@pytest.fixture(autouse=True)
def previews(monkeypatch):
    """The host writes previews into its temp folder; these tests look at the outputs instead."""
    monkeypatch.setattr(ui.PreviewImage, "__init__", lambda self, image, **_: None)
    monkeypatch.setattr(ui.PreviewImage, "as_dict", lambda self: {})


@pytest.fixture(autouse=True)
def no_lpips_weights(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))


@pytest.fixture
def top_half() -> torch.Tensor:
    mask = torch.zeros(1, 64, 64)
    mask[:, :32] = 1.0
    return mask


@pytest.fixture
def edited(latent, top_half):
    """One edit of the upper half."""
    return edit(latent, top_half)


def edit(latent: dict, mask: torch.Tensor, amount: float = 0.5) -> dict:
    samples = latent["samples"].clone()
    samples[:, :, : samples.shape[2] // 2] += amount
    return with_record(latent, observe(latent).with_edit(samples, "an edit", "a tool", mask=mask), samples)


def measured(*inputs, **named) -> dict:
    return dict(zip(NAMES, ReEditDriftMeter.execute(*inputs, **named).result, strict=True))


def test_the_outputs_are_those_of_the_decoded_pictures(tiny_vae, edited):
    outputs = measured(edited, tiny_vae)
    before, after = (tiny_vae.decode(samples) for samples in (observe(edited).source, edited["samples"]))
    for name, rows in (("psnr_outside", slice(32, 64)), ("psnr_inside", slice(0, 32))):
        expected = peak_signal_noise_ratio(before[:, rows].numpy(), after[:, rows].numpy(), data_range=1.0)
        assert math.isclose(outputs[name], expected, abs_tol=1e-3)
    shift = 255 * (after - before)[:, 32:].mean((0, 1, 2))
    assert math.isclose(outputs["colour_shift_outside"], float(shift.abs().max()), abs_tol=1e-3)
    assert outputs["latent_change_outside"] == 0.0 and 0 < outputs["ssim_outside"] < 1
    assert outputs["latent"]["samples"] is edited["samples"] and outputs["plot"].ndim == 4
    (row,) = json.loads(outputs["report"])
    assert row["total"]["outside"]["psnr"] == outputs["psnr_outside"]
    assert row["outside_mask_max_abs_latent_change"] == 0.0 and row["tool"] == "a tool"


def test_what_cannot_be_measured_is_nan_and_said(tiny_vae, edited):
    outputs = measured(edited, tiny_vae)
    assert math.isnan(outputs["ms_ssim_outside"]) and math.isnan(outputs["lpips"])
    reasons = json.loads(outputs["report"])[0]["total"]["not_measured"]
    assert set(reasons) == {"inside.ms_ssim", "outside.ms_ssim", "lpips"}
    assert all(reason in outputs["summary"] for reason in reasons.values())
    without_vae = measured(edited)
    assert all(math.isnan(without_vae[name]) for name in FLOATS) and without_vae["latent_change_outside"] == 0.0
    assert "Without a VAE" in without_vae["summary"]


def test_a_session_without_edits_is_identical_to_its_source(tiny_vae, latent):
    outputs = measured(latent, tiny_vae)
    assert json.loads(outputs["report"]) == []
    assert outputs["psnr_outside"] == math.inf and outputs["ssim_outside"] == 1.0
    assert math.isnan(outputs["psnr_inside"]) and "No pixel counts as edited" in outputs["summary"]


def test_what_is_infinite_is_said_in_words(tiny_vae, latent, top_half):
    outputs = measured(edit(latent, top_half, amount=0.0), tiny_vae)
    (row,) = json.loads(outputs["report"])
    assert row["total"]["inside"]["psnr"] == row["untouched_psnr"] == "infinite"
    assert outputs["psnr_inside"] == math.inf and "identical" in outputs["summary"]


def test_the_original_file_can_be_the_reference(tiny_vae, edited, scenes):
    """Also where the encoder has cut off what is no whole cell."""
    decoded = tiny_vae.decode(edited["samples"])
    expected = peak_signal_noise_ratio(scenes[:1, 32:].numpy(), decoded[:, 32:].numpy(), data_range=1.0)
    larger = torch.nn.functional.pad(scenes[:1].movedim(-1, 1), (1, 2, 1, 2)).movedim(1, -1)
    for reference in (scenes[:1], larger):
        assert math.isclose(measured(edited, tiny_vae, reference=reference)["psnr_outside"], expected, abs_tol=1e-3)


def test_ms_ssim_of_a_picture_that_is_large_enough(tiny_vae):
    side = MS_SSIM_SIDE + 32
    picture = torch.from_numpy(data.astronaut()[:side, :side].astype(np.float32) / 255)[None]
    latent = ReEditEncode.execute(picture, tiny_vae)[0]
    latent = with_record(latent, observe(latent).with_edit(latent["samples"] + 0.1, "everywhere", "a tool"))
    corner = torch.zeros(1, side, side)
    corner[:, :10, :10] = 1.0
    outputs = measured(latent, tiny_vae, mask=corner)
    pictures = [tiny_vae.decode(observe(latent).samples_at(step)).movedim(-1, 1) for step in (0, 1)]
    assert math.isclose(outputs["ms_ssim_outside"], float(ms_ssim(*pictures, data_range=1.0)), abs_tol=0.005)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"mask": torch.zeros(1, 64, 64)}, "mask is zero everywhere"),
        ({"mask": torch.ones(1, 64, 128)}, "mask is 128×64"),
        ({"mask": torch.ones(3, 64, 64)}, "mask is a batch of 3"),
        ({"reference": torch.zeros(1, 128, 64, 3)}, "reference is 64×128, but the picture is 64×64"),
        ({"reference": torch.zeros(3, 64, 64, 3)}, "reference is a batch of 3"),
        ({"reference": torch.full((1, 64, 64, 3), math.nan)}, "reference holds NaN"),
        ({"reference": torch.zeros(1, 64, 64, 3), "vae": None}, "vae is not"),
    ],
)
def test_errors_come_before_the_work(tiny_vae, edited, monkeypatch, inputs, words):
    monkeypatch.setattr(tiny_vae, "decode", lambda samples: pytest.fail("work has begun"))
    with pytest.raises(ValueError, match=words):
        ReEditDriftMeter.execute(edited, **{"vae": tiny_vae, **inputs})


def test_each_latent_is_decoded_once(tiny_vae, edited, top_half, monkeypatch):
    decoded, decode = [], tiny_vae.decode
    monkeypatch.setattr(tiny_vae, "decode", lambda samples: decoded.append(samples) or decode(samples))
    measured(edit(edited, top_half), tiny_vae, mask=top_half)
    assert len(decoded) == 3
