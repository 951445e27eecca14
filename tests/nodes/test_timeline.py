import comfy.latent_formats
import folder_paths
import latent_preview
import numpy as np
import pytest
import torch
from comfy.cli_args import LatentPreviewMethod, args
from comfy.taesd.taesd import TAESD
from comfy_api.v0_0_2 import ui
from reedit.models.session.record import EditRecord, observe, with_record
from reedit.nodes.drift import ReEditDriftMeter
from reedit.nodes.latent_previews import QuickDecoder
from reedit.nodes.timeline import ReEditTimeline
from safetensors.torch import save_file


@pytest.fixture
def shown(monkeypatch):
    """The pictures that nodes hand to the frontend, instead of files of them in the host's folder."""
    pictures = []
    monkeypatch.setattr(ui.PreviewImage, "__init__", lambda self, image, **_: pictures.append(image))
    monkeypatch.setattr(ui.PreviewImage, "as_dict", lambda self: {})
    return pictures


@pytest.fixture
def edited(latent):
    """A session with one edit in the upper half."""
    mask = torch.zeros(1, 64, 64)
    mask[:, :32] = 1.0
    changed = latent["samples"].clone()
    changed[:, :, :8] += 0.5
    return with_record(latent, observe(latent).with_edit(changed, "one", "a tool", mask=mask), changed)


@pytest.fixture
def model_with(text_to_image):
    """The demo family's model, as if its latents were of another model's format: for that is all that previews look at."""

    def with_format(latent_format):
        model = text_to_image[0].clone()
        model.add_object_patch("latent_format", latent_format)
        return model

    return with_format


@pytest.fixture
def approximate_decoders(tmp_path, monkeypatch):
    """An empty folder in the place of the host's models/vae_approx."""
    extensions = folder_paths.folder_names_and_paths["vae_approx"][1]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "vae_approx", ([str(tmp_path)], extensions))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path


@pytest.fixture
def host_preview(monkeypatch):
    """What the host itself shows of a latent while it samples, with --preview-method `method`."""

    def preview(model, samples, method):
        monkeypatch.setattr(args, "preview_method", method)
        latent_format = model.get_model_object("latent_format")
        previewer = latent_preview.get_previewer(model.load_device, latent_format)
        image = previewer.decode_latent_to_preview(latent_format.process_in(samples).to(model.load_device))
        return torch.from_numpy(np.asarray(image, np.float32) / 255)

    return preview


def test_timeline_and_drift_show_every_step(tiny_vae, edited, shown):
    sheet, pictures = ReEditTimeline.execute(edited, tiny_vae, 2).result
    assert pictures.shape == (2, 64, 64, 3) and sheet.ndim == 4
    assert torch.equal(pictures[1:], tiny_vae.decode(edited["samples"]))
    assert torch.equal(pictures[:1], tiny_vae.decode(observe(edited).source))
    plot, report, *_ = ReEditDriftMeter.execute(edited, tiny_vae).result
    assert '"outside_mask_max_abs_latent_change": 0.0' in report and plot.ndim == 4
    assert len(shown) == 2 and shown[0] is sheet


def test_steps_with_the_same_latent_are_decoded_once(tiny_vae, edited, shown, monkeypatch):
    decoded, decode = [], tiny_vae.decode
    monkeypatch.setattr(tiny_vae, "decode", lambda samples: decoded.append(samples) or decode(samples))
    record = observe(edited)
    record = record.with_edit(record.source, "undone by hand", "a tool").with_edit(
        record.samples_at(1), "and redone", "a tool"
    )
    _, pictures = ReEditTimeline.execute(with_record(edited, record), tiny_vae).result
    assert len(decoded) == 2 and len(pictures) == 4
    assert torch.equal(pictures[0], pictures[2]) and torch.equal(pictures[1], pictures[3])


