"""The settings, each declared once, as an attribute of a class: page, infotext, API, command line
and docs are made from ``fields`` of that class."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")
D = TypeVar("D", bound="Declared")
Value = str | int | float | bool
# Pairs (key of another setting, whether this one is without effect at such a value of it).
Idle = tuple[tuple[str, Callable[[Any], bool]], ...]


@dataclass(frozen=True)
class Field:
    """One setting: ``kind`` is its Python type; ``choices`` or ``low`` and ``high`` (inclusive)
    bound it.

    What is ``rare`` stands apart on a page. ``idle`` are pairs (key of another setting, function of
    its value): where any of these says so, this setting has no effect. ``step`` is that of a
    slider.
    """

    key: str
    default: Value
    kind: type
    label: str
    infotext: str
    help: str
    choices: tuple[str, ...] = ()
    low: float = -math.inf
    high: float = math.inf
    rare: bool = False
    idle: Idle = ()
    step: float = 0.01

    def counts(self, values: Mapping[str, Any]) -> bool:
        """Say whether the setting has any effect beside ``values`` {key: value} of the others."""
        return not any(key in values and says(values[key]) for key, says in self.idle)

    @property
    def is_text(self) -> bool:
        """Whether any text is a value."""
        return self.kind is str and not self.choices

    def check(self, value: Any) -> Value:
        """Return the value in the field's own type.

        Raises:
            ValueError: what is wrong, what was given, what is allowed.
        """
        if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
            value = value.item()  # a number of numpy's is a number
        if self.is_text:
            if not isinstance(value, str):
                raise ValueError(f"{self.key} is {value!r}: give a text")
            return value
        if self.choices:
            if value not in self.choices:
                raise ValueError(
                    f"{self.key} is {value!r}: choose one of {', '.join(map(str, self.choices))}"
                )
            return value
        if isinstance(value, bool) != (self.kind is bool) or not isinstance(
            value, (bool, int, float)
        ):
            raise ValueError(
                f"{self.key} is {value!r}: give {'true or false' if self.kind is bool else 'a number'}"
            )
        if not (self.low <= value <= self.high) or self.kind(value) != value:
            number = "a whole number" if self.kind is int else "a number"
            raise ValueError(
                f"{self.key} is {value!r}: give {number} from {self.low} to {self.high}"
            )
        return self.kind(value)

    def read(self, text: str) -> Value:
        """Return the value that was written as text, in an infotext for instance.

        Raises:
            ValueError: as ``check``.
        """
        if self.choices or self.is_text:
            return self.check(text)
        try:
            value: Value = (
                {"True": True, "False": False}[text] if self.kind is bool else float(text)
            )
        except (KeyError, ValueError):
            value = text
        whole = isinstance(value, float) and value.is_integer()
        return self.check(int(value) if whole else value)


def setting(
    default: T,
    label: str,
    infotext: str,
    help: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    rare: bool = False,
    idle: Idle = (),
    step: float = 0.01,
) -> T:
    """Declare an attribute of a `Declared` class as a setting; for the arguments see `Field`.

    Its key is the attribute's name, its kind the annotation, its choices those of a Literal.
    """
    said = dict(
        label=label, infotext=infotext, help=help, low=low, high=high, rare=rare, idle=idle, step=step
    )  # fmt: skip
    return dataclasses.field(default=default, metadata=said)


def _field(key: str, hint: Any, declared: "dataclasses.Field[Any]") -> Field:
    """Return the Field of an attribute that ``setting`` declares, annotated with ``hint``."""
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    kind = str if choices else hint
    default: Any = declared.default
    return Field(key, default, kind, choices=choices, **declared.metadata)


@dataclass(frozen=True)
class Declared:
    """What classes of settings have in common: values are checked at birth.

    Attributes:
        fields: a Field for each attribute that `setting` declares, in order.
    """

    fields: ClassVar[tuple[Field, ...]] = ()

    def __init_subclass__(cls) -> None:
        hints = get_type_hints(cls)
        own = (
            _field(key, hints[key], each)
            for key, each in vars(cls).items()
            if isinstance(each, dataclasses.Field)
        )
        cls.fields = (*cls.fields, *own)

    def __post_init__(self) -> None:
        for field in self.fields:
            object.__setattr__(self, field.key, field.check(getattr(self, field.key)))

    @classmethod
    def from_dict(cls: type[D], values: Mapping[str, Any]) -> D:
        """Build from a mapping; an unknown key is an error, not a silently different picture.

        Raises:
            ValueError: an unknown setting or a bad value.
        """
        known = [field.key for field in cls.fields]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"unknown setting {', '.join(unknown)}: there are {', '.join(known)}")
        return cls(**values)

    def changed(self) -> dict[str, Value]:
        """Return {key: value} of what differs from the defaults."""
        defaults = _defaults(self.fields)
        return {key: value for key, value in asdict(self).items() if value != defaults[key]}


def _defaults(fields: Iterable[Field]) -> dict[str, Value]:
    return {field.key: field.default for field in fields}


_OTHER_SOLVER: Idle = (("solver", lambda solver: solver != "multistep"),)
_SWEEPS: Idle = (("solver", lambda solver: solver == "trajectory"),)
_ADAPTIVE: Idle = (("tolerance", lambda tolerance: tolerance > 0),)


@dataclass(frozen=True)
class Settings(Declared):
    """What may be chosen about a run of ISDO; the fields are explained in FIELDS.

    New ones go to the end: people call it with positional arguments.

    Raises:
        ValueError: a value outside its choices or range.
    """

    solver: Literal["multistep", "srk3", "srk4", "srk5", "trajectory"] = setting(
        "multistep",
        "Solver",
        "ISDO solver",
        "multistep: one model call a step; srk3, srk4, srk5: exponential Runge-Kutta of that order, "
        "3, 4 and 6 calls a step; trajectory: solves for all steps at once by iteration, about ten "
        "calls a step",
        rare=True,
    )
    path: Literal["auto", "ve", "flow"] = setting(
        "auto",
        "Path",
        "ISDO path",
        "how the model mixes picture and noise: ve for eps- and v-models, flow for Flux and SD3; "
        "auto asks the model",
        rare=True,
    )
    modes: int = setting(
        65_536,
        "Modes",
        "ISDO modes",
        "number of low-frequency modes whose variance is estimated; it is taken as 0 for the others",
        low=0,
        high=2**31,
        rare=True,
        idle=(("power", lambda power: power == "zero"),),
    )
    order: int = setting(
        4,
        "Order",
        "ISDO order",
        "maximum order of the predictor; lower orders win where they predicted better; the "
        "corrector's maximum is one higher, but not above 4",
        low=1,
        high=4,
        rare=True,
        idle=_OTHER_SOLVER,
    )
    tau: Literal["auto", "sigma", "root", "cube root", "log1p", "log"] = setting(
        "auto",
        "Interpolation",
        "ISDO tau",
        "function of the noise level in which earlier model outputs are interpolated; auto: sigma "
        "and log1p (img2img: log) compete in each picture",
        rare=True,
        idle=_OTHER_SOLVER,
    )
    power: Literal["fitted", "zero"] = setting(
        "fitted",
        "Power",
        "ISDO power",
        "fitted: the variance of each mode of a picture is estimated while it is sampled, and used "
        "where the data prove Gaussian; zero: it is taken as 0, a plain exponential multistep method",
        rare=True,
    )
    corrector: int = setting(
        1,
        "Corrections",
        "ISDO corrections",
        "number of past steps that each new model output corrects, without a further call; 0: "
        "predictor only",
        low=0,
        high=3,
        rare=True,
        idle=_OTHER_SOLVER,
    )
    response: float = setting(
        0.6,
        "Response",
        "ISDO response",
        "assumed sensitivity of the model to a correction (0: none); the model is not called again "
        "after one, its change is extrapolated",
        low=0.0,
        high=1.0,
        rare=True,
        idle=(("corrector", lambda corrector: corrector == 0), *_OTHER_SOLVER),
    )
    basis: Literal["auto", "fourier", "cosine"] = setting(
        "auto",
        "Basis",
        "ISDO basis",
        "transform to frequencies; cosine is two real matrix products, for devices without a "
        "complex FFT, and no variance is estimated there; auto: fourier where the device has one",
        rare=True,
    )
    placement: float = setting(
        1.0,
        "Placement",
        "ISDO placement",
        "how far model calls may move from the schedule's noise levels to those where the denoised "
        "image changes: 1, as far as that is expected to pay; 0, exactly as scheduled",
        low=0.0,
        high=1.0,
        rare=True,
        idle=_ADAPTIVE,
    )
    tolerance: float = setting(
        0.0,
        "Accuracy",
        "ISDO tolerance",
        "0: the schedule's steps; else each picture takes the steps it needs for about this error "
        "against the exact solution (0.01 is small)",
        low=0.0,
        high=1.0,
        step=0.001,
        idle=(("solver", lambda solver: solver == "srk4"),),
    )
    max_calls: int = setting(
        200,
        "Most calls",
        "ISDO most calls",
        "with an accuracy above 0: maximum number of model calls a picture; after that its result "
        "so far is returned",
        low=1,
        high=10_000,
        rare=True,
        idle=(("tolerance", lambda tolerance: tolerance == 0),),
    )
    draw: int = setting(
        0,
        "Steps that draw",
        "ISDO draw",
        "number of steps that draw the picture; the others add fresh noise and repaint it; 0: all "
        "draw",
        low=0,
        high=1000,
        idle=(*_ADAPTIVE, *_SWEEPS),
    )
    repaint: float = setting(
        2.0,
        "Repainting",
        "ISDO repainting",
        "noise-to-signal ratio up to which noise is added before repainting; a lower one keeps "
        "more of the composition",
        low=0.0,
        high=10.0,
        idle=(("draw", lambda draw: draw == 0), *_ADAPTIVE, *_SWEEPS),
    )
    curvature_penalty: float = setting(
        0.0,
        "Curvature penalty",
        "ISDO curvature penalty",
        "strength of a penalty on regions where the model is undecided (0: none, 1: weak, 10: "
        "strong); above 0 a picture takes three times the model calls",
        low=0.0,
        high=10.0,
        rare=True,
        step=0.1,
    )
    window: int = setting(
        33,
        "Window",
        "ISDO window",
        "solver trajectory only: number of noise levels solved together; more take more memory",
        low=4,
        high=1_000,
        rare=True,
        idle=(("solver", lambda solver: solver != "trajectory"),),
    )

    @property
    def repaints(self) -> bool:
        """Whether steps may go back."""
        return self.draw > 0 and self.repaint > 0 and _DRAW.counts(asdict(self))

    def shares(self, steps: int) -> tuple[int, list[int]]:
        """Return (steps that draw, [steps of each way back]) of a run of so many steps that ends in
        0.

        Each way back has at least as many steps as a refinement's. Where none is left, all steps
        draw.
        """
        each, left = RefineSettings.calls, steps - self.draw
        ways = left // each
        if not self.repaints or ways < 1:
            return steps, []
        least, more = divmod(left, ways)
        return self.draw, [least + (i < more) for i in range(ways)]


FIELDS = Settings.fields
(_DRAW,) = (field for field in FIELDS if field.key == "draw")


@dataclass(frozen=True)
class HostSettings(Declared):
    """What the WebUIs' plugin asks besides: choices about the host's part of a run, of which the
    solver knows nothing."""

    strength: Literal["steps", "noise level"] = setting(
        "steps",
        "Denoising strength counts",
        "ISDO strength",
        "steps: whole steps of the schedule, as with other samplers; noise level: strength 0.5 "
        "starts where half is noise, without jumps, which Flux and SD3 need",
    )


HOST_FIELDS = HostSettings.fields
# Names for what goes together: {name: {key: value} of what differs from the defaults}.
PRESETS: dict[str, dict[str, Value]] = {
    "Fast": {},
    "Odyssey": {"draw": 12},
    "Exact": {"tolerance": 0.01},
}
NO_PRESET = "Custom"


def preset_values(name: str) -> dict[str, Value]:
    """Return {key: value} of a preset: what it changes, and the defaults of what the others
    change."""
    defaults = _defaults(FIELDS)
    return {key: defaults[key] for changed in PRESETS.values() for key in changed} | PRESETS[name]


def preset_of(values: Mapping[str, Any]) -> str:
    """Return the name of the preset that ``values`` {key: value} are, or NO_PRESET."""
    defaults = _defaults(FIELDS)
    asked = {
        key: value for key, value in values.items() if key in defaults and value != defaults[key]
    }
    return next((name for name, changed in PRESETS.items() if changed == asked), NO_PRESET)


_NO_NOISE: Idle = (("noise", lambda noise: noise == 0),)
_NO_ACTION: Idle = (("generators", lambda name: name == "none"),)


@dataclass(frozen=True)
class RefineSettings(Declared):
    """What may be chosen about a refinement, the loop that `isdo.refine` runs; the fields are
    explained in REFINE_FIELDS.

    "Pixels" are the state's own: those of the latent where a VAE is in use.

    Raises:
        ValueError: a value outside its choices or range.
    """

    iterations: int = setting(
        4,
        "Iterations",
        "ISDO refine iterations",
        "maximum number of iterations; each adds noise, solves back and keeps the change",
        low=0,
        high=500,
    )
    calls: int = setting(
        3,
        "Calls per iteration",
        "ISDO refine calls",
        "model calls of each iteration",
        low=1,
        high=100,
        idle=_NO_NOISE,
    )
    noise: float = setting(
        1.0,
        "Noise level",
        "ISDO refine noise",
        "noise-to-signal ratio added in the first iteration; a higher one repaints larger "
        "features; 0: no noise and no model calls",
        low=0.0,
        high=10.0,
    )
    noise_decay: float = setting(
        0.0,
        "Noise decay",
        "ISDO refine noise decay",
        "iteration k adds noise / k^decay; above 0 the picture comes to rest, 0: always the same "
        "noise level",
        low=0.0,
        high=4.0,
        rare=True,
        idle=_NO_NOISE,
    )
    floor: float = setting(
        0.1,
        "Floor",
        "ISDO refine floor",
        "noise-to-signal ratio at which iterations stop, except the last; with 0, a mask or a "
        "tolerance each ends without noise",
        low=0.0,
        high=1.0,
        rare=True,
        idle=(*_NO_NOISE, ("tolerance", lambda share: share > 0)),
    )
    strength: float = setting(
        0.25,
        "Group strength",
        "ISDO refine strength",
        "mean displacement by the group action in the first iteration, in pixels of the latent",
        low=0.0,
        high=16.0,
        idle=_NO_ACTION,
    )
    strength_decay: float = setting(
        0.5,
        "Group strength decay",
        "ISDO refine strength decay",
        "iteration k moves by strength / k^decay",
        low=0.0,
        high=4.0,
        rare=True,
        idle=_NO_ACTION,
    )
    generators: Literal["none", "rotation", "shifts", "rotation and shifts", "scale", "all"] = (
        setting(
            "none",
            "Group action",
            "ISDO refine generators",
            "transformations that move the picture while it is refined, in turn",
        )
    )
    antithetic: bool = setting(
        True,
        "Antithetic pairs",
        "ISDO refine antithetic",
        "every other iteration moves the opposite way, which cancels the first-order bias",
        rare=True,
        idle=_NO_ACTION,
    )
    undo: bool = setting(
        True,
        "Undo the action",
        "ISDO refine undo",
        "move the change back; without it the picture drifts",
        rare=True,
        idle=_NO_ACTION,
    )
    lock: int = setting(
        1,
        "Lock",
        "ISDO refine lock",
        "frequencies below this number of half waves per picture do not change; 1: the mean of "
        "each channel, 0: none",
        low=0,
        high=16,
    )
    detail: float = setting(
        0.02,
        "Drift of detail",
        "ISDO refine detail",
        "maximum relative change of the energy of fine detail from the first picture's; 1: no limit",
        low=0.0,
        high=1.0,
        rare=True,
    )
    noise_scale: float = setting(
        1.0,
        "Noise scale",
        "ISDO refine noise scale",
        "noise added divided by the noise level that the model is told; slightly above 1 "
        "compensates models that smooth",
        low=0.9,
        high=1.1,
        rare=True,
        idle=_NO_NOISE,
    )
    tolerance: float = setting(
        0.0,
        "Tolerance",
        "ISDO refine tolerance",
        "a picture is finished when an iteration changes it by less than this fraction; 0: all "
        "iterations run",
        low=0.0,
        high=1.0,
    )


REFINE_FIELDS = RefineSettings.fields


@dataclass(frozen=True)
class RefineHostSettings(Declared):
    """What the WebUIs' plugin asks of a refinement besides."""

    same: bool = setting(
        False,
        "Use same sampler and schedule",
        "ISDO refine same sampler",
        "solve back with the picture's own sampler and the spacing of its schedule; else with ISDO "
        "and its curvature schedule",
        idle=_NO_NOISE,
    )
    show: bool = setting(
        False,
        "Show intermediate pictures",
        "ISDO refine show",
        "show the picture after each iteration, behind the finished ones",
    )
    save: bool = setting(
        False,
        "Save intermediate pictures",
        "ISDO refine save",
        "save the picture after each iteration, where finished pictures are saved",
        rare=True,
    )


