"""A folder of anybody's pictures, one subfolder a class, as square pictures to learn from."""

import hashlib
import json
import math
import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .. import files, gallery, picture
from .data import Pictures

if TYPE_CHECKING:
    from PIL import Image

ENDINGS = (
    ".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".tga",
)  # fmt: skip
FEWEST = 4  # pictures: each half of a folder needs two, to have a covariance
MEMORY = 2**28  # bytes of pictures: beyond, they are kept in a file, and decoded once for all runs
SHOWN = 5  # files that are told by name

Progress = Callable[[Iterable[Any]], Iterable[Any]]


@dataclass(frozen=True)
class Found:
    """What a folder holds, before a picture is opened.

    Args:
        folder: its path.
        paths: of the picture files, sorted by class and name.
        labels: the class of each.
        classes: names; none where there are fewer than two: one class says nothing.
        others: how many files are no pictures, by ending.
        loose: pictures beside the subfolders of the classes, which are left out.
    """

    folder: Path
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    others: dict[str, int]
    loose: int

    def key(self, *more: object, times: bool = False) -> str:
        """Return a text that another list of files does not have, by their names and sizes, with
        ``times`` also by when they were written."""
        told = hashlib.sha256(repr((self.classes, more)).encode())
        for path, label in zip(self.paths, self.labels, strict=True):
            stat, name = path.stat(), path.relative_to(self.folder).as_posix()
            told.update(f"{name}|{label}|{stat.st_size}|{stat.st_mtime_ns * times}\n".encode())
        return told.hexdigest()[:16]


@dataclass(frozen=True)
class LeftOut:
    """What of a folder is not learned from: files that cannot be read with the reason, and how many
    copies, files of other kinds by ending, and pictures of no class there are."""

    unread: tuple[tuple[str, str], ...]
    copies: int
    others: dict[str, int]
    loose: int

    def told(self) -> list[str]:
        """Return each kind that there is in words."""
        parts = []
        if self.unread:
            named = "; ".join(f"{name} ({why})" for name, why in self.unread[:SHOWN])
            more = f"; and {len(self.unread) - SHOWN} more" if len(self.unread) > SHOWN else ""
            parts.append(f"{len(self.unread)} that cannot be read: {named}{more}")
        if self.copies:
            parts.append(f"{self.copies} that are copies of others")
        if self.loose:
            parts.append(f"{self.loose} that lie beside the classes' folders")
        if self.others:
            kinds = ", ".join(f"{ending} {count}" for ending, count in sorted(self.others.items()))
            parts.append(f"{sum(self.others.values())} files that are no pictures ({kinds})")
        return parts


@dataclass(frozen=True)
class Folder(Pictures):
    """The pictures of a folder, in an order that has nothing to do with their names.

    Args:
        name: of the folder.
        key: of its list of files: a run goes on with the pictures that it began with.
        left_out: what of it is not there.
        file: of the decoded pictures, where they are not in memory: another process opens it, too.
    """

    name: str
    key: str
    left_out: LeftOut
    file: Path | None = None

    def __getstate__(self) -> dict[str, Any]:
        state = vars(self).copy()
        if self.file is not None:
            state["pictures"] = self.pictures.shape
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["file"] is not None:
            state = state | {"pictures": _mapped(state["file"], state["pictures"])}
        vars(self).update(state)

    def split(self, held_out: float = 0.05, seed: int = 0) -> tuple[Pictures, Pictures]:
        """Return (train, validation), at least one picture each: the first of the order are held
        out.

        They are views: a folder may be larger than the memory.
        """
        count = min(max(1, round(held_out * len(self))), len(self) - 1)
        whole = replace(self, file=None)
        return whole.part(slice(count, None)), whole.part(slice(count))

    def rms(self) -> float:
        """Return the root mean square of the pictures' values in [-1, 1], of so many of them that
        it is known to three digits."""
        values = self.pictures[:4096].flatten()
        counts = torch.bincount(values.int(), minlength=256).double()
        levels = torch.arange(256, dtype=torch.float64, device="cpu") / 127.5 - 1
        return round(float(((counts * levels**2).sum() / counts.sum()).sqrt()), 3)

    def told(self) -> str:
        """Return what there is, and what was left out, in a few lines."""
        counts = torch.bincount(self.labels, minlength=max(1, len(self.classes))).tolist()
        each = ", ".join(f"{c} {n:,}" for c, n in zip(self.classes, counts, strict=False))
        classes = f"{len(self.classes)} classes ({each})" if self.classes else "no classes"
        lines = [f"{len(self):,} pictures of {self.name}, {self.size} x {self.size}, {classes}"]
        return "\n".join(lines + [f"left out: {part}" for part in self.left_out.told()])


