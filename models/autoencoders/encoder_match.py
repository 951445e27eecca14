"""Marks of an encoder, which tell whether the encoder that a decoder was trained with is the one at hand.

A decoder that is kept without its encoder fits one encoder only. A hash would tell the two apart when only the file's
precision is another one. The root mean square of each tensor is the same in fp32, fp16 and bf16, as closely as they round.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import torch
from torch import Tensor

ENCODER_KEY = "reedit_encoder"  # of a safetensors file's metadata: json.dumps of the marks
ENCODER_PARTS = ("encoder.", "quant_conv.")

# bfloat16 has 8 significant bits: it changes a value, and so the root mean square, by 2^-8 of it at most, which is 0.4 %.
TOLERANCE = 0.01
# Below 6e-5 the steps of float16 no longer shrink: it changes a value by up to half of 2^-24.
SMALLEST = 2**-24


def encoder_marks(weights: Mapping[str, Tensor]) -> dict[str, float]:
    """The root mean square of each tensor of the encoder and of quant_conv, by its ldm name.

    weights: the tensors of an autoencoder in the ldm layout, of any dtype; the decoder's are passed over. Where there is
    no quant_conv (SD3, Flux) it counts as one that changes nothing. Raises ValueError where there is no encoder.
    """
    names = sorted(name for name in weights if name.startswith(ENCODER_PARTS))
    if "encoder.conv_out.weight" not in weights:
        raise ValueError("there is no encoder of a KL autoencoder among the tensors (encoder.conv_out.weight).")
    squares = torch.stack([weights[name].float().square().mean().sqrt() for name in names])
    marks = dict(zip(names, squares.tolist(), strict=True))
    if "quant_conv.weight" not in marks:
        marks |= {"quant_conv.weight": weights["encoder.conv_out.weight"].shape[0] ** -0.5, "quant_conv.bias": 0.0}
    return marks


def read_marks(metadata: Mapping[str, str] | None) -> dict[str, float] | None:
    """The marks in a file's metadata; None where it has none. Raises ValueError where they cannot be read."""
    text = (metadata or {}).get(ENCODER_KEY)
    if text is None:
        return None
    try:
        return {str(name): float(value) for name, value in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"what it says of its encoder ({ENCODER_KEY} in its metadata) is not readable. Get the file again."
        ) from error


def find_mismatch(marks: Mapping[str, float], weights: Mapping[str, Tensor]) -> str | None:
    """In words, how the encoder among `weights` differs from the one that `marks` were taken of; None where it does not.

    weights: as for `encoder_marks`. Two encoders are the same where no tensor's root mean square differs by more than
    1 %. Raises ValueError where there is no encoder.
    """
    found = encoder_marks(weights)
    if only := sorted(marks.keys() ^ found.keys()):
        where = "not in" if only[0] in marks else "only in"
        return f"{len(only)} tensors do not correspond: {only[0]}, for one, is {where} the encoder at hand"
    differing = [name for name in marks if not _agree(marks[name], found[name])]
    if not differing:
        return None
    name = differing[0]
    return (
        f"{len(differing)} of its {len(marks)} tensors have other values: the root mean square of {name}, for one, is "
        f"{found[name]:.3g} and should be {marks[name]:.3g}"
    )


def _agree(mark: float, found: float) -> bool:
    return math.isclose(mark, found, rel_tol=TOLERANCE, abs_tol=SMALLEST)  # never, where one is NaN
