"""ReEdit Latent Conditioning on the demo family; test_picture_families.py has the models of the real layouts."""

import pytest
import torch
from reedit.models.session.record import KEY
from reedit.nodes.emilie import ReEditLatentConditioning
from reedit.nodes.picture_conditioning import (
    INPAINT,
    INSTRUCT,
    REFERENCE,
    check_channels,
    with_picture,
    without_picture,
)


def encode_text(clip, text):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


@pytest.fixture
def latent(tiny_vae, scenes):
    return {"samples": tiny_vae.encode(scenes[:2])}


@pytest.fixture
def prompts(instruct_pix2pix):
    clip = instruct_pix2pix[1]
    return encode_text(clip, "make the circle blue"), encode_text(clip, "")


@pytest.fixture
def box():
    mask = torch.zeros(1, 64, 64)
    mask[:, 16:40, 24:48] = 1.0
    return mask


# --- the picture ------------------------------------------------------------------------------------------------------


def test_instruct_pix2pix_gets_the_latent_unscaled(instruct_pix2pix, prompts, latent):
    positive, negative = prompts
    plus, minus, passed = ReEditLatentConditioning.execute(instruct_pix2pix[0], positive, negative, latent).result
    assert plus[0][1]["concat_latent_image"] is latent["samples"] is minus[0][1]["concat_latent_image"]
    assert passed["samples"] is latent["samples"] and KEY in passed
    assert "concat_latent_image" not in positive[0][1] and KEY not in latent


def test_it_conditions_as_the_hosts_node_does_on_the_same_picture(instruct_pix2pix, prompts, tiny_vae, scenes):
    from comfy_extras.nodes_ip2p import InstructPixToPixConditioning

    theirs = InstructPixToPixConditioning.execute(*prompts, scenes[:1], tiny_vae).result
    latent = {"samples": tiny_vae.encode(scenes[:1])}
    ours = ReEditLatentConditioning.execute(instruct_pix2pix[0], *prompts, latent).result
    for one, other in zip(ours[:2], theirs[:2], strict=True):
        assert one[0][1].keys() == other[0][1].keys()
        torch.testing.assert_close(one[0][1]["concat_latent_image"], other[0][1]["concat_latent_image"])


def test_all_entries_of_a_conditioning_carry_it(instruct_pix2pix, prompts, latent):
    positive, negative = prompts
    plus, _, _ = ReEditLatentConditioning.execute(instruct_pix2pix[0], positive + negative, negative, latent).result
    assert [options["concat_latent_image"] is latent["samples"] for _, options in plus] == [True, True]


def test_without_picture_undoes_with_picture():
    entry = [torch.randn(1, 77, 64), {"pooled_output": torch.randn(1, 64), "strength": 0.5}]
    samples, mask = torch.randn(1, 4, 8, 8), torch.ones(1, 1, 64, 64)
    for kind in (INSTRUCT, INPAINT, REFERENCE):
        carried = with_picture(kind, [entry], samples, mask, samples)
        assert len(carried[0][1]) > 2
        ((text, options),) = without_picture(carried)
        assert text is entry[0] and options == entry[1]


def test_a_reference_goes_in_front_of_those_already_there():
    first, further = torch.randn(1, 16, 8, 8), torch.randn(1, 16, 4, 4)
    conditioning = [[torch.randn(1, 77, 64), {"reference_latents": [further]}]]
    ((_, options),) = with_picture(REFERENCE, conditioning, first)
    assert options["reference_latents"][0] is first and options["reference_latents"][1] is further
    assert len(conditioning[0][1]["reference_latents"]) == 1


def test_an_unknown_way_and_half_a_masked_picture_are_refused():
    conditioning, samples = [[torch.randn(1, 77, 64), {}]], torch.randn(1, 4, 8, 8)
    with pytest.raises(ValueError, match="no way 'video' to give a picture"):
        with_picture("video", conditioning, samples)
    with pytest.raises(ValueError, match="needs the mask and the latent of the masked picture"):
        with_picture(INPAINT, conditioning, samples, torch.ones(1, 1, 64, 64))


