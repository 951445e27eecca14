import dataclasses

import pytest
import torch
from reedit.models.session.record import FOREIGN_TOOL, KEY, SOURCE, EditRecord, observe, read_record, with_record


def latent() -> torch.Tensor:
    return torch.randn(1, 4, 8, 8)


def test_a_latent_without_a_record_starts_one():
    samples = latent()
    record = observe({"samples": samples})
    assert record.source is samples and record.edits == () and record.current == SOURCE


def test_edits_are_numbered_and_know_their_parent():
    first, second = latent(), latent()
    record = EditRecord(latent()).with_edit(first, "one", "KSampler", {"seed": 1}).with_edit(second, "two", "paint")
    assert [(edit.number, edit.parent, edit.label) for edit in record.edits] == [(1, SOURCE, "one"), (2, 1, "two")]
    assert record.samples_at(1) is first and record.samples_at(2) is second
    assert dict(record.edits[0].parameters) == {"seed": 1}


def test_a_record_cannot_be_changed():
    record = EditRecord(latent())
    edited = record.with_edit(latent(), "one", "KSampler", {"seed": 1})
    assert record.edits == ()
    with pytest.raises(dataclasses.FrozenInstanceError):
        edited.current = 0
    with pytest.raises(TypeError):
        edited.edits[0].parameters["seed"] = 2


def test_a_change_by_a_foreign_node_is_noted_with_the_cells_that_moved():
    start = with_record({}, EditRecord(latent()))
    changed = start["samples"].clone()
    changed[0, 2, 3, 5] += 1e-6
    record = observe({**start, "samples": changed})
    (edit,) = record.edits
    assert edit.tool == FOREIGN_TOOL and edit.samples is changed
    assert edit.mask.nonzero().tolist() == [[0, 3, 5]]
    assert observe(with_record({}, record)) is record


def test_other_keys_of_a_latent_travel_on_and_the_input_stays_as_it_was():
    before = {"samples": latent(), "noise_mask": torch.ones(1, 1, 8, 8), "batch_index": [3]}
    after = with_record(before, read_record(before))
    assert after["noise_mask"] is before["noise_mask"] and after["batch_index"] == [3]
    assert KEY not in before


def test_a_number_that_is_not_there_is_named():
    with pytest.raises(IndexError, match=r"edit 3 is not in this session; it has edits 1 to 1"):
        EditRecord(latent()).with_edit(latent(), "one", "t").samples_at(3)