def find(folder: str | os.PathLike[str]) -> Found:
    """List a folder: each subfolder with pictures in it, however deep, is a class of its name.

    Hidden files and folders are passed over, links are followed.

    Raises:
        ValueError: no folder, or no pictures in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: name the one that holds your pictures")
    loose: list[Path] = []
    below: dict[str, list[Path]] = {}
    others = Counter[str]()
    for path in _walk(folder):
        if path.suffix.lower() not in ENDINGS:
            others[path.suffix.lower() or "no ending"] += 1
            continue
        first, *deeper = path.relative_to(folder).parts
        if deeper:  # a Mac parts letters from their accents in names of files, a keyboard does not
            below.setdefault(unicodedata.normalize("NFC", first), []).append(path)
        else:
            loose.append(path)
    if not (below or loose):
        raise ValueError(
            f"{folder} holds no pictures ({', '.join(ENDINGS)}): name the folder whose subfolders are the classes"
        )
    classes = tuple(sorted(below)) or ("",)
    paths = [(path, i) for i, name in enumerate(classes) for path in below.get(name, loose)]
    return Found(
        folder,
        tuple(path for path, _ in paths),
        tuple(label for _, label in paths),
        classes if len(classes) > 1 else (),
        dict(others),
        len(loose) if below else 0,
    )


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and all below, sorted, nothing hidden, no folder twice."""
    seen = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        here = os.path.realpath(root)
        if here in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(here)
        folders[:] = sorted(name for name in folders if not _hidden(name))
        yield from (Path(root, name) for name in sorted(names) if not _hidden(name))


def _hidden(name: str) -> bool:
    return name.startswith((".", "@")) or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def square(image: "Image.Image", size: int) -> "Image.Image":
    """Return the middle square of an opened picture as (size, size) RGB: upright, what is
    transparent is white, smoothed as it shrinks (Parmar et al. 2022, "On aliased resizing")."""
    from PIL import Image

    image.draft(None, (2 * size, 2 * size))  # a JPEG file is decoded at a half, quarter or eighth
    image = picture.decoded(image)
    if image.mode.startswith(("I", "F", "La", "LAB")):
        image = gallery.picture(gallery.from_image(image))  # numbers that `convert` would clip
    clear = "transparency" in image.info or image.mode.endswith(("A", "a"))
    image = image.convert("RGBA" if clear else "RGB")
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    image = image.crop((left, top, left + side, top + side))  # `resize` would look beyond its box
    image = image.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0)
    if clear:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image


def _read(path: Path, size: int) -> "np.ndarray | str":
    """Return a picture file as (3, size, size) uint8, or why it cannot be read."""
    from PIL import Image, UnidentifiedImageError

    try:
        with open(path, "rb") as file, Image.open(file) as image:
            return np.asarray(square(image, size)).transpose(2, 0, 1)
    except UnidentifiedImageError:
        return "no picture that Pillow reads"
    except Exception as error:  # a broken file makes Pillow's readers fail in any way
        return getattr(error, "strerror", None) or str(error) or type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Pillow's warnings from the user, and have it refuse what is too large to decode."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _decode(found: Found, pictures: Tensor, progress: Progress) -> tuple[list[int], LeftOut]:
    """Write the pictures one after another into ``pictures`` (N, 1, 3, S, S), in an order by
    chance; returns their labels, and what was left out."""
    order = np.random.default_rng(0).permutation(len(found.paths))
    labels: list[int] = []
    unread, known, copies, size = [], set(), 0, pictures.shape[-1]
    with _quiet(), ThreadPoolExecutor(os.cpu_count()) as pool:
        read = pool.map(lambda i: _read(found.paths[i], size), order)
        for i, pixels in zip(progress(order), read, strict=True):
            if isinstance(pixels, str):
                name = found.paths[i].relative_to(found.folder).as_posix()
                unread.append((name, pixels.replace(str(found.paths[i]), name)))
                continue
            same = hashlib.sha256(pixels.tobytes()).digest()
            if same in known:
                copies += 1
                continue
            known.add(same)
            pictures[len(labels), 0] = torch.from_numpy(pixels.copy())
            labels.append(found.labels[i])
    return labels, LeftOut(tuple(sorted(unread)), copies, found.others, found.loose)


