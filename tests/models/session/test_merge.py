import torch
from reedit.models.session.merge import merge_cells, painted_mask


def test_only_marked_cells_change():
    samples, encoded = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    cells = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    cells[..., 2:4, 5] = True
    merged = merge_cells(samples, encoded, cells)
    where = cells.expand_as(samples)
    assert torch.equal(merged[where], encoded[where]) and torch.equal(merged[~where], samples[~where])


def test_painting_is_found_where_any_channel_moved_beyond_the_threshold():
    before = torch.full((1, 8, 8, 3), 0.5)
    after = before.clone()
    after[0, 1, 2, 0] += 0.02
    after[0, 3, 3, :] += 0.5 / 255  # 8-bit rounding
    assert painted_mask(before, after, 0.01).nonzero().tolist() == [[0, 1, 2]]
