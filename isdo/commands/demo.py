"""python -m isdo demo: the same pictures with ISDO and other samplers."""

from functools import partial

from .. import models
from .arguments import LABEL, device, fraction

SUMMARY = "the same pictures with ISDO and other samplers, and a work-precision plot"
OF_MODEL = ("extra", "shape", "label", "guidance", "title")  # flags that say more of --model


def add_arguments(parser):
    """Give the command's parser its arguments."""
    add = parser.add_argument
    add("--out", default="out", help="folder for the pictures (%(default)s)")
    models.add_flags(add, None, "its pictures stand before the emoji in demo-pictures.png")
    add(
        "--label",
        **LABEL,
        help="of that model: names or numbers of classes, of the pictures in turn",
    )
    add("--guidance", type=fraction(0), help="of that model (what it does by itself)")
    add("--title", help="what the picture calls that model (its name)")
    add("--device", **device())


def run(args):
    """Draw the same pictures with ISDO and other samplers."""
    from tqdm import tqdm

    from ..bench.demo import demo

    given = None
    if args.model is not None:
        given = models.asked(args)
    elif said := [flag for flag in OF_MODEL if getattr(args, flag) not in (None, [])]:
        raise ValueError(f"--{said[0]} says more of a model: name it by --model")
    progress = partial(tqdm, desc="drawing", leave=False)
    for file in demo(args.out, progress=progress, given=given, title=args.title):
        print(file)