def read(
    folder: str | os.PathLike[str],
    size: int,
    cache: Path | None = None,
    progress: Progress = iter,
    name: str | None = None,
) -> Folder:
    """Read the pictures of a folder, each once.

    Args:
        folder: one subfolder a class; pictures right in it, or in one subfolder alone: no classes.
        size: pixels of the side of the squares that they are cropped and resized to.
        cache: folder for a file of decoded pictures, where they are more than MEMORY; it is found
            again by the next run. None: they are all kept in memory.
        progress: wraps the pictures as they are read, such as tqdm.
        name: of the folder, for the model's file; None: its own.

    Raises:
        ValueError: no folder, too few pictures that can be read, or none of a class.
    """
    found = find(folder)
    key, shape, file = found.key(size), (len(found.paths), 1, 3, size, size), None
    if cache is not None and math.prod(shape) > MEMORY:
        file = cache / f"pictures-{size}-{found.key(size, times=True)}.bytes"
        pictures, labels, left_out = _kept(found, shape, file, progress)
    else:
        pictures = torch.empty(shape, dtype=torch.uint8, device="cpu")
        labels, left_out = _decode(found, pictures, progress)
    _check(found, labels, left_out)
    count, name = len(labels), name or found.folder.resolve().name
    return Folder(
        pictures[:count],
        torch.tensor(labels, device="cpu"),
        torch.arange(count, device="cpu"),
        found.classes,
        f"{count} pictures of the folder {name}",
        name,
        key,
        left_out,
        file,
    )


def _mapped(file: Path, shape: Sequence[int]) -> Tensor:
    """Return bytes of a file, mapped into memory; it is made if it is not there."""
    size = math.prod(shape)
    pixels = torch.from_file(str(file), shared=True, size=size, dtype=torch.uint8, device="cpu")
    return pixels.view(*shape)


def _kept(
    found: Found, shape: tuple[int, ...], file: Path, progress: Progress
) -> tuple[Tensor, list[int], LeftOut]:
    """Return the pictures in ``file``; they are decoded into it where it is not there."""
    about, room = file.with_suffix(".json"), math.prod(shape)
    if not (file.exists() and about.exists() and file.stat().st_size == room):
        files.check_target(file, room)
        with files.replacing(about) as part, files.replacing(file) as pixels:
            labels, left_out = _decode(found, _mapped(pixels, shape), progress)
            part.write_text(json.dumps({"labels": labels, "left_out": asdict(left_out)}))
    told = json.loads(about.read_text())
    unread = tuple((name, why) for name, why in told["left_out"].pop("unread"))
    return _mapped(file, shape), told["labels"], LeftOut(unread, **told["left_out"])


def _check(found: Found, labels: list[int], left_out: LeftOut) -> None:
    why = "".join(f"; {part}" for part in left_out.told())
    if len(labels) < FEWEST:
        raise ValueError(
            f"{found.folder} holds {len(labels)} different pictures that can be read, and {FEWEST} are the fewest{why}"
        )
    if missing := [name for i, name in enumerate(found.classes) if i not in set(labels)]:
        raise ValueError(
            f"the class {missing[0]!r} of {found.folder} has no picture of its own that can be read: remove its folder{why}"
        )
