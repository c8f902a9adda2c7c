"""Picture files built byte by byte, for what Pillow reads and does not write."""

import struct
import zlib


def chunk(kind, data):
    """Return a chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(size, depth, colour, rows=b"", before=b"", after=b""):
    """Return a PNG file; ``rows`` with their filter bytes; more chunks before and after the
    pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + before
        + chunk(b"IDAT", zlib.compress(rows))
        + after
        + chunk(b"IEND", b"")
    )


def text(words):
    """Return the chunk in which a PNG file says how it was made."""
    return chunk(b"tEXt", b"parameters\0" + words.encode())


def tiff(size, bits, data, **tags):
    """Return an uncompressed TIFF file of one channel; ``tags`` by name, see TAGS."""
    found = {
        256: size[0],
        257: size[1],
        258: bits,
        259: 1,
        262: 1,
        273: 8,
        277: 1,
        278: size[1],
        279: len(data),
    }
    found |= {TAGS[name]: value for name, value in tags.items()}
    data += b"\0" * (len(data) % 2)
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, found[tag], 0) for tag in sorted(found))
    return (
        b"II*\0"
        + struct.pack("<I", 8 + len(data))
        + data
        + struct.pack("<H", len(found))
        + entries
        + b"\0" * 4
    )


TAGS = {"black": 262, "orientation": 274, "sign": 339}  # black: 0 when white is 0
