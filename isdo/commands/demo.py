"""python -m isdo demo: the same pictures with ISDO and other samplers."""

from functools import partial

SUMMARY = "the same pictures with ISDO and other samplers, and a work-precision plot"


def add_arguments(parser):
    """Give the command's parser its arguments."""
    parser.add_argument("--out", default="out", help="folder for the pictures (%(default)s)")


def run(args):
    """Draw the same pictures with ISDO and other samplers."""
    from tqdm import tqdm

    from ..bench.demo import demo

    for file in demo(args.out, progress=partial(tqdm, desc="drawing", leave=False)):
        print(file)
