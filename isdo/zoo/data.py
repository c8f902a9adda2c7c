"""The zoo's pictures: the colour emoji of Noto Color Emoji (SIL Open Font License 1.1) with their
Unicode groups."""

import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .net import CLASSES

if TYPE_CHECKING:
    from PIL import Image

SIZE = 32
FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
GROUPS = Path("/usr/share/unicode/emoji/emoji-test.txt")
LICENCE = "Noto Color Emoji, Copyright Google Inc., SIL Open Font License 1.1; groups: Unicode emoji-test.txt, Unicode License"
_GROUP_NAMES = (
    "Smileys & Emotion", "People & Body", "Animals & Nature", "Food & Drink", "Travel & Places",
    "Activities", "Objects", "Symbols", "Flags",
)  # fmt: skip
_TONES = range(0x1F3FB, 0x1F400)


@dataclass(frozen=True)
class Pictures:
    """Pictures to learn from.

    Args:
        pictures: (N, variants, 3, S, S) uint8; the first variant is the picture as it is.
        labels: (N,), the class of each.
        concepts: (N,): what shares a concept is never parted by `split`.
        classes: names, in the order of the labels; none: nobody knows classes.
        licence: what a model's file says of the pictures that it comes from.
    """

    pictures: Tensor
    labels: Tensor
    concepts: Tensor
    classes: tuple[str, ...]
    licence: str

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> int:
        """Pixels of a picture's side."""
        return self.pictures.shape[-1]

    def split(self, held_out: float = 0.05, seed: int = 0) -> "tuple[Pictures, Pictures]":
        """Return (train, validation); whole concepts are held out, so that no other skin tone gives
        them away."""
        order = torch.randperm(
            int(self.concepts.max()) + 1,
            generator=torch.Generator("cpu").manual_seed(seed),
            device="cpu",
        )
        out = torch.isin(self.concepts, order[: int(held_out * len(order))])
        return self.part(~out), self.part(out)

    def part(self, chosen: Tensor | slice) -> "Pictures":
        """Return the pictures that are chosen, by a mask (N,) or a slice."""
        return replace(
            self,
            pictures=self.pictures[chosen],
            labels=self.labels[chosen],
            concepts=self.concepts[chosen],
        )

    def odds(self) -> Tensor:
        """Return the probability (N,) of each picture when every concept counts alike."""
        return 1 / torch.bincount(self.concepts)[self.concepts] / len(self.concepts.unique())


@dataclass(frozen=True)
class Emoji(Pictures):
    """The zoo's pictures, on white: skin tones share a concept."""

    classes: tuple[str, ...] = CLASSES
    licence: str = LICENCE


def to_unit(pictures: Tensor) -> Tensor:
    """Map uint8 pictures to float32 in [-1, 1]."""
    return pictures.float() / 127.5 - 1


def sequences(path: str | Path = GROUPS) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    """Yield (text, label, concept key) for each fully-qualified emoji of Unicode's
    emoji-test.txt."""
    label = None
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if line.startswith("# group: "):
            name = line.removeprefix("# group: ")
            label = _GROUP_NAMES.index(name) if name in _GROUP_NAMES else None
        elif (match := re.match(r"([0-9A-F ]+); fully-qualified", line)) and label is not None:
            points = [int(point, 16) for point in match[1].split()]
            yield "".join(map(chr, points)), label, tuple(p for p in points if p not in _TONES)


def strikes(texts: Iterable[str], font: str | Path = FONT) -> "Iterator[Image.Image | None]":
    """Yield, for each text that the font draws as one glyph, its bitmap as an RGBA picture; None
    for the others."""
    import uharfbuzz
    from fontTools.ttLib import TTFont
    from PIL import Image

    table = TTFont(font)
    bitmaps, names = table["CBDT"].strikeData[0], table.getGlyphOrder()
    shaper = uharfbuzz.Font(uharfbuzz.Face(uharfbuzz.Blob.from_file_path(str(font))))
    for text in texts:
        buffer = uharfbuzz.Buffer()
        buffer.add_str(text)
        buffer.guess_segment_properties()
        uharfbuzz.shape(shaper, buffer)
        glyphs = [names[info.codepoint] for info in buffer.glyph_infos]
        if len(glyphs) == 1 and glyphs[0] in bitmaps:
            yield Image.open(io.BytesIO(bitmaps[glyphs[0]].imageData)).convert("RGBA")
        else:
            yield None


def load_emoji(
    variants: int = 1, seed: int = 0, font: str | Path = FONT, groups: str | Path = GROUPS
) -> Emoji:
    """Read the emoji; beyond the first, variants are moved by up to a pixel and scaled by up to 6
    %.

    Raises:
        FileNotFoundError: when the font or the groups are not on this machine, with the packages
            that bring them.
    """
    for path in (font, groups):
        if not Path(path).exists():
            raise FileNotFoundError(
                f"{path} is missing; on Debian: apt install fonts-noto-color-emoji unicode-data, "
                "or name the file with --font / --groups"
            )
    from PIL import Image

    random = np.random.default_rng(seed)
    pictures, labels, concepts = [], [], []
    keys: dict[tuple[int, ...], int] = {}
    texts = list(sequences(groups))
    for (_, label, key), strike in zip(
        texts, strikes((text for text, _, _ in texts), font), strict=True
    ):
        if strike is None:
            continue
        canvas = Image.new("RGB", (192, 192), "white")
        canvas.paste(strike, ((192 - strike.width) // 2, (192 - strike.height) // 2), strike)
        row = []
        for variant in range(variants):
            side = 144 * (1 if variant == 0 else random.uniform(0.97, 1.06))
            x, y = (192 - side) / 2 + (
                0 if variant == 0 else random.uniform(-4.5, 4.5, 2)
            ) * np.ones(2)
            box = (x, y, x + side, y + side)
            row.append(np.asarray(canvas.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box)))
        pictures.append(np.stack(row))
        labels.append(label)
        concepts.append(keys.setdefault(key, len(keys)))
    stack = torch.from_numpy(np.stack(pictures)).permute(0, 1, 4, 2, 3).contiguous()
    return Emoji(stack, torch.tensor(labels, device="cpu"), torch.tensor(concepts, device="cpu"))
