"""Pictures in, of every kind that Pillow opens: the right colours, upright, their size looked at
first, or refused in words."""

import struct
import zlib

import pytest
import torch
from commandline import run
from PIL import Image, ImageFile, ImageFont, TiffImagePlugin, features
from pixels import chunk, png, text, tiff

from isdo import gallery
from isdo.commands.pages import opened

RAMP = bytes(8 * n for n in range(32))  # one row


def greys(file_or_image):
    """Return the first row's bytes of a picture, whose channels are the same."""
    pictures = (
        file_or_image
        if isinstance(file_or_image, torch.Tensor)
        else gallery.from_image(file_or_image)
    )
    numbers = gallery.to_bytes(pictures.reshape(-1, *pictures.shape[-2:])[:3])
    assert numbers.amax(-1).sub(numbers.amin(-1)).max() <= 3, "no grey"
    return numbers[0, :, 0].tolist()


def written(tmp_path, data):
    (tmp_path / "picture").write_bytes(data)
    return tmp_path / "picture"


def ramp(mode):
    """Return a PIL image of 32 x 1 greys in any mode."""
    image = Image.frombytes("L", (32, 1), RAMP)
    if mode.startswith("I"):
        image = Image.frombytes("I", (32, 1), struct.pack("=32i", *(257 * grey for grey in RAMP)))
        return image.convert(mode)
    by_way_of = {"La": "LA", "P": "L", "PA": "P", "RGBa": "RGBA"}.get(mode, "RGB")
    return image.convert(by_way_of).convert(mode)


@pytest.mark.parametrize("mode", [
    "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I;16", "I;16B", "I;16L", "I",
])  # fmt: skip
def test_a_grey_is_that_grey_in_every_mode(mode):
    if mode == "LAB" and not features.check("littlecms2"):
        pytest.skip("this Pillow knows no LAB")
    found = greys(ramp(mode))
    assert max(abs(a - b) for a, b in zip(found, RAMP, strict=True)) <= (4 if mode == "LAB" else 1)


def test_two_tones_are_black_and_white():
    assert greys(Image.frombytes("1", (8, 1), b"\x0f")) == [0] * 4 + [255] * 4


