import json

import pytest
import torch
from diffusers import AutoencoderKL
from reedit.models.autoencoders.encoder_match import (
    ENCODER_KEY,
    TOLERANCE,
    encoder_marks,
    find_mismatch,
    read_marks,
)
from reedit.models.autoencoders.kl_layout import to_ldm_layout, with_quantisers
from safetensors.torch import load_file


def fresh_weights(layers: int, channels: int, quantiser: bool = True) -> dict[str, torch.Tensor]:
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(32, 64),
        layers_per_block=layers,
        latent_channels=channels,
        use_quant_conv=quantiser,
        use_post_quant_conv=quantiser,
    )
    return to_ldm_layout(autoencoder.state_dict())


@pytest.fixture(scope="module")
def weights(weights_folder):
    stored = load_file(weights_folder / "tiny_sd_autoencoder.safetensors")
    return {name: value.float() for name, value in to_ldm_layout(stored).items()}


def test_marks_are_root_mean_squares_of_the_encoder_alone(weights):
    marks = encoder_marks(weights)
    assert marks.keys() == {name for name in weights if name.startswith(("encoder.", "quant_conv."))}
    bias = weights["encoder.conv_in.bias"].tolist()
    by_hand = (sum(value**2 for value in bias) / len(bias)) ** 0.5
    assert marks["encoder.conv_in.bias"] == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("at_hand", [torch.float32, torch.float16, torch.bfloat16])
def test_the_same_encoder_in_another_precision_is_the_same(weights, stored, at_hand):
    marks = encoder_marks({name: value.to(stored) for name, value in weights.items()})
    assert find_mismatch(marks, {name: value.to(at_hand) for name, value in weights.items()}) is None


def test_the_worst_that_rounding_can_do_is_within_the_tolerance():
    """One value in the middle between two neighbours: nothing averages the error out. Over every size that weights have."""
    for exponent in range(-40, 8):
        value = torch.tensor([2.0**exponent * (1 + 2**-8 - 2**-20)])
        for smaller in (torch.float16, torch.bfloat16):
            tensors = {"encoder.conv_out.weight": value}
            assert find_mismatch(encoder_marks(tensors), {"encoder.conv_out.weight": value.to(smaller)}) is None
    # And the tolerance is not so wide that it means nothing: it is less than three such errors.
    error = 1 - float(value.bfloat16() / value)
    assert TOLERANCE / 3 < error < TOLERANCE


def test_one_tensor_of_other_values_is_found_and_named(weights):
    marks = encoder_marks(weights)
    other = weights | {"encoder.conv_in.bias": weights["encoder.conv_in.bias"] * 1.02}
    said = find_mismatch(marks, other)
    assert said is not None and said.startswith("1 of its ") and "encoder.conv_in.bias" in said
    assert find_mismatch(marks, weights | {"quant_conv.bias": torch.full((8,), float("nan"))}) is not None


def test_the_decoder_does_not_matter(weights):
    other = {name: value * 3 if name.startswith("decoder.") else value for name, value in weights.items()}
    assert find_mismatch(encoder_marks(weights), other) is None


def test_two_encoders_of_one_architecture_differ_even_untrained():
    torch.manual_seed(1)
    first, second = (fresh_weights(1, 4) for _ in range(2))
    assert find_mismatch(encoder_marks(first), first) is None
    assert find_mismatch(encoder_marks(first), second) is not None


def test_encoders_of_other_depths_differ():
    shallow, deep = (fresh_weights(layers, 4) for layers in (1, 2))
    said = find_mismatch(encoder_marks(deep), shallow)
    assert said is not None and "encoder.down.0.block.1.conv1.bias, for one, is not in the encoder at hand" in said
    assert "is only in the encoder at hand" in str(find_mismatch(encoder_marks(shallow), deep))


def test_a_quantiser_that_changes_nothing_and_none_at_all_are_the_same():
    bare = fresh_weights(1, 16, quantiser=False)
    completed = with_quantisers(bare, 16)
    assert find_mismatch(encoder_marks(bare), completed) is None
    assert find_mismatch(encoder_marks(completed), bare) is None


def test_marks_survive_a_files_metadata(weights):
    marks = encoder_marks(weights)
    assert read_marks({ENCODER_KEY: json.dumps(marks)}) == marks
    assert read_marks({"format": "pt"}) is None and read_marks(None) is None
    for broken in ("{", "[1, 2]", '{"encoder.conv_in.bias": "large"}'):
        with pytest.raises(ValueError, match="what it says of its encoder"):
            read_marks({ENCODER_KEY: broken})


def test_without_an_encoder_there_are_no_marks(weights):
    with pytest.raises(ValueError, match="no encoder of a KL autoencoder"):
        encoder_marks({name: value for name, value in weights.items() if name.startswith("decoder.")})
