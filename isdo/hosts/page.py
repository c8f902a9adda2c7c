"""The page: the accordions and the script, their pasting, their pages in the Settings, the axes of
the X/Y/Z plot."""

import functools
import logging

import gradio as gr
from modules import options, scripts, shared

from .. import ui
from ..settings import FIELDS
from .picture import refusing, stored_defaults
from .request import INVERT, NAME, REFINE, SAMPLER

log = logging.getLogger(__name__)
USE = {SAMPLER: "Use these instead of Settings > ISDO", REFINE: "Refine every picture"}
ADVICE = {
    SAMPLER: "Leave this closed: the defaults are right.",
    REFINE: "Tick the box and leave the rest: the defaults are right. Nothing is refined while it is not ticked.",
}
CATEGORY = "isdo"


def panel(script, form):
    """Create the accordion of one tab; return (enabled, one control for each field) and set up
    their pasting.

    To open it is to look: it is a plain accordion, and the box in it says whether it counts.
    """
    values = stored_defaults(form)
    with gr.Accordion(form.name, open=False, elem_id=script.elem_id("accordion")):
        gr.Markdown(ADVICE[form], elem_id=script.elem_id("advice"))
        notice = gr.Markdown("", elem_id=script.elem_id("notice"))
        with gr.Row():
            chooser = ui.preset(values, script.elem_id) if form is SAMPLER else None
            enabled = ui.unsaved(
                gr.Checkbox(False, label=USE[form], elem_id=script.elem_id("enable"))
            )
            button, hidden = buttons(script)
        made = ui.controls(form.fields, values, script.elem_id)
    if chooser is not None:
        solver = {field.key for field in FIELDS}
        named = [
            (field, control)
            for field, control in zip(form.fields, made, strict=True)
            if field.key in solver
        ]
        ui.tie_preset(chooser, *map(list, zip(*named, strict=True)), enabled)
        for field, control in zip(form.fields, made, strict=True):
            if field.key not in solver:
                control.input(lambda: True, [], [enabled], show_progress=False, queue=False)
    ui.follow(button, hidden, form.fields, made, functools.partial(stored_defaults, form))

    def asked_in(params):
        return None if params.get("Script") == form.name else form.read(params, [])

    def paste_enabled(params):
        asked = asked_in(params)
        return asked is not None and (form is REFINE or asked != stored_defaults(form))

    script.infotext_fields = [
        (enabled, paste_enabled), *pasting(form, made, asked_in), (notice, functools.partial(tell_left_out, form))
    ]  # fmt: skip
    return [enabled, *made]


def buttons(script):
    """Create the button that puts the stored values back, and the one that the page's script
    presses for that."""
    button = gr.Button(
        "Defaults", elem_id=script.elem_id("defaults"), size="sm", scale=0, min_width=110
    )
    hidden = gr.Button("Follow", elem_id=script.elem_id("follow"))  # hidden by the page's script
    return ui.unsaved(button), ui.unsaved(hidden)


def script_controls(script, form):
    """Create the controls of the script in the dropdown, one for each field, and set up their
    pasting."""
    made = ui.controls(form.fields, stored_defaults(form), script.elem_id)
    ui.follow(*buttons(script), form.fields, made, functools.partial(stored_defaults, form))

    def asked_in(params):
        return form.read(params, []) if params.get("Script") == form.name else None

    script.infotext_fields = pasting(form, made, asked_in)
    return made


def pasting(form, made, asked_in):
    """Return (control, function of the infotext's parameters) for each field; None leaves a control
    as it is."""

    def paste_value(key, params):
        asked = asked_in(params)
        return None if asked is None else asked[key]

    return [
        (control, functools.partial(paste_value, field.key))
        for field, control in zip(form.fields, made, strict=True)
    ]


def tell_left_out(form, params):
    """Return in one line what of a pasted infotext could not be taken, and say it where people
    look."""
    form.read(params, left_out := [])
    if not left_out:
        return ""
    line = f"{form.name}: of the pasted text this was left out: {'; '.join(left_out)}"
    log.warning("%s", line)
    gr.Warning(line)
    return line


def add_options():
    """Make the pages in the Settings: the values where a picture says nothing."""
    categories = getattr(options, "categories", None)
    if categories is not None:
        categories.register_category(CATEGORY, NAME)
    for form in (SAMPLER, REFINE, INVERT):
        section = (form.prefix, form.name)
        for field in filter(ui.has_choice, form.fields):
            if field.is_text:  # a prompt belongs to its picture
                continue
            kind, bounds = ui.widget(field)
            # the help as the control's own: not every host writes its comments beside every kind
            info = shared.OptionInfo(
                field.default, field.label, kind, {**bounds, "info": field.help}, section=section
            )
            if categories is not None:
                info.category_id = CATEGORY
            shared.opts.add_option(form.option(field), info)


def add_axes():
    """Give every setting an axis in the X/Y/Z plot, once."""
    for plot in (
        data.module for data in scripts.scripts_data if hasattr(data.module, "axis_options")
    ):
        axes = [axis for form in (SAMPLER, REFINE) for axis in axes_of(form, plot.AxisOption)]
        lists = [plot.axis_options]
        kinds = tuple(kind for kind in vars(plot).values() if isinstance(kind, type))
        # without a page (--nowebui) the plot has made its own list before anybody is asked
        for runner in (
            getattr(scripts, "scripts_txt2img", None),
            getattr(scripts, "scripts_img2img", None),
        ):
            made = [
                script
                for script in getattr(runner, "scripts", ())
                if isinstance(script, kinds)  # its class has another name in Forge Classic
            ]
            lists += [
                script.current_axis_options
                for script in made
                if hasattr(script, "current_axis_options")
            ]
        for options_of in lists:
            known = {axis.label for axis in options_of}
            options_of += [axis for axis in axes if axis.label not in known]


def axes_of(form, axis_option):
    """Return an axis for each field, and one for the presets."""
    made = []
    if form.presets:
        made.append(
            axis_option(
                f"[{form.name}] Preset", str, preset_setter(form), confirm=preset_checker(form),
                choices=functools.partial(list, form.presets),
            )
        )  # fmt: skip
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
    """Return the texts that an axis offers; the X/Y/Z plot would make True of any text, "False"
    included."""
    return ("True", "False") if field.kind is bool else field.choices


def axis_value(field, value):
    """Return the value of a cell in the field's type."""
    return field.read(value) if field.kind is bool and isinstance(value, str) else value


def put_axes(p, form, values):
    """Add what a cell of the X/Y/Z plot asks for to its copy of p."""
    name = f"{form.prefix}_axes"  # a new mapping: cells are shallow copies
    setattr(p, name, {**getattr(p, name, {}), **values})


def preset_setter(form):
    """Return the function by which the X/Y/Z plot sets a preset on its copy of p."""

    def set_values(p, name, values):
        put_axes(p, form, form.expand({"preset": name}))

    return set_values


def preset_checker(form):
    """Return the function by which the X/Y/Z plot looks at names of presets before it starts."""

    def check_names(p, names):
        with refusing():
            for name in names:
                form.expand({"preset": name})

    return check_names


def axis_setter(form, field):
    """Return the function by which the X/Y/Z plot sets a value on its copy of p."""

    def set_value(p, value, values):
        put_axes(p, form, {field.key: axis_value(field, value)})

    return set_value


def axis_checker(field):
    """Return the function by which the X/Y/Z plot looks at the values before it starts."""

    def check_values(p, values):
        with refusing():
            for value in values:
                field.check(axis_value(field, value))

    return check_values
