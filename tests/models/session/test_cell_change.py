import torch
from reedit.models.session.cell_change import find_batch_origin, find_change, moved_cells


def test_only_the_cells_that_differ_are_stored():
    before = torch.randn(2, 4, 8, 8)
    after = before.clone()
    after[1, 0, 2, 3] += 1
    change = find_change(before, after)
    assert change.index.tolist() == [64 + 2 * 8 + 3] and torch.equal(change.values[0], after[1, :, 2, 3])
    assert change.share == 1 / 128
    assert moved_cells(change).nonzero().tolist() == [[1, 2, 3]]


def test_a_video_cell_counts_as_moved_if_any_frame_did():
    before = torch.randn(1, 4, 3, 8, 8)
    after = before.clone()
    after[0, :, 2, 5, 6] += 1
    assert moved_cells(find_change(before, after)).nonzero().tolist() == [[0, 5, 6]]


def test_a_repeated_batch_stores_nothing_and_knows_where_it_came_from():
    before = torch.randn(2, 4, 8, 8)
    change = find_change(before, before.repeat(3, 1, 1, 1))
    assert change.batch_origin == (0, 1, 0, 1, 0, 1) and change.nbytes == 0


def test_items_picked_from_a_batch_are_recognised_wherever_they_stand():
    before = torch.randn(4, 4, 8, 8)
    assert find_batch_origin(before, before[[2, 1]]) == (2, 1)
    assert find_batch_origin(before, torch.randn(3, 4, 8, 8)) is None  # 3 is no multiple of 4, and nothing is known
    assert find_batch_origin(before, before.flip(0)) is None  # the length is the same: compared item by item
