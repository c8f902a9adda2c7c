"""ISDO in a WebUI - sampler, schedule, page, XYZ axes, API - for the whole family, by capability."""

import functools
from contextlib import contextmanager
from types import SimpleNamespace

import torch
from fastapi import HTTPException
from modules import script_callbacks, scripts, sd_samplers, sd_samplers_common, sd_samplers_kdiffusion, shared

from .. import __version__, ui
from ..path import PATHS, detect_path
from ..sampling import sample_isdo
from ..schedules import curvature_sigmas, rest, sgm_uniform
from . import forge, request
from .request import CONTROLS, NAME

try:
    from modules import sd_schedulers
except ImportError:  # AUTOMATIC1111 before 1.9 and Forge Classic: schedules are a global setting there
    sd_schedulers = None

ALIASES = ["isdo", "k_isdo"]
# What "Automatic" means, as for the hosts' other multistep samplers; flow models get a grid of their own below.
OPTIONS = {"scheduler": "karras"}
SCHEDULE_NAME, SCHEDULE_LABEL = "isdo_curvature", "ISDO curvature"
API_PATHS = ("/sdapi/v1/txt2img", "/sdapi/v1/img2img")


class Refused(HTTPException):
    """A request that asks ISDO for something it does not have; the API answers 422, the page shows the message."""

    def __init__(self, message):
        super().__init__(status_code=422, detail=str(message))

    def __str__(self):
        return self.detail


@contextmanager
def refusing():
    """Turn the package's ValueError into an answer that says whose fault it is."""
    try:
        yield
    except ValueError as error:
        raise Refused(error) from error


# ---------------------------------------------------------------------------------------------------- what p asks for


def option(field):
    """Return the name of a field's default in the host's settings."""
    return f"isdo_{field.key}"


def stored_defaults():
    """Return {key: value} of Settings > ISDO."""
    return {field.key: getattr(shared.opts, option(field), field.default) for field in CONTROLS}


def runs_in(p):
    """Say whether ISDO makes any pass of a picture."""
    names = [p.sampler_name]
    if getattr(p, "enable_hr", False):
        names.append(getattr(p, "hr_sampler_name", None) or p.sampler_name)
    found = [sd_samplers.find_sampler_config(name) for name in names]
    return any(config is not None and config.name == NAME for config in found)


def values_of(p):
    """Return every value {key: value} for a picture.

    Raises:
        ValueError: what is wrong with them.
    """
    return request.resolve(stored_defaults(), getattr(p, "isdo_args", ()), getattr(p, "isdo_axes", None))


def before_picture(p, args):
    """Take in the script's arguments and write the infotext, which the host keeps before the first step as well.

    What is wrong with the arguments is said when the sampler starts: the host would swallow it here.
    """
    p.isdo_args = args
    request.clear(p.extra_generation_params)
    if runs_in(p):
        try:
            request.write(p.extra_generation_params, values_of(p))
        except ValueError:
            pass


# --------------------------------------------------------------------------------------------------------- the sampler


class Stepped:
    """The host's denoiser with its step counter held at the sampler's step, however many calls a step takes.

    That counter drives prompt editing, NGMS, the refiner and other extensions, by Euler's one call a step.
    """

    def __init__(self, denoiser, callback):
        self.denoiser, self.host_callback = denoiser, callback
        self.step, self.calls = 0, 0

    @property
    def inner_model(self):
        return self.denoiser.inner_model

    def __call__(self, x, sigma, **extra_args):
        self.denoiser.step = self.step
        with forge.steady_mask(self.denoiser, x):
            denoised = self.denoiser(x, sigma, **extra_args)
        self.calls += 1
        return denoised

    def callback(self, state):
        self.step = state["i"] + 1
        if self.host_callback is not None:
            self.host_callback(state)


class IsdoSampler(sd_samplers_kdiffusion.KDiffusionSampler):
    """The host's own k-diffusion sampler, with ISDO as its function and the settings of one picture."""

    def __init__(self, sd_model):
        super().__init__(self.solve, sd_model)
        self.values = self.solver_settings = self.path = self.steps_from_image = None

    def sample(self, p, *args, **kwargs):
        self.begin(p)
        return super().sample(p, *args, **kwargs)

    def sample_img2img(self, p, x, noise, conditioning, unconditional_conditioning, steps=None, image_conditioning=None):
        self.begin(p)
        self.steps_from_image = sd_samplers_common.setup_img2img_steps(p, steps)[1] + 1
        return super().sample_img2img(
            p, x, noise, conditioning, unconditional_conditioning, steps=steps, image_conditioning=image_conditioning
        )

    def begin(self, p):
        """Read what the picture asks for, before anything of it is computed.

        Raises:
            Refused: settings that make no sense.
        """
        with refusing():
            self.values = values_of(p)
            self.solver_settings = request.solver_settings(self.values)
        request.write(p.extra_generation_params, self.values)  # some extensions make a p without scripts
        named = PATHS.get(self.solver_settings.path)
        self.path = detect_path(self.model_wrap_cfg) if named is None else named

    def get_sigmas(self, p, steps):
        """Return the noise levels of the host's schedule, or ISDO's own where the host's does not suit the model.

        Raises:
            Refused: a schedule that starts where the model's path has ended.
        """
        with self.own_grid(p):
            sigmas = super().get_sigmas(p, steps)
        if float(sigmas[0]) > self.path.sigma_limit:
            raise Refused(
                f"the schedule starts at sigma {float(sigmas[0]):g} and this flow model ends at {self.path.sigma_limit:g}: "
                "choose the schedule Automatic, Simple or ISDO curvature"
            )
        if self.steps_from_image is not None and self.values["strength"] == "noise level":
            before = sigmas[: steps - self.steps_from_image]
            strength = min(float(p.denoising_strength), 0.999)
            start = self.path.from_noise_to_signal(strength / (1 - strength))
            sigmas = torch.cat([before, rest(sigmas, start, self.steps_from_image).to(sigmas)])
        return sigmas

    @contextmanager
    def own_grid(self, p):
        """On flow models, let "Automatic" be even steps through the model's own table.

        The hosts build theirs from time steps that the predictor has on another scale: sigmas of 9999, or all the same.
        """
        name = (getattr(p, "hr_scheduler", None) if p.is_hr_pass else getattr(p, "scheduler", None)) or "Automatic"
        given = p.sampler_noise_scheduler_override
        if self.path.fade and name == "Automatic" and not given and not forge.has_own_flow_grid():
            p.sampler_noise_scheduler_override = lambda steps: sgm_uniform(steps, self.model_wrap.sigmas)
        try:
            yield
        finally:
            p.sampler_noise_scheduler_override = given

    def solve(self, model, x, sigmas, extra_args=None, callback=None, disable=None):
        """Run ISDO; called by the host, which reads from these names what to hand over."""
        stepped = Stepped(model, callback)
        try:
            return sample_isdo(
                stepped, x, sigmas, extra_args, stepped.callback, disable, settings=self.solver_settings, mask=model.nmask
            )
        finally:  # an interrupted picture has an infotext too
            if stepped.calls > stepped.step:
                self.p.extra_generation_params[request.CALLS] = stepped.calls


