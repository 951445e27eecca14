"""eps-VAE in a running host: its template, through comfy-cli."""

from __future__ import annotations

import demo
import numpy as np
from chain_builder import PICTURE
from edit_chain import truth
from saved_workflows import run_shipped

SIDE, GAP = 64, 4  # pixels: of a demo picture, and between two of them on the sheet


def cells_of(sheet: np.ndarray) -> list[np.ndarray]:
    """The six pictures of a sheet of two rows."""
    corners = [(row * (SIDE + GAP), column * (SIDE + GAP)) for row in range(2) for column in range(3)]
    return [sheet[top : top + SIDE, left : left + SIDE] for top, left in corners]


def test_the_template_decodes_one_latent_in_five_ways(server):
    demo.save_picture(truth(None), server.folder("input") / PICTURE)
    shown = run_shipped("epsilon_decode", server)
    sheet = demo.open_picture(server.output_file(shown["five decodes"]["images"][0]))
    assert sheet.shape == (2 * SIDE + GAP, 3 * SIDE + 2 * GAP, 3)
    picture, *decoded = cells_of(sheet)
    assert np.abs(picture - truth(None)).max() < 1 / 255
    for one in decoded:
        assert demo.psnr(one, picture) > 24
    _, one_step, three, _, other_seed = decoded
    assert (three != one_step).any() and (three != other_seed).any()
    assert demo.psnr(three, other_seed) > demo.psnr(three, picture)  # the latent says what is to be seen, not the noise
