"""One run of a solver along the probability-flow ODE, by a schedule or by a tolerance."""

import torch
from tqdm.auto import tqdm, trange

from .answers import Answers
from .control import Controller, Norm, Walk, Way, walk
from .device import constants
from .identity import Identity
from .inputs import check_mask, check_settings, check_sigmas, check_x
from .path import path_of
from .penalty import Penalty, calls_each
from .protocols import guidance_of
from .schedules import reposition
from .solver import SOLVERS
from .spectrum import Spectrum
from .sweeps import Sweeps
from .window import Masked, Whole

ALL = slice(None)
# A tolerance of fewer roundings of x cannot be told from them.
ROUNDINGS = 10


@torch.no_grad()
def solve_ode(model, x, sigmas, extra_args, callback, disable, settings, mask, low, report=None):
    """`isdo.sample_isdo` where all calls draw, with the model's smallest noise level ``low``.

    Down to it calls are placed and the last step foresees; 0: no call goes below the schedule's,
    and the last step ends on what D says.
    """
    settings = check_settings(settings)
    check_x(x)
    path = path_of(settings, model)
    if settings.curvature_penalty and SOLVERS[settings.solver].sweeps:
        raise ValueError(
            "a curvature penalty is measured from call to call, and the solver trajectory makes many at once: "
            "set curvature_penalty to 0, or take another solver"
        )
    run = Run(model, x, extra_args, settings, path, mask, low, {} if report is None else report)
    levels = check_sigmas(sigmas, path)
    if settings.tolerance and len(levels) > 1:
        run.check_tolerance(levels)
        go = Sweeps(run).by_tolerance if run.row.sweeps else run.by_tolerance
    else:
        go = Sweeps(run).by_schedule if run.row.sweeps else run.by_schedule
    return go(levels, callback, disable)


