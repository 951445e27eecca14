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
    BRIDGE_DECODER,
    BRIDGE_ENCODER,
    PIXEL_DECODER,
    RPiAEConfig,
    StoredRPiAE,
    published_shapes,
    read_rpiae,
)
from safetensors.torch import save_file
from torch.nn import functional
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel


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
    theirs = diffusers_decoder(stored)
    tokens = torch.randn(2, SMALL_RPIAE.cells**2, SMALL_RPIAE.width)
    with torch.no_grad():
        assert torch.allclose(network.draw(tokens), drawn(theirs, tokens), atol=1e-4, rtol=1e-4)


def diffusers_decoder(stored: StoredRPiAE) -> RAEDecoder:
    """Another implementation of the same decoder, with the checkpoint's numbers under its own names."""
    config = stored.config
    theirs = RAEDecoder(
        hidden_size=config.width,
        decoder_hidden_size=config.decoder_width,
        decoder_num_hidden_layers=config.decoder_layers,
        decoder_num_attention_heads=config.decoder_heads,
        decoder_intermediate_size=config.decoder_hidden,
        num_patches=config.cells**2,
        patch_size=config.decoder_patch,
        image_size=config.picture_side,
    ).eval()
    tensors = part_of(stored, PIXEL_DECODER)
    theirs.decoder_pos_embed = tensors.pop("decoder_pos_embed")
    for published, own in (("query", "to_q"), ("key", "to_k"), ("value", "to_v")):
        tensors = {
            name.replace(f"attention.attention.{published}", f"attention.{own}"): tensors[name] for name in tensors
        }
    tensors = {name.replace("attention.output.dense", "attention.to_out.0"): tensors[name] for name in tensors}
    theirs.load_state_dict(tensors)
    return theirs


def part_of(stored: StoredRPiAE, part: str) -> dict[str, torch.Tensor]:
    """The tensors of a part, under their names in it."""
    return {name.removeprefix(part): value for name, value in stored.tensors.items() if name.startswith(part)}


def drawn(decoder: RAEDecoder, tokens: torch.Tensor) -> torch.Tensor:
    """What it draws of tokens, with ImageNet's mean and deviation given back."""
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return decoder.unpatchify(decoder(tokens).logits) * deviation[:, None, None] + mean[:, None, None]


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
    tokens, latent = torch.randn(2, 16, 24), torch.randn(2, 6, 4, 4)
    expected = Bridge(part_of(stored, BRIDGE_ENCODER), heads=4).moments(tokens).mT.unflatten(-1, (4, 4))
    with torch.no_grad():
        mean, log_variance = network.moments(tokens)
        bridged = network.tokens_of(latent)
    assert torch.allclose(mean, expected[:, :6], atol=1e-4)
    assert torch.allclose(log_variance, expected[:, 6:].clamp(-30, 20), atol=1e-4)
    expected = Bridge(part_of(stored, BRIDGE_DECODER), heads=4).tokens(latent.flatten(2).mT, layers=2)
    assert torch.allclose(bridged, expected, atol=1e-4, rtol=1e-4)


