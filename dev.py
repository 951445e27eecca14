#!/usr/bin/env python3
"""Sets up, shows, tests and measures ComfyUI-ReEdit on a bare machine with Python 3.10 or newer.

Everything it makes stands in the git-ignored folder build/: an environment, the host (ComfyUI 0.30.0), and a base
directory in which the pack and its demo models are linked. COMFYUI_PATH=/path/to/ComfyUI uses that installation and
its own torch instead (COMFYUI_PYTHON names its Python where it is not found); nothing is written into it.
"""
# This file must stay readable for Python 3.6 (no match, no walrus): only then can check_python say what is wrong.

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

OLDEST_PYTHON = (3, 10)


def check_python(version):
    """End with a message on a Python that is too old; called before anything that such a Python trips over."""
    if tuple(version[:2]) < OLDEST_PYTHON:
        found = ".".join(str(part) for part in version[:3])
        sys.stderr.write(
            f"dev.py: this is Python {found}, and ComfyUI-ReEdit needs Python 3.10 or newer. "
            "Start dev.py with a newer one, for example: python3.12 dev.py demo\n"
        )
        raise SystemExit(2)


check_python(sys.version_info)

# Only now, since an older Python cannot read the next file; and its compiled form stands under build/ as well.
sys.pycache_prefix = str(Path(__file__).resolve().parent / "build" / "pycache")
from dev_setup import (
    BUILD,
    CHECKOUT,
    WINDOWS,
    Problem,
    ask,
    child_environment,
    fingerprint,
    link_folder,
    newest_frontend,
    prepare,
    require_space,
    run,
    say,
)

BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "microsoft-edge",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Microsoft/Edge/Application/msedge.exe",
)

ALL = "all"  # of the benchmarks


# --- a browser -------------------------------------------------------------------------------------------------------


def browser_on_hand() -> str | None:
    for name in BROWSERS:
        found = shutil.which(name)
        # Ubuntu's chromium may be a stub that only names a snap, so let it speak. Under Windows it would open a window.
        if found and (WINDOWS or subprocess.run([found, "--version"], capture_output=True).returncode == 0):
            return found
    return None


def install_with_apt() -> None:
    """Debian's or Ubuntu's chromium, where we may install packages without asking anybody."""
    if not shutil.which("apt-get"):
        return
    as_root = []
    if os.geteuid() != 0:
        as_root = ["sudo", "-n"]
        if not shutil.which("sudo") or subprocess.run([*as_root, "true"], capture_output=True).returncode != 0:
            return
    say("installing chromium with apt-get, for the browser tests")
    quiet = child_environment(DEBIAN_FRONTEND="noninteractive")
    if run([*as_root, "apt-get", "update", "-qq"], variables=quiet) == 0:
        run([*as_root, "apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"], variables=quiet)


def with_browsers(variables: dict[str, str]) -> dict[str, str]:
    return {**variables, "PLAYWRIGHT_BROWSERS_PATH": str(BUILD / "browsers")}


def downloaded_browser(python: Path, variables: dict[str, str]) -> str | None:
    """Playwright's Chromium under build/browsers, if it stands there."""
    if not (BUILD / "browsers").is_dir():
        return None
    script = "from playwright.sync_api import sync_playwright as s\nwith s() as p: print(p.chromium.executable_path)"
    path = ask(python, script, with_browsers(variables))
    return path if Path(path).is_file() else None


def find_browser(python: Path, variables: dict[str, str]) -> str:
    named = os.environ.get("REEDIT_BROWSER")
    if named:
        found = shutil.which(named)
        if not found:
            raise Problem(f"REEDIT_BROWSER={named} is not a program. Name a Chromium, Chrome or Edge executable.")
        return found
    found = browser_on_hand() or downloaded_browser(python, variables)
    if not found and not WINDOWS:
        install_with_apt()
        found = browser_on_hand()
    if not found:
        require_space("A browser", 0.7)
        say("downloading Chromium into build/browsers, for the browser tests")
        run([python, "-m", "playwright", "install", "chromium"], variables=with_browsers(variables))
        found = downloaded_browser(python, variables)
    if not found:
        raise Problem(
            "No Chromium, Chrome or Edge was found, and none could be installed. Install one, "
            "or name its executable: REEDIT_BROWSER=/path/to/chromium python3 dev.py test"
        )
    return found


