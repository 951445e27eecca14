"""eps-VAEs in the host, with decoders of random numbers over the demo family's autoencoder."""

import json
import logging
from dataclasses import replace

import comfy.model_management
import comfy.sd
import comfy.utils
import nodes as host_nodes
import pytest
import torch
from reedit.models.autoencoders.encoder_match import ENCODER_KEY, encoder_marks
from reedit.models.autoencoders.epsilon import EpsilonDecoder
from reedit.models.autoencoders.epsilon_layout import EpsilonConfig, StoredEpsilonDecoder
from reedit.models.session.record import KEY
from reedit.nodes.autoencoders import ReEditDecode, ReEditEncode, load_kl_vae
from reedit.nodes.epsilon import EpsilonVAE, ReEditEpsilonDecode, ReEditLoadEpsilonVAE, load_epsilon_vae
from reedit.nodes.merge_pixels import ReEditMergePixels
from reedit.nodes.round_trip import ReEditRoundTripTest
from torch.profiler import ProfilerActivity, profile

SMALL = EpsilonConfig(
    width=16,
    blocks=1,
    latent_channels=4,
    ratio=4,
    multipliers=(1, 1, 2),
    attention_levels=(2,),
    head_channels=16,
    norm_groups=8,
    gamma=3.0,  # pictures of random numbers then lie within 0..1, and little is hidden by clamping
)
OFF = 0.01  # grey levels: what tiles differ by, see tests/models/autoencoders/test_epsilon_tiles.py


def write_decoder(path, config=SMALL, change=lambda tensors: None, **metadata):
    """A decoder of random numbers, in a file."""
    torch.manual_seed(3)
    unet = EpsilonDecoder(config).unet
    unet.conv_out.weight.data *= 3
    tensors = unet.state_dict()
    change(tensors)
    StoredEpsilonDecoder(config, tensors, {}, metadata).save(path)
    return path


@pytest.fixture(scope="module")
def decoder_file(tmp_path_factory):
    return write_decoder(tmp_path_factory.mktemp("epsilon") / "decoder.safetensors")


@pytest.fixture(scope="module")
def vae(decoder_file, tiny_vae):
    with torch.inference_mode():
        return load_epsilon_vae(decoder_file, tiny_vae, steps=2, seed=5)


def levels_apart(found, expected):
    return 255 * float((found - expected).abs().max())


def decode(vae, samples, steps=2, seed=5, tile_size=0):
    return ReEditEpsilonDecode.execute(samples, vae, steps, seed, tile_size).result


# --- the host's nodes -------------------------------------------------------------------------------------------------


def test_encoding_is_the_bases_to_the_bit(vae, tiny_vae, scenes):
    weights = {name: value.clone() for name, value in tiny_vae.get_sd().items()}
    for encode in (
        lambda one: host_nodes.VAEEncode().encode(one, scenes),
        lambda one: host_nodes.VAEEncodeTiled().encode(one, scenes, 64, 16),
        lambda one: host_nodes.VAEEncodeForInpaint().encode(one, scenes, torch.ones(4, 64, 64), 0),
        lambda one: ReEditEncode.execute(scenes, one).result,
        lambda one: ReEditEncode.execute(scenes, one, "refuse", 32).result,
    ):
        (ours,), (bases,) = encode(vae), encode(tiny_vae)
        assert torch.equal(ours["samples"], bases["samples"])
    vae.decode(bases["samples"])
    assert all(torch.equal(value, weights[name]) for name, value in tiny_vae.get_sd().items())
    assert type(tiny_vae) is comfy.sd.VAE


def test_the_hosts_decode_is_the_decoders_own(vae, latent):
    decoder = EpsilonDecoder(SMALL).eval()
    decoder.unet.load_state_dict(vae.first_stage_model.decoder.unet.state_dict())
    expected = decoder.decode(latent["samples"], 5, 2).clamp(0, 1).movedim(1, -1)
    (picture,) = host_nodes.VAEDecode().decode(vae, latent)
    assert levels_apart(picture, expected) < OFF
    assert float(((picture > 0) & (picture < 1)).float().mean()) > 0.9


