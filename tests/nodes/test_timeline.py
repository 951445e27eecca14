import torch
from reedit.models.session.record import observe, with_record
from reedit.nodes.drift import ReEditDriftMeter
from reedit.nodes.timeline import ReEditTimeline


def test_timeline_and_drift_show_every_step(tiny_vae, latent, monkeypatch):
    from comfy_api.v0_0_2 import ui

    shown = []
    monkeypatch.setattr(ui.PreviewImage, "__init__", lambda self, image, **_: shown.append(image))
    monkeypatch.setattr(ui.PreviewImage, "as_dict", lambda self: {})
    mask = torch.zeros(1, 64, 64)
    mask[:, :32] = 1.0
    changed = latent["samples"].clone()
    changed[:, :, :8] += 0.5
    latent = with_record(latent, observe(latent).with_edit(changed, "one", "a tool", mask=mask))
    strip, pictures = ReEditTimeline.execute(latent, tiny_vae, 2).result
    assert pictures.shape == (2, 64, 64, 3) and strip.ndim == 4
    assert torch.equal(pictures[1:], tiny_vae.decode(changed))
    plot, report, _ = ReEditDriftMeter.execute(latent, tiny_vae).result
    assert '"outside_mask_max_abs_latent_change": 0.0' in report and plot.ndim == 4
    assert len(shown) == 2