# --- the commands -----------------------------------------------------------------------------------------------------


def demo(options: argparse.Namespace) -> int:
    python, variables = prepare()
    return run([python, "tests/comfy/demo.py", "--output", "build/demo"], variables=variables)


def test(options: argparse.Namespace) -> int:
    python, variables = prepare()
    variables["REEDIT_BROWSER"] = find_browser(python, variables)
    if options.newest_frontend:
        variables["REEDIT_FRONTEND"] = str(newest_frontend(python))
    # The checkout's name is no Python name, so mypy sees the pack through a link that has one.
    typing = BUILD / "typing"
    link_folder(typing / "reedit", CHECKOUT)
    variables.update(MYPYPATH=variables["COMFYUI_PATH"], MYPY_CACHE_DIR=str(BUILD / "mypy_cache"))
    marks = "slow or not slow" if options.slow else "not slow"
    packages = ["-p", "reedit.nodes", "-p", "reedit.models"]
    steps = {
        "ruff check": ([python, "-m", "ruff", "check", "."], CHECKOUT),
        "ruff format": ([python, "-m", "ruff", "format", "--check", "."], CHECKOUT),
        "mypy": ([python, "-m", "mypy", "--config-file", CHECKOUT / "pyproject.toml", *packages], typing),
        "pytest": ([python, "-m", "pytest", "-m", marks, *options.pytest_arguments], CHECKOUT),
    }
    failed = []
    for name, (command, folder) in steps.items():
        say(name)
        if run(command, folder, variables) != 0:
            failed.append(name)
    say(f"failed: {', '.join(failed)}" if failed else "all passed")
    return 1 if failed else 0


def check_port(port: int) -> None:
    """Refuse a port that somebody listens on, and name one that is free."""

    def is_free(candidate: int) -> bool:
        with socket.socket() as probe:
            if not WINDOWS:  # as the server does: a port that was in use a minute ago is free
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", candidate))
                return True
        return False

    if not is_free(port):
        other = next((p for p in range(port + 1, min(port + 100, 65536)) if is_free(p)), 8188)
        raise Problem(f"port {port} is in use on this machine. Try: python3 dev.py serve --port {other}")


def serve(options: argparse.Namespace) -> int:
    check_port(options.port)
    python, variables = prepare(weights_needed=False)
    base = BUILD / "comfy"
    picture = base / "input" / "example.png"  # what the templates load; the demo's models know pictures like it alone
    if not picture.exists() and run([python, "tests/comfy/demo.py", "--picture", picture], variables=variables) != 0:
        say(f"{picture} could not be drawn: put a picture there, or choose one in the templates.")
    command = [python, Path(variables["COMFYUI_PATH"]) / "main.py", "--base-directory", base, "--disable-api-nodes"]
    # The database does not follow --base-directory: unasked it would stand in the folder of the ComfyUI.
    command += ["--database-url", f"sqlite:///{(base / 'user' / 'comfyui.db').as_posix()}"]
    command += ["--listen", "127.0.0.1", "--port", options.port]
    if ask(python, "import torch; print(torch.cuda.is_available() or torch.backends.mps.is_available())") != "True":
        command.append("--cpu")
    say(f"ComfyUI will stand at http://127.0.0.1:{options.port} in about half a minute; Ctrl-C ends it.")
    try:
        return run(command, base, variables)
    except KeyboardInterrupt:
        say("ComfyUI has ended.")
        return 0


