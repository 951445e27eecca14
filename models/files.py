"""Files that are there whole or not at all, and what identifies the tensors in them."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

LEFT_OVER_SECONDS = 3600  # after which a file that was begun and never renamed is nobody's any more


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of tensors with their names, types and shapes."""
    hashed = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        hashed.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()


def write_beside(path: Path, data: bytes) -> None:
    """Write to a new file in the same folder, make sure of it, and give it the name.

    Raises OSError that names `path` where that cannot be done, as on a full disk; the old file is there still.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_overs(path)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError):  # a write that fails does not say of what
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise
    if os.name == "posix":  # elsewhere a folder cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _remove_left_overs(path: Path) -> None:
    """Remove what earlier saves of this file left when they were killed."""
    for other in path.parent.iterdir():
        if other.name.startswith(f".{path.name}.") and other.suffix == ".part":
            try:
                if time.time() - other.stat().st_mtime > LEFT_OVER_SECONDS:
                    other.unlink()
            except OSError:
                continue  # somebody else was quicker
