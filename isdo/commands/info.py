"""python -m isdo info: what there is."""

import platform

import torch

from .. import __version__, zoo
from ..settings import FIELDS, REFINE_FIELDS
from ..zoo.net import CLASSES
from .arguments import devices, flag
from .pages import opened

SUMMARY = "versions, devices, models, settings"


def add_arguments(parser):
    """Give the command's parser its arguments."""
    add = parser.add_argument
    bound = "print the variational bound of pictures under each model instead"
    add("--elbo", action="store_true", help=bound)
    pictures = "of that: a page that sample wrote, or a picture (held-out emoji, else the zoo's)"
    add("--pictures", metavar="FILE", help=pictures)


def run(args):
    """Print versions, devices, models with their losses, and the settings; or the models'
    variational bounds."""
    if args.elbo:
        from ..zoo import likelihood

        given = args.pictures and (opened(args.pictures).pictures, f"pictures of {args.pictures}")
        return print(likelihood.table(*(given or likelihood.pictures())))
    if args.pictures:
        raise ValueError("--pictures is for --elbo: give both")
    versions = f"isdo {__version__}, Python {platform.python_version()}, torch {torch.__version__}"
    print(f"{versions}, {torch.get_num_threads()} threads")
    print(f"devices: {', '.join(devices())}")
    print("\nmodels, with the validation loss of the output in ten bands of noise, low to high")
    for name in zoo.NAMES:
        try:
            about = zoo.info(name)
            losses = " ".join(f"{loss:.4f}" for loss in about["losses"])
            print(f"  {name:6} {losses}   {about['config']['steps']} steps")
        except ValueError as error:
            print(f"  {name:6} {error}")
    print(f"  classes: {', '.join(CLASSES)}")
    for title, fields in (("sampler isdo", FIELDS), ("refinement", REFINE_FIELDS)):
        print(f"\nsettings of the {title}")
        for field in fields:
            print(f"  {flag(field.key):24} {field.default!s:10} {field.help}")
