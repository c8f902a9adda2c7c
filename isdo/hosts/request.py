"""What one picture asks of ISDO - from the page, the API, an XYZ cell, the Settings - and its way
to the infotext and back."""

from dataclasses import dataclass, replace

from ..settings import (
    FIELDS,
    HOST_FIELDS,
    INVERT_HOST_FIELDS,
    PRESETS,
    REFINE_FIELDS,
    REFINE_HOST_FIELDS,
    RefineSettings,
    Settings,
    preset_values,
)  # fmt: skip

NAME, ALIASES = "ISDO", ("isdo", "k_isdo")
# The order of the arguments: what came later stands behind. With a tolerance a WebUI's steps are
# the most calls.
LATER, NOT_ASKED = ("tolerance", "draw", "repaint", "curvature_penalty"), ("max_calls", "window")
CONTROLS = (
    *(each for each in FIELDS if each.key not in (*LATER, *NOT_ASKED)), *HOST_FIELDS,
    *(each for each in FIELDS if each.key in LATER),
)  # fmt: skip
CALLS = "ISDO calls"  # infotext key: the model calls of a run that made more than one a step
REFINE_NAME = (
    "ISDO refine"  # title of script and accordion, and the infotext key that says that it ran
)
NOT_REFINED = "ISDO refine problem"  # infotext key: why a picture was not refined
INVERT_NAME = "ISDO invert"  # title of the script, and the infotext key that says that it ran
REFINE_CONTROLS = (*REFINE_FIELDS, *REFINE_HOST_FIELDS)


@dataclass(frozen=True, eq=False)
class Form:
    """What may be asked of one part of the plugin.

    Attributes:
        name: its title.
        fields: the Fields, in the order of the arguments.
        prefix: what the names of its options and of its attributes on p begin with.
        presets: names of what a mapping may ask for as "preset".
        said: infotext keys that are its own besides those of the fields.
        traces: infotext keys any of which has one of these values where it had a part in a picture;
            None: any value.
    """

    name: str
    fields: tuple
    prefix: str
    said: tuple
    traces: dict
    presets: tuple = ()

    def __post_init__(self):
        object.__setattr__(self, "by_key", {each.key: each for each in self.fields})
        object.__setattr__(self, "defaults", {each.key: each.default for each in self.fields})

    def option(self, each):
        """Return the name of a field's default in the host's settings."""
        return f"{self.prefix}_{each.key}"

    @property
    def infotext_keys(self):
        """Return every infotext key that is its own."""
        return (*(each.infotext for each in self.fields), *self.said)

    def check(self, values):
        """Return the values {key: value}, each in its field's own type.

        Raises:
            ValueError: an unknown key or a value outside its choices or range.
        """
        unknown = sorted(str(key) for key in set(values) - set(self.by_key))
        if unknown:
            raise ValueError(
                f"{self.name} has no setting {', '.join(unknown)}: there are {', '.join(self.by_key)}"
            )
        return {
            key: self.by_key[key].check(value) for key, value in values.items() if value is not None
        }

    def expand(self, asked):
        """Return the values of a mapping {key: value}, its "preset" replaced by what that stands
        for.

        Raises:
            ValueError: no preset of that name.
        """
        asked = dict(asked)
        name = asked.pop("preset", None) if self.presets else None
        if name is not None and name not in self.presets:
            raise ValueError(f"preset is {name!r}: choose one of {', '.join(self.presets)}")
        return {**(preset_values(name) if name is not None else {}), **asked}

    def read_args(self, args, switch=True):
        """Return {key: value} of what the script's arguments ask for, None where they are off and
        leave all to the Settings.

        Args:
            args: (enabled, then the values in the order of the fields), shorter lists and None
                where nothing is asked; or one mapping {key: value}, which may also say "enabled".
            switch: whether there is such a thing as enabled; without it the script is on.

        Raises:
            ValueError: too many arguments, an unknown key, a bad value; also when not enabled.
        """
        first = ["enabled"] if switch else []
        if len(args) > 0 and isinstance(args[0], dict):
            asked = self.expand(args[0])
            enabled = asked.pop("enabled", True) if switch else True
            enabled = True if enabled is None else enabled
        elif len(args) > len(self.fields) + len(first):
            known = ", ".join([*first, *self.by_key])
            raise ValueError(
                f"{self.name} got {len(args)} arguments: give at most {known}, or one mapping of names"
            )
        else:
            enabled = (args[0] if args else False) if switch else True
            given = args[len(first) :]
            asked = {each.key: value for each, value in zip(self.fields, given, strict=False)}
        if not isinstance(enabled, bool) and enabled is not None:
            known = ", ".join(self.by_key)
            raise ValueError(
                f"enabled is {enabled!r}: give true or false, then {known}; or one mapping of names"
            )
        asked = self.check(asked)
        return asked if enabled else None

    def resolve(self, stored, asked=None, axes=None):
        """Return every value {key: value} for a run: the defaults, then the Settings page, the
        arguments, the XYZ axes.

        Raises:
            ValueError: what is wrong, and where it came from if not from the picture's own request.
        """
        try:
            stored = self.check(stored)
        except ValueError as error:
            raise ValueError(f"Settings > {self.name}: {error}") from None
        return {**self.defaults, **stored, **(asked or {}), **self.check(axes or {})}

    def clear(self, params):
        """Take everything of its own out of a picture's infotext parameters; XYZ cells and batches
        share them."""
        for key in self.infotext_keys:
            params.pop(key, None)

    def write(self, params, values):
        """Set the infotext parameters of a run: what differs from ISDO's own defaults, whatever the
        Settings page says."""
        self.clear(params)
        params.update(
            {
                self.by_key[key].infotext: value
                for key, value in values.items()
                if value != self.defaults[key]
            }
        )

    def read(self, params, left_out=None):
        """Return every value {key: value} of the run that an infotext describes, None if this had
        no part in it.

        Args:
            params: the infotext's {key: text}.
            left_out: a list that takes in what is wrong with single values, which are then the
                defaults.

        Raises:
            ValueError: a value that ISDO does not have, where there is no such list.
        """
        if not any(
            key in params and (value is None or params[key] == value)
            for key, value in self.traces.items()
        ):
            return None
        values = dict(self.defaults)
        for each in self.fields:
            try:
                values[each.key] = (
                    each.read(params[each.infotext]) if each.infotext in params else each.default
                )
            except ValueError as error:
                if left_out is None:
                    raise
                left_out.append(str(error))
        return values

    def describe(self):
        """Return {key: what it is} of all fields, for programs."""

        def described(each):
            bounds = (
                {"choices": list(each.choices)}
                if each.choices
                else {"minimum": each.low, "maximum": each.high}
            )
            return {
                "label": each.label, "type": each.kind.__name__, "default": each.default,
                **({} if each.kind is bool or each.is_text else bounds), "infotext": each.infotext, "help": each.help,
            }  # fmt: skip

        return {each.key: described(each) for each in self.fields}


