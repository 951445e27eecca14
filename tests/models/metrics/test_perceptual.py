"""LPIPS against the package's own way of loading and running it, with an AlexNet of random weights."""

import builtins
import math
import pickle
import socket
from pathlib import Path

import lpips
import pytest
import torch
from reedit.models.metrics.perceptual import load_perceptual_distance
from torchvision.models import AlexNet_Weights, alexnet

FILE_NAME = Path(AlexNet_Weights.IMAGENET1K_V1.url).name


@pytest.fixture(autouse=True)
def no_download(monkeypatch):
    def refuse(*_):
        raise AssertionError("something is being downloaded")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def random_alexnet(tmp_path_factory):
    """A torch home in which AlexNet's file holds random weights."""
    home = tmp_path_factory.mktemp("torch_home")
    file = home / "hub" / "checkpoints" / FILE_NAME
    file.parent.mkdir(parents=True)
    torch.save(alexnet(weights=None).state_dict(), file)
    yield home
    file.unlink()  # a quarter of a gigabyte


def hub_file(monkeypatch, home: Path) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(home))
    file = home / "hub" / "checkpoints" / FILE_NAME
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_it_is_lpips(monkeypatch, random_alexnet):
    monkeypatch.setenv("TORCH_HOME", str(random_alexnet))
    state = torch.get_rng_state()
    distance = load_perceptual_distance()
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's random numbers change
    pictures, others = torch.rand(2, 80, 64, 3), torch.rand(2, 80, 64, 3)
    theirs = lpips.LPIPS(net="alex", verbose=False)
    expected = theirs(2 * pictures.movedim(-1, 1) - 1, 2 * others.movedim(-1, 1) - 1).mean()
    assert math.isclose(distance(pictures, others), float(expected), rel_tol=1e-5)
    assert distance(pictures, pictures) == 0.0 and distance(pictures, others) > 0
    assert distance(torch.rand(1, distance.least_side, 90, 3), torch.rand(1, distance.least_side, 90, 3)) > 0


def test_without_the_backbone_it_says_where_it_belongs(monkeypatch, tmp_path):
    file = hub_file(monkeypatch, tmp_path)
    words = load_perceptual_distance()
    assert str(file) in words and AlexNet_Weights.IMAGENET1K_V1.url in words


def test_without_the_package_it_says_so(monkeypatch):
    real_import = builtins.__import__

    def without_lpips(name, *rest):
        if name == "lpips":
            raise ModuleNotFoundError("No module named 'lpips'", name="lpips")
        return real_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_lpips)
    assert "package lpips" in load_perceptual_distance()


class Trap:
    """What unpickling would run."""

    def __reduce__(self):
        return exec, ("raise SystemExit('a file ran code')",)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "write",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"<html>not found</html>"),
        lambda file: torch.save({"features.0.weight": torch.zeros(1)}, file),
        lambda file: torch.save([1, 2, 3], file),
        lambda file: torch.save({"features.0.weight": Trap()}, file),
        lambda file: file.write_bytes(pickle.dumps(Trap())),
    ],
    ids=["empty", "a web page", "other tensors", "a list", "a trap", "a plain pickled trap"],
)
def test_a_file_that_is_not_the_backbone_is_named(monkeypatch, tmp_path, write):
    file = hub_file(monkeypatch, tmp_path)
    write(file)
    words = load_perceptual_distance()
    assert isinstance(words, str) and str(file) in words and "cannot be read" in words
