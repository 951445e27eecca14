"""An eps-VAE decoder's network run in tiles without a seam: every layer over all tiles, before the next one begins.

What is said in tiles.py holds here too: convolutions see the pixels around their tile, norms the moments of the whole map,
and attention, which stands where maps are small, sees them whole. So a velocity in tiles is the velocity, up to rounding, and
all tiles of a picture are of one noise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .tiles import FeatureMap, TileWork, normed

if TYPE_CHECKING:  # diffusers takes seconds to import, and the host starts without it
    from .epsilon import EpsilonDecoder


@torch.no_grad()
def velocity_in_tiles(
    decoder: EpsilonDecoder,
    noised: Tensor,
    time: Tensor,
    condition: Tensor,
    tile: int,
    device: torch.device,
    advance: Callable[[int, int], None] | None = None,
) -> Tensor:
    """What decoder.velocity says, (B, 3, H, W) float32, computed in tiles on `device`, where the decoder is.

    noised, time, condition: as that method takes them; maps are kept where `noised` lies. tile: the longest side of a tile,
    in pixels; no tile is smaller than a pixel of the smallest map. advance: called after each tile with how many of how
    many are done.
    """
    from .epsilon import TIME_SCALE

    unet, smallest = decoder.unet, 2 ** (len(decoder.config.multipliers) - 1)
    source = decoder.network_input(noised, time, condition)
    work = TileWork(source, smallest, max(1, tile // smallest), device, advance)
    work.expect(_layers_of(unet))
    embeddings = unet.time_embedding(unet.time_proj(TIME_SCALE * time.to(device)).to(unet.dtype))
    pictures = zip(source.split(1), embeddings.split(1), strict=True)
    answer = torch.cat([_run_unet(work, unet, one, embedding) for one, embedding in pictures]).float()
    return decoder.velocity_of(answer, noised, time)


def _run_unet(work: TileWork, unet: Any, source: Tensor, embedding: Tensor) -> Tensor:
    """What the network makes of one picture, (1, C, H, W) to (1, 3, H, W). embedding: (1, E), of the time."""
    hidden = work.run(unet.conv_in, source)
    skips = [hidden]
    for block in unet.down_blocks:
        for resnet, attention in _layers(block):
            hidden = _attend(work, attention, _run_resnet(work, resnet, hidden, embedding))
            skips.append(hidden)
        for sampler in block.downsamplers or ():
            hidden = _run_resnet(work, sampler, hidden, embedding)
            skips.append(hidden)
    hidden = work.keep(unet.mid_block(hidden.values.to(work.device), embedding))
    for block in unet.up_blocks:
        for resnet, attention in _layers(block):
            hidden = _attend(work, attention, _run_resnet(work, resnet, _beside(hidden, skips.pop()), embedding))
        for sampler in block.upsamplers or ():
            hidden = _run_resnet(work, sampler, hidden, embedding)
    return work.run(normed(unet.conv_norm_out, hidden, work.device, unet.conv_out), hidden.values).values


def _run_resnet(work: TileWork, resnet: Any, hidden: FeatureMap, embedding: Tensor) -> FeatureMap:
    """A residual block, one that halves or doubles the map's sides among them."""
    resample = resnet.upsample or resnet.downsample
    if resample is None:
        residual, first, margin = hidden.values, resnet.conv1, 1
        # A map goes on as a skip too: the sum must not be written into it, as it is where there is no shortcut.
        shortcut = resnet.conv_shortcut or nn.Identity()
    else:
        # Two pixels are one where the sides are halved.
        residual, margin = work.run(resample, hidden.values, margin=0).values, 2
        first, shortcut = nn.Sequential(resample, resnet.conv1), resnet.conv_shortcut
    inner = work.run(normed(resnet.norm1, hidden, work.device, first), hidden.values, margin)
    scale, shift = resnet.time_emb_proj(functional.silu(embedding))[0].chunk(2)
    second = normed(resnet.norm2, inner, work.device, resnet.conv2, (scale, shift))
    return work.run(second, inner.values, residual=residual, shortcut=shortcut)


def _attend(work: TileWork, attention: Any, hidden: FeatureMap) -> FeatureMap:
    """Attention over the whole map, where there is one at this level."""
    return hidden if attention is None else work.keep(attention(hidden.values.to(work.device)))


def _beside(hidden: FeatureMap, skip: FeatureMap) -> FeatureMap:
    """Two maps as one, channel by channel."""
    pairs = ((hidden.values, skip.values, 1), (hidden.mean, skip.mean, 0), (hidden.square, skip.square, 0))
    return FeatureMap(*(torch.cat([one, other], dim) for one, other, dim in pairs))


def _layers(block: Any) -> list[tuple[Any, Any]]:
    """The residual blocks of a level, each with the attention after it or None."""
    return list(zip(block.resnets, getattr(block, "attentions", [None] * len(block.resnets)), strict=True))


def _layers_of(unet: Any) -> int:
    """How often `TileWork.run` is called for a picture: twice a residual block, thrice if it resamples, and at the ends."""
    blocks = [*unet.down_blocks, *unet.up_blocks]
    resamplers = [getattr(block, "downsamplers", None) or getattr(block, "upsamplers", None) or () for block in blocks]
    return 2 + sum(2 * len(block.resnets) + 3 * len(its) for block, its in zip(blocks, resamplers, strict=True))