class Run:
    """One run: the model as it is asked, the solver, and the state in its own dtype."""

    def __init__(self, model, x, extra_args, settings, path, mask, low, report):
        self.model, self.given, self.extra_args, self.report = model, x, extra_args or {}, report
        self.settings, self.path, self.low, self.row = settings, path, low, SOLVERS[settings.solver]
        self.dtype = x.dtype if x.dtype == torch.float64 else torch.float32
        self.spectrum, self.state = (
            Spectrum(*x.shape[-2:], x.device, settings.basis),
            x.to(self.dtype, copy=True),
        )
        self.mask = None if mask is None else check_mask(mask, x).to(x.device, self.dtype)
        self.calls, self.inner, weight = 0, None, settings.curvature_penalty
        self.penalty = (
            Penalty(weight, path, self.spectrum, self.window(), self.dtype) if weight else None
        )
        self.each = calls_each(weight)  # model calls of one of the solver's

    def window(self, part=ALL):
        """Return the Whole or Masked of some of the pictures."""
        mask = self.mask
        return Whole() if mask is None else Masked(self.spectrum, mask[part])

    def solver(self, part=ALL, settings=None):
        """Return a solver for some of the pictures."""
        like, settings = self.given.new_empty(0, dtype=self.dtype), settings or self.settings
        return self.row.make(self.path, self.spectrum, settings, like, self.window(part), self.low)

    def ask(self, state, level, sigma):
        """Return (what the model was asked, denoised, whether another model answers than before) at
        the levels (B,).

        ``sigma`` is a number for messages.
        """
        if self.penalty is None:
            return self.answer(state, level, sigma, self.said)
        # at x last: what a host shows of a step is what it was told last
        probe = self.penalty.probe(state, level)
        beside = [
            self.call_model(state + side * probe, level, sigma, self.said)[1].to(self.dtype)
            for side in (1, -1)
        ]
        asked, denoised, anew = self.answer(state, level, sigma, self.said)
        bent_ = self.penalty.bend(state, level, denoised.to(self.dtype), *beside)
        return asked, bent_.to(denoised.dtype), anew

    def said(self, asked, level):
        """Return what the model says."""
        return self.model(asked, level, **self.extra_args)

    def answer(self, state, level, sigma, model, may_refuse=False):
        """Return what ``ask`` does, of ``model(asked, level)`` alone; None if that may refuse, and
        returns None."""
        if (found := self.call_model(state, level, sigma, model, may_refuse)) is None:
            return None
        before, self.inner = self.inner, Identity(self.model)
        return *found, before is not None and before != self.inner

    def call_model(self, state, level, sigma, model, may_refuse=False):
        """Call ``model(asked, level)`` once and return (asked, what it said); None if that may
        refuse, and is None."""
        asked = state.to(self.given.dtype)
        self.answers.look()
        if (said := model(asked, level)) is None and may_refuse:
            return None
        self.calls += 1
        return asked, self.answers.take(said, asked, sigma)

    def begin_answers(self, most, unit="call"):
        """Look at the answers of so many calls at most."""
        self.answers = Answers(self.given.device, most, unit)

    def placed(self, given):
        """Return a falling schedule's levels, placed as the settings and the guidance say."""
        guidance = guidance_of(self.extra_args)
        return reposition(given, self.settings.placement, self.low, self.path, guidance=guidance)

    def by_schedule(self, given, callback, disable):
        """Go from level to level of a schedule, placed as the settings say; return x at its end."""
        levels = self.placed(given)
        calls, whole = (
            self.each * self.row.calls(len(levels) - 1, levels[-1] == 0),
            self.row.calls_a_step == 1,
        )
        self.begin_answers(calls, "step" if whole and self.each == 1 else "call")
        solver, sigma = self.solver(), levels[0]
        state, self.state = self.state, None
        modes = self.spectrum.forward(state)
        # the levels of all steps' first calls: sent in one go
        at = constants(levels[:-1], state)[:, None].expand(-1, len(state)).contiguous()
        for i in trange(len(levels) - 1, disable=disable):
            end, told, amid, arrived = levels[i + 1], None, False, False
            while not arrived:
                level = torch.full_like(at[i], sigma) if amid else at[i]
                asked, denoised, anew = self.ask(state, level, sigma)
                self.report |= {"calls": [self.calls] * len(state), "rejected": [0] * len(state)}
                if anew:  # a refiner took over: what the other model said is no history of this one
                    solver.reset()
                    amid = False
                if told is None and callback is not None:
                    told = {
                        "x": asked,
                        "i": i,
                        "sigma": level[0],
                        "sigma_hat": level[0],
                        "denoised": denoised,
                    }
                    if whole:
                        callback(told)
                if arrived := not (amid or end < sigma):
                    continue  # a level that is there twice
                state = asked = None  # memory that the step can use
                said = self.spectrum.forward(denoised.to(self.dtype), solver.place())
                solver.observe(sigma, modes, said, end)
                sigma, modes, arrived = solver.predict(end)
                state, amid = self.spectrum.inverse(modes, self.given.shape), not arrived
            if callback is not None and not whole:
                callback(told)
        self.answers.settle()
        return state.to(self.given.dtype)

    def by_tolerance(self, given, callback, disable):
        """Go from the first to the last level of a schedule in steps that each picture needs;
        return x at 0."""
        way, most = Way(self.path, *self.ends(given)), self.settings.max_calls // self.each
        self.begin_answers(self.each * most)
        modes = self.spectrum.forward(self.state)
        walks = [self.walk(way, slice(i, i + 1), modes) for i in range(len(modes))]

        def ask(modes, sigmas, running):
            state = self.spectrum.inverse(modes, self.given.shape) if self.calls else self.state
            largest = max(sigma for sigma, on in zip(sigmas, running, strict=True) if on)
            levels = constants(sigmas, state)
            asked, denoised, anew = self.ask(state, levels, largest)
            self.report |= {
                "calls": [
                    self.each * (each.calls + on) for each, on in zip(walks, running, strict=True)
                ]
            }
            if callback is not None:
                now = torch.full_like(levels[0], largest)
                callback(
                    {
                        "x": asked,
                        "i": self.calls - 1,
                        "sigma": now,
                        "sigma_hat": levels,
                        "denoised": denoised,
                    }
                )
            return self.spectrum.forward(denoised.to(self.dtype)), anew

        self.report["rejected"] = [0] * len(walks)
        with tqdm(disable=disable, unit="call") as bar:
            for _ in walk(walks, ask, most):
                self.report["rejected"] = [each.rejected for each in walks]
                bar.update(self.each)
        self.answers.settle()
        return self.spectrum.inverse(
            torch.cat([each.result for each in walks]), self.given.shape
        ).to(self.given.dtype)

    def ends(self, given):
        """Return the first and the last level above 0 of a run with a tolerance."""
        return given[0], min(given[0], min(self.low, given[-2]) or given[-2])

    def walk(self, way, part, modes):
        """Return the Walk of one picture, the slice ``part`` of all."""
        norm = self.norm(part, self.settings.tolerance)
        return Walk(self.solver(part), Controller(self.row.estimate), way, norm, modes[part])

    def norm(self, part, tolerance):
        """Return the Norm of some of the pictures."""
        return Norm(self.spectrum, self.window(part), self.path, tolerance)

    def check_tolerance(self, given):
        """Refuse what a tolerance cannot be kept with."""
        settings, dtype = self.settings, self.given.dtype
        if given[-1] > 0:
            raise ValueError(
                f"with a tolerance the schedule must end in 0, and it ends at {given[-1]:g}: append a 0, or set 0"
            )
        if not (self.row.estimate or self.row.sweeps):
            able = ", ".join(name for name, row in SOLVERS.items() if row.estimate or row.sweeps)
            raise ValueError(
                f"the solver {settings.solver} cannot say how far off a step is: with a tolerance take {able}"
            )
        if settings.solver == "multistep" and settings.corrector == 0:
            raise ValueError(
                "corrector is 0, and a tolerance is kept by what corrections change: set corrector to 1"
            )
        if settings.max_calls < self.each:
            raise ValueError(
                f"max_calls is {settings.max_calls}, and with a curvature penalty a step makes {self.each} model calls: "
                f"give {self.each} or more (in a WebUI: steps), or the penalty 0"
            )
        if settings.tolerance < (least := ROUNDINGS * torch.finfo(dtype).eps):
            raise ValueError(
                f"tolerance is {settings.tolerance:g} and x is {dtype}: give 0, or {least:.1g} or more"
            )
