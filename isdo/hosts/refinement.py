"""ISDO refine in a WebUI: the host's sampler that refines, and what one p asks of it from its first
hook to its last."""

import copy
import os
from dataclasses import dataclass, field, replace

import torch
from modules import (
    devices,
    errors,
    images,
    processing,
    sd_samplers,
    sd_samplers_common,
    sd_samplers_kdiffusion,
    shared,
)

from ..answers import NotFinite
from ..penalty import calls_each
from ..refinement import SEED_OFFSET, refine
from ..settings import RefineSettings
from ..solver import SOLVERS
from . import forge, request
from .calls import counted_calls, passes, schedule_sampler
from .picture import Refused, fresh_noise, full_precision, refusing, script_values, stored_defaults
from .request import NAME, NOT_REFINED, REFINE


@dataclass
class Refining:
    """One p's refinement.

    Attributes:
        owner: id of that p. Whoever copies a p while it is made - detailers do - copies this too,
            but is another.
        by_script: whether the script in the dropdown runs; else finished pictures are refined in
            the accordion's name.
        values, settings: what is asked for.
        steps: of the schedule in whose pace to go, where it is the picture's own.
        drawn: calls of the pass whose pictures are refined; the denoiser's counter goes on from
            there.
        args: p.script_args as they came.
        levels: noise levels of the model while the host sampled, where it may change them.
        alone: whether this is the only picture that is made, which "interrupt after current" would
            have finished.
        pictures: [(picture, infotext, number of the finished one, iteration)] to be shown or saved.
    """

    owner: int
    by_script: bool
    values: dict
    settings: RefineSettings
    steps: int
    drawn: int = 0
    args: object = None
    levels: torch.Tensor | None = None
    pictures: list = field(default_factory=list)
    alone: bool = False

    @property
    def calls(self):
        """Return how many model calls are asked for."""
        return self.settings.iterations * self.settings.calls if self.settings.noise else 0

    def told(self, iterations, calls):
        """Return the infotext parameters of a run of that length."""
        params = {}
        REFINE.write(params, self.values)
        plural = "" if iterations == 1 else "s", "" if calls == 1 else "s"
        return {
            REFINE.name: f"{iterations} iteration{plural[0]}, {calls} call{plural[1]}",
            **params,
        }


class Counted:
    """The host's denoiser with its step counter told, call by call, where the refinement is.

    That counter drives prompt editing, NGMS, early CFG and the refiner. The host's numbers run in
    its own precision, ours in float32 round them: a matrix product in half precision would move
    what the lock holds.
    """

    def __init__(self, denoiser, task, after_call):
        self.denoiser, self.task, self.after_call, self.calls = denoiser, task, after_call, 0

    @property
    def inner_model(self):
        return self.denoiser.inner_model

    def __call__(self, x, sigma, **extra_args):
        stop_where_alone(self.task)
        self.denoiser.step = self.task.drawn + self.calls
        with precision():
            denoised = self.denoiser(x, sigma, **extra_args)
        self.after_call(
            {
                "i": self.calls,
                "x": x,
                "sigma": sigma[0],
                "sigma_hat": sigma[0],
                "denoised": denoised,
            }
        )
        self.calls += 1
        return denoised


