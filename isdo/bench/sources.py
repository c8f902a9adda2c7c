"""The sources that a measurement depends on, as one short name of them all."""

import hashlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("*.py", "multistep/*.py", "zoo/*.py", "bench/*.py")


@cache
def version(root=ROOT):
    """Return what tells one state of the numerics' and the bench's sources from another, 12 hex
    digits: the same on every machine."""
    found = hashlib.sha256()
    for file in sorted(file for part in PARTS for file in Path(root).glob(part)):
        text = file.read_text(encoding="utf-8")  # whatever ends its lines
        found.update(f"{file.relative_to(root).as_posix()}\n{text}\n".encode())
    return found.hexdigest()[:12]
