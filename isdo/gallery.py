"""Pictures as a person sees them: noise per image, pages of pictures, PNG files that say how they
were made."""

import torch

from . import files

GAP, FONT = 6, 15  # pixels
PIXELS = 2**26  # of a page: 8,192 x 8,192; beyond 89 million, Pillow takes it for an attack
ZOOM = 64
# What Pillow does not turn into RGBA, or not rightly, in one go
ON_THE_WAY = {"La": "LA", "LAB": "RGB"}
TIFF_BITS, TIFF_ZERO, TIFF_SIGN = 258, 262, 339  # tags


def noise(seeds, shape):
    """Return normal noise (len(seeds), *shape) float32, each image from its own seed: the same in
    any batch."""
    return torch.stack(
        [
            torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
            for seed in seeds
        ]
    )


def to_bytes(pictures):
    """Map pictures (..., 3 or 1, H, W) in [-1, 1] to uint8 (..., H, W, 3); what lies outside is
    clipped, one channel is grey.

    Raises:
        ValueError: another number of channels.
    """
    if check_channels(pictures.shape[-3]) == 1:
        pictures = pictures.expand(*pictures.shape[:-3], 3, -1, -1)
    return (
        ((pictures.float().clamp(-1, 1) + 1) * 127.5)
        .round()
        .to(torch.uint8)
        .movedim(-3, -1)
        .contiguous()
    )


def check_channels(count):
    """Return ``count`` if pictures of so many channels can be shown.

    Raises:
        ValueError: they cannot: latents are no pictures before somebody decodes them.
    """
    if count not in (1, 3):
        raise ValueError(
            f"{count} channels are no picture: 1 is grey, 3 are red, green and blue; decode latents first"
        )
    return count


