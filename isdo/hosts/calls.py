"""How many model calls a picture takes: counted, where the host only says what it believes."""

import inspect
import json
import logging
from contextlib import contextmanager
from importlib import import_module

import numpy as np
import torch
from modules import sd_samplers, sd_samplers_common, sd_samplers_kdiffusion, shared

from ..device import wide
from ..penalty import calls_each
from ..schedules import karras
from ..solver import SOLVERS, most_calls
from .picture import refusing, stored_defaults, values_of
from .request import ALIASES, NAME, REFINE, SAMPLER, refine_settings, solver_settings

try:
    from modules import sd_schedulers
except ImportError:  # AUTOMATIC1111 before 1.9 and Forge Classic
    sd_schedulers = None

log = logging.getLogger(__name__)
SAME = (
    "Use same sampler",
    "Use same scheduler",
    None,
    "",
)  # what stands in hires' lists for the first pass's choice


class Counter:
    """A denoiser of nothing that counts its calls; what else a sampler asks is the host's
    model's."""

    def __init__(self, inner_model):
        self.inner_model, self.calls = inner_model, 0

    def __call__(self, x, sigma, **extra_args):
        self.calls += 1
        return x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2)


class Levels:
    """A model of which a schedule asks no more than its noise levels: a thousand of them, as every
    host's has."""

    def __init__(self):
        self.sigmas = torch.linspace(0.0292, 14.6, 1000, device="cpu")
        self.sigma_min, self.sigma_max = self.sigmas[0], self.sigmas[-1]
        self.index = torch.arange(1000.0, device="cpu")
        self._table, self._places = self.sigmas.numpy(), self.index.numpy()

    def sigma_to_t(self, sigma):
        return torch.from_numpy(np.interp(wide(sigma), self._table, self._places)).float()

    def t_to_sigma(self, t):
        return torch.from_numpy(np.interp(wide(t), self._places, self._table)).float()


def schedule_sampler(host_s):
    """Return (function, names of its parameters) of a host's sampler that runs on noise levels;
    None for another."""
    func = getattr(host_s, "func", None)
    taken = inspect.signature(func).parameters if callable(func) else {}
    fits = isinstance(host_s, sd_samplers_kdiffusion.KDiffusionSampler) and "sigmas" in taken
    return (func if fits else None), taken


def counted_calls(host_s, steps, end=0.0):
    """Return how many model calls a host's sampler makes in so many steps down to ``end``: counted
    on four numbers.

    Hosts mark samplers as "second order" that make two calls a step; HeunPP2 makes three, Restart
    as many as it likes, and neither is marked.
    """
    func, taken = schedule_sampler(host_s)
    trusted = host_s.config.total_steps(steps)
    if func is None or host_s.config.name == NAME or steps < 1:
        return trusted
    x, sigmas = torch.ones(1, 1, 2, 2, device="cpu"), karras(steps, 2 * end or 0.03, 14.6)
    sigmas[-1] = end
    counter, given = Counter(host_s.model_wrap), {}
    if "noise_sampler" in taken:
        given["noise_sampler"] = lambda *_: torch.zeros_like(x)
    if "solver_type" in host_s.config.options:
        given["solver_type"] = host_s.config.options["solver_type"]
    try:
        with plain_noise():
            func(
                counter,
                x,
                sigmas=sigmas,
                extra_args={},
                callback=lambda state: None,
                disable=True,
                **given,
            )
    except Exception:  # it wants more of a model than there is here: then the host's word has to do
        log.debug("the calls of %s cannot be counted", host_s.config.name, exc_info=True)
        return trusted
    return counter.calls


@contextmanager
def plain_noise():
    """Let k-diffusion's samplers draw from torch: the picture's own noise stays as it is."""
    library = getattr(sd_samplers_kdiffusion, "k_diffusion", None)  # reForge has "sampling" alone
    sampling = getattr(library or sd_samplers_kdiffusion, "sampling", None)
    if sampling is None:
        yield
        return
    hijack, sampling.torch = sampling.torch, torch
    state = torch.random.get_rng_state()
    try:
        yield
    finally:
        sampling.torch = hijack
        torch.random.set_rng_state(state)


