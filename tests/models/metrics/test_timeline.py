import pytest
import torch
from reedit.models.metrics.timeline import contact_strip, describe_step, session_sheet, share_text
from reedit.models.metrics.timeline_drawing import ACCENT, GROUND
from reedit.models.session.record import EditRecord
from skimage.measure import label, regionprops

CELLS, SIDE = 8, 64  # of a test's latent and of its pictures


def mask_of(rows: slice) -> torch.Tensor:
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, rows] = 1
    return mask


@pytest.fixture
def record():
    """source → 1 → 2, and 3 as a branch from 1; 2 is current. Each edit changes one of the 8 rows of cells."""
    record = EditRecord(torch.zeros(1, 4, CELLS, CELLS))
    for row, parent in enumerate((0, 1, 1)):
        samples = record.at(parent).samples_at(parent)
        samples[:, :, row] = row + 1
        mask = mask_of(slice(8 * row, 8 * row + 8))
        record = record.at(parent).with_edit(samples, f"edit {row}", "a tool", mask=mask)
    return record.at(2)


def flat_pictures(count: int) -> list[torch.Tensor]:
    """Pictures of one colour each, which nothing else on the sheet has."""
    return [
        torch.tensor([40 + 20 * index, 90, 200 - 10 * index]).div(255).expand(1, SIDE, SIDE, 3)
        for index in range(count)
    ]


def find_colour(sheet: torch.Tensor, colour: torch.Tensor):
    """The largest region of a colour on a sheet, as skimage.measure sees it; None if there is none."""
    same = (sheet - colour).abs().amax(-1) < 1.5 / 255
    regions = regionprops(label(same.numpy()))
    return max(regions, key=lambda region: region.area, default=None)


def test_every_step_is_on_the_sheet_once_and_the_way_to_the_current_one_is_bright(record):
    pictures = flat_pictures(4)
    sheet = session_sheet(record, pictures, 6, thumbnail=128, show_masks=False)
    assert sheet.ndim == 3 and float(sheet.min()) >= 0 and float(sheet.max()) <= 1
    ground = torch.tensor(GROUND) / 255
    for number, picture in enumerate(pictures):
        colour = picture[0, 0, 0]
        bright = find_colour(sheet, colour)
        if number == 3:  # beside the way: faded towards the ground
            assert bright is None
            seen = max(
                (find_colour(sheet, torch.lerp(colour, ground, share)) for share in torch.arange(0.2, 0.8, 0.01)),
                key=lambda region: 0 if region is None else region.area,
            )
        else:
            seen = bright
        assert seen.area == 128 * 128, number
    tops = [find_colour(sheet, picture[0, 0, 0]).bbox[0] for picture in pictures[:3]]
    assert len(set(tops)) == 1, "the steps on the way stand in one row"


@pytest.mark.parametrize("current", range(4))
def test_the_current_step_alone_has_a_frame(record, current):
    pictures = flat_pictures(4)
    sheet = session_sheet(record.at(current), pictures, 6, show_masks=False)
    accent = (sheet - torch.tensor(ACCENT) / 255).abs().amax(-1) < 1 / 255
    framed = []
    for number, picture in enumerate(pictures):
        region = find_colour(sheet, picture[0, 0, 0])
        if region is not None:
            top, left, bottom, right = region.bbox
            above = accent[top - 6 : top, left:right].any(0)
            below = accent[bottom : bottom + 6, left:right].any(0)
            framed += [number] if bool(above.all() and below.all()) else []
    assert framed == [current]


def test_masks_are_outlined_where_the_edit_was_allowed_to_act(record):
    """White pixels lie within the mask's rows of the thumbnail, and only if they are asked for."""
    pictures = flat_pictures(4)
    plain, outlined = (session_sheet(record, pictures, 6, show_masks=shown) for shown in (False, True))
    top, left, _, right = find_colour(plain, pictures[2][0, 0, 0]).bbox
    rows = (outlined[top : top + 256, left:right] == 1).all(-1).any(1).nonzero()[:, 0]
    assert rows.min() == 8 * 4 and rows.max() == 16 * 4 - 1  # edit 2 acted on pixels 8 to 16, shown four times as large
    assert not (plain[top : top + 256, left:right] == 1).all(-1).any()


