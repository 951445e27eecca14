"""What a file of KL autoencoder weights holds: its layout (ldm or diffusers), its widths and its depth.

Everything is read from tensor names and shapes, so an autoencoder of any size loads: one for Stable Diffusion, one of a
tenth its width, one with three levels or five. The ldm layout is the one that hosts build from.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NORM_GROUPS = 32  # of every group norm in this family: widths are multiples of it
DECODER_PARTS = ("decoder.", "post_quant_conv.")  # begin the ldm names of all that turns a latent into a picture
PREFIXES = ("first_stage_model.", "vae.", "")


@dataclass(frozen=True)
class KLConfig:
    """The shape of a KL autoencoder. width: channels at full size; multipliers: of `width`, one for each level."""

    width: int
    multipliers: tuple[int, ...]
    blocks: int
    latent_channels: int
    attention_levels: tuple[int, ...]

    @property
    def ratio(self) -> int:
        """Pixels on the side of a latent cell."""
        return 2 ** (len(self.multipliers) - 1)


def to_ldm_layout(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an autoencoder under their ldm names, from either layout, with or without a checkpoint's prefix.

    Raises ValueError if no decoder of this family is in there.
    """
    # Attention projections are linear in diffusers and 1×1 convolutions in ldm: the same numbers in another shape.
    return {
        ldm_name: weights[name][..., None, None]
        if re.search(r"\.attn.*\.(q|k|v|proj_out)\.weight$", ldm_name) and weights[name].ndim == 2
        else weights[name]
        for name, ldm_name in ldm_names(weights).items()
    }


