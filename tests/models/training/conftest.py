import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[2]))  # random_families

from reedit.models.autoencoders.kl_file import read_autoencoder
from reedit.models.autoencoders.kl_network import KLNetwork
from small_training import write_autoencoder, write_pictures


@pytest.fixture(autouse=True)
def _as_the_host_runs_nodes():
    """Not here: what is trained is trained outside the host's inference mode."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """A folder of twelve pictures of 20×24 pixels. Tests do not write in it."""
    return write_pictures(tmp_path_factory.mktemp("pictures"), 12)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """The file of a small autoencoder. Tests do not write to it."""
    return write_autoencoder(tmp_path_factory.mktemp("base") / "base.safetensors")


@pytest.fixture
def small_network(base) -> KLNetwork:
    """The small autoencoder, to be trained."""
    return KLNetwork(read_autoencoder(base).in_ldm_layout())
