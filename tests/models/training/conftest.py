import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

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
