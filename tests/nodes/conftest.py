"""What tests of several nodes start from."""

import sys
from pathlib import Path

import comfy.model_management
import comfy.sd
import comfy.utils
import folder_paths
import numpy as np
import pytest
import torch
from PIL import Image
from reedit.nodes.autoencoders import ReEditEncode, load_kl_vae
from tiny_sd.world import draw, random_scene

sys.path.append(str(Path(__file__).parents[1]))  # host_graph.py, random_families.py


@pytest.fixture(scope="session", autouse=True)
def _temporary_folder_of_our_own(tmp_path_factory):
    """Nodes write thumbnails and previews into the host's folder for temporary files; nothing of the tests stays there."""
    before = folder_paths.get_temp_directory()
    folder_paths.set_temp_directory(str(tmp_path_factory.mktemp("temp")))
    yield
    folder_paths.set_temp_directory(before)


@pytest.fixture
def latent(tiny_vae, scenes):
    """A drawn scene's latent, at the start of a session."""
    return ReEditEncode.execute(scenes[:1], tiny_vae)[0]


@pytest.fixture
def base(weights_folder):
    """The demo's VAE, loaded as in the host: in inference mode."""
    vae = load_kl_vae(weights_folder / "tiny_sd_autoencoder.safetensors")
    assert all(tensor.is_inference() for tensor in vae.get_sd().values())
    return vae


@pytest.fixture
def training_folders(tmp_path, monkeypatch):
    """The host's folders, for this test alone; eight pictures of 64×64 stand in input/my_pictures."""
    kinds = ("input", "output", "temp")
    before = [getattr(folder_paths, f"get_{kind}_directory")() for kind in kinds]
    for kind in kinds:
        getattr(folder_paths, f"set_{kind}_directory")(str(tmp_path / kind))
    known = folder_paths.folder_names_and_paths
    monkeypatch.setitem(known, "vae", ([str(tmp_path / "vae"), *known["vae"][0]], known["vae"][1]))
    random = np.random.default_rng(7)
    (tmp_path / "input" / "my_pictures").mkdir(parents=True)
    for number in range(8):
        scene = (255 * draw(random_scene(random))).round().astype(np.uint8)
        Image.fromarray(scene).save(tmp_path / "input" / "my_pictures" / f"{number}.png")
    yield tmp_path
    for kind, place in zip(kinds, before, strict=True):
        getattr(folder_paths, f"set_{kind}_directory")(place)


@pytest.fixture
def progress_hook():
    """What the host is told of progress; also puts back what a test hooks in, and takes back an interrupt."""
    told: list[tuple[int, int, object]] = []
    before = comfy.utils.PROGRESS_BAR_HOOK
    comfy.utils.set_progress_bar_global_hook(lambda value, total, preview, **_: told.append((value, total, preview)))
    yield told
    comfy.utils.set_progress_bar_global_hook(before)
    comfy.model_management.interrupt_current_processing(False)


def make_wan_vae(channels: int):
    """Wan's and Qwen-Image's, an eighth as wide, of random numbers; with four channels the layered Qwen-Image's."""
    shapes = {
        "decoder.middle.0.residual.0.gamma": (32, 1, 1, 1),
        "decoder.head.0.gamma": (8, 1, 1, 1),
        "encoder.conv1.weight": (8, channels, 3, 3, 3),
        "decoder.head.2.weight": (channels, 8, 3, 3, 3),
    }
    vae = comfy.sd.VAE(sd={name: torch.ones(shape) for name, shape in shapes.items()})
    generator = torch.Generator().manual_seed(0)
    for name, parameter in vae.first_stage_model.named_parameters():
        if name.endswith("gamma"):
            torch.nn.init.ones_(parameter)
        else:
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return vae


@pytest.fixture(scope="session")
def narrow_wan_vae():
    return make_wan_vae(3)


@pytest.fixture(scope="session")
def narrow_layered_vae():
    return make_wan_vae(4)
