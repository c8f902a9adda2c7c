"""ISDO invert in a WebUI: a script of img2img that draws from the picture's own noise."""

import copy
from dataclasses import dataclass, replace
from types import SimpleNamespace

import torch
from modules import devices, processing, sd_samplers_common, sd_samplers_kdiffusion, shared

from ..answers import NotFinite
from ..inversion import calls_of, invert
from ..path import detect_path, noise_levels, smallest_sigma
from ..schedules import rest
from . import request
from .calls import schedule_sampler
from .picture import full_precision, refusing, script_values, values_of
from .refinement import hear_interrupt, precision, stop_where_alone
from .request import INVERT, NAME
from .sampler import IsdoSampler, own_sigma_min


@dataclass
class Inverting:
    """What one p's inversion asks for.

    Attributes:
        values: {key: value} of the script.
        alone: whether this is the only picture that is made, which "interrupt after current" would
            have finished.
    """

    values: dict
    alone: bool = False


class Counted:
    """The host's denoiser with its step counter told where in the drawing the inversion is: it goes
    backwards.

    That counter drives prompt editing and early CFG: what a prompt says at first belongs to where
    the noise is strong.
    """

    def __init__(self, denoiser, task, levels):
        self.denoiser, self.task, self.levels, self.calls = denoiser, task, levels, 0
        self.sigma_min = own_sigma_min()

    @property
    def inner_model(self):
        return self.denoiser.inner_model

    def __call__(self, x, sigma, **extra_args):
        stop_where_alone(self.task)
        self.denoiser.step = sum(level > float(sigma[0]) * (1 + 1e-4) for level in self.levels[:-1])
        with precision():
            denoised = self.denoiser(x, sigma, **extra_args)
        self.calls += 1
        return denoised


class InvertSampler(sd_samplers_kdiffusion.KDiffusionSampler):
    """The host's own k-diffusion sampler with the inversion as its function.

    So interruption, progress, previews, model loading and guidance are the host's, as in any other
    pass.

    Args:
        sd_model: the host's checkpoint.
        task: an Inverting.
        levels: falling sigmas, of the way back.
        settings: Settings.
    """

    def __init__(self, sd_model, task, levels, settings):
        super().__init__(self.solve, sd_model)
        self.config = sd_samplers_common.SamplerData(INVERT.name, None, [], {})
        self.task, self.levels, self.settings, self.found = task, levels, settings, None

    def get_sigmas(self, p, steps):
        """Return no noise at all: x stays the picture."""
        return torch.zeros(steps + 1, device="cpu")

    def invert(self, p, x, conditioning, unconditional_conditioning, image_conditioning):
        """Return x at the first level, float32; None if the host was told to stop."""
        run = copy.copy(p)
        run.extra_generation_params, run.denoising_strength = {}, 1.0
        run.cfg_scale = self.task.values["cfg"]
        run.mask = run.nmask = None  # the whole picture has noise of its own
        total = calls_of(
            self.settings,
            self.levels,
            detect_path(self.model_wrap_cfg),
            smallest_sigma(self.model_wrap),
        )
        self.sample_img2img(
            run, x, torch.zeros_like(x), conditioning, unconditional_conditioning, steps=max(total, 1),
            image_conditioning=image_conditioning,
        )  # fmt: skip
        return self.found

    def solve(self, model, x, extra_args=None, callback=None, disable=None):
        """Run the inversion; called by the host, which reads from these names what to hand over."""
        counted, picture = Counted(model, self.task, self.levels), model.init_latent
        model.total_steps = len(self.levels) - 1
        try:
            with devices.without_autocast(), refusing():
                self.found = invert(
                    counted,
                    picture.float(),
                    self.levels,
                    extra_args,
                    callback,
                    disable,
                    settings=self.settings,
                )
        except NotFinite as error:
            raise NotFinite(error.where, full_precision()) from None
        self.calls = counted.calls
        return picture


def levels_of_drawing(sampler, p):
    """Return the noise levels (falling, floats) that a host's sampler will draw a picture of
    img2img with."""
    steps, last = sd_samplers_common.setup_img2img_steps(p)
    noted = dict(p.extra_generation_params)
    if isinstance(sampler, IsdoSampler):
        sampler.begin(p)
        sampler.steps_from_image = last + 1
    sigmas = sampler.get_sigmas(p, steps)[steps - last - 1 :]
    p.extra_generation_params.clear()
    p.extra_generation_params.update(noted)
    return sigmas.tolist()


