import comfy.samplers
import nodes as host_nodes
import pytest
import torch
from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion
from reedit.nodes.emilie import ReEditGradientMask

STEPS = 4


def encode_text(clip, text):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def sample(model, clip, latent, sampler="euler", seed=1, denoise=1.0, text="a large red circle at the center, on sand"):
    """The host's own KSampler."""
    positive, negative = encode_text(clip, text), encode_text(clip, "")
    (result,) = host_nodes.KSampler().sample(
        model, seed, STEPS, 4.0, sampler, "karras", positive, negative, latent, denoise=denoise
    )
    return result["samples"]


@pytest.fixture
def latent(tiny_vae, scenes):
    return {"samples": tiny_vae.encode(scenes[:2])}


@pytest.fixture
def box():
    """A mask of 64×64 pixels: the cells of rows 4 to 9 and columns 6 to 11 are white."""
    mask = torch.zeros(1, 64, 64)
    mask[:, 16:40, 24:48] = 1.0
    return mask


def inside_box(samples):
    return samples[..., 4:10, 6:12]


def assert_only_the_box_changed(result, known):
    assert (inside_box(result) - inside_box(known)).abs().mean() > 0.1
    inside_box(result).copy_(inside_box(known))
    assert torch.equal(result, known)


# Those named _gpu are the same samplers with their noise drawn on the GPU.
SAMPLERS = [name for name in comfy.samplers.SAMPLER_NAMES if not name.endswith("_gpu")]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_of_the_host_leaves_the_outside_bit_identical(text_to_image, latent, box, sampler):
    model, clip = text_to_image
    (masked,) = ReEditGradientMask.execute(model, box).result
    assert_only_the_box_changed(sample(masked, clip, latent, sampler), latent["samples"])


def test_without_strict_the_gradient_alone_keeps_the_outside(text_to_image, latent, box):
    """A deterministic sampler ends at the last prediction, which outside is the known latent up to rounding."""
    model, clip = text_to_image
    (masked,) = ReEditGradientMask.execute(model, box, strict=False).result
    result = sample(masked, clip, latent)
    inside_box(result).copy_(inside_box(latent["samples"]))
    torch.testing.assert_close(result, latent["samples"], atol=1e-4, rtol=1e-4)


def test_the_model_itself_stays_as_it_was(text_to_image, latent, box):
    model, clip = text_to_image
    before = sample(model, clip, latent)
    ReEditGradientMask.execute(model, box)
    assert torch.equal(sample(model, clip, latent), before)


def test_an_interrupted_run_leaves_nothing_behind(text_to_image, latent, box):
    import comfy.sample
    from comfy.model_management import InterruptProcessingException

    model, clip = text_to_image
    (masked,) = ReEditGradientMask.execute(model, box).result
    before = sample(model, clip, latent), sample(masked, clip, latent)
    conditioning = encode_text(clip, "x")

    def interrupt(step, *_):
        if step == 1:
            raise InterruptProcessingException

    noise = torch.randn(2, 4, 16, 16)
    with pytest.raises(InterruptProcessingException):
        arguments = (masked, noise, STEPS, 1.0, "euler", "karras", conditioning, conditioning, latent["samples"])
        comfy.sample.sample(*arguments, callback=interrupt)
    assert "reedit" not in str(model.model_options) and "held" not in str(masked.model_options).lower()
    assert torch.equal(sample(model, clip, latent), before[0])
    assert torch.equal(sample(masked, clip, latent), before[1])


def test_a_white_mask_changes_nothing_about_sampling(text_to_image, latent):
    model, clip = text_to_image
    (masked,) = ReEditGradientMask.execute(model, torch.ones(1, 64, 64)).result
    torch.testing.assert_close(sample(masked, clip, latent), sample(model, clip, latent))


def test_a_second_gradient_mask_adds_up(text_to_image, latent, box):
    other = torch.zeros(1, 64, 64)
    other[:, 24:, :] = 1.0
    model, clip = text_to_image
    (once,) = ReEditGradientMask.execute(model, box).result
    (twice,) = ReEditGradientMask.execute(once, other).result
    result = sample(twice, clip, latent)
    changed = (result != latent["samples"]).any(1).any(0).nonzero()
    assert changed.amin(0).tolist() == [6, 6] and changed.amax(0).tolist() == [9, 11]


@pytest.fixture
def soft():
    """A noise mask that rises from left to right."""
    return torch.linspace(0, 1, 64).expand(1, 1, 64, 64)


def test_with_a_noise_mask_only_what_both_allow_changes_bit_for_bit(text_to_image, latent, box):
    model, clip = text_to_image
    (masked,) = ReEditGradientMask.execute(model, box).result
    (limited,) = host_nodes.SetLatentNoiseMask().set_mask(latent, box.roll((12, 8), (1, 2)))
    changed = (sample(masked, clip, limited) != latent["samples"]).any(1).any(0).nonzero()
    assert changed.amin(0).tolist() == [7, 8] and changed.amax(0).tolist() == [9, 11]


def test_it_works_beside_noise_mask_and_differential_diffusion(text_to_image, latent, box, soft):
    model, clip = text_to_image
    model = DifferentialDiffusion.execute(model).result[0]
    (masked,) = ReEditGradientMask.execute(model, box).result
    assert_only_the_box_changed(sample(masked, clip, {**latent, "noise_mask": soft}), latent["samples"])