class RefineSampler(sd_samplers_kdiffusion.KDiffusionSampler):
    """The host's own k-diffusion sampler, with the refinement of one p as its function.

    So interruption, progress, previews, model loading and guidance are the host's, as in any other
    pass.
    """

    def __init__(self, sd_model, task):
        super().__init__(self.solve, sd_model)
        self.config = sd_samplers_common.SamplerData(REFINE.name, None, [], {})
        self.task, self.picture, self.kept = task, None, None
        self.best, self.iterations, self.between, self.counted, self.problem = (
            None,
            0,
            [],
            None,
            None,
        )

    def get_sigmas(self, p, steps):
        """Return no noise at all: each iteration adds its own."""
        return torch.zeros(steps + 1, device="cpu")

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
        """Return the pictures x refined; those of the last finished iteration if stopped, x itself
        if something went wrong."""
        self.kept = p.nmask if getattr(p, "mask", None) is not None else None
        self.picture = run = copy.copy(p)
        run.extra_generation_params, run.denoising_strength = {}, 1.0
        run.mask = run.nmask = (
            None  # the host would blend the first picture in at every noise level
        )
        run.rng = fresh_noise(p, x, SEED_OFFSET)
        samples = super().sample_img2img(
            run, x, torch.zeros_like(x, dtype=noise.dtype), conditioning, unconditional_conditioning,
            steps=max(self.task.calls, 1), image_conditioning=image_conditioning,
        )  # fmt: skip
        self.tell(p)
        return samples

    def solve(self, model, x, extra_args=None, callback=None, disable=None):
        """Run the refinement; called by the host, which reads from these names what to hand
        over."""
        # What noise an extension may have added to x is not asked for: this is a finished picture
        self.best = latent = model.init_latent
        model.total_steps = self.task.drawn + max(self.task.calls, 1)
        self.counted = Counted(model, self.task, callback)
        try:
            settings, way = self.task.settings, {}
            if self.task.values["same"]:
                way, steps = same_way(self.picture, self.task.steps, settings.calls)
                settings = replace(settings, calls=steps)
            with devices.without_autocast():
                return refine(
                    self.counted, latent, extra_args, self.finish, disable, settings=settings, mask=self.kept,
                    noise=lambda like: self.picture.rng.next().to(like), **way,
                ).x  # fmt: skip
        except NotFinite as error:
            self.problem = str(NotFinite(error.where, full_precision()))
        except (ValueError, RuntimeError, Refused) as error:
            self.problem = str(error)
        except (
            Exception
        ) as error:  # whoever made the mistake: a finished picture must not be lost to it
            errors.report(f"Error in {REFINE.name}", exc_info=True)
            self.problem = f"{type(error).__name__}: {error}"
        finally:
            if self.problem is not None:
                self.best, self.iterations = latent, 0
            self.last_latent = self.best  # what the host gives back when it is interrupted
        return latent

    def finish(self, state):
        """Remember the picture after an iteration."""
        if self.iterations and (self.task.values["show"] or self.task.values["save"]):
            self.between.append(self.best)
        self.best, self.iterations = state["x"], self.iterations + 1

    def tell(self, p):
        """Write the infotext, and say what went wrong."""
        REFINE.clear(p.extra_generation_params)
        if self.problem is not None:
            tell_problem(p, f"the picture is as it was before the refinement. {self.problem}")
        if self.iterations:
            p.extra_generation_params.update(self.task.told(self.iterations, self.counted.calls))
            self.keep_pictures(p)

    def keep_pictures(self, p):
        """Keep the pictures in between that are to be shown or saved once the finished ones are
        there."""
        for k, latents in enumerate(self.between, 1):
            for i in range(len(latents)):
                image = sd_samplers.sample_to_image(latents, i, approximation=0)
                text = processing.create_infotext(
                    p,
                    p.all_prompts,
                    p.all_seeds,
                    p.all_subseeds,
                    [],
                    iteration=p.iteration,
                    position_in_batch=i,
                )
                if shared.opts.enable_pnginfo:
                    image.info["parameters"] = text
                self.task.pictures.append((image, text, p.iteration * p.batch_size + i, k))


def precision():
    """Return the context in which the host calls its model."""
    if getattr(devices, "unet_needs_upcast", False):
        return devices.without_autocast()
    return devices.autocast()


def same_way(run, steps, calls):
    """Return ({"sampler", "sigmas"} of the picture as `isdo.refine` takes them, steps of a way that
    makes ``calls``).

    Raises:
        ValueError: that sampler cannot start between the steps of a schedule.
    """
    name = (run.hr_sampler_name if run.is_hr_pass else None) or run.sampler_name
    host_s = sd_samplers.create_sampler(name, run.sd_model)
    func, taken = schedule_sampler(host_s)
    if func is None:
        raise ValueError(
            f'{name} does not run on a schedule of noise levels: switch "Use same sampler" off'
        )
    if host_s.config.name == NAME:
        host_s.begin(run)
        solver, each = (
            SOLVERS[host_s.solver_settings.solver],
            calls_each(host_s.solver_settings.curvature_penalty),
        )
        # a way to the floor, which ends above 0, is the longer one
        steps_back = max(
            n
            for n in range(1, calls + 1)
            if each * solver.calls(n, to_zero=False) <= calls or n == 1
        )
        return {
            "sampler": host_s.solver_settings,
            "sigmas": host_s.get_sigmas(run, steps),
        }, steps_back
    given = host_s.initialize(run)
    if (
        "noise_sampler" in taken
    ):  # fresh in each iteration, where a Brownian path would be the same again
        given["noise_sampler"] = lambda *_: run.rng.next()
    if "solver_type" in host_s.config.options:
        given["solver_type"] = host_s.config.options["solver_type"]

    def way_back(model, x, sigmas, extra_args, callback, disable):
        return func(
            model,
            x,
            sigmas=sigmas,
            extra_args=extra_args,
            callback=callback,
            disable=disable,
            **given,
        )

    # some ways end in 0, where many samplers save a call, and some at the floor
    costs = {
        n: max(counted_calls(host_s, n, end) for end in (0.0, 0.1)) for n in range(1, calls + 1)
    }
    steps_back = max(n for n, cost in costs.items() if cost <= calls or n == 1)
    return {"sampler": way_back, "sigmas": host_s.get_sigmas(run, steps)}, steps_back


