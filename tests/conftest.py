"""The real host on the path, and the pack imported as the host imports it: a package, whatever its folder is called."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
HOST = Path(os.environ.get("COMFYUI_PATH", ROOT / "build" / "host" / "ComfyUI"))

if not (HOST / "main.py").is_file():
    pytest.exit(f"There is no ComfyUI at {HOST}. Run the tests with: python3 dev.py test", returncode=2)
sys.path.insert(0, str(HOST))

import comfy.cli_args

comfy.cli_args.args.cpu = True  # before anything of the host looks for devices

import nodes as host_nodes  # noqa: F401  (the host's own nodes.py, loaded before the pack as in a running host)
import torch


def import_folder(name: str, folder: Path):
    """Import a folder under a name of our choice, as the host does with custom-node folders."""
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


import_folder("reedit", ROOT)
import_folder("tiny_sd", TESTS / "tiny_sd")

torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))  # more only wait for each other on models this small


@pytest.fixture(autouse=True)
def _same_random_numbers():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _as_the_host_runs_nodes():
    """The host runs every node in inference mode."""
    with torch.inference_mode():
        yield


@pytest.fixture(scope="session")
def host_folder() -> Path:
    return HOST


@pytest.fixture(scope="session")
def base_directory() -> Path:
    """Where dev.py links the pack and the demo family for the host."""
    return ROOT / "build" / "comfy"


@pytest.fixture(scope="session")
def weights_folder() -> Path:
    return TESTS / "tiny_sd" / "weights"


@pytest.fixture(scope="session")
def tiny_vae(weights_folder):
    """The demo family's VAE, in a host VAE object."""
    from reedit.nodes.autoencoders import load_kl_vae

    return load_kl_vae(weights_folder / "tiny_sd_autoencoder.safetensors")


def load_tiny_model(weights_folder: Path, name: str):
    """(MODEL, CLIP) of one of the demo family's checkpoints, through the host's own loader."""
    import comfy.sd
    from tiny_sd import family

    family.register()
    file = weights_folder / f"tiny_sd_{name}.safetensors"
    with torch.inference_mode():
        return comfy.sd.load_checkpoint_guess_config(str(file), output_vae=False, output_clip=True)[:2]


@pytest.fixture(scope="session")
def text_to_image(weights_folder):
    return load_tiny_model(weights_folder, "text_to_image")


@pytest.fixture(scope="session")
def instruct_pix2pix(weights_folder):
    return load_tiny_model(weights_folder, "instruct_pix2pix")


@pytest.fixture(scope="session")
def scenes() -> torch.Tensor:
    """Four pictures of the drawn world that no model was trained on, (4, 64, 64, 3) in 0..1."""
    import numpy as np
    from tiny_sd.world import draw, random_scene

    generator = np.random.default_rng(5_000_000)
    return torch.from_numpy(np.stack([draw(random_scene(generator)) for _ in range(4)]))
