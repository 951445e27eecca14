"""What tests of several nodes start from."""

import sys
from pathlib import Path

import pytest
from reedit.nodes.autoencoders import ReEditEncode

sys.path.append(str(Path(__file__).parents[1]))  # host_graph.py, random_families.py


@pytest.fixture
def latent(tiny_vae, scenes):
    """A drawn scene's latent, at the start of a session."""
    return ReEditEncode.execute(scenes[:1], tiny_vae)[0]
