"""The settings, each declared once: page, infotext, API, command line and docs are made from
FIELDS."""

import math
from dataclasses import asdict, dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Field:
    """One setting: ``kind`` is its Python type; ``choices`` or ``low`` and ``high`` (inclusive)
    bound it.

    What is ``rare`` stands apart on a page. ``idle`` are pairs (key of another setting, function of
    its value): where any of these says so, this setting has no effect. ``step`` is that of a
    slider.
    """

    key: str
    default: object
    kind: type
    label: str
    infotext: str
    help: str
    choices: tuple = ()
    low: float = -math.inf
    high: float = math.inf
    rare: bool = False
    idle: tuple = ()
    step: float = 0.01

    def counts(self, values):
        """Say whether the setting has any effect beside ``values`` {key: value} of the others."""
        return not any(key in values and says(values[key]) for key, says in self.idle)

    @property
    def is_text(self):
        """Whether any text is a value."""
        return self.kind is str and not self.choices

    def check(self, value):
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

    def read(self, text):
        """Return the value that was written as text, in an infotext for instance.

        Raises:
            ValueError: as ``check``.
        """
        if self.choices or self.is_text:
            return self.check(text)
        try:
            value = {"True": True, "False": False}[text] if self.kind is bool else float(text)
        except (KeyError, ValueError):
            value = text
        whole = isinstance(value, float) and value.is_integer()
        return self.check(int(value) if whole else value)


