import pytest
import torch
from reedit.models.cells import mask_to_cells
from reedit.models.diffusion.masked_picture import (
    GREY,
    covered_share,
    latent_of_grey,
    mask_in_pixels,
    masked_latent,
)
from torch.nn import functional

RATIO = 4


def averaging_encoder(pixels):
    """(B, H, W, 3) to (B, 3, H / 4, W / 4): a linear encoder, of which all is known."""
    return 7.0 * functional.avg_pool2d(pixels.movedim(-1, 1), RATIO) - 2.0


def greyed(pixels, mask):
    """The pixels with grey where the rounded mask is white, as the host's InpaintModelConditioning shows them."""
    return torch.where(mask.round()[..., None] > 0, torch.tensor(GREY), pixels)


def relative_error(samples, reference, where):
    difference, size = (samples - reference) * where, reference * where
    return (difference.norm() / size.norm()).item()


def masks(count):
    """(count, 64, 64): boxes off the grid of cells, of random places and sizes."""
    generator = torch.Generator().manual_seed(0)
    result = torch.zeros(count, 64, 64)
    for mask in result:
        left, top = torch.randint(1, 30, (2,), generator=generator).tolist()
        width, height = torch.randint(12, 33, (2,), generator=generator).tolist()
        mask[top : top + height, left : left + width] = 1.0
    return result


def test_under_a_linear_encoder_it_is_the_encoded_masked_picture():
    """Where each cell's pixels are alike, and the encoder averages them, the average over covered pixels is exact."""
    pixels = torch.rand(2, 16, 16, 3).repeat_interleave(RATIO, 1).repeat_interleave(RATIO, 2)
    mask = torch.rand(2, 64, 64)
    grey = latent_of_grey(averaging_encoder, RATIO)
    samples = averaging_encoder(pixels)
    ours = masked_latent(samples, grey, covered_share(mask[:, None], samples))
    torch.testing.assert_close(ours, averaging_encoder(greyed(pixels, mask)))


def test_what_is_not_covered_stays_bit_for_bit_and_what_is_covered_is_grey():
    samples, grey = torch.randn(2, 4, 16, 16), torch.randn(1, 4, 1, 1)
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 16:32, 8:24] = 1.0
    masked = masked_latent(samples, grey, covered_share(mask, samples))
    torch.testing.assert_close(masked[..., 4:8, 2:6], grey.expand(2, 4, 4, 4))
    masked[..., 4:8, 2:6] = samples[..., 4:8, 2:6]
    assert torch.equal(masked, samples)


def test_a_soft_mask_covers_what_is_above_a_half():
    soft = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    covered = covered_share(soft, torch.zeros(1, 4, 16, 16))
    assert torch.equal(covered[0, 0, 0], (torch.arange(16) >= 8).float())


def test_a_mask_of_another_size_is_brought_to_the_picture():
    small = torch.zeros(1, 16, 16)
    small[:, 4:8, 4:8] = 1.0
    large = mask_in_pixels(small, 64, 64)
    assert large.shape == (1, 1, 64, 64)
    assert torch.equal(large[0, 0, 18:30, 18:30], torch.ones(12, 12)) and not large[0, 0, :13].any()
    assert torch.equal(mask_in_pixels(large[0], 64, 64), large)


@pytest.fixture
def encoded(tiny_vae, scenes):
    """The latents of four scenes; of the same with grey in a mask, as the host makes them; and the masks."""
    chosen = masks(len(scenes))
    return tiny_vae.encode(scenes), tiny_vae.encode(greyed(scenes, chosen)), chosen


def test_grey_within_a_picture_is_nearer_to_a_masked_picture_than_a_picture_of_grey(tiny_vae, encoded):
    _, reference, chosen = encoded
    inside = mask_to_cells(chosen, 16, 16) == 1
    ours = latent_of_grey(tiny_vae.encode, RATIO)
    flat = tiny_vae.encode(torch.full((1, 128, 128, 3), GREY))[..., 16:17, 16:17]
    error, error_of_flat = (relative_error(grey.expand_as(reference), reference, inside) for grey in (ours, flat))
    assert error < 0.9 * error_of_flat


def test_the_average_is_nearest_to_the_encoded_masked_picture_at_the_masks_rim(tiny_vae, encoded):
    samples, reference, chosen = encoded
    grey = latent_of_grey(tiny_vae.encode, RATIO)
    covered = covered_share(chosen[:, None], samples)
    rim = (covered > 0) & (covered < 1)
    rules = {
        "any pixel": (covered > 0).float(),
        "more than half": (covered > 0.5).float(),
        "all pixels": (covered == 1).float(),
    }
    error = relative_error(masked_latent(samples, grey, covered), reference, rim)
    for rule in rules.values():
        assert error < 0.9 * relative_error(masked_latent(samples, grey, rule), reference, rim)