def test_a_batch_and_steps_of_another_size(tiny_vae, scenes, shown):
    """Of a batch the sheet shows the first items; the pictures are those of all."""
    samples = tiny_vae.encode(scenes[:2])
    record = EditRecord(samples).with_edit(samples[..., :8, :], "upper half", "a tool")
    latent = with_record({}, record, record.samples_at(1))
    _, pictures = ReEditTimeline.execute(latent, tiny_vae).result
    assert pictures.shape == (2, 32, 64, 3)


def test_neither_vae_nor_model_is_refused(edited):
    with pytest.raises(ValueError, match="vae and model are both missing"):
        ReEditTimeline.execute(edited)


def test_latents_that_do_not_fit_are_refused_before_anything_is_decoded(tiny_vae, edited, model_with, monkeypatch):
    monkeypatch.setattr(tiny_vae, "decode", lambda samples: pytest.fail("decoded"))
    wide = with_record(edited, observe(edited).with_edit(torch.zeros(1, 16, 16, 16), "another model", "a tool"))
    with pytest.raises(ValueError, match="samples has 16 channels"):
        ReEditTimeline.execute(wide, tiny_vae)
    with pytest.raises(ValueError, match="samples has 16 channels, but this model works on latents of 4"):
        ReEditTimeline.execute(wide, model=model_with(comfy.latent_formats.SD15()))


def test_a_model_that_the_host_cannot_preview_is_refused(edited, text_to_image, approximate_decoders):
    with pytest.raises(ValueError, match="no quick preview.*Connect vae"):
        ReEditTimeline.execute(edited, model=text_to_image[0])


def test_without_taesd_the_previews_are_the_hosts_rough_colours(
    edited, model_with, approximate_decoders, shown, host_preview
):
    """Whatever --preview-method says: it is "none" unless the user has set it."""
    model = model_with(comfy.latent_formats.SD15())
    assert args.preview_method == LatentPreviewMethod.NoPreviews
    sheet, pictures = ReEditTimeline.execute(edited, model=model).result
    assert pictures.shape == (2, 16, 16, 3) and sheet.shape[-1] == 3
    assert torch.equal(pictures[1], host_preview(model, edited["samples"], LatentPreviewMethod.Latent2RGB))


def test_with_taesd_the_previews_are_the_hosts_own(edited, model_with, approximate_decoders, shown, host_preview):
    """TAESD's real weights are not at hand here: random ones tell as well whether both decode the same."""
    weights = {name: 0.05 * torch.randn_like(value) for name, value in TAESD().taesd_decoder.state_dict().items()}
    save_file(weights, approximate_decoders / "taesd_decoder.safetensors")
    model = model_with(comfy.latent_formats.SD15())
    batch = with_record({}, EditRecord(edited["samples"].repeat(2, 1, 1, 1) * torch.tensor([1, 2]).view(2, 1, 1, 1)))
    _, pictures = ReEditTimeline.execute(batch, model=model).result
    assert pictures.shape == (2, 128, 128, 3) and float(pictures.std()) > 0.01
    for item, picture in zip(batch["samples"], pictures, strict=True):
        assert torch.equal(picture, host_preview(model, item[None], LatentPreviewMethod.TAESD))


def test_of_a_video_the_first_frame_is_shown(model_with, approximate_decoders, shown, host_preview):
    model = model_with(comfy.latent_formats.Wan21())
    video = torch.randn(1, 16, 3, 8, 12)
    _, pictures = ReEditTimeline.execute({"samples": video}, model=model).result
    assert torch.equal(pictures[0], host_preview(model, video, LatentPreviewMethod.Latent2RGB))
    assert pictures.shape == (1, 8, 12, 3)
    assert torch.equal(QuickDecoder(model).decode(video[:, :, 0]), pictures)  # a single picture of a video model


def test_with_both_the_vae_gives_the_pictures(tiny_vae, edited, model_with, shown):
    _, pictures = ReEditTimeline.execute(edited, tiny_vae, model=model_with(comfy.latent_formats.SD15())).result
    assert torch.equal(pictures[1:], tiny_vae.decode(edited["samples"]))
