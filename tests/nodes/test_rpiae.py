"""RPiAE in the host, of random numbers: stock nodes and ours, sizes, files."""

import json
import pickle

import folder_paths
import nodes as host_nodes
import pytest
import torch
from random_rpiae import SMALL_RPIAE, random_tensors, write_rpiae
from reedit.models.autoencoders.rpiae import load_rpiae
from reedit.models.autoencoders.rpiae_layout import RPiAEConfig, read_rpiae
from reedit.models.session.record import KEY
from reedit.nodes.autoencoders import ReEditDecode, ReEditEncode
from reedit.nodes.drift import ReEditDriftMeter
from reedit.nodes.rpiae import ReEditLoadRPiAE, RPiAEVAE, load_rpiae_vae, memory_used, write_converted
from reedit.nodes.session import ReEditCommit
from safetensors import safe_open

SIDE = SMALL_RPIAE.picture_side  # 16: its encoder sees it at 32


@pytest.fixture(scope="module")
def rpiae_file(tmp_path_factory):
    return write_rpiae(tmp_path_factory.mktemp("rpiae") / "rpiae.safetensors")


@pytest.fixture(scope="module")
def vae(rpiae_file):
    with torch.inference_mode():
        return load_rpiae_vae(rpiae_file)


@pytest.fixture
def pixels():
    return torch.rand((2, SIDE, SIDE, 3), generator=torch.Generator().manual_seed(4))


def test_stock_and_our_nodes_encode_and_decode_as_the_network_does(vae, rpiae_file, pixels):
    network = load_rpiae(read_rpiae(rpiae_file))
    expected = network.encode(pixels.movedim(-1, 1))
    stock = host_nodes.VAEEncode().encode(vae, pixels)[0]["samples"]
    ours = ReEditEncode.execute(pixels, vae)[0]
    assert torch.equal(stock, expected) and torch.equal(ours["samples"], expected)
    assert stock.shape == (2, 6, 4, 4)
    picture = network.decode(expected).clamp(0, 1).movedim(1, -1)
    assert torch.equal(host_nodes.VAEDecode().decode(vae, {"samples": stock})[0], picture)
    assert torch.equal(ReEditDecode.execute(ours, vae)[0], picture)
    assert picture.std() > 0.05


def test_tiles_are_the_whole_picture(vae, pixels):
    latent = vae.encode(pixels)
    tiled = host_nodes.VAEDecodeTiled().decode(vae, {"samples": latent}, 512, 64)[0]
    assert torch.equal(tiled, vae.decode(latent))
    assert torch.equal(host_nodes.VAEEncodeTiled().encode(vae, pixels, 512, 64)[0]["samples"], latent)


def test_a_session_can_be_kept_in_its_latents(vae, pixels):
    start = ReEditEncode.execute(pixels[:1], vae)[0]
    edited = {**start, "samples": start["samples"] + torch.eye(4)}
    latent = ReEditCommit.execute(edited, "shifted")[0]
    assert len(latent[KEY].edits) == 1
    report = json.loads(ReEditDriftMeter.execute(latent, vae)[1])
    assert len(report) == 1


def test_its_encoders_tokens_are_the_networks(vae, rpiae_file, pixels):
    expected = load_rpiae(read_rpiae(rpiae_file)).tokens(pixels.movedim(-1, 1))
    assert torch.equal(vae.tokens(pixels), expected)


def test_the_host_says_nothing_of_missing_weights_when_it_is_built(rpiae_file, caplog):
    with caplog.at_level("WARNING"):
        load_rpiae_vae(rpiae_file)
    assert not caplog.records


def test_it_computes_in_the_precision_that_is_asked_for(rpiae_file, pixels):
    half = load_rpiae_vae(rpiae_file, torch.bfloat16)
    assert half.vae_dtype == torch.bfloat16
    assert {tensor.dtype for tensor in half.get_sd().values()} == {torch.bfloat16}
    close = load_rpiae_vae(rpiae_file).encode(pixels)
    assert torch.allclose(half.encode(pixels).float(), close, atol=0.1 * close.std().item(), rtol=0.05)