def test_pictures_differ_by_latent_by_seed_and_by_steps(vae, decoder_file, tiny_vae, scenes):
    latent = {"samples": tiny_vae.encode(scenes)}
    pictures = vae.decode(latent["samples"])
    assert levels_apart(pictures[0], pictures[1]) > 30
    for steps, seed in ((2, 6), (1, 5)):
        other = load_epsilon_vae(decoder_file, tiny_vae, steps, seed).decode(latent["samples"])
        assert levels_apart(other, pictures) > 10
        assert torch.equal(decode(vae, latent, steps, seed)[0], other)


def test_tiles_of_the_hosts_and_of_our_nodes_are_without_a_seam(vae, latent, caplog):
    whole = vae.decode(latent["samples"])
    with caplog.at_level(logging.WARNING):
        (tiled,) = host_nodes.VAEDecodeTiled().decode(vae, latent, 32, 8)
    assert levels_apart(tiled, whole) < OFF
    assert "tiles of 32×32 pixels, all of one noise" in caplog.text
    assert levels_apart(ReEditDecode.execute(latent, vae, 32).result[0], whole) < OFF
    assert levels_apart(vae.decode_tiled(latent["samples"]), whole) < OFF


@pytest.mark.parametrize("decode_with", ["the host", "our node"])
def test_a_picture_too_large_for_memory_is_decoded_in_tiles_and_the_log_says_so(
    decoder_file, tiny_vae, monkeypatch, caplog, decode_with
):
    """The network at once runs out of memory, as on a small card; in tiles, it is not called as a whole."""
    vae = load_epsilon_vae(decoder_file, tiny_vae, 2, 5)
    latent = {"samples": torch.randn(2, 4, 72, 20)}  # 288 pixels high: two of the host's tiles
    whole = vae.decode(latent["samples"])

    def small_memory(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(vae.first_stage_model.decoder.unet, "forward", small_memory)
    with caplog.at_level(logging.WARNING):
        picture = vae.decode(latent["samples"]) if decode_with == "the host" else decode(vae, latent)[0]
    assert levels_apart(picture, whole) < OFF
    assert "Ran out of memory" in caplog.text and "tiles of 256×256 pixels" in caplog.text


def test_the_batch_split_changes_nothing(vae, monkeypatch):
    samples = torch.randn(3, 4, 8, 8)
    seen = []
    network = vae.first_stage_model.decoder.unet
    together = vae.decode(samples)
    hook = network.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    monkeypatch.setattr(vae, "memory_used_decode", lambda shape, dtype: 1e15)  # one at a time
    apart = vae.decode(samples)
    hook.remove()
    assert seen == [1] * 6  # 3 pictures of 2 steps
    assert levels_apart(apart, together) < OFF


def test_painted_pixels_are_merged_as_with_the_base(vae, tiny_vae, latent, scenes):
    mask = torch.zeros(1, 64, 64)
    mask[:, 16:32, 16:32] = 1
    painted = scenes[:1] * (1 - mask[..., None])
    ours, bases = (ReEditMergePixels.execute(latent, painted, one, mask=mask).result[0] for one in (vae, tiny_vae))
    assert torch.equal(ours["samples"], bases["samples"])
    assert not torch.equal(ours["samples"], latent["samples"])


def test_the_round_trip_test_takes_it(vae, scenes):
    *_, last = ReEditRoundTripTest.execute(scenes[:1], vae, passes=2, eight_bit=False).result
    assert levels_apart(last, vae.decode(vae.encode(vae.decode(vae.encode(scenes[:1]))))) < OFF


def test_the_host_can_unload_it_and_load_it_again(decoder_file, tiny_vae, latent):
    vae = load_epsilon_vae(decoder_file, tiny_vae, 1, 5)
    before = vae.decode(latent["samples"])
    assert any(loaded.model is vae.patcher for loaded in comfy.model_management.current_loaded_models)
    comfy.model_management.unload_all_models()
    assert not any(loaded.model is vae.patcher for loaded in comfy.model_management.current_loaded_models)
    assert torch.equal(vae.decode(latent["samples"]), before)
    assert vae.model_size() == sum(value.nbytes for value in vae.first_stage_model.parameters())


@pytest.mark.parametrize("decode_with", ["the host", "tiles"])
def test_the_host_can_leave_weights_where_they_are_and_lend_them_layer_by_layer(
    decoder_file, tiny_vae, latent, decode_with
):
    """As on a small card: with memory for one byte, every layer takes its weights when it computes."""
    vae = load_epsilon_vae(decoder_file, tiny_vae, 1, 5)
    network, samples = vae.first_stage_model, latent["samples"]
    before = network.decode(samples)
    vae.patcher.partially_load(vae.device, 1)
    holding = [one for one in network.modules() if any(True for _ in one.parameters(recurse=False))]
    assert len(holding) > 50 and all(one.comfy_cast_weights for one in holding)
    after = network.decode(samples) if decode_with == "the host" else network.decode_tiled(samples, 8, 8)
    vae.patcher.detach()
    assert levels_apart(after, before) < OFF


@pytest.mark.parametrize(("dtype", "levels"), [("fp16", 2), ("bf16", 10)])
def test_in_shorter_formats_it_computes_and_the_base_does_not(
    decoder_file, tiny_vae, latent, monkeypatch, dtype, levels
):
    monkeypatch.setattr("folder_paths.get_full_path_or_raise", lambda kind, name: str(decoder_file))
    (short,) = ReEditLoadEpsilonVAE.execute("decoder", tiny_vae, 1, 5, dtype).result
    (exact,) = ReEditLoadEpsilonVAE.execute("decoder", tiny_vae, 1, 5).result
    assert {value.dtype for value in short.first_stage_model.parameters()} == {short.vae_dtype}
    assert (short.vae_dtype != torch.float32, exact.vae_dtype, tiny_vae.vae_dtype) == (True, *[torch.float32] * 2)
    apart = levels_apart(short.decode(latent["samples"]), exact.decode(latent["samples"]))
    assert 0 < apart < levels


def test_the_memory_that_is_asked_for_is_what_is_used(vae):
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as measured:
        vae.first_stage_model.decode(torch.randn(1, 4, 16, 16))
    held = most = 0
    events = [one for one in measured.profiler.kineto_results.events() if one.name() == "[memory]"]
    for event in sorted(events, key=lambda one: one.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    asked = vae.memory_used_decode((1, 4, 16, 16), torch.float32)
    assert most < asked < 1.5 * most


def test_a_checkpoint_saved_with_it_holds_the_base(vae, tiny_vae, caplog):
    with caplog.at_level(logging.WARNING):
        saved = vae.get_sd()
    assert "those of its base VAE were given" in caplog.text
    assert saved.keys() == tiny_vae.get_sd().keys()


# --- our node ---------------------------------------------------------------------------------------------------------


def test_the_latent_passes_through_with_its_record(vae, latent):
    picture, passed = decode(vae, latent)
    assert picture.shape == (1, 64, 64, 3)
    assert passed["samples"] is latent["samples"] and passed[KEY] is latent[KEY]
    _, fresh = decode(vae, {"samples": latent["samples"]})
    assert fresh["samples"] is latent["samples"] and KEY in fresh


def test_any_tile_size_and_any_batch_give_the_same_picture(vae, tiny_vae, scenes):
    samples = tiny_vae.encode(scenes[:3, :, :44])  # 11 cells wide
    together, _ = decode(vae, {"samples": samples})
    for tile_size in (16, 24, 64):
        assert levels_apart(decode(vae, {"samples": samples}, tile_size=tile_size)[0], together) < OFF
    for number in range(3):
        (alone, _) = decode(vae, {"samples": samples[number : number + 1]})
        assert levels_apart(alone, together[number : number + 1]) < OFF


def test_the_vaes_own_settings_stay(vae, latent):
    before = vae.decode(latent["samples"])
    decode(vae, latent, 1, 9)
    assert torch.equal(vae.decode(latent["samples"]), before)


@pytest.mark.parametrize(("tile_size", "least"), [(0, 4), (32, 100)])
def test_progress_goes_to_the_end_and_an_interrupt_is_heeded(vae, latent, monkeypatch, tile_size, least):
    seen = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, *_, **__: seen.append((value, total)))
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0)
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_PERCENT", 0)
    decode(vae, latent, 4, 5, tile_size)
    assert len(seen) >= least and seen == sorted(seen) and seen[-1][0] == seen[-1][1]
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        decode(vae, latent, 4, 5, tile_size)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 11])
def test_a_number_of_steps_that_makes_no_sense_is_refused(decoder_file, vae, tiny_vae, latent, steps):
    with pytest.raises(ValueError, match=f"steps is {steps}, and must be 1 to 10"):
        decode(vae, latent, steps)
    with pytest.raises(ValueError, match=f"steps is {steps}, and must be 1 to 10"):
        load_epsilon_vae(decoder_file, tiny_vae, steps, 0)