def measured_code() -> list[Path]:
    """The files of ours that figures depend on."""
    folders = [CHECKOUT / name for name in ("models", "nodes", "tests", "web", "workflows")]
    kinds = (".py", ".js", ".json", ".safetensors")
    ours = sorted(path for folder in folders for path in folder.rglob("*") if path.suffix in kinds)
    return [CHECKOUT / "requirements.lock", *ours]


def bench_all(python: Path, scripts: dict[str, Path], variables: dict[str, str]) -> int:
    """Run every benchmark, for hours. Those that ended well are noted: a run that was stopped, or in which some failed, goes
    on with the others, and within those that keep their parts. Of other code, or another host, nothing counts."""
    code, folder = measured_code(), BUILD / "bench"
    notes = folder / "all.txt"
    stamp = fingerprint(variables["COMFYUI_PATH"], [path.name for path in code], *code)
    lines = notes.read_text().split() if notes.is_file() else []
    if lines[:1] != [stamp]:
        lines = [stamp]
        for parts in filter(Path.is_dir, list(folder.iterdir())):
            shutil.rmtree(parts)
    if lines[1:]:
        say(f"going on with a run that has finished {', '.join(lines[1:])} (delete {notes} to begin again)")
    notes.write_text("\n".join(lines))
    for name in scripts:
        if name not in lines and run([python, scripts[name]], variables=variables) == 0:
            lines.append(name)
            notes.write_text("\n".join(lines))
    failed = [name for name in scripts if name not in lines]
    if failed:
        say(f"failed: {', '.join(failed)}")
        return 1
    notes.unlink()
    return 0


def bench(options: argparse.Namespace) -> int:
    scripts = {script.stem: script for script in sorted((CHECKOUT / "tests" / "bench").glob("[!_]*.py"))}
    if not scripts:
        raise Problem("there is no benchmark yet: one is a script tests/bench/NAME.py.")
    everything = options.name in (None, ALL)
    if not everything and options.name not in scripts:
        raise Problem(f"there is no benchmark {options.name!r}. There is: {', '.join(scripts)}, and {ALL}.")
    python, variables = prepare()
    (BUILD / "bench").mkdir(parents=True, exist_ok=True)
    if everything or options.name == "panel":  # which measures the page
        variables["REEDIT_BROWSER"] = find_browser(python, variables)
    if everything:
        return bench_all(python, scripts, variables)
    return run([python, scripts[options.name]], variables=variables)


def port_number(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: give a number from 1 to 65535")
    return int(text)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dev.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    add = {
        name: commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        for name, text in {
            "demo": "run the shipped workflows in a real ComfyUI; pictures and a report land in build/demo",
            "test": "ruff, mypy and all tests, with a real ComfyUI and a real browser; more arguments go to pytest",
            "serve": "start ComfyUI with the pack and its demo models, to be used in a browser",
            "bench": "run one benchmark, or all; figures land in build/bench",
        }.items()
    }
    add["test"].add_argument("--slow", action="store_true", help="also run the tests that are marked slow")
    add["test"].add_argument(
        "--newest-frontend", action="store_true", help="with the newest page of ComfyUI from PyPI, not the host's own"
    )
    add["serve"].add_argument("--port", type=port_number, default=8188, help="the port to serve at (default 8188)")
    add["bench"].add_argument("name", metavar="NAME", nargs="?", help=f"a script of tests/bench, without .py, or {ALL}")
    options, others = parser.parse_known_args(arguments)
    if others and options.command != "test":
        add[options.command].error(f"unknown: {' '.join(others)}")
    options.pytest_arguments = others
    return options


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    commands = {"demo": demo, "test": test, "serve": serve, "bench": bench}
    try:
        return commands[options.command](options)
    except (Problem, OSError) as problem:
        print(f"dev.py: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dev.py: interrupted. The same command begins again where it can.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what we started ends with us
    sys.exit(main(sys.argv[1:]))
