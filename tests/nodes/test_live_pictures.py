"""What nodes show while they run, as the host's progress hook gets it."""

import comfy.utils
import numpy as np
import pytest
import torch
from reedit.models.diffusion.residual_curve import ResidualCurve
from reedit.nodes import live_pictures
from reedit.nodes.inversion import ReEditInvert
from reedit.nodes.live_pictures import LivePicture, mask_picture


@pytest.fixture
def told(monkeypatch):
    """Every call of the host's progress hook: (value, total, preview, node)."""
    calls = []
    monkeypatch.setattr(live_pictures, "INTERVAL", 0.0)
    monkeypatch.setattr(
        comfy.utils,
        "PROGRESS_BAR_HOOK",
        lambda value, total, preview, node_id: calls.append((value, total, preview, node_id)),
    )
    return calls


def test_an_inversion_shows_its_residual_at_every_model_call(told, text_to_image, latent):
    model, clip = text_to_image
    positive = clip.encode_from_tokens_scheduled(clip.tokenize("a red circle on grass"))
    output = ReEditInvert.execute(model, positive, latent, 4, "karras", 1.0, "anderson", 20, 1e-4)
    assert len(told) == output[3].total_calls
    values = [value for value, *_ in told]
    steps = output[3].steps
    assert values == sorted(values) and set(values) == set(range(1, steps + 1))
    assert {total for _, total, *_ in told} == {steps}
    pictures = [preview[1] for _, _, preview, _ in told]
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)  # each shows more than the one before


def test_the_curve_marks_what_is_not_within_the_tolerance_yet():
    curve = ResidualCurve(2, 1e-4)
    curve.add(0, 0, 1e-2)
    warning, calm = ((np.asarray(curve.draw()) == colour).all(-1).sum() for colour in ((230, 126, 34), (86, 180, 233)))
    assert warning > 10 and calm < 10
    curve.add(0, 0, 1e-5)
    warning, calm = ((np.asarray(curve.draw()) == colour).all(-1).sum() for colour in ((230, 126, 34), (86, 180, 233)))
    assert warning == 0 and calm > 10


@pytest.mark.parametrize("residual", [0.0, float("inf"), 1e-30, 1e30])
def test_the_curve_can_draw_any_residual(residual):
    curve = ResidualCurve(3, 0.0)
    curve.add(0, 0, residual)
    assert curve.draw().size == (480, 280)


def test_of_a_batch_the_worst_item_is_drawn():
    one, two = ResidualCurve(1, 1e-4), ResidualCurve(1, 1e-4)
    one.add(0, 0, 1e-2)
    two.add(0, 0, 1e-2)
    two.add(0, 1, 1e-6)
    assert one.draw().tobytes() == two.draw().tobytes()


def test_a_mask_is_shown_in_whole_cells():
    mask = torch.zeros(2, 1, 4, 8)
    mask[0, :, 1, 2] = 1.0
    picture = np.asarray(mask_picture(mask))
    assert picture.shape == (128, 256, 3)
    assert picture[32:64, 64:96].min() == 255 and picture.sum() == 255 * 3 * 32 * 32


def test_without_a_page_nothing_is_drawn(monkeypatch):
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", None)
    live = LivePicture(2)
    live.update(1, lambda: pytest.fail("drawn for nobody"))
    live.finish()


def test_pictures_are_sent_no_faster_than_they_can_be_seen(told, monkeypatch):
    monkeypatch.setattr(live_pictures, "INTERVAL", 60.0)
    live = LivePicture(10, "7")
    for value in range(1, 4):
        live.update(value, lambda: mask_picture(torch.ones(1, 1, 4, 4)))
    assert [preview is not None for _, _, preview, _ in told][:1] == [True]
    assert sum(preview is not None for _, _, preview, _ in told) == 1
    assert {node for *_, node in told} == {"7"}
