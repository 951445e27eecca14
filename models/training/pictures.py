"""Training pictures from a folder: which there are, which cannot be used, and the crops of each step."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_NAMED = 5  # files that a message names; the others are counted
_READERS = 4

logger = logging.getLogger(__name__)


class PictureFolder:
    """All pictures below a folder, of which `held_out` are kept for measuring.

    Pictures are scaled so that their shorter side is `crop` pixels (REED-VAE, appendix A, trains on pictures brought to
    512×512), cropped at a random place and mirrored half of the time. Which picture and which crop a sample is follows from
    its number and the seed alone, so that a run that resumes sees what it would have seen.

    What is no readable picture, or smaller than the crop, is left out, counted and named (`skipped`: why, by name). A file
    may turn out damaged only when it is read whole: then too it is left out, and another takes its place.

    Raises ValueError, naming the folder and what to do, where fewer than two pictures are left.
    """

    def __init__(self, folder: Path, crop: int, held_out: int, seed: int) -> None:
        self.folder, self.crop, self.seed = folder, crop, seed
        self.skipped: dict[str, str] = {}
        if not folder.is_dir():
            raise ValueError(f"pictures: there is no folder {folder}. Give one that holds the training pictures.")
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        with ThreadPoolExecutor(_READERS) as readers:
            sizes = list(readers.map(self._size_of, found))
        fitting = [path for path, size in zip(found, sizes, strict=True) if self._fits(path, size)]
        if len(fitting) < 2:
            raise ValueError(
                f"pictures: {folder} holds {len(fitting)} pictures to train on, and two are the least. "
                f"{self.describe_skipped()}"
                f"Put pictures ({', '.join(SUFFIXES)}) of {crop} pixels or more in it, or make crop smaller."
            )
        order = np.random.default_rng(seed).permutation(len(fitting))
        kept = min(held_out, max(1, len(fitting) // 10))
        self.held_out = [fitting[number] for number in sorted(order[:kept])]
        self.training = [fitting[number] for number in sorted(order[kept:])]

    def _size_of(self, path: Path) -> int | str:
        """The shorter side of a picture, in pixels, or why it cannot be read."""
        try:
            with Image.open(path) as image:
                if image.mode in ("I", "F"):  # 32 bits: black and white may be any two numbers
                    return "holds numbers of no known range"
                return min(image.size)
        except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
            return f"cannot be read ({error})"

    def _fits(self, path: Path, size: int | str) -> bool:
        if isinstance(size, str):
            self._skip(path, size)
        elif size < self.crop:
            self._skip(path, f"is {size} pixels on its shorter side, less than the crop")
        return path.relative_to(self.folder).as_posix() not in self.skipped

    def _skip(self, path: Path, reason: str) -> None:
        self.skipped[path.relative_to(self.folder).as_posix()] = reason

    def describe_skipped(self) -> str:
        """One sentence that counts and names what was left out; empty if nothing was."""
        if not self.skipped:
            return ""
        named = "; ".join(f"{name} {reason}" for name, reason in list(self.skipped.items())[:_NAMED])
        more = f"; and {len(self.skipped) - _NAMED} more" if len(self.skipped) > _NAMED else ""
        return f"Left out {len(self.skipped)}: {named}{more}. "

    def _read(self, path: Path) -> Image.Image | None:
        """The picture, its shorter side `crop`; None, and noted, where it turns out to be damaged."""
        try:
            with Image.open(path) as image:
                image.draft(
                    "RGB", (2 * self.crop, 2 * self.crop)
                )  # a JPEG is read at a fraction of its size where that will do
                picture = _as_rgb(ImageOps.exif_transpose(image))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            name = path.relative_to(self.folder).as_posix()
            if name not in self.skipped:
                logger.warning("%s cannot be read (%s) and is left out", name, error)
                self._skip(path, f"cannot be read ({error})")
            return None
        scale = self.crop / min(picture.size)
        if scale == 1:
            return picture
        width, height = (max(self.crop, round(side * scale)) for side in picture.size)
        return picture.resize((width, height), Image.Resampling.LANCZOS)

    def sample(self, number: int) -> Tensor:
        """The training picture of this number: (3, crop, crop) float32 in 0..1."""
        random = np.random.default_rng((self.seed, number))
        # In each round through the folder every picture comes once.
        order = np.random.default_rng((self.seed, 2**32 + number // len(self.training))).permutation(len(self.training))
        candidates = np.roll(order, -(number % len(self.training)))
        for candidate in candidates:
            picture = self._read(self.training[candidate])
            if picture is not None:
                left, top = (int(random.integers(0, side - self.crop + 1)) for side in picture.size)
                cropped = picture.crop((left, top, left + self.crop, top + self.crop))
                return _to_tensor(ImageOps.mirror(cropped) if random.random() < 0.5 else cropped)
        raise ValueError(f"pictures: no picture in {self.folder} can be read any more. {self.describe_skipped()}")

    def held_out_pictures(self) -> Tensor:
        """The middles of the pictures that are not trained on: (B, 3, crop, crop) float32 in 0..1.

        Raises ValueError if none of them can be read.
        """
        pictures = [picture for path in self.held_out if (picture := self._read(path)) is not None]
        if not pictures:
            raise ValueError(f"pictures: no held-out picture in {self.folder} can be read. {self.describe_skipped()}")
        size = (self.crop, self.crop)
        return torch.stack([_to_tensor(ImageOps.fit(picture, size, Image.Resampling.LANCZOS)) for picture in pictures])

    def batches(self, numbers: Iterator[Sequence[int]]) -> Iterator[Tensor]:
        """One batch, (B, 3, crop, crop), for each group of sample numbers; the next is read while one is worked on."""
        with ThreadPoolExecutor(_READERS) as readers:
            waiting = None
            for group in numbers:
                reading = [readers.submit(self.sample, number) for number in group]
                if waiting is not None:
                    yield torch.stack([sample.result() for sample in waiting])
                waiting = reading
            if waiting is not None:
                yield torch.stack([sample.result() for sample in waiting])


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would clip 16-bit grey at 255 instead of scaling it
        image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    return image.convert("RGB")


def _to_tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).movedim(-1, 0).float() / 255
