"""What tests of several nodes start from."""

import pytest
from reedit.nodes.autoencoders import ReEditEncode


@pytest.fixture
def latent(tiny_vae, scenes):
    """A drawn scene's latent, at the start of a session."""
    return ReEditEncode.execute(scenes[:1], tiny_vae)[0]
