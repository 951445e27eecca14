from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from live_server import LiveServer


@pytest.fixture(scope="session")
def server(host_folder, base_directory, tmp_path_factory):
    """The real host, started once for all tests that need it running."""
    with LiveServer(host_folder, base_directory, tmp_path_factory.mktemp("server")) as running:
        yield running