def levels_upwards(sampler, levels, steps):
    """Return the levels of the inversion: those of the drawing, or with ``steps`` of its own as
    many in their pace."""
    if not steps or steps == len(levels) - 1:
        return levels
    table = noise_levels(sampler.model_wrap)
    low, high = (
        (smallest_sigma(sampler.model_wrap), 0.0)
        if table is None
        else (float(table[0]), float(table[-1]))
    )
    return rest(levels, levels[0], steps, low, max(high, levels[0])).tolist()


def solver_of(p, drawn_by_isdo):
    """Return the Settings of the inversion: those that the picture asks of ISDO, at the drawing's
    own levels."""
    with refusing():
        settings = replace(
            request.solver_settings(values_of(p)), tolerance=0.0, curvature_penalty=0.0
        )
    return settings if drawn_by_isdo else replace(settings, placement=0.0)


def conditions(p, values, steps):
    """Return (conditioning, unconditional conditioning) of the original prompts; the host's own way
    of reading them."""
    run = copy.copy(p)
    run.prompts, run.negative_prompts = (
        [values[key]] * len(p.prompts) for key in ("prompt", "negative_prompt")
    )
    run.sampler_name, run.steps, run.cfg_scale = NAME, steps, values["cfg"]
    run.cached_c, run.cached_uc = (
        [None, None],
        [None, None],
    )  # what the host remembers belongs to the new prompt
    loaded = getattr(p, "extra_network_data", None)
    if hasattr(run, "parse_extra_network_prompts"):
        run.parse_extra_network_prompts()  # takes <lora:..> out of the text: the picture's own are loaded, and stay
    run.extra_network_data = loaded
    with precision():
        run.setup_conds()
    return run.c, run.uc


def run_script(p, args):
    """Draw the pictures of img2img from their own noise; return the host's Processed.

    Raises:
        Refused: arguments that make no sense.
    """
    with refusing():
        values = script_values(INVERT, p, args)
    run, task = copy.copy(p), Inverting(values)
    run.extra_generation_params = {**p.extra_generation_params, "Script": INVERT.name}
    INVERT.write(run.extra_generation_params, values)
    if values["full"]:
        run.denoising_strength = 1.0
    sample = run.sample

    def sample_from_own_noise(*given, **named):
        with own_noise(run, task):
            return sample(*given, **named)

    run.sample = sample_from_own_noise
    return processing.process_images(run)


class own_noise:  # noqa: N801  a context manager, named as a function is
    """While a batch is drawn, hand its sampler the picture's own noise in place of the seed's."""

    def __init__(self, p, task):
        self.p, self.task = p, task

    def __enter__(self):
        p, sampler = self.p, self.p.sampler
        if p.iteration == 0:
            self.task.alone = p.n_iter == 1 and shared.state.job_count <= 1
            shared.state.job_count += p.n_iter
        self.sampler, draw = sampler, sampler.sample_img2img
        self.kept = vars(sampler).get("sample_img2img")

        def from_own_noise(
            p,
            x,
            noise,
            conditioning,
            unconditional_conditioning,
            steps=None,
            image_conditioning=None,
        ):
            given = self.noise(sampler, x, noise, image_conditioning)
            if given is None:
                return x
            return draw(
                p,
                x,
                given,
                conditioning,
                unconditional_conditioning,
                steps=steps,
                image_conditioning=image_conditioning,
            )

        sampler.sample_img2img = from_own_noise

    def __exit__(self, *error):
        if self.kept is None:
            del self.sampler.sample_img2img
        else:
            self.sampler.sample_img2img = self.kept

    def noise(self, sampler, x, noise, image_conditioning):
        """Return the noise that takes the pictures x to where they are drawn from; None if the host
        was told to stop."""
        p, state, values = self.p, shared.state, self.task.values
        with refusing():
            if schedule_sampler(sampler)[0] is None:
                raise ValueError(
                    f"{p.sampler_name} does not run on a schedule of noise levels: choose another sampler"
                )
        drawn = levels_of_drawing(sampler, p)
        levels = levels_upwards(sampler, drawn, values["steps"])
        solver = InvertSampler(
            p.sd_model, self.task, levels, solver_of(p, isinstance(sampler, IsdoSampler))
        )
        conditioning, unconditional = conditions(p, values, max(len(levels) - 1, 1))
        found = solver.invert(p, x, conditioning, unconditional, image_conditioning)
        if state.interrupted or state.skipped or found is None:
            return None
        p.extra_generation_params[INVERT.name] = f"{len(levels) - 1} steps, {solver.calls} calls"
        state.nextjob()
        hear_interrupt(sampler, self.task)
        path, top = detect_path(SimpleNamespace(inner_model=sampler.model_wrap)), levels[0]
        # the host adds noise as the model was trained: x + sigma n, or (1 - sigma) x + sigma n
        return (found - path.signal(top) * x.float()) / top if top > 0 else noise