class Bridge:
    """Plain formulas of the bridge's two halves, on the tensors of one of them."""

    def __init__(self, tensors: dict[str, torch.Tensor], heads: int) -> None:
        self.tensors, self.heads = tensors, heads

    def moments(self, tokens: torch.Tensor) -> torch.Tensor:
        """x' = W x + b + attention(norm(x)); x'' = x' + MLP(norm(x')); moments of x''."""
        hidden = self.linear("skip_proj", tokens) + self.attention("attn", self.norm("norm1", tokens))
        inner = functional.gelu(self.linear("proj2.0", self.norm("norm2", hidden)))
        return self.linear("to_moments", hidden + self.linear("proj2.3", inner))

    def tokens(self, cells: torch.Tensor, layers: int) -> torch.Tensor:
        """Layers of x' = x + attention(norm(x)), x'' = x' + MLP(norm(x')), between two linear maps."""
        hidden = self.linear("in_proj", cells)
        for layer in (f"net.{number}" for number in range(layers)):
            hidden = hidden + self.attention(f"{layer}.self_attn", self.norm(f"{layer}.norm1", hidden))
            inner = functional.gelu(self.linear(f"{layer}.linear1", self.norm(f"{layer}.norm2", hidden)))
            hidden = hidden + self.linear(f"{layer}.linear2", inner)
        return self.linear("out_proj", hidden)

    def linear(self, name: str, values: torch.Tensor) -> torch.Tensor:
        return values @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def norm(self, name: str, values: torch.Tensor) -> torch.Tensor:
        centred = values - values.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]

    def attention(self, name: str, values: torch.Tensor) -> torch.Tensor:
        joined = values @ self.tensors[f"{name}.in_proj_weight"].T + self.tensors[f"{name}.in_proj_bias"]
        query, key, value = (one.unflatten(-1, (self.heads, -1)) for one in joined.chunk(3, -1))
        weights = (torch.einsum("bnhd,bmhd->bhnm", query, key) / query.shape[-1] ** 0.5).softmax(-1)
        return self.linear(f"{name}.out_proj", torch.einsum("bhnm,bmhd->bnhd", weights, value).flatten(2))


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


# --- the published size -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published() -> RPiAE:
    """The published RPiAE, its weights fresh, but no layer such that it does nothing."""
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(5)
        network = RPiAE(RPiAEConfig()).eval()
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return network


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.slow
def test_the_published_size_computes_what_others_do_with_its_weights(published):
    """DINOv2-B with registers of transformers, the bridge's formulas, diffusers' decoder; one picture of 256 px."""
    sizes = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "mlp_ratio": 4}
    vision = Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(num_register_tokens=4, patch_size=14, image_size=518, **sizes)  # as facebook's config
    ).eval()
    stored = StoredRPiAE(RPiAEConfig(), published.published_tensors(), {})
    norm = {"layernorm.weight": torch.ones(768), "layernorm.bias": torch.zeros(768)}
    vision.load_state_dict({**published.encoder.state_dict(), **norm})
    decoder = diffusers_decoder(stored)
    assert count(published.encoder) == count(vision) - 2 * 768
    assert count(published.pixel_decoder) == count(decoder)
    linear = 768**2 + 768  # of which the bridge's encoder has four in its attention, one beside it and two in its MLP
    assert count(published.bridge_encoder) == 7 * linear + 4 * 768 + 128 * 769
    assert count(published.bridge_decoder) == 65 * 768 + 6 * (12 * 768**2 + 13 * 768) + linear
    millions = [round(count(part) / 1e6, 1) for part in published.children()]
    assert millions == [86.6, 4.2, 43.2, 415.1] and round(count(published) / 1e6) == 549

    picture = torch.rand(1, 3, 256, 256)
    seen = functional.interpolate(picture, (224, 224), mode="bicubic", align_corners=False)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = vision((seen - mean[:, None, None]) / deviation[:, None, None]).last_hidden_state[:, 1 + 4 :]
    tokens = published.tokens(picture)
    assert tokens.shape == (1, 256, 768) and relative_error(tokens, expected) < 1e-4
    moments = Bridge(part_of(stored, BRIDGE_ENCODER), heads=8).moments(expected)
    latent = published.encode(picture)
    assert latent.shape == (1, 64, 16, 16)
    assert relative_error(latent.flatten(2).mT, moments[..., :64]) < 1e-4
    bridged = Bridge(part_of(stored, BRIDGE_DECODER), heads=8).tokens(moments[..., :64], layers=6)
    decoded = published.decode(latent)
    assert decoded.shape == (1, 3, 256, 256)
    assert relative_error(decoded, drawn(decoder, bridged)) < 1e-4


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


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
