"""What nodes tell the history panel: the steps of the session, and thumbnails that the host can serve."""

import os
import shutil
import time
from pathlib import Path

import folder_paths
import numpy as np
import pytest
import torch
from PIL import Image
from reedit.models.session.record import KEY, with_record
from reedit.nodes import history
from reedit.nodes.autoencoders import ReEditDecode, ReEditEncode
from reedit.nodes.history import SESSION, describe_session
from reedit.nodes.merge_pixels import ReEditMergePixels
from reedit.nodes.session import ReEditCheckout, ReEditCommit
from reedit.nodes.session_files import ReEditSaveSession
from reedit.nodes.timeline import ReEditTimeline


@pytest.fixture(autouse=True)
def _forgotten():
    """As after a restart of the host: no thumbnails, and no colours known."""
    history._colours.clear()
    shutil.rmtree(folder(), ignore_errors=True)


def folder() -> Path:
    return Path(folder_paths.get_temp_directory()) / history.SUBFOLDER


def edited(latent, label, amount=0.5):
    """The latent after an edit of its upper left corner."""
    samples = latent["samples"].clone()
    samples[..., :4, :4] += amount
    return ReEditCommit.execute({**latent, "samples": samples}, label, "KSampler")


def session_in(output):
    (session,) = output.ui[SESSION]
    return session


def picture_of(step) -> np.ndarray:
    shown = step["picture"]
    assert (shown["type"], shown["subfolder"]) == ("temp", history.SUBFOLDER)
    return np.asarray(Image.open(folder() / shown["filename"]).convert("RGB"), np.float32) / 255


def test_the_steps_say_what_each_was_made_on(latent):
    first = edited(latent, "first")
    back = ReEditCheckout.execute(first[0], "source")
    branch = edited(back[0], "second", 1.0)
    session = session_in(branch)
    assert [(step["number"], step["parent"], step["label"]) for step in session["steps"]] == [
        (0, None, "source"),
        (1, 0, "first"),
        (2, 0, "second"),
    ]
    assert session["current"] == 2
    assert session_in(back)["current"] == 0
    assert session["steps"][1]["tool"] == "KSampler" and session["steps"][1]["changed"] == "6.2 %"


def test_a_name_stands_for_one_way_to_one_latent(latent):
    names = [step["name"] for step in session_in(edited(latent, "first"))["steps"]]
    again = [step["name"] for step in session_in(edited(latent, "other label"))["steps"]]
    other = [step["name"] for step in session_in(edited(latent, "first", 1.0))["steps"]]
    assert names == again and names[0] == other[0] and names[1] != other[1]


def test_encoding_and_decoding_give_exact_thumbnails(tiny_vae, scenes):
    encoded = ReEditEncode.execute(scenes[:1], tiny_vae)
    (source,) = session_in(encoded)["steps"]
    small = np.asarray(Image.fromarray((picture_of(source) * 255).astype(np.uint8)).resize((64, 64)), np.float32) / 255
    assert np.abs(small - scenes[0].numpy()).mean() < 0.03 and not source["rough"]
    decoded = ReEditDecode.execute(edited(encoded[0], "first")[0], tiny_vae)
    assert not session_in(decoded)["steps"][1]["rough"]


def test_steps_that_were_never_decoded_get_rough_colours_close_to_the_picture(latent, tiny_vae):
    changed = edited(latent, "first")
    rough = session_in(changed)["steps"][1]
    seen = picture_of(rough)
    exact = session_in(ReEditDecode.execute(changed[0], tiny_vae))["steps"][1]
    assert rough["rough"] and not exact["rough"]
    cells = changed[0]["samples"].shape[-1]
    small = [
        np.asarray(Image.fromarray((one * 255).astype(np.uint8)).resize((cells, cells), Image.BOX), float) / 255
        for one in (seen, picture_of(exact))
    ]
    error, of_one_colour = (np.abs(small[1] - shown).mean() for shown in (small[0], small[1].mean((0, 1))))
    assert error < of_one_colour / 2, f"{error:.3f} against {of_one_colour:.3f}"


def test_without_any_picture_there_is_none(latent):
    history._colours.clear()
    shutil.rmtree(folder())
    session = session_in(edited(latent, "first"))
    assert [step["picture"] for step in session["steps"]] == [None, None]


def test_thumbnails_are_written_once(latent, tiny_vae):
    changed = edited(latent, "first")[0]
    ReEditTimeline.execute(changed, tiny_vae)
    before = {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in folder().iterdir()}
    ReEditTimeline.execute(changed, tiny_vae)
    assert {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in folder().iterdir()} == before


def test_the_timeline_keeps_its_sheet_and_gives_every_step_a_picture(latent, tiny_vae):
    shown = ReEditTimeline.execute(edited(edited(latent, "first")[0], "second")[0], tiny_vae)
    assert len(shown.ui["images"]) == 1
    assert [step["rough"] for step in session_in(shown)["steps"]] == [False, False, False]


def test_merged_paint_is_shown_as_it_was_painted(latent, tiny_vae, scenes):
    painted = ReEditDecode.execute(latent, tiny_vae)[0].clone()
    painted[:, :16, :16] = torch.tensor([1.0, 0.0, 0.0])
    step = session_in(ReEditMergePixels.execute(latent, painted, tiny_vae))["steps"][1]
    corner = picture_of(step)[:40, :40].mean((0, 1))
    assert corner[0] > 0.9 and corner[1:].max() < 0.1 and not step["rough"]


def test_saving_says_how_much_as_before_and_tells_of_the_session(latent, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    shown = ReEditSaveSession.execute(edited(latent, "first")[0], "mine").ui
    assert "1 edits" in shown["text"][0] and len(shown[SESSION][0]["steps"]) == 2


def test_a_folder_that_cannot_be_written_costs_only_the_thumbnails(latent, caplog):
    shutil.rmtree(folder())
    folder().write_bytes(b"")  # a file, where the folder should stand
    try:
        session = session_in(edited(latent, "first"))
    finally:
        os.remove(folder())
    assert [step["picture"] for step in session["steps"]] == [None, None]
    assert "cannot write thumbnails" in caplog.text


def test_two_hundred_edits_are_described_quickly(latent, scenes):
    """Of a session that was just loaded: nothing is known of it yet but one picture."""
    record = latent[KEY]
    samples = latent["samples"]
    generator = torch.Generator().manual_seed(0)
    for number in range(200):
        samples = samples.clone()
        top, left = torch.randint(0, 12, (2,), generator=generator).tolist()
        samples[..., top : top + 4, left : left + 4] += 0.3
        record = record.with_edit(samples, f"edit {number}", "KSampler")
    started = time.perf_counter()
    (session,) = describe_session(record, {record.current: scenes[:1]})[SESSION]
    first = time.perf_counter() - started
    started = time.perf_counter()
    describe_session(with_record({}, record)[KEY])
    again = time.perf_counter() - started
    assert all(step["picture"] for step in session["steps"])
    print(f"{first:.3f} s the first time, {again:.3f} s afterwards")
    assert again < first / 4
