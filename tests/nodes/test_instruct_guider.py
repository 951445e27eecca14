"""The instruct guider in the host's own sampling, against the host's own guider and against what each part alone predicts."""

from __future__ import annotations

import comfy.model_management
import comfy.samplers
import pytest
import torch
from comfy_extras import nodes_custom_sampler as custom
from host_graph import counted_rows, karras, prompt, sampled
from reedit.nodes.instruct import ReEditInstructGuider, ReEditInstruction
from reedit.nodes.picture_conditioning import with_values
from reedit.nodes.stochastic_sampler import stochastic_sampler

SCALES = {"text_scale": 3.0, "image_scale": 1.4}
MODES = ("text term", "prediction", "result")


@pytest.fixture(scope="module")
def model(instruct_pix2pix):
    return instruct_pix2pix[0]


@pytest.fixture(scope="module")
def prompts(instruct_pix2pix):
    with torch.inference_mode():
        texts = ("make the circle red", "change the background to sand", "")
        return [prompt(instruct_pix2pix[1], text) for text in texts]


@pytest.fixture(scope="module")
def latent(tiny_vae, scenes):
    """The latents of a quarter of two scenes: 8×8 cells, of 4×4 pixels each."""
    with torch.inference_mode():
        return {"samples": tiny_vae.encode(scenes[:2])[..., :8, :8].contiguous()}


def box(left: int, right: int, value: float = 1.0) -> torch.Tensor:
    """A mask of 32×32 pixels, white from one cell to another."""
    mask = torch.zeros(1, 32, 32)
    mask[:, :, 4 * left : 4 * right] = value
    return mask


@pytest.fixture
def instructed(model, prompts, latent):
    """Sample with the guider: the result, for a number of steps; one step ends on the guider's prediction itself."""

    def run(positive=None, steps=1, sampler=None, seed=3, latent=latent, model=model, **settings):
        given = {**SCALES, "samples": latent, "negative": prompts[2], **settings}
        guide = ReEditInstructGuider.execute(model, positive or prompts[0], **given)[0]
        return sampled(guide, karras(model, steps), latent, custom.RandomNoise.execute(seed)[0], sampler)

    return run


@pytest.fixture
def dual(model, prompts, latent):
    """The host's DualCFGGuider, the picture given by hand."""

    def run(positive=None, steps=1, text_scale=3.0, image_scale=1.4, seed=3, model=model):
        picture = {"concat_latent_image": latent["samples"]}
        conditionings = (with_values(positive or prompts[0], picture), with_values(prompts[2], picture), prompts[2])
        guide = custom.DualCFGGuider.execute(model, *conditionings, text_scale, image_scale, "regular")[0]
        return sampled(guide, karras(model, steps), latent, custom.RandomNoise.execute(seed)[0])

    return run


def marked(conditioning, mask, others=None, **scales):
    return ReEditInstruction.execute(conditioning, mask, **{**SCALES, **scales}, others=others)[0]


def assert_near(found, expected):
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("image_scale", [1.0, 1.4, 3.0, 0.0])
def test_without_a_mask_it_is_the_host_s_three_way_guidance(instructed, dual, image_scale):
    assert_near(instructed(steps=4, image_scale=image_scale), dual(steps=4, image_scale=image_scale))


def test_the_mask_is_on_the_text_s_term_alone(instructed, dual):
    """Inside, the host's three-way guidance; outside, the same with no text; in a grey cell, in between."""
    grey = box(0, 4) + box(4, 6, 0.25)
    found, full, none = instructed(mask=grey, strict=False), dual(), dual(text_scale=0.0)
    assert (full - none).abs().mean() > 0.05
    assert_near(found[..., :4], full[..., :4])
    assert_near(found[..., 6:], none[..., 6:])
    assert_near(found[..., 4:6], torch.lerp(none, full, 0.25)[..., 4:6])