NO_HISTORY = ("solver", lambda solver: solver != "multistep")
SWEEPS = ("solver", lambda solver: solver == "trajectory")
EXACT = ("tolerance", lambda tolerance: tolerance > 0)
FIELDS = (
    Field(
        "solver", "multistep", str, "Solver", "ISDO solver",
        "multistep: one model call a step; srk3, srk4, srk5: exponential Runge-Kutta of that order, 3, 4 and 6 calls a step; "
        "trajectory: all steps at once, swept over until they agree, about ten calls a step",
        choices=("multistep", "srk3", "srk4", "srk5", "trajectory"), rare=True,
    ),
    Field(
        "path", "auto", str, "Path", "ISDO path",
        "how noise is mixed in: ve for eps- and v-models, flow for Flux and SD3; auto asks the model",
        choices=("auto", "ve", "flow"), rare=True,
    ),
    Field(
        "modes", 65_536, int, "Modes", "ISDO modes",
        "how many of the lowest frequencies get a measured factor; the rest run with power 0", low=0, high=2**31,
        rare=True, idle=(("power", lambda power: power == "zero"),),
    ),
    Field(
        "order", 4, int, "Order", "ISDO order",
        "the highest that predictions take if the evidence of the picture is for it; corrections have one more, up to 4",
        low=1, high=4, rare=True, idle=(NO_HISTORY,),
    ),
    Field(
        "tau", "auto", str, "Interpolation", "ISDO tau",
        "the variable in which earlier steps are interpolated; auto: sigma and log1p (img2img: log) compete in each picture",
        choices=("auto", "sigma", "root", "cube root", "log1p", "log"), rare=True, idle=(NO_HISTORY,),
    ),
    Field(
        "power", "fitted", str, "Power", "ISDO power",
        "fitted: measured for each picture and band while sampling; zero: plain exponential multistep",
        choices=("fitted", "zero"), rare=True,
    ),
    Field(
        "corrector", 1, int, "Corrections", "ISDO corrections",
        "how many of the last steps are done again with each new model call; 0 is the predictor alone",
        low=0, high=3, rare=True, idle=(NO_HISTORY,),
    ),
    Field(
        "response", 0.6, float, "Response", "ISDO response",
        "how much of a correction the model is taken to follow at first, in the lowest band; less in higher ones, more later",
        low=0.0, high=1.0, rare=True, idle=(("corrector", lambda corrector: corrector == 0), NO_HISTORY),
    ),
    Field(
        "basis", "auto", str, "Basis", "ISDO basis",
        "fourier, or cosine (two real matrix products, for devices without complex FFT)",
        choices=("auto", "fourier", "cosine"), rare=True,
    ),
    Field(
        "placement", 0.75, float, "Placement", "ISDO placement",
        "how far model calls go from the schedule's noise levels towards those where pictures bend; 0: exactly as scheduled",
        low=0.0, high=1.0, rare=True, idle=(("tolerance", lambda tolerance: tolerance > 0),),
    ),
    Field(
        "tolerance", 0.0, float, "Accuracy", "ISDO tolerance",
        "0: the schedule's steps; else as many as each picture needs to come about so near to the exact solution (0.01: near)",
        low=0.0, high=1.0, step=0.001, idle=(("solver", lambda solver: solver == "srk4"),),
    ),
    Field(
        "max_calls", 200, int, "Most calls", "ISDO most calls",
        "with an accuracy: the most model calls that a picture may take; then it ends on what there is",
        low=1, high=10_000, rare=True, idle=(("tolerance", lambda tolerance: tolerance == 0),),
    ),
    Field(
        "draw", 0, int, "Steps that draw", "ISDO draw",
        "so many steps draw the picture, and those that are left go back and repaint it with fresh noise; 0: all draw",
        low=0, high=1000, idle=(EXACT, SWEEPS),
    ),
    Field(
        "repaint", 2.0, float, "Repainting", "ISDO repainting",
        "noise-to-signal ratio to which the ways back go: what may become another; little keeps the composition",
        low=0.0, high=10.0, idle=(("draw", lambda draw: draw == 0), EXACT, SWEEPS),
    ),
    Field(
        "curvature_penalty", 0.0, float, "Curvature penalty", "ISDO curvature penalty",
        "0: none; else how strongly pictures are kept away from where the model is undecided (1: a little, 10: much); takes "
        "three model calls for each one",
        low=0.0, high=10.0, rare=True, step=0.1,
    ),
    Field(
        "window", 33, int, "Window", "ISDO window",
        "of the solver trajectory: how many noise levels are in flight at once; more take more memory",
        low=4, high=1_000, rare=True, idle=(("solver", lambda solver: solver != "trajectory"),),
    ),
)  # fmt: skip
# What the WebUIs' plugin asks besides: choices about the host's part of a run, of which the solver
# knows nothing.
HOST_FIELDS = (
    Field(
        "strength", "steps", str, "Denoising strength counts", "ISDO strength",
        "steps: whole steps of the schedule, as with every sampler; noise level: strength 0.5 starts where half is noise, "
        "without jumps, which Flux and SD3 need",
        choices=("steps", "noise level"),
    ),
)  # fmt: skip
# Names for what goes together: {name: {key: value} of what differs from the defaults}.
PRESETS = {"Fast": {}, "Odyssey": {"draw": 12}, "Exact": {"tolerance": 0.01}}
NO_PRESET = "Custom"


def preset_values(name):
    """Return {key: value} of a preset: what it changes, and the defaults of what the others
    change."""
    defaults = {field.key: field.default for field in FIELDS}
    return {key: defaults[key] for changed in PRESETS.values() for key in changed} | PRESETS[name]


def preset_of(values):
    """Return the name of the preset that ``values`` {key: value} are, or NO_PRESET."""
    defaults = {field.key: field.default for field in FIELDS}
    asked = {
        key: value for key, value in values.items() if key in defaults and value != defaults[key]
    }
    return next((name for name, changed in PRESETS.items() if changed == asked), NO_PRESET)