SAMPLER = Form(
    NAME, CONTROLS, "isdo", (CALLS,), {"Sampler": NAME, "Hires sampler": NAME}, tuple(PRESETS)
)
REFINE = Form(
    REFINE_NAME, REFINE_CONTROLS, "isdo_refine", (REFINE_NAME, NOT_REFINED), {REFINE_NAME: None}
)
INVERT = Form(INVERT_NAME, INVERT_HOST_FIELDS, "isdo_invert", (INVERT_NAME,), {INVERT_NAME: None})
SCRIPTS = (REFINE, INVERT)  # in img2img's list


def solver_settings(values):
    """Return the Settings among the sampler's values."""
    return Settings(**{each.key: values[each.key] for each in FIELDS if each.key in values})


def refine_settings(values, drawn):
    """Return the RefineSettings among the values.

    Nobody who ticks the box and no more shall wait longer for the refinement than for the picture:
    while both numbers are ISDO's own, there are no more model calls than ``drawn``. Whoever says
    how many gets them.
    """
    settings = RefineSettings(**{each.key: values[each.key] for each in REFINE_FIELDS})
    if all(values[key] == REFINE.defaults[key] for key in ("iterations", "calls")):
        calls = min(settings.calls, max(drawn, 1))
        settings = replace(
            settings, calls=calls, iterations=min(settings.iterations, max(drawn // calls, 1))
        )
    return settings


def schema():
    """Return what may be asked, for programs: {"args": order, "settings": {key: what it is}}, and
    so of the scripts."""
    refine = {
        "script": REFINE_NAME,
        "args": ["enabled", *REFINE.by_key],
        "script_args": list(REFINE.by_key),
    }
    return {
        "sampler": NAME,
        "args": ["enabled", *SAMPLER.by_key],
        "presets": PRESETS,
        "settings": SAMPLER.describe(),
        "refine": {**refine, "settings": REFINE.describe()},
        "invert": {
            "script": INVERT_NAME,
            "script_args": list(INVERT.by_key),
            "settings": INVERT.describe(),
        },
    }
