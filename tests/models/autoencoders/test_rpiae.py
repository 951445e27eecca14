"""RPiAE against other people's code for its parts, plain formulas, and files that are not what they should be."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_rae import RAEDecoder
from random_rpiae import SMALL_RPIAE, random_tensors
from reedit.models.autoencoders.rpiae import RPiAE, load_rpiae
from reedit.models.autoencoders.rpiae_layout import (
    PIXEL_DECODER,
    RPiAEConfig,
    StoredRPiAE,
    published_shapes,
    read_rpiae,
)
from safetensors.torch import save_file
from torch.nn import functional


@pytest.fixture(scope="module")
def stored():
    return StoredRPiAE(SMALL_RPIAE, random_tensors(SMALL_RPIAE), {})


@pytest.fixture(scope="module")
def network(stored):
    return load_rpiae(stored)


# --- the mathematics --------------------------------------------------------------------------------------------------


def test_the_published_sizes_have_the_checkpoints_names_and_shapes():
    """Names as the authors' code gives them: DINOv2 in transformers 4, torch's attention in the bridge, ViT-MAE's decoder."""
    shapes = published_shapes(RPiAEConfig())
    for name, shape in {
        "encoder.encoder.embeddings.position_embeddings": (1, 1370, 768),
        "encoder.encoder.encoder.layer.11.attention.attention.query.weight": (768, 768),
        "encoder.encoder.encoder.layer.0.layer_scale1.lambda1": (768,),
        "vb_feature_encoder.attn.in_proj_weight": (2304, 768),
        "vb_feature_encoder.proj2.3.bias": (768,),
        "vb_feature_encoder.to_moments.weight": (128, 768),
        "vb_feature_decoder.in_proj.weight": (768, 64),
        "vb_feature_decoder.net.5.self_attn.out_proj.bias": (768,),
        "decoder.decoder_layers.27.attention.attention.value.weight": (1152, 1152),
        "decoder.decoder_layers.27.intermediate.dense.weight": (4096, 1152),
        "decoder.decoder_pred.weight": (768, 1152),
        "decoder.decoder_pos_embed": (1, 257, 1152),
    }.items():
        assert shapes[name] == shape, name
    assert "encoder.encoder.layernorm.weight" not in shapes  # the last norm has neither weight nor bias


@pytest.mark.parametrize("config", [SMALL_RPIAE, RPiAEConfig()], ids=["small", "published"])
def test_the_module_has_each_published_tensor_once(config):
    with torch.device("meta"):
        tensors = RPiAE(config).published_tensors()
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == published_shapes(config)


def test_the_pixel_decoder_is_that_of_diffusers_rae(network, stored):
    """Another implementation of the same decoder, with the checkpoint's numbers under its own names."""
    theirs = RAEDecoder(
        hidden_size=SMALL_RPIAE.width,
        decoder_hidden_size=SMALL_RPIAE.decoder_width,
        decoder_num_hidden_layers=SMALL_RPIAE.decoder_layers,
        decoder_num_attention_heads=SMALL_RPIAE.decoder_heads,
        decoder_intermediate_size=SMALL_RPIAE.decoder_hidden,
        num_patches=SMALL_RPIAE.cells**2,
        patch_size=SMALL_RPIAE.decoder_patch,
        image_size=SMALL_RPIAE.picture_side,
    ).eval()
    tensors = {
        name.removeprefix(PIXEL_DECODER): value
        for name, value in stored.tensors.items()
        if name.startswith(PIXEL_DECODER)
    }
    theirs.decoder_pos_embed = tensors.pop("decoder_pos_embed")
    for published, own in (("query", "to_q"), ("key", "to_k"), ("value", "to_v")):
        tensors = {
            name.replace(f"attention.attention.{published}", f"attention.{own}"): tensors[name] for name in tensors
        }
    tensors = {name.replace("attention.output.dense", "attention.to_out.0"): tensors[name] for name in tensors}
    theirs.load_state_dict(tensors)
    tokens = torch.randn(2, SMALL_RPIAE.cells**2, SMALL_RPIAE.width)
    with torch.no_grad():
        expected = theirs.unpatchify(theirs(tokens).logits)
        mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        expected = expected * deviation[:, None, None] + mean[:, None, None]
        assert torch.allclose(network.draw(tokens), expected, atol=1e-4, rtol=1e-4)


