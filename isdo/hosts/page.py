"""The page: the accordion and its pasting, Settings > ISDO, the axes of the X/Y/Z plot."""

import functools
from contextlib import contextmanager

import gradio as gr
from modules import scripts, shared

from .. import ui
from . import request
from .picture import option, refusing, stored_defaults
from .request import CONTROLS, NAME


def panel(script):
    """Create the accordion of one tab; return (enabled, one control for each of CONTROLS) and set up their pasting."""
    with accordion(script) as enabled:
        made = ui.controls(CONTROLS, stored_defaults(), script.elem_id)

    def asked_in(params):
        with refusing():
            return request.read(params)

    def paste_enabled(params):
        asked = asked_in(params)
        return asked is not None and asked != stored_defaults()

    def paste_value(key, params):
        asked = asked_in(params)
        return None if asked is None else asked[key]

    script.infotext_fields = [(enabled, paste_enabled)]
    script.infotext_fields += [
        (control, functools.partial(paste_value, field.key)) for field, control in zip(CONTROLS, made, strict=True)
    ]
    return [enabled, *made]


@contextmanager
def accordion(script):
    """Open the accordion; its checkbox says whether this page's values count, or those of Settings > ISDO."""
    try:
        from modules.ui_components import InputAccordion
    except ImportError:
        with gr.Accordion(NAME, open=False, elem_id=script.elem_id("accordion")):
            yield gr.Checkbox(False, label="Use these instead of Settings > ISDO", elem_id=script.elem_id("enable"))
    else:
        with InputAccordion(False, label=NAME, elem_id=script.elem_id("enable")) as enabled:
            yield enabled


def add_options():
    """Make the page Settings > ISDO: the values where a picture says nothing."""
    section = ("isdo", NAME)
    for field in filter(ui.has_choice, CONTROLS):
        kind, bounds = ui.widget(field)
        info = shared.OptionInfo(field.default, field.label, kind, bounds, section=section)
        shared.opts.add_option(option(field), info.info(field.help))


def add_axes():
    """Give every setting an axis in the X/Y/Z plot, once."""
    for plot in (data.module for data in scripts.scripts_data if hasattr(data.module, "axis_options")):
        known = {axis.label for axis in plot.axis_options}
        for field in CONTROLS:
            label = f"[{NAME}] {field.label}"
            if label not in known:
                choices = functools.partial(list, field.choices) if field.choices else None
                plot.axis_options.append(
                    plot.AxisOption(label, field.kind, axis_setter(field), confirm=axis_checker(field), choices=choices)
                )


def axis_setter(field):
    """Return the function by which the X/Y/Z plot sets a value on its copy of p."""

    def set_value(p, value, values):
        p.isdo_axes = {**getattr(p, "isdo_axes", {}), field.key: value}  # a new one: cells are shallow copies

    return set_value


def axis_checker(field):
    """Return the function by which the X/Y/Z plot looks at the values before it starts."""

    def check_values(p, values):
        with refusing():
            for value in values:
                field.check(value)

    return check_values
