"""The round-trip test on the demo family's VAE, against the host's own nodes, image files and scikit-image."""

import json
import logging
import math
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
import nodes as host_nodes
import numpy as np
import pytest
import torch
from comfy.model_management import InterruptProcessingException
from PIL import Image
from random_families import SD15_VAE, random_vae
from reedit.models.autoencoders.kl_network import KLNetwork
from reedit.models.metrics.round_trip import round_trip
from reedit.nodes.round_trip import ReEditRoundTripTest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

NAMES = ("plot", "sheet", "report", "summary", "last")


@pytest.fixture(autouse=True)
def folders(tmp_path):
    """The host's output and temp folders, for this test alone."""
    before = folder_paths.get_output_directory(), folder_paths.get_temp_directory()
    folder_paths.set_output_directory(str(tmp_path / "output"))
    folder_paths.set_temp_directory(str(tmp_path / "temp"))
    yield tmp_path
    folder_paths.set_output_directory(before[0])
    folder_paths.set_temp_directory(before[1])


@pytest.fixture(autouse=True)
def not_interrupted():
    yield
    comfy.model_management.interrupt_current_processing(False)


def outputs_of(*inputs, **named) -> dict:
    return dict(zip(NAMES, ReEditRoundTripTest.execute(*inputs, **named).result, strict=True))


def passes_of(outputs: dict, vae: int = 0) -> list[dict]:
    return json.loads(outputs["report"])["vaes"][vae]["passes"]


def host_pass(vae, picture: torch.Tensor) -> torch.Tensor:
    """VAE Encode, then VAE Decode."""
    (latent,) = host_nodes.VAEEncode().encode(vae, picture)
    (decoded,) = host_nodes.VAEDecode().decode(vae, latent)
    return decoded


def test_it_does_what_the_hosts_nodes_do_one_after_the_other(tiny_vae, scenes):
    """Bit for bit, and also for a picture that is cropped; the figures are scikit-image's."""
    for given, original in ((scenes[:1], scenes[:1]), (scenes[:1, :62, :61], scenes[:1, 1:61, :60])):
        outputs = outputs_of(given, tiny_vae, passes=3, eight_bit=False)
        picture = given
        for told in passes_of(outputs):
            before, picture = picture, host_pass(tiny_vae, picture)
            two = original[0].numpy(), picture[0].numpy()
            (one,) = told["pictures"]
            assert one == told["mean"]
            assert one["psnr"] == pytest.approx(peak_signal_noise_ratio(*two, data_range=1.0), abs=1e-3)
            expected = structural_similarity(
                *two, data_range=1.0, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
            )
            assert one["ssim"] == pytest.approx(expected, abs=1e-5)
            if told["pass"] > 1:
                step = peak_signal_noise_ratio(before[0].numpy(), two[1], data_range=1.0)
                assert one["step_psnr"] == pytest.approx(step, abs=1e-3)
        assert torch.equal(outputs["last"], picture)


def test_a_videos_vae_takes_pictures_one_by_one(narrow_wan_vae, scenes):
    """As Qwen-Image's is: what the host's nodes make of each picture alone."""
    last = outputs_of(scenes[:2], narrow_wan_vae, passes=2, eight_bit=False)["last"]
    assert float((last[0] - last[1]).abs().max()) > 0.05
    for scene, picture in zip(scenes[:2].split(1), last, strict=True):
        expected = host_pass(narrow_wan_vae, host_pass(narrow_wan_vae, scene))
        torch.testing.assert_close(picture[None], expected)


def test_a_vae_that_makes_a_video_of_a_picture_is_refused(narrow_wan_vae, scenes, monkeypatch):
    monkeypatch.setattr(narrow_wan_vae, "decode", lambda latent: torch.zeros(1, 4, 64, 64, 3))
    with pytest.raises(ValueError, match="vae gave 4 pictures for 1 latent.*Connect the VAE of an image model"):
        ReEditRoundTripTest.execute(scenes[:1], narrow_wan_vae, None, 1)


def test_with_eight_bit_it_does_what_files_do(tiny_vae, scenes, tmp_path):
    """A file of 8 bits after each pass, and the host's own loader's way of reading it."""
    outputs = outputs_of(scenes[1:2], tiny_vae, passes=3)
    picture = scenes[1:2]
    for number in range(3):
        decoded = host_pass(tiny_vae, picture)
        Image.fromarray(np.rint(255 * decoded[0].numpy()).astype(np.uint8)).save(tmp_path / f"{number}.png")
        picture = torch.from_numpy(np.array(Image.open(tmp_path / f"{number}.png")).astype(np.float32) / 255.0)[None]
    assert torch.equal(outputs["last"], picture)


def test_the_sheet_shows_the_passes(tiny_vae, scenes):
    """The last of its three columns is pass 2, each pixel four times as wide and as high."""
    outputs = outputs_of(scenes[:1], tiny_vae, passes=2, thumbnail=256)
    picture = outputs["last"][0].repeat_interleave(4, 0).repeat_interleave(4, 1)
    margin = 8
    corner = outputs["sheet"][0, -256 - margin : -margin, -256 - margin : -margin]
    assert torch.allclose(corner, picture, atol=1e-6)


