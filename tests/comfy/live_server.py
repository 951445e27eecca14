"""Starts the real ComfyUI on a free port, queues graphs over HTTP and follows them over its websocket."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests
import websocket

NOTED_SECONDS = 60
START_SECONDS = 240
Graph = Mapping[str, Mapping[str, Any]]  # the queue's format: {id: {"class_type", "inputs"}}


class GraphFailed(Exception):
    """The host refused a graph or a node raised; the message holds what the host said."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class LiveServer:
    """A running host. Use as a context manager.

    host: ComfyUI's folder. base_directory: its custom_nodes and models. scratch: where input, output, user and the log of
    this server stand, so that servers do not see each other's files. REEDIT_FRONTEND names the folder of another page than
    the host's own, as `comfyui_frontend_package/static` of a newer one.
    """

    def __init__(self, host: Path, base_directory: Path, scratch: Path) -> None:
        self.host, self.base_directory, self.scratch = host, base_directory, scratch
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_file = scratch / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    def folder(self, kind: str) -> Path:
        """The folder of a kind: "input", "output", "temp" or "user"."""
        path = self.scratch / kind
        path.mkdir(parents=True, exist_ok=True)
        return path

    def __enter__(self) -> LiveServer:
        folders = [word for kind in ("input", "output", "user") for word in (f"--{kind}-directory", self.folder(kind))]
        folders += ["--temp-directory", self.scratch]  # in which the host makes a folder named temp
        command = [sys.executable, self.host / "main.py", "--cpu", "--disable-api-nodes", "--disable-auto-launch"]
        # Unasked, the database would stand in the host's own folder.
        command += ["--database-url", f"sqlite:///{(self.folder('user') / 'comfyui.db').as_posix()}"]
        command += [
            "--listen",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--base-directory",
            self.base_directory,
            *folders,
        ]
        if frontend := os.environ.get("REEDIT_FRONTEND"):
            command += ["--front-end-root", frontend]
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                [str(word) for word in command],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.scratch,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def _wait_until_it_answers(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"ComfyUI stopped with status {self._process.returncode}:\n{self.log[-4000:]}")
            try:
                requests.get(f"{self.url}/system_stats", timeout=5).raise_for_status()
                return
            except requests.RequestException:
                time.sleep(0.3)
        raise RuntimeError(f"ComfyUI did not answer within {START_SECONDS} s:\n{self.log[-4000:]}")

    def get(self, path: str) -> Any:
        """The JSON that the host answers for a path like "/object_info"."""
        answer = requests.get(f"{self.url}{path}", timeout=120)
        answer.raise_for_status()
        return answer.json()

    def run(self, graph: Graph, timeout: float = 600) -> dict[str, Any]:
        """Queue a graph, wait until it has run, and return what its nodes showed: {node id: {"images": …, "text": …}}.

        Raises GraphFailed with the host's own words if it is refused, or if a node raises.
        """
        client = uuid.uuid4().hex
        connection = websocket.create_connection(f"ws://127.0.0.1:{self.port}/ws?clientId={client}", timeout=timeout)
        try:
            body = {"prompt": graph, "client_id": client}
            answer = requests.post(f"{self.url}/prompt", json=body, timeout=60)
            if answer.status_code != 200:
                raise GraphFailed(json.dumps(answer.json(), indent=1))
            prompt_id = answer.json()["prompt_id"]
            self._follow(connection, prompt_id)
        finally:
            connection.close()
        return self.outputs_of(prompt_id)

    def outputs_of(self, prompt_id: str) -> dict[str, Any]:
        """What the nodes of a run that has ended showed. The host tells of its end a moment before it notes it down."""
        deadline = time.monotonic() + NOTED_SECONDS
        while prompt_id not in (history := self.get(f"/history/{prompt_id}")):
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"ComfyUI did not note run {prompt_id} within {NOTED_SECONDS} s:\n{self.log[-4000:]}"
                )
            time.sleep(0.1)
        return history[prompt_id]["outputs"]

    @staticmethod
    def _follow(connection: websocket.WebSocket, prompt_id: str) -> None:
        while True:
            message = connection.recv()
            if not isinstance(message, str):
                continue  # a preview picture
            event = json.loads(message)
            data = event.get("data", {})
            if data.get("prompt_id") != prompt_id:
                continue
            if event["type"] == "execution_success":
                return
            if event["type"] == "execution_error":
                raise GraphFailed(f"{data['node_type']} (node {data['node_id']}): {data['exception_message']}")
            if event["type"] == "execution_interrupted":
                raise GraphFailed(f"interrupted at node {data.get('node_id')}")

    def output_file(self, shown: Mapping[str, str]) -> Path:
        """The file of one entry of a node's "images" or "latents"."""
        return self.folder(shown["type"]) / shown.get("subfolder", "") / shown["filename"]