NO_NOISE, NO_ACTION = (
    ("noise", lambda noise: noise == 0),
    ("generators", lambda name: name == "none"),
)
# The loop that `isdo.refine` runs; "pixels" are the state's own, latent ones where a VAE is in use.
REFINE_FIELDS = (
    Field(
        "iterations", 4, int, "Iterations", "ISDO refine iterations",
        "at most; each adds noise, solves back, and keeps what has changed", low=0, high=500,
    ),
    Field(
        "calls", 3, int, "Calls per iteration", "ISDO refine calls",
        "model calls of each iteration", low=1, high=100, idle=(NO_NOISE,),
    ),
    Field(
        "noise", 1.0, float, "Noise level", "ISDO refine noise",
        "noise-to-signal ratio added in the first iteration: what may be repainted; 0 adds none and asks nothing",
        low=0.0, high=10.0,
    ),
    Field(
        "noise_decay", 0.0, float, "Noise decay", "ISDO refine noise decay",
        "iteration k adds noise / k^decay, so that it comes to rest; 0 always adds the same",
        low=0.0, high=4.0, rare=True, idle=(NO_NOISE,),
    ),
    Field(
        "floor", 0.1, float, "Floor", "ISDO refine floor",
        "noise-to-signal ratio at which all iterations but the last turn round; 0, a mask or a tolerance: each ends clean",
        low=0.0, high=1.0, rare=True, idle=(NO_NOISE, ("tolerance", lambda share: share > 0)),
    ),
    Field(
        "strength", 0.25, float, "Group strength", "ISDO refine strength",
        "how far the group action moves pixels on average in the first iteration, in pixels of the latent",
        low=0.0, high=16.0, idle=(NO_ACTION,),
    ),
    Field(
        "strength_decay", 0.5, float, "Group strength decay", "ISDO refine strength decay",
        "iteration k moves by strength / k^decay", low=0.0, high=4.0, rare=True, idle=(NO_ACTION,),
    ),
    Field(
        "generators", "none", str, "Group action", "ISDO refine generators",
        "what moves the picture while it is refined, in turn",
        choices=("none", "rotation", "shifts", "rotation and shifts", "scale", "all"),
    ),
    Field(
        "antithetic", True, bool, "Antithetic pairs", "ISDO refine antithetic",
        "every other iteration moves the opposite way, which cancels the bias of first order", rare=True, idle=(NO_ACTION,),
    ),
    Field(
        "undo", True, bool, "Undo the action", "ISDO refine undo",
        "move back what has changed; without it the picture wanders", rare=True, idle=(NO_ACTION,),
    ),
    Field(
        "lock", 1, int, "Lock", "ISDO refine lock",
        "frequencies below so many half waves per picture stay as they are: 1 the mean of each channel, 0 nothing",
        low=0, high=16,
    ),
    Field(
        "detail", 0.02, float, "Drift of detail", "ISDO refine detail",
        "by what share the energy of fine detail may drift from the first picture's; 1 lets it go",
        low=0.0, high=1.0, rare=True,
    ),
    Field(
        "noise_scale", 1.0, float, "Noise scale", "ISDO refine noise scale",
        "noise added over noise told to the model; a little above 1 counters models that smooth",
        low=0.9, high=1.1, rare=True, idle=(NO_NOISE,),
    ),
    Field(
        "tolerance", 0.0, float, "Tolerance", "ISDO refine tolerance",
        "a picture is done when an iteration changes it by less than this share; 0 runs all iterations", low=0.0, high=1.0,
    ),
)  # fmt: skip
# What the WebUIs' plugin asks of a refinement besides.
REFINE_HOST_FIELDS = (
    Field(
        "same", False, bool, "Use same sampler and schedule", "ISDO refine same sampler",
        "solve back with the picture's own sampler, in the pace of its schedule; else with ISDO and its curvature schedule",
        idle=(NO_NOISE,),
    ),
    Field(
        "show", False, bool, "Show intermediate pictures", "ISDO refine show",
        "put the picture after each iteration behind the finished ones",
    ),
    Field(
        "save", False, bool, "Save intermediate pictures", "ISDO refine save",
        "save the picture after each iteration, where finished pictures are saved", rare=True,
    ),
)  # fmt: skip

