import gc
import io
import weakref

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from reedit.models.cells import touched_cells
from reedit.models.session.merge import LEAST_SIDE
from reedit.models.session.record import KEY
from reedit.nodes import merge_pixels
from reedit.nodes.autoencoders import ReEditDecode, ReEditEncode, load_kl_vae
from reedit.nodes.merge_pixels import ReEditMergePixels, encoder_context

PAINT = torch.tensor([0.9, 0.1, 0.7])


class CountingVAE:
    """A VAE that notes the size of every picture that its encoder gets."""

    def __init__(self, vae):
        self.vae = vae
        self.encoded = []
        self.decodes = 0

    def encode(self, pixels):
        self.encoded.append(tuple(pixels.shape[:3]))
        return self.vae.encode(pixels)

    def decode(self, samples):
        self.decodes += 1
        return self.vae.decode(samples)

    def __getattr__(self, name):
        return getattr(self.vae, name)


@pytest.fixture(scope="module")
def large_picture(scenes):
    """Drawn scenes side by side in one picture of 256×256."""
    rows = [torch.cat(list(scenes.roll(shift, 0)), 1) for shift in range(4)]
    return torch.cat(rows)[None]


@pytest.fixture
def large_latent(tiny_vae, large_picture):
    return ReEditEncode.execute(large_picture, tiny_vae)[0]


def box_mask(side, *boxes):
    """(1, side, side): boxes of (top, bottom, left, right) in pixels."""
    mask = torch.zeros(1, side, side)
    for top, bottom, left, right in boxes:
        mask[:, top:bottom, left:right] = 1.0
    return mask


def changed_cells(after, before):
    return (after["samples"] != before["samples"]).any(1)[0]


def paint_box(picture):
    painted = picture.clone()
    painted[:, 20:30, 40:52] = PAINT
    return painted


@pytest.mark.parametrize(("blend", "feather", "around"), [("feathered", 1, 1), ("difference", 2, 2), ("hard", 5, 0)])
def test_painting_changes_the_painted_cells_those_around_them_and_no_other(tiny_vae, latent, blend, feather, around):
    picture, latent = ReEditDecode.execute(latent, tiny_vae).result
    painted = paint_box(picture)
    merged, mask = ReEditMergePixels.execute(latent, painted, tiny_vae, blend=blend, feather=feather).result
    expected = torch.zeros(16, 16, dtype=torch.bool)
    expected[5 - around : 8 + around, 10 - around : 13 + around] = True
    assert torch.equal(changed_cells(merged, latent), expected)
    assert mask[0, 20:30, 40:52].all() and mask.sum() == 10 * 12
    (edit,) = merged[KEY].edits
    assert edit.tool == "ReEditMergePixels" and edit.parameters["blend"] == blend
    assert torch.equal(touched_cells(edit.mask, 16, 16)[0, 0], expected)  # the noted mask hides no change
    after = tiny_vae.decode(merged["samples"])
    assert (after[:, 22:28, 42:50] - painted[:, 22:28, 42:50]).abs().mean() < 0.06  # the paint is really there


def test_the_default_leaves_less_of_a_seam_than_hard_merging(tiny_vae, latent):
    picture, latent = ReEditDecode.execute(latent, tiny_vae).result
    painted = paint_box(picture)
    around = torch.zeros_like(picture, dtype=torch.bool)
    around[:, 18:32, 38:54] = True

    def seam(**options):
        merged = ReEditMergePixels.execute(latent, painted, tiny_vae, **options)[0]
        return (tiny_vae.decode(merged["samples"]) - painted)[around].abs().mean()

    assert seam() < 0.9 * seam(blend="hard")


def test_a_mask_says_what_was_painted(tiny_vae, latent):
    picture, latent = ReEditDecode.execute(latent, tiny_vae).result
    mask = torch.zeros(1, 32, 32)
    mask[:, 0:2, 0:2] = 1.0  # half the picture's size: pixels 0 to 3 are one cell
    pixels = torch.rand_like(picture)
    merged, _ = ReEditMergePixels.execute(latent, pixels, tiny_vae, mask=mask, blend="hard").result
    assert changed_cells(merged, latent).nonzero().tolist() == [[0, 0]]