def test_differential_diffusion_keeps_its_slot_and_its_effect(text_to_image, latent, soft):
    """A white gradient mask beside it changes nothing, whichever of the two comes first."""
    model, clip = text_to_image
    masked_latent = {**latent, "noise_mask": soft}
    (differential,) = DifferentialDiffusion.execute(model).result
    alone = sample(differential, clip, masked_latent)
    assert (alone - sample(model, clip, masked_latent)).abs().mean() > 0.01
    white = torch.ones(1, 64, 64)
    (after,) = ReEditGradientMask.execute(differential, white).result
    (before,) = DifferentialDiffusion.execute(ReEditGradientMask.execute(model, white).result[0]).result
    assert after.model_options["denoise_mask_function"] is differential.model_options["denoise_mask_function"]
    for both in (after, before):
        torch.testing.assert_close(sample(both, clip, masked_latent), alone)


def test_the_masks_multiply(text_to_image, latent, box, soft):
    """One step of Euler to sigma 0 ends on the blended prediction: m·n·D + (1 - m·n)·known (closed form)."""
    import comfy.sample

    model, clip = text_to_image
    (masked,) = ReEditGradientMask.execute(model, box, strict=False).result
    conditioning, noise = encode_text(clip, "a red circle"), torch.randn(2, 4, 16, 16)

    def one_step(chosen, noise_mask):
        arguments = (chosen, noise, 1, 1.0, "euler", "karras", conditioning, conditioning, latent["samples"])
        return comfy.sample.sample(*arguments, noise_mask=noise_mask)

    prediction = one_step(model, None)
    noise_mask = torch.nn.functional.interpolate(soft, (16, 16), mode="bilinear")
    cells = torch.nn.functional.avg_pool2d(box[:, None], 4)
    # The host mixes the noised original into the input of the model too: with one white mask there is nothing to mix.
    blended = torch.lerp(latent["samples"], prediction, cells)
    torch.testing.assert_close(one_step(masked, None), blended, atol=1e-4, rtol=1e-4)
    mixed = one_step(model, noise_mask)
    product = torch.lerp(latent["samples"], mixed, cells)
    torch.testing.assert_close(one_step(masked, noise_mask), product, atol=1e-4, rtol=1e-4)


def test_a_mask_for_each_picture_of_a_batch(text_to_image, latent, box):
    masks = torch.cat([box, box.flip(-1)])
    model, clip = text_to_image
    (masked,) = ReEditGradientMask.execute(model, masks).result
    changed = (sample(masked, clip, latent) != latent["samples"]).any(1)
    assert changed[0].nonzero().amin(0).tolist() == [4, 6] and changed[1].nonzero().amin(0).tolist() == [4, 4]


def test_split_sigmas_finish_on_the_known_latent(text_to_image, latent, box):
    """Two samplers in a row, the first stopping above sigma 0: the second one is told what to keep."""
    model, clip = text_to_image
    positive, negative = encode_text(clip, "a large red circle at the center, on sand"), encode_text(clip, "")
    (masked,) = ReEditGradientMask.execute(model, box, samples=latent).result
    run = host_nodes.KSamplerAdvanced().sample
    arguments = (masked, "enable", 1, 6, 4.0, "euler", "karras", positive, negative)
    (half,) = run(*arguments, latent, 0, 3, "enable")
    assert (half["samples"] - latent["samples"]).abs().mean() > 0.5  # still noisy, outside too
    (whole,) = run(masked, "disable", *arguments[2:], half, 3, 10000, "disable")
    assert_only_the_box_changed(whole["samples"], latent["samples"])


def test_an_empty_latent_has_nothing_to_keep(text_to_image, latent, box):
    model, clip = text_to_image
    (masked,) = ReEditGradientMask.execute(model, box).result
    with pytest.raises(ValueError, match="has nothing to keep: the latent given to the sampler is empty"):
        sample(masked, clip, {"samples": torch.zeros(1, 4, 16, 16)})
    (told,) = ReEditGradientMask.execute(model, box, samples={"samples": latent["samples"][:1]}).result
    assert_only_the_box_changed(sample(told, clip, {"samples": torch.zeros(1, 4, 16, 16)}), latent["samples"][:1])


def test_masks_and_latents_that_do_not_fit_are_refused(text_to_image, latent, box):
    model, clip = text_to_image
    for mask, words in (
        (torch.zeros(1, 64, 64), "mask is zero everywhere"),
        (torch.ones(1, 64, 128), "mask is 128×64 .* other proportions"),
        (torch.ones(3, 64, 64), "mask is a batch of 3, but there are 2"),
    ):
        with pytest.raises(ValueError, match=words):
            ReEditGradientMask.execute(model, mask, samples=latent)
        (masked,) = ReEditGradientMask.execute(model, mask).result
        with pytest.raises(ValueError, match=words):
            sample(masked, clip, latent)
    (told,) = ReEditGradientMask.execute(model, box, samples={"samples": torch.ones(1, 4, 8, 8)}).result
    with pytest.raises(ValueError, match=r"samples of the gradient mask is \(1, 4, 8, 8\), but the sampler works on"):
        sample(told, clip, latent)
    with pytest.raises(ValueError, match="samples has 16 channels, but this model works on latents of 4"):
        ReEditGradientMask.execute(model, box, samples={"samples": torch.ones(1, 16, 16, 16)})
