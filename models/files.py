"""Files that are there whole or not at all, the tensors in them, and what identifies those."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

LEFT_OVER_SECONDS = 3600  # after which a file that was begun and never renamed is nobody's any more


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of tensors with their names, types and shapes."""
    hashed = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        hashed.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file, to read of it what is wanted. Raises ValueError that names the file where it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path.name} is not a readable safetensors file ({error}). Is the download whole?") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, by name, and its metadata. Raises ValueError as `opened` does."""
    with opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


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