def loaded_model():
    """Return the host's checkpoint if there is one: asked by the usual way, the host would load
    one."""
    try:
        return import_module("modules.sd_models").model_data.sd_model
    except (ImportError, AttributeError):
        return None


def calls_of(model, name, steps, values=None):
    """Return how many model calls the sampler of that name makes in so many steps.

    Args:
        model: the host's checkpoint; None trusts the host's count.
        values: ISDO's; with a tolerance, or swept over, these are the most calls.
    """
    config = sd_samplers.find_sampler_config(name)
    if config is None:
        return steps
    if config.name == NAME:
        values = values or SAMPLER.defaults
        return most_calls(solver_settings(values), steps)
    try:
        return (
            counted_calls(sd_samplers.create_sampler(name, model), steps)
            if model is not None
            else config.total_steps(steps)
        )
    except Exception:  # Forge has a stand-in until the first picture is asked for
        log.debug("%s cannot be made yet", name, exc_info=True)
        return config.total_steps(steps)


def steps_of(scheduler, steps):
    """Return how many steps a schedule really has that is asked for ``steps``: some have one more,
    or one less.

    Args:
        scheduler: its name or label.
    """
    schedule = sd_schedulers.schedulers_map.get(scheduler) if sd_schedulers is not None else None
    if schedule is None or schedule.function is None or scheduler == "Automatic":
        return steps
    discard = bool(getattr(shared.opts, "always_discard_next_to_last_sigma", False))
    levels = Levels()
    asked = {"inner_model": levels} if schedule.need_inner_model else {}
    try:
        sigmas = schedule.function(
            n=steps + discard, sigma_min=0.0292, sigma_max=14.6, device=torch.device("cpu"), **asked
        ).tolist()
    except Exception:  # one that asks the model for more
        log.debug("the steps of %s cannot be counted", scheduler, exc_info=True)
        return steps
    return sigmas.index(0) - discard if 0 in sigmas else len(sigmas) - 1 - discard


def read_texts(form, texts):
    """Return {key: value} of controls that hold these texts {key: text}; other keys are others'
    controls."""
    return {key: form.by_key[key].read(text) for key, text in texts.items() if key in form.by_key}


def one_pass(model, sampler, scheduler, steps, start=None, values=None):
    """Return (steps that the host shows, model calls) of one pass of a picture.

    Args:
        model: the host's checkpoint, or None.
        sampler, scheduler: their names.
        steps: of the whole schedule.
        start: img2img: the index from the end at which it begins, ``setup_img2img_steps(p)[1]``.
        values: ISDO's; where strength is a noise level, a pass has as many steps whatever the
            schedule has.
    """
    values = values or SAMPLER.defaults
    if start is None:
        return steps, calls_of(model, sampler, steps_of(scheduler, steps), values)
    left = max(len(range(steps_of(scheduler, steps) + 1)[steps - start - 1 :]) - 1, 0)
    if steps and sampler == NAME and values["strength"] == "noise level":
        left = start + 1
    return start + 1, calls_of(model, sampler, left, values)


def passes(p, model):
    """Return (sampler, steps, model calls) of each pass that a picture is drawn in."""
    scheduler, values = getattr(p, "scheduler", None) or "Automatic", sampler_values(p)
    if hasattr(p, "init_images"):
        way = sd_samplers_common.setup_img2img_steps(p)
        return [(p.sampler_name, *one_pass(model, p.sampler_name, scheduler, *way, values=values))]
    first = (p.sampler_name, *one_pass(model, p.sampler_name, scheduler, p.steps, values=values))
    if not getattr(p, "enable_hr", False):
        return [first]
    name, given = p.hr_sampler_name or p.sampler_name, p.hr_second_pass_steps or p.steps
    way = sd_samplers_common.setup_img2img_steps(p, given)
    second = (
        name,
        *one_pass(model, name, getattr(p, "hr_scheduler", None) or scheduler, *way, values=values),
    )
    return [first, second] if getattr(p, "firstpass_image", None) is None else [second]