@pytest.mark.parametrize("mode", ["prediction", "result"])
def test_the_mask_on_the_whole_prediction_blends_it_with_the_latent_itself(instructed, dual, latent, mode):
    grey = box(0, 4) + box(4, 6, 0.25)
    cells = torch.nn.functional.avg_pool2d(grey[:, None], 4)
    assert_near(instructed(mask=grey, mask_on=mode, strict=False), torch.lerp(latent["samples"], dual(), cells))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "dpmpp_2m_sde", "uni_pc"])
def test_cells_where_no_mask_is_come_out_bit_for_bit(instructed, latent, mode, sampler):
    chosen = custom.KSamplerSelect.execute(sampler)[0]
    result = instructed(mask=box(2, 5), mask_on=mode, steps=3, sampler=chosen)
    changed = (result != latent["samples"]).any(1).any(0).any(0).nonzero().flatten()
    assert changed.tolist() == [2, 3, 4]


def test_with_a_hard_mask_strict_holds_the_outside_at_every_step(instructed):
    """So the text's term and the whole prediction are the same; with a grey mask they are not."""
    on_text, on_all = (instructed(mask=box(2, 5), mask_on=mode, steps=3) for mode in ("text term", "prediction"))
    assert_near(on_text, on_all)
    on_text, on_all = (instructed(mask=box(2, 5, 0.5), mask_on=mode, steps=3) for mode in ("text term", "prediction"))
    assert (on_text - on_all).abs().mean() > 0.01


def test_a_faint_mask_hardly_changes_anything(instructed, latent):
    """The tail of a blurred mask reaches far; where it is faint, the picture must not be drawn anew."""
    change = (instructed(mask=box(0, 8, 0.02), steps=3) - latent["samples"]).abs().mean()
    full = (instructed(steps=3) - latent["samples"]).abs().mean()
    assert change < 0.05 * full


def test_a_run_that_stops_early_hands_on_its_noisy_latent(model, instructed, prompts, latent):
    """Split sigmas: what the first sampler leaves is noisy everywhere; the second one finishes on the known latent."""
    guide = ReEditInstructGuider.execute(model, prompts[0], prompts[2], latent, **SCALES, mask=box(2, 5))[0]
    sigmas = karras(model, 4)
    noisy = sampled(guide, sigmas[:3], latent, custom.RandomNoise.execute(3)[0])
    assert bool((noisy != latent["samples"]).any(1).all())
    finished = sampled(guide, sigmas[2:], {"samples": noisy})
    assert_near(finished, instructed(mask=box(2, 5), steps=4))


def test_two_instructions_each_act_in_their_own_mask(instructed, prompts):
    """One step's prediction: in each mask that of its instruction alone, with its own scales."""
    first = marked(prompts[0], box(0, 3))
    both = marked(prompts[1], box(5, 8), first, text_scale=5.0, image_scale=0.8)
    found = instructed(both, strict=False, alone=0.0)
    assert_near(found[..., :3], instructed(prompts[0])[..., :3])
    alone = instructed(prompts[1], text_scale=5.0, image_scale=0.8)
    assert_near(found[..., 5:], alone[..., 5:])
    assert_near(found[..., 3:5], instructed(prompts[0], mask=box(0, 3), strict=False)[..., 3:5])


@pytest.mark.parametrize("mode", MODES)
def test_the_same_instruction_twice_in_one_place_is_that_instruction(instructed, prompts, mode):
    twice = marked(prompts[0], box(0, 5), marked(prompts[0], box(0, 5)))
    assert_near(instructed(twice, mask_on=mode, steps=3), instructed(mask=box(0, 5), mask_on=mode, steps=3))


def held_by_the_host(model, positive, latent, mask):
    """The host's own guider and noise mask: what one instruction makes alone, the rest of the picture as it was."""
    guide = custom.BasicGuider.execute(model, with_values(positive, {"concat_latent_image": latent["samples"]}))[0]
    held = {**latent, "noise_mask": mask[:, None]}
    return sampled(guide, karras(model, 4), held, custom.RandomNoise.execute(3)[0])


