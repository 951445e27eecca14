import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from reedit.models.training.pictures import PictureFolder
from small_training import write_pictures

CROP = 16


def flat(folder: Path, count: int, side: int = CROP) -> list[tuple[int, int, int]]:
    """Pictures of one colour each, by which a sample tells which of them it is. Returns the colours."""
    colours = [(10 * number + 5, 255 - 10 * number, 7 * number) for number in range(count)]
    for number, colour in enumerate(colours):
        Image.new("RGB", (side, side), colour).save(folder / f"{number:02}.png")
    return colours


def colour_of(sample: torch.Tensor) -> tuple[int, ...]:
    return tuple((255 * sample[:, 0, 0]).round().int().tolist())


def one_picture(folder: Path, image: Image.Image, name: str = "one.png", **how) -> torch.Tensor:
    """What the folder makes of a picture: (3, CROP, CROP) in 0..1, read as a held-out one, which is not mirrored."""
    for path in folder.iterdir():
        path.unlink()
    for copy in range(2):
        image.save(folder / f"{copy}{name}", **how)
    read = PictureFolder(folder, CROP, 1, 0)
    assert not read.skipped
    return read.held_out_pictures()[0]


# --- what can be used -------------------------------------------------------------------------------------------------


def test_what_is_no_picture_is_left_out_counted_and_named(tmp_path):
    write_pictures(tmp_path / "good", 3)
    (tmp_path / "text.png").write_text("this is no picture")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "notes.txt").write_text("not looked at")
    folder = PictureFolder(tmp_path, CROP, 1, 0)
    assert len(folder.training) + len(folder.held_out) == 3
    assert folder.skipped.keys() == {"text.png", "empty.jpg"}
    said = folder.describe_skipped()
    assert said.startswith("Left out 2: ") and "text.png cannot be read" in said and "empty.jpg cannot be read" in said


def test_of_many_five_are_named_and_all_counted(tmp_path):
    write_pictures(tmp_path, 2)
    for number in range(8):
        (tmp_path / f"bad_{number}.png").touch()
    said = PictureFolder(tmp_path, CROP, 1, 0).describe_skipped()
    assert said.startswith("Left out 8: ") and said.count("cannot be read") == 5 and "; and 3 more" in said


def test_pictures_smaller_than_the_crop_are_left_out(tmp_path):
    write_pictures(tmp_path, 2)
    Image.new("RGB", (200, CROP - 1)).save(tmp_path / "flat.png")
    folder = PictureFolder(tmp_path, CROP, 1, 0)
    assert folder.skipped == {"flat.png": "is 15 pixels on its shorter side, less than the crop"}


@pytest.mark.parametrize("mode", ["F", "I"])
def test_numbers_of_no_known_range_are_left_out(tmp_path, mode):
    write_pictures(tmp_path, 2)
    Image.new(mode, (CROP, CROP)).save(tmp_path / "heights.tiff")
    assert PictureFolder(tmp_path, CROP, 1, 0).skipped == {"heights.tiff": "holds numbers of no known range"}


def test_no_folder(tmp_path):
    with pytest.raises(ValueError, match=r"pictures: there is no folder .*absent\. Give one"):
        PictureFolder(tmp_path / "absent", CROP, 1, 0)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="pictures: there is no folder"):
        PictureFolder(tmp_path / "file", CROP, 1, 0)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_pictures(tmp_path, count):
    write_pictures(tmp_path, count)
    (tmp_path / "broken.png").touch()
    said = (
        rf"pictures: .* holds {count} pictures to train on, and two are the least\. Left out 1: broken\.png .*16 pixels"
    )
    with pytest.raises(ValueError, match=said):
        PictureFolder(tmp_path, CROP, 1, 0)


def test_an_empty_folder_is_told_what_to_put_in(tmp_path):
    with pytest.raises(ValueError, match=r"holds 0 pictures .* two are the least\. Put pictures \(\.png, "):
        PictureFolder(tmp_path, CROP, 1, 0)


