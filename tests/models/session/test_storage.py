import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_sessions import latent_trees, same_bits
from reedit.models import files
from reedit.models.files import fingerprint
from reedit.models.session.record import KEY, EditRecord, observe, with_record
from reedit.models.session.storage import SUFFIX, load_session, save_session
from safetensors import safe_open
from safetensors.torch import load_file, save_file

SAVER = Path(__file__).with_name("save_again_and_again.py")


def assert_same_session(one: EditRecord, other: EditRecord) -> None:
    assert (one.current, one.current_digest, one.source_encoded_pixels) == (
        other.current,
        other.current_digest,
        other.source_encoded_pixels,
    )
    assert len(one.edits) == len(other.edits)
    for number in range(len(one.edits) + 1):
        assert same_bits(one.samples_at(number), other.samples_at(number))
    for left, right in zip(one.edits, other.edits, strict=True):
        assert dict(left.parameters) == dict(right.parameters) and left.packed_mask == right.packed_mask
        for name in ("number", "label", "tool", "parent", "encoded_pixels", "batch_origin", "changed_cells"):
            assert getattr(left, name) == getattr(right, name)


@st.composite
def sessions(draw):
    """A LATENT with a random tree of edits, as foreign and own nodes leave it."""
    latents, parents = draw(latent_trees())
    record = EditRecord(latents[0], draw(st.integers(0, 10**9)))
    values = st.one_of(st.booleans(), st.integers(-(2**60), 2**60), st.floats(allow_nan=False), st.text(max_size=9))
    for parent, after in zip(parents[1:], latents[1:], strict=True):
        parameters = draw(st.dictionaries(st.text(max_size=9), values, max_size=3))
        mask, pixels = draw(st.sampled_from([None, torch.rand(1, 7, 7)])), draw(st.integers(0, 99))
        record = record.at(parent).with_edit(after, draw(st.text(max_size=12)), "a tool", parameters, mask, pixels)
    record = record.at(draw(st.integers(0, len(record.edits))))
    samples = record.samples_at(record.current)
    extras = {"batch_index": list(range(samples.shape[0])), "type": "image", "noise_mask": torch.rand(1, 1, 8, 8)}
    return with_record(draw(st.sampled_from([{}, extras])), record)


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / f"session{SUFFIX}"


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sessions(), st.integers(0, 2**31))
def test_save_load_continue_is_as_if_it_had_never_been_saved(file, latent, seed):
    assert save_session(file, latent) == []
    loaded = load_session(file)
    assert_same_session(latent[KEY], loaded[KEY])
    assert same_bits(loaded["samples"], latent["samples"])
    assert loaded.keys() == latent.keys()
    if "noise_mask" in latent:
        assert same_bits(loaded["noise_mask"], latent["noise_mask"])
        assert (loaded["batch_index"], loaded["type"]) == (latent["batch_index"], latent["type"])

    def carry_on(one):
        """A foreign change, an edit, a step back and a branch."""
        generator = torch.Generator().manual_seed(seed)
        record = observe({**one, "samples": one["samples"] + 1})
        record = record.with_edit(torch.randn(one["samples"].shape, generator=generator), "next", "t")
        return record.at(seed % len(record.edits)).with_edit(one["samples"] * 2, "branch", "t")

    assert_same_session(carry_on(latent), carry_on(loaded))


def a_session(edits: int = 3, side: int = 8) -> dict:
    record = EditRecord(torch.randn(1, 4, side, side))
    for number in range(edits):
        after = record.samples_at(record.current)
        after[..., number : number + 2, :] += 1
        record = record.with_edit(after, f"edit {number}", "KSampler", {"seed": number})
    return with_record({}, record)


def test_a_change_that_nobody_noted_is_saved_too(file):
    latent = a_session()
    changed = {**latent, "samples": latent["samples"] + 1}
    save_session(file, changed)
    loaded = load_session(file)
    assert same_bits(loaded["samples"], changed["samples"]) and loaded[KEY].edits[-1].label == "unrecorded edit"


def test_what_cannot_be_kept_is_named_and_the_graph_is_kept_as_core_keeps_it(file):
    lost = save_session(file, {**a_session(), "tuple": (1, 2), "object": object()}, {"workflow": '{"nodes": []}'})
    assert lost == ["tuple", "object"]
    with safe_open(file, framework="pt") as opened:
        assert json.loads(opened.metadata()["workflow"]) == {"nodes": []}


def rewrite(file: Path, change_tensors=lambda tensors: None, change_session=lambda session: None, **metadata) -> None:
    """The same file with something else in it, as somebody would write it who knows the format."""
    with safe_open(file, framework="pt") as opened:
        known = opened.metadata()
    tensors = load_file(file)
    session = json.loads(tensors["session"].numpy().tobytes())
    change_tensors(tensors)
    change_session(session)
    tensors["session"] = torch.frombuffer(bytearray(json.dumps(session).encode()), dtype=torch.uint8)
    save_file(tensors, file, {**known, "sha256": fingerprint(tensors), **metadata})


def edit_of(number: int, **values):
    return lambda session: session["edits"][number - 1].update(values)


