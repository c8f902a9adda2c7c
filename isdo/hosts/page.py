"""The page: the accordions and the script, their pasting, their pages in the Settings, the axes of the X/Y/Z plot."""

import functools
from contextlib import contextmanager

import gradio as gr
from modules import scripts, shared

from .. import ui
from .picture import refusing, stored_defaults
from .request import REFINE, SAMPLER

USE = {SAMPLER: "Use these instead of Settings > ISDO", REFINE: "Refine every picture"}


def panel(script, form):
    """Create the accordion of one tab; return (enabled, one control for each field) and set up their pasting.

    The sampler's is open only where the Settings would not do the same; the refinement's where it ran.
    """
    with accordion(script, form) as enabled:
        made = ui.controls(form.fields, stored_defaults(form), script.elem_id)

    def asked_in(params):
        if params.get("Script") == form.name:
            return None
        with refusing():
            return form.read(params)

    def paste_enabled(params):
        asked = asked_in(params)
        return asked is not None and (form is REFINE or asked != stored_defaults(form))

    script.infotext_fields = [(enabled, paste_enabled), *pasting(form, made, asked_in)]
    return [enabled, *made]


def script_controls(script, form):
    """Create the controls of the script in the dropdown, one for each field, and set up their pasting."""
    made = ui.controls(form.fields, stored_defaults(form), script.elem_id)

    def asked_in(params):
        if params.get("Script") != form.name:
            return None
        with refusing():
            return form.read(params)

    script.infotext_fields = pasting(form, made, asked_in)
    return made


def pasting(form, made, asked_in):
    """Return (control, function of the infotext's parameters) for each field; None leaves a control as it is."""

    def paste_value(key, params):
        asked = asked_in(params)
        return None if asked is None else asked[key]

    return [(control, functools.partial(paste_value, field.key)) for field, control in zip(form.fields, made, strict=True)]


@contextmanager
def accordion(script, form):
    """Open the accordion; its checkbox says whether this page's values count."""
    try:
        from modules.ui_components import InputAccordion
    except ImportError:
        with gr.Accordion(form.name, open=False, elem_id=script.elem_id("accordion")):
            yield gr.Checkbox(False, label=USE[form], elem_id=script.elem_id("enable"))
    else:
        with InputAccordion(False, label=form.name, elem_id=script.elem_id("enable")) as enabled:
            yield enabled


def add_options():
    """Make the pages in the Settings: the values where a picture says nothing."""
    for form in (SAMPLER, REFINE):
        for field in filter(ui.has_choice, form.fields):
            kind, bounds = ui.widget(field)
            info = shared.OptionInfo(field.default, field.label, kind, bounds, section=(form.prefix, form.name))
            shared.opts.add_option(form.option(field), info.info(field.help))


def add_axes():
    """Give every setting an axis in the X/Y/Z plot, once."""
    for plot in (data.module for data in scripts.scripts_data if hasattr(data.module, "axis_options")):
        known = {axis.label for axis in plot.axis_options}
        plot.axis_options += [
            axis for form in (SAMPLER, REFINE) for axis in axes_of(form, plot.AxisOption) if axis.label not in known
        ]


def axes_of(form, axis_option):
    """Return an axis for each field."""
    made = []
    for field in form.fields:
        choices = axis_choices(field)
        made.append(
            axis_option(
                f"[{form.name}] {field.label}", str if choices else field.kind, axis_setter(form, field),
                confirm=axis_checker(field), choices=functools.partial(list, choices) if choices else None,
            )
        )  # fmt: skip
    return made


def axis_choices(field):
    """Return the texts that an axis offers; the X/Y/Z plot would make True of any text, "False" included."""
    return ("True", "False") if field.kind is bool else field.choices


def axis_value(field, value):
    """Return the value of a cell in the field's type."""
    return field.read(value) if field.kind is bool and isinstance(value, str) else value


def axis_setter(form, field):
    """Return the function by which the X/Y/Z plot sets a value on its copy of p."""

    def set_value(p, value, values):
        name = f"{form.prefix}_axes"  # a new mapping: cells are shallow copies
        setattr(p, name, {**getattr(p, name, {}), field.key: axis_value(field, value)})

    return set_value


def axis_checker(field):
    """Return the function by which the X/Y/Z plot looks at the values before it starts."""

    def check_values(p, values):
        with refusing():
            for value in values:
                field.check(axis_value(field, value))

    return check_values
