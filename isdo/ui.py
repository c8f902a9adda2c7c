"""Gradio controls for the settings, for gradio 3.41 and 4.40: one table of what a setting looks like."""

import gradio as gr

SLIDER_LIMIT = 1000  # a number with more values than that is typed, not slid


def widget(field):
    """Return the gradio class for a field and the arguments that bound it."""
    if field.choices:
        return gr.Dropdown, {"choices": list(field.choices)}
    if field.kind is bool:
        return gr.Checkbox, {}
    if field.high - field.low <= SLIDER_LIMIT:
        step = 1 if field.kind is int else 0.01
        return gr.Slider, {"minimum": field.low, "maximum": field.high, "step": step}
    return gr.Number, {"precision": 0} if field.kind is int else {}


def has_choice(field):
    """Say whether there is anything to choose: a setting with one value waits for others and is not shown."""
    return len(field.choices) != 1


def controls(fields, values, elem_id):
    """Create one control for each field, two a row, and return them in order.

    Args:
        fields: the Fields; the rare ones go into an accordion of their own below the others.
        values: {key: value} to begin with.
        elem_id: a function from key to the id of the element on the page.
    """
    rare = [field for field in fields if field.rare]
    made = rows([field for field in fields if not field.rare], values, elem_id)
    if rare:
        with gr.Accordion("More", open=False, elem_id=elem_id("more")):
            made |= rows(rare, values, elem_id)
    return [made[field.key] for field in fields]


def rows(fields, values, elem_id):
    """Create the controls as ``controls`` does; return {key: control}."""
    made = {}
    shown = sorted(fields, key=has_choice, reverse=True)
    for i in range(0, len(shown), 2):
        with gr.Row():
            for field in shown[i : i + 2]:
                kind, bounds = widget(field)
                made[field.key] = control = kind(
                    label=field.label, value=values[field.key], info=field.help, elem_id=elem_id(field.key),
                    visible=has_choice(field), **bounds,
                )  # fmt: skip
                # else the values of the first start would be kept there and Settings > ISDO would have no effect
                control.do_not_save_to_config = True
    return made
