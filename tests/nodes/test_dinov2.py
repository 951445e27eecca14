"""DINOv2 as the host's vision model, against the networks themselves and the host's own nodes."""

import folder_paths
import nodes as host_nodes
import pytest
import torch
from comfy.clip_model import clip_preprocess
from random_rpiae import write_dinov2
from reedit.models.autoencoders.dinov2 import PICTURE_DEVIATION, PICTURE_MEAN, load_dinov2, read_dinov2
from reedit.nodes.dinov2 import ReEditLoadDINOv2, load_vision, patch_tokens


@pytest.fixture(params=[2, 0])
def registers(request):
    return request.param


@pytest.fixture
def file(tmp_path, registers):
    return write_dinov2(tmp_path / "dinov2.safetensors", registers=registers)


@pytest.fixture
def pixels():
    return torch.rand((2, 40, 56, 3), generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("size", [0, 24])
def test_the_hosts_node_gets_the_class_token_and_the_patches(file, registers, pixels, size):
    vision = load_vision(file, size)
    encoded = host_nodes.CLIPVisionEncode().encode(vision, pixels, "none")[0]
    side = size or 32
    picture = clip_preprocess(pixels, side, PICTURE_MEAN, PICTURE_DEVIATION, crop=False)
    network = load_dinov2(read_dinov2(file))
    answer = network(picture, output_hidden_states=True)
    kept = [0, *range(1 + registers, answer.last_hidden_state.shape[1])]
    for found, expected in (
        (encoded["last_hidden_state"], answer.last_hidden_state[:, kept]),
        (encoded["penultimate_hidden_states"], answer.hidden_states[-2][:, kept]),
        (encoded["image_embeds"], answer.last_hidden_state[:, 0]),
    ):
        assert torch.allclose(found, expected, atol=1e-5)
    assert len(kept) == 1 + (side // 4) ** 2
    assert torch.equal(patch_tokens(vision, pixels), encoded["last_hidden_state"][:, 1:])


def test_the_loader_offers_safetensors_and_refuses_sizes_between_patches(tmp_path, monkeypatch, file):
    known = folder_paths.folder_names_and_paths
    monkeypatch.setitem(known, "clip_vision", ([str(tmp_path)], known["clip_vision"][1]))
    folder_paths.filename_list_cache.pop("clip_vision", None)
    (tmp_path / "other.pt").write_bytes(b"")
    assert ReEditLoadDINOv2.define_schema().inputs[0].options == ["dinov2.safetensors"]
    assert ReEditLoadDINOv2.execute("dinov2.safetensors", 16)[0].image_size == 16
    with pytest.raises(ValueError, match="image_size is 30, and dinov2.safetensors sees patches of 4 pixels.*28 or 32"):
        ReEditLoadDINOv2.execute("dinov2.safetensors", 30)
    folder_paths.filename_list_cache.pop("clip_vision", None)
