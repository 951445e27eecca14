"""Pictures that a node shows while it runs, through the host's progress bar."""

from __future__ import annotations

import time
from collections.abc import Callable

import comfy.utils
from comfy_execution.progress import get_progress_state
from PIL import Image
from torch import Tensor

from ..models.metrics.timeline_thumbnail import enlarge, to_image

INTERVAL = 0.1  # seconds between two pictures: a small model makes more calls than anybody can see
LEAST_SIDE = 256  # pixels: a mask has one for each cell


class LivePicture:
    """A progress bar with a picture. Without a page that listens nothing is drawn.

    node_id: the node that shows it, by default the one that is running; another must be told the end.
    """

    def __init__(self, total: int, node_id: str | None = None):
        self.bar = comfy.utils.ProgressBar(total, node_id)
        self.node_id = node_id
        self.drawn = -INTERVAL

    def update(self, value: int, draw: Callable[[], Image.Image]) -> None:
        """Tell how far the work is, with the picture that `draw` makes unless the last was sent a moment ago."""
        now, preview = time.perf_counter(), None
        if self.bar.hook is not None and now - self.drawn >= INTERVAL:
            self.drawn, preview = now, ("PNG", draw(), None)
        self.bar.update_absolute(value, preview=preview)

    def finish(self) -> None:
        """Tell that a node which showed the picture for another is no longer at work."""
        if self.bar.hook is not None and self.node_id is not None:
            get_progress_state().finish_progress(self.node_id)


def mask_picture(mask: Tensor) -> Image.Image:
    """A mask (B, 1, H, W) in 0..1, the first of the batch, in whole multiples of its cells."""
    image = to_image(mask[0, 0, :, :, None].expand(-1, -1, 3))
    return enlarge(image, max(1, -(-LEAST_SIDE // max(image.size))))
