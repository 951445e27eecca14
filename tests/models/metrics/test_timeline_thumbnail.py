import numpy as np
import torch
from reedit.models.metrics.timeline_thumbnail import dim, make_thumbnail, outline_mask
from scipy import ndimage


def pixels(image):
    return np.asarray(image, np.float32)


def test_a_small_picture_is_enlarged_in_whole_multiples():
    picture = torch.rand(48, 100, 3)
    thumbnail = make_thumbnail(picture, 256)
    assert np.array_equal(thumbnail, (picture * 255).round().numpy().repeat(2, 0).repeat(2, 1))


def test_a_large_picture_is_filtered_when_it_is_scaled_down():
    """Lines of one pixel, black and white, are grey from afar: what picks single pixels would make them one or the other."""
    lines = torch.arange(1024)[:, None, None].remainder(2).expand(1024, 512, 3).float()
    thumbnail = make_thumbnail(lines, 256)
    assert thumbnail.size == (128, 256)
    inner = pixels(thumbnail)[4:-4]
    assert np.abs(inner - 127.5).max() < 2


def test_a_very_long_picture_still_has_a_thumbnail():
    assert make_thumbnail(torch.rand(4, 4096, 3), 256).size == (256, 1)


def test_a_mask_is_outlined_on_any_picture():
    """A light line along the inside of the mask's border, dark on both sides of it, and everything else as it was."""
    mask = torch.zeros(64, 64)
    mask[16:40, 8:56] = 1
    inside = mask.numpy().repeat(4, 0).repeat(4, 1) > 0
    within, outside = (ndimage.distance_transform_cdt(part, "chessboard") for part in (inside, ~inside))
    line = inside & (within <= 2)
    beside = ndimage.binary_dilation(line, np.ones((3, 3))) & ~line
    far = within + outside > 16
    for grey in (0.0, 0.5, 1.0):
        before = make_thumbnail(torch.full((64, 64, 3), grey), 256)
        after = pixels(outline_mask(before, mask))
        assert (after[line] == 255).all()
        assert after[beside].max() < 255 - 100, "light on light would not be seen"
        assert np.abs(after - pixels(before))[far].max() <= 1


def test_a_coarser_or_finer_mask_lies_in_the_same_place():
    thumbnail = make_thumbnail(torch.zeros(64, 64, 3), 256)
    cells = torch.zeros(16, 16)
    cells[4:8, 2:9] = 0.25  # soft all over
    fine = cells.repeat_interleave(64, 0).repeat_interleave(64, 1)
    assert outline_mask(thumbnail, cells) == outline_mask(thumbnail, fine) != thumbnail


def test_a_mask_of_everything_or_nothing_has_no_outline():
    thumbnail = make_thumbnail(torch.rand(64, 64, 3), 256)
    assert outline_mask(thumbnail, torch.ones(16, 16)) == thumbnail == outline_mask(thumbnail, torch.zeros(16, 16))


def test_dimming_goes_from_the_picture_to_the_ground():
    thumbnail = make_thumbnail(torch.rand(16, 16, 3), 16)
    assert dim(thumbnail, (24, 24, 27), 0.0) == thumbnail
    ground = (24, 24, 27)
    assert (pixels(dim(thumbnail, ground, 1.0)) == ground).all()
    middle = (pixels(thumbnail) + np.array(ground)) / 2
    assert np.abs(pixels(dim(thumbnail, ground, 0.5)) - middle).max() <= 1