@pytest.mark.parametrize("file, expected", [
    (png((32, 1), 16, 0, b"\0" + b"".join(struct.pack(">H", 257 * n) for n in RAMP)), RAMP),
    (tiff((32, 1), 16, struct.pack("<32H", *(257 * n for n in RAMP))), RAMP),
    (tiff((32, 1), 16, struct.pack("<32H", *(65535 - 257 * n for n in RAMP)), black=0), RAMP),
    (tiff((32, 1), 8, bytes(255 - n for n in RAMP), black=0), RAMP),
    (tiff((32, 1), 12, bytes([0, 0x0F, 0xFF]) * 16), [0, 255] * 16),
    (b"P5 32 1 1023 " + b"".join(struct.pack(">H", n * 1023 // 248) for n in RAMP), [n * 255 // 248 for n in RAMP]),
    (png((32, 1), 16, 2, b"\0" + b"".join(struct.pack(">3H", *[257 * n] * 3) for n in RAMP)), RAMP),
    (png((32, 1), 16, 4, b"\0" + b"".join(struct.pack(">2H", 257 * n, 65535) for n in RAMP)), RAMP),
    (png((32, 1), 2, 0, b"\0" + b"\x1b" * 8), [0, 85, 170, 255] * 8),
], ids=["png", "tiff", "white is 0", "8 bits, white is 0", "12 bits", "10 bits", "colour", "alpha", "2 bits"])  # fmt: skip
def test_every_depth_is_scaled_to_its_own_white(tmp_path, file, expected):
    with Image.open(written(tmp_path, file)) as image:
        assert greys(image) == pytest.approx(list(expected), abs=1)


def test_sixteen_bits_are_not_rounded_to_eight():
    image = Image.frombytes("I", (2, 1), struct.pack("=2i", 1000, 1001))
    assert gallery.from_image(image)[0, 0].diff().item() == pytest.approx(2 / 65535, rel=1e-2)


@pytest.mark.parametrize("image", [
    Image.new("F", (2, 2), 0.5),
    Image.new("I", (2, 2), -1),
    Image.new("I", (2, 2), 65536),
], ids=lambda image: image.mode)  # fmt: skip
def test_numbers_that_nobody_can_read_are_refused(image):
    with pytest.raises(ValueError, match="its numbers .* white"):
        gallery.from_image(image)


@pytest.mark.parametrize("bits, form", [(8, "<1024b"), (16, "<1024h"), (32, "<1024i")])
def test_signed_numbers_are_refused(tmp_path, bits, form):
    file = written(tmp_path, tiff((32, 32), bits, struct.pack(form, *[-1, 1] * 512), sign=2))
    with pytest.raises(ValueError, match="picture"):  # or Pillow does not know it
        opened(file)


@pytest.mark.parametrize("depth, colour, shown, key", [
    (1, 0, b"\x40", b"\0\1"),
    (2, 0, b"\x10", b"\0\1"),
    (4, 0, b"\x03", b"\0\3"),
    (8, 0, b"\0\5", b"\0\5"),
    (16, 0, b"\0\0\x12\x34", b"\x12\x34"),
    (8, 2, b"\0\0\0\1\2\3", b"\0\1\0\2\0\3"),
    (16, 2, b"\0\0\0\0\0\0\x12\x34\x56\x78\x9a\xbc", b"\x12\x34\x56\x78\x9a\xbc"),
])  # fmt: skip
def test_a_transparent_colour_is_white_in_every_depth(tmp_path, depth, colour, shown, key):
    file = written(
        tmp_path,
        png((32, 8), depth, colour, _rows(depth, colour, shown), before=chunk(b"tRNS", key)),
    )
    found = gallery.to_bytes(opened(file)[0][0])
    assert found[:, 0].eq(0).all() and found[:, 1].eq(255).all()


def _rows(depth, colour, pair):
    """Return 8 rows of 32 pixels that begin with this pair; the others are 0."""
    length = 32 * depth * (3 if colour == 2 else 1) // 8
    return (b"\0" + pair + bytes(length - len(pair))) * 8


@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBA", "RGBa"])
def test_what_is_transparent_is_white_in_every_mode_with_alpha(mode):
    image = (
        Image.new("LA", (3, 2), (9, 0)) if "L" in mode else Image.new("RGBA", (3, 2), (9, 9, 9, 0))
    )
    image = Image.new("PA", (3, 2)) if mode == "PA" else image.convert(mode)
    assert torch.equal(gallery.from_image(image), torch.ones(3, 2, 3))


@pytest.mark.parametrize("key", [3, b"\xff\xff\xff\0"])
def test_a_palette_may_have_transparent_colours(tmp_path, key):
    image = Image.new("P", (8, 8), 3)
    image.putpalette([9] * 768)
    image.save(tmp_path / "a.png", transparency=key)
    assert opened(tmp_path / "a.png")[0].eq(1).all()


# EXIF's orientation: in which corner the file's first pixel, and the last of its first row, belong
# (row, column)
CORNERS = {
    1: ((0, 0), (0, 1)), 2: ((0, 1), (0, 0)), 3: ((1, 1), (1, 0)), 4: ((1, 0), (1, 1)),
    5: ((0, 0), (1, 0)), 6: ((0, 1), (1, 1)), 7: ((1, 1), (0, 1)), 8: ((1, 0), (0, 0)),
}  # fmt: skip


@pytest.mark.parametrize("orientation", CORNERS)
@pytest.mark.parametrize("format_", ["png", "webp", "tiff", "jpeg", "16 bits"])
def test_a_picture_is_turned_as_a_viewer_turns_it(tmp_path, format_, orientation):
    if format_ == "webp" and not features.check("webp"):
        pytest.skip("this Pillow knows no WebP")
    image = Image.new("L", (32, 16), 128)
    image.paste(0, (0, 0, 8, 8))
    image.paste(255, (24, 0, 32, 8))
    if format_ == "16 bits":
        image = Image.frombytes(
            "I", image.size, struct.pack("=512i", *(257 * n for n in image.tobytes()))
        ).convert("I;16")
    exif, file = Image.Exif(), tmp_path / "a"
    exif[0x0112] = orientation
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[0x0112] = orientation
    image.save(file, "png" if format_ == "16 bits" else format_, exif=exif, tiffinfo=info)
    found = opened(file)[0][0, 0]
    assert found.shape == ((16, 32) if orientation < 5 else (32, 16))
    first, second = ((-row, -column) for row, column in CORNERS[orientation])
    assert found[first] < -0.8 and found[second] > 0.8


@pytest.mark.parametrize(
    "exif", [b"", b"Exif\0\0", b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", bytes(99)]
)
@pytest.mark.parametrize("format_", ["png", "jpeg"])
def test_broken_exif_turns_nothing(tmp_path, format_, exif):
    Image.new("RGB", (32, 16)).save(tmp_path / "a", format_, exif=exif)
    assert opened(tmp_path / "a")[0].shape == (1, 3, 16, 32)


def test_a_turned_page_is_cut_as_it_is_seen(tmp_path):
    pictures = gallery.noise(range(2), (3, 32, 32)).clamp(-1, 1)
    exif = Image.Exif()
    exif[0x0112] = 6
    words = text("animals\nBatch size: 2, Version: isdo 0")
    sheet = gallery.grid(pictures, zoom=1).transpose(Image.Transpose.ROTATE_90)
    sheet.save(tmp_path / "a.png", exif=exif)
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[:33] + words + data[33:])
    found, zoom, _ = opened(tmp_path / "a.png")
    assert zoom == 1 and torch.equal(gallery.to_bytes(found), gallery.to_bytes(pictures))


PAGE = "animals\nSteps: 2, Seed: 7, CFG scale: 1, Size: 32x32, Batch size: {}, Version: isdo 0"


@pytest.mark.parametrize("size, before", [
    ((1024, 32), b""),
    ((32, 520), b""),
    ((36, 32), b""),
    ((8000, 8000), b""),
    ((13_000, 13_000), b""),  # Pillow warns
    ((20_000, 20_000), b""),  # Pillow refuses
    ((2**31 - 1, 2**31 - 1), b""),
    ((8000, 8000), text(PAGE.format(4))),
    ((19_006, 19_006), text(PAGE.format(250_000))),  # a page indeed, and too large
], ids=str)  # fmt: skip
def test_the_size_is_looked_at_before_anything_is_decoded(
    capsys, tmp_path, monkeypatch, size, before
):
    def load(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    limit, file = Image.MAX_IMAGE_PIXELS, written(tmp_path, png(size, 1, 0, before=before))
    status, printed, error = run(capsys, "refine", file, "--out", tmp_path / "out.png")
    assert (status, printed, error.count("\n")) == (2, "", 1)
    assert "{} x {}: ".format(*size) in error and "give a page" in error.replace(
        "give the page", "give a page"
    )
    assert limit == Image.MAX_IMAGE_PIXELS


WHOLE = png((32, 32), 8, 2, (b"\0" + bytes(range(96))) * 32)
BOMB = chunk(b"zTXt", b"parameters\0\0" + zlib.compress(bytes(2**24)))


@pytest.mark.parametrize("data", [
    b"",
    b"\x89PNG\r\n\x1a\n",
    b"no picture\n",
    WHOLE[:40],
    WHOLE[:60],
    WHOLE[:50] + b"\xff" * 9 + WHOLE[59:],
    WHOLE.replace(b"IDAT", b"IDOT"),
    WHOLE.replace(b"\x08\x02", b"\x03\x07", 1),
    png((32, 32), 8, 2, b"\0"),
    png((32, 32), 8, 2, before=BOMB),
    png((32, 32), 8, 2, (b"\0" + bytes(96)) * 32, after=BOMB),
    b"GIF89a \0 \0",
    b"II*\0\xff\xff\xff\xff",
    tiff((32, 32), 16, b"short"),
    b"P5 32 32 65535 short",
    b"BM" + bytes(60),
])  # fmt: skip
def test_what_is_broken_ends_in_one_line(capsys, tmp_path, data, recwarn):
    file = written(tmp_path, data)
    status, printed, error = run(capsys, "refine", file, "--out", tmp_path / "out.png")
    assert (status, printed, error.count("\n")) == (2, "", 1)
    assert str(file) in error and ": give a" in error and not recwarn
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_and_a_missing_file_are_no_pictures(capsys, tmp_path):
    for file in (tmp_path, tmp_path / "nowhere.png", tmp_path / "two\nlines.png"):
        status, _, error = run(capsys, "refine", file, "--out", tmp_path / "out.png")
        assert status == 2 and error.count("\n") == 1 and "cannot be read" in error


@pytest.mark.parametrize("format_", ["gif", "png", "tiff"])
def test_an_animation_is_its_first_picture(tmp_path, format_):
    frames = [Image.new("L", (32, 32), 16 * n) for n in range(3, 6)]
    frames[0].save(tmp_path / "a", format_, save_all=True, append_images=frames[1:])
    assert gallery.to_bytes(opened(tmp_path / "a")[0]).float().mean().item() == pytest.approx(
        48, abs=2
    )


@pytest.mark.parametrize("count", [1, 2, 3, 7, 12])
@pytest.mark.parametrize("zoom", [1, 3])
def test_the_size_of_a_page_is_known_before_it_is_drawn(count, zoom):
    size = gallery.grid(torch.zeros(count, 3, 8, 8), zoom=zoom).size
    assert gallery.grid_size(count, 8, zoom) == gallery.check_page(count, 8, zoom) == size
    assert gallery.zoom_of(size, count, 8) == zoom
    assert not gallery.zoom_of((size[0] + 1, size[1]), count, 8) and not gallery.zoom_of(
        (5, 5), count, 8
    )


def test_a_page_has_a_largest_size():
    with pytest.raises(
        ValueError, match="46475 pictures at zoom 1 make a page of .* take fewer, or a smaller zoom"
    ):
        gallery.check_page(46_475, 32, 1)


class OldFonts:
    """Pillow's fonts as before 10.1: one, of one size, without outlines."""

    def __init__(self):
        new = getattr(ImageFont, "load_default_imagefont", None)
        self.font = new() if new else ImageFont.load_default()

    def __call__(self):
        return self.font


@pytest.mark.parametrize("old", [False, True])
def test_labels_stand_beside_their_pictures_in_any_font(monkeypatch, old):
    if old:
        monkeypatch.setattr(ImageFont, "load_default", OldFonts())
    rows = [torch.zeros(2, 3, 16, 16)] * 2
    sheet = gallery.page(rows, ["a row\nof two", "b"], ["left", "right"])
    ink = gallery.from_image(sheet)[0] < -0.5
    left, top = sheet.width - 2 * (64 + gallery.GAP), sheet.height - 2 * (64 + gallery.GAP)
    across, down = ink[:, :left].any(1), ink[:top].any(0)
    assert (
        across[top : top + 64].any()
        and across[top + 70 :].any()
        and not across[: top - gallery.GAP].any()
    )
    assert (
        all(down[left + i * 70 : left + i * 70 + 64].any() for i in (0, 1))
        and not down[: left - gallery.GAP].any()
    )
    middle = across[top : top + 64].nonzero().float().mean()
    assert abs(middle - 32) < 4


def test_a_page_without_labels_needs_no_font(monkeypatch):
    monkeypatch.delattr(ImageFont, "load_default")
    assert gallery.grid(torch.zeros(1, 3, 8, 8)).size == (44, 44)