def test_each_instruction_is_carried_out_as_if_it_were_alone(model, instructed, prompts, latent):
    """With both scales at 1 there is the instruction's own prediction and nothing else."""
    ones, left, right = {"text_scale": 1.0, "image_scale": 1.0}, box(0, 5), box(5, 8)
    both = marked(prompts[1], right, marked(prompts[0], left, **ones), **ones)
    found = instructed(both, steps=4, alone=1.0, **ones)
    assert_near(found[..., :5], held_by_the_host(model, prompts[0], latent, left)[..., :5])
    assert_near(found[..., 5:], held_by_the_host(model, prompts[1], latent, right)[..., 5:])
    assert (instructed(both, steps=4, alone=0.0, **ones) - found).abs().mean() > 0.01


def test_in_the_last_steps_each_sees_what_the_others_made(model, instructed, prompts, latent):
    """alone 0.5 of four steps: the first two as with 1, the other two as with 0."""
    both = marked(prompts[1], box(5, 8), marked(prompts[0], box(0, 5)))
    sigmas = karras(model, 4)

    def part(alone, sigmas, start, noise):
        guide = ReEditInstructGuider.execute(model, both, prompts[2], latent, **SCALES, alone=alone)[0]
        return sampled(guide, sigmas, start, noise)

    halfway = part(1.0, sigmas[:3], latent, custom.RandomNoise.execute(3)[0])
    expected = part(0.0, sigmas[2:], {"samples": halfway}, None)
    assert_near(instructed(both, steps=4, alone=0.5), expected)


def test_a_cell_that_the_mask_touches_is_edited_in_full(instructed):
    """Averages would leave the rim of a thing half as it was."""
    corner = torch.zeros(1, 32, 32)
    corner[:, 8:13, 8:13] = 1.0  # one cell, and a pixel of three more
    cells = torch.nn.functional.max_pool2d(corner[:, None], 4).repeat_interleave(4, -1).repeat_interleave(4, -2)[:, 0]
    assert torch.equal(instructed(mask=corner, steps=2), instructed(mask=cells, steps=2))


def test_without_noise_of_the_sampler_s_own_others_are_hidden_too(model, instructed, prompts, latent):
    """Split sigmas: in the second run Disable Noise gives zeros, under which the picture would be seen without any noise."""
    both = marked(prompts[1], box(5, 8), marked(prompts[0], box(0, 5)))
    guide = ReEditInstructGuider.execute(model, both, prompts[2], latent, **SCALES, alone=1.0)[0]
    sigmas = karras(model, 4)
    noisy = sampled(guide, sigmas[:3], latent, custom.RandomNoise.execute(3)[0])
    seen = []
    hook = model.model.diffusion_model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        sampled(guide, sigmas[2:], {"samples": noisy})
    finally:
        hook.remove()
    *_, second, first = seen[0][:, :4].chunk(4)  # the host takes the last prompt first
    known = model.model.process_latent_in(latent["samples"])
    for row, hidden in ((first, slice(5, 8)), (second, slice(0, 5))):
        noise = (row * (sigmas[2] ** 2 + 1).sqrt() - known) / sigmas[2]
        assert float(noise[..., hidden].std()) == pytest.approx(1.0, abs=0.15)


def test_the_host_s_own_combine_joins_instructions_too(instructed, prompts):
    import nodes as host_nodes

    first, second = marked(prompts[0], box(0, 3)), marked(prompts[1], box(5, 8))
    (combined,) = host_nodes.ConditioningCombine().combine(first, second)
    chained = marked(prompts[1], box(5, 8), first)
    assert torch.equal(instructed(combined), instructed(chained))


def test_a_mask_of_the_guider_limits_all_instructions(instructed, prompts, latent):
    both = marked(prompts[1], box(5, 8), marked(prompts[0], box(0, 3)))
    result = instructed(both, mask=box(2, 6), steps=2)
    changed = (result != latent["samples"]).any(1).any(0).any(0).nonzero().flatten()
    assert changed.tolist() == [2, 5]


