"""Decoding a latent to the picture that encodes to it again. No paper's: ours, for any autoencoder, with nothing to train.

What an autoencoder decodes is not read as it was meant: encode(decode(z)) is a little off z, and pass by pass that adds up.
The decoder can draw a picture that is read rightly if it is given another latent: z' with encode(decode(z')) = z.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .chain import Network


def decode_corrected(
    encode: Network, decode: Network, latent: Tensor, corrections: int, after_each: Callable[[], object] = lambda: None
) -> Tensor:
    """What `decode` makes of z' after so many steps of z' ← z' + (z - encode(decode(z'))), from z' = z, the latent.

    encode: pictures to latents; decode: latents to pictures, as it is kept. latent: (B, C, h, w), or (B, C, 1, h, w) where
    that is what encode gives. The steps converge where encode(decode(z)) is near z in its changes too. For a picture of the
    batch that a step took further away, as the next one's encode tells, it is taken back, and there are no more; the last
    step is not checked. Costs corrections + 1 decodes and `corrections` encodes; after_each: called after each decode or
    encode. Raises ValueError where corrections is less than 0.
    """
    if corrections < 0:
        raise ValueError(f"corrections is {corrections}, and must be 0 or more.")
    given = before = latent
    of_each = (len(latent),) + (1,) * (latent.ndim - 1)
    nearest = torch.full(of_each, torch.inf, device=latent.device)
    for _ in range(corrections):
        picture = decode(given)
        after_each()
        off = latent - encode(picture).to(latent)
        after_each()
        distance = off.float().square().flatten(1).mean(1).reshape(of_each)
        nearer = distance < nearest  # not so, and not after it either, where a step was taken back
        given, before = torch.where(nearer, given + off, before), torch.where(nearer, given, before)
        nearest = torch.where(nearer, distance, -torch.inf)
    picture = decode(given)
    after_each()
    return picture
