"""Models as a command line names them: the zoo's, a file that `isdo train` wrote, or
``module:callable``."""

import argparse
import ast
import inspect
import os
from dataclasses import dataclass, field

import torch

from . import entry, zoo
from .answers import check_kind
from .path import FLOW, PATHS, Path, detect_path, noise_levels

SHAPE = (3, 32, 32)  # of the zoo's pictures
GUIDED = 3.0  # what `sample` gives the zoo's models


class Own:
    """A model of somebody's own with the faces that the package asks for; everything else is the
    model's.

    Args:
        name: for messages.
        model: ``model(x, sigma, **extra_args) -> denoised``: x (B, C, H, W), sigma a tensor (B,),
            denoised shaped like x. What it may say of itself, all of it optional but the noise
            levels:

            sigmas: its table of noise levels, or
            sigma_min, sigma_max: the ends of their range;
            path: "ve" (x = x0 + sigma n) or "flow" (x = (1 - sigma) x0 + sigma n), or a
                `isdo.path.Path`; left out, what the WebUIs' wrappers carry says it, and else levels
                that end at 1 or below are flow's;
            shape: (C, H, W) of its pictures;
            classes: their names, which ``--label`` then takes;
            multiple: it takes pictures whose sides are multiples of that, not only of its shape;
            to: ``to(device)``, as networks have it.

    Raises:
        ValueError: no model, no noise levels, a path that there is not.
    """

    def __init__(self, name, model):
        if not callable(model):
            raise ValueError(
                f"{name} returned a {type(model).__name__}: it must return model(x, sigma, **extra_args)"
            )
        self.name, self.model = name, model
        self.sigmas, self.sigma_min, self.sigma_max = _levels(name, model)
        self.path = _path(name, model, self.sigma_max)
        self.sigma_max = self.path.settle(self.sigma_max)
        if self.sigma_max > self.path.sigma_limit:
            raise ValueError(
                f"{name} says the path {self.path.name}, which ends at 1, and sigma_max {self.sigma_max:g}"
            )

    def __call__(self, x, sigma, **extra):
        """Return D(x; sigma) in the shape of x.

        Raises:
            RuntimeError: the model raised something, or returned something else.
        """
        sigma = torch.as_tensor(sigma, device=x.device)
        sigma = sigma if sigma.shape == (len(x),) else sigma.expand(len(x)).contiguous()
        try:
            denoised = self.model(x, sigma, **extra)
        except Exception as error:
            raise RuntimeError(
                f"{self.name} raised {entry.said(error)} for x {tuple(x.shape)} at {sigma[0]:g}"
            ) from error
        return check_kind(denoised, x, f" ({self.name})")

    def __getattr__(self, name):
        if name == "model":  # not set yet: a copy or an unpickled object asks before __init__ ran
            raise AttributeError(name)
        return getattr(self.model, name)

    def to(self, device):
        """Move the model to ``device`` if it can be moved; returns self."""
        if callable(move := getattr(self.model, "to", None)):
            moved = move(device)
            self.model = moved if callable(moved) else self.model
        return self

    def takes(self, name):
        """Say whether the model can be given an argument of that name."""
        said = _signature(self.model)
        kinds = (
            {parameter.kind for parameter in said.parameters.values()}
            if said
            else {inspect.Parameter.VAR_KEYWORD}
        )
        named = said and name in said.parameters
        return named or inspect.Parameter.VAR_KEYWORD in kinds

    def check_arguments(self, extra):
        """Look whether the model can be called with x, sigma and ``extra``.

        Raises:
            ValueError: it cannot.
        """
        if said := _signature(self.model):
            try:
                said.bind(None, None, **extra)
            except TypeError as error:
                asked = "".join(f", {key}" for key in extra)
                raise ValueError(
                    f"{self.name} cannot be called as model(x, sigma{asked}): {error}; give what it needs by --extra key=value"
                ) from None


def _signature(model):
    """Return the signature of a model's call, None where nobody knows."""
    try:
        return inspect.signature(model.forward if isinstance(model, torch.nn.Module) else model)
    except (TypeError, ValueError):
        return None


