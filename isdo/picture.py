"""Picture files of any kind: looked at before they are decoded, turned as a viewer turns them,
refused in words."""

import struct
import warnings
from contextlib import ExitStack, contextmanager

ORIENTATION = 0x0112  # EXIF's tag
TURNS = {  # by its value: the method of Pillow that sets the picture upright
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE",
    6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90",
}  # fmt: skip
# A PNG file names its transparent colour in its own depth, Pillow keeps that number and decodes to
# eight bits.
TO_EIGHT_BITS = {
    "1": lambda key: min(255 * key, 255),
    "L;2": lambda key: 85 * key,
    "L;4": lambda key: 17 * key,
    "RGB;16B": lambda key: tuple(value >> 8 for value in key),
}


@contextmanager
def told(path):
    """Turn whatever Pillow stumbles over in a file into one ValueError, and keep its warnings from
    the user.

    Raises:
        ValueError: the file is not there, no picture, broken, or of a kind that Pillow or we do not
            read.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except UnidentifiedImageError:
        raise ValueError(
            f"{path} is no picture: give a PNG file, such as python -m isdo sample writes"
        ) from None
    except Exception as error:  # a broken file makes Pillow's readers fail in any way: SyntaxError, struct.error, KeyError
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ValueError(
            f"{path} cannot be read ({why}): give a whole picture of 8 or 16 bits, as PNG for instance"
        ) from None


@contextmanager
def header(path):
    """Yield the PIL image of a file of which only size and texts have been read, and close it at
    the end.

    It may be of any size: look at that before `decoded`.

    Raises:
        ValueError: as `told`.
    """
    from PIL import Image

    limit, Image.MAX_IMAGE_PIXELS = (
        Image.MAX_IMAGE_PIXELS,
        None,
    )  # else Pillow refuses huge ones without telling their size
    with ExitStack() as stack:
        try:
            with told(path):
                # the open file, not its name: Pillow 13 maps named ones into memory and then
                # scrambles turned TIFF pictures
                image = stack.enter_context(Image.open(stack.enter_context(open(path, "rb"))))
        finally:
            Image.MAX_IMAGE_PIXELS = limit
        if image.format == "PNG" and "parameters" not in image.info:
            with told(path):
                image.info |= _texts(image.fp, "parameters")
        yield image


def _texts(file, key):
    """Return {key: text} of a PNG file, {} without; what stands behind the pixels, Pillow reads
    only after decoding them."""
    from PIL.PngImagePlugin import PngStream

    here, chunks, kind = file.tell(), PngStream(file), None
    file.seek(8)
    try:
        while kind != b"IEND":
            kind, place, length = chunks.read()
            if kind in (b"tEXt", b"zTXt", b"iTXt"):
                chunks.call(kind, place, length)
            file.seek(place + length + 4)  # behind the checksum
    except (
        SyntaxError,
        struct.error,
    ):  # a file that ends early: decoding will tell whether pixels are missing
        pass
    finally:
        file.seek(here)
    return {key: chunks.im_text[key]} if key in chunks.im_text else {}


def decoded(image):
    """Return the picture of a `header`: the first of an animation, upright, a transparent colour in
    the depth of its pixels."""
    from PIL import Image

    raw = image.tile[0][3] if image.format == "PNG" and image.tile else None
    image.load()
    if "transparency" in image.info and raw in TO_EIGHT_BITS:
        image.info["transparency"] = TO_EIGHT_BITS[raw](image.info["transparency"])
    turn = TURNS.get(_orientation(image))
    return image.transpose(Image.Transpose[turn]) if turn else image


def _orientation(image):
    if image.format == "TIFF":  # Pillow turns these while it decodes them
        return 1
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # broken EXIF data fail in any way, too; the picture itself is whole
        return 1