# --- the mask ---------------------------------------------------------------------------------------------------------


def test_a_mask_becomes_the_latents_noise_mask(instruct_pix2pix, prompts, latent, box):
    model = instruct_pix2pix[0]
    *_, passed = ReEditLatentConditioning.execute(model, *prompts, latent, box).result
    assert torch.equal(passed["noise_mask"], box[:, None]) and "noise_mask" not in latent
    *_, passed = ReEditLatentConditioning.execute(model, *prompts, latent, torch.cat([box, 1 - box])).result
    assert torch.equal(passed["noise_mask"], torch.stack([box, 1 - box]))
    *_, passed = ReEditLatentConditioning.execute(model, *prompts, latent, box, noise_mask=False).result
    assert "noise_mask" not in passed


def test_without_a_mask_the_latents_own_stays_or_goes(instruct_pix2pix, prompts, latent, box):
    model, masked = instruct_pix2pix[0], {**latent, "noise_mask": box[:, None]}
    *_, passed = ReEditLatentConditioning.execute(model, *prompts, masked).result
    assert passed["noise_mask"] is masked["noise_mask"]
    *_, passed = ReEditLatentConditioning.execute(model, *prompts, masked, noise_mask=False).result
    assert "noise_mask" not in passed and "noise_mask" in masked


def test_a_sampler_keeps_what_the_mask_does_not_cover(instruct_pix2pix, prompts, latent, box):
    import nodes as host_nodes

    model = instruct_pix2pix[0]
    plus, minus, passed = ReEditLatentConditioning.execute(model, *prompts, latent, box).result
    (sampled,) = host_nodes.KSampler().sample(model, 1, 3, 3.0, "euler", "karras", plus, minus, passed)
    changed = (sampled["samples"] - latent["samples"]).abs()
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[4:10, 6:12] = True
    assert changed[..., inside].mean() > 0.1 and changed[..., ~inside].max() < 1e-3


# --- bad input --------------------------------------------------------------------------------------------------------


def test_a_model_that_takes_no_picture_is_named(text_to_image, latent):
    model, clip = text_to_image
    conditioning = encode_text(clip, "x")
    with pytest.raises(ValueError, match=r"model is a BaseModel, which takes no picture.*InstructPix2Pix"):
        ReEditLatentConditioning.execute(model, conditioning, conditioning, latent)


def test_a_latent_for_another_model_is_named(instruct_pix2pix, prompts):
    model = instruct_pix2pix[0]
    with pytest.raises(ValueError, match="samples has 16 channels, but this model works on latents of 4"):
        ReEditLatentConditioning.execute(model, *prompts, {"samples": torch.zeros(1, 16, 8, 8)})
    with pytest.raises(ValueError, match="samples has 5 dimensions.* but this model works on latents of 4"):
        ReEditLatentConditioning.execute(model, *prompts, {"samples": torch.zeros(1, 4, 1, 8, 8)})
    with pytest.raises(ValueError, match="samples holds"):
        check_channels(4, torch.full((1, 4, 8, 8), float("nan")))


def test_a_mask_that_does_not_fit_is_refused(instruct_pix2pix, prompts, latent):
    for mask, words in (
        (torch.ones(1, 64, 128), "mask is 128×64 .* other proportions"),
        (torch.ones(3, 64, 64), "mask is a batch of 3, but there are 2"),
        (torch.zeros(1, 64, 64), "mask is zero everywhere"),
    ):
        with pytest.raises(ValueError, match=words):
            ReEditLatentConditioning.execute(instruct_pix2pix[0], *prompts, latent, mask)


def test_what_was_there_before_keeps_its_place_in_saved_workflows():
    schema = ReEditLatentConditioning.define_schema()
    names = [entry.id for entry in schema.inputs]
    assert names == ["model", "positive", "negative", "samples", "mask", "vae", "noise_mask"]
    assert [entry.optional for entry in schema.inputs] == [False] * 4 + [True] * 3
