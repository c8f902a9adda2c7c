"""Files that appear whole or not at all, and whose place is looked at before the work begins."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

ROOM = 2**20  # bytes: more than a page of text, a table or a plot takes


@contextmanager
def replacing(path):
    """Yield the path of a neighbour to write to; it takes the place of ``path`` when the block ends
    well, else it goes.

    Args:
        path: the file to be written; its folder exists.
    """
    with neighbour(path) as part:
        yield part
        os.replace(part, path)


@contextmanager
def neighbour(path):
    """Yield the path of a file beside ``path`` that is gone when the block ends."""
    part = Path(path).with_name(f".{Path(path).name}.{os.getpid()}.part")
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def named(path):
    """Return ``path`` as a Path.

    Raises:
        ValueError: it has no name, such as "" or ".".
    """
    if not Path(path).name:
        raise ValueError(f"{os.fspath(path)!r} is no file: give the name of one")
    return Path(path)


def check_target(path, room=ROOM):
    """Return the path of a file that `replacing` can write: to be asked before the work whose
    result it will hold.

    Permission bits alone do not tell (root may write anywhere, on a read-only disk nobody may), so
    the neighbour is made.

    Args:
        path: the file; it need not be there, and stays as it is.
        room: bytes that it takes at most.

    Raises:
        ValueError: no name, a folder or device, a file that is marked read-only, a folder that is
            not there, that takes no file of that name, or that has too little space left.
    """
    path = named(path)
    try:
        _look_at(path)
        with neighbour(path) as part:
            part.touch()
        free = shutil.disk_usage(path.parent)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written ({error.strerror or error}): name another file"
        ) from None
    if free.free < room and free.total:  # some network disks report 0 of 0: they do not know
        raise ValueError(
            f"{path} may take {_megabytes(room)} and {path.parent} has {_megabytes(free.free)} left: "
            "make room, or name a file elsewhere"
        )
    return path


def _look_at(path):
    if not path.parent.exists():
        raise ValueError(f"the folder {path.parent} does not exist: make it first")
    if not path.parent.is_dir():
        raise ValueError(
            f"{path.parent} is no folder, so {path} cannot be written: name another file"
        )
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file in it")
    if path.exists():
        if not path.is_file():
            raise ValueError(f"{path} is a device, not a file: name another")
        # to replace a file, its folder's leave is enough: the file's own mark is honoured here,
        # root's or not
        if not (path.stat().st_mode & 0o222 and os.access(path, os.W_OK)):
            raise ValueError(f"{path} is read-only: make it writable, or name another file")


def _megabytes(size):
    return f"{size / 2**20:,.1f} MB"


def make_folder(path):
    """Return ``path`` as a Path to a folder, made where it is missing.

    Raises:
        ValueError: it has no name, or cannot be made.
    """
    if not os.fspath(path):
        raise ValueError("'' is no folder: give the name of one, or . for this one")
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"the folder {path} cannot be made ({error.strerror or error}): name another"
        ) from None
    return Path(path)