def test_memory_grows_with_the_networks_and_not_with_the_batch():
    published = memory_used(RPiAEConfig(), torch.float16)
    assert 5e6 < published < 1e9 and memory_used(RPiAEConfig(), torch.float32) == 2 * published


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(SIDE, 2 * SIDE), (SIDE + 1, SIDE + 1), (32, 32), (SIDE, SIDE - 4)])
def test_pictures_of_another_size_are_refused_by_every_node(vae, height, width):
    pixels = torch.rand(1, height, width, 3)
    for encode in (
        lambda: host_nodes.VAEEncode().encode(vae, pixels),
        lambda: host_nodes.VAEEncodeTiled().encode(vae, pixels, 512, 64),
    ):
        with pytest.raises(
            ValueError, match=rf"pixels is {width}×{height}, and this RPiAE takes pictures of 16×16 alone"
        ):
            encode()
    with pytest.raises(ValueError, match="pixels is"):
        ReEditEncode.execute(pixels, vae)


def test_latents_of_another_shape_are_refused(vae):
    for shape in ((1, 4, 4, 4), (1, 6, 8, 8), (1, 6, 1, 4, 4)):
        with pytest.raises(ValueError, match="samples has"):
            host_nodes.VAEDecode().decode(vae, {"samples": torch.zeros(shape)})
    with pytest.raises(ValueError, match="samples has 4 channels"):
        ReEditDecode.execute({"samples": torch.zeros(1, 4, 4, 4)}, vae)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def vae_folder(tmp_path, monkeypatch):
    known = folder_paths.folder_names_and_paths
    monkeypatch.setitem(known, "vae", ([str(tmp_path)], known["vae"][1]))
    folder_paths.filename_list_cache.pop("vae", None)
    yield tmp_path
    folder_paths.filename_list_cache.pop("vae", None)


def test_the_loader_offers_what_it_can_read(vae_folder):
    write_rpiae(vae_folder / "a.safetensors")
    (vae_folder / "b.pt").write_bytes(b"")
    (vae_folder / "c.txt").write_bytes(b"")
    options = ReEditLoadRPiAE.define_schema().inputs[0].options
    assert options == ["a.safetensors", "b.pt"]
    loaded = ReEditLoadRPiAE.execute("a.safetensors", "fp32")[0]
    assert isinstance(loaded, RPiAEVAE) and loaded.vae_dtype == torch.float32


def test_a_torch_file_is_converted_beside_itself(vae_folder, monkeypatch):
    """A file of the published names; the sizes that such a file cannot say are taken as these."""
    from reedit.models.autoencoders import rpiae_layout

    monkeypatch.setattr(rpiae_layout, "_config_of", lambda said: SMALL_RPIAE)
    tensors = random_tensors(SMALL_RPIAE)
    torch.save({"ema": tensors}, vae_folder / "rpiae.pt")
    loaded = ReEditLoadRPiAE.execute("rpiae.pt", convert=True)[0]
    with safe_open(vae_folder / "rpiae.safetensors", "pt") as file:
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in tensors.items())
    assert loaded.path == vae_folder / "rpiae.safetensors"
    with pytest.raises(ValueError, match=r"convert: rpiae\.safetensors is there already"):
        write_converted(vae_folder / "rpiae.pt")
    assert sorted(path.name for path in vae_folder.iterdir()) == ["rpiae.pt", "rpiae.safetensors"]


class Harmless:
    def __reduce__(self):
        return (open, ("ran.txt", "w"))


@pytest.mark.parametrize("convert", [False, True])
def test_a_pickle_that_holds_code_is_refused_and_nothing_runs(vae_folder, monkeypatch, convert):
    monkeypatch.chdir(vae_folder)
    (vae_folder / "evil.pt").write_bytes(pickle.dumps({"ema": Harmless()}))
    with pytest.raises(ValueError, match=r"evil\.pt"):
        ReEditLoadRPiAE.execute("evil.pt", convert=convert)
    assert [path.name for path in vae_folder.iterdir()] == ["evil.pt"]


def test_after_the_pivot_stage_there_are_tokens_and_no_latents(tmp_path, pixels):
    vae = load_rpiae_vae(write_rpiae(tmp_path / "pivot.safetensors", stage="pivot"))
    assert vae.tokens(pixels).shape == (2, 16, 24)
    for use in (lambda: vae.encode(pixels), lambda: vae.decode(torch.zeros(1, 6, 4, 4))):
        with pytest.raises(ValueError, match="trained for the pivot stage alone"):
            use()
