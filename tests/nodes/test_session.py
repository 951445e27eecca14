import pytest
import torch
from reedit.models.session.record import KEY
from reedit.nodes.graph import producer_of
from reedit.nodes.session import ReEditCommit

PROMPT = {
    "7": {"class_type": "KSampler", "inputs": {"seed": 3, "model": ["1", 0]}},
    "8": {"class_type": "ReEditCommit", "inputs": {"samples": ["7", 0], "label": "x"}},
}


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


def test_an_all_black_mask_is_refused(latent, in_graph):
    with pytest.raises(ValueError, match="mask is zero everywhere"):
        in_graph.execute(latent, "x", mask=torch.zeros(1, 64, 64))
