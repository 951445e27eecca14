"""Weights kept in 8 bits a number, channel by channel: half a file in float16. For what is only measured, never shipped.

Decoders that were trained on from another one are kept as the difference, which is small against the weights: an eighth bit
of it is about the last of theirs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save, save_file

# The pack's models, which need no host. Behind it, where there is one: its `nodes` is another.
sys.path.append(str(Path(__file__).parents[2]))
from models.files import read_tensors, write_beside

RESTORED_FOLDER = Path(__file__).parents[2] / "build" / "tiny_sd" / "restored"  # git-ignored
MOST = 127
SCALE = ".scale"  # after a tensor's name: what its whole numbers are to be multiplied by, channel by channel


def write_difference(trained: Path, base: Path | None, path: Path) -> None:
    """What the tensors in the file `trained` differ by from those of the same names in `base`, with its metadata.

    None: from 0, the tensors themselves.
    """
    tensors, metadata = read_tensors(trained)
    start, kept = load_file(base) if base else {}, {}
    for name, tensor in tensors.items():
        difference = tensor.float() - start[name].float() if base else tensor.float()
        # A scale for each output channel, of which a one-dimensional tensor's numbers are one each.
        scale = difference.flatten(1).abs().amax(1) if difference.dim() > 1 else difference.abs().max()
        scale = scale.view(-1, *[1] * (difference.dim() - 1)).clamp(min=torch.finfo(torch.float32).tiny) / MOST
        kept[name] = (difference / scale).round().to(torch.int8)
        kept[name + SCALE] = scale
    save_file(kept, path, metadata)


def restored(path: Path, base: Path | None) -> Path:
    """The file that `write_difference` was given, up to the rounding, in the precision of `base` or float16. Made once."""
    target = RESTORED_FOLDER / path.name
    if target.exists() and target.stat().st_mtime >= path.stat().st_mtime:
        return target
    kept, metadata = read_tensors(path)
    start, tensors = load_file(base) if base else {}, {}
    for name in (name.removesuffix(SCALE) for name in kept if name.endswith(SCALE)):
        value = kept[name].float() * kept[name + SCALE]
        tensors[name] = (start[name].float() + value).to(start[name].dtype) if base else value.half()
    write_beside(target, save(tensors, metadata))
    return target