@pytest.mark.parametrize(
    "change_session, fault",
    [
        (edit_of(1, parent=1), "1 is not a number from 0 to 0"),
        (edit_of(2, parent=-1), "is not a number"),
        (edit_of(2, parent=True), "is not a number"),
        (edit_of(2, shape=[1, 4, 16, 16]), "edit 2 does not fit its parent"),
        (edit_of(2, shape=[2**20, 4, 2**20, 8]), "is no latent's"),
        (edit_of(2, batch_origin=[0, 0, 0]), "has no origin for each item"),
        (edit_of(2, batch_origin=[7]), "7 is not a number from 0 to 0"),
        (edit_of(2, mask={"shape": [1, 2**20, 2**20], "window": [0, 1, 0, 1]}), "mask of edit 2 is too large"),
        (edit_of(2, mask={"shape": [1, 8, 8], "window": [0, 9, 0, 9]}), "mask"),
        (edit_of(2, label=7), "7 is no text"),
        (edit_of(2, parameters=[1]), "are no parameters"),
        (lambda session: session.update(current=9), "9 is not a number from 0 to 3"),
        (lambda session: session.update(current=1), "not the one that was saved"),
        (lambda session: session.pop("edits"), "KeyError"),
        (lambda session: session["edits"].append({}), "KeyError"),
    ],
)
def test_a_false_claim_in_a_file_is_refused_with_its_fault(file, change_session, fault):
    save_session(file, a_session())
    rewrite(file, change_session=change_session)
    with pytest.raises(ValueError, match=f"session{SUFFIX} is damaged.*{fault}"):
        load_session(file)


@pytest.mark.parametrize(
    "change_tensors, fault",
    [
        (lambda tensors: tensors.pop("source"), "source"),
        (lambda tensors: tensors.update(source=torch.zeros(3)), "the source is no latent"),
        (lambda tensors: tensors["source"].fill_(float("nan")), "NaN"),
        (lambda tensors: tensors.pop("edit.1.index"), "edit 1 does not hold all its cells"),
        (lambda tensors: tensors["edit.1.index"].add_(1000), "do not lie in its latent"),
        (lambda tensors: tensors.update({"edit.1.index": tensors["edit.1.index"].flip(0)}), "do not lie in its latent"),
        (lambda tensors: tensors["edit.1.values"].fill_(float("inf")), "not finite"),
        (lambda tensors: tensors["edit.3.values"].add_(1), "not the one that was saved"),
        (lambda tensors: tensors.update({"edit.1.values": tensors["edit.1.values"].half()}), "does not fit its parent"),
        (lambda tensors: tensors["edit.1.mask"].fill_(0), "a mask cannot be inflated"),
        (lambda tensors: tensors.update({"edit.1.mask": tensors["edit.1.mask"][:-9]}), "a mask"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_with_their_fault(file, change_tensors, fault):
    save_session(file, a_session())
    rewrite(file, change_tensors=change_tensors)
    with pytest.raises(ValueError, match=f"session{SUFFIX} is damaged.*{fault}"):
        load_session(file)


def test_other_files_are_refused_in_plain_words(file):
    save_session(file, a_session())
    whole = file.read_bytes()
    rewrite(file, version="2")
    with pytest.raises(ValueError, match="was saved in format '2'; this ReEdit reads format 1. Update"):
        load_session(file)
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        load_session(file)
    save_file({"weight": torch.zeros(2)}, file)
    with pytest.raises(ValueError, match="holds no ReEdit session"):
        load_session(file)
    file.unlink()
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        load_session(file)


def test_damage_in_any_branch_is_noticed(file):
    """Also in one that the current step does not stand on."""
    latent = a_session()
    save_session(file, with_record(latent, latent[KEY].at(1)))
    tensors = load_file(file)
    tensors["edit.3.values"][0, 0] += 1
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    save_file(tensors, file, metadata)
    with pytest.raises(ValueError, match="its content is not what was saved"):
        load_session(file)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**31), st.booleans())
def test_a_file_with_any_byte_changed_or_cut_off_gives_a_session_or_a_valueerror(file, seed, cut):
    choose = random.Random(seed)
    save_session(file, a_session())
    data = bytearray(file.read_bytes())
    if cut:
        data = data[: choose.randrange(len(data))]
    else:
        for _ in range(choose.randint(1, 4)):
            data[choose.randrange(len(data))] = choose.randrange(256)
    file.write_bytes(data)
    try:
        latent = load_session(file)
    except ValueError:
        return
    assert latent[KEY].is_current(latent["samples"])


def test_a_failed_save_leaves_the_old_file_and_nothing_beside_it(file, monkeypatch):
    latent = a_session()
    save_session(file, latent)

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        save_session(file, a_session(5))
    assert_same_session(load_session(file)[KEY], latent[KEY]) and [path.name for path in file.parent.iterdir()] == [
        file.name
    ]


def test_what_killed_saves_left_is_removed_once_it_is_old(file, monkeypatch):
    old, new = (file.with_name(f".{file.name}.{name}.part") for name in ("old", "new"))
    old.write_bytes(b"")
    save_session(file, a_session())
    new.write_bytes(b"")
    assert old.exists()
    now = time.time()
    monkeypatch.setattr(files.time, "time", lambda: now + 2 * files.LEFT_OVER_SECONDS)
    save_session(file, a_session())
    assert not old.exists() and not new.exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_save_killed_at_any_moment_leaves_the_old_file_or_the_new_one(tmp_path):
    """Fifty times: a process that saves two sessions by turns is killed while it does so."""
    file, choose = tmp_path / f"session{SUFFIX}", random.Random(0)
    starter = subprocess.Popen([sys.executable, SAVER, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    seconds, *digests = starter.stdout.readline().split()
    found, cut_short = set(), 0
    for _ in range(50):
        starter.stdin.write("save\n")
        starter.stdin.flush()
        child = int(starter.stdout.readline())
        time.sleep(choose.uniform(0, 3 * float(seconds)))
        os.kill(child, signal.SIGKILL)
        assert starter.stdout.readline() == "killed\n"
        parts = list(tmp_path.glob("*.part"))
        cut_short += len(parts)
        for part in parts:
            part.unlink()
        found.add(load_session(file)[KEY].current_digest)
    starter.stdin.close()
    starter.wait()
    assert found == set(digests)
    assert cut_short > 5  # or else the kills did not land where they matter
