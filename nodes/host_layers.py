"""The host's layers in the place of torch's, in networks that other libraries build."""

from __future__ import annotations

import comfy.ops
from torch import nn

# What they hold is the same.
HOST_LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    kind: getattr(comfy.ops.disable_weight_init, kind.__name__)
    for kind in (nn.Conv2d, nn.Linear, nn.GroupNorm, nn.LayerNorm)
}


def use_host_layers(network: nn.Module) -> None:
    """Let a network compute with weights that the host left in main memory."""
    for module in network.modules():
        module.__class__ = HOST_LAYERS.get(type(module), type(module))
