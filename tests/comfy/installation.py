"""A plain ComfyUI's folders, with the pack as `git clone` puts it there and the demo's models beside."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACK = "ComfyUI-ReEdit"  # the folder's name, which the template browser and the addresses show


def copy_checkout(folder: Path, leave_out: str = "", part: str = ".") -> None:
    """Copy what git tracks, as it stands now, of the checkout or of one part, a folder of it.

    leave_out: the start of paths that are not needed, "" for none.
    """
    command = ["git", "-C", str(ROOT / part), "ls-files", "-z"]
    tracked = subprocess.run(command, capture_output=True, check=True).stdout
    for name in filter(None, tracked.decode().split("\0")):
        if (ROOT / part / name).is_file() and not (leave_out and name.startswith(leave_out)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / part / name, folder / name)


def install(base: Path, models: Path) -> Path:
    """Put the pack into the custom_nodes of an empty base directory, and the demo family beside it.

    models: the models folder in which the family's files stand. Returns the base directory. Nothing is linked, so that a
    run leaves no trace elsewhere.
    """
    copy_checkout(base / "custom_nodes" / PACK, leave_out="tests/")
    # With it the host knows models as small as the demo's.
    copy_checkout(base / "custom_nodes" / "tiny_sd", leave_out="weights/", part="tests/tiny_sd")
    for file in models.glob("*/tiny_sd_*.safetensors"):
        (base / "models" / file.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, base / "models" / file.parent.name / file.name)
    return base
