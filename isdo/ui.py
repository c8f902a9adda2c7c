"""Gradio controls for the settings, for gradio 3.41 and 4.40: one table of what a setting looks
like."""

import functools

import gradio as gr

from .settings import NO_PRESET, PRESETS, preset_of

SLIDER_LIMIT = 1000  # a number with more values than that is typed, not slid


def widget(field):
    """Return the gradio class for a field and the arguments that bound it."""
    if field.choices:
        return gr.Dropdown, {"choices": list(field.choices)}
    if field.is_text:
        return gr.Textbox, {"lines": 2}
    if field.kind is bool:
        return gr.Checkbox, {}
    if field.high - field.low <= SLIDER_LIMIT:
        step = 1 if field.kind is int else field.step
        return gr.Slider, {"minimum": field.low, "maximum": field.high, "step": step}
    return gr.Number, {"precision": 0} if field.kind is int else {}


def has_choice(field):
    """Say whether there is anything to choose: a setting with one value waits for others and is not
    shown."""
    return len(field.choices) != 1


def unsaved(control):
    """Return the control, whose value Settings > Defaults leaves alone: it stands in Settings >
    ISDO already.

    Else the page would keep the values of the first start, and Settings > ISDO would have no
    effect.
    """
    control.do_not_save_to_config = True
    return control


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
    found = [made[field.key] for field in fields]
    grey_out(fields, found)
    return found


def rows(fields, values, elem_id):
    """Create the controls as ``controls`` does; return {key: control}."""
    made = {}
    shown = sorted(fields, key=has_choice, reverse=True)
    for i in range(0, len(shown), 2):
        with gr.Row():
            for field in shown[i : i + 2]:
                kind, bounds = widget(field)
                made[field.key] = unsaved(
                    kind(
                        label=field.label, value=values[field.key], info=field.help, elem_id=elem_id(field.key),
                        visible=has_choice(field), interactive=field.counts(values), **bounds,
                    )
                )  # fmt: skip
    return made


def grey_out(fields, made):
    """Let a control be grey while it has no effect beside the values of the others."""
    by_key = {field.key: control for field, control in zip(fields, made, strict=True)}
    deciding = {key for field in fields for key, _ in field.idle if key in by_key}
    for key in by_key:  # in the order of the page
        if key not in deciding:
            continue
        # what else decides over these is needed, too
        mine = [field for field in fields if any(name == key for name, _ in field.idle)]
        asked = [
            name
            for name in by_key
            if any(name == other for field in mine for other, _ in field.idle)
        ]

        def update(*values, mine=mine, asked=asked):
            found = dict(zip(asked, values, strict=True))
            updates = [gr.update(interactive=field.counts(found)) for field in mine]
            return updates if len(updates) > 1 else updates[0]

        by_key[key].change(
            update,
            [by_key[name] for name in asked],
            [by_key[field.key] for field in mine],
            show_progress=False,
            queue=False,
        )


def preset(values, elem_id):
    """Create the control that names what goes together."""
    return unsaved(
        gr.Dropdown(
            label="Preset", value=preset_of(values), choices=[*PRESETS, NO_PRESET], elem_id=elem_id("preset"),
            info="Fast: all steps draw. Odyssey: the last ones repaint. Exact: as many as a picture needs",
        )
    )  # fmt: skip


def tie_preset(chooser, fields, made, then=None):
    """Let a preset set the controls, and the controls name the preset that they are.

    Args:
        chooser: of ``preset``.
        fields, made: as of ``controls``.
        then: a control that a person's choice switches on.
    """
    on = [then] if then is not None else []

    def choose(name):
        changed = PRESETS.get(name)
        if changed is None:
            return [gr.update() for _ in made] + [gr.update() for _ in on]
        values = {field.key: field.default for field in fields} | changed
        return [gr.update(value=values[field.key]) for field in fields] + [
            gr.update(value=True) for _ in on
        ]

    def name_it(*values):
        return preset_of({field.key: value for field, value in zip(fields, values, strict=True)})

    chooser.input(choose, [chooser], [*made, *on], show_progress=False, queue=False)
    for control in made:
        control.change(name_it, list(made), [chooser], show_progress=False, queue=False)
        if on:
            control.input(
                functools.partial(gr.update, value=True), [], on, show_progress=False, queue=False
            )


def follow(button, hidden, fields, made, stored):
    """Let a button put the stored values into the controls, and a hidden one do so where nobody has
    touched them.

    Args:
        button, hidden: gr.Buttons; the page's script presses the hidden one when the Settings have
            changed.
        fields, made: as of ``controls``.
        stored: a function that returns the stored {key: value}.
    """
    shown = gr.State([stored()[field.key] for field in fields])

    def values():
        now = stored()
        return [now[field.key] for field in fields]

    def put():
        now = values()
        return [now, *(gr.update(value=value) for value in now)]

    def put_where_untouched(before, *current):
        now = values()
        updates = [
            gr.update(value=new) if old == seen else gr.update()
            for old, seen, new in zip(before, current, now, strict=True)
        ]
        return [now, *updates]

    button.click(put, [], [shown, *made], show_progress=False, queue=False)
    hidden.click(
        put_where_untouched, [shown, *made], [shown, *made], show_progress=False, queue=False
    )