def test_a_vae_of_another_kind_is_refused(tiny_vae, latent):
    with pytest.raises(ValueError, match="vae has no eps-VAE decoder. Connect one from Load eps-VAE"):
        decode(tiny_vae, latent)


def test_latents_that_do_not_fit_are_refused(vae):
    video, other = torch.zeros(1, 4, 3, 8, 8), torch.zeros(1, 16, 8, 8)
    for decode_it in (vae.decode, vae.decode_tiled, lambda samples: decode(vae, {"samples": samples})):
        with pytest.raises(ValueError, match="a video's latent"):
            decode_it(video)
        with pytest.raises(ValueError, match=r"16.*latents of 4"):
            decode_it(other)
    with pytest.raises(ValueError, match="samples holds 256 values that are NaN"):
        decode(vae, {"samples": torch.full((1, 4, 8, 8), float("nan"))})


@pytest.mark.parametrize("config", [replace(SMALL, ratio=8), replace(SMALL, latent_channels=16)], ids=str)
def test_a_decoder_for_other_latents_than_the_bases_is_refused(tmp_path, tiny_vae, config):
    file = write_decoder(tmp_path / "other.safetensors", config)
    told = (
        f"latents of {config.latent_channels} channels at a ratio of {config.ratio}, and base_vae makes them of 4 at a"
    )
    with pytest.raises(
        ValueError, match=f"other.safetensors cannot be used as an eps-VAE decoder: .*{told} ratio of 4"
    ):
        load_epsilon_vae(file, tiny_vae)