REFINE_HOST_FIELDS = RefineHostSettings.fields


@dataclass(frozen=True)
class InvertHostSettings(Declared):
    """What the WebUIs' script asks that draws from the picture's own noise."""

    prompt: str = setting(
        "",
        "Original prompt",
        "ISDO invert prompt",
        "description of the picture, or the prompt that drew it; empty: no prompt",
    )
    negative_prompt: str = setting(
        "",
        "Original negative prompt",
        "ISDO invert negative prompt",
        "negative prompt that drew the picture; no effect at CFG scale 1",
        idle=(("cfg", lambda cfg: cfg == 1),),
    )
    cfg: float = setting(
        1.0,
        "Original CFG scale",
        "ISDO invert CFG scale",
        "CFG scale of the inversion; 1 is the most exact, above 3 another picture may come back",
        low=1.0,
        high=30.0,
        step=0.5,
    )
    steps: int = setting(
        0,
        "Inversion steps",
        "ISDO invert steps",
        "steps of the inversion; 0: as many as the picture is drawn in",
        low=0,
        high=150,
    )
    full: bool = setting(
        True,
        "Override Denoising strength to 1",
        "ISDO invert from pure noise",
        "invert to pure noise; else to the noise level of the denoising strength, which changes "
        "less of the picture",
    )


INVERT_HOST_FIELDS = InvertHostSettings.fields
