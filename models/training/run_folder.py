"""What a training run leaves in its folder: a state to resume from, a log, sample grids. Nothing is ever unpickled."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from torchvision.utils import make_grid

from ..files import write_beside

_PROGRESS = "progress"  # what is no tensor stands in one, as JSON


class RunFolder:
    """state.safetensors, log.jsonl and samples/<step>.png in one folder, each written beside and renamed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state_file, self.log_file = folder / "state.safetensors", folder / "log.jsonl"
        self.rows: list[dict[str, Any]] = []

    def save_state(self, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
        """Keep what `load_state` gives back. OSError where it cannot be written; what was saved before is there still."""
        written = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
        written[_PROGRESS] = torch.frombuffer(bytearray(json.dumps(progress).encode()), dtype=torch.uint8)
        write_beside(self.state_file, save(written))

    def save_process(self, process: int, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Keep what one process more than the first has to itself at this step, and at the save before."""
        if tensors:
            write_beside(
                self._process_file(process, step), save({name: value.cpu() for name, value in tensors.items()})
            )
            for old in sorted(self.folder.glob(self._process_file(process, 0).name.replace("0" * 9, "*")))[:-2]:
                old.unlink()

    def load_process(self, process: int, step: int) -> dict[str, Tensor]:
        """What `save_process` kept; nothing where a run was killed before it could."""
        file = self._process_file(process, step)
        return load_file(file) if file.exists() else {}

    def _process_file(self, process: int, step: int) -> Path:
        return self.folder / f"process{process}-{step:09}.safetensors"

    def load_state(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The tensors and the progress that were saved last, or None in a new folder. Later rows leave the log.

        Raises ValueError, naming the file, where it is damaged.
        """
        if not self.state_file.exists():
            return None
        try:
            with safe_open(self.state_file, framework="pt") as file:
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            progress = json.loads(tensors.pop(_PROGRESS).numpy().tobytes())
            step = int(progress["step"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.state_file} is damaged ({error}). Remove the folder to start again, or name another one."
            ) from error
        self.rows = [row for row in self._read_log() if row["step"] <= step]  # what came after the save is done again
        return tensors, progress

    def _read_log(self) -> list[dict[str, Any]]:
        if not self.log_file.exists():
            return []
        try:
            return [json.loads(line) for line in self.log_file.read_text(encoding="utf-8").splitlines()]
        except ValueError as error:
            raise ValueError(f"{self.log_file} is damaged ({error}). Remove it to go on without its rows.") from error

    def write_row(self, row: dict[str, Any]) -> None:
        """Add a row to the log."""
        self.rows.append(row)
        write_beside(self.log_file, "".join(json.dumps(one) + "\n" for one in self.rows).encode())

    def write_samples(self, step: int, grid: Tensor) -> None:
        """Write a picture, (3, H, W) in 0..1, as samples/<step>.png."""
        written = io.BytesIO()
        Image.fromarray((255 * grid).round().byte().movedim(0, -1).cpu().numpy()).save(written, "PNG")
        write_beside(self.folder / "samples" / f"{step:07}.png", written.getvalue())


def sample_grid(columns: list[Tensor], most_rows: int = 4) -> Tensor:
    """Pictures side by side, (3, height, width): one row a picture, one column a batch of (B, 3, H, W) in 0..1."""
    rows = [batch[row] for row in range(min(most_rows, len(columns[0]))) for batch in columns]
    return make_grid(rows, nrow=len(columns), padding=2, pad_value=0.5).clamp(0, 1)
