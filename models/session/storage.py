"""A whole session in one safetensors file: every latent, mask and label, and what else the LATENT holds.

The file is written beside and renamed, so that whatever happens there is the old one or the new one. Reading trusts nothing:
a file from a stranger gives a session or a ValueError.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ..cells import check_samples
from ..files import fingerprint, write_beside
from .record import KEY, observe, with_record
from .stored_record import pack_record, unpack_record

SUFFIX = ".reedit.safetensors"
FORMAT = "reedit_session"
VERSION = 1
_EXTRA = "latent."  # before the names of the LATENT's other tensors
# What is no tensor stands in one as JSON, not in the file's header: the frontend reads the graph from the header, and gives
# up on one that is long.
_SESSION = "session"


def save_session(path: Path, latent: Mapping[str, Any], graph: Mapping[str, str] | None = None) -> list[str]:
    """Write a LATENT with its session to `path`. A change that nobody noted is noted first.

    graph: texts to keep beside it, such as the host's "prompt" and "workflow". Returns the keys of the LATENT that could not
    be kept: neither tensors nor plain values. OSError where the file cannot be written; then the old one is still there.
    """
    tensors, session = pack_record(observe(latent))
    others = {key: value for key, value in latent.items() if key not in ("samples", KEY)}
    session["latent"] = {key: value for key, value in others.items() if _is_plain(value)}
    for key, value in others.items():
        if isinstance(value, Tensor) and not getattr(value, "is_nested", False):
            tensors[_EXTRA + key] = value.detach().to("cpu", copy=True).contiguous()
    tensors[_SESSION] = torch.frombuffer(bytearray(json.dumps(session).encode()), dtype=torch.uint8)
    metadata = {**(graph or {}), "format": FORMAT, "version": str(VERSION), "sha256": fingerprint(tensors)}
    write_beside(path, save(tensors, metadata))
    return [key for key in others if key not in session["latent"] and _EXTRA + key not in tensors]


def load_session(path: Path) -> dict[str, Any]:
    """The LATENT that was saved, with its session. ValueError, naming the file and the fault, for anything else."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") == FORMAT and metadata.get("version") == str(VERSION):
                # Copies: the file may be replaced, or cut short, while the session goes on.
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # the library raises several kinds for a broken file
        raise ValueError(
            f"{path.name} is not a whole safetensors file ({error}). Copy it again, or load an older save."
        ) from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path.name} holds no ReEdit session. Choose a file that ReEdit Save Session wrote.")
    if metadata.get("version") != str(VERSION):
        raise ValueError(
            f"{path.name} was saved in format {metadata.get('version')!r}; this ReEdit reads format {VERSION}. "
            "Update ComfyUI-ReEdit."
        )
    try:
        if fingerprint(tensors) != metadata.get("sha256"):
            raise ValueError("its content is not what was saved")
        return _unpack(tensors)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, RecursionError) as error:
        raise ValueError(
            f"{path.name} is damaged: {type(error).__name__}: {error}. Copy it again, or load an older save."
        ) from error


def _unpack(tensors: dict[str, Tensor]) -> dict[str, Any]:
    session = json.loads(tensors[_SESSION].numpy().tobytes())
    record = unpack_record(tensors, session)
    extras = {name.removeprefix(_EXTRA): value for name, value in tensors.items() if name.startswith(_EXTRA)}
    latent = with_record({**session["latent"], **extras}, record, record.samples_at(record.current))
    check_samples(latent["samples"])
    return latent


def _is_plain(value: Any) -> bool:
    """Whether JSON gives a value back as it was."""
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError, RecursionError):
        return False