def test_an_instruction_without_a_mask_takes_the_guider_s(instructed, prompts):
    mixed = [*prompts[1], *marked(prompts[0], box(0, 3))]
    both = marked(prompts[0], box(0, 3), marked(prompts[1], box(5, 8)))
    assert torch.equal(instructed(mixed, mask=box(5, 8)), instructed(both))


def test_a_mask_for_each_picture_of_the_batch(instructed, latent):
    result = instructed(mask=torch.cat([box(0, 2), box(6, 8)]), steps=2)
    first, second = (result != latent["samples"]).any(1).any(1)
    assert first.nonzero().flatten().tolist() == [0, 1] and second.nonzero().flatten().tolist() == [6, 7]


@pytest.mark.parametrize(
    ("settings", "rows"),
    [
        ({}, 3),
        ({"image_scale": 1.0}, 2),
        ({"text_scale": 3.0, "image_scale": 3.0}, 2),
        ({"text_scale": 1.0, "image_scale": 1.0}, 1),
        ({"text_scale": 1.0, "image_scale": 1.0, "mask": box(0, 3)}, 2),
    ],
)
def test_what_has_no_weight_is_not_computed(model, instructed, latent, settings, rows):
    with counted_rows(model) as counted:
        instructed(steps=2, **settings)
    assert counted == [rows * len(latent["samples"])] * 2


def test_five_instructions_share_the_unconditional_parts_in_one_call(model, instructed, prompts, latent):
    joined = None
    for number in range(5):
        joined = marked(prompts[number % 2], box(number, number + 1), joined)
    with counted_rows(model) as counted:
        instructed(joined, steps=2)
    assert counted == [(5 + 2) * len(latent["samples"])] * 2


def test_patches_of_the_host_s_guidance_take_part(model, instructed, dual, prompts):
    """RescaleCFG at multiplier 0 changes nothing; a function after guidance sees the whole prediction, and may replace it."""
    import comfy_extras.nodes_model_advanced as advanced

    (rescaled,) = advanced.RescaleCFG().patch(model, 0.0)
    assert_near(instructed(model=rescaled), dual())
    (strongly,) = advanced.RescaleCFG().patch(model, 1.0)
    assert (instructed(model=strongly) - dual()).abs().mean() > 0.01
    patched, seen = model.clone(), []

    def halve(arguments):
        seen.append(arguments)
        return arguments["denoised"] / 2

    patched.set_model_sampler_post_cfg_function(halve)
    assert_near(instructed(model=patched), dual() / 2)
    assert seen[0]["cond_scale"] == SCALES["text_scale"]


def test_a_noise_mask_limits_it_bit_for_bit(instructed, latent):
    limited = {**latent, "noise_mask": box(4, 8)[:, None]}
    result = instructed(mask=box(2, 6), steps=3, latent=limited)
    changed = (result != latent["samples"]).any(1).any(0).any(0).nonzero().flatten()
    assert changed.tolist() == [4, 5]


def test_the_stochastic_sampler_adds_its_noise_inside_the_guider_s_mask(instructed):
    """With strict off: where the mask is black, the result is euler's, whatever eta is."""
    mask = {"mask": box(0, 4), "mask_on": "prediction", "strict": False, "steps": 3}
    with_noise, without = (instructed(sampler=stochastic_sampler(eta, 1), **mask) for eta in (1.0, 0.0))
    assert (with_noise - without)[..., :4].abs().mean() > 0.01
    assert_near(with_noise[..., 4:], without[..., 4:])


