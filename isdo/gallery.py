"""Pictures as a person sees them: noise per image, pages of pictures, PNG files that say how they were made."""

from pathlib import Path

import torch

from .files import replacing

GAP, FONT = 6, 15  # pixels


def noise(seeds, shape):
    """Return normal noise (len(seeds), *shape) float32, each image from its own seed: the same in any batch."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def to_bytes(pictures):
    """Map pictures (..., 3, H, W) in [-1, 1] to uint8 (..., H, W, 3); what lies outside is clipped."""
    return ((pictures.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).movedim(-3, -1).contiguous()


def page(rows, row_labels=None, column_labels=None, zoom=4):
    """Lay pictures out as a grid on white.

    Args:
        rows: list of (N, 3, H, W) tensors in [-1, 1], one for each row.
        row_labels: one text for each row, lines parted by newlines; None: no room is left for them.
        column_labels: one text for each column, or None.
        zoom: every pixel becomes zoom x zoom pixels, unsmoothed.

    Returns:
        A PIL image.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(FONT)
    height, width = (zoom * size for size in rows[0].shape[2:])
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left = max((ruler.multiline_textbbox((0, 0), text, font)[2] + 2 * GAP for text in row_labels or ()), default=GAP)
    top = FONT + 3 * GAP if column_labels else GAP
    columns = max(len(row) for row in rows)
    size = (int(left) + columns * (width + GAP), top + len(rows) * (height + GAP))
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for i, row in enumerate(rows):
        y = top + i * (height + GAP)
        if row_labels:
            pen.multiline_text((GAP, y + height // 2), row_labels[i], "black", font, anchor="lm")
        for j, pixels in enumerate(to_bytes(row)):
            picture = Image.fromarray(pixels.numpy()).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(picture, (int(left) + j * (width + GAP), y))
    for j, text in enumerate(column_labels or ()):
        pen.text((int(left) + j * (width + GAP) + width // 2, GAP), text, "black", font, anchor="ma")
    return sheet


def grid(pictures, columns=None, zoom=4):
    """Return (N, 3, H, W) pictures as a PIL image with as many columns as rows, or ``columns``."""
    columns = columns or columns_for(len(pictures))
    return page(list(pictures.split(columns)), zoom=zoom)


def columns_for(count):
    """Return the columns of a grid that is about as wide as high."""
    return max(1, round(count**0.5 + 0.499))


def cut(image, count, side):
    """Return the pictures (count, 3, side, side) in [-1, 1] of a page that `grid` made, and its zoom.

    Raises:
        ValueError: a page of another size.
    """
    columns = columns_for(count)
    step = (image.width - GAP) / columns
    zoom = (step - GAP) / side
    if zoom < 1 or zoom != int(zoom) or image.height != GAP + -(-count // columns) * step:
        raise ValueError(f"the picture is {image.width} x {image.height}: no page of {count} pictures of {side} x {side}")
    zoom, step = int(zoom), int(step)
    pixels = from_image(image)
    places = [(GAP + i // columns * step, GAP + i % columns * step) for i in range(count)]
    return torch.stack([pixels[:, y : y + zoom * side : zoom, x : x + zoom * side : zoom] for y, x in places]), zoom


def picture(pixels):
    """Return one picture (3, H, W) in [-1, 1] as a PIL image."""
    from PIL import Image

    return Image.fromarray(to_bytes(pixels).numpy())


def from_image(image):
    """Return a PIL image as (3, H, W) in [-1, 1]; what is transparent is white."""
    from PIL import Image

    image = image.convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    numbers = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return numbers.view(image.height, image.width, 3).movedim(2, 0) / 127.5 - 1


def write_gif(images, path, seconds=0.5):
    """Write PIL images as an animation, whole or not at all; the last stays three times as long."""
    path, palette = check_target(path, ".gif"), [image.quantize() for image in images]
    times = [int(1000 * seconds)] * (len(images) - 1) + [int(3000 * seconds)]
    with replacing(path) as part:
        palette[0].save(part, "GIF", save_all=True, append_images=palette[1:], duration=times, loop=0)


def check_target(path, suffix=".png"):
    """Return ``path`` if a picture can be written there, before anything is computed for it.

    Raises:
        ValueError: another suffix, or a folder that does not exist.
    """
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise ValueError(f"the output is a {suffix[1:].upper()} file: {path} must end in {suffix}")
    if not path.parent.is_dir():
        raise ValueError(f"the folder {path.parent} does not exist: make it first")
    return path


def write_png(image, path, parameters=None):
    """Write a PIL image whole or not at all; ``parameters`` goes into the text chunk that the WebUIs read."""
    from PIL.PngImagePlugin import PngInfo

    path, text = check_target(path), PngInfo()
    if parameters is not None:
        text.add_text("parameters", parameters)
    with replacing(path) as part:
        image.save(part, "PNG", pnginfo=text)
