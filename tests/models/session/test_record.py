import dataclasses

import pytest
import torch
from hypothesis import given, settings
from random_sessions import latent_trees, same_bits
from reedit.models.session.record import FOREIGN_TOOL, KEY, SOURCE, EditRecord, observe, read_record, with_record


def latent(*shape: int) -> torch.Tensor:
    return torch.randn(*(shape or (1, 4, 8, 8)))


def test_a_latent_without_a_record_starts_one():
    samples = latent()
    record = observe({"samples": samples})
    assert same_bits(record.source, samples) and record.edits == () and record.current == SOURCE


def test_edits_are_numbered_and_know_their_parent():
    first, second = latent(), latent()
    record = EditRecord(latent()).with_edit(first, "one", "KSampler", {"seed": 1}).with_edit(second, "two", "paint")
    assert [(edit.number, edit.parent, edit.label) for edit in record.edits] == [(1, SOURCE, "one"), (2, 1, "two")]
    assert same_bits(record.samples_at(1), first) and same_bits(record.samples_at(2), second)
    assert dict(record.edits[0].parameters) == {"seed": 1}


def test_a_branch_keeps_its_parent_and_the_other_branch():
    start, left, right = latent(), latent(), latent()
    record = EditRecord(start).with_edit(left, "left", "t").at(SOURCE).with_edit(right, "right", "t")
    assert [edit.parent for edit in record.edits] == [SOURCE, SOURCE]
    assert record.path_to(2) == (0, 2) and record.path_to(1) == (0, 1)
    assert same_bits(record.samples_at(1), left) and same_bits(record.samples_at(2), right)
    assert record.at(1).is_current(left) and not record.at(1).is_current(right)


def test_a_record_cannot_be_changed():
    record = EditRecord(latent())
    edited = record.with_edit(latent(), "one", "KSampler", {"seed": 1})
    assert record.edits == ()
    with pytest.raises(dataclasses.FrozenInstanceError):
        edited.current = 0
    with pytest.raises(TypeError):
        edited.edits[0].parameters["seed"] = 2


def test_a_node_that_writes_into_its_input_cannot_rewrite_history():
    samples = latent()
    before = samples.clone()
    start = with_record({}, EditRecord(samples))
    edited = start["samples"] + 1
    record = start[KEY].with_edit(edited, "one", "t")
    kept = edited.clone()
    samples.zero_()
    edited.mul_(2)
    assert same_bits(record.samples_at(0), before) and same_bits(record.samples_at(1), kept)
    record.samples_at(1).zero_()
    assert same_bits(record.samples_at(1), kept)
    noticed = observe({"samples": edited, KEY: record})
    assert noticed.edits[-1].tool == FOREIGN_TOOL


def test_a_change_by_a_foreign_node_is_noted_with_the_cells_that_moved():
    start = with_record({}, EditRecord(latent()))
    changed = start["samples"].clone()
    changed[0, 2, 3, 5] += 1e-6
    record = observe({**start, "samples": changed})
    (edit,) = record.edits
    assert edit.tool == FOREIGN_TOOL and same_bits(record.samples_at(1), changed) and record.is_unrecorded
    assert edit.mask.nonzero().tolist() == [[0, 3, 5]] and edit.changed_cells == 1 / 64
    assert observe(with_record({}, record)) is record


def test_a_sign_of_zero_is_a_change():
    samples = torch.zeros(1, 4, 8, 8)
    record = observe({"samples": -samples, KEY: EditRecord(samples)})
    assert len(record.edits) == 1 and same_bits(record.samples_at(1), -samples)


def test_an_unrecorded_edit_can_be_taken_out_to_be_noted_with_its_name():
    start, changed = EditRecord(latent()), latent()
    record = observe({"samples": changed, KEY: start})
    assert record.is_unrecorded
    before = record.without_unrecorded()
    assert before.edits == () and before.current == SOURCE and before.is_current(start.source)
    named = start.with_edit(changed, "blue", "KSampler")
    assert named.without_unrecorded() is named


def test_other_keys_of_a_latent_travel_on_and_the_input_stays_as_it_was():
    before = {"samples": latent(), "noise_mask": torch.ones(1, 1, 8, 8), "batch_index": [3]}
    after = with_record(before, read_record(before))
    assert after["noise_mask"] is before["noise_mask"] and after["batch_index"] == [3]
    assert after["samples"] is before["samples"] and KEY not in before


def test_going_back_to_another_batch_leaves_its_list_of_numbers_behind():
    record = EditRecord(latent())
    two = with_record({"batch_index": [0, 1]}, record.with_edit(latent(2, 4, 8, 8), "two", "t"))
    assert two["batch_index"] == [0, 1]
    assert "batch_index" not in with_record(two, two[KEY].at(SOURCE))


def test_a_number_that_is_not_there_is_named():
    with pytest.raises(IndexError, match=r"edit 3 is not in this session; it has edits 1 to 1"):
        EditRecord(latent()).with_edit(latent(), "one", "t").samples_at(3)


def test_a_hundred_edits_of_a_tenth_each_take_less_than_64_mib():
    samples = latent(1, 16, 128, 128)
    record = EditRecord(samples)
    for number in range(100):
        samples, mask = samples.clone(), torch.zeros(1, 1024, 1024)
        side = 40  # 40² of 128² cells: a tenth
        top, left = number * 7 % (128 - side), number * 13 % (128 - side)
        samples[..., top : top + side, left : left + side] += 1
        mask[:, top * 8 : (top + side) * 8, left * 8 : (left + side) * 8] = 1.0
        record = record.with_edit(samples, "paint", "t", {}, mask)
    assert record.nbytes < 64 * 2**20
    cells = record.source.nbytes + 100 * side * side * (16 * 4 + 4)
    masks = sum(edit.packed_mask.nbytes for edit in record.edits)
    assert record.nbytes == cells + masks  # each cell once, with its values and its place
    assert same_bits(record.samples_at(100), samples)


@settings(deadline=None, max_examples=60)
@given(latent_trees())
def test_every_step_of_any_session_comes_back_bit_for_bit(tree):
    latents, parents = tree
    record = EditRecord(latents[0])
    for number in range(1, len(latents)):
        record = record.at(parents[number]).with_edit(latents[number], f"edit {number}", "t")
    for number, samples in enumerate(latents):
        assert same_bits(record.samples_at(number), samples)
        assert record.at(number).is_current(samples)
    assert [edit.parent for edit in record.edits] == parents[1:]
