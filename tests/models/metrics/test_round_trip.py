"""The round-trip test against codecs whose damage is known in closed form, and against scikit-image."""

import json
import math
from dataclasses import astuple

import pytest
import torch
from kornia.filters import gaussian_blur2d
from reedit.models.metrics.round_trip import (
    Figures,
    RoundTrip,
    mean_figures,
    mean_spectrum,
    measure_originals,
    measure_picture,
    round_trip,
)
from reedit.models.metrics.round_trip_text import as_data, describe_round_trips
from reedit.models.metrics.spectrum import fine_detail
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

COLOURS = (0.02, -0.01, 0.03)  # what a codec adds to red, green and blue


def unchanged(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def brighter(latent: torch.Tensor) -> torch.Tensor:
    return latent + torch.tensor(COLOURS)[:, None, None]


def blurred(latent: torch.Tensor) -> torch.Tensor:
    return gaussian_blur2d(latent, (5, 5), (0.6, 0.6))


@pytest.fixture
def pictures() -> torch.Tensor:
    """Far enough from 0 and 1 that three passes of `brighter` are never clamped."""
    return 0.3 + 0.4 * torch.rand(3, 24, 32, 3)


def test_a_codec_that_loses_nothing_is_identical_after_every_pass(pictures):
    for done in round_trip(unchanged, unchanged, pictures, 4):
        assert all(torch.equal(after, before) for after, before in zip(done.pictures, pictures, strict=True))
        for one in (*done.figures, done.mean):
            assert (one.mse, one.psnr, one.ssim, one.step_psnr, one.colour_shift) == (
                0,
                math.inf,
                1,
                math.inf,
                (0, 0, 0),
            )
    assert done.number == 4


def test_a_known_shift_adds_up_pass_by_pass(pictures):
    """After pass k the error is k times the shift; from pass to pass it is the shift itself; contrast stays."""
    square = sum(shift**2 for shift in COLOURS) / 3
    for done in round_trip(unchanged, brighter, pictures, 3):
        for one, original in zip(done.figures, pictures, strict=True):
            assert one.mse == pytest.approx(done.number**2 * square, rel=1e-4)
            assert one.psnr == pytest.approx(-10 * math.log10(done.number**2 * square), abs=1e-3)
            assert one.step_psnr == pytest.approx(-10 * math.log10(square), abs=1e-3)
            assert one.colour_shift == pytest.approx([255 * done.number * shift for shift in COLOURS], abs=1e-3)
            assert one.fine_detail == pytest.approx(fine_detail(original[None]), rel=1e-3)


def test_figures_are_those_of_scikit_image(pictures):
    *_, done = round_trip(unchanged, blurred, pictures, 3)
    for after, original, one in zip(done.pictures, pictures, done.figures, strict=True):
        two = original.numpy(), after.numpy()
        assert one.psnr == pytest.approx(peak_signal_noise_ratio(*two, data_range=1.0), abs=1e-3)
        expected = structural_similarity(
            *two, data_range=1.0, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert one.ssim == pytest.approx(expected, abs=1e-5)
        assert one.contrast == pytest.approx(255 * after.numpy().std(), rel=1e-5)


def test_blur_takes_fine_detail_at_every_pass_and_settles():
    """Of a wave of frequency f, averaging it with its neighbours leaves the share ½ + ½·cos 2πf of the amplitude."""
    frequency = 18 / 64
    wave = 0.5 + 0.3 * torch.cos(2 * math.pi * frequency * torch.arange(64.0))
    picture = wave[None, None, :, None].expand(1, 32, 64, 3)

    def averaged(latent: torch.Tensor) -> torch.Tensor:
        return (latent.roll(1, -1) + 2 * latent + latent.roll(-1, -1)) / 4

    share = 0.5 + 0.5 * math.cos(2 * math.pi * frequency)
    for done in round_trip(unchanged, averaged, picture, 4):
        amplitude = 0.3 * share**done.number
        assert done.mean.fine_detail == pytest.approx(255**2 * amplitude**2 / 2, rel=1e-3)
        assert done.mean.contrast == pytest.approx(255 * amplitude / math.sqrt(2), rel=1e-3)
        step = 0.3 * share ** (done.number - 1) - amplitude
        assert done.mean.step_psnr == pytest.approx(-10 * math.log10(step**2 / 2), abs=1e-3)


def test_pictures_are_clamped_and_rounded_between_the_passes(pictures):
    """The second pass encodes the picture as it was kept, not as it was decoded."""
    seen = []

    def encode(picture: torch.Tensor) -> torch.Tensor:
        seen.append(picture.clone())
        return picture

    list(round_trip(encode, lambda latent: 3 * latent - 1, pictures[:1], 2, eight_bit=True))
    expected = ((3 * pictures[:1].movedim(-1, 1) - 1).clamp(0, 1) * 255).round() / 255
    assert torch.equal(seen[1], expected)
    list(round_trip(encode, lambda latent: 3 * latent - 1, pictures[:1], 2, eight_bit=False))
    assert torch.equal(seen[3], (3 * pictures[:1].movedim(-1, 1) - 1).clamp(0, 1))


@pytest.mark.parametrize(("at_once", "sizes"), [(1, [1, 1, 1]), (2, [2, 1]), (8, [3])])
def test_pictures_go_through_in_parts(pictures, at_once, sizes):
    seen, told = [], []

    def encode(picture: torch.Tensor) -> torch.Tensor:
        seen.append(len(picture))
        return picture

    passes = round_trip(encode, blurred, pictures, 2, at_once=at_once, after_each=lambda: told.append(len(seen)))
    first = next(passes)
    assert seen == sizes and told == list(range(1, len(sizes) + 1))  # one pass at a time, and no more
    alone = [next(round_trip(unchanged, blurred, picture[None], 1)) for picture in pictures]
    for one, single in zip(first.figures, alone, strict=True):
        assert astuple(one)[:-1] == pytest.approx(astuple(single.mean)[:-1], rel=1e-6)


def test_the_pictures_that_are_given_stay_as_they_are(pictures):
    before = pictures.clone()
    list(round_trip(unchanged, brighter, pictures, 2, eight_bit=True))
    assert torch.equal(pictures, before)


def test_a_network_in_training_keeps_no_gradients_of_it():
    with torch.inference_mode(False), torch.enable_grad():
        gain = torch.tensor(0.9, requires_grad=True)
        for done in round_trip(unchanged, lambda latent: gain * latent, torch.rand(1, 16, 16, 3), 2):
            assert not done.pictures[0].requires_grad and torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("decode", "words"),
    [
        (lambda latent: latent[..., :16], "32×24 came back as 16×24"),
        (lambda latent: latent / 0 - latent / 0, "mine, pass 1: the picture holds NaN"),
    ],
)
def test_a_codec_that_fails_is_named(pictures, decode, words):
    with pytest.raises(ValueError, match=words):
        next(round_trip(unchanged, decode, pictures, 1, name="mine"))


def test_a_picture_smaller_than_the_window_of_ssim_is_measured_without_it():
    done = next(round_trip(unchanged, brighter, 0.5 * torch.ones(1, 8, 8, 3), 1))
    assert done.mean.ssim is None and math.isfinite(done.mean.psnr)


def test_means_leave_out_what_is_identical():
    picture = torch.rand(16, 16, 3)
    one = measure_picture(picture, picture, picture)
    other = measure_picture(picture * 0.9, picture, picture)
    mean = mean_figures([one, other])
    assert mean.psnr == other.psnr and mean.mse == other.mse / 2 and mean.ssim == (1 + other.ssim) / 2
    assert mean.colour_shift == pytest.approx([shift / 2 for shift in other.colour_shift])


def test_of_all_passes_only_those_that_are_shown_are_kept(pictures):
    trip = RoundTrip("VAE", pictures.repeat(2, 1, 1, 1))
    for done in round_trip(unchanged, brighter, trip.originals, 17):
        trip.add(done)
        assert max(trip.shown) == done.number
    assert sorted(trip.shown) == [1, 5, 15, 17] and {len(shown) for shown in trip.shown.values()} == {4}
    assert len(trip.last) == 6 and len(trip.figures) == len(trip.means) == 17
    assert torch.equal(trip.shown[17][0], trip.last[0])


def test_the_spectrum_is_the_mean_of_the_pictures(pictures):
    louder = 0.5 + 2 * (pictures[:1] - 0.5)  # twice the amplitude is four times the power
    alone, both = (mean_spectrum("", shown) for shown in (pictures[:1], torch.cat([pictures[:1], louder])))
    assert torch.allclose(both.power, 2.5 * alone.power, rtol=1e-4)


# --- words and data ---------------------------------------------------------------------------------------------------


def trip(name: str, psnrs: list[float], step: float = 40.0) -> RoundTrip:
    originals = torch.rand(1, 16, 16, 3)
    figures = [(Figures(10 ** (-psnr / 10), psnr, 0.9, step, 10.0, 50.0, (0.1, -3.0, 1.0)),) for psnr in psnrs]
    return RoundTrip(name, originals, figures, {len(psnrs): tuple(originals)}, tuple(originals))


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        ([38, 30, 20], [37.5, 31, 26], "Other VAE held better: after pass 3 it is closer to the original by 6.0 dB."),
        ([38, 30, 20], [37.5, 31, 26], "On pass 1 VAE is closer, by 0.5 dB; from pass 2 on other VAE is."),
        ([38, 30, 27], [37.5, 31, 26], "VAE held better: after pass 3 it is closer to the original by 1.0 dB."),
        ([38, 30, 27], [37.5, 31, 26], "It loses nothing on pass 1 (+0.5 dB)."),
        ([38, 30], [38, 30.01], "After pass 2 both are alike."),
        ([38, 30], [math.inf, math.inf], "it is identical to the original"),
        ([math.inf], [math.inf], "both are alike"),
    ],
)
def test_the_summary_says_which_held_better(one, other, words):
    assert words in describe_round_trips([trip("VAE", one), trip("other VAE", other)], True)