def _levels(name, model):
    """Return (the table of noise levels or None, the lowest, the highest)."""
    try:
        table = noise_levels(model)
        ends = (
            (table[0], table[-1])
            if table is not None
            else [getattr(model, end, None) for end in ("sigma_min", "sigma_max")]
        )
        low, high = (None if end is None else float(end) for end in ends)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} says noise levels that are no numbers: {error}") from None
    if low is None or high is None:
        raise ValueError(
            f"{name} returned a model without noise levels: give it sigma_min and sigma_max, or a table, sigmas"
        )
    if not 0 < low < high < float("inf"):
        raise ValueError(
            f"{name} says noise levels from {low:g} to {high:g}: they must be finite, and sigma_min above 0 and below sigma_max"
        )
    return table, low, high


def _path(name, model, high):
    said = getattr(model, "path", None)
    if said is None:
        return FLOW if FLOW.settle(high) <= FLOW.sigma_limit else detect_path(model)
    if isinstance(said, str) and said in PATHS:
        return PATHS[said]
    if not isinstance(said, Path):
        raise ValueError(f"{name} says the path {said!r}: it must be one of {', '.join(PATHS)}")
    return said


@dataclass(frozen=True)
class Given:
    """A model with all that it takes to ask it.

    Args:
        name: as it was given.
        model: ``model(x, sigma, **extra_args) -> denoised`` with path, sigma_min, sigma_max and
            sigmas.
        shape: (C, H, W) of a picture.
        extra: arguments that the model is handed at each call as they are.
        labels: classes by number, of the pictures in turn; none: none.
        guidance: None: the model is not told.
        device: where it takes its x.
        own: it is none of the zoo's.
    """

    name: str
    model: object
    shape: tuple = SHAPE
    extra: dict = field(default_factory=dict)
    labels: tuple = ()
    guidance: float | None = None
    device: str = "cpu"
    own: bool = False

    @property
    def title(self):
        """The name with what the model is told: two runs of one title are of one model."""
        told = dict(self.extra)
        if self.own and self.labels:
            told["label"] = list(self.labels)
        if self.own and self.guidance is not None:
            told["guidance"] = self.guidance
        return " ".join(
            [self.name, *(f"{key}={value!r}".replace(", ", ",") for key, value in told.items())]
        )

    def classes(self, indices):
        """Return the labels (B,) of the pictures with these indices on the CPU, or None where none
        are given."""
        if not self.labels:
            return None
        return torch.tensor([self.labels[i % len(self.labels)] for i in indices], device="cpu")

    def extra_args(self, labels=None):
        """Return what the model is handed besides x and sigma; ``labels`` (B,) or None."""
        told = {
            "labels": None if labels is None else labels.to(self.device),
            "guidance": self.guidance,
        }
        return self.extra | {key: value for key, value in told.items() if value is not None}


def of_zoo(name, device="cpu", labels=(), guidance=None, zero_terminal_snr=False):
    """Return a model of the zoo, by its name or file, as Given."""
    net = zoo.load(name, zero_terminal_snr).to(device)
    shape = getattr(net, "shape", None) or SHAPE
    return Given(name, net, shape, labels=tuple(labels), guidance=guidance, device=device)


def is_own(name):
    """Say whether the name means ``module:callable``, not a model of the zoo or a file."""
    return ":" in name and not name.endswith(".safetensors") and not os.path.isfile(name)


def of_own(name, device="cpu", labels=(), guidance=None, extra=(), shape=None):
    """Return a model of somebody's own as Given.

    Args:
        name: ``module:callable``; the callable returns the model, see Own.
        device: where the model goes, if it has ``to``, and its x.
        labels: of the pictures in turn: numbers, or names of the model's own classes.
        guidance: a number, or None for what the model does by itself.
        extra: pairs of names and values, handed to the model at each call.
        shape: (C, H, W), instead of the model's own.

    Raises:
        ValueError: no such module or callable, or what it returns is no model, or none that can be
            asked so.
    """
    model = Own(name, entry.call(name))
    shape, extra, labels = _shape(name, model, shape), _together(extra), _numbers(model, labels)
    given = Given(name, model, shape, extra, labels, guidance, device, own=True)
    for key, flag, told in (
        ("labels", "--label", bool(labels)),
        ("guidance", "--guidance", guidance is not None),
    ):
        if told and key in given.extra:
            raise ValueError(f"{key} is given twice: leave out {flag}, or --extra {key}=...")
        if told and not model.takes(key):
            raise ValueError(
                f"{flag} is for models that take {key}, and {name} does not: leave it out"
            )
    model.check_arguments(given.extra_args(given.classes([0])))
    model.to(device)
    return given


