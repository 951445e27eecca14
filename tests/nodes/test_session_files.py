import json
from types import SimpleNamespace

import comfy.cli_args
import folder_paths
import pytest
import torch
from reedit.models.session.record import KEY, observe, with_record
from reedit.models.session.storage import SUFFIX
from reedit.nodes.session_files import NEW_NUMBER, REPLACE, ReEditLoadSession, ReEditSaveSession, session_files
from safetensors import safe_open


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """The host's input and output folders, empty and ours; the output folder is reached through a link, as people do."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "input").mkdir()
    (tmp_path / "output").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path / "input"))
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    return tmp_path


@pytest.fixture
def edited(latent):
    samples = latent["samples"] + 1
    return with_record(latent, observe(latent).with_edit(samples, "brighter", "a tool", {"seed": 3}))


def save(latent, filename="reedit/session", existing=NEW_NUMBER) -> str:
    return ReEditSaveSession.execute(latent, filename, existing)[1]


def test_a_saved_session_is_offered_and_opens_where_it_was(edited):
    noised = {**edited, "noise_mask": torch.rand(1, 1, 64, 64), "batch_index": [4]}
    name = save(noised)
    assert name == "reedit/session_00001.reedit.safetensors [output]" and session_files() == [name]
    assert ReEditLoadSession.validate_inputs(name) is True
    loaded, steps = ReEditLoadSession.execute(name).result
    assert torch.equal(loaded["samples"], edited["samples"]) and torch.equal(loaded["noise_mask"], noised["noise_mask"])
    assert loaded["batch_index"] == [4] and loaded[KEY].edits[0].parameters == {"seed": 3}
    assert steps == "0. source\n1. brighter  ← current"


def test_saving_again_counts_or_replaces_as_asked(edited, latent):
    assert [save(edited), save(edited)] == [f"reedit/session_0000{number}{SUFFIX} [output]" for number in (1, 2)]
    for one in (edited, latent):
        assert save(one, existing=REPLACE) == f"reedit/session{SUFFIX} [output]"
    loaded = ReEditLoadSession.execute(f"reedit/session{SUFFIX} [output]")[0]
    assert loaded[KEY].edits == () and len(session_files()) == 3


def test_a_copy_in_the_input_folder_opens_too(edited, folders):
    save(edited, existing=REPLACE)
    copied = folders / "input" / f"from a friend{SUFFIX}"
    copied.write_bytes((folders / "output" / "reedit" / f"session{SUFFIX}").read_bytes())
    assert copied.name in session_files()
    assert torch.equal(ReEditLoadSession.execute(copied.name)[0]["samples"], edited["samples"])


def test_it_passes_the_latent_on_and_says_what_it_saved(edited):
    foreign = {**edited, "samples": edited["samples"] * 2}
    output = ReEditSaveSession.execute(foreign)
    latent = output[0]
    assert latent["samples"] is foreign["samples"] and latent[KEY].edits[-1].label == "unrecorded edit"
    assert output.ui["text"] == ("2 edits, 0.01 MiB, in output/reedit/session_00001.reedit.safetensors",)


def test_the_graph_is_kept_unless_the_host_was_told_not_to(edited, folders, monkeypatch):
    told = SimpleNamespace(prompt={"1": {}}, extra_pnginfo={"workflow": {"nodes": []}})
    monkeypatch.setattr(ReEditSaveSession, "hidden", told)

    def metadata():
        save(edited, existing=REPLACE)
        with safe_open(folders / "output" / "reedit" / f"session{SUFFIX}", framework="pt") as file:
            return file.metadata()

    kept = metadata()
    assert json.loads(kept["prompt"]) == {"1": {}} and json.loads(kept["workflow"]) == {"nodes": []}
    monkeypatch.setattr(comfy.cli_args.args, "disable_metadata", True)
    assert not {"prompt", "workflow"} & metadata().keys()


@pytest.mark.parametrize(
    "name",
    [
        "",
        "  ",
        "../x",
        "a/../../x",
        "/etc/x",
        "a//x",
        "C:/x",
        "a\\..\\..\\x",
        "sub/",
        "a?b",
        "a:b",
        "con",
        "sub/nul.x",
        "a. /b",
    ],
)
@pytest.mark.parametrize("existing", [NEW_NUMBER, REPLACE])
def test_a_name_that_leaves_the_folder_or_is_none_is_refused_before_anything_is_written(
    edited, folders, name, existing
):
    with pytest.raises(ValueError, match="is not a file's name in ComfyUI's folder"):
        save(edited, name, existing)
    assert not any((folders / "elsewhere").iterdir())


def test_a_link_out_of_the_folder_is_not_followed(edited, folders):
    (folders / "secret").mkdir()
    (folders / "elsewhere" / "way out").symlink_to(folders / "secret", target_is_directory=True)
    with pytest.raises(ValueError, match="is not a file's name"):
        save(edited, "way out/x")
    save(edited, "x", REPLACE)
    (folders / "secret" / f"x{SUFFIX}").write_bytes((folders / "elsewhere" / f"x{SUFFIX}").read_bytes())
    (folders / "input" / f"linked{SUFFIX}").symlink_to(folders / "secret" / f"x{SUFFIX}")
    assert session_files() == [f"x{SUFFIX} [output]"]
    for name in (f"way out/x{SUFFIX} [output]", f"linked{SUFFIX}", f"../secret/x{SUFFIX}", str(folders / f"x{SUFFIX}")):
        assert "is not a file's name" in ReEditLoadSession.validate_inputs(name)
        with pytest.raises(ValueError, match="is not a file's name"):
            ReEditLoadSession.execute(name)


def test_a_file_that_is_not_there_or_no_session_is_named(folders):
    assert ReEditLoadSession.define_schema().inputs[0].options == []
    assert "there is none yet" in ReEditLoadSession.validate_inputs("")
    assert "is not there" in ReEditLoadSession.validate_inputs(f"gone{SUFFIX}")
    (folders / "input" / "model.safetensors").write_bytes(b"x")
    assert "is not the name of a saved session" in ReEditLoadSession.validate_inputs("model.safetensors")
    assert ReEditLoadSession.validate_inputs(None) is True  # wired to another node


def test_a_changed_file_runs_again(edited, latent):
    name = save(edited, existing=REPLACE)
    before = ReEditLoadSession.fingerprint_inputs(name)
    assert before == ReEditLoadSession.fingerprint_inputs(name)
    save(latent, existing=REPLACE)
    assert ReEditLoadSession.fingerprint_inputs(name) != before
    assert ReEditLoadSession.fingerprint_inputs("gone") is None