def test_an_interrupt_leaves_model_and_guider_as_they_were(model, prompts, latent, instructed):
    before = instructed(mask=box(0, 3), steps=2), str(model.model_options)
    guide = ReEditInstructGuider.execute(model, prompts[0], prompts[2], latent, **SCALES, mask=box(0, 3))[0]

    def interrupt(step, *_):
        raise comfy.model_management.InterruptProcessingException

    noise = torch.randn(latent["samples"].shape)
    sampler = comfy.samplers.sampler_object("euler")
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        guide.sample(noise, latent["samples"], sampler, karras(model, 2), callback=interrupt)
    assert guide.run is None and guide.soft_mask is None and str(model.model_options) == before[1]
    assert torch.equal(instructed(mask=box(0, 3), steps=2), before[0])


def test_inputs_stay_as_they_were(instructed, prompts, latent):
    copies = latent["samples"].clone(), [dict(options) for _, options in prompts[0]]
    instructed(mask=box(0, 3))
    assert torch.equal(latent["samples"], copies[0])
    assert [list(options) for _, options in prompts[0]] == [list(options) for options in copies[1]]


def test_a_model_that_takes_no_picture_is_refused(text_to_image, prompts, latent):
    with pytest.raises(ValueError, match="takes no picture beside its noise"):
        ReEditInstructGuider.execute(text_to_image[0], prompts[0], prompts[2], latent)


def test_more_instructions_than_masks_are_refused(model, prompts, latent):
    positive = [*prompts[0], *marked(prompts[1], box(0, 3))]
    with pytest.raises(ValueError, match="2 instructions, but only 1 of them have a mask"):
        ReEditInstructGuider.execute(model, positive, prompts[2], latent)


@pytest.mark.parametrize("text_scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_text_scale_that_does_nothing_is_refused(model, prompts, latent, text_scale):
    with pytest.raises(ValueError, match="text_scale is .* 7.5 is usual"):
        ReEditInstructGuider.execute(model, prompts[0], prompts[2], latent, text_scale=text_scale)
    with pytest.raises(ValueError, match="text_scale is"):
        ReEditInstruction.execute(prompts[0], box(0, 3), text_scale)


@pytest.mark.parametrize("image_scale", [-0.5, float("nan")])
def test_an_image_scale_below_zero_is_refused(model, prompts, latent, image_scale):
    with pytest.raises(ValueError, match="image_scale is .* must be 0 or more"):
        ReEditInstructGuider.execute(model, prompts[0], prompts[2], latent, image_scale=image_scale)


def test_masks_that_do_not_fit_are_refused_by_number(model, prompts, latent):
    wide = torch.ones(1, 16, 32)
    with pytest.raises(ValueError, match="mask is 32×16 .* other proportions"):
        ReEditInstructGuider.execute(model, prompts[0], prompts[2], latent, mask=wide)
    both = marked(prompts[1], wide, marked(prompts[0], box(0, 3)))
    with pytest.raises(ValueError, match="mask of instruction 2 is 32×16"):
        ReEditInstructGuider.execute(model, both, prompts[2], latent)
    with pytest.raises(ValueError, match="zero everywhere, so the instruction could do nothing"):
        marked(prompts[0], torch.zeros(1, 32, 32))


def test_a_latent_of_another_family_is_refused(model, prompts):
    with pytest.raises(ValueError, match="samples has 16 channels, but this model works on latents of 4"):
        ReEditInstructGuider.execute(model, prompts[0], prompts[2], {"samples": torch.ones(1, 16, 8, 8)})


def test_a_sampler_on_another_latent_is_refused_before_it_starts(model, prompts, latent):
    guide = ReEditInstructGuider.execute(model, prompts[0], prompts[2], latent, **SCALES)[0]
    with pytest.raises(ValueError, match="samples of the instruct guider is .* Give both the same latent"):
        sampled(guide, karras(model, 2), {"samples": torch.ones(1, 4, 16, 16)}, custom.RandomNoise.execute(0)[0])


def test_no_instruction_at_all_is_refused(model, prompts, latent):
    with pytest.raises(ValueError, match="positive is empty"):
        ReEditInstructGuider.execute(model, [], prompts[2], latent)
