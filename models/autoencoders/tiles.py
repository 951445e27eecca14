"""A KL autoencoder run in tiles without a seam: every layer over all tiles, before the next one begins.

Tiles that go through the whole network by themselves come out in other colours, since group norms and attention see the
tile and not the picture. Here a convolution sees its tile and the pixels around it, and a norm the moments of the whole
feature map, gathered as its tiles were made. Attention stands where maps are smallest, and sees them whole. So the result is
that of the network at once, up to rounding. Feature maps are kept where the input lies, in the host's memory as a rule;
only a tile of one is ever on the device that computes, besides the maps of the latent's size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Layer = Callable[[Tensor], Tensor]
Box = tuple[int, int, int, int]  # top, bottom, left, right

RESNET_PARTS = {"norm1", "conv1", "norm2", "conv2", "nin_shortcut", "swish", "dropout"}


@dataclass
class FeatureMap:
    """values: (1, C, H, W), where it is kept. mean, square: (C,) float64, of the values and of their squares."""

    values: Tensor
    mean: Tensor
    square: Tensor


def can_run_in_tiles(network: Any) -> bool:
    """Whether a network is one that these functions know: ldm's encoder and decoder of pictures, and nothing besides."""
    if not all(hasattr(getattr(network, part, None), "mid") for part in ("encoder", "decoder")):
        return False
    levels = [*getattr(network.encoder, "down", []), *getattr(network.decoder, "up", [])]
    blocks = [block for level in levels for block in getattr(level, "block", [])]
    plain = all({name for name, _ in block.named_children()} <= RESNET_PARTS for block in blocks)
    pictures = all(getattr(block, "conv1", None) is not None and block.conv1.weight.ndim == 4 for block in blocks)
    untouched = getattr(network, "bn", None) is None and not getattr(network.decoder, "tanh_out", False)
    return bool(blocks) and plain and pictures and untouched


@torch.no_grad()
def decode_in_tiles(
    network: Any, latent: Tensor, tile: int, device: torch.device, advance: Callable[[int, int], None] | None = None
) -> Tensor:
    """What network.decode makes of a latent, (B, C, h, w) to (B, 3, h · ratio, w · ratio), computed in tiles on `device`.

    network: one that `can_run_in_tiles`, on `device`. latent: of the network's dtype. tile: the longest side of a tile, in
    cells. advance: called after each tile with how many of how many are done.
    """
    decoder, work = network.decoder, TileWork(latent, 1, tile, device, advance)
    work.expect(_layers_of(decoder.up))
    pictures = []
    for one in latent.split(1):
        h = decoder.conv_in(_quantiser(network, "post_quant_conv")(one.to(device)))
        h = decoder.mid.block_2(decoder.mid.attn_1(decoder.mid.block_1(h)))
        kept = work.keep(h)
        for level in reversed(decoder.up):
            kept = work.run_blocks(level, kept)
            if hasattr(level, "upsample"):
                kept = work.run(level.upsample, kept.values)
        pictures.append(work.run(normed(decoder.norm_out, kept, device, decoder.conv_out), kept.values).values)
    return torch.cat(pictures)


@torch.no_grad()
def encode_in_tiles(
    network: Any,
    picture: Tensor,
    ratio: int,
    tile: int,
    device: torch.device,
    advance: Callable[[int, int], None] | None = None,
) -> Tensor:
    """What network.encode makes of a picture, the mean: (B, 3, h · ratio, w · ratio) to (B, C, h, w), computed in tiles.

    ratio: pixels on the side of a cell. The rest is as for `decode_in_tiles`.
    """
    encoder, work = network.encoder, TileWork(picture, ratio, tile, device, advance)
    work.expect(_layers_of(encoder.down))
    latents = []
    for one in picture.split(1):
        kept = work.run(encoder.conv_in, one)
        for level in encoder.down:
            kept = work.run_blocks(level, kept)
            if hasattr(level, "downsample"):
                kept = work.run(level.downsample, kept.values, margin=2)
        h = kept.values.to(device)
        h = encoder.mid.block_2(encoder.mid.attn_1(encoder.mid.block_1(h)))
        h = encoder.conv_out(functional.silu(encoder.norm_out(h)))
        mean, _ = _quantiser(network, "quant_conv")(h).chunk(2, dim=1)
        latents.append(mean.to(picture.device))
    return torch.cat(latents)


