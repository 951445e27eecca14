import pytest
import torch
from reedit.models.session.record import KEY
from reedit.nodes.autoencoders import ReEditDecode
from reedit.nodes.merge_pixels import ReEditMergePixels


def test_painting_changes_the_painted_cells_and_no_other(tiny_vae, latent):
    picture, latent = ReEditDecode.execute(latent, tiny_vae).result
    painted = picture.clone()
    painted[:, 20:30, 40:52] = torch.tensor([0.9, 0.1, 0.7])
    merged, mask = ReEditMergePixels.execute(latent, painted, tiny_vae).result
    changed = (merged["samples"] != latent["samples"]).any(1)[0].nonzero()
    assert changed.amin(0).tolist() == [5, 10] and changed.amax(0).tolist() == [7, 12]
    assert mask[0, 20:30, 40:52].all() and mask.sum() == 10 * 12
    (edit,) = merged[KEY].edits
    assert edit.encoded_pixels == 64 * 64 and edit.tool == "ReEditMergePixels"
    after = tiny_vae.decode(merged["samples"])
    assert (after[:, 22:28, 42:50] - painted[:, 22:28, 42:50]).abs().mean() < 0.06  # the paint is really there


def test_a_mask_says_what_was_painted(tiny_vae, latent):
    picture, latent = ReEditDecode.execute(latent, tiny_vae).result
    mask = torch.zeros(1, 32, 32)
    mask[:, 0:2, 0:2] = 1.0  # half the picture's size: pixels 0 to 3 are one cell
    merged, _ = ReEditMergePixels.execute(latent, torch.rand_like(picture), tiny_vae, mask=mask).result
    assert (merged["samples"] != latent["samples"]).any(1)[0].nonzero().tolist() == [[0, 0]]


def test_an_unpainted_picture_is_no_edit_and_encodes_nothing(tiny_vae, latent):
    picture, latent = ReEditDecode.execute(latent, tiny_vae).result
    as_png = (picture * 255).round() / 255  # as it comes back from a file
    merged, mask = ReEditMergePixels.execute(latent, as_png, tiny_vae).result
    assert merged["samples"] is latent["samples"] and merged[KEY].edits == () and not mask.any()


def test_a_painted_picture_of_another_size_or_batch_is_refused(tiny_vae, latent):
    with pytest.raises(ValueError, match=r"pixels is 1 picture\(s\) of 32×64, but the latent's are 1 of 64×64"):
        ReEditMergePixels.execute(latent, torch.rand(1, 64, 32, 3), tiny_vae)
    with pytest.raises(ValueError, match=r"pixels is 2 picture\(s\) of 64×64, but the latent's are 1"):
        ReEditMergePixels.execute(latent, torch.rand(2, 64, 64, 3), tiny_vae)


def test_an_all_black_mask_is_refused(tiny_vae, latent):
    with pytest.raises(ValueError, match="mask is zero everywhere"):
        ReEditMergePixels.execute(latent, torch.rand(1, 64, 64, 3), tiny_vae, mask=torch.zeros(1, 64, 64))
