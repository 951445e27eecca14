import nodes as host_nodes
import pytest
import torch
from reedit.models.session.alignment import (
    EXACT_CELLS,
    LOW_FREQUENCIES,
    LOW_STATISTICS,
    METHODS,
    STATISTICS,
    align,
    reference_at,
)
from reedit.models.session.record import KEY, SOURCE
from reedit.nodes.alignment import ReEditAlign
from reedit.nodes.emilie import ReEditGradientMask, ReEditLatentConditioning
from reedit.nodes.session import ReEditCheckout, ReEditCommit


def run(*values, **named) -> dict:
    return ReEditAlign.execute(*values, **named)[0]


@pytest.fixture
def left_half() -> torch.Tensor:
    mask = torch.zeros(1, 64, 64)
    mask[:, :, :32] = 1.0
    return mask


def changed(latent: dict, amount: float = 1.0) -> dict:
    """A LATENT as a node hands it on that keeps no record."""
    return {**latent, "samples": latent["samples"] + amount}


def test_the_schema_is_one_the_host_takes():
    kinds = ReEditAlign.INPUT_TYPES()
    assert list(kinds["required"]) == ["samples", "method", "strength", "radius", "memory", "every"]
    assert list(kinds["optional"]) == ["mask"] and ReEditAlign.RETURN_TYPES == ["LATENT"]


@pytest.mark.parametrize("method", METHODS)
def test_drift_outside_the_given_mask_is_taken_back(latent, left_half, method):
    after = run(changed(latent), method, 1.0, mask=left_half)
    source = latent["samples"]
    torch.testing.assert_close(after["samples"][..., 8:], source[..., 8:], atol=2e-5, rtol=0)
    assert torch.equal(after["samples"][..., :8], source[..., :8] + 1)


def test_exact_cells_come_back_bit_for_bit(latent, left_half):
    after = run(changed(latent), EXACT_CELLS, 1.0, mask=left_half)
    assert torch.equal(after["samples"][..., 8:], latent["samples"][..., 8:])
    assert after[KEY].edits[0].changed_cells == 0.5


def test_inputs_are_left_as_they_are(latent, left_half):
    drifted = changed(latent)
    before, record = drifted["samples"].clone(), drifted[KEY]
    run(drifted, LOW_STATISTICS, mask=left_half)
    assert torch.equal(drifted["samples"], before) and drifted[KEY] is record and record.edits == ()


def test_an_alignment_before_the_commit_is_part_of_the_edit(latent, left_half):
    after = ReEditCommit.execute(run(changed(latent), STATISTICS, mask=left_half), "brighter", "tool", left_half)[0]
    (edit,) = after[KEY].edits
    assert edit.label == "brighter" and edit.parent == SOURCE
    torch.testing.assert_close(after["samples"][..., 8:], latent["samples"][..., 8:], atol=2e-5, rtol=0)


def test_an_alignment_after_the_commit_is_part_of_the_edit_and_takes_its_mask(latent, left_half):
    committed = ReEditCommit.execute(changed(latent), "brighter", "tool", left_half, keep_outside=False)[0]
    after = run(committed, EXACT_CELLS, 1.0)
    (edit,) = after[KEY].edits
    assert edit.label == "brighter" and edit.parameters["align.method"] == EXACT_CELLS
    assert torch.equal(edit.mask, left_half) and after[KEY].is_current(after["samples"])
    assert torch.equal(after["samples"][..., 8:], latent["samples"][..., 8:])
    assert torch.equal(after["samples"][..., :8], latent["samples"][..., :8] + 1)


def test_the_noise_mask_that_a_sampler_kept_to_is_the_edits_mask(latent, left_half):
    masked = host_nodes.SetLatentNoiseMask().set_mask(latent, left_half)[0]
    samples = masked["samples"].clone()
    samples[..., :8] += 1
    samples[..., 8:] += 1e-5  # a sampler's rounding
    after = run({**masked, "samples": samples}, EXACT_CELLS, 1.0)
    assert torch.equal(after["samples"][..., 8:], latent["samples"][..., 8:])
    assert torch.equal(after["samples"][..., :8], samples[..., :8])
    torch.testing.assert_close(after[KEY].edits[0].mask, left_half)


@pytest.mark.parametrize("method", METHODS)
def test_what_a_strict_mask_held_is_left_alone_without_a_mask_of_its_own(instruct_pix2pix, latent, left_half, method):
    """Nothing moved outside, so nothing is to be taken back, and what moved was meant."""
    model, clip = instruct_pix2pix
    prompts = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("change the background to sand", "")]
    positive, negative, latent = ReEditLatentConditioning.execute(model, *prompts, latent).result
    held = ReEditGradientMask.execute(model, left_half)[0]
    sampled = host_nodes.KSampler().sample(held, 0, 2, 3.0, "euler", "karras", positive, negative, latent)[0]
    after = run(sampled, method)
    assert not torch.equal(after["samples"], latent["samples"])
    assert torch.equal(after["samples"], sampled["samples"])