def sampler_values(p):
    """Return ISDO's values {key: value} for a picture; its defaults where they make no sense."""
    try:
        return values_of(p)
    except ValueError:  # said when the sampler starts
        return SAMPLER.defaults


class Asked:
    """What a page asks for, in the host's own terms for a picture.

    Args:
        page: {"steps", "sampler", "scheduler", "strength", ...} as texts, of one tab; "hires" where
            hires fix is on, "values" of the controls where those count.
    """

    def __init__(self, page):
        self.sampler_name, self.scheduler = page["sampler"], page.get("scheduler") or "Automatic"
        self.steps, self.denoising_strength = (
            int(float(page["steps"])),
            float(page.get("strength") or 0.0),
        )
        if page.get("tab") == "img2img":
            self.init_images = ()
        self.enable_hr = bool(page.get("hires"))
        self.hr_second_pass_steps = int(float(page.get("hr_steps") or 0))
        hires = (page.get(key) for key in ("hr_sampler", "hr_scheduler"))
        self.hr_sampler_name, self.hr_scheduler = (None if name in SAME else name for name in hires)
        self.isdo_args = (
            [read_texts(SAMPLER, page["values"])] if page.get("values") is not None else []
        )


def told(page):
    """Return what the accordions of a tab say beside their titles: {"sampler": text, "refine":
    text}.

    Args:
        page: JSON of what stands there: see `Asked`; "refine", "script": {key: text} where these
            are on.

    Raises:
        Refused: what is no such page.
    """
    with refusing():
        page = json.loads(page)
        if not isinstance(page, dict) or not {"sampler", "steps"} <= set(page):
            raise ValueError(
                'page is no such page: give at least {"sampler": "ISDO", "steps": "20"}'
            )
        asked = Asked(page)
        found = passes(asked, loaded_model())
        drawn = sum(calls for _, _, calls in found)
        if page.get("script") is not None:
            calls = refinement_calls(page["script"], asked.steps)
            return {
                "sampler": f"not drawn: the script makes {counted(calls)}",
                "refine": "the script is chosen",
            }
        more = refinement_calls(page["refine"], drawn) if page.get("refine") is not None else 0
    ours = [each for each in found if each[0] in (NAME, *ALIASES)]
    says = in_words(ours, sampler_values(asked)) if ours else "another sampler is chosen"
    return {
        "sampler": says + (f", and {more} of ISDO refine" if more else ""),
        "refine": f"on: {counted(more)}, after {drawn} that draw it"
        if page.get("refine") is not None
        else "off",
    }


def in_words(passes, values):
    """Return the model calls of ISDO's passes (sampler, steps, model calls) in words."""
    calls, steps = ([each[i] for each in passes] for i in (2, 1))
    settings = solver_settings(values)
    if settings.tolerance or SOLVERS[settings.solver].sweeps:
        return f"at most {counted(sum(calls))}, as many as it needs"
    a_step = calls_each(settings.curvature_penalty) * SOLVERS[settings.solver].calls_a_step
    back = any(settings.shares(n)[1] for n in steps)
    drawing = f", {settings.draw} steps draw" if back else ""
    return counted(sum(calls)) + (f", {a_step} a step" if a_step > 1 else "") + drawing


def counted(calls):
    """Return a number of model calls in words."""
    return f"{calls} model call{'' if calls == 1 else 's'} a picture"


def refinement_calls(texts, drawn):
    """Return how many calls a refinement makes whose controls hold these texts {key: text}."""
    settings = refine_settings(stored_defaults(REFINE) | read_texts(REFINE, texts), drawn)
    return settings.iterations * settings.calls if settings.noise else 0