def test_fresh_positions_are_those_of_diffusers_rae():
    theirs = RAEDecoder(
        decoder_hidden_size=40, num_patches=16, image_size=16, patch_size=4, decoder_num_attention_heads=5
    )
    assert torch.allclose(RPiAE(SMALL_RPIAE).pixel_decoder.decoder_pos_embed, theirs.decoder_pos_embed)


def test_tokens_are_those_of_transformers_dinov2(network):
    picture = torch.rand(2, 3, 50, 50)
    seen = functional.interpolate(picture, (32, 32), mode="bicubic", align_corners=False)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    seen = (seen - mean[:, None, None]) / deviation[:, None, None]
    with torch.no_grad():
        expected = network.encoder(seen).last_hidden_state
        tokens = network.tokens(picture)
    assert expected.shape == (2, 1 + 2 + 16, 24) and torch.equal(tokens, expected[:, 3:])
    assert torch.allclose(tokens.mean(-1), torch.zeros(2, 16), atol=1e-5)  # of a norm without weight and bias
    assert torch.allclose(tokens.var(-1, unbiased=False), torch.ones(2, 16), atol=1e-3)


def test_the_bridge_is_its_formula(network, stored):
    """x' = W x + b + attention(norm(x)); x'' = x' + MLP(norm(x')); moments of x''."""
    t = {name.removeprefix("vb_feature_encoder."): value for name, value in stored.tensors.items()}

    def linear(name, values):
        return values @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    def norm(name, values):
        centred = values - values.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * t[f"{name}.weight"] + t[f"{name}.bias"]

    tokens = torch.randn(2, 16, 24)
    joined = norm("norm1", tokens) @ t["attn.in_proj_weight"].T + t["attn.in_proj_bias"]
    query, key, value = (one.unflatten(-1, (4, 6)) for one in joined.chunk(3, -1))
    weights = (torch.einsum("bnhd,bmhd->bhnm", query, key) / 6**0.5).softmax(-1)
    attended = linear("attn.out_proj", torch.einsum("bhnm,bmhd->bnhd", weights, value).flatten(2))
    hidden = linear("skip_proj", tokens) + attended
    hidden = hidden + linear("proj2.3", functional.gelu(linear("proj2.0", norm("norm2", hidden))))
    expected = linear("to_moments", hidden).mT.unflatten(-1, (4, 4))
    with torch.no_grad():
        mean, log_variance = network.moments(tokens)
    assert torch.allclose(mean, expected[:, :6], atol=1e-4)
    assert torch.allclose(log_variance, expected[:, 6:].clamp(-30, 20), atol=1e-4)


def test_a_picture_goes_through_and_its_cells_stay_where_they_are(network):
    latent = network.encode(torch.rand(2, 3, 32, 32))
    picture = network.decode(latent)
    assert latent.shape == (2, 6, 4, 4) and picture.shape == (2, 3, 16, 16)
    tokens = network.tokens_of(latent)
    assert torch.equal(picture, network.draw(tokens))
    alone = network.decode(latent[1:])
    assert torch.allclose(alone, picture[1:], atol=1e-5)


def test_a_picture_that_is_not_square_is_refused(network):
    with pytest.raises(ValueError, match=r"The picture is 40×32, and an RPiAE takes square ones"):
        network.encode(torch.rand(1, 3, 32, 40))


@pytest.mark.parametrize("shape", [(1, 5, 4, 4), (1, 6, 8, 8), (1, 6, 1, 4, 4)])
def test_latents_of_another_shape_are_refused(network, shape):
    with pytest.raises(ValueError, match=r"takes latents of 6 channels and 4×4 cells"):
        network.decode(torch.zeros(shape))


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_file_gives_back_what_was_saved(stored, network, tmp_path):
    StoredRPiAE(SMALL_RPIAE, network.published_tensors(), {"made": "here"}).save(tmp_path / "rpiae.safetensors")
    read = read_rpiae(tmp_path / "rpiae.safetensors")
    assert (read.config, read.about) == (SMALL_RPIAE, {"made": "here"})
    assert read.tensors.keys() == stored.tensors.keys()
    assert all(torch.equal(read.tensors[name], value) for name, value in stored.tensors.items())


