"""The sampler and the schedule in the host's lists."""

from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace

import torch
from modules import sd_samplers, sd_samplers_common, sd_samplers_kdiffusion, shared

from ..answers import NotFinite
from ..path import FLOW, PATHS, detect_path, noise_levels, smallest_sigma
from ..sampling import REPAINT_OFFSET, sample_isdo
from ..schedules import curvature_sigmas, rest, sgm_uniform
from ..solver import SOLVERS
from . import forge, request
from .picture import Refused, fresh_noise, full_precision, refusing, values_of
from .request import ALIASES, NAME

try:
    from modules import sd_schedulers
except (
    ImportError
):  # AUTOMATIC1111 before 1.9 and Forge Classic: schedules are a global setting there
    sd_schedulers = None

MOST_CALLS = 10_000  # what the setting max_calls allows
OLD_RANGE = 0.1  # the smallest level of the hosts' option "use_old_karras_scheduler_sigmas"
# What "Automatic" means, as for the hosts' other multistep samplers; flow models get a grid of
# their own below.
OPTIONS = {"scheduler": "karras"}
SCHEDULE_NAME, SCHEDULE_LABEL = "isdo_curvature", "ISDO curvature"


class Stepped:
    """The host's denoiser with its step counter held at the sampler's step, however many calls a
    step takes.

    That counter drives prompt editing, NGMS, the refiner and other extensions, by Euler's one call
    a step.
    """

    def __init__(self, denoiser, callback, steps):
        self.denoiser, self.host_callback, self.steps = denoiser, callback, steps
        self.step, self.calls = 0, 0
        self.sigma_min = own_sigma_min()

    @property
    def inner_model(self):
        return self.denoiser.inner_model

    def __call__(self, x, sigma, **extra_args):
        self.denoiser.step = self.step
        with forge.steady_mask(self.denoiser, x):
            denoised = self.denoiser(x, sigma, **extra_args)
        self.calls += 1
        return denoised

    def at_step(self, i):
        """Take note that the next call is at the noise level of step i: a solver of the whole
        trajectory comes back to it."""
        self.step = i

    def callback(self, state):
        state = state | {
            "i": min(state["i"], self.steps - 1)
        }  # a host's bar has so many steps, whoever takes more calls
        self.step = state["i"] + 1
        if self.host_callback is not None:
            self.host_callback(state)


def own_sigma_min():
    """Return the smallest noise level that the user set for all schedules, or None: no call goes
    below it."""
    if getattr(shared.opts, "use_old_karras_scheduler_sigmas", False):
        return OLD_RANGE
    return getattr(shared.opts, "sigma_min", 0) or None


