import pytest
import torch
from reedit.models.session.record import KEY
from reedit.nodes.autoencoders import ReEditDecode, ReEditEncode
from reedit.nodes.drift import ReEditDriftMeter
from reedit.nodes.graph import producer_of
from reedit.nodes.session import ReEditCommit, ReEditMergePixels, ReEditTimeline

PROMPT = {
    "7": {"class_type": "KSampler", "inputs": {"seed": 3, "model": ["1", 0]}},
    "8": {"class_type": "ReEditCommit", "inputs": {"samples": ["7", 0], "label": "x"}},
}


@pytest.fixture
def latent(tiny_vae, scenes):
    return ReEditEncode.execute(scenes[:1], tiny_vae)[0]


@pytest.fixture
def in_graph(monkeypatch):
    """ReEditCommit as the host clones it for a run, with what it tells about the graph."""
    from types import SimpleNamespace

    monkeypatch.setattr(ReEditCommit, "hidden", SimpleNamespace(prompt=PROMPT, unique_id="8"))
    return ReEditCommit


def test_commit_takes_tool_and_parameters_from_the_graph(in_graph, latent):
    changed = {**latent, "samples": latent["samples"] + 1}
    (committed,) = in_graph.execute(changed, "brighter").result
    (edit,) = committed[KEY].edits
    assert (edit.label, edit.tool, dict(edit.parameters)) == ("brighter", "KSampler", {"seed": 3})
    assert latent[KEY].edits == ()


def test_commit_without_a_label_uses_the_tools_name(in_graph, latent):
    assert in_graph.execute(latent)[0][KEY].edits[0].label == "KSampler"
    assert in_graph.execute(latent, tool="my tool")[0][KEY].edits[0].label == "my tool"


def test_a_graph_that_the_host_does_not_tell_is_no_error():
    assert producer_of(None, None, "samples") == ("unknown", {})
    assert producer_of(PROMPT, "7", "samples") == ("unknown", {})


def test_painting_changes_the_painted_cells_and_no_other(tiny_vae, latent):
    picture, latent = ReEditDecode.execute(latent, tiny_vae).result
    painted = picture.clone()
    painted[:, 20:30, 40:52] = torch.tensor([0.9, 0.1, 0.7])
    merged, mask = ReEditMergePixels.execute(latent, painted, tiny_vae).result
    changed = (merged["samples"] != latent["samples"]).any(1)[0].nonzero()
    assert changed.amin(0).tolist() == [5, 10] and changed.amax(0).tolist() == [7, 12]
    assert mask[0, 20:30, 40:52].all() and mask.sum() == 10 * 12
    (edit,) = merged[KEY].edits
    assert edit.encoded_pixels == 64 * 64 and edit.tool == "ReEditMergePixels"
    after = tiny_vae.decode(merged["samples"])
    assert (after[:, 22:28, 42:50] - painted[:, 22:28, 42:50]).abs().mean() < 0.06  # the paint is really there


def test_a_mask_says_what_was_painted(tiny_vae, latent):
    picture, latent = ReEditDecode.execute(latent, tiny_vae).result
    mask = torch.zeros(1, 32, 32)
    mask[:, 0:2, 0:2] = 1.0  # half the picture's size: pixels 0 to 3 are one cell
    merged, _ = ReEditMergePixels.execute(latent, torch.rand_like(picture), tiny_vae, mask=mask).result
    assert (merged["samples"] != latent["samples"]).any(1)[0].nonzero().tolist() == [[0, 0]]


def test_an_unpainted_picture_is_no_edit_and_encodes_nothing(tiny_vae, latent):
    picture, latent = ReEditDecode.execute(latent, tiny_vae).result
    as_png = (picture * 255).round() / 255  # as it comes back from a file
    merged, mask = ReEditMergePixels.execute(latent, as_png, tiny_vae).result
    assert merged["samples"] is latent["samples"] and merged[KEY].edits == () and not mask.any()


def test_a_painted_picture_of_another_size_or_batch_is_refused(tiny_vae, latent):
    with pytest.raises(ValueError, match=r"pixels is 1 picture\(s\) of 32×64, but the latent's are 1 of 64×64"):
        ReEditMergePixels.execute(latent, torch.rand(1, 64, 32, 3), tiny_vae)
    with pytest.raises(ValueError, match=r"pixels is 2 picture\(s\) of 64×64, but the latent's are 1"):
        ReEditMergePixels.execute(latent, torch.rand(2, 64, 64, 3), tiny_vae)


def test_an_all_black_mask_is_refused(tiny_vae, latent, in_graph):
    with pytest.raises(ValueError, match="mask is zero everywhere"):
        ReEditMergePixels.execute(latent, torch.rand(1, 64, 64, 3), tiny_vae, mask=torch.zeros(1, 64, 64))
    with pytest.raises(ValueError, match="mask is zero everywhere"):
        in_graph.execute(latent, "x", mask=torch.zeros(1, 64, 64))


def test_timeline_and_drift_show_every_step(tiny_vae, latent, in_graph, monkeypatch):
    from comfy_api.v0_0_2 import ui

    shown = []
    monkeypatch.setattr(ui.PreviewImage, "__init__", lambda self, image, **_: shown.append(image))
    monkeypatch.setattr(ui.PreviewImage, "as_dict", lambda self: {})
    mask = torch.zeros(1, 64, 64)
    mask[:, :32] = 1.0
    changed = latent["samples"].clone()
    changed[:, :, :8] += 0.5
    (latent,) = in_graph.execute({**latent, "samples": changed}, "one", mask=mask).result
    strip, pictures = ReEditTimeline.execute(latent, tiny_vae, 2).result
    assert pictures.shape == (2, 64, 64, 3) and strip.ndim == 4
    assert torch.equal(pictures[1:], tiny_vae.decode(changed))
    plot, report, _ = ReEditDriftMeter.execute(latent, tiny_vae).result
    assert '"outside_mask_max_abs_latent_change": 0.0' in report and plot.ndim == 4
    assert len(shown) == 2