def put(items, name, item):
    """Replace the item of that name in a list, in place; append it where there is none."""
    for i, other in enumerate(items):
        if other.name == name:
            items[i] = item
            return
    items.append(item)


def curvature_schedule(n, sigma_min, sigma_max, inner_model, device):
    """Return ISDO's curvature schedule for the host: n steps, on the device."""
    path = detect_path(SimpleNamespace(inner_model=inner_model))
    return curvature_sigmas(n, sigma_min, sigma_max, path=path).to(device)


def register():
    """Put the sampler and the schedule into the host's lists, in place: others hold them. Doing it twice is harmless."""
    sampler = sd_samplers_common.SamplerData(NAME, IsdoSampler, ALIASES, dict(OPTIONS))
    put(sd_samplers.all_samplers, NAME, sampler)
    for name in (NAME, *ALIASES):  # the API asks this map, and answers an unknown name with another sampler's picture
        sd_samplers.all_samplers_map[name] = sampler
    k_diffusion_map = getattr(sd_samplers_kdiffusion, "k_diffusion_samplers_map", {})
    k_diffusion_map[NAME] = sampler
    sd_samplers.set_samplers()
    if sd_schedulers is not None:
        schedule = sd_schedulers.Scheduler(SCHEDULE_NAME, SCHEDULE_LABEL, curvature_schedule, need_inner_model=True)
        put(sd_schedulers.schedulers, SCHEDULE_NAME, schedule)
        sd_schedulers.schedulers_map.update({SCHEDULE_NAME: schedule, SCHEDULE_LABEL: schedule})
    forget = getattr(getattr(sd_samplers, "get_sampler_and_scheduler", None), "cache_clear", None)
    if forget is not None:
        forget()


# ------------------------------------------------------------------------------------------- page, Settings page, XYZ


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
    script.paste_field_names = list(request.INFOTEXT_KEYS)
    return [enabled, *made]


@contextmanager
def accordion(script):
    """Open the accordion; its checkbox says whether this page's values count, or those of Settings > ISDO."""
    import gradio as gr

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


# ------------------------------------------------------------------------------------------------------------- the API


def add_api(demo, app):
    """Describe ISDO at /isdo/v1 and let the picture routes refuse what would otherwise be ignored."""
    if not any(getattr(route, "path", None) == "/isdo/v1/version" for route in app.routes):
        app.add_api_route("/isdo/v1/version", lambda: {"name": NAME, "version": __version__}, methods=["GET"])
        app.add_api_route("/isdo/v1/schema", request.schema, methods=["GET"])
    for route in app.routes:
        if getattr(route, "path", None) in API_PATHS and not hasattr(route.dependant.call, "isdo_inside"):
            route.dependant.call = checked(route.dependant.call)


def checked(endpoint):
    """Return the host's endpoint behind a look at what the request asks of ISDO."""

    # by name only: the host reads the parameters of its own endpoint
    @functools.wraps(endpoint)
    def call(*args, **kwargs):
        for body in (*args, *kwargs.values()):
            if hasattr(body, "alwayson_scripts"):
                check_request(body.alwayson_scripts)
        return endpoint(*args, **kwargs)

    call.isdo_inside = endpoint
    return call


def check_request(alwayson):
    """Look at a request's {script: {"args": ...}} and give the host ours in the one form that it keeps whole.

    The host drops surplus arguments and unknown keys, and fills a short list with what the page showed at the start.

    Raises:
        Refused: what is wrong.
    """
    for title in [title for title in alwayson or {} if title.lower() == NAME.lower()]:
        block = alwayson[title]
        if not isinstance(block, dict) or set(block) != {"args"} or not isinstance(block["args"], (list, dict)):
            raise Refused(f'{title} is {block!r}: give {{"args": [true, ...]}} or {{"args": [{{"order": 2, ...}}]}}')
        args = block["args"] if isinstance(block["args"], list) else [block["args"]]
        with refusing():
            asked = request.read_args(args)
        alwayson[title] = {"args": [{"enabled": bool(asked), **asked}]}


def install():
    """Set everything up; the script calls it at each load."""
    register()
    script_callbacks.on_ui_settings(add_options)
    script_callbacks.on_before_ui(add_axes)
    script_callbacks.on_app_started(add_api)
