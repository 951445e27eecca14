import lpips
import numpy as np
import pytest
import reedit.models.training.distance as distance_module
import torch
from kornia.filters import gaussian_blur2d
from reedit.models.metrics.perceptual import PerceptualDistance
from reedit.models.training.distance import PictureDistance


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)


@pytest.fixture
def without_lpips(monkeypatch):
    monkeypatch.setattr(distance_module, "load_perceptual_distance", lambda: "LPIPS's weights are not there.")


@pytest.fixture
def random_lpips(monkeypatch):
    """LPIPS itself with an AlexNet of random weights: right for what is done with it, useless for how far it is."""
    network = lpips.LPIPS(pretrained=False, net="alex", pnet_rand=True, verbose=False).requires_grad_(False)
    monkeypatch.setattr(distance_module, "load_perceptual_distance", lambda: PerceptualDistance(network, 63))
    return network


def test_it_is_the_weighted_sum_of_both_errors():
    picture, target = pair()
    difference = picture.double().numpy() - target.double().numpy()
    expected = 3 * np.mean(difference**2) + 0.25 * np.mean(np.abs(difference))
    distance = PictureDistance(3.0, 0.25, 0.0, 64)
    assert float(distance(picture, target)) == pytest.approx(expected, rel=1e-5)
    assert distance.perceptual_name == "none" and distance.network is None


def test_without_lpips_structure_counts_and_it_says_so(without_lpips):
    distance = PictureDistance(0.0, 0.0, 2.0, 64)
    assert distance.perceptual_name == "MS-SSIM" and "weights are not there" in distance.note
    picture, other = pair()
    smooth = gaussian_blur2d(picture, (5, 5), (1.0, 1.0))
    same, near, far = (float(distance(picture, one)) for one in (picture, smooth, other))
    assert abs(same) < 1e-5 and same < near < far <= 2.0 + 1e-5
    # Structure counts for much more than a change of brightness of the same squared error.
    brighter = picture + (smooth - picture).square().mean().sqrt()
    assert float(distance(picture, brighter)) < 0.5 * near


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_with_lpips_it_is_lpips(random_lpips):
    distance = PictureDistance(0.0, 0.0, 0.5, 64)
    assert distance.perceptual_name == "LPIPS" and distance.note == ""
    picture, target = pair()
    expected = 0.5 * random_lpips(2 * picture - 1, 2 * target - 1).mean()
    assert float(distance(picture, target)) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_pictures_too_small_for_lpips_are_compared_without_it(random_lpips):
    distance = PictureDistance(0.0, 0.0, 1.0, 32)
    assert distance.perceptual_name == "MS-SSIM" and "63 pixels" in distance.note
    assert float(distance(torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32))) > 0.1


def test_it_has_a_finite_gradient_where_the_pictures_are_alike(without_lpips):
    picture = torch.rand(1, 3, 32, 32)
    for flat in (picture, torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)):
        decoded = flat.clone().requires_grad_(True)
        PictureDistance(1.0, 1.0, 1.0, 32)(decoded, flat).backward()
        assert decoded.grad.isfinite().all() and decoded.grad.abs().max() < 1


def test_it_is_computed_in_float32_whatever_the_networks_compute_in(without_lpips):
    picture, target = pair()
    distance = PictureDistance(1.0, 1.0, 1.0, 64)
    expected = distance(picture.bfloat16().float(), target)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(distance(picture.bfloat16(), target), expected)
