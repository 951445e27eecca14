"""Encode and decode again and again: what an edit session through pixels does to a picture (REED-VAE, section 3.1).

Pictures are (B, 3, H, W) in 0..1 here, channels first, as networks take them; latents (B, C, h, w) in the VAE's own scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

Network = Callable[[Tensor], Tensor]


def as_kept(picture: Tensor, eight_bit: bool) -> Tensor:
    """A decoded picture as a host or an image file keeps it, float32: clamped to 0..1, and with `eight_bit` of 256 levels.

    The gradient passes straight through both: neither has one worth having where it acts. Levels are rounded; the host's
    own Save Image cuts off, and so darkens a picture by half a level each time.
    """
    picture = picture.float()
    kept = picture.detach().clamp(0, 1)
    if eight_bit:
        kept = (255 * kept).round() / 255
    return kept + (picture - picture.detach()) if picture.requires_grad else kept


def run_chain(
    encode: Network, decode: Network, picture: Tensor, passes: int, eight_bit: bool = False
) -> Iterator[Tensor]:
    """x^1, x^2, … x^passes, one at a time: x^i = kept(decode(encode(x^{i-1}))), where x^0 is `picture`.

    encode: pictures to the latent's mean. decode: latents to pictures, unclamped. eight_bit: round between the passes too.
    A host encodes the mean, and clamps what it decodes: so does the chain.
    """
    for _ in range(passes):
        picture = as_kept(decode(encode(picture)), eight_bit)
        yield picture
