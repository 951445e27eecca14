"""The decoders of the eps-VAE benchmark: at each compression one that denoises and one that does not, of the same size."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import _host  # noqa: F401
import torch
from reedit.models.autoencoders.epsilon import EpsilonDecoder
from reedit.models.autoencoders.epsilon_layout import read_epsilon_decoder
from reedit.models.autoencoders.epsilon_network import EpsilonNetwork
from reedit.models.autoencoders.kl_file import read_autoencoder
from reedit.models.autoencoders.kl_network import KLNetwork
from tiny_sd.differences import restored
from torch import Tensor

STEPS = (1, 2, 3, 5, 10)


@dataclass(frozen=True)
class Compression:
    """An autoencoder's latents and two decoders that were trained on them at the same cost.

    base: whose encoder makes the latents. deterministic: a file with a decoder for it. epsilon: an eps-VAE decoder's.
    """

    name: str
    base: str
    deterministic: str
    epsilon: str


DEMO = Compression(
    "ratio 4, 4 channels",
    "tiny_sd_autoencoder.safetensors",
    "epsilon/deterministic_ratio_4.safetensors",
    "tiny_sd_epsilon_decoder.safetensors",
)
TWICE = Compression(
    "ratio 8, 8 channels",
    "epsilon/autoencoder_ratio_8.safetensors",
    "epsilon/autoencoder_ratio_8.safetensors",
    "epsilon/epsilon_ratio_8.safetensors",
)
COMPRESSIONS = (DEMO, TWICE)
REED_DECODER = "tiny_sd_reed_decoder.safetensors"
REED_EPSILON = "epsilon/epsilon_reed.safetensors"  # DEMO's, trained on with REED's first-step loss
FILES = sorted(
    {REED_DECODER, REED_EPSILON, *(file for one in COMPRESSIONS for file in (one.base, one.deterministic, one.epsilon))}
)


def file_of(name: str, weights: Path) -> Path:
    """A decoder's file, restored where it is kept in 8 bits: as it is, or as what it differs by from another."""
    if name in (TWICE.base, TWICE.deterministic, TWICE.epsilon):
        return restored(weights / name, None)
    return restored(weights / name, weights / DEMO.epsilon) if name == REED_EPSILON else weights / name


@cache
def kl_network(base: str, decoder: str, weights: Path) -> KLNetwork:
    """The encoder of one file with the decoder of another."""
    files = (file_of(base, weights), file_of(decoder, weights))
    first, second = (read_autoencoder(file).in_ldm_layout() for file in files)
    tensors = first | second
    return KLNetwork(tensors).eval().requires_grad_(False)


@cache
def epsilon_network(base: str, decoder: str, weights: Path, steps: int = 1, seed: int = 0) -> EpsilonNetwork:
    """A file's eps-VAE decoder behind the encoder of another."""
    stored = read_epsilon_decoder(file_of(decoder, weights))
    network = EpsilonDecoder(stored.config)
    network.unet.load_state_dict({name: tensor.float() for name, tensor in stored.tensors.items()})
    return EpsilonNetwork(kl_network(base, base, weights), network, seed, steps).eval().requires_grad_(False)


def deterministic(compression: Compression, weights: Path) -> KLNetwork:
    return kl_network(compression.base, compression.deterministic, weights)


def epsilon(compression: Compression, weights: Path, steps: int = 1, seed: int = 0) -> EpsilonNetwork:
    return epsilon_network(compression.base, compression.epsilon, weights, steps, seed)


def in_batches(work: Any, values: Tensor, size: int = 20) -> Tensor:
    """work, of (B, …), in batches."""
    with torch.inference_mode():
        return torch.cat([work(part) for part in values.split(size)])


def decoder_parameters(network: KLNetwork | EpsilonNetwork) -> int:
    return sum(parameter.numel() for parameter in network.decoder_parameters().values())


def training_of(file: str, weights: Path) -> dict[str, Any]:
    """What the file says of its training, and the last row of its log."""
    denoises = file in (REED_EPSILON, *(one.epsilon for one in COMPRESSIONS))
    stored: Any = (read_epsilon_decoder if denoises else read_autoencoder)(file_of(file, weights))
    about = stored.about if denoises else json.loads(stored.metadata.get("reedit", "{}"))
    log = weights / Path(file).with_suffix(".jsonl")
    rows = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return {"about": about, "last row of the log": json.loads(rows[-1]) if rows else {}}