def test_a_decoder_of_another_encoder_is_refused_and_one_of_this_is_not(tmp_path, tiny_vae):
    marks = encoder_marks(tiny_vae.get_sd())
    load_epsilon_vae(write_decoder(tmp_path / "a.safetensors", **{ENCODER_KEY: json.dumps(marks)}), tiny_vae)
    marks["encoder.conv_in.weight"] *= 1.2
    file = write_decoder(tmp_path / "b.safetensors", **{ENCODER_KEY: json.dumps(marks)})
    with pytest.raises(
        ValueError, match=r"b.safetensors .*another encoder.*encoder.conv_in.weight.*Connect as base_vae"
    ):
        load_epsilon_vae(file, tiny_vae)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: tensors.pop("conv_in.weight"), "conv_in.weight is missing"),
        (lambda tensors: tensors.update({"conv_in.bias": torch.zeros(3)}), r"conv_in.bias is \(3,\), not \(16,\)"),
        (lambda tensors: tensors["conv_in.bias"].fill_(float("nan")), "conv_in.bias holds NaN"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "extra is in no decoder of these sizes"),
    ],
)
def test_tensors_that_are_not_those_of_the_sizes_are_refused(tmp_path, tiny_vae, change, said):
    file = write_decoder(tmp_path / "faulty.safetensors", change=change)
    with pytest.raises(ValueError, match=f"faulty.safetensors cannot be used .*{said}"):
        load_epsilon_vae(file, tiny_vae)


def test_a_base_that_is_no_vae_of_this_family_is_refused(decoder_file):
    base = comfy.sd.VAE(sd={"taesd_decoder.1.weight": torch.zeros(64, 4, 3, 3)})
    with pytest.raises(ValueError, match=r"base_vae \(TAESD\) has no encoder"):
        load_epsilon_vae(decoder_file, base)


def test_an_eps_vae_as_base_lends_its_own_base(decoder_file, vae, tiny_vae):
    again = load_epsilon_vae(decoder_file, vae, 1, 0)
    assert isinstance(again, EpsilonVAE) and again.base_vae is tiny_vae


def test_a_decoder_alone_takes_an_eps_vaes_encoder_in_its_bases_precision(
    decoder_file, tiny_vae, scenes, weights_folder
):
    base = load_epsilon_vae(decoder_file, tiny_vae, dtype=torch.bfloat16)
    reed = load_kl_vae(weights_folder / "tiny_sd_reed_decoder.safetensors", base)
    assert reed.vae_dtype == tiny_vae.vae_dtype != base.vae_dtype
    assert torch.equal(reed.encode(scenes), tiny_vae.encode(scenes))
