"""What p, the host's object for one picture, asks of ISDO."""

from contextlib import contextmanager
from importlib import import_module

from fastapi import HTTPException
from modules import rng, shared

from .request import ALIASES, NAME, SAMPLER


class Refused(HTTPException):
    """A request that asks ISDO for something it does not have; the API answers 422, the page shows
    the message."""

    def __init__(self, message):
        super().__init__(status_code=422, detail=str(message))

    def __str__(self):
        return self.detail


# Up to here models that were distilled to a few steps are run.
DISTILLED_STEPS = 8
DISTILLED_SCALE = 2.0


@contextmanager
def refusing():
    """Turn the package's ValueError into an answer that says whose fault it is."""
    try:
        yield
    except ValueError as error:
        raise Refused(error) from error


# What a host offers against NaN: its own arguments (Forge; reForge and Classic), then
# AUTOMATIC1111's flag.
PRECISION_FLAGS = (
    ("backend.args", "args", "all_in_fp32", "--all-in-fp32"), ("ldm_patched.modules.args_parser", "args", "all_in_fp32",
    "--all-in-fp32"), ("modules.shared", "cmd_opts", "no_half", "--no-half"),
)  # fmt: skip


def full_precision():
    """Return in words what gives full precision in this host."""
    for module, holder, name, flag in PRECISION_FLAGS:
        try:
            found = getattr(import_module(module), holder)
        except (ImportError, AttributeError):
            continue
        if hasattr(found, name):
            return f"full precision (start the WebUI with {flag})"
    return "full precision"


def stored_defaults(form=SAMPLER):
    """Return {key: value} of a form's page in the Settings."""
    return {
        field.key: getattr(shared.opts, form.option(field), field.default) for field in form.fields
    }


def fresh_noise(p, x, offset):
    """Return the host's source of noise for the pictures x of p: their own seeds, moved on by
    ``offset``."""
    seeds = [(int(seed) + offset) % 2**63 for seed in p.seeds[: len(x)]]
    variation = {
        "subseeds": getattr(p, "subseeds", None) or [],
        "subseed_strength": getattr(p, "subseed_strength", 0.0),
    }
    return rng.ImageRNG(x.shape[1:], seeds, **variation)


def script_values(form, p, args):
    """Return every value {key: value} that a script in the dropdown was asked for.

    Raises:
        ValueError: what is wrong with them.
    """
    mine = {form.option(field): field.key for field in form.fields}
    # the host puts these into the settings later, when it draws
    override = {mine[name]: value for name, value in p.override_settings.items() if name in mine}
    values = form.resolve(stored_defaults(form) | override, form.read_args(args, switch=False))
    if p.scripts is None:
        raise ValueError(f"{form.name} is a script and p has none: give p the img2img scripts")
    return values


def runs_in(p):
    """Say whether ISDO makes any pass of a picture; from here on p calls it by its name, as
    infotext and page do."""
    for attribute in ("sampler_name", "hr_sampler_name"):
        if getattr(p, attribute, None) in ALIASES:
            setattr(p, attribute, NAME)
    hires = getattr(p, "hr_sampler_name", None) if getattr(p, "enable_hr", False) else None
    return NAME in (p.sampler_name, hires)


def values_of(p):
    """Return every value {key: value} for a picture.

    Raises:
        ValueError: what is wrong with them.
    """
    asked = SAMPLER.read_args(getattr(p, "isdo_args", ()))
    values = SAMPLER.resolve(stored_defaults(), asked, getattr(p, "isdo_axes", None))
    if values["placement"] == SAMPLER.defaults["placement"] and looks_distilled(p):
        values["placement"] = 0.0
    return values


def looks_distilled(p):
    """Say whether a picture is drawn as models are that were distilled to a few steps: in few, and
    with next to no guidance.

    Such a model was trained at the levels of its schedule and at no others, so its calls stay
    there. No file says so of itself: Turbo, Lightning, Hyper, LCM and DMD come as checkpoints and
    as LoRAs, under any name. But all of them are drawn so, and hardly anything else is.
    """
    scale = getattr(p, "cfg_scale", None)  # some extensions make a p of a few attributes
    return scale is not None and scale <= DISTILLED_SCALE and p.steps <= DISTILLED_STEPS


def before_picture(p, args):
    """Take in the script's arguments and write the infotext, which the host keeps before the first
    step as well.

    What is wrong with the arguments is said when the sampler starts: the host would swallow it
    here.
    """
    p.isdo_args = args
    SAMPLER.clear(p.extra_generation_params)
    if getattr(p, "scheduler", None) in (None, "Automatic"):
        # what "Automatic" was for the X/Y/Z cell before: the host leaves it there, and Euler's cell
        # would say Karras
        p.extra_generation_params.pop("Schedule type", None)
    if runs_in(p):
        try:
            SAMPLER.write(p.extra_generation_params, values_of(p))
        except ValueError:
            pass
