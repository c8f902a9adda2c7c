"""python -m isdo demo: the same pictures with ISDO and other samplers."""

from functools import partial

from .. import zoo

SUMMARY = "the same pictures with ISDO and other samplers, and a work-precision plot"


def add_arguments(parser):
    """Give the command's parser its arguments."""
    add = parser.add_argument
    model = f"what draws: {', '.join(zoo.NAMES)}, or a file that train wrote (%(default)s)"
    add("--model", default="eps", metavar="MODEL", help=model)
    add("--out", default="out", help="folder for the pictures (%(default)s)")


def run(args):
    """Draw the same pictures with ISDO and other samplers."""
    from tqdm import tqdm

    from ..bench.demo import demo

    bar = partial(tqdm, desc="drawing", leave=False)
    for file in demo(args.out, progress=bar, name=args.model):
        print(file)