def _shape(name, model, shape):
    shape = getattr(model, "shape", None) if shape is None else shape
    if shape is None:
        raise ValueError(
            f"{name} does not say the shape of its pictures: give --shape 3,32,32 (channels, height, width)"
        )
    try:
        found = tuple(int(size) for size in shape)
        if len(found) != 3 or any(
            size != given or size < 1 for size, given in zip(found, shape, strict=True)
        ):
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(
            f"{name} says the shape {shape!r}: it must be (channels, height, width) of a picture"
        ) from None
    return found


def _together(pairs):
    """Return pairs as a dict; a key that stands there twice is refused."""
    extra = dict(pairs)
    if twice := sorted({key for key, _ in pairs if sum(key == other for other, _ in pairs) > 1}):
        raise ValueError(f"--extra {twice[0]}=... is given twice: leave one out")
    return extra


def _numbers(model, labels):
    """Return classes, numbers or the model's own names, as numbers."""
    known, found = [str(name) for name in getattr(model, "classes", None) or ()], []
    for label in map(str, labels or ()):
        if label in known:
            found.append(known.index(label))
        elif label.isdecimal():
            found.append(int(label))
        else:
            listed = f"one of {', '.join(known)}, or " if known else ""
            raise ValueError(f"--label {label}: give {listed}the number of a class")
    return tuple(found)


def usual_schedule(model):
    """Return the name of the schedule that a person would take."""
    return "flow" if model.path is FLOW and model.sigma_max == FLOW.sigma_limit else "karras"


def asked(args, **options):
    """Return the model that a command line (what `add_flags` adds, device and guidance) names, as
    Given."""
    return load(
        args.model, args.device, args.label, args.guidance, args.extra, args.shape, **options
    )


def load(
    name, device="cpu", labels=(), guidance=None, extra=(), shape=None, zero_terminal_snr=False
):
    """Return the model that a command line names, as Given: the zoo's by `of_zoo`,
    ``module:callable`` by `of_own`.

    Raises:
        ValueError: as for these, and arguments that are for the other kind.
    """
    if is_own(name):
        if zero_terminal_snr:
            raise ValueError(f"--zero-terminal-snr is for the zoo's model v, not {name}")
        return of_own(name, device, labels, guidance, extra, shape)
    for flag, value in (("extra", extra), ("shape", shape)):
        if value:
            raise ValueError(
                f"--{flag} is for a model of your own, module:callable, not for the zoo's {name}"
            )
    return of_zoo(name, device, _of_zoo(name, labels or ()), guidance, zero_terminal_snr)


def _of_zoo(name, labels):
    """Return names of classes of one of the zoo's models, or of a file, as numbers."""
    if not labels:
        return ()
    known = zoo.architecture_of(name).classes
    whose = "the zoo's models" if name in zoo.NAMES else name
    for label in labels:
        if label not in known:
            choice = f"choose of {', '.join(known)}" if known else "it knows none, leave it out"
            raise ValueError(f"--label {label!r} is no class of {whose}: {choice}")
    return [known.index(label) for label in labels]


def key_value(text):
    """Return (key, value) of ``key=value``, the value as Python reads it, else as text; an argparse
    type."""
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise argparse.ArgumentTypeError(f"must be key=value, such as strength=0.5, not {text!r}")
    if (simple := value.lower()) in WORDS:
        return key, WORDS[simple]
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        if value.startswith(tuple("[({'\"")):
            raise argparse.ArgumentTypeError(
                f"{key} must be a number, true, false, text or a list, not {value}"
            ) from None
        return key, value


WORDS = {"true": True, "false": False, "none": None}


def three(text):
    """Return the (C, H, W) of ``3,32,32`` or ``3x32x32``; an argparse type."""
    parts = text.replace("x", ",").split(",")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(
            f"must be channels,height,width, such as 3,32,32, not {text!r}"
        )
    return tuple(int(part) for part in parts)


def add_flags(add, default, about):
    """Give a parser the flags that name a model and say how it is asked."""
    names = ", ".join(zoo.NAMES)
    add("--model", default=default, metavar="MODEL",
        help=f"{about}: {names}, a file that train wrote, or module:callable, which returns your own")  # fmt: skip
    add("--extra", type=key_value, action="extend", nargs="+", default=[], metavar="KEY=VALUE",
        help="handed to a model of your own at each call: numbers, true, false, text, lists")  # fmt: skip
    add(
        "--shape",
        type=three,
        metavar="C,H,W",
        help="of the pictures of a model of your own that does not say it",
    )
