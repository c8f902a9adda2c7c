"""Folders of pictures: every file that a person may have there is a square picture of its class, or
is told by name."""

import os
import pickle
import sys
import unicodedata

import gratings
import numpy as np
import pytest
import torch
from PIL import Image

from isdo.zoo import folder
from isdo.zoo.folder import find, read, square

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quarters(size=32, colours=(RED, GREEN, BLUE, WHITE)):
    """Return a picture of four colours: top left, top right, bottom left, bottom right."""
    image = Image.new("RGB", (size, size))
    half = size // 2
    for i, colour in enumerate(colours):
        x, y = half * (i % 2), half * (i // 2)
        image.paste(colour, (x, y, x + half, y + half))
    return image


def seen(image):
    """Return the colours of a picture's quarters, away from what a filter mixes."""
    return [
        image.getpixel((x, y))
        for y in (image.height // 8, image.height - 1)
        for x in (image.width // 8, image.width - 1)
    ]


def saved(image, path, **options):
    image.save(path, **options)
    return square(Image.open(path), 8)


def assert_near(found, wanted, by=0):
    assert np.abs(np.array(found, int) - np.array(wanted, int)).max() <= by, found


@pytest.mark.parametrize("mode, ending, by", [
    ("RGB", "png", 0), ("RGB", "webp", 90), ("RGB", "jpg", 40), ("RGB", "bmp", 0), ("P", "png", 0), ("P", "gif", 0),
    ("RGBA", "png", 0), ("CMYK", "jpg", 40), ("CMYK", "tif", 0),
])  # fmt: skip
def test_a_picture_of_any_kind_has_its_colours(tmp_path, mode, ending, by):
    image = quarters() if mode == "RGB" else quarters().convert(mode)
    found = saved(image, tmp_path / f"a.{ending}")
    assert (found.mode, found.size) == ("RGB", (8, 8))
    assert_near(seen(found), [RED, GREEN, BLUE, WHITE], by)


@pytest.mark.parametrize("mode, levels", [
    ("L", (0, 100, 200, 255)), ("LA", (0, 100, 200, 255)), ("1", (0, 255, 255, 0)), ("I;16", (0, 100, 200, 255)),
])  # fmt: skip
def test_greys_are_greys_whatever_their_depth(tmp_path, mode, levels):
    grey = quarters(colours=[(v, v, v) for v in levels]).convert("L")
    image = grey.convert(mode) if mode != "I;16" else None
    if image is None:
        image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
        assert image.mode == "I;16"
    found = saved(image, tmp_path / "a.png")
    assert_near(seen(found), [(v, v, v) for v in levels], 1)


def test_what_is_transparent_is_white(tmp_path):
    image = quarters().convert("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    image.paste((*RED, 255), (0, 0, 16, 16))
    image.paste((*BLUE, 128), (0, 16, 16, 32))
    found = saved(image, tmp_path / "a.png")
    assert_near(seen(found), [RED, WHITE, (127, 127, 255), WHITE], 1)
    palette = quarters().quantize(4)
    red = palette.getpixel((0, 0))
    found = saved(palette, tmp_path / "b.png", transparency=red)
    assert_near(seen(found), [WHITE, GREEN, BLUE, WHITE], 1)


@pytest.mark.parametrize("orientation, wanted", [
    (1, (RED, GREEN, BLUE, WHITE)), (3, (WHITE, BLUE, GREEN, RED)), (6, (BLUE, RED, WHITE, GREEN)),
    (8, (GREEN, WHITE, RED, BLUE)),
])  # fmt: skip
def test_a_photograph_stands_upright(tmp_path, orientation, wanted):
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = saved(quarters(128), tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    assert_near(seen(found), wanted, 12)


@pytest.mark.parametrize("size", [(60, 32), (32, 60), (61, 32)])
def test_the_middle_square_is_taken(tmp_path, size):
    image = Image.new("RGB", size, RED)
    left, top = ((length - 32) // 2 for length in size)
    image.paste(GREEN, (left, top, left + 32, top + 32))
    found = np.asarray(saved(image, tmp_path / "a.png")).astype(int)
    assert (found == GREEN).all()


def test_shrinking_means_over_pixels_and_does_not_pick_them(tmp_path):
    board = np.indices((256, 256)).sum(0) % 2 * 255
    found = np.asarray(saved(Image.fromarray(board.astype(np.uint8)), tmp_path / "a.png"))
    assert np.abs(found.astype(int) - 127).max() <= 2


def test_subfolders_are_the_classes_however_deep_their_pictures_lie(tmp_path):
    cafe = unicodedata.normalize("NFD", "café")  # as a Mac writes it
    for i, name in enumerate((f"{cafe}/a", "zoo/deep/er", "Äpfel", "zoo")):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        quarters(8 + 8 * i).save(tmp_path / name / "x.PNG")
    found = find(tmp_path)
    assert found.classes == ("café", "zoo", "Äpfel") and found.labels == (0, 1, 1, 2)
    assert [path.name for path in found.paths] == ["x.PNG"] * 4 and not found.others


def test_hidden_things_are_passed_over_and_other_files_counted(tmp_path):
    gratings.write(tmp_path, 3)
    for name in (".thumbnails/a.png", "__MACOSX/across/a.png", "across/._0.png", "@eaDir/a.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"nothing")
    for name in ("across/0.txt", "down/1.txt", "down/film.mp4", "down/README", "down/Thumbs.db"):
        (tmp_path / name).write_text("no picture")
    found = read(tmp_path, 8)
    assert found.classes == ("across", "down") and len(found) == 6 and not found.left_out.unread
    assert found.left_out.others == {".txt": 2, ".mp4": 1, "no ending": 1}
    assert "left out: 4 files that are no pictures (.mp4 1, .txt 2, no ending 1)" in found.told()


def test_what_is_broken_double_or_of_no_class_is_left_out_and_told(tmp_path):
    gratings.write(tmp_path, 6)
    whole = (tmp_path / "down" / "0.png").read_bytes()
    (tmp_path / "down" / "copy.png").write_bytes(whole)
    (tmp_path / "across" / "of another class.png").write_bytes(whole)
    (tmp_path / "down" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "across" / "not at all.jpg").write_text("hello")
    quarters().save(tmp_path / "loose.png")
    found = read(tmp_path, 8)
    assert len(found) == 12 and found.left_out.copies == 2 and found.left_out.loose == 1
    names, reasons = zip(*found.left_out.unread, strict=True)
    assert names == ("across/not at all.jpg", "down/cut.png")
    assert reasons[0] == "no picture that Pillow reads" and "truncated" in reasons[1]
    assert str(tmp_path) not in found.told() and "2 that cannot be read: across/not" in found.told()
    assert "12 pictures of" in found.told() and "2 that are copies of others" in found.told()


def test_what_is_too_large_to_decode_is_told(tmp_path, monkeypatch):
    gratings.write(tmp_path, 4)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48 * 48)
    quarters(60).save(tmp_path / "down" / "bomb.png")
    ((name, why),) = read(tmp_path, 8).left_out.unread
    assert name == "down/bomb.png" and "decompression bomb" in why


@pytest.mark.parametrize("below", ["", "all"])
def test_one_class_is_none(tmp_path, below):
    (tmp_path / below).mkdir(exist_ok=True)
    for i in range(5):
        quarters(8 + 2 * i, ((50 * i,) * 3, RED, RED, BLUE)).save(tmp_path / below / f"{i}.png")
    found = read(tmp_path, 8)
    assert found.classes == () and found.labels.tolist() == [0] * 5 and not found.left_out.loose
    assert "no classes" in found.told()


def test_what_cannot_be_learned_from_is_refused_in_words(tmp_path):
    with pytest.raises(ValueError, match="is no folder: name the one"):
        read(tmp_path / "nowhere", 8)
    with pytest.raises(ValueError, match="holds no pictures"):
        read(tmp_path, 8)
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_text("broken")
    with pytest.raises(
        ValueError, match=r"0 different pictures .* 4 are the fewest; 3 that cannot"
    ):
        read(tmp_path, 8)
    for i in range(5):
        quarters(8, (RED, (i,) * 3, RED, BLUE)).save(tmp_path / "a" / f"x{i}.png")
        quarters(8, (RED, (9 * i + 9,) * 3, RED, BLUE)).save(tmp_path / "c" / f"x{i}.png")
    with pytest.raises(ValueError, match="the class 'b' of .* has no picture of its own"):
        read(tmp_path, 8)


def test_the_order_is_by_chance_the_same_again_and_labels_stay_with_their_pictures(tmp_path):
    random = np.random.default_rng(0)
    for k, name in enumerate(("dark", "light")):
        (tmp_path / name).mkdir()
        for i in range(12):
            grey = int(random.integers(0, 100)) + 128 * k
            quarters(16, ((grey,) * 3, (i,) * 3, RED, BLUE)).save(tmp_path / name / f"{i}.png")
    first, again = read(tmp_path, 8), read(tmp_path, 8)
    assert torch.equal(first.pictures, again.pictures) and first.key == again.key
    assert torch.equal((first.pictures[:, 0, 0, 1, 1] > 120).long(), first.labels)
    assert first.labels.tolist() not in (sorted(first.labels.tolist()), [0, 1] * 12)
    assert first.pictures.shape == (24, 1, 3, 8, 8) and first.pictures.dtype == torch.uint8


def test_the_first_pictures_are_held_out_without_a_copy(tmp_path):
    found = read(gratings.write(tmp_path / "a", 10), 8)
    train, held_out = found.split(0.25)
    assert (len(train), len(held_out)) == (15, 5)
    assert torch.equal(torch.cat([held_out.pictures, train.pictures]), found.pictures)
    assert held_out.pictures.data_ptr() == found.pictures.data_ptr()
    assert len(found.split(0.0)[1]) == 1 and len(found.split(1.0)[0]) == 1


def test_the_root_mean_square_is_that_of_the_values(tmp_path):
    found = read(gratings.write(tmp_path / "a", 4), 8)
    values = found.pictures.double() / 127.5 - 1
    assert found.rms() == pytest.approx(values.square().mean().sqrt().item(), abs=5e-4)


def test_the_key_knows_the_files_and_not_when_they_were_copied(tmp_path):
    gratings.write(tmp_path, 4)
    file, keys = tmp_path / "down" / "0.png", []
    for moment in (1, 2):
        os.utime(file, (moment, moment))
        keys.append((find(tmp_path).key(8), find(tmp_path).key(8, times=True)))
    assert keys[0][0] == keys[1][0] and keys[0][1] != keys[1][1]
    assert find(tmp_path).key(16) != keys[0][0]
    file.rename(file.with_name("renamed.png"))
    assert find(tmp_path).key(8) != keys[0][0]


@pytest.mark.skipif(sys.platform == "win32", reason="links ask for rights there")
def test_links_are_followed_and_circles_end(tmp_path):
    data = gratings.write(tmp_path / "data", 4)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "one").symlink_to(data / "across")
    (tmp_path / "linked" / "two").symlink_to(data / "down")
    (data / "down" / "round").symlink_to(data / "down")
    found = find(tmp_path / "linked")
    assert found.classes == ("one", "two") and len(found.paths) == 8


def test_many_pictures_are_kept_in_a_file_that_the_next_run_and_other_processes_read(
    tmp_path, monkeypatch
):
    data, cache = gratings.write(tmp_path / "data", 8), tmp_path / "cache"
    cache.mkdir()
    (data / "down" / "broken.png").write_text("broken")
    plain = read(data, 8, cache)
    assert not list(cache.iterdir())  # they are few
    monkeypatch.setattr(folder, "MEMORY", 8 * 8 * 3 * 16)
    first = read(data, 8, cache)
    assert len(list(cache.iterdir())) == 2
    decode = folder._read
    monkeypatch.setattr(folder, "_read", None)  # nothing is decoded again
    for found in (first, read(data, 8, cache), pickle.loads(pickle.dumps(first))):
        assert torch.equal(found.pictures, plain.pictures)
        assert torch.equal(found.labels, plain.labels) and found.told() == plain.told()
    assert len(pickle.dumps(first)) < 4000
    train, _ = first.split(0.25)
    assert torch.equal(pickle.loads(pickle.dumps(train)).pictures, train.pictures)
    monkeypatch.setattr(folder, "_read", decode)
    quarters(30).save(data / "across" / "new.png")
    assert len(read(data, 8, cache)) == len(plain) + 1
    assert len(list(cache.iterdir())) == 4