def ldm_names(weights: Iterable[str]) -> dict[str, str]:
    """The ldm name of each of an autoencoder's tensors, by the name it has in its file; other tensors are left out.

    Raises ValueError if no decoder of this family is in there.
    """
    names = list(weights)
    for prefix in PREFIXES:
        if f"{prefix}decoder.conv_in.weight" in names:
            break
    else:
        raise ValueError(
            f"it holds no KL autoencoder: there is no tensor decoder.conv_in.weight among its {len(names)} tensors."
        )
    if f"{prefix}bn.running_mean" in names:
        raise ValueError(
            "its latents are folded and normalised, as Flux 2's are, which is another family. Use Load VAE."
        )
    parts = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
    named = {name: name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    named = {name: bare for name, bare in named.items() if bare.startswith(parts)}
    up_levels = {int(match[1]) for bare in named.values() if (match := re.match(r"decoder\.up_blocks\.(\d+)\.", bare))}
    if not up_levels:
        return named
    return {name: _ldm_name(bare, 1 + max(up_levels)) for name, bare in named.items()}


def _ldm_name(name: str, up_levels: int) -> str:
    """One tensor's name, from the diffusers layout to ldm's. Decoder levels count the other way round there."""
    name = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)\.", r"down.\1.block.\2.", name)
    name = re.sub(r"down_blocks\.(\d+)\.attentions\.(\d+)\.", r"down.\1.attn.\2.", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample.", name)

    def up(match: re.Match[str]) -> str:
        return f"up.{up_levels - 1 - int(match[1])}."

    name = re.sub(r"up_blocks\.(\d+)\.", up, name)
    name = re.sub(r"(up\.\d+)\.resnets\.(\d+)\.", r"\1.block.\2.", name)
    name = re.sub(r"(up\.\d+)\.attentions\.(\d+)\.", r"\1.attn.\2.", name)
    name = re.sub(r"(up\.\d+)\.upsamplers\.0\.", r"\1.upsample.", name)
    name = re.sub(r"mid_block\.resnets\.(\d+)\.", lambda match: f"mid.block_{int(match[1]) + 1}.", name)
    name = re.sub(r"mid_block\.attentions\.0\.", "mid.attn_1.", name)
    name = name.replace("conv_norm_out.", "norm_out.").replace("conv_shortcut.", "nin_shortcut.")
    if ".attn" in name:
        name = name.replace("group_norm.", "norm.").replace("to_out.0.", "proj_out.").replace("proj_attn.", "proj_out.")
        name = re.sub(r"\.(?:to_)?(q|k|v)(?:uery|ey|alue)?\.(weight|bias)$", r".\1.\2", name)
    return name


def read_config(weights: Mapping[str, Tensor], part: str = "decoder") -> KLConfig:
    """The shape of one part of an autoencoder, "decoder" or "encoder", from its tensors (ldm layout).

    The two parts of one autoencoder may be of different widths and depths. Raises ValueError where the tensors do not
    describe an autoencoder that can be built.
    """

    def shape(name: str) -> torch.Size:
        if name not in weights:
            raise ValueError(f"it holds part of an autoencoder, but the tensor {name} is missing. Get the file again.")
        return weights[name].shape

    if len(shape(f"{part}.conv_in.weight")) != 4:
        raise ValueError("its convolutions are three-dimensional: it is a video VAE. Load it with Load VAE.")
    direction = {"decoder": "decoder.up", "encoder": "encoder.down"}[part]
    more = int(part == "decoder")  # a decoder has one block a level more than the encoder
    levels = _count(weights, f"{direction}.{{}}.")
    blocks = _count(weights, f"{direction}.0.block.{{}}.") - more
    if levels < 1 or blocks < 1:
        raise ValueError(f"its {part} has no levels ({direction}.…). Get the file again.")
    last = blocks - 1 + more
    widths = [shape(f"{direction}.{level}.block.{last}.conv2.weight")[0] for level in range(levels)]
    width = math.gcd(*widths) if part == "decoder" else shape("encoder.conv_in.weight")[0]
    if any(value % width or value % NORM_GROUPS for value in widths):
        raise ValueError(
            f"the levels of its {part} are {widths} channels wide; each must be a multiple of the first ({width}) and of "
            f"{NORM_GROUPS}."
        )
    # An encoder gives each channel's mean and variance.
    channels = shape("decoder.conv_in.weight")[1] if part == "decoder" else shape("encoder.conv_out.weight")[0] // 2
    attention = tuple(level for level in range(levels) if f"{direction}.{level}.attn.0.q.weight" in weights)
    return KLConfig(width, tuple(value // width for value in widths), blocks, channels, attention)


def find_misfit(decoder: KLConfig, encoder: KLConfig) -> str | None:
    """In words, why a decoder cannot take this encoder's latents; None where it can. Their widths need not agree."""
    if decoder.latent_channels != encoder.latent_channels:
        made = encoder.latent_channels
        return f"its decoder takes latents of {decoder.latent_channels} channels, and the encoder makes {made}"
    if decoder.ratio != encoder.ratio:
        return (
            f"its decoder makes {decoder.ratio}×{decoder.ratio} pixels of a latent cell ({len(decoder.multipliers)} levels), "
            f"and the encoder makes a cell of {encoder.ratio}×{encoder.ratio} ({len(encoder.multipliers)} levels)"
        )
    return None


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    """How many of pattern.format(0), pattern.format(1), … begin the name of a tensor."""
    number = 0
    while any(name.startswith(pattern.format(number)) for name in weights):
        number += 1
    return number


def with_quantisers(weights: Mapping[str, Tensor], latent_channels: int) -> dict[str, Tensor]:
    """The weights with a quant_conv and a post_quant_conv: where a file has none (SD3, Flux), ones that change nothing."""
    completed = dict(weights)
    reference = weights["decoder.conv_in.weight"]
    for name, channels in (("quant_conv", 2 * latent_channels), ("post_quant_conv", latent_channels)):
        if f"{name}.weight" not in completed:
            completed[f"{name}.weight"] = torch.eye(channels, dtype=reference.dtype)[..., None, None]
            completed[f"{name}.bias"] = torch.zeros(channels, dtype=reference.dtype)
    return completed


def find_faults(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """In words, every tensor that is missing, of another shape than `expected`, or not finite; empty when all is well."""
    faults = []
    for name, tensor in expected.items():
        if name not in weights:
            faults.append(f"{name} is missing")
        elif weights[name].shape != tensor.shape:
            faults.append(f"{name} is {tuple(weights[name].shape)}, not {tuple(tensor.shape)}")
        elif not bool(torch.isfinite(weights[name]).all()):
            faults.append(f"{name} holds NaN or infinite values")
    return faults


def describe_faults(faults: Sequence[str]) -> str:
    """What `find_faults` found as one clause: the first five, and how many there are besides."""
    more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
    return f"{'; '.join(faults[:5])}{more}"
