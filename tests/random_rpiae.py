"""Small RPiAEs and vision models of random numbers, in files."""

from pathlib import Path

import torch
from reedit.models.autoencoders.dinov2 import StoredDINOv2, build_network, stored_tensors
from reedit.models.autoencoders.rpiae_layout import RPiAEConfig, StoredRPiAE, published_shapes

SMALL_RPIAE = RPiAEConfig(
    side=32,
    patch=8,
    positions=5,
    width=24,
    layers=2,
    heads=3,
    registers=2,
    channels=6,
    bridge_layers=2,
    bridge_heads=4,
    decoder_width=40,
    decoder_layers=3,
    decoder_heads=5,
    decoder_hidden=56,
    decoder_patch=4,
)
SMALL_DINOV2 = {"width": 32, "layers": 2, "heads": 2, "registers": 2, "mlp_ratio": 2, "patch": 4, "positions": 8}


def random_tensors(config: RPiAEConfig) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in published_shapes(config).items()}


def write_rpiae(path: Path, config: RPiAEConfig = SMALL_RPIAE, **about) -> Path:
    StoredRPiAE(config, random_tensors(config), about).save(path)
    return path


def write_dinov2(path: Path, **sizes) -> Path:
    sizes = {**SMALL_DINOV2, **sizes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = build_network(**sizes)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    StoredDINOv2(sizes["heads"], stored_tensors(network)).save(path)
    return path