def tell_problem(p, text):
    """Say why a picture is not refined: in the console, below the picture, and in its infotext,
    which the API hands out."""
    print(f"{REFINE.name}: {text}")
    p.comment(f"{REFINE.name}: {text}")
    p.extra_generation_params[NOT_REFINED] = text


def last(conds):
    """Return the host's conditioning with the prompt as it was when the picture was finished.

    The host takes a schedule's *first* prompt for every step beyond its end.
    """
    if hasattr(conds, "batch"):
        done = copy.copy(conds)
        done.batch = [[copy.copy(part) for part in parts] for parts in conds.batch]
        for parts in done.batch:
            for part in parts:
                part.schedules = part.schedules[-1:]
        return done
    return conds if conds is None else [schedule[-1:] for schedule in conds]


def task_of(p):
    """Return the Refining of this very p, or None."""
    task = getattr(p, "isdo_refining", None)
    return task if task is not None and task.owner == id(p) else None


# -------------------------------------------------------------------------------------------------- the hooks, in order


def before_picture(p, script, args):
    """Take in the accordion's arguments, and write the infotext that the host keeps before the
    first step.

    The arguments are then switched off on p until the picture is done: detailers hand them on to
    the pictures they make of its parts, and those would be refined each.
    """
    REFINE.clear(p.extra_generation_params)
    known, task = getattr(p, "isdo_refining", None), task_of(p)
    if known is not None and task is None:
        p.isdo_refining = (
            None  # a copy, made while another picture is: that one is refined, not its parts
        )
        return
    if task is None or not task.by_script:
        if task is not None:  # the same p again, after a run that never came to its end
            p.script_args = task.args
            args = task.args[script.args_from : script.args_to]
        p.isdo_refining = task = asked_by_accordion(p, args)
        if task is None:
            return
    task.args = p.script_args
    off = [False] + [None] * (script.args_to - script.args_from - 1)
    p.script_args = (*p.script_args[: script.args_from], *off, *p.script_args[script.args_to :])
    p.extra_generation_params.update(task.told(task.settings.iterations, task.calls))


def asked_by_accordion(p, args):
    """Return the Refining that the accordion or an axis of the X/Y/Z plot asks for, or None."""
    axes = getattr(p, f"{REFINE.prefix}_axes", None)
    try:
        asked = REFINE.read_args(args)
        if asked is None and not axes:
            return None
        values = REFINE.resolve(stored_defaults(REFINE), asked, axes)
    except ValueError as error:  # the host would swallow it
        tell_problem(p, f"the picture is not refined. {error}")
        return None
    drawn = passes(p, p.sd_model)
    settings = request.refine_settings(values, sum(calls for *_, calls in drawn))
    steps = (p.hr_second_pass_steps if getattr(p, "enable_hr", False) else 0) or p.steps
    return (
        Refining(id(p), False, values, settings, steps, drawn[-1][-1])
        if settings.iterations
        else None
    )


def before_batch(p, batch):
    """Make room on the progress bar, and put the sampler in place where the script runs."""
    task = task_of(p)
    if task is None:
        return
    state, bar = shared.state, shared.total_tqdm
    if batch == 0:
        task.alone = p.n_iter == 1 and state.job_count <= (
            2 if getattr(p, "enable_hr", False) else 1
        )
    if task.by_script:
        p.sampler = RefineSampler(p.sd_model, task)
    elif batch == 0:
        state.job_count += p.n_iter
        drawn = p.n_iter * sum(steps for _, steps, _ in passes(p, p.sd_model))
        before = bar._tqdm.total if getattr(bar, "_tqdm", None) is not None else drawn
        bar.updateTotal(before + p.n_iter * max(task.calls, 1))


def before_sampling(p):
    """Remember the noise levels that the model has now, and have a click on Interrupt heard."""
    task = task_of(p)
    if task is None:
        return
    task.levels = getattr(forge.noise_table(p.sd_model), "sigmas", None)
    if not task.by_script:
        hear_interrupt(getattr(p, "sampler", None), task)