def test_exact_cells_need_a_mask(latent):
    with pytest.raises(ValueError, match="would be undone"):
        run(changed(latent), EXACT_CELLS)


def test_a_latent_at_its_source_passes_through(latent):
    after = run(latent)
    assert after["samples"] is latent["samples"] and after[KEY].edits == ()


def test_every_second_edit_is_aligned_and_the_others_pass_bit_for_bit(latent, left_half):
    acted = []
    for _ in range(5):
        drifted = changed(latent, 0.1)
        latent = run(drifted, EXACT_CELLS, 1.0, every=2, mask=left_half)
        acted.append(not torch.equal(latent["samples"], drifted["samples"]))
    assert acted == [False, True, False, True, False]
    assert len(latent[KEY].edits) == 5
    assert all(torch.equal(edit.mask, left_half) for edit in latent[KEY].edits)


def test_re_anchoring_takes_back_the_drift_of_all_edits_since(latent, left_half):
    source = latent["samples"]
    for _ in range(3):
        latent = run(changed(latent, 0.1), EXACT_CELLS, 1.0, every=3, mask=left_half)
    assert torch.equal(latent["samples"][..., 8:], source[..., 8:])
    torch.testing.assert_close(latent["samples"][..., :8], source[..., :8] + 0.3)


def test_the_reference_is_that_of_the_edits_parent(latent, left_half):
    first = run(changed(latent), LOW_FREQUENCIES, 0.5, memory=0.5)
    second = changed(first, 0.3)
    after = run(second, LOW_FREQUENCIES, 0.5, radius=1.0, memory=0.5, mask=left_half)
    reference = reference_at(first[KEY], 1, memory=0.5)
    torch.testing.assert_close(reference, 0.5 * (latent["samples"] + first["samples"]))
    assert torch.equal(after["samples"], align(second["samples"], reference, left_half, LOW_FREQUENCIES, 0.5, 1.0))


def test_aligning_an_edit_that_was_gone_back_to_leaves_the_others(latent, left_half):
    first = ReEditCommit.execute(changed(latent), "first", "tool")[0]
    second = ReEditCommit.execute(changed(first), "second", "tool")[0]
    back = ReEditCheckout.execute(second, "first")[0]
    after = run(back, EXACT_CELLS, 1.0, mask=left_half)
    assert [(edit.label, edit.parent) for edit in after[KEY].edits] == [("first", 0), ("second", 1), ("align", 1)]
    assert torch.equal(after[KEY].samples_at(1), first["samples"])
    assert torch.equal(after["samples"][..., 8:], latent["samples"][..., 8:])


def test_an_edit_that_is_not_aligned_this_time_adds_nothing_to_the_session(latent, left_half):
    first = ReEditCommit.execute(changed(latent), "first", "tool", left_half)[0]
    second = ReEditCommit.execute(changed(first), "second", "tool")[0]
    back = ReEditCheckout.execute(second, "first")[0]
    assert run(back, every=2)[KEY] is back[KEY]


def test_an_edit_of_another_size_has_nothing_to_be_aligned_to(latent):
    upscaled = host_nodes.LatentUpscale().upscale(latent, "nearest-exact", 256, 256, "disabled")[0]
    with pytest.raises(ValueError, match="nothing to align it to"):
        run(upscaled)
    aligned = run(changed(ReEditCommit.execute(upscaled, "larger", "upscale")[0]), STATISTICS)
    torch.testing.assert_close(aligned["samples"], upscaled["samples"], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("named", "wrong"), [("strength", {"strength": 2.0}), ("radius", {"radius": -1.0}), ("memory", {"memory": 7.0})]
)
def test_a_setting_out_of_range_is_named(latent, named, wrong):
    with pytest.raises(ValueError, match=f"^{named} is"):
        run(changed(latent), **wrong)


def test_a_mask_of_other_proportions_is_named(latent):
    with pytest.raises(ValueError, match="other proportions"):
        run(changed(latent), mask=torch.ones(1, 64, 32))


@pytest.mark.parametrize("method", METHODS)
def test_video_and_half_precision(method):
    from reedit.models.session.record import EditRecord

    video = torch.randn(1, 16, 3, 8, 12).half()
    drifted = {"samples": video + 0.5, KEY: EditRecord(video)}
    mask = torch.zeros(1, 64, 96)
    mask[..., :48] = 1.0
    after = run(drifted, method, 1.0, mask=mask)["samples"]
    assert after.dtype == torch.float16
    torch.testing.assert_close(after[..., 6:], video[..., 6:], atol=4e-3, rtol=0)
    assert torch.equal(after[..., :6], drifted["samples"][..., :6])
