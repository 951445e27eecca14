import torch
from reedit.models.session.painted import lay_over, painted_mask, without_specks
from skimage.morphology import remove_small_objects


def test_painting_is_found_where_any_channel_moved_beyond_the_threshold():
    before = torch.full((1, 8, 8, 3), 0.5)
    after = before.clone()
    after[0, 1, 2, 0] += 0.02
    after[0, 3, 3, :] += 0.5 / 255  # 8-bit rounding
    assert painted_mask(before, after, 0.01).nonzero().tolist() == [[0, 1, 2]]


def test_specks_are_dropped_as_scikit_image_drops_them():
    mask = (torch.rand(3, 40, 40) > 0.7).float()
    for area in (1, 2, 5, 30, 10_000):
        for plane, kept in zip(mask, without_specks(mask, area), strict=True):
            expected = remove_small_objects(plane.numpy() > 0, max_size=area - 1, connectivity=2)
            assert torch.equal(kept, torch.from_numpy(expected).float())


def test_a_layer_is_laid_over_as_pillow_does_it():
    from PIL import Image

    layer = (torch.rand(16, 16, 4) * 255).round()
    picture = (torch.rand(16, 16, 3) * 255).round()
    below = Image.fromarray(picture.byte().numpy()).convert("RGBA")
    below.alpha_composite(Image.fromarray(layer.byte().numpy(), "RGBA"))
    expected = torch.frombuffer(bytearray(below.convert("RGB").tobytes()), dtype=torch.uint8).view(16, 16, 3)
    ours = lay_over(layer[None] / 255, picture[None] / 255)[0] * 255
    assert (ours - expected).abs().max() <= 1.0  # Pillow rounds to 8 bit