def test_two_vaes_of_another_ratio_and_another_number_of_channels(tiny_vae, scenes):
    """Both see the same pixels: 62×61 cropped to cells of 8, which are cells of 4 too."""
    other = random_vae(16)
    outputs = outputs_of(scenes[:2, :62, :61], tiny_vae, other, passes=2)
    report = json.loads(outputs["report"])
    assert [vae["name"] for vae in report["vaes"]] == ["VAE", "other VAE"]
    assert (report["width"], report["height"], report["pictures"]) == (56, 56, 2)
    swapped = outputs_of(scenes[:2, :62, :61], other, tiny_vae, passes=2)
    assert [passes_of(swapped, vae) for vae in (1, 0)] == [passes_of(outputs, vae) for vae in (0, 1)]
    assert "VAE held better: after pass 2" in outputs["summary"] and "Other VAE held better" in swapped["summary"]
    assert outputs["last"].shape == (2, 56, 56, 3)
    alone = outputs_of(scenes[:2, 3:59, 2:58], tiny_vae, passes=2)
    assert torch.equal(alone["last"], outputs["last"]) and passes_of(alone) == passes_of(outputs)


def test_each_picture_of_a_batch_is_measured_by_itself(tiny_vae, scenes):
    together = passes_of(outputs_of(scenes[:3], tiny_vae, passes=2))
    alone = [passes_of(outputs_of(scene[None], tiny_vae, passes=2)) for scene in scenes[:3]]
    for number in (0, 1):
        assert together[number]["pictures"] == [passes[number]["mean"] for passes in alone]
        mean = sum(passes[number]["mean"]["mse"] for passes in alone) / 3
        assert together[number]["mean"]["mse"] == pytest.approx(mean)


def test_training_measures_the_same(tiny_vae, scenes):
    """Through diffusers' network with the same weights; it computes in another order."""
    network = KLNetwork({name: tensor.clone() for name, tensor in tiny_vae.get_sd().items()})
    alone = list(round_trip(network.encode, network.decode, scenes[:2], 3, at_once=2))
    told = passes_of(outputs_of(scenes[:2], tiny_vae, passes=3, eight_bit=False))
    for one, other in zip(alone, told, strict=True):
        assert one.mean.psnr == pytest.approx(other["mean"]["psnr"], abs=1e-3)
        assert one.mean.fine_detail == pytest.approx(other["mean"]["fine_detail"], rel=1e-3)


def test_an_alpha_channel_is_left_out(tiny_vae, scenes):
    with_alpha = torch.cat([scenes[:1], torch.rand(1, 64, 64, 1)], -1)
    before = with_alpha.clone()
    assert outputs_of(with_alpha, tiny_vae, passes=1)["report"] == outputs_of(scenes[:1], tiny_vae, passes=1)["report"]
    assert torch.equal(with_alpha, before)


def test_the_plot_and_the_sheet_are_shown(tiny_vae, scenes, folders):
    shown = ReEditRoundTripTest.execute(scenes[:1], tiny_vae, passes=1).ui
    sizes = [Image.open(folders / "temp" / image["filename"]).size for image in shown["images"]]
    outputs = outputs_of(scenes[:1], tiny_vae, passes=1)
    assert sizes == [(outputs[name].shape[2], outputs[name].shape[1]) for name in ("plot", "sheet")]
    assert shown["text"] == (outputs["report"], outputs["summary"])


def sound_vae():
    vae = random_vae(4)
    vae.latent_dim = 1
    return vae


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"vae": sound_vae}, r"vae \(\w+\) is no VAE of pictures"),
        ({"other_vae": sound_vae}, r"other_vae \(\w+\) is no VAE of pictures"),
        ({"images": torch.full((1, 64, 64, 3), math.nan)}, "images holds NaN"),
        ({"images": torch.zeros(64, 64, 3)}, "images has shape"),
        ({"images": torch.zeros(0, 64, 64, 3)}, "images is an empty batch"),
        ({"images": torch.zeros(1, 3, 64, 3)}, "images is 64×3, smaller than one latent cell of this VAE .4×4"),
        (
            {"images": torch.zeros(1, 6, 64, 3), "other_vae": lambda: random_vae(4)},
            "images is 64×6, smaller than one latent cell of both VAEs together .8×8",
        ),
    ],
)
def test_errors_come_before_the_work(tiny_vae, scenes, monkeypatch, inputs, words):
    monkeypatch.setattr(tiny_vae, "encode", lambda pixels: pytest.fail("work has begun"))
    built = {name: value() if callable(value) else value for name, value in inputs.items()}
    with pytest.raises(ValueError, match=words):
        ReEditRoundTripTest.execute(**{"images": scenes[:1], "vae": tiny_vae, **built})