def test_subfolders_and_capital_letters_count(tmp_path):
    write_pictures(tmp_path / "holiday" / "first", 2)
    Image.new("RGB", (CROP, CROP)).save(tmp_path / "CAPITAL.PNG")
    folder = PictureFolder(tmp_path, CROP, 1, 0)
    assert len(folder.training) + len(folder.held_out) == 3


def damaged_inside(path: Path) -> None:
    """A JPEG whose head is whole and whose rows are not: that shows only when it is read."""
    written = io.BytesIO()
    Image.effect_noise((4 * CROP, 4 * CROP), 80).convert("RGB").save(written, "JPEG", quality=95)
    path.write_bytes(written.getvalue()[: len(written.getvalue()) // 3])
    with Image.open(path) as image:
        assert image.size == (4 * CROP, 4 * CROP)


def test_a_picture_that_is_found_damaged_in_training_is_replaced_named_and_told_once(tmp_path, caplog):
    colours = flat(tmp_path, 6)
    damaged_inside(tmp_path / "cut.jpg")
    folder = PictureFolder(tmp_path, CROP, 1, 0)
    assert folder.skipped == {}
    if folder.held_out == [tmp_path / "cut.jpg"]:
        folder.held_out, folder.training = folder.training[:1], [*folder.training[1:], *folder.held_out]
    seen = {colour_of(folder.sample(number)) for number in range(3 * len(folder.training))}
    trained_on = {colours[int(path.stem)] for path in folder.training if path.suffix == ".png"}
    assert seen == trained_on  # every sample is a picture, and none is lost by it
    assert folder.skipped.keys() == {"cut.jpg"} and "cannot be read" in folder.skipped["cut.jpg"]
    assert [record.getMessage().startswith("cut.jpg cannot be read") for record in caplog.records] == [True]


def test_a_damaged_held_out_picture_is_left_out_and_none_left_is_an_error(tmp_path):
    write_pictures(tmp_path, 20)
    folder = PictureFolder(tmp_path, CROP, 2, 0)
    damaged_inside(folder.held_out[0])
    assert folder.held_out_pictures().shape == (1, 3, CROP, CROP)
    damaged_inside(folder.held_out[1])
    with pytest.raises(ValueError, match=r"pictures: no held-out picture in .* can be read\. Left out 2: "):
        folder.held_out_pictures()


def test_when_nothing_can_be_read_any_more_it_says_so(tmp_path):
    write_pictures(tmp_path, 4)
    folder = PictureFolder(tmp_path, CROP, 1, 0)
    for path in folder.training:
        path.unlink()
    with pytest.raises(ValueError, match=r"no picture in .* can be read any more\. Left out 3: "):
        folder.sample(0)


@pytest.mark.parametrize(
    ("suffix", "how"),
    [
        (".png", {}),
        (".jpg", {}),
        (".webp", {}),
        (".bmp", {}),
        (".tiff", {}),
        (".tiff", {"compression": "tiff_lzw"}),
        (".tiff", {"compression": "jpeg"}),
    ],
)
@pytest.mark.filterwarnings("ignore")  # Pillow tells of the damage that it survives
def test_no_damage_of_any_kind_ends_the_training(tmp_path, capfd, suffix, how):
    """Bytes cut off or changed at random: a picture, or left out, and never another error."""
    random = np.random.default_rng(0)
    whole = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    exif_too = {} if suffix in (".bmp", ".tiff") else {"exif": exif}
    Image.fromarray(random.integers(0, 256, (20, 20, 3), np.uint8)).save(
        whole, Image.registered_extensions()[suffix], **how, **exif_too
    )
    for number in range(60):
        data = bytearray(whole.getvalue())
        if number % 3 == 0:
            data = data[: random.integers(1, len(data))]
        reach = min(len(data), 120) if number % 3 == 1 else len(data)  # the head is where the structure is
        for place in random.integers(0, reach, 3):
            data[place] = random.integers(0, 256)
        (tmp_path / f"damaged_{number}{suffix}").write_bytes(data)
    colours = flat(tmp_path, 2)
    folder = PictureFolder(tmp_path, CROP, 1, 0)
    for path in (*folder.training, *folder.held_out):
        picture = folder._read(path)
        assert picture is None or min(picture.size) == CROP
    assert len(folder.skipped) > 10 and len(colours) == 2
    assert all(name.startswith("damaged_") for name in folder.skipped)


# --- which is trained on, and when ------------------------------------------------------------------------------------


def test_held_out_pictures_are_never_trained_on_and_every_other_comes_once_a_round(tmp_path):
    colours = flat(tmp_path, 23)
    folder = PictureFolder(tmp_path, CROP, 2, seed=5)
    held_out = {colour_of(picture) for picture in folder.held_out_pictures()}
    assert len(held_out) == 2 and len(folder.training) == 21
    orders = []
    for round_number in range(3):
        orders.append([colour_of(folder.sample(21 * round_number + number)) for number in range(21)])
        assert len(set(orders[-1])) == 21 and set(orders[-1]) | held_out == set(colours)
    assert orders[0] != orders[1] != orders[2]


def test_at_most_a_tenth_is_held_out_but_one_at_least(tmp_path):
    flat(tmp_path, 25)
    assert len(PictureFolder(tmp_path, CROP, 8, 0).held_out) == 2
    assert len(PictureFolder(tmp_path, CROP, 1, 0).held_out) == 1
    for path in list(tmp_path.iterdir())[2:]:
        path.unlink()
    assert len(PictureFolder(tmp_path, CROP, 8, 0).held_out) == 1


def test_a_sample_follows_from_its_number_and_the_seed_alone(tmp_path):
    write_pictures(tmp_path, 8, width=48, height=20)
    first, again, other = (PictureFolder(tmp_path, CROP, 1, seed) for seed in (3, 3, 4))
    forward = [first.sample(number) for number in range(20)]
    for number in reversed(range(20)):  # as one that resumes late: nothing of it hangs on what was read before
        assert torch.equal(again.sample(number), forward[number])
    assert not all(torch.equal(other.sample(number), forward[number]) for number in range(20))


def test_crops_lie_everywhere_and_half_are_mirrored(tmp_path):
    """A ramp from left to right: its first column tells where the crop lies, and its slope whether it is mirrored."""
    ramp = np.arange(4 * CROP, dtype=np.uint8)[None].repeat(CROP, 0)
    for name in ("a.png", "b.png"):
        Image.fromarray(ramp).convert("RGB").save(tmp_path / name)
    folder = PictureFolder(tmp_path, CROP, 1, 0)
    rows = [(255 * folder.sample(number)[0, 0]).round() for number in range(400)]
    mirrored = [bool(row[0] > row[-1]) for row in rows]
    places = [int(row.min()) for row in rows]
    assert all(bool((row.diff() == (-1 if turned else 1)).all()) for row, turned in zip(rows, mirrored, strict=True))
    assert min(places) == 0 and max(places) == 3 * CROP and len(set(places)) == 3 * CROP + 1
    assert 160 < sum(mirrored) < 240  # four standard deviations of a fair coin


def test_batches_come_in_the_order_of_their_numbers(pictures):
    folder = PictureFolder(pictures, CROP, 1, 0)
    groups = [range(3), range(30, 33), [7], [7]]
    batches = list(folder.batches(iter(groups)))
    assert len(batches) == 4
    for group, batch in zip(groups, batches, strict=True):
        assert torch.equal(batch, torch.stack([folder.sample(number) for number in group]))
    assert list(folder.batches(iter([]))) == []


# --- how it is read ---------------------------------------------------------------------------------------------------


def test_the_shorter_side_is_scaled_to_the_crop(tmp_path):
    """Half black, half white, 64×32: the middle 16 pixels of it, scaled by half, are black on 8 and white on 8."""
    image = Image.new("RGB", (64, 32))
    image.paste((255, 255, 255), (32, 0, 64, 32))
    read = one_picture(tmp_path, image)
    assert read.shape == (3, CROP, CROP) and read.dtype == torch.float32
    assert read[..., :6].abs().max() < 0.05 and read[..., 10:].min() > 0.95


def test_a_pictures_exif_rotation_is_followed(tmp_path):
    """All eight orientations. Reference: Pillow's own transpose of the stored pixels, by the name that EXIF gives each."""
    stored = Image.fromarray(np.random.default_rng(0).integers(0, 256, (CROP, CROP, 3), np.uint8))
    upright = {
        1: stored,
        2: stored.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: stored.transpose(Image.Transpose.ROTATE_180),
        4: stored.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: stored.transpose(Image.Transpose.TRANSPOSE),
        6: stored.transpose(Image.Transpose.ROTATE_270),
        7: stored.transpose(Image.Transpose.TRANSVERSE),
        8: stored.transpose(Image.Transpose.ROTATE_90),
    }
    for orientation, expected in upright.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        read = one_picture(tmp_path, stored, exif=exif)
        assert torch.equal((255 * read).round().byte().movedim(0, -1), torch.from_numpy(np.array(expected)))


GREY = np.linspace(0, 255, CROP * CROP).round().astype(np.uint8).reshape(CROP, CROP)
COLOURS = np.random.default_rng(1).integers(0, 256, (CROP, CROP, 3), np.uint8)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        pytest.param(Image.fromarray(GREY), GREY, id="grey"),
        pytest.param(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(GREY.T)]), GREY, id="grey and alpha"),
        pytest.param(Image.fromarray(GREY.astype(np.uint16) * 257), GREY, id="16-bit grey"),
        pytest.param(Image.fromarray(GREY > 99), 255 * (GREY > 99), id="black and white"),
        pytest.param(Image.fromarray(COLOURS // 64 * 64).quantize(64), COLOURS // 64 * 64, id="palette"),
        pytest.param(
            Image.merge("RGBA", [*Image.fromarray(COLOURS).split(), Image.fromarray(GREY)]), COLOURS, id="alpha"
        ),
    ],
)
def test_every_kind_of_png_is_read_as_what_it_shows(tmp_path, image, expected):
    """Alpha is passed over, as the host's LoadImage does."""
    expected = np.broadcast_to(expected if expected.ndim == 3 else expected[..., None], (CROP, CROP, 3))
    read = (255 * one_picture(tmp_path, image)).round().movedim(0, -1).numpy()
    assert np.array_equal(read, expected)


def test_of_an_animated_webp_the_first_picture_counts(tmp_path):
    pages = [Image.new("RGB", (CROP, CROP), colour) for colour in ("red", "lime", "blue")]
    read = one_picture(tmp_path, pages[0], "one.webp", save_all=True, append_images=pages[1:], lossless=True)
    assert colour_of(read) == (255, 0, 0)


@pytest.mark.parametrize(("side", "cycles"), [(256, 2), (64, 5), (64, 2), (20, 3)])
def test_a_jpeg_is_read_at_a_fraction_that_loses_nothing(tmp_path, side, cycles):
    """Waves that the crop can hold, at any size of the file. Reference: the same waves drawn at the crop's own size."""

    def waves(pixels: int) -> np.ndarray:
        rows, columns = (np.mgrid[0:pixels, 0:pixels] + 0.5) / pixels
        return np.stack([rows, columns, 0.5 + 0.4 * np.sin(2 * np.pi * cycles * columns)], -1)

    image = Image.fromarray((255 * waves(side)).round().astype(np.uint8))
    read = one_picture(tmp_path, image, "one.jpg", quality=98, subsampling=0).movedim(0, -1).numpy()
    assert np.abs(read - waves(CROP))[1:-1, 1:-1].max() < 0.05
