"""PSNR, SSIM and MS-SSIM against scikit-image and pytorch-msssim on photographs, and over parts of a picture."""

import math

import numpy as np
import pytest
import torch
from pytorch_msssim import ms_ssim as other_ms_ssim
from reedit.models.metrics.similarity import MS_SSIM_SIDE, MS_SSIM_WINDOW, SimilarityMaps, colour_shift, masked_psnr
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity


def photograph(name: str, height: int, width: int) -> torch.Tensor:
    return torch.from_numpy(getattr(data, name)()[:height, :width].astype(np.float32) / 255)[None]


def damaged(picture: torch.Tensor, amount: float) -> torch.Tensor:
    return (picture + amount * torch.randn_like(picture)).clamp(0, 1)


PHOTOGRAPHS = [("astronaut", 192, 256), ("chelsea", 300, 451), ("coffee", 161, 200)]


@pytest.mark.parametrize(("name", "height", "width"), PHOTOGRAPHS)
@pytest.mark.parametrize("amount", [0.01, 0.2])
def test_ssim_and_psnr_are_those_of_scikit_image(name, height, width, amount):
    picture = photograph(name, height, width)
    other = damaged(picture, amount)
    expected = structural_similarity(
        picture[0].numpy(),
        other[0].numpy(),
        data_range=1.0,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert math.isclose(SimilarityMaps(other, picture).ssim(), expected, abs_tol=2e-5)
    psnr = peak_signal_noise_ratio(picture[0].numpy(), other[0].numpy(), data_range=1.0)
    assert math.isclose(masked_psnr(other, picture, torch.ones(1, height, width, dtype=torch.bool)), psnr, abs_tol=1e-3)


@pytest.mark.parametrize("amount", [0.01, 0.2])
@pytest.mark.parametrize(("height", "width"), [(256, 384), (176, 240)])
def test_ms_ssim_is_that_of_pytorch_msssim(height, width, amount):
    """At sides that halve four times without a rest: at others that package shifts the pictures by a padded pixel."""
    picture = torch.cat([photograph("astronaut", height, width), photograph("coffee", height, width)])
    other = damaged(picture, amount)
    expected = other_ms_ssim(other.movedim(-1, 1), picture.movedim(-1, 1), data_range=1.0)
    assert math.isclose(SimilarityMaps(other, picture).ms_ssim(), float(expected), abs_tol=2e-5)


def test_ms_ssim_takes_any_side_above_its_least():
    picture = photograph("coffee", MS_SSIM_SIDE + 1, MS_SSIM_SIDE + 8)
    other = damaged(picture, 0.05)
    whole = SimilarityMaps(other, picture).ms_ssim()
    expected = float(other_ms_ssim(other.movedim(-1, 1), picture.movedim(-1, 1), data_range=1.0))
    assert math.isclose(whole, expected, abs_tol=0.02)  # the two treat the odd last row differently
    maps = SimilarityMaps(other[:, :MS_SSIM_SIDE], picture[:, :MS_SSIM_SIDE])
    assert maps.ms_ssim() is None and maps.ssim() is not None


def test_identical_pictures_are_exactly_identical():
    picture = torch.cat([photograph("astronaut", 192, 200), torch.zeros(1, 192, 200, 3)])
    maps = SimilarityMaps(picture, picture.clone())
    assert maps.ssim() == 1.0 and maps.ms_ssim() == 1.0


def test_a_part_is_measured_as_if_it_were_a_picture_of_its_own():
    """SSIM takes whole windows only, so over a rectangle it is scikit-image's of the rectangle cut out."""
    picture = photograph("chelsea", 128, 160)
    other = damaged(picture, 0.1)
    where = torch.zeros(1, 128, 160, dtype=torch.bool)
    where[:, 30:90, 40:120] = True
    cut = SimilarityMaps(other[:, 30:90, 40:120], picture[:, 30:90, 40:120])
    assert math.isclose(SimilarityMaps(other, picture).ssim(where), cut.ssim(), abs_tol=1e-6)


@pytest.mark.parametrize("figure", ["ssim", "ms_ssim"])
def test_an_edit_does_not_leak_into_the_figure_outside(figure):
    picture = photograph("astronaut", 256, 400)
    other = damaged(picture, 0.02)
    outside = torch.ones(1, 256, 400, dtype=torch.bool)
    outside[:, 60:93, 301:390] = False
    painted = other.clone()
    painted[~outside] = torch.rand(int((~outside).sum()), 3)
    before, after = (getattr(SimilarityMaps(image, picture), figure)(outside) for image in (other, painted))
    assert math.isclose(before, after, abs_tol=1e-6)
    assert getattr(SimilarityMaps(painted, picture), figure)() < before - 0.01  # over everything it is seen


def test_where_no_window_fits_there_is_no_figure():
    picture = photograph("astronaut", 256, 256)
    maps = SimilarityMaps(damaged(picture, 0.1), picture)
    narrow = torch.zeros(1, 256, 256, dtype=torch.bool)
    narrow[:, 8:18] = True
    assert maps.ssim(narrow) is None
    narrow[:, 18] = True
    assert maps.ssim(narrow) is not None and maps.ms_ssim(narrow) is None
    narrow[:, :MS_SSIM_WINDOW] = True
    assert maps.ms_ssim(narrow) is not None
    assert SimilarityMaps(picture[:, :10], picture[:, :10]).ssim() is None


def test_pictures_of_a_batch_in_which_nothing_fits_are_left_out():
    picture = torch.cat([photograph("astronaut", 64, 64), photograph("coffee", 64, 64)])
    other = damaged(picture, 0.1)
    where = torch.zeros(2, 64, 64, dtype=torch.bool)
    where[0] = True
    first = SimilarityMaps(other[:1], picture[:1]).ssim()
    assert math.isclose(SimilarityMaps(other, picture).ssim(where), first, abs_tol=1e-6)


def test_psnr_of_a_known_error():
    """A constant error of 0.1 is 20 dB by definition."""
    picture, where = torch.full((1, 4, 4, 3), 0.5), torch.zeros(1, 4, 4, dtype=torch.bool)
    where[:, :2] = True
    other = picture.clone()
    other[:, :2] += 0.1
    other[:, 2:] = 0.0  # not looked at
    assert math.isclose(masked_psnr(other, picture, where), 20.0, abs_tol=1e-3)
    assert masked_psnr(picture, picture, where) == math.inf
    assert masked_psnr(picture, other, ~torch.ones_like(where)) is None


def test_colour_shift_is_signed_and_of_the_part_only():
    picture, where = torch.full((2, 6, 6, 3), 0.5), torch.zeros(2, 6, 6, dtype=torch.bool)
    where[:, :3] = True
    other = picture.clone()
    other[:, :3] += torch.tensor([10.0, -4.0, 0.0]) / 255
    other[:, 3:] = 1.0
    assert np.allclose(colour_shift(other, picture, where), (10, -4, 0), atol=1e-4)
    assert colour_shift(other, picture, torch.zeros_like(where)) is None
