"""Sessions as files: saving one, and opening it another day or on another machine."""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path
from typing import Any

import comfy.cli_args
import folder_paths
from comfy_api.v0_0_2 import io, ui

from ..models.session.checkout import list_steps
from ..models.session.record import KEY, observe, with_record
from ..models.session.storage import SUFFIX, load_session, save_session
from .history import describe_session

NEW_NUMBER, REPLACE = "new number", "replace"
# What Windows, to which a session may travel, takes for no part of a path: some characters, its devices, a last dot.
FORBIDDEN = re.compile(r'[<>:"|?*\x00-\x1f]|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)|[. ]$', re.IGNORECASE)


def output_folder() -> Path:
    return Path(folder_paths.get_output_directory()).resolve()


def inside(folder: str | Path, name: str) -> Path:
    """The path of `name` below one of the host's folders. ValueError for a name that leads out of it, or may do so."""
    base, parts = Path(folder).resolve(), name.replace("\\", "/").split("/")
    path = base.joinpath(*parts).resolve()
    if not all(parts) or ".." in parts or any(map(FORBIDDEN.search, parts)) or not path.is_relative_to(base):
        raise ValueError(
            f"{name!r} is not a file's name in ComfyUI's folder {base.name}. Give a name, or subfolder/name, "
            'without .. or any of <>:"|?*'
        )
    return path


def path_to_write(filename: str, existing: str) -> Path:
    """Where to save a session. ValueError for a name that is none."""
    name = filename.strip().removesuffix(SUFFIX)
    path = inside(output_folder(), name + SUFFIX)
    inside(output_folder(), name)
    if existing == REPLACE:
        return path
    folder, stem, number, *_ = folder_paths.get_save_image_path(name.replace("\\", "/"), str(output_folder()))
    return Path(folder) / f"{stem}_{number:05}{SUFFIX}"


def graph_texts(prompt: Any, extra_pnginfo: dict[str, Any] | None) -> dict[str, str]:
    """The graph, under the names by which the frontend finds it in a file that is dropped on it."""
    if comfy.cli_args.args.disable_metadata:
        return {}
    return {name: json.dumps(value) for name, value in {"prompt": prompt, **(extra_pnginfo or {})}.items()}


class ReEditSaveSession(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReEditSaveSession",
            display_name="ReEdit Save Session",
            category="ReEdit/session",
            description="Saves the whole session as one file in ComfyUI's output folder: every step, mask and label, and "
            "what else the latent holds. ReEdit Load Session carries on from it exactly.",
            search_aliases=["save latent", "history", "export"],
            inputs=[
                io.Latent.Input("samples", tooltip="The latent, with the session's record in it."),
                io.String.Input(
                    "filename", default="reedit/session", tooltip="A name, or subfolder/name, in the output folder."
                ),
                io.Combo.Input(
                    "existing",
                    options=[NEW_NUMBER, REPLACE],
                    default=NEW_NUMBER,
                    tooltip="new number: always under a number of its own, name_00001 and so on. replace: under the name "
                    "itself, in the place of what is there.",
                ),
            ],
            outputs=[
                io.Latent.Output(tooltip="The latent as it came in, with its record brought up to date."),
                io.String.Output(
                    display_name="filename", tooltip="Where it was saved, as ReEdit Load Session names it."
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, samples: dict[str, Any], filename: str = "reedit/session", existing: str = NEW_NUMBER
    ) -> io.NodeOutput:
        record = observe(samples)
        latent = with_record(samples, record)
        path, told = path_to_write(filename, existing), cls.hidden
        lost = save_session(path, latent, graph_texts(told and told.prompt, told and told.extra_pnginfo))
        if lost:
            logging.warning("ReEdit Save Session cannot keep %s of this latent.", ", ".join(lost))
        name = path.relative_to(output_folder()).as_posix()
        size = path.stat().st_size / 2**20
        said = f"{len(record.edits)} edits, {size:.2f} MiB, in output/{name}"
        shown = {**ui.PreviewText(said).as_dict(), **describe_session(record)}
        return io.NodeOutput(latent, f"{name} [output]", ui=shown)


def session_files() -> list[str]:
    """The saved sessions below the host's input and output folders; the host marks those of the output folder so."""
    found = []
    for folder, mark in ((folder_paths.get_input_directory(), ""), (folder_paths.get_output_directory(), " [output]")):
        base = Path(folder).resolve()
        for below, _, names in os.walk(base):
            paths = [Path(below, name) for name in names if name.endswith(SUFFIX)]
            found += [
                f"{path.relative_to(base).as_posix()}{mark}" for path in paths if path.resolve().is_relative_to(base)
            ]
    return sorted(found)


def path_to_read(session: str) -> Path:
    """The file that a name of the list stands for. ValueError for one that is not there, or leads out of the folders."""
    if not session:
        raise ValueError(
            "session: there is none yet. Save one with ReEdit Save Session, or copy one into the input folder."
        )
    name, folder = folder_paths.annotated_filepath(session)
    path = inside(folder or folder_paths.get_input_directory(), name.strip())
    if not path.name.endswith(SUFFIX):
        raise ValueError(f"session {session!r} is not the name of a saved session: those end in {SUFFIX}.")
    if not path.is_file():
        raise ValueError(
            f"session {session!r} is not there. Choose another, or save it with ReEdit Save Session first."
        )
    return path


class ReEditLoadSession(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReEditLoadSession",
            display_name="ReEdit Load Session",
            category="ReEdit/session",
            description="Opens a session that ReEdit Save Session wrote, and carries on from it exactly.",
            search_aliases=["load latent", "history", "open"],
            inputs=[
                io.Combo.Input(
                    "session",
                    options=session_files(),
                    tooltip="A saved session in ComfyUI's input or output folder, subfolders included.",
                ),
            ],
            outputs=[
                io.Latent.Output(tooltip="The latent at the step at which it was saved, with the whole session."),
                io.String.Output(display_name="steps", tooltip="The steps of the session, one a line."),
            ],
        )

    @classmethod
    def validate_inputs(cls, session: str | None) -> bool | str:
        if session is None:  # wired: its value is known when it runs
            return True
        try:
            path_to_read(session)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, session: str | None) -> tuple[int, int] | None:
        try:
            found = path_to_read(session or "").stat()
        except (ValueError, OSError):
            return None  # running it says what is wrong
        return found.st_mtime_ns, found.st_size

    @classmethod
    def execute(cls, session: str) -> io.NodeOutput:
        latent = load_session(path_to_read(session))
        record = latent[KEY]
        return io.NodeOutput(latent, list_steps(record, limit=len(record.edits) + 1), ui=describe_session(record))
