"""What a step is compared with, and where, in sessions whose size and batch change."""

import torch
from reedit.models.metrics.comparison import (
    EditedPixels,
    first_comparable,
    items_of,
    last_alike,
    origin_of_items,
    untouched_pixels,
)
from reedit.models.session.record import SOURCE, EditRecord


def column(number: int) -> torch.Tensor:
    """A mask of one of four columns."""
    mask = torch.zeros(1, 4, 4)
    mask[:, :, number] = 1.0
    return mask


def columns(edited: torch.Tensor) -> list[list[int]]:
    """The marked columns of each item of a batch."""
    assert all(torch.equal(row, item[0]) for item in edited for row in item)
    return [item[0].nonzero()[:, 0].tolist() for item in edited]


def edit(record: EditRecord, mask: torch.Tensor) -> EditRecord:
    samples = record.samples_at(record.current)
    return record.with_edit(samples + torch.randn_like(samples) * mask[:, None], "an edit", "a tool", mask=mask)


def test_untouched_pixels_follow_the_branch():
    record = edit(edit(EditRecord(torch.zeros(1, 4, 4, 4)), column(0)), column(1))
    assert columns(untouched_pixels(record, 1, 4, 4)) == [[1, 2, 3]]
    assert columns(untouched_pixels(record, 2, 4, 4)) == [[2, 3]]
    branch = edit(record.at(1), column(3))
    assert columns(untouched_pixels(branch, 3, 4, 4)) == [[1, 2]]
    assert untouched_pixels(branch, 2, 8, 8).shape == (1, 8, 8)
    everywhere = record.with_edit(torch.ones(1, 4, 4, 4), "everywhere", "a tool")
    assert not untouched_pixels(everywhere, 3, 4, 4).any()


def test_all_steps_in_a_row_are_judged_over_what_is_edited_in_the_end():
    record = EditRecord(torch.zeros(1, 4, 4, 4))
    for number in range(3):
        record = edit(record, column(number))
    assert [columns(EditedPixels(record).inside(step, 4, 4, SOURCE, None)) for step in (0, 1, 3)] == [[[0, 1, 2]]] * 3
    branched = edit(record.at(1), column(3))  # column 0, then 3
    assert columns(EditedPixels(branched).inside(1, 4, 4, SOURCE, None)) == [[0, 3]]
    assert columns(EditedPixels(branched).inside(2, 4, 4, SOURCE, None)) == [
        [0, 1]
    ]  # the other branch, by its own masks


def test_a_change_of_size_begins_a_new_comparison():
    record = edit(EditRecord(torch.zeros(1, 4, 4, 4)), column(0))
    record = edit(record.with_edit(torch.zeros(1, 4, 8, 8), "larger", "a tool"), torch.ones(1, 8, 8).tril())
    record = record.with_edit(torch.ones(1, 4, 4, 4), "as before", "a tool")
    assert [first_comparable(record, step) for step in range(5)] == [0, 0, 2, 2, 0]
    assert [last_alike(record, step) for step in range(5)] == [1, 1, 3, 3, 4]
    assert torch.equal(EditedPixels(record).between(2, 3, 3, 8, 8)[0], torch.ones(8, 8).tril().bool())


def test_items_are_followed_through_a_repeated_and_a_divided_batch():
    source = torch.randn(2, 4, 4, 4)
    masks = torch.cat([column(0), column(1)])
    record = edit(EditRecord(source), masks)  # item 0: column 0; item 1: column 1
    twice = record.samples_at(1).repeat(2, 1, 1, 1)
    record = record.with_edit(twice, "repeated", "a tool")
    record = edit(record, torch.cat([column(2), column(2), column(3), column(3)]))
    record = record.with_edit(record.samples_at(3)[[3, 0, 2]], "three of four", "a tool")
    assert origin_of_items(record, 3) == (0, 1, 0, 1)
    assert origin_of_items(record, 4) == (1, 0, 0) and origin_of_items(record, 4, since=2) == (3, 0, 2)
    assert columns(EditedPixels(record).between(SOURCE, 3, 3, 4, 4)) == [[0, 2], [1, 2], [0, 3], [1, 3]]
    assert columns(EditedPixels(record).between(SOURCE, 4, 4, 4, 4)) == [[1, 3], [0, 2], [0, 3]]
    assert [first_comparable(record, step) for step in range(5)] == [0] * 5
    assert last_alike(record, 0) == 1 and last_alike(record, 2) == 3


def test_a_batch_of_unknown_origin_is_compared_with_nothing_before_it():
    record = edit(EditRecord(torch.randn(2, 4, 4, 4)), column(0))
    record = record.with_edit(torch.randn(3, 4, 4, 4), "another batch", "a tool", mask=column(1))
    assert origin_of_items(record, 2) is None and first_comparable(record, 2) == 2
    assert EditedPixels(record).between(SOURCE, 2, 2, 4, 4).all()
    both = torch.cat([column(0), column(1)])
    assert EditedPixels(record).inside(2, 4, 4, SOURCE, both) is None
    assert columns(EditedPixels(record).inside(2, 4, 4, SOURCE, column(3))) == [[3]] * 3


def test_a_mask_of_the_sources_batch_follows_its_items():
    record = EditRecord(torch.randn(2, 4, 4, 4))
    record = record.with_edit(record.source[[1]], "the second", "a tool")
    assert columns(EditedPixels(record).inside(1, 4, 4, SOURCE, torch.cat([column(0), column(2)]))) == [[2]]


def test_an_item_keeps_all_its_frames():
    pictures = torch.arange(6.0).reshape(6, 1, 1, 1)  # two items of three frames
    assert items_of(pictures, (1, 0, 1), 2).flatten().tolist() == [3, 4, 5, 0, 1, 2, 3, 4, 5]
    assert items_of(pictures, (0, 1), 2) is pictures
