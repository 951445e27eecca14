import pytest
import torch
from reedit.models.autoencoders.receptive_field import measure_context, response_by_distance, textured_picture
from torch.nn import functional

RATIO = 4


def averaging_encoder(reach: int):
    """An encoder of known field: each cell is the mean of the cells up to `reach` cells away, in all directions."""

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        cells = functional.avg_pool2d(pixels.movedim(-1, 1), RATIO)
        return functional.avg_pool2d(cells, 2 * reach + 1, stride=1, padding=reach)

    return encode


@pytest.mark.parametrize("reach", [0, 1, 3])
def test_nothing_is_found_beyond_a_known_field(reach):
    response = response_by_distance(averaging_encoder(reach), RATIO)
    assert (response[: reach + 1] > 0).all() and response[reach + 1 :].abs().max() < 1e-5 * response[0]
    assert measure_context(averaging_encoder(reach), RATIO) <= reach


def test_the_context_grows_with_the_field():
    contexts = [measure_context(averaging_encoder(reach), RATIO) for reach in (0, 2, 4, 6)]
    assert contexts[0] == 0 and contexts == sorted(set(contexts))


def test_a_norm_over_the_whole_picture_is_not_taken_for_context():
    def normed(pixels: torch.Tensor) -> torch.Tensor:
        cells = averaging_encoder(1)(pixels)
        return cells - cells.mean((2, 3), keepdim=True)

    assert measure_context(normed, RATIO) == measure_context(averaging_encoder(1), RATIO)


def test_the_test_picture_has_the_spectrum_of_photographs():
    picture = textured_picture(256, seed=3)[0, ..., 0]
    assert picture.min() >= 0 and picture.max() <= 1 and picture.std() > 0.1
    power = torch.fft.fft2(picture - picture.mean()).abs().square()
    frequency = torch.fft.fftfreq(256)
    radius = torch.hypot(frequency[:, None], frequency[None, :])

    def at(low: float, high: float) -> float:
        return float(power[(radius >= low) & (radius < high)].mean())

    # Amplitude falls as 1/f, so power falls by 4 with each octave; clipping to 0..1 changes that only a little.
    assert at(0.04, 0.06) / at(0.08, 0.12) == pytest.approx(4, rel=0.2)


def test_the_demo_vae_agrees_with_a_larger_window_as_far_as_the_context_says(tiny_vae):
    """What lies beyond the context is exchanged: the middle hardly notices, and it notices without the context."""
    ratio = tiny_vae.spacial_compression_encode()
    context = measure_context(tiny_vae.encode, ratio)
    side, middle = 40, slice(18, 22)
    picture, other = (textured_picture(side * ratio, seed) for seed in (5, 6))
    whole = tiny_vae.encode(picture)[..., middle, middle]

    def error_with(cells: int) -> float:
        kept = slice((18 - cells) * ratio, (22 + cells) * ratio)
        changed = other.clone()
        changed[:, kept, kept] = picture[:, kept, kept]
        return float((tiny_vae.encode(changed)[..., middle, middle] - whole).square().mean().sqrt() / whole.std())

    assert error_with(context) < 0.05 < error_with(0)