def test_outside_the_mask_the_decoded_picture_counts_where_it_is_given(tiny_vae, latent):
    picture, latent = ReEditDecode.execute(latent, tiny_vae).result
    mask, painted = box_mask(64, (20, 30, 40, 52)), paint_box(picture)
    scribbled = torch.where(mask[..., None] > 0, painted, torch.rand_like(painted))
    inputs = {"vae": tiny_vae, "mask": mask, "decoded": picture}
    clean = ReEditMergePixels.execute(latent, painted, **inputs)[0]
    assert torch.equal(ReEditMergePixels.execute(latent, scribbled, **inputs)[0]["samples"], clean["samples"])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_was_painted_every_cell_outside_the_noted_mask_is_bit_identical(tiny_vae, latent, data):
    mask = torch.zeros(1, 64, 64)
    for _ in range(data.draw(st.integers(1, 4))):
        top, left = data.draw(st.tuples(st.integers(0, 63), st.integers(0, 63)))
        height, width = data.draw(st.tuples(st.integers(1, 30), st.integers(1, 30)))
        mask[:, top : top + height, left : left + width] = 1.0
    blend, feather = data.draw(st.sampled_from(["feathered", "difference", "hard"])), data.draw(st.integers(0, 3))
    before = latent["samples"].clone()
    picture = torch.rand(1, 64, 64, 3)
    merged = ReEditMergePixels.execute(latent, picture, tiny_vae, mask=mask, blend=blend, feather=feather)[0]
    outside = ~touched_cells(merged[KEY].edits[0].mask, 16, 16)[0, 0]
    assert torch.equal(merged["samples"][..., outside], before[..., outside])
    assert torch.equal(latent["samples"], before)
    assert (changed_cells(merged, latent) >= touched_cells(mask, 16, 16)[0, 0]).all()


def test_regions_far_apart_encode_only_their_own_windows(tiny_vae, large_latent, large_picture):
    context = encoder_context(tiny_vae)
    vae = CountingVAE(tiny_vae)
    mask = box_mask(256, (20, 116, 24, 120), (200, 208, 208, 216))  # 24×24 and 2×2 cells
    merged = ReEditMergePixels.execute(large_latent, large_picture, vae, mask=mask)[0]
    large, small = 4 * (24 + 2 * (1 + context)), 4 * LEAST_SIDE
    assert sorted(vae.encoded) == [(1, small, small), (1, large, large)] and vae.decodes == 0
    assert merged[KEY].edits[0].encoded_pixels == large**2 + small**2
    twice = ReEditMergePixels.execute(large_latent, large_picture, vae, mask=mask, blend="difference")[0]
    assert twice[KEY].edits[0].encoded_pixels == 2 * merged[KEY].edits[0].encoded_pixels and vae.decodes == 1


def test_a_window_gives_what_the_whole_picture_gives(tiny_vae, large_latent, large_picture):
    """Within what the VAE's own round trip changes in these cells: else the windows would cost quality."""
    whole = tiny_vae.encode(large_picture)
    round_trip = tiny_vae.encode(tiny_vae.decode(whole))
    mask = box_mask(256, (48, 80, 40, 72))
    merged = ReEditMergePixels.execute(large_latent, large_picture, tiny_vae, mask=mask)[0]["samples"]
    cells = changed_cells({"samples": merged}, large_latent)
    error, yardstick = ((other - whole)[..., cells].square().mean().sqrt() for other in (merged, round_trip))
    assert error < 1.5 * yardstick


def test_the_context_is_measured_once_for_a_vae_and_forgotten_with_it(weights_folder, monkeypatch):
    measured = []
    real = merge_pixels.measure_context
    monkeypatch.setattr(merge_pixels, "measure_context", lambda *given: measured.append(1) or real(*given))
    vae = load_kl_vae(weights_folder / "tiny_sd_autoencoder.safetensors")
    assert encoder_context(vae) == encoder_context(vae) and len(measured) == 1
    model = weakref.ref(vae.first_stage_model)
    vae.patcher.detach()
    del vae
    gc.collect()
    assert model() is None


def test_what_comes_back_as_a_png_unpainted_is_no_edit_and_encodes_nothing(tiny_vae, latent):
    picture, latent = ReEditDecode.execute(latent, tiny_vae).result
    vae = CountingVAE(tiny_vae)
    file = io.BytesIO()
    Image.fromarray((picture[0] * 255).round().byte().numpy()).save(file, "png")
    as_png = torch.from_numpy(np.array(Image.open(file)).astype(np.float32) / 255)[None]
    merged, mask = ReEditMergePixels.execute(latent, as_png, vae, decoded=picture).result
    assert merged["samples"] is latent["samples"] and merged[KEY].edits == () and not mask.any()
    assert vae.encoded == [] and vae.decodes == 0


