"""What the host's own latent nodes do to a session: which keep its record, and what it then says."""

import nodes as host_nodes
import pytest
import torch
from reedit.models.session.record import KEY, SOURCE, observe, with_record
from reedit.nodes.drift import ReEditDriftMeter


@pytest.fixture
def edited(latent):
    """A session with one edit in the left quarter."""
    samples = latent["samples"].clone()
    samples[..., :4] += 1
    return with_record(latent, observe(latent).with_edit(samples, "one", "a tool"))


@pytest.fixture
def prompt(text_to_image):
    model, clip = text_to_image
    (conditioning,) = host_nodes.CLIPTextEncode().encode(clip, "a small red circle at the top, on grass")
    return model, conditioning


def only_new_edit(latent: dict):
    """The edit that is noted for what a host's node did; the one before it is still there."""
    first, new = observe(latent).edits
    assert first.label == "one" and new.tool == "unrecorded" and new.parent == 1
    return new


def test_ksampler_keeps_the_record(edited, prompt):
    model, conditioning = prompt
    (sampled,) = host_nodes.KSampler().sample(model, 1, 2, 1.0, "euler", "karras", conditioning, conditioning, edited)
    assert sampled[KEY] is edited[KEY] and only_new_edit(sampled).changed_cells == 1.0


def test_sampler_custom_advanced_keeps_the_record_in_both_outputs(edited, prompt):
    from comfy_extras import nodes_custom_sampler as custom

    model, conditioning = prompt
    (guider,) = custom.BasicGuider.execute(model, conditioning).result
    (sampler,) = custom.KSamplerSelect.execute("euler").result
    (sigmas,) = custom.BasicScheduler.execute(model, "karras", 2, 1.0).result
    (noise,) = custom.RandomNoise.execute(1).result
    for sampled in custom.SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, edited).result:
        assert sampled[KEY] is edited[KEY] and only_new_edit(sampled).changed_cells == 1.0


def test_latent_composite_keeps_the_record_of_what_is_pasted_on(edited):
    pasted = {"samples": torch.randn(1, 4, 4, 4)}
    (composite,) = host_nodes.LatentComposite().composite(edited, pasted, x=64, y=64, feather=0)
    edit = only_new_edit(composite)
    assert edit.changed_cells == 16 / 256 and edit.mask.nonzero().amin(0).tolist() == [0, 8, 8]


def test_latent_composite_masked_keeps_the_record_of_the_destination(edited):
    from comfy_extras.nodes_mask import LatentCompositeMasked

    mask = torch.zeros(1, 16, 16)
    mask[:, 2, 3] = 1.0
    (composite,) = LatentCompositeMasked.execute(
        edited, {"samples": torch.randn(1, 4, 16, 16)}, 0, 0, False, mask
    ).result
    assert only_new_edit(composite).mask.nonzero().tolist() == [[0, 2, 3]]


def test_a_repeated_latent_is_the_same_picture_several_times(edited, tiny_vae):
    """Nothing moved, nothing more is stored, and what no edit touched is still known to be untouched."""
    (repeated,) = host_nodes.RepeatLatentBatch().repeat(edited, 3)
    edit = only_new_edit(repeated)
    assert edit.batch_origin == (0, 0, 0) and edit.changed_cells == 0.0 and edit.change.nbytes == 0
    assert torch.equal(observe(repeated).samples_at(2), repeated["samples"])
    report = ReEditDriftMeter.execute(repeated, tiny_vae)[1]
    assert '"outside_mask_max_abs_latent_change": 0.0' in report


def test_an_item_taken_from_a_batch_knows_where_it_came_from(edited):
    (repeated,) = host_nodes.RepeatLatentBatch().repeat(edited, 2)
    repeated["samples"][1] += 1
    repeated = with_record(repeated, observe(repeated))
    (second,) = host_nodes.LatentFromBatch().frombatch(repeated, 1, 1)
    assert observe(second).edits[-1].batch_origin == (1,)


def test_an_upscaled_latent_is_an_edit_of_everything_and_can_be_undone(edited, tiny_vae):
    (larger,) = host_nodes.LatentUpscale().upscale(edited, "nearest-exact", 256, 256, "disabled")
    edit = only_new_edit(larger)
    assert edit.changed_cells == 1.0 and edit.mask is None and edit.batch_origin is None
    record = observe(larger)
    assert torch.equal(record.samples_at(2), larger["samples"])
    assert torch.equal(with_record(larger, record.at(1))["samples"], edited["samples"])
    ReEditDriftMeter.execute(larger, tiny_vae)  # other sizes are no error


def test_a_fresh_encode_begins_a_new_session(edited, tiny_vae):
    (encoded,) = host_nodes.VAEEncode().encode(tiny_vae, tiny_vae.decode(edited["samples"]))
    record = observe(encoded)
    assert KEY not in encoded and record.edits == () and record.current == SOURCE


def test_set_latent_noise_mask_keeps_the_record(edited):
    (masked,) = host_nodes.SetLatentNoiseMask().set_mask(edited, torch.ones(1, 64, 64))
    assert masked[KEY] is edited[KEY] and observe(masked) is edited[KEY]
