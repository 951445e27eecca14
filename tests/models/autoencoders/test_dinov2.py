"""DINOv2 files of every kind: read, built and written, against transformers' own networks and the host's."""

from __future__ import annotations

import pytest
import torch
from comfy.clip_vision import ClipVisionModel
from reedit.models.autoencoders.dinov2 import (
    HEADS,
    StoredDINOv2,
    build_network,
    load_dinov2,
    read_dinov2,
    stored_tensors,
)
from safetensors.torch import save_file

SIZES = {"width": 48, "layers": 2, "heads": 4, "registers": 3, "mlp_ratio": 4, "patch": 4, "positions": 5}
PLAIN = {**SIZES, "registers": 0}
GATED = {**PLAIN, "swiglu": True}


def fresh(sizes: dict) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = build_network(**sizes)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return network.requires_grad_(False).eval()


def picture(side: int = 20) -> torch.Tensor:
    return torch.rand((2, 3, side, side), generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("sizes", [SIZES, PLAIN, GATED])
def test_a_file_comes_back_as_the_network_it_was_written_from(tmp_path, sizes):
    network = fresh(sizes)
    StoredDINOv2(sizes["heads"], stored_tensors(network)).save(tmp_path / "dino.safetensors")
    stored = read_dinov2(tmp_path / "dino.safetensors")
    assert stored.sizes() == {"swiglu": False, **sizes}
    found = load_dinov2(stored)(picture()).last_hidden_state
    assert torch.equal(found, network(picture()).last_hidden_state)


@pytest.mark.parametrize("sizes", [PLAIN, GATED])
def test_it_is_what_the_host_makes_of_the_same_file(sizes):
    """The host knows models without registers; its names are those of files."""
    network = fresh(sizes)
    config = {
        "model_type": "dinov2",
        "hidden_size": sizes["width"],
        "num_hidden_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"],
        "layer_norm_eps": 1e-6,
        "use_swiglu_ffn": "swiglu" in sizes,
        "patch_size": sizes["patch"],
        "image_size": sizes["patch"] * sizes["positions"],
    }
    host = ClipVisionModel(config)
    host.model.float()
    missing, unexpected = host.load_sd(stored_tensors(network))
    assert not missing and not unexpected
    found = host.model(picture())[0]
    assert torch.allclose(found, network(picture()).last_hidden_state, atol=2e-5)


def test_published_names_are_those_that_files_have():
    names = set(stored_tensors(fresh(SIZES)))
    for name in (
        "embeddings.register_tokens",
        "encoder.layer.1.attention.attention.query.weight",
        "encoder.layer.1.attention.output.dense.bias",
        "encoder.layer.0.mlp.fc1.weight",
        "encoder.layer.0.layer_scale2.lambda1",
        "layernorm.weight",
    ):
        assert name in names, name
    gated = stored_tensors(fresh(GATED))
    hidden = (int(48 * 4 * 2 / 3) + 7) // 8 * 8
    assert gated["encoder.layer.0.mlp.weights_in.weight"].shape == (2 * hidden, 48)


def test_heads_are_64_channels_wide_where_a_file_does_not_say(tmp_path):
    sizes = {**SIZES, "width": 128, "heads": 2}
    tensors = {name: tensor.contiguous() for name, tensor in stored_tensors(fresh(sizes)).items()}
    save_file({f"dinov2_with_registers.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "a.safetensors")
    assert read_dinov2(tmp_path / "a.safetensors").sizes() == {**sizes, "swiglu": False}


def test_files_that_are_no_dinov2_are_refused_with_the_reason(tmp_path):
    file, good = tmp_path / "dino.safetensors", stored_tensors(fresh(SIZES))
    good = {name: tensor.contiguous() for name, tensor in good.items()}

    def refusal(tensors: dict, metadata: dict | None = None) -> str:
        save_file(tensors, file, metadata)
        with pytest.raises(ValueError, match=r"dino\.safetensors") as caught:
            read_dinov2(file)
        return str(caught.value)

    without = {name: value for name, value in good.items() if name != "encoder.layer.1.norm2.bias"}
    assert "encoder.layer.1.norm2.bias" in refusal(without)
    more = {**good, "encoder.layer.0.attention.extra.weight": torch.zeros(1)}
    assert "extra" in refusal(more)
    wrong = {**good, "encoder.layer.0.norm1.weight": torch.zeros(5)}
    assert "encoder.layer.0.norm1.weight" in refusal(wrong)
    lost = {**good, "encoder.layer.0.norm1.weight": torch.full((48,), torch.nan)}
    assert "norm1" in refusal(lost)
    assert "embeddings.cls_token" in refusal({"vision_model.x": torch.zeros(2)})
    assert "DINOv3" in refusal({name: value for name, value in good.items() if ".mlp." not in name})
    assert "7" in refusal(good, {HEADS: "7"})
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"dino\.safetensors is not a readable safetensors file"):
        read_dinov2(file)
