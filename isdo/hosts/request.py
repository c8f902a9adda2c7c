"""What one picture asks of ISDO - from the page, the API, an XYZ cell, the Settings - and its way to the infotext and back."""

from ..settings import FIELDS, HOST_FIELDS, Settings

NAME, ALIASES = "ISDO", ("isdo", "k_isdo")
CONTROLS = (*FIELDS, *HOST_FIELDS)
CALLS = "ISDO calls"  # infotext key: the model calls of a run that made more than one a step
INFOTEXT_KEYS = (*(field.infotext for field in CONTROLS), CALLS)
_BY_KEY = {field.key: field for field in CONTROLS}
_DEFAULTS = {field.key: field.default for field in CONTROLS}


def check(values):
    """Return the values {key: value}, each in its field's own type.

    Raises:
        ValueError: an unknown key or a value outside its choices or range.
    """
    unknown = sorted(str(key) for key in set(values) - set(_BY_KEY))
    if unknown:
        raise ValueError(f"ISDO has no setting {', '.join(unknown)}: there are {', '.join(_BY_KEY)}")
    return {key: _BY_KEY[key].check(value) for key, value in values.items()}


def read_args(args):
    """Return {key: value} of what the script's arguments ask for, {} where they leave all to the Settings page.

    Args:
        args: (enabled, then the values in the order of CONTROLS), shorter lists and None where nothing is asked; or one
            mapping {key: value}, which may also say "enabled".

    Raises:
        ValueError: too many arguments, an unknown key, a bad value; also when not enabled.
    """
    if len(args) > 0 and isinstance(args[0], dict):
        asked = {key: value for key, value in args[0].items() if value is not None}
        enabled = asked.pop("enabled", True)
    elif len(args) > len(CONTROLS) + 1:
        raise ValueError(f"ISDO got {len(args)} arguments: give at most enabled, {', '.join(_BY_KEY)}, or one mapping of names")
    else:
        enabled = args[0] if args else False
        asked = {field.key: value for field, value in zip(CONTROLS, args[1:], strict=False) if value is not None}
    if not isinstance(enabled, bool) and enabled is not None:
        raise ValueError(f"enabled is {enabled!r}: give true or false, then {', '.join(_BY_KEY)}; or one mapping of names")
    asked = check(asked)
    return asked if enabled else {}


def resolve(stored, args=(), axes=None):
    """Return every value {key: value} for a run: the defaults, then the Settings page, the arguments, the XYZ axes.

    Raises:
        ValueError: what is wrong, and where it came from if not from the picture's own request.
    """
    try:
        stored = check(stored)
    except ValueError as error:
        raise ValueError(f"Settings > ISDO: {error}") from None
    return {**_DEFAULTS, **stored, **read_args(args), **check(axes or {})}


def solver_settings(values):
    """Return the Settings among the values."""
    return Settings(**{field.key: values[field.key] for field in FIELDS})


def clear(params):
    """Take everything of ISDO out of a picture's infotext parameters; XYZ cells and batches share them."""
    for key in INFOTEXT_KEYS:
        params.pop(key, None)


def write(params, values):
    """Set the infotext parameters of a run: what differs from ISDO's own defaults, whatever the Settings page says."""
    clear(params)
    params.update({_BY_KEY[key].infotext: value for key, value in values.items() if value != _DEFAULTS[key]})


def read(params):
    """Return every value {key: value} of the run that an infotext describes, None if ISDO had no part in it.

    Raises:
        ValueError: a value that ISDO does not have.
    """
    if NAME not in (params.get("Sampler"), params.get("Hires sampler")):
        return None
    return {
        field.key: field.read(params[field.infotext]) if field.infotext in params else field.default for field in CONTROLS
    }


def schema():
    """Return what may be asked, for programs: {"args": order, "settings": {key: what it is}}."""

    def describe(field):
        bounds = {"choices": list(field.choices)} if field.choices else {"minimum": field.low, "maximum": field.high}
        return {
            "label": field.label, "type": field.kind.__name__, "default": field.default, **bounds,
            "infotext": field.infotext, "help": field.help,
        }  # fmt: skip

    return {
        "sampler": NAME,
        "args": ["enabled", *_BY_KEY],
        "settings": {field.key: describe(field) for field in CONTROLS},
    }