@pytest.mark.parametrize("wrapped", [True, False], ids=["a training's checkpoint", "tensors alone"])
def test_the_published_file_is_a_pickle_of_tensors_and_is_read_without_running_anything(tmp_path, monkeypatch, wrapped):
    """A file of the published one's kind, with small sizes in the place of its own."""
    monkeypatch.setattr(
        "reedit.models.autoencoders.rpiae_layout.RPiAEConfig", lambda **sizes: replace(SMALL_RPIAE, **sizes)
    )
    tensors = random_tensors(SMALL_RPIAE)
    torch.save({"ema": tensors, "step": 7} if wrapped else tensors, tmp_path / "rpiae.pt")
    read = read_rpiae(tmp_path / "rpiae.pt")
    assert all(torch.equal(read.tensors[name], value) for name, value in tensors.items())
    assert torch.equal(
        load_rpiae(read).encode(torch.ones(1, 3, 32, 32)), load_rpiae(read).encode(torch.ones(1, 3, 40, 40))
    )


class RunsCode:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize("with_torch", [True, False])
def test_a_pickle_that_holds_code_is_refused_and_nothing_of_it_runs(tmp_path, with_torch):
    mark, file = tmp_path / "it ran", tmp_path / "rpiae.pt"
    held = {"ema": {"a": torch.zeros(1)}, "more": RunsCode(str(mark))}
    if with_torch:
        torch.save(held, file)
    else:
        file.write_bytes(pickle.dumps(held))
    with pytest.raises(ValueError, match=r"rpiae.pt cannot be used as an RPiAE: .*could be code. None of it was run"):
        read_rpiae(file)
    assert not mark.exists()
    with open(file, "rb") as opened:  # the harmless code in it does run where somebody unpickles it
        if not with_torch:
            pickle.load(opened)
            assert mark.exists()


def without(name):
    return lambda tensors: tensors.pop(name)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("decoder.decoder_pred.bias"), "decoder.decoder_pred.bias is missing"),
        (lambda tensors: tensors.update(extra=torch.zeros(2)), "extra is in no RPiAE of these sizes"),
        (
            lambda tensors: tensors.update({"decoder.decoder_embed.bias": torch.zeros(3)}),
            r"decoder.decoder_embed.bias is \(3,\), not \(40,\)",
        ),
        (
            lambda tensors: tensors["vb_feature_encoder.to_moments.bias"].fill_(float("nan")),
            "vb_feature_encoder.to_moments.bias holds NaN",
        ),
    ],
)
def test_tensors_that_are_wrong_are_named(tmp_path, change, said):
    tensors = random_tensors(SMALL_RPIAE)
    change(tensors)
    StoredRPiAE(SMALL_RPIAE, tensors, {}).save(tmp_path / "rpiae.safetensors")
    with pytest.raises(ValueError, match=f"rpiae.safetensors cannot be used as an RPiAE: {said}"):
        read_rpiae(tmp_path / "rpiae.safetensors")


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ({"kind": "REED decoder"}, "it holds something else"),
        ({"kind": "RPiAE", "config": {"nothing": 1}}, "does not say the sizes"),
        ({"kind": "RPiAE", "config": [1]}, "does not say the sizes"),
        ({"kind": "RPiAE", "config": {"heads": 5}}, "width is 768, and must be a multiple of heads, 5"),
        ({"kind": "RPiAE", "config": {"patch": 0}}, "patch is 0, and must be 1 or more"),
    ],
)
def test_files_of_something_else_are_refused_by_name(tmp_path, said, fault):
    save_file({"a": torch.zeros(1)}, tmp_path / "some.safetensors", {"reedit": json.dumps(said)})
    with pytest.raises(ValueError, match=f"some.safetensors cannot be used as an RPiAE: .*{fault}"):
        read_rpiae(tmp_path / "some.safetensors")


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.pt"])
def test_a_damaged_file_is_refused_by_name(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x10\x00")
    with pytest.raises(ValueError, match=name):
        read_rpiae(tmp_path / name)
