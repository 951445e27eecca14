from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Both of our own helpers, and those that start the host.
sys.path += [str(HERE), str(HERE.parent / "comfy")]

import numpy as np
from chain_builder import PICTURE
from comfy_frontend import ComfyFrontend, open_browser
from edit_chain import truth
from live_server import LiveServer
from PIL import Image
from playwright.sync_api import Error


@pytest.fixture(scope="module")
def server(host_folder, base_directory, tmp_path_factory):
    """The real host, new to its user, with the demo's picture in its input folder.

    For one module only, so that two hosts never run at once when tests/comfy follows.
    """
    host = LiveServer(host_folder, base_directory, tmp_path_factory.mktemp("browser"))
    # The page reads the list of pictures once, so this one stands there before.
    picture = (truth(None) * 255).round().astype(np.uint8)
    Image.fromarray(picture).save(host.folder("input") / PICTURE)
    with host as running:
        yield running


@pytest.fixture(scope="module")
def frontend(server):
    """ComfyUI's page in a browser that never saw it before, with its greeting closed."""
    with open_browser() as page:
        frontend = ComfyFrontend(page)
        try:
            frontend.open(server.url)
            yield frontend
        finally:
            with suppress(Error):  # a page that crashed shows nothing
                frontend.screenshot("last_seen")  # where a test failed, this shows what stood in its way
