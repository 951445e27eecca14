"""LPIPS, the perceptual distance of Zhang et al. 2018, where its weights are on this machine. Nothing is downloaded."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn


class PerceptualDistance:
    """LPIPS with the AlexNet backbone. 0 means alike. It looks at whole pictures: of a part of one it is not defined."""

    def __init__(self, network: nn.Module, least_side: int) -> None:
        self.network = network
        self.least_side = least_side  # pixels: what the backbone needs

    def __call__(self, picture: Tensor, reference: Tensor) -> float:
        """The mean distance over a batch. picture, reference: (B, H, W, 3) in 0..1, no side under `least_side`."""
        distances = [
            self.network(one.movedim(-1, 0)[None].float(), other.movedim(-1, 0)[None].float(), normalize=True).mean()
            for one, other in zip(picture, reference, strict=True)
        ]
        return float(torch.stack(distances).mean())


def load_perceptual_distance() -> PerceptualDistance | str:
    """LPIPS from the package lpips and from AlexNet's weights in torch's hub folder, or a sentence that says what is missing.

    Files are read as plain tensors (weights_only), so nothing in them runs.
    """
    try:
        import lpips
        from torchvision.models import AlexNet_Weights
    except ImportError as error:
        return f"The package {error.name}, which LPIPS needs, is not installed. Install it with: pip install lpips"
    weights = AlexNet_Weights.IMAGENET1K_V1
    backbone = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[-1]
    if not backbone.is_file():
        return f"The weights of LPIPS's AlexNet backbone are not there. Put {weights.url} at {backbone}"
    heads = Path(lpips.__file__).parent / "weights" / "v0.1" / "alex.pth"
    try:
        network = _build_network(_read_tensors(backbone), _read_tensors(heads))
    except (OSError, EOFError, KeyError, TypeError, RuntimeError, pickle.UnpicklingError) as error:
        reason = str(error).split("\n")[0]
        return f"LPIPS's weights in {backbone} cannot be read ({reason}). Fetch the file anew from {weights.url}"
    return PerceptualDistance(network, min(weights.meta["min_size"]))


def _read_tensors(file: Path) -> dict[str, Tensor]:
    tensors = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(tensors, dict):
        raise TypeError("it holds no named tensors")
    return tensors


def _build_network(backbone: dict[str, Tensor], heads: dict[str, Tensor]) -> nn.Module:
    """LPIPS with AlexNet's weights as torchvision names them ("features.3.weight") and the package's linear heads."""
    import lpips

    # Its own way of loading would fetch the backbone, and draw from everyone's random numbers.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls torchvision in an old way
        network = lpips.LPIPS(pretrained=False, net="alex", pnet_rand=True, verbose=False)
    features = {name: backbone["features." + name.split(".", 1)[1]] for name in network.net.state_dict()}
    network.net.load_state_dict(features)
    for number, head in enumerate(network.lins):
        head.load_state_dict({"model.1.weight": heads[f"lin{number}.model.1.weight"]})
    return network.requires_grad_(False)