# What the WebUIs' script asks that draws from the picture's own noise.
INVERT_HOST_FIELDS = (
    Field(
        "prompt", "", str, "Original prompt", "ISDO invert prompt",
        "what the picture shows, or the prompt that drew it; empty: no words",
    ),
    Field(
        "negative_prompt", "", str, "Original negative prompt", "ISDO invert negative prompt",
        "the negative prompt that drew the picture; without effect at CFG scale 1", idle=(("cfg", lambda cfg: cfg == 1),),
    ),
    Field(
        "cfg", 1.0, float, "Original CFG scale", "ISDO invert CFG scale",
        "of the way to the noise; 1 is the most exact, above 3 another picture may come back",
        low=1.0, high=30.0, step=0.5,
    ),
    Field(
        "steps", 0, int, "Inversion steps", "ISDO invert steps",
        "of the way to the noise; 0: as many as the picture is drawn in", low=0, high=150,
    ),
    Field(
        "full", True, bool, "Override Denoising strength to 1", "ISDO invert from pure noise",
        "go all the way to pure noise; else as far as the denoising strength says, and less of the picture changes",
    ),
)  # fmt: skip


class _Declared:
    """What the settings have in common: ``fields`` declares them, and they are checked at birth."""

    fields: ClassVar = ()

    def __post_init__(self):
        for field in self.fields:
            object.__setattr__(self, field.key, field.check(getattr(self, field.key)))

    @classmethod
    def from_dict(cls, values):
        """Build from a mapping; an unknown key is an error, not a silently different picture.

        Raises:
            ValueError: an unknown setting or a bad value.
        """
        known = [field.key for field in cls.fields]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"unknown setting {', '.join(unknown)}: there are {', '.join(known)}")
        return cls(**values)

    def changed(self):
        """Return {key: value} of what differs from the defaults."""
        defaults = {field.key: field.default for field in self.fields}
        return {key: value for key, value in asdict(self).items() if value != defaults[key]}


_BY_KEY = {field.key: field for field in FIELDS}
_REFINE_BY_KEY = {field.key: field for field in REFINE_FIELDS}


@dataclass(frozen=True)
class Settings(_Declared):
    """What may be chosen about a run of ISDO; the fields are explained in FIELDS.

    Raises:
        ValueError: a value outside its choices or range.
    """

    fields: ClassVar = FIELDS
    solver: str = _BY_KEY["solver"].default
    path: str = _BY_KEY["path"].default
    modes: int = _BY_KEY["modes"].default
    order: int = _BY_KEY["order"].default
    tau: str = _BY_KEY["tau"].default
    power: str = _BY_KEY["power"].default
    corrector: int = _BY_KEY["corrector"].default
    response: float = _BY_KEY["response"].default
    basis: str = _BY_KEY["basis"].default
    placement: float = _BY_KEY["placement"].default
    tolerance: float = _BY_KEY["tolerance"].default
    max_calls: int = _BY_KEY["max_calls"].default
    draw: int = _BY_KEY["draw"].default
    repaint: float = _BY_KEY["repaint"].default
    curvature_penalty: float = _BY_KEY["curvature_penalty"].default
    window: int = _BY_KEY["window"].default

    @property
    def repaints(self):
        """Whether steps may go back."""
        return self.draw > 0 and self.repaint > 0 and _BY_KEY["draw"].counts(asdict(self))

    def shares(self, steps):
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


@dataclass(frozen=True)
class RefineSettings(_Declared):
    """What may be chosen about a refinement; the fields are explained in REFINE_FIELDS.

    Raises:
        ValueError: a value outside its choices or range.
    """

    fields: ClassVar = REFINE_FIELDS
    iterations: int = _REFINE_BY_KEY["iterations"].default
    calls: int = _REFINE_BY_KEY["calls"].default
    noise: float = _REFINE_BY_KEY["noise"].default
    noise_decay: float = _REFINE_BY_KEY["noise_decay"].default
    floor: float = _REFINE_BY_KEY["floor"].default
    strength: float = _REFINE_BY_KEY["strength"].default
    strength_decay: float = _REFINE_BY_KEY["strength_decay"].default
    generators: str = _REFINE_BY_KEY["generators"].default
    antithetic: bool = _REFINE_BY_KEY["antithetic"].default
    undo: bool = _REFINE_BY_KEY["undo"].default
    lock: int = _REFINE_BY_KEY["lock"].default
    detail: float = _REFINE_BY_KEY["detail"].default
    noise_scale: float = _REFINE_BY_KEY["noise_scale"].default
    tolerance: float = _REFINE_BY_KEY["tolerance"].default