def test_specks_are_passed_over(tiny_vae, latent):
    picture, latent = ReEditDecode.execute(latent, tiny_vae).result
    painted = paint_box(picture)
    painted[:, 5, 5] = 1 - painted[:, 5, 5].round()
    assert ReEditMergePixels.execute(latent, painted, tiny_vae)[1].sum() == 10 * 12
    assert ReEditMergePixels.execute(latent, painted, tiny_vae, minimum_area=1)[1].sum() == 10 * 12 + 1


def test_a_layer_with_alpha_is_laid_over_the_decoded_picture(tiny_vae, latent):
    picture, latent = ReEditDecode.execute(latent, tiny_vae).result
    layer = torch.zeros(1, 64, 64, 4)
    layer[:, 20:30, 40:52] = torch.cat([PAINT, torch.ones(1)])
    merged, mask = ReEditMergePixels.execute(latent, layer, tiny_vae).result
    flat, flat_mask = ReEditMergePixels.execute(latent, paint_box(picture), tiny_vae).result
    assert torch.equal(mask, flat_mask) and torch.allclose(merged["samples"], flat["samples"], atol=1e-4)


def test_a_batch_is_painted_picture_by_picture(tiny_vae, scenes):
    latent = ReEditEncode.execute(scenes[:2], tiny_vae)[0]
    picture, latent = ReEditDecode.execute(latent, tiny_vae).result
    painted = picture.clone()
    painted[1] = paint_box(picture)[1]
    merged = ReEditMergePixels.execute(latent, painted, tiny_vae)[0]
    assert torch.equal(merged["samples"][0], latent["samples"][0])
    alone = {"samples": latent["samples"][1:]}
    alone_merged = ReEditMergePixels.execute(alone, painted[1:], tiny_vae, decoded=picture[1:])[0]["samples"]
    assert torch.allclose(merged["samples"][1:], alone_merged, atol=1e-4)


def test_a_painted_picture_of_another_size_or_batch_is_refused_with_what_it_looks_like(tiny_vae, latent):
    def merge(*shape, **inputs):
        ReEditMergePixels.execute(latent, torch.rand(*shape), tiny_vae, **inputs)

    with pytest.raises(ValueError, match=r"pixels is 1 picture\(s\) of 32×64, but .* 1 of 64×64\. It looks cropped"):
        merge(1, 64, 32, 3)
    with pytest.raises(ValueError, match=r"pixels is .* 100×100, .* It looks resized: resize it back to 64×64"):
        merge(1, 100, 100, 3)
    with pytest.raises(ValueError, match=r"pixels is 2 picture\(s\) of 64×64, but the latent's are 1 .* one picture"):
        merge(2, 64, 64, 3)
    with pytest.raises(ValueError, match=r"decoded is 1 picture\(s\) of 32×32, .* It looks resized"):
        merge(1, 64, 64, 3, decoded=torch.rand(1, 32, 32, 3))


def test_pictures_that_hold_nan_are_refused_before_anything_is_encoded(tiny_vae, latent):
    vae = CountingVAE(tiny_vae)
    for channel in (0, 3):
        pixels = torch.rand(1, 64, 64, 4)
        pixels[0, 3, 3, channel] = torch.nan
        with pytest.raises(ValueError, match="pixels holds NaN"):
            ReEditMergePixels.execute(latent, pixels, vae)
    with pytest.raises(ValueError, match="decoded holds NaN"):
        ReEditMergePixels.execute(latent, torch.rand(1, 64, 64, 3), vae, decoded=pixels)
    assert vae.encoded == [] and vae.decodes == 0


def test_an_all_black_mask_is_refused(tiny_vae, latent):
    with pytest.raises(ValueError, match="mask is zero everywhere"):
        ReEditMergePixels.execute(latent, torch.rand(1, 64, 64, 3), tiny_vae, mask=torch.zeros(1, 64, 64))


def test_a_videos_latent_is_refused(tiny_vae):
    with pytest.raises(ValueError, match="video"):
        ReEditMergePixels.execute({"samples": torch.zeros(1, 4, 2, 16, 16)}, torch.rand(1, 64, 64, 3), tiny_vae)
