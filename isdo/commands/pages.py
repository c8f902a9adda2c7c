"""Pages and pictures as files: what is read, what is written, what a file says of how it was made."""

import argparse
from typing import NamedTuple

import torch

from .. import __version__, gallery, infotext, models, picture, zoo
from ..zoo.net import CLASSES
from .arguments import LARGEST, whole

SIDE = 32
SHOWN = 128  # pixels of a picture in the file, about, when no zoom is asked for
ZOO_SIDES = (SIDE, SIDE), zoo.MULTIPLE
VERSION = f"{infotext.OURS}{__version__}"


class Opened(NamedTuple):
    """What a file holds: pictures (N, 3, H, W), the zoom of their page or None, and what it says of
    how it was made: the pairs that this command line wrote, with the prompt's classes as
    "labels"."""

    pictures: torch.Tensor
    zoom: int | None
    said: dict

    def size(self, sides):
        """Return the (width, height) of a file of such pictures; ``sides`` (height, width) are a
        page's."""
        if self.zoom:
            return gallery.grid_size(len(self.pictures), sides, self.zoom)
        return self.pictures.shape[3], self.pictures.shape[2]

    def image(self, pictures):
        """Return other pictures as the file has its own: a page, or the one."""
        return gallery.grid(pictures, zoom=self.zoom) if self.zoom else gallery.picture(pictures[0])

    def pairs(self, given):
        """Return what a file of so many pictures says of their size."""
        if self.zoom:
            return {"Size": size_of(given), "Batch size": len(self.pictures)}
        return {"Size": "{}x{}".format(*self.size(None))}


def taken_by(given):
    """Return what a model of somebody's own takes, as `opened` is told; it must be pictures."""
    gallery.check_channels(given.shape[0])
    return given.shape[1:], getattr(given.model, "multiple", None)


def asked_of(args, given):
    """Return what the model takes and its classes, as `opened` is told: of ``given``, one of
    somebody's own, else of the zoo's or of a file that the command line names."""
    if given:
        return taken_by(given), ()
    built = zoo.architecture_of(args.model)
    return (built.shape[1:], zoo.MULTIPLE), built.classes


def in_channels_of(given, pictures):
    """Return colour pictures in the channels of a model: grey where it has one."""
    return pictures.mean(1, keepdim=True) if given.shape[0] == 1 else pictures


def opened(path, takes=ZOO_SIDES, classes=CLASSES):
    """Return what a file holds, as Opened.

    ``takes`` says what the model takes: the (height, width) of its pictures, and of what other
    sides are multiples, None: it takes no others. ``classes``: the names that it knows.

    Raises:
        ValueError: no picture, a broken one, or one of a size that the networks do not take.
    """
    with picture.header(path) as image:
        counted(path, image, takes)  # before anything is decoded
        with picture.told(path):
            image = picture.decoded(image)
        count = counted(path, image, takes)  # an icon may be of another size than its header says
        with picture.told(path):
            pictures, zoom = (
                gallery.cut(image, count, takes[0])
                if count
                else (gallery.from_image(image)[None], None)
            )
    line, said = infotext.read(image.info.get("parameters"))
    labels = [label for label in line.split(", ") if label in classes]
    return Opened(pictures, zoom, said | {"labels": labels})


def counted(path, image, takes=ZOO_SIDES):
    """Return how many pictures the page holds, None for a single picture; asks only what is known
    before decoding.

    ``takes`` as for `opened`.

    Raises:
        ValueError: a picture of a size that the networks do not take, a page that is not as its
            text says.
    """
    said, ((height, width), multiple) = infotext.read(image.info.get("parameters"))[1], takes
    size = f"{width}x{height}"
    if "Batch size" not in said:
        if multiple is None and image.size != (width, height):
            raise ValueError(
                f"{path} is {image.width} x {image.height}: the model takes pictures of {width} x {height}"
            )
        if multiple and any(side % multiple or not 0 < side <= LARGEST for side in image.size):
            raise ValueError(
                f"{path} is {image.width} x {image.height}: the models take sides that are multiples of {multiple}, up to "
                f"{LARGEST}, and were trained on {width} x {height}; or give a page that python -m isdo sample wrote"
            )
        return None
    count = number_in(
        said, "Batch size", whole(1, gallery.PIXELS), "give the page as it was written"
    )
    if said.get("Size", size) != size:
        raise ValueError(
            f"{path} says Size: {said['Size'][:40]!r}: give a page as it was written, of pictures of {size}"
        )
    turns = image.size, image.size[::-1]
    if image.width * image.height > gallery.PIXELS or not any(
        gallery.zoom_of(turn, count, takes[0]) for turn in turns
    ):
        raise ValueError(
            f"{path} is {image.width} x {image.height}: no page of {count} pictures of {size}, as its text says it is; "
            "give the page as it was written"
        )
    return count


def number_in(said, key, kind, remedy):
    """Return a number that a file says, read as the flag of that kind is.

    Raises:
        ValueError: the file says something else.
    """
    try:
        return kind(said[key])
    except argparse.ArgumentTypeError as error:
        why = str(error)
    except ValueError:
        why = f"must be a {kind.__name__}"
    raise ValueError(f"the file says {key}: {said[key][:40]!r}, which {why}: {remedy}")


def zoom_for(args, shape):
    """Return the zoom at which pictures of that shape come onto the page.

    Raises:
        ValueError: they are no pictures, or the page would be too large, for itself or for the
            disk.
    """
    channels, *sides = shape
    gallery.check_channels(channels)
    zoom = args.zoom or max(1, SHOWN // max(sides))
    gallery.check_target(args.out, room=gallery.room(gallery.check_page(args.count, sides, zoom)))
    return zoom


def told(given, suffix=""):
    """Return what a file says of a model: its name, what it is handed, its guidance."""
    guidance = None if given.guidance is None else f"{given.guidance:g}"
    extra = " ".join(f"{key}={value}" for key, value in given.extra.items())
    pairs = {"CFG scale": guidance, "Model": given.name + suffix, "Extra": extra}
    return {key: infotext.plain(value) for key, value in pairs.items() if value}


def size_of(given):
    """Return the size of a model's pictures as a file says it."""
    return "{2}x{1}".format(*given.shape)


def prompt(names):
    """Return the classes as the prompt of a file."""
    return ", ".join(names or ["no class"])


def own_or_none(args):
    """Return the model of somebody's own that the command line names, or None: it is the zoo's."""
    return models.asked(args) if models.is_own(args.model) else None