def page(rows, row_labels=None, column_labels=None, zoom=4):
    """Lay pictures out as a grid on white.

    Args:
        rows: list of (N, 3 or 1, H, W) tensors in [-1, 1], one for each row.
        row_labels: one text for each row, lines parted by newlines; None: no room is left for them.
        column_labels: one text for each column, or None.
        zoom: every pixel becomes zoom x zoom pixels, unsmoothed.

    Returns:
        A PIL image.
    """
    from PIL import Image, ImageDraw

    font = _font() if row_labels or column_labels else None
    height, width = (zoom * size for size in rows[0].shape[2:])
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))

    def box(text):
        return ruler.multiline_textbbox((0, 0), text, font)

    left = max((box(text)[2] + 2 * GAP for text in row_labels or ()), default=GAP)
    top = FONT + 3 * GAP if column_labels else GAP
    columns = max(len(row) for row in rows)
    size = (int(left) + columns * (width + GAP), top + len(rows) * (height + GAP))
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for i, row in enumerate(rows):
        y = top + i * (height + GAP)
        if row_labels:
            # placed by its box: the fonts of an older Pillow know no anchors
            _, above, _, below = box(row_labels[i])
            pen.multiline_text(
                (GAP, y + (height - above - below) // 2), row_labels[i], "black", font
            )
        for j, pixels in enumerate(to_bytes(row)):
            picture = Image.fromarray(pixels.numpy()).resize(
                (width, height), Image.Resampling.NEAREST
            )
            sheet.paste(picture, (int(left) + j * (width + GAP), y))
    for j, text in enumerate(column_labels or ()):
        start, _, end, _ = box(text)
        pen.text(
            (int(left) + j * (width + GAP) + (width - start - end) // 2, GAP), text, "black", font
        )
    return sheet


def _font():
    from PIL import ImageFont

    try:
        return ImageFont.load_default(FONT)
    except (
        TypeError,
        ImportError,
    ):  # before Pillow 10.1, or built without FreeType: one size, and Latin letters only
        return ImageFont.load_default()


def grid(pictures, columns=None, zoom=4):
    """Return (N, 3 or 1, H, W) pictures as a PIL image with as many columns as rows, or
    ``columns``."""
    columns = columns or columns_for(len(pictures))
    return page(list(pictures.split(columns)), zoom=zoom)


def columns_for(count):
    """Return the columns of a grid that is about as wide as high."""
    return max(1, round(count**0.5 + 0.499))


def sides(side):
    """Return the (height, width) of pictures: they are given so, or as the one number of a
    square."""
    return (side, side) if isinstance(side, int) else tuple(side)


def grid_size(count, side, zoom):
    """Return the (width, height) of the page that `grid` makes of so many pictures of ``side``,
    which is as for `sides`."""
    columns, (height, width) = columns_for(count), sides(side)
    lines = -(-count // columns)
    return tuple(GAP + n * (zoom * size + GAP) for n, size in ((columns, width), (lines, height)))


def zoom_of(size, count, side):
    """Return the zoom of a page of that size, 0 when `grid` makes no such page of so many pictures
    of ``side``."""
    zoom = ((size[0] - GAP) // columns_for(count) - GAP) // sides(side)[1]
    return zoom if zoom > 0 and grid_size(count, side, zoom) == tuple(size) else 0


def check_page(count, side, zoom):
    """Return the (width, height) of a page, before its pictures are drawn.

    Raises:
        ValueError: a page of more than PIXELS pixels.
    """
    width, height = grid_size(count, side, zoom)
    if width * height > PIXELS:
        raise ValueError(
            f"{count} pictures at zoom {zoom} make a page of {width} x {height}, and {PIXELS / 1e6:.0f} million pixels are "
            "the most: take fewer, or a smaller zoom"
        )
    return width, height


def cut(image, count, side):
    """Return the pictures (count, 3, H, W) in [-1, 1] of a page that `grid` made, and its zoom;
    ``side`` as for `sides`.

    Raises:
        ValueError: a page of another size.
    """
    height, width = sides(side)
    if not (zoom := zoom_of(image.size, count, side)):
        raise ValueError(
            f"the picture is {image.width} x {image.height}: no page of {count} pictures of {width} x {height}"
        )
    columns, down, across = columns_for(count), zoom * height, zoom * width
    places = [
        (GAP + i % columns * (across + GAP), GAP + i // columns * (down + GAP))
        for i in range(count)
    ]
    parts = (image.crop((x, y, x + across, y + down)) for x, y in places)
    return torch.stack([from_image(part)[:, ::zoom, ::zoom] for part in parts]), zoom


def picture(pixels):
    """Return one picture (3 or 1, H, W) in [-1, 1] as a PIL image."""
    from PIL import Image

    return Image.fromarray(to_bytes(pixels).numpy())


def from_image(image):
    """Return a PIL image as (3, H, W) in [-1, 1]; what is transparent is white.

    Raises:
        ValueError: numbers of which nobody says which is white: fractions, negative ones, more than
            16 bits.
    """
    from PIL import Image

    tags = getattr(image, "tag_v2", {})
    if image.mode == "F" or 2 in _numbers(tags.get(TIFF_SIGN)):
        raise ValueError(
            "its numbers are fractions or signed, and nobody says which of them is white"
        )
    if image.mode.startswith("I"):
        return _from_deep(image, tags)
    if image.mode in ON_THE_WAY:
        image = image.convert(ON_THE_WAY[image.mode])
    image = image.convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    numbers = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return numbers.view(image.height, image.width, 3).movedim(2, 0) / 127.5 - 1


def _from_deep(image, tags):
    """Return greys of more than 8 bits, (3, H, W): Pillow's own ``convert`` would clip them at
    255."""
    white = 4095 if _numbers(tags.get(TIFF_BITS)) == (12,) else 65535
    numbers = torch.frombuffer(bytearray(image.convert("I").tobytes()), dtype=torch.int32).view(
        image.height, image.width
    )
    low, high = (int(number) for number in numbers.aminmax())
    if low < 0 or high > white:
        raise ValueError(f"its numbers run from {low} to {high}, and white is {white}")
    grey = numbers / (white / 2) - 1
    if tags.get(TIFF_ZERO) == 0:  # white; Pillow sees to that in pictures of 8 bits only
        grey = -grey
    grey[numbers == image.info.get("transparency", -1)] = 1
    return grey.expand(3, -1, -1).contiguous()


def _numbers(value):
    return value if isinstance(value, tuple) else (value,)


def write_gif(images, path, seconds=0.5):
    """Write PIL images as an animation, whole or not at all; the last stays three times as long."""
    path, palette = check_target(path, ".gif", room=0), [image.quantize() for image in images]
    times = [int(1000 * seconds)] * (len(palette) - 1) + [int(3000 * seconds)]
    with files.replacing(path) as part:
        palette[0].save(
            part, "GIF", save_all=True, append_images=palette[1:], duration=times, loop=0
        )


def room(size, frames=1):
    """Return the bytes that a file of pictures of (width, height) may take: what noise takes, which
    nothing makes smaller."""
    return 3 * frames * size[0] * size[1] + frames * size[1] + files.ROOM


def check_target(path, suffix=".png", room=files.ROOM):
    """Return ``path`` if a picture can be written there, before anything is computed for it.

    Raises:
        ValueError: another suffix, or a place where no file of ``room`` bytes can be written.
    """
    path = files.named(path)
    if path.suffix.lower() != suffix:
        raise ValueError(f"the output is a {suffix[1:].upper()} file: {path} must end in {suffix}")
    return files.check_target(path, room)


def write_png(image, path, parameters=None):
    """Write a PIL image whole or not at all; ``parameters`` goes into the text chunk that the
    WebUIs read."""
    from PIL.PngImagePlugin import PngInfo

    path, text = check_target(path, room=0), PngInfo()
    if parameters is not None:
        text.add_text("parameters", parameters)
    with files.replacing(path) as part:
        image.save(part, "PNG", pnginfo=text)
