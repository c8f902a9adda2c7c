"""What the commands' arguments are made of: the parser, types, and flags that several have."""

import argparse
import math

import torch

from .. import zoo
from ..settings import FIELDS
from ..zoo.net import CLASSES

SEEDS = 2**63 - 1  # the highest that torch takes, with room for the pictures that follow
LARGEST = 512  # pixels of a picture's side: beyond, a CPU would be at it for an hour
EACH = f"of the pictures in turn: {', '.join(CLASSES)} (of your own model: its own, or numbers); left out: no class"
LABEL = {"nargs": "+", "metavar": "CLASS"}
PICTURE = (
    f"PNG file: a page that sample or refine wrote, or a picture whose sides are multiples of {zoo.MULTIPLE}, "
    f"up to {LARGEST}"
)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line; the usage is what --help prints."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")

    def parse_known_args(self, args=None, namespace=None):
        """Parse, and refuse what is not known here: the parser above could not say whose it was."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown


def whole(low, high=math.inf):
    """Return an argparse type: a whole number from ``low`` to ``high``, both included."""

    def number(text):
        if (value := int(text)) < low:
            raise argparse.ArgumentTypeError(f"must be at least {low}, not {value}")
        if value > high:
            raise argparse.ArgumentTypeError(f"must be at most {high}, not {value}")
        return value

    number.__name__ = "whole number"
    return number


def fraction(low):
    """Return an argparse type: a finite number of at least ``low``."""

    def number(text):
        if not low <= (value := float(text)) < math.inf:
            raise argparse.ArgumentTypeError(f"must be a number of at least {low:g}, not {text}")
        return value

    number.__name__ = "number"
    return number


def devices():
    """Return the devices that torch offers, by name."""
    found = ["cpu"]
    found += [
        f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())
    ]
    return found + (["mps"] if torch.backends.mps.is_available() else [])


def usable(device):
    """Return the name of a device that is there; an argparse type."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise argparse.ArgumentTypeError(
            f"no device {device} here: there is {', '.join(devices())}"
        ) from None
    return device


def device():
    """Return the options of the flag --device."""
    default = "cuda" if torch.cuda.is_available() else "cpu"
    return {"type": usable, "default": default, "help": "where the network runs (%(default)s)"}


def flag(key):
    """Return the command-line flag of a setting."""
    return "--" + key.replace("_", "-")


def add_settings(parser, fields=FIELDS, title="settings of the sampler isdo"):
    """Give the parser one flag for each setting; a flag that is not given leaves no trace."""
    group = parser.add_argument_group(title)
    for field in fields:
        kind = (
            {"action": argparse.BooleanOptionalAction}
            if field.kind is bool
            else {"type": field.kind}
        )
        if field.choices:
            kind |= {"choices": field.choices, "metavar": "NAME"}
        text = f"{field.help} (default: {field.default})".replace("%", "%%")
        group.add_argument(flag(field.key), default=argparse.SUPPRESS, help=text, **kind)


def given_settings(args, fields=FIELDS):
    """Return {key: value} of the settings whose flags were given."""
    return {field.key: getattr(args, field.key) for field in fields if hasattr(args, field.key)}
