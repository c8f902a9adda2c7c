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
    columns = columns or max(1, round(len(pictures) ** 0.5 + 0.499))
    return page(list(pictures.split(columns)), zoom=zoom)


def check_target(path):
    """Return ``path`` if a PNG can be written there, before anything is computed for it.

    Raises:
        ValueError: another suffix, or a folder that does not exist.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"the output is a PNG file: {path} must end in .png")
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
