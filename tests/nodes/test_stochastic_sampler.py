"""ReEdit Stochastic Sampler against the host's euler and euler_ancestral, on the demo model as it is and as other kinds."""

from __future__ import annotations

import itertools

import comfy.ldm.wan.model
import comfy.model_management
import comfy.ops
import comfy.samplers
import comfy.sd
import pytest
import torch
from comfy.k_diffusion import sampling as k_diffusion
from comfy.model_management import InterruptProcessingException
from comfy_extras import nodes_custom_sampler as custom
from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM, ModelSamplingDiscrete, ModelSamplingSD3
from host_graph import SOURCE, counted_rows, euler, guider, inverted, prompt, quarters, sampled
from random_families import random_weights
from reedit.nodes.guidance import ReEditBlendedGuider, ReEditGuidanceMask
from reedit.nodes.prompt_words import ReEditPromptWords
from reedit.nodes.stochastic_sampler import ReEditStochasticSampler

FALLING = {"noise": torch.tensor([14.6, 4.0, 1.2, 0.4, 0.0]), "flow": torch.tensor([1.0, 0.8, 0.5, 0.2, 0.0])}


@pytest.fixture(scope="module")
def positive(text_to_image):
    with torch.inference_mode():
        return prompt(text_to_image[1], SOURCE)


@pytest.fixture(scope="module")
def latent(tiny_vae, scenes):
    """Two scenes' quarters, of 8×8 cells."""
    return quarters(tiny_vae, scenes[:2])


@pytest.fixture
def model(text_to_image):
    return text_to_image[0]


def stochastic(eta=0.1, seed=3, mask=None):
    return ReEditStochasticSampler.execute(eta, seed, mask)[0]


def noise(seed=1):
    return custom.RandomNoise.execute(seed)[0]