def test_the_summary_says_what_each_did():
    words = describe_round_trips([trip("VAE", [38, 30], step=math.inf)], False)
    assert "1 picture of 16×16, not rounded between the passes." in words and "held better" not in words
    assert "PSNR 38.0 dB after pass 1, 30.0 dB after pass 2; the last pass changed nothing any more" in words
    assert "green moved by -3.0 of 255" in words
    assert "after pass 1;" in describe_round_trips([trip("VAE", [38])], False)


def test_the_data_hold_every_figure(pictures):
    told = RoundTrip("VAE", pictures)
    for done in round_trip(unchanged, brighter, pictures, 2):
        told.add(done)
    data = as_data([told], True)
    assert (data["pictures"], data["width"], data["height"], data["eight_bit"]) == (3, 32, 24, True)
    (vae,) = data["vaes"]
    assert [entry["pass"] for entry in vae["passes"]] == [1, 2]
    assert vae["passes"][1]["pictures"][2]["psnr"] == told.figures[1][2].psnr
    assert vae["passes"][1]["mean"]["mse"] == told.means[1].mse
    assert data["original"]["fine_detail"] == measure_originals(pictures).fine_detail
    assert len(vae["spectrum"]["power"]) == len(vae["spectrum"]["frequencies"]) == 12
    json.dumps(data)
