"""Nodes that are called otherwise now. Workflows that were saved under an old name open and run with the new one.

A node that gets another id, or an input another name, gets an entry here, and keeps it for good:

    io.NodeReplace(
        new_node_id="ReEditNew",
        old_node_id="ReEditOld",
        old_widget_ids=["seed"],  # all of the old node's widgets, in their order: files know them by their places
        input_mapping=[{"new_id": "samples", "old_id": "latent"}],  # all inputs, those that kept their names too
        output_mapping=[{"new_idx": 0, "old_idx": 0}],
    )
"""

from __future__ import annotations

from collections.abc import Sequence

from comfy_api.v0_0_2 import ComfyAPI, io

RENAMED: tuple[io.NodeReplace, ...] = ()


async def register_renamed(renamed: Sequence[io.NodeReplace] = RENAMED) -> None:
    """Tell the host and, through it, the page."""
    for one in renamed:
        await ComfyAPI().node_replacement.register(one)
