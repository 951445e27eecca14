from types import SimpleNamespace

import pytest
import torch
from reedit.models.session.record import KEY, SOURCE, observe, with_record
from reedit.nodes.graph import PASSED_THROUGH, producer_of
from reedit.nodes.session import ReEditCheckout, ReEditCommit

PROMPT = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd.safetensors"}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a blue circle", "clip": ["1", 1]}},
    "7": {"class_type": "KSampler", "inputs": {"seed": 3, "model": ["1", 0], "positive": ["2", 0]}},
    "8": {"class_type": "ReEditDecode", "inputs": {"samples": ["7", 0], "vae": ["1", 2]}},
    "9": {"class_type": "ReEditCommit", "inputs": {"samples": ["8", 1], "label": "x"}},
}


@pytest.fixture
def commit(monkeypatch):
    """ReEditCommit as the host clones it for a run, with what it tells about the graph."""
    monkeypatch.setattr(ReEditCommit, "hidden", SimpleNamespace(prompt=PROMPT, unique_id="9"))
    return lambda *values, **named: ReEditCommit.execute(*values, **named)[0]


@pytest.fixture
def left_half() -> torch.Tensor:
    mask = torch.zeros(1, 64, 64)
    mask[:, :, :32] = 1.0
    return mask


def changed(latent: dict, amount: float = 1.0) -> dict:
    """A LATENT as a node hands it on that keeps no record."""
    return {**latent, "samples": latent["samples"] + amount}


def test_commit_takes_tool_and_parameters_from_the_graph(commit, latent):
    (edit,) = commit(changed(latent), "brighter")[KEY].edits
    assert (edit.label, edit.tool) == ("brighter", "KSampler")
    assert dict(edit.parameters) == {"seed": 3, "model.ckpt_name": "sd.safetensors", "positive.text": "a blue circle"}
    assert latent[KEY].edits == ()


def test_commit_without_a_label_uses_the_tools_name(commit, latent):
    assert commit(latent)[KEY].edits[0].label == "KSampler"
    assert commit(latent, tool="my tool")[KEY].edits[0].label == "my tool"


def test_a_graph_that_the_host_does_not_tell_is_no_error():
    assert producer_of(None, None, "samples") == ("unknown", {})
    assert producer_of(PROMPT, "1", "samples") == ("unknown", {})


def test_commit_works_outside_a_graph(latent):
    assert ReEditCommit.execute(changed(latent), "x")[0][KEY].edits[0].tool == "unknown"


def test_what_is_passed_through_is_an_input_of_its_node():
    import nodes as host_nodes
    from reedit.nodes import NODES

    classes = {**host_nodes.NODE_CLASS_MAPPINGS, **{node.__name__: node for node in NODES}}
    assert {"ReEditDecode", "ReEditEpsilonDecode"} < PASSED_THROUGH.keys()
    for name, passed in PASSED_THROUGH.items():
        kinds = classes[name].INPUT_TYPES()
        assert {**kinds["required"], **kinds.get("optional", {})}[passed][0] == "LATENT"


def test_a_change_noted_on_the_way_gets_its_name_and_is_not_noted_twice(commit, latent):
    seen = changed(latent)
    seen = with_record(seen, observe(seen))  # as ReEdit Decode does
    (edit,) = commit(seen, "brighter")[KEY].edits
    assert (edit.label, edit.tool, edit.number, edit.parent) == ("brighter", "KSampler", 1, SOURCE)


def test_outside_the_mask_the_latent_is_put_back_bit_for_bit(commit, latent, left_half):
    after = commit(changed(latent), "x", mask=left_half)
    assert torch.equal(after["samples"][..., 8:], latent["samples"][..., 8:])
    assert torch.equal(after["samples"][..., :8], latent["samples"][..., :8] + 1)
    (edit,) = after[KEY].edits
    assert edit.changed_cells == 0.5 and torch.equal(edit.mask, left_half)
    noted = commit(changed(latent), "x", mask=left_half, keep_outside=False)
    assert torch.equal(noted["samples"], latent["samples"] + 1) and torch.equal(noted[KEY].edits[0].mask, left_half)


def test_a_noise_mask_that_was_followed_is_the_edits_mask(commit, latent, left_half):
    rounded = latent["samples"] + 1e-5  # what a sampler leaves outside
    rounded[..., :8] += 1
    after = commit({**latent, "samples": rounded, "noise_mask": left_half[:, None]}, "x")
    assert torch.equal(after[KEY].edits[0].mask, left_half)
    assert torch.equal(after["samples"][..., 8:], latent["samples"][..., 8:])


def test_a_noise_mask_left_over_from_another_edit_holds_nothing_back(commit, latent, left_half):
    stale = {**changed(latent), "noise_mask": left_half[:, None]}
    after = commit(stale, "x")
    assert torch.equal(after["samples"], stale["samples"]) and after[KEY].edits[0].mask is None


def test_without_a_mask_the_cells_that_changed_are_noted(commit, latent):
    samples = latent["samples"].clone()
    samples[..., 3, 5] += 1
    assert commit({**latent, "samples": samples}, "x")[KEY].edits[0].mask.nonzero().tolist() == [[0, 3, 5]]


def test_an_all_black_mask_is_refused(latent, commit):
    with pytest.raises(ValueError, match="mask is zero everywhere"):
        commit(latent, "x", mask=torch.zeros(1, 64, 64))


def test_checkout_goes_back_and_a_branch_keeps_the_other(commit, latent, left_half):
    one = commit(changed(latent), "one", mask=left_half)
    two = commit(changed(one, 2.0), "two")
    back, mask, label = ReEditCheckout.execute(two, "back 1").result
    assert torch.equal(back["samples"], one["samples"]) and torch.equal(mask, left_half) and label == "one"
    branch = commit(changed(back, 5.0), "other")
    assert [edit.parent for edit in branch[KEY].edits] == [0, 1, 1]
    for wanted, samples in (("source", latent), ("one", one), ("2", two), ("3", branch)):
        assert torch.equal(ReEditCheckout.execute(branch, wanted)[0]["samples"], samples["samples"])


def test_checkout_of_the_source_gives_a_white_mask(latent):
    back, mask, label = ReEditCheckout.execute(changed(latent), "source").result
    assert torch.equal(back["samples"], latent["samples"]) and mask.all() and label == "source"


def test_checkout_keeps_a_change_that_nobody_noted(latent):
    lost = changed(latent)
    back = ReEditCheckout.execute(lost, "back 1")[0]
    assert torch.equal(back["samples"], latent["samples"])
    assert torch.equal(ReEditCheckout.execute(back, "1")[0]["samples"], lost["samples"])


def test_a_step_that_is_not_there_is_refused(latent):
    with pytest.raises(ValueError, match="edit “7” is not in this session"):
        ReEditCheckout.execute(latent, "7")