def hear_interrupt(sampler, task):
    """Let one click on Interrupt stop the pass of a picture that is the only one.

    The refinement is a job of its own, or the bar would start anew: its length cannot be the
    pass's, which extensions read to know where they are. But a host that counts more jobs than one
    takes the click for "after this picture".
    """
    told = getattr(sampler, "callback_state", None)
    if told is None or hasattr(told, "isdo_inside"):
        return

    def callback_state(state):
        stop_where_alone(task)
        told(state)

    callback_state.isdo_inside = told
    sampler.callback_state = callback_state


def stop_where_alone(task):
    """Take "stop after this picture" for "stop now" where there is no other picture."""
    if task.alone and getattr(shared.state, "stopping_generation", False):
        shared.state.interrupted = True
        raise sd_samplers_common.InterruptedException


def before_hires(p):
    """Have the second pass refined as soon as it is sampled: after it the host decodes at once."""
    task = task_of(p)
    if task is None or task.by_script:
        return
    hear_interrupt(p.sampler, task)
    sample = p.sampler.sample_img2img

    def sample_and_refine(
        p, x, noise, conditioning, unconditional_conditioning, steps=None, image_conditioning=None
    ):
        samples = sample(
            p, x, noise, conditioning, unconditional_conditioning, steps, image_conditioning
        )
        return refined(
            p, task, samples, conditioning, unconditional_conditioning, image_conditioning
        )

    p.sampler.sample_img2img = sample_and_refine


def after_sampling(p, ps):
    """Refine the latent pictures before they are decoded."""
    task = task_of(p)
    if task is None or task.by_script or getattr(ps.samples, "already_decoded", False):
        return
    conditioning = getattr(p, "image_conditioning", None)
    if conditioning is None:
        conditioning = p.txt2img_image_conditioning(ps.samples)
    ps.samples = refined(p, task, ps.samples, p.c, p.uc, conditioning)


def refined(p, task, samples, conditioning, unconditional_conditioning, image_conditioning):
    """Return the latent pictures refined, as a job of its own; those given if the host was told to
    stop."""
    state = shared.state
    if state.interrupted or state.skipped:
        REFINE.clear(p.extra_generation_params)
        return samples
    state.nextjob()
    with precision(), forge.noise_levels(p.sd_model, task.levels):
        return RefineSampler(p.sd_model, task).sample_img2img(
            p,
            samples,
            samples,
            last(conditioning),
            last(unconditional_conditioning),
            image_conditioning=image_conditioning,
        )


def after_picture(p, processed):
    """Show and save the pictures in between, and leave p as it came."""
    task = task_of(p)
    if task is None:
        return
    finished = [
        image
        for image in processed.images[getattr(processed, "index_of_first_image", 0) :]
        if not is_mask(image)
    ]
    for image, text, number, iteration in task.pictures:
        if task.values["save"] and p.save_samples():
            save(
                p,
                image,
                text,
                number,
                iteration,
                finished[number] if number < len(finished) else None,
            )
        if task.values["show"]:
            processed.images.append(image)
            processed.infotexts.append(text)
    p.script_args = task.args
    p.isdo_refining = None


def is_mask(image):
    """Say whether a picture among the finished ones is the mask of one, which inpainting may hand
    out behind it."""
    name = os.path.splitext(getattr(image, "already_saved_as", None) or "")[0]
    return name.endswith(("-mask", "-mask-composite"))


def save(p, image, text, number, iteration, finished):
    """Save a picture in between under the name of its finished one."""
    name = getattr(finished, "already_saved_as", None)
    place = {"path": p.outpath_samples} if name is None else {
        "path": os.path.dirname(name), "forced_filename": os.path.splitext(os.path.basename(name))[0] + f"-refine-{iteration}",
        "save_to_dirs": False,
    }  # fmt: skip
    images.save_image(
        image, basename="", seed=p.all_seeds[number], prompt=p.all_prompts[number], extension=shared.opts.samples_format,
        info=text, p=p, suffix=f"-refine-{iteration}", **place,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ the script


def run_script(p, args):
    """Refine the pictures of img2img; return the host's Processed.

    Raises:
        Refused: arguments that make no sense.
    """
    with refusing():
        values = script_values(REFINE, p, args)
        settings = request.refine_settings(values, p.steps)
    run = copy.copy(p)
    run.extra_generation_params = {
        **p.extra_generation_params,
        "Script": REFINE.name,
        "Steps": p.steps,
    }
    run.isdo_refining = task = Refining(id(run), True, values, settings, p.steps)
    # what is scheduled in the prompt is scheduled over the calls that are made, by the host's own
    # count of them a step
    config = sd_samplers.find_sampler_config(p.sampler_name)
    run.steps = max(task.calls // (config.total_steps(1) if config is not None else 1), 1)
    return processing.process_images(run)