class IsdoSampler(sd_samplers_kdiffusion.KDiffusionSampler):
    """The host's own k-diffusion sampler, with ISDO as its function and the settings of one
    picture."""

    def __init__(self, sd_model):
        super().__init__(self.solve, sd_model)
        self.values = self.solver_settings = self.path = self.detected = self.steps_from_image = (
            None
        )

    def sample(self, p, *args, **kwargs):
        self.begin(p)
        return super().sample(p, *args, **kwargs)

    def sample_img2img(
        self,
        p,
        x,
        noise,
        conditioning,
        unconditional_conditioning,
        steps=None,
        image_conditioning=None,
    ):
        self.begin(p)
        self.steps_from_image = sd_samplers_common.setup_img2img_steps(p, steps)[1] + 1
        return super().sample_img2img(
            p,
            x,
            noise,
            conditioning,
            unconditional_conditioning,
            steps=steps,
            image_conditioning=image_conditioning,
        )

    def begin(self, p):
        """Read what the picture asks for, before anything of it is computed.

        Raises:
            Refused: settings that make no sense.
        """
        with refusing():
            self.values = values_of(p)
            self.solver_settings = request.solver_settings(self.values)
        request.SAMPLER.write(
            p.extra_generation_params, self.values
        )  # some extensions make a p without scripts
        named = PATHS.get(self.solver_settings.path)
        self.detected = detect_path(self.model_wrap_cfg)
        self.path = self.detected if named is None else named

    def get_sigmas(self, p, steps):
        """Return the noise levels of the host's schedule, or ISDO's own where the host's does not
        suit the model.

        Raises:
            Refused: a schedule that starts where the model's path has ended.
        """
        with self.own_grid(p):
            sigmas = super().get_sigmas(p, steps)
        self.check_start(float(sigmas[0]), chosen_schedule(p))
        if steps and self.steps_from_image is not None and self.values["strength"] == "noise level":
            strength = min(float(p.denoising_strength), 0.999)
            start = self.path.from_noise_to_signal(strength / (1 - strength))
            levels = self.from_level(sigmas, start)
            # what comes before is not run: the host counts where to begin from the first, however
            # many a schedule has
            sigmas = torch.cat(
                [levels[:1].expand(max(steps - self.steps_from_image, 0)), levels]
            ).to(sigmas)
        return sigmas

    def from_level(self, sigmas, start):
        """Return the noise levels of a way from ``start`` in the pace of a schedule, with as many
        calls as the host makes."""
        table = noise_levels(self.model_wrap)
        low, high = (
            (smallest_sigma(self.model_wrap), 0.0)
            if table is None
            else (float(table[0]), float(table[-1]))
        )
        return rest(
            sigmas,
            start,
            self.steps_from_image,
            low,
            min(high, getattr(shared.opts, "sigma_max", 0) or high),
        )

    def check_start(self, sigma, schedule):
        """Look at the first noise level of a schedule.

        Raises:
            Refused: it lies where the model's path has ended; the message says which choice to
                change.
        """
        flow, limit = FLOW in (self.path, self.detected), FLOW.sigma_limit
        if not flow or FLOW.settle(sigma) <= limit:
            return
        if self.path is not self.detected:
            kinds = {True: "a flow model (Flux, SD3)", False: "an eps- or v-model"}
            raise Refused(
                f'the setting Path is "{self.path.name}" and this is {kinds[self.detected is FLOW]}, of the path '
                f'"{self.detected.name}": set Path to "auto" (the accordion ISDO, under More, or Settings > ISDO)'
            )
        others = [name for name in ("Automatic", "Simple", SCHEDULE_LABEL) if name != schedule]
        raise Refused(
            f"the schedule {schedule} starts at sigma {sigma:g} and this flow model ends at {limit:g}: "
            f"choose the schedule {', '.join(others[:-1])} or {others[-1]}"
        )

    @contextmanager
    def own_grid(self, p):
        """On flow models, let "Automatic" be even steps through the model's own table.

        The hosts build theirs from time steps that the predictor has on another scale: sigmas of
        9999, or all the same.
        """
        name, given = chosen_schedule(p), p.sampler_noise_scheduler_override
        if self.path.fade and name == "Automatic" and not given and not forge.has_own_flow_grid():
            p.sampler_noise_scheduler_override = lambda steps: sgm_uniform(
                steps, noise_levels(self.model_wrap)
            )
        try:
            yield
        finally:
            p.sampler_noise_scheduler_override = given

    def solve(self, model, x, sigmas, extra_args=None, callback=None, disable=None):
        """Run ISDO; called by the host, which reads from these names what to hand over."""
        steps, settings, report = max(len(sigmas) - 1, 1), self.solver_settings, {}
        stepped, row = Stepped(model, callback, steps), SOLVERS[settings.solver]
        if settings.tolerance:
            settings = replace(
                settings, max_calls=min(row.most_calls(steps, settings.tolerance), MOST_CALLS)
            )
        source = fresh_noise(self.p, x, REPAINT_OFFSET) if settings.repaints else None
        noise = None if source is None else lambda like: source.next().to(like)
        try:
            with (
                refusing() if settings.tolerance or row.sweeps else nullcontext()
            ):  # what does not go together
                return sample_isdo(
                    stepped, x, sigmas, extra_args, stepped.callback, disable, settings=settings, mask=model.nmask,
                    report=report, noise=noise,
                )  # fmt: skip
        except NotFinite as error:
            raise NotFinite(error.where, full_precision()) from None
        finally:  # an interrupted picture has an infotext too
            self.last_latent = report.get(
                "picture", self.last_latent
            )  # what the host gives back when it is interrupted
            if stepped.calls > (0 if settings.tolerance or row.sweeps else stepped.step):
                self.p.extra_generation_params[request.CALLS] = stepped.calls


def chosen_schedule(p):
    """Return the label of the schedule that a picture's pass asks for."""
    return getattr(p, "hr_scheduler" if p.is_hr_pass else "scheduler", None) or "Automatic"


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
    """Put the sampler and the schedule into the host's lists, in place: others hold them. Doing it
    twice is harmless."""
    sampler = sd_samplers_common.SamplerData(NAME, IsdoSampler, list(ALIASES), dict(OPTIONS))
    put(sd_samplers.all_samplers, NAME, sampler)
    for name in (
        NAME,
        *ALIASES,
    ):  # the API asks this map, and answers an unknown name with another sampler's picture
        sd_samplers.all_samplers_map[name] = sampler
    k_diffusion_map = getattr(sd_samplers_kdiffusion, "k_diffusion_samplers_map", {})
    k_diffusion_map[NAME] = sampler
    sd_samplers.set_samplers()
    if sd_schedulers is not None:
        schedule = sd_schedulers.Scheduler(
            SCHEDULE_NAME, SCHEDULE_LABEL, curvature_schedule, need_inner_model=True
        )
        put(sd_schedulers.schedulers, SCHEDULE_NAME, schedule)
        sd_schedulers.schedulers_map.update({SCHEDULE_NAME: schedule, SCHEDULE_LABEL: schedule})
    forget = getattr(getattr(sd_samplers, "get_sampler_and_scheduler", None), "cache_clear", None)
    if forget is not None:
        forget()