class TileWork:
    """The tiles of a picture, the layers that have gone over them, and where the maps are kept.

    source: (B, C, H, W), pixels_per_cell of its pixels on the side of a cell; maps are kept on its device.
    """

    def __init__(
        self,
        source: Tensor,
        pixels_per_cell: int,
        tile: int,
        device: torch.device,
        advance: Callable[[int, int], None] | None,
    ) -> None:
        self.storage, self.device, self.advance = source.device, device, advance
        self.pictures = source.shape[0]
        self.height, self.width = (side // pixels_per_cell for side in source.shape[-2:])
        rows, columns = split_evenly(self.height, tile), split_evenly(self.width, tile)
        self.cores: list[Box] = [(top, bottom, *span) for top, bottom in rows for span in columns]
        self.done, self.total = 0, 0

    def expect(self, layers: int) -> None:
        """Count the tiles that lie ahead, for progress. layers: how often `run` is called for each picture."""
        self.total = layers * len(self.cores) * self.pictures

    def keep(self, values: Tensor) -> FeatureMap:
        """A map that was made whole."""
        variance, mean = (value.cpu().double() for value in torch.var_mean(values.float(), (0, 2, 3), correction=0))
        return FeatureMap(values.to(self.storage), mean, variance + mean**2)

    def run_blocks(self, level: Any, kept: FeatureMap) -> FeatureMap:
        """The residual blocks of a level, and its attention where it has one: that needs the whole map at once."""
        for index, block in enumerate(level.block):
            inner = self.run(normed(block.norm1, kept, self.device, block.conv1), kept.values)
            layer = normed(block.norm2, inner, self.device, block.conv2)
            kept = self.run(layer, inner.values, residual=kept.values, shortcut=getattr(block, "nin_shortcut", None))
            if len(level.attn) > 0:
                kept = self.keep(level.attn[index](kept.values.to(self.device)))
        return kept

    def run(
        self,
        layer: Layer,
        values: Tensor,
        margin: int = 1,
        residual: Tensor | None = None,
        shortcut: Layer | None = None,
    ) -> FeatureMap:
        """One layer over all tiles of a map, and its moments.

        values: (1, C, H, W). margin: how many pixels beyond its tile the layer looks; even where it halves the sides.
        residual: what is added, through `shortcut` where there is one; without, the sum is written into it.
        """
        scale = values.shape[-1] // self.width
        whole = residual if shortcut is None else None
        counts, means, variances = [], [], []
        for core in self.cores:
            top, bottom, left, right = (scale * edge for edge in core)
            above, before = max(0, top - margin), max(0, left - margin)
            window = values[..., above : bottom + margin, before : right + margin].to(self.device)
            made = layer(window)
            new_scale = scale * made.shape[-1] // window.shape[-1]
            y, x = (top - above) * new_scale // scale, (left - before) * new_scale // scale
            top, bottom, left, right = (new_scale * edge for edge in core)
            made = made[..., y : y + bottom - top, x : x + right - left]
            if residual is not None:
                beside = residual[..., top:bottom, left:right].to(self.device)
                made = made + (beside if shortcut is None else shortcut(beside))
            if whole is None:
                size = (1, made.shape[1], new_scale * self.height, new_scale * self.width)
                whole = torch.empty(size, dtype=made.dtype, device=self.storage)
            whole[..., top:bottom, left:right] = made
            variance, mean = torch.var_mean(made.float(), (0, 2, 3), correction=0)
            counts.append(made.shape[-2] * made.shape[-1])
            means.append(mean)
            variances.append(variance)
            self.done += 1
            if self.advance is not None:
                self.advance(self.done, self.total)
        assert whole is not None  # there is a tile in every picture
        share = (torch.tensor(counts) / sum(counts)).double()[:, None]
        mean, variance = torch.stack(means).cpu().double(), torch.stack(variances).cpu().double()
        return FeatureMap(whole, (share * mean).sum(0), (share * (variance + mean**2)).sum(0))


def split_evenly(length: int, longest: int) -> list[tuple[int, int]]:
    """As few spans as will do, none longer than `longest`, about equally long: [(0, a), (a, b), …, (y, length)]."""
    count = -(-length // longest)
    edges = [index * length // count for index in range(count + 1)]
    return list(pairwise(edges))


def normed(
    norm: nn.GroupNorm,
    whole: FeatureMap,
    device: torch.device,
    conv: Layer,
    scale_shift: tuple[Tensor, Tensor] | None = None,
) -> Layer:
    """A group norm, SiLU and a convolution, as a layer for tiles of the map whose moments the norm takes.

    scale_shift: two of (C,); what the norm gives is multiplied by 1 + the first, and the second added (AdaGN).
    """
    groups, channels = norm.num_groups, norm.num_channels
    mean = whole.mean.view(groups, -1).mean(1)
    variance = whole.square.view(groups, -1).mean(1) - mean**2
    # Of fixed moments a group norm is a batch norm, which takes them for each channel.
    mean, variance = (value.repeat_interleave(channels // groups).float().to(device) for value in (mean, variance))
    weight, bias = (value.to(device, torch.float32) for value in (norm.weight, norm.bias))
    if scale_shift is not None:
        scale, shift = (value.to(device, torch.float32) for value in scale_shift)
        weight, bias = weight * (1 + scale), bias * (1 + scale) + shift
    return lambda tile: conv(functional.silu(functional.batch_norm(tile, mean, variance, weight, bias, eps=norm.eps)))


def _layers_of(levels: Any) -> int:
    """How many layers go over all tiles: two a block, one for each resampler and for the way in or out."""
    return sum(2 * len(level.block) for level in levels) + len(levels)


def _quantiser(network: Any, name: str) -> Layer:
    """The convolution between a part and the latent, where the network has one (those of SD3 and Flux do not)."""
    return getattr(network, name, nn.Identity())
