"""The settings, each declared once: page, infotext, API, command line and docs are made from FIELDS."""

import math
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Field:
    """One setting: ``kind`` is its Python type; ``choices`` or ``low`` and ``high`` (inclusive) bound it."""

    key: str
    default: object
    kind: type
    label: str
    infotext: str
    help: str
    choices: tuple = ()
    low: float = -math.inf
    high: float = math.inf

    def check(self, value):
        """Return the value in the field's own type.

        Raises:
            ValueError: what is wrong, what was given, what is allowed.
        """
        if self.choices:
            if value not in self.choices:
                raise ValueError(f"{self.key} is {value!r}: choose one of {', '.join(map(str, self.choices))}")
            return value
        if isinstance(value, bool) != (self.kind is bool) or not isinstance(value, (bool, int, float)):
            raise ValueError(f"{self.key} is {value!r}: give {'true or false' if self.kind is bool else 'a number'}")
        if not (self.low <= value <= self.high) or self.kind(value) != value:
            number = "a whole number" if self.kind is int else "a number"
            raise ValueError(f"{self.key} is {value!r}: give {number} from {self.low} to {self.high}")
        return self.kind(value)

    def read(self, text):
        """Return the value that was written as text, in an infotext for instance.

        Raises:
            ValueError: as ``check``.
        """
        if self.choices:
            return self.check(text)
        try:
            value = {"True": True, "False": False}[text] if self.kind is bool else float(text)
        except (KeyError, ValueError):
            value = text
        return self.check(value)


FIELDS = (
    Field("solver", "multistep", str, "Solver", "ISDO solver", "how the equation is solved", choices=("multistep",)),
    Field(
        "path", "auto", str, "Path", "ISDO path",
        "how noise is mixed in: ve for eps- and v-models, flow for Flux and SD3; auto asks the model",
        choices=("auto", "ve", "flow"),
    ),
    Field(
        "modes", 65_536, int, "Modes", "ISDO modes",
        "how many of the lowest frequencies get a measured factor; the rest run with power 0", low=0, high=2**31,
    ),
    Field(
        "order", 3, int, "Order", "ISDO order",
        "of the predictor; the corrector has one more. 2 is calmer at very few steps", low=1, high=4,
    ),
    Field(
        "tau", "auto", str, "Interpolation", "ISDO tau",
        "the variable in which earlier steps are interpolated; auto lets sigma and log1p compete in each picture",
        choices=("auto", "sigma", "root", "cube root", "log1p", "log"),
    ),
    Field(
        "power", "fitted", str, "Power", "ISDO power",
        "fitted: measured for each picture and band while sampling; zero: plain exponential multistep",
        choices=("fitted", "zero"),
    ),
    Field(
        "corrector", 1, int, "Corrections", "ISDO corrections",
        "how many of the last steps are done again with each new model call; 0 is the predictor alone", low=0, high=3,
    ),
    Field(
        "response", 0.8, float, "Response", "ISDO response",
        "how much of a correction the model is taken to follow in the lowest band; a quarter of it in the highest",
        low=0.0, high=1.0,
    ),
    Field(
        "basis", "auto", str, "Basis", "ISDO basis",
        "fourier, or cosine (two real matrix products, for devices without complex FFT)",
        choices=("auto", "fourier", "cosine"),
    ),
)  # fmt: skip
# What the WebUIs' plugin asks besides: choices about the host's part of a run, of which the solver knows nothing.
HOST_FIELDS = (
    Field(
        "strength", "steps", str, "Denoising strength counts", "ISDO strength",
        "steps: whole steps of the schedule, as with every sampler; noise level: strength 0.5 starts where half is noise, "
        "without jumps, which Flux and SD3 need",
        choices=("steps", "noise level"),
    ),
)  # fmt: skip
_BY_KEY = {field.key: field for field in FIELDS}


@dataclass(frozen=True)
class Settings:
    """What may be chosen about a run of ISDO; the fields are explained in FIELDS.

    Raises:
        ValueError: a value outside its choices or range.
    """

    solver: str = _BY_KEY["solver"].default
    path: str = _BY_KEY["path"].default
    modes: int = _BY_KEY["modes"].default
    order: int = _BY_KEY["order"].default
    tau: str = _BY_KEY["tau"].default
    power: str = _BY_KEY["power"].default
    corrector: int = _BY_KEY["corrector"].default
    response: float = _BY_KEY["response"].default
    basis: str = _BY_KEY["basis"].default

    def __post_init__(self):
        for field in FIELDS:
            object.__setattr__(self, field.key, field.check(getattr(self, field.key)))

    @classmethod
    def from_dict(cls, values):
        """Build from a mapping; an unknown key is an error, not a silently different picture.

        Raises:
            ValueError: an unknown setting or a bad value.
        """
        unknown = sorted(set(values) - set(_BY_KEY))
        if unknown:
            raise ValueError(f"unknown setting {', '.join(unknown)}: there are {', '.join(_BY_KEY)}")
        return cls(**values)

    def changed(self):
        """Return {key: value} of what differs from the defaults."""
        return {key: value for key, value in asdict(self).items() if value != _BY_KEY[key].default}