def test_a_step_says_what_changed_and_how_well_the_rest_was_kept(record):
    """A constant error of 0.1 outside the masks is 20 dB by definition; inside it does not count."""
    pictures = [torch.full((1, SIDE, SIDE, 3), 0.5) for _ in range(4)]
    pictures[1] = pictures[1].clone()
    pictures[1][:, :8] = 1.0
    pictures[2] = pictures[1] - 0.1
    assert describe_step(record, 0, pictures, True) == ()
    assert describe_step(record, 1, pictures, True) == ("a tool", "12 % changed · rest identical")
    assert describe_step(record, 2, pictures, True) == ("a tool", "12 % changed · rest 20.0 dB")
    assert describe_step(record, 2, pictures, False) == ("a tool", "12 % changed")


def test_nothing_is_said_where_nothing_can_be_said():
    batch = EditRecord(torch.zeros(2, 4, CELLS, CELLS)).with_edit(torch.ones(2, 4, CELLS, CELLS), "b", "b")
    pictures = [torch.rand(2, SIDE, SIDE, 3) for _ in range(2)]
    assert describe_step(batch, 0, pictures, True) == ("1 of 2",)
    assert describe_step(batch, 1, pictures, True) == ("1 of 2", "all changed")  # no mask: no rest
    larger = EditRecord(torch.zeros(1, 4, CELLS, CELLS)).with_edit(
        torch.zeros(1, 4, 16, 16), "up", "t", mask=mask_of(slice(8))
    )
    sizes = [torch.rand(1, SIDE, SIDE, 3), torch.rand(1, 2 * SIDE, 2 * SIDE, 3)]
    assert describe_step(larger, 1, sizes, True) == ("t", "another size")


def test_the_rest_of_a_batch_that_was_rearranged_is_not_compared():
    """The first picture shows another item than the source's first: their difference is no drift."""
    source = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 4, CELLS, CELLS)
    record = EditRecord(source).with_edit(source[1:], "LatentFromBatch", "t", mask=mask_of(slice(8)))
    record = record.with_edit(source[1:].repeat(2, 1, 1, 1), "RepeatLatentBatch", "t", mask=mask_of(slice(8)))
    assert [edit.batch_origin for edit in record.edits] == [(1,), (0, 0)]
    pictures = [torch.rand(len(record.samples_at(number)), SIDE, SIDE, 3) for number in range(3)]
    assert all("rest" not in line for line in describe_step(record, 2, pictures, True))


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "nothing"), (1e-6, "0.1 %"), (0.034, "3.4 %"), (0.5, "50 %"), (0.9999, "99.9 %"), (1.0, "all")],
)
def test_a_share_is_never_rounded_to_nothing_or_to_all(share, text):
    assert share_text(share) == text


@pytest.mark.parametrize("columns", [1, 2, 64])
def test_pictures_of_any_size_and_labels_of_any_length_are_drawn(columns):
    record = EditRecord(torch.zeros(1, 4, CELLS, CELLS))
    for name in ("", "word " * 300, "x" * 3000, "把杯子变成红色", "كوب أحمر", "\n\t", "🙂"):
        record = record.with_edit(torch.rand(1, 4, CELLS, CELLS), name, name)
    sizes = [(1, 1), (300, 2000), (2000, 300), (64, 64), (257, 255), (3, 900), (160, 160), (1024, 1024)]
    sheet = session_sheet(record, [torch.rand(1, height, width, 3) for height, width in sizes], columns)
    assert sheet.shape[-1] == 3 and sheet.shape[1] < 300 * min(columns, 8) + 300


def test_a_session_without_edits_can_be_drawn():
    sheet = session_sheet(EditRecord(torch.zeros(1, 4, CELLS, CELLS)), flat_pictures(1), 6)
    assert find_colour(sheet, flat_pictures(1)[0][0, 0, 0]).area == 256 * 256


def test_one_picture_makes_a_strip():
    strip = contact_strip([torch.rand(16, 24, 3)], ["source"], 6)
    assert strip.ndim == 3 and float(strip.min()) >= 0 and float(strip.max()) <= 1


def test_a_strip_shows_each_picture_under_its_label():
    pictures = [torch.full((64, 64, 3), value) for value in (0.0, 0.5, 1.0)]
    strip = contact_strip(pictures, ["source", "1. a label that is long enough for a second line", "2. short"], 2)
    for value in (0.0, 0.5, 1.0):  # each picture stands there at twice its size
        assert int((strip.sub(value).abs().amax(-1) < 1 / 255).sum()) >= 128 * 128