def left_half(rows=64, columns=64):
    """A mask of the left half: of 8 columns of cells, 0 to 3."""
    mask = torch.zeros(1, rows, columns)
    mask[..., : columns // 2] = 1.0
    return mask


def run(model, positive, latent, sampler, sigmas=FALLING["noise"], guide=None):
    return sampled(guide or guider(model, positive), sigmas, latent, noise(), sampler)


# --- the host's samplers ----------------------------------------------------------------------------------------------

KINDS = {
    "eps": lambda model: model,
    "v": lambda model: ModelSamplingDiscrete().patch(model, "v_prediction", False)[0],
    "EDM": lambda model: ModelSamplingContinuousEDM().patch(model, "edm", 20.0, 0.05)[0],
    "flow": lambda model: ModelSamplingSD3().patch(model, 3.0)[0],
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def sigmas_of(kind):
    return FALLING["flow" if kind == "flow" else "noise"]


@every_kind
def test_eta_0_is_the_hosts_euler_bit_for_bit(model, positive, latent, kind):
    """The weights mean something else to the other kinds, and the pictures nothing; the equations hold all the same."""
    model, sigmas = KINDS[kind](model), sigmas_of(kind)
    ours, theirs = (run(model, positive, latent, sampler, sigmas) for sampler in (stochastic(0.0), euler()))
    assert torch.equal(ours, theirs)
    assert not torch.equal(run(model, positive, latent, stochastic(0.1), sigmas), theirs)


@every_kind
def test_black_cells_take_the_hosts_euler_step_bit_for_bit(model, positive, latent, kind):
    """One step: after it the model would carry the noise of one cell to the next."""
    model, sigmas = KINDS[kind](model), sigmas_of(kind)[1:3]
    ours, theirs = (
        run(model, positive, latent, sampler, sigmas) for sampler in (stochastic(1.0, mask=left_half()), euler())
    )
    assert torch.equal(ours[..., 4:], theirs[..., 4:])
    assert not (ours[..., :4] == theirs[..., :4]).any()


def ancestral(seed, latent, function=k_diffusion.sample_euler_ancestral, **options):
    """The host's sampler with the noise that ours draws: of the seed, from the second on."""
    generator = torch.Generator().manual_seed(seed)
    torch.randn(latent["samples"].shape, generator=generator)

    def noise_sampler(sigma, sigma_next):
        return torch.randn(latent["samples"].shape, generator=generator)

    return comfy.samplers.KSAMPLER(function, {"noise_sampler": noise_sampler, **options})


@pytest.mark.parametrize("kind", ["eps", "v", "EDM"])
@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_it_is_the_hosts_euler_ancestral_where_nothing_is_masked(model, positive, latent, kind, eta):
    model = KINDS[kind](model)
    ours = run(model, positive, latent, stochastic(eta, seed=5))
    torch.testing.assert_close(ours, run(model, positive, latent, ancestral(5, latent, eta=eta)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("noise_scale", [1.0, 2.0], ids=["noise of deviation 1", "noise of deviation 2"])
@pytest.mark.parametrize("theirs", [0.2, 1.0])
def test_a_flow_models_step_is_the_hosts_of_another_eta(model, positive, latent, theirs, noise_scale):
    """The host's flow sampler counts eta in another way; the same amount of new noise gives the same latent."""
    high, low = sigmas = FALLING["flow"][1:3]
    model = KINDS["flow"](model)
    model.get_model_object("model_sampling").set_noise_scale(noise_scale)
    down = low * (1 + (low / high - 1) * theirs)
    new = (low**2 - down**2 * (1 - low) ** 2 / (1 - down) ** 2) ** 0.5
    eta = new / (low / high * (high**2 - (low * (1 - high) / (1 - low)) ** 2) ** 0.5)
    ours, host = (
        run(model, positive, latent, sampler, sigmas)
        for sampler in (stochastic(float(eta), seed=5), ancestral(5, latent, eta=theirs))
    )
    torch.testing.assert_close(ours, host, rtol=1e-4, atol=1e-4)


def video_model():
    """A Wan 2.1 of one narrow block, with random weights: its latents are (B, 16, T, H, W)."""
    network = comfy.ldm.wan.model.WanModel(
        dim=128, ffn_dim=128, num_heads=1, num_layers=1, device="meta", operations=comfy.ops.disable_weight_init
    )
    weights = random_weights({name: weight.shape for name, weight in network.state_dict().items()}, 0)
    return comfy.sd.load_diffusion_model_state_dict(weights)


def test_a_video_is_sampled_with_one_mask_for_all_frames():
    model, positive = video_model(), [[torch.randn(1, 16, 4096), {}]]
    latent = {"samples": torch.zeros(1, 16, 3, 8, 8)}
    sigmas = FALLING["flow"]
    assert torch.equal(
        run(model, positive, latent, stochastic(0.0), sigmas), run(model, positive, latent, euler(), sigmas)
    )
    sigmas = sigmas[1:3]
    ours, theirs = (
        run(model, positive, latent, sampler, sigmas) for sampler in (stochastic(1.0, mask=left_half()), euler())
    )
    assert torch.isfinite(ours).all() and torch.equal(ours[..., 4:], theirs[..., 4:])
    assert not (ours[..., :4] == theirs[..., :4]).any()


# --- where the noise goes ---------------------------------------------------------------------------------------------


class MaskedGuider(comfy.samplers.CFGGuider):
    """A guider with a mask of its own that moves with every step, as ReEdit Blended Guider's does."""

    soft_mask = None

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        previous = self.soft_mask
        self.soft_mask = torch.zeros(len(x), 1, *x.shape[-2:]) if previous is None else previous.roll(2, -1)
        if previous is None:
            self.soft_mask[..., :2] = 1.0
        return super().predict_noise(x, timestep, model_options or {}, seed)


def masked_guider(model, positive):
    guide = MaskedGuider(model)
    guide.inner_set_conds({"positive": positive})
    return guide


def noisy_columns(guide, sampler, latent, sigmas, denoise_mask=None):
    """For each step but the last, the columns of cells that differ from Euler's step."""
    seen = []
    start = noise().generate_noise(latent)
    guide.sample(
        start, latent["samples"], sampler, sigmas, denoise_mask, lambda step, x0, x, total: seen.append((x, x0)), seed=0
    )
    columns = []
    for step, ((x, x0), (following, _)) in enumerate(itertools.pairwise(seen)):
        euler_step = x + (x - x0) / sigmas[step] * (sigmas[step + 1] - sigmas[step])
        columns.append((following != euler_step).any((0, 1, 2)).nonzero().flatten().tolist())
    return columns


def test_without_a_mask_the_guiders_own_is_read_at_every_step(model, positive, latent):
    columns = noisy_columns(masked_guider(model, positive), stochastic(), latent, FALLING["noise"])
    assert columns == [[0, 1], [2, 3], [4, 5]]


def test_the_mask_input_goes_before_the_guiders(model, positive, latent):
    columns = noisy_columns(
        masked_guider(model, positive), stochastic(mask=left_half()), latent, FALLING["noise"], left_half(8, 8).flip(-1)
    )
    assert columns == [[0, 1, 2, 3]] * 3


def test_the_latents_noise_mask_goes_before_nothing(model, positive, latent):
    columns = noisy_columns(
        guider(model, positive), stochastic(), latent, FALLING["noise"], left_half(8, 8).flip(-1)[None]
    )
    assert columns == [[4, 5, 6, 7]] * 3
    assert noisy_columns(guider(model, positive), stochastic(), latent, FALLING["noise"]) == [[*range(8)]] * 3


def test_a_noise_mask_in_the_latent_keeps_what_it_keeps(model, positive, latent):
    masked = {**latent, "noise_mask": left_half()}
    result = run(model, positive, masked, stochastic())
    torch.testing.assert_close(result[..., 4:], latent["samples"][..., 4:], rtol=1e-4, atol=1e-4)
    assert (result[..., :4] - latent["samples"][..., :4]).abs().mean() > 0.1


def test_the_mask_does_not_change_the_noise_but_how_much_there_is_of_it(model, positive, latent):
    """One step, in which what is added to Euler's step is known: white like no mask, grey less, one mask for each item."""
    sigmas = FALLING["noise"][1:3]
    grey = torch.stack([torch.full((64, 64), 0.5), left_half()[0]])
    none, masked, half, theirs = (
        run(model, positive, latent, sampler, sigmas)
        for sampler in (stochastic(0.4), stochastic(0.4, mask=grey), stochastic(0.2), euler())
    )
    torch.testing.assert_close(masked[0], half[0])
    torch.testing.assert_close(masked[1, ..., :4], none[1, ..., :4])
    assert torch.equal(masked[1, ..., 4:], theirs[1, ..., 4:])


def test_a_mask_of_another_size_is_averaged_over_the_cells(model, positive, latent):
    sigmas = FALLING["noise"][1:3]
    cells = torch.rand(1, 8, 8)
    large = cells.repeat_interleave(5, -1).repeat_interleave(5, -2)
    small, resized = (run(model, positive, latent, stochastic(1.0, mask=mask), sigmas) for mask in (cells, large))
    torch.testing.assert_close(small, resized)


@pytest.mark.parametrize("look_ahead", [0, 2], ids=["mask of each step", "mask known before"])
def test_with_the_blended_guider_cells_outside_its_mask_come_back_bit_for_bit(text_to_image, latent, look_ahead):
    model, clip = text_to_image
    latent = {"samples": latent["samples"][:1]}
    source, target = ReEditPromptWords.execute(clip, SOURCE, SOURCE.replace("purple", "green"), "", 1.0).result[:2]
    _, start, sigmas, trajectory, _ = inverted(model, source, latent, method="euler")

    def edited(sampler):
        blended = ReEditBlendedGuider.execute(
            model, source, target, prompt(clip, ""), 3.0, "trajectory", "reconstruction", look_ahead, 0.4, 0.7, 0.0, 0.25,
            trajectory=trajectory,
        )[0]  # fmt: skip
        result = sampled(blended, sigmas, latent, start, sampler)
        return result, ReEditGuidanceMask.execute(blended, {"samples": result})[0]

    plain, mask = edited(euler())
    assert torch.equal(edited(stochastic(0.0))[0], plain)
    noisy, mask = edited(stochastic(0.5))
    ratio = mask.shape[-1] // noisy.shape[-1]
    black = (mask[:, None, ::ratio, ::ratio] == 0).expand_as(noisy)
    assert 0.1 < black.float().mean() < 0.9
    assert torch.equal(noisy[black], latent["samples"][black]) and not (noisy == plain)[~black].any()


# --- the seed ---------------------------------------------------------------------------------------------------------


def test_the_seed_alone_decides_the_noise(model, positive, latent):
    first, other, again = (run(model, positive, latent, stochastic(1.0, seed=seed)) for seed in (0, 1, 0))
    assert torch.equal(first, again) and not torch.equal(first, other)
    run(model, positive, latent, stochastic(1.0, seed=2**64 - 1))
    one_sampler = stochastic(1.0, seed=0)
    assert all(torch.equal(run(model, positive, latent, one_sampler), first) for _ in range(2))


def test_the_new_noise_is_not_the_hosts_of_the_same_seed(model, positive, latent):
    """Noise that is in the latent already would add up with it, instead of taking its place."""
    sigmas = FALLING["noise"][1:3]
    added = run(model, positive, latent, stochastic(1.0, seed=1), sigmas) - run(
        model, positive, latent, ancestral(1, latent, eta=1.0, s_noise=0.0), sigmas
    )
    start = noise(1).generate_noise(latent)
    correlation = torch.corrcoef(torch.stack([added.flatten(), start.flatten()]))[0, 1]
    assert abs(correlation) < 4 / start.numel() ** 0.5


# --- as a sampler of the host -----------------------------------------------------------------------------------------


def test_it_takes_one_call_a_step_shows_each_and_changes_nothing_it_is_given(model, positive, latent):
    mask, sigmas = left_half(), FALLING["noise"].clone()
    given, shown = latent["samples"].clone(), []
    start = noise().generate_noise(latent)
    with counted_rows(model) as rows:
        guider(model, positive).sample(
            start, latent["samples"], stochastic(mask=mask), sigmas, callback=lambda *seen: shown.append(seen), seed=0
        )
    assert rows == [2] * 4
    assert [(step, total) for step, _, _, total in shown] == [(step, 4) for step in range(4)]
    assert all(x0.shape == x.shape == given.shape for _, x0, x, _ in shown)
    assert torch.equal(latent["samples"], given) and torch.equal(mask, left_half())
    assert torch.equal(sigmas, FALLING["noise"])


def test_an_interrupt_ends_it_before_the_next_call(model, positive, latent):
    def press_stop(step, x0, x, total):
        comfy.model_management.interrupt_current_processing()

    start = noise().generate_noise(latent)
    with counted_rows(model) as rows, pytest.raises(InterruptProcessingException):
        guider(model, positive).sample(
            start, latent["samples"], stochastic(), FALLING["noise"], callback=press_stop, seed=0
        )
    assert rows == [2]


# --- what does not do -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [-0.1, 1.5, float("nan"), float("inf")])
def test_an_eta_outside_its_range_is_named(eta):
    with pytest.raises(ValueError, match=f"eta is {eta}; it must lie between 0"):
        stochastic(eta)


def test_an_empty_mask_is_named_at_once():
    with pytest.raises(ValueError, match="mask is zero everywhere"):
        stochastic(mask=torch.zeros(1, 64, 64))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (left_half(64, 128), r"mask is 128×64 .* other proportions than the picture \(latent 8×8\)"),
        (left_half().repeat(3, 1, 1), "mask is a batch of 3, but there are 2 pictures"),
        (left_half() * float("nan"), "mask holds NaN"),
        (torch.ones(64), "mask has shape"),
    ],
    ids=["proportions", "batch", "NaN", "one row"],
)
def test_a_mask_that_does_not_fit_is_named_before_the_model_is_called(model, positive, latent, mask, message):
    with counted_rows(model) as rows, pytest.raises(ValueError, match=message):
        run(model, positive, latent, stochastic(mask=mask))
    assert rows == []
