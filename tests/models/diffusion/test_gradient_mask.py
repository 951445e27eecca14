import torch
from reedit.models.diffusion.gradient_mask import keep_outside, mask_denoised


def test_the_edits_gradient_is_scaled_by_the_mask():
    """(known - D')/sigma = m·(known - D)/sigma: what is left of the edit's gradient is the mask times it."""
    denoised, known, cells = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.rand(1, 1, 8, 8)
    masked = mask_denoised(denoised, known, cells)
    torch.testing.assert_close(known - masked, cells * (known - denoised))


def test_a_black_mask_predicts_the_known_latent_and_a_white_one_the_model():
    denoised, known = torch.randn(1, 4, 4, 4), torch.randn(1, 4, 4, 4)
    assert torch.equal(mask_denoised(denoised, known, torch.zeros(1, 1, 4, 4)), known)
    assert torch.equal(mask_denoised(denoised, known, torch.ones(1, 1, 4, 4)), denoised)


def test_outside_is_kept_bit_for_bit():
    samples, known, cells = torch.randn(1, 4, 4, 4), torch.randn(1, 4, 4, 4), torch.zeros(1, 1, 4, 4)
    cells[..., 1, 1] = 1e-3
    kept = keep_outside(samples, known, cells)
    assert torch.equal(kept[..., 1, 1], samples[..., 1, 1])
    kept[..., 1, 1] = known[..., 1, 1]
    assert torch.equal(kept, known)