def test_a_vae_that_gives_nan_is_named(tiny_vae, scenes, folders):
    broken = random_vae(4)
    parameters = dict(broken.first_stage_model.named_parameters())
    parameters["decoder.conv_out.bias"].data.fill_(math.nan)
    with pytest.raises(ValueError, match="other VAE, pass 1: the picture holds NaN"):
        ReEditRoundTripTest.execute(scenes[:1], tiny_vae, broken, passes=2)
    assert not (folders / "output").exists()  # no pass was done


def test_progress_counts_every_picture_of_every_pass_and_vae(tiny_vae, scenes):
    told = []
    before = comfy.utils.PROGRESS_BAR_HOOK
    comfy.utils.set_progress_bar_global_hook(lambda value, total, *_, **__: told.append((value, total)))
    try:
        outputs_of(scenes[:2], tiny_vae, random_vae(4), passes=3)
    finally:
        comfy.utils.set_progress_bar_global_hook(before)
    assert told[0] == (1, 12) and told[-1] == (12, 12)


# --- interrupts -------------------------------------------------------------------------------------------------------


def interrupted_at(vae, monkeypatch, call: int) -> None:
    """Press the host's cancel while the VAE decodes for the `call`-th time."""
    decode, calls = vae.decode, []

    def cancelled(samples):
        calls.append(samples)
        if len(calls) == call:
            comfy.model_management.interrupt_current_processing()
        return decode(samples)

    monkeypatch.setattr(vae, "decode", cancelled)


def test_an_interrupt_goes_on_and_the_passes_done_are_kept(tiny_vae, scenes, monkeypatch, folders, caplog):
    """Two pictures: the seventh decoding is in pass 4."""
    expected = outputs_of(scenes[:2], tiny_vae, passes=3)
    interrupted_at(tiny_vae, monkeypatch, 7)
    with caplog.at_level(logging.WARNING), pytest.raises(InterruptProcessingException):
        ReEditRoundTripTest.execute(scenes[:2], tiny_vae, passes=9)
    kept = folders / "output" / "reedit"
    names = ["round_trip_00001.json", "round_trip_00001.png", "round_trip_00001_sheet.png"]
    assert sorted(file.name for file in kept.iterdir()) == names
    assert (kept / names[0]).read_text(encoding="utf-8") == expected["report"]
    for name, output in zip(names[1:], ("plot", "sheet"), strict=True):
        picture = np.asarray(Image.open(kept / name), np.float32) / 255
        assert np.allclose(picture, expected[output][0].numpy(), atol=1e-6)
    assert "stopped after 3 of 9 passes" in caplog.text and str(kept / names[1]) in caplog.text
    assert not comfy.model_management.processing_interrupted()


def test_with_two_vaes_both_are_kept_as_far_as_both_came(tiny_vae, scenes, monkeypatch, folders):
    other = random_vae(4)
    for number, calls in enumerate((2, 3), 1):  # in pass 2 and in pass 3 of the other, when the first has done it
        with monkeypatch.context() as patch:
            interrupted_at(other, patch, calls)
            with pytest.raises(InterruptProcessingException):
                ReEditRoundTripTest.execute(scenes[:1], tiny_vae, other, passes=9)
        report = json.loads((folders / "output" / "reedit" / f"round_trip_{number:05}.json").read_text("utf-8"))
        assert [len(vae["passes"]) for vae in report["vaes"]] == [calls - 1] * 2


def test_an_interrupt_in_the_first_pass_keeps_nothing(tiny_vae, scenes, monkeypatch, folders):
    interrupted_at(tiny_vae, monkeypatch, 1)
    with pytest.raises(InterruptProcessingException):
        ReEditRoundTripTest.execute(scenes[:1], tiny_vae, passes=9)
    assert not (folders / "output").exists()


def test_where_nothing_can_be_written_the_interrupt_goes_on(tiny_vae, scenes, monkeypatch, folders, caplog):
    (folders / "output").write_text("a file where the folder should be")
    interrupted_at(tiny_vae, monkeypatch, 2)
    with pytest.raises(InterruptProcessingException):
        ReEditRoundTripTest.execute(scenes[:1], tiny_vae, passes=9)
    assert "stopped after 1 of 9 passes, which cannot be saved" in caplog.text
    assert Path(folders / "output").is_file()


@pytest.mark.slow
def test_a_vae_of_stable_diffusions_real_size(scenes):
    """83.7 million random numbers: useless pictures, real shapes."""
    vae = random_vae(4, sizes=SD15_VAE)
    assert sum(parameter.numel() for parameter in vae.first_stage_model.parameters()) == 83_653_863
    pictures = torch.cat([scenes[:2], scenes[2:]], 2).reshape(1, 128, 128, 3)
    outputs = outputs_of(pictures, vae, passes=3, eight_bit=False)
    expected = pictures
    for told in passes_of(outputs):
        expected = host_pass(vae, expected)
        assert told["mean"]["mse"] == pytest.approx(float((expected - pictures).square().mean()), rel=1e-4)
    assert torch.equal(outputs["last"], expected)
