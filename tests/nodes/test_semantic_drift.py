"""Semantic drift: its figures against plain formulas, on vision models of random numbers and on the host's own kind."""

import json
import math

import pytest
import torch
from comfy.clip_vision import ClipVisionModel
from random_rpiae import write_dinov2, write_rpiae
from reedit.models.autoencoders.rpiae import load_rpiae
from reedit.models.autoencoders.rpiae_layout import read_rpiae
from reedit.nodes.dinov2 import load_vision, patch_tokens
from reedit.nodes.rpiae import load_rpiae_vae
from reedit.nodes.semantic_drift import ReEditSemanticDrift

SIDE = 16


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vision")
    return write_rpiae(folder / "rpiae.safetensors"), write_dinov2(folder / "dinov2.safetensors")


@pytest.fixture(scope="module", params=["rpiae", "dinov2"])
def encoder(request, files):
    with torch.inference_mode():
        return load_rpiae_vae(files[0]) if request.param == "rpiae" else load_vision(files[1])


@pytest.fixture
def pair():
    """A picture, and the same with another colour in its upper left quarter."""
    source = torch.rand((1, SIDE, SIDE, 3), generator=torch.Generator().manual_seed(4))
    edited = source.clone()
    edited[:, : SIDE // 2, : SIDE // 2] = torch.tensor([1.0, 0.0, 0.0])
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, : SIDE // 2, : SIDE // 2] = 1
    return source, edited, mask


def test_the_figures_are_those_of_the_tokens(files, pair):
    source, edited, mask = pair
    network = load_rpiae(read_rpiae(files[0]))
    tokens = [network.tokens(picture.movedim(-1, 1))[0] for picture in (source, edited)]
    expected = 1 - (tokens[0] * tokens[1]).sum(-1) / (tokens[0].norm(dim=-1) * tokens[1].norm(dim=-1))
    expected = expected.view(4, 4)
    heat_map, drift_map, drift, outside, report = ReEditSemanticDrift.execute(
        source, edited, load_rpiae_vae(files[0]), mask
    ).result
    assert drift == pytest.approx(expected[:2, :2].mean().item(), abs=1e-5)
    rest = (expected.sum() - expected[:2, :2].sum()) / 12
    assert outside == pytest.approx(rest.item(), abs=1e-5)
    grown = expected.repeat_interleave(4, 0).repeat_interleave(4, 1).clamp(0, 1)
    assert torch.allclose(drift_map[0], grown, atol=1e-5)
    (said,) = json.loads(report)
    place = int(expected.argmax())
    assert said["most"] == pytest.approx(expected.max().item(), abs=1e-5)
    assert said["most_at"] == [place // 4, place % 4] and said["patches"] == [4, 4]
    assert heat_map.ndim == 4 and heat_map.shape[-1] == 3 and heat_map.min() >= 0 and heat_map.max() <= 1


def test_the_same_picture_has_not_moved(encoder, pair):
    source = pair[0]
    _, drift_map, drift, outside, _ = ReEditSemanticDrift.execute(source, source, encoder).result
    assert drift == pytest.approx(0, abs=1e-5) and drift_map.abs().max() < 1e-5 and math.isnan(outside)


def test_of_a_batch_every_picture_has_its_figures_and_the_largest_counts(encoder, pair):
    source, edited, mask = pair
    batch = torch.cat([source, edited])
    heat_map, drift_map, drift, outside, report = ReEditSemanticDrift.execute(source, batch, encoder, mask).result
    alone = ReEditSemanticDrift.execute(source, edited, encoder, mask).result
    assert len(heat_map) == len(drift_map) == len(json.loads(report)) == 2
    assert drift == pytest.approx(alone[2], abs=1e-5) and outside == pytest.approx(alone[3], abs=1e-5)
    assert drift > 0.01


def test_a_mask_of_another_size_is_brought_to_the_patches(encoder, pair):
    source, edited, mask = pair
    small = torch.nn.functional.avg_pool2d(mask[:, None], 2)[:, 0]
    whole, halved = (ReEditSemanticDrift.execute(source, edited, encoder, one)[2] for one in (mask, small))
    assert whole == pytest.approx(halved, abs=1e-5)
    everything = ReEditSemanticDrift.execute(source, edited, encoder, torch.ones(1, SIDE, SIDE))
    assert everything[2] == pytest.approx(ReEditSemanticDrift.execute(source, edited, encoder)[2], abs=1e-5)
    assert math.isnan(everything[3])  # there is no outside


def test_a_vision_model_sees_a_picture_of_any_shape_whole(files):
    vision = load_vision(files[1])
    source = torch.rand(1, 24, 40, 3)
    edited = source.clone()
    edited[:, :, 20:] = 0
    _, drift_map, _, _, _ = ReEditSemanticDrift.execute(source, edited, vision).result
    assert drift_map.shape == (1, 24, 40)
    expected = 1 - torch.cosine_similarity(patch_tokens(vision, source), patch_tokens(vision, edited), dim=-1)
    assert drift_map[0, 0, 0].item() == pytest.approx(expected[0, 0].item(), abs=1e-5)
    assert drift_map[0, -1, -1].item() == pytest.approx(expected[0, -1].item(), abs=1e-5)


def test_a_vision_model_from_the_hosts_own_loader_will_do():
    config = {
        "model_type": "dinov2",
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "layer_norm_eps": 1e-6,
        "use_swiglu_ffn": False,
        "patch_size": 4,
        "image_size": 16,
    }
    vision = ClipVisionModel(config)
    generator = torch.Generator().manual_seed(3)
    for parameter in vision.model.parameters():
        parameter.requires_grad_(False).copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    source = torch.rand(1, SIDE, SIDE, 3)
    _, _, drift, _, report = ReEditSemanticDrift.execute(source, source.flip(1), vision).result
    assert json.loads(report)[0]["patches"] == [4, 4] and drift > 0


# --- bad input --------------------------------------------------------------------------------------------------------


def test_what_cannot_be_compared_is_refused(encoder, pair, tiny_vae):
    source, edited, _ = pair
    for given, said in (
        ((source, edited[:, :8], encoder), "source is 16×16, and edited is 16×8"),
        ((source.expand(3, -1, -1, -1), edited.expand(2, -1, -1, -1), encoder), "source is a batch of 3"),
        ((source, edited, tiny_vae), "encoder .VAE. has no tokens"),
        ((source, edited, None), "encoder .NoneType. has no tokens"),
        ((source, edited, encoder, torch.zeros(1, SIDE, SIDE)), "mask is zero everywhere"),
        ((source, edited, encoder, torch.ones(1, SIDE, 3 * SIDE)), "other proportions"),
        ((source * torch.nan, edited, encoder), "source holds NaN"),
    ):
        with pytest.raises(ValueError, match=said):
            ReEditSemanticDrift.execute(*given)


def test_an_rpiae_takes_square_pictures_alone(files):
    pixels = torch.rand(1, 16, 24, 3)
    with pytest.raises(ValueError, match="The picture is 24×16, and an RPiAE takes square ones"):
        ReEditSemanticDrift.execute(pixels, pixels, load_rpiae_vae(files[0]))


# The second as the host says of SigLIP 2 NaFlex, which takes pictures of any shape.
@pytest.mark.parametrize("said", [{"config": {}}, {"image_size": -1, "config": {"patch_size": 16}}])
def test_vision_models_without_a_square_of_patches_are_refused(files, pair, said):
    vision = load_vision(files[1])
    vars(vision).update(said)
    with pytest.raises(ValueError, match="no square of patches"):
        ReEditSemanticDrift.execute(pair[0], pair[1], vision)
