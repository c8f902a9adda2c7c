"""sample_isdo: what hosts and people call."""

import math
from itertools import pairwise

import torch
from tqdm.auto import tqdm, trange

from .answers import Answers
from .control import Controller, Norm, Walk, Way, walk
from .device import constants, wide
from .identity import Identity
from .path import PATHS, detect_path, smallest_sigma
from .schedules import bent
from .settings import Settings
from .solver import SOLVERS
from .spectrum import Spectrum
from .sweeps import Sweeps
from .window import Masked, Whole

ALL = slice(None)
# A tolerance of fewer roundings of x cannot be told from them.
ROUNDINGS = 10
# A level that is so small a part of the one before it, and of 1, is 0: of its noise nothing would be seen.
ALL_BUT_ZERO = 1e-4


def check_sigmas(sigmas, path):
    """Return the sigmas as floats, up to the first zero, or what is all but zero."""
    values = wide(sigmas).flatten().tolist()
    if not values:
        raise ValueError("sigmas is empty: give a falling sequence, the first where x is and usually 0 at the end")
    if not all(0 <= v < float("inf") for v in values):  # false for NaN too
        raise ValueError(f"sigmas must be finite and not negative, and are {_short(values)}: check the schedule")
    if any(after > before for before, after in pairwise(values)):
        raise ValueError(f"sigmas must fall, and are {_short(values)}: sort them, largest first")
    values = [path.settle(v) for v in values]
    if values[0] > path.sigma_limit:
        raise ValueError(
            f"sigmas start at {values[0]:g} and the {path.name} path ends at {path.sigma_limit:g}: "
            "give a flow schedule, or the path 've'"
        )
    for i, (before, sigma) in enumerate(pairwise([math.inf, *values])):
        if sigma <= ALL_BUT_ZERO * min(before, 1) and (i > 0 or sigma == 0):
            return [*values[:i], 0.0]
    return values


def _short(values):
    shown = [f"{v:g}" for v in values[:8]] + (["..."] if len(values) > 8 else [])
    return f"[{', '.join(shown)}]"


def check_x(x):
    if not torch.is_tensor(x) or not x.is_floating_point():
        raise ValueError(f"x must be a tensor of floating point numbers, and is {getattr(x, 'dtype', type(x).__name__)}")
    if x.ndim not in (4, 5) or 0 in x.shape:
        raise ValueError(f"x has the shape {tuple(x.shape)}: give (B, C, H, W) or (B, C, T, H, W), none of them 0")


def check_mask(mask, x):
    """Return the mask in the shape of x."""
    if not torch.is_tensor(mask):
        raise ValueError(f"mask must be a tensor, and is a {type(mask).__name__}")
    try:
        mask = mask.detach().expand(x.shape)
    except RuntimeError:
        raise ValueError(f"mask {tuple(mask.shape)} does not fit x {tuple(x.shape)}: give a shape that broadcasts") from None
    if not ((mask >= 0) & (mask <= 1)).all():  # false for NaN too
        raise ValueError("mask must lie between 0 (kept) and 1 (painted): scale it")
    return mask


@torch.no_grad()
def sample_isdo(model, x, sigmas, extra_args=None, callback=None, disable=None, *, settings=None, mask=None, report=None):
    """Solve the probability-flow ODE from sigmas[0] to sigmas[-1]; by default with one model call per step.

    Args:
        model: ``model(x, sigma (B,), **extra_args) -> denoised``, as k-diffusion's wrappers.
        x: (B, C, H, W) or (B, C, T, H, W), noise included, at sigmas[0]; any floating dtype. It is not modified.
        sigmas: falling noise levels (N + 1,), usually ending in 0; on any device. The first zero is the end. If there is one,
            calls go ``settings.placement`` of the way from these levels to where pictures bend: `isdo.schedules.bent`. With a
            tolerance they say where to begin and how far down to go: to the last above 0, or the model's smallest.
        extra_args: keyword arguments handed to the model as they are.
        callback: called once a step, after its last call, with {"x", "i", "sigma", "sigma_hat", "denoised"} of its first: sigma
            is the schedule's level, sigma_hat that of x, where the model was called. With a tolerance once a call: sigma is the
            largest of the levels (B,) in sigma_hat at which pictures are that are still on their way. The solver "trajectory"
            calls it once a step, as soon as the step's noise level is solved for all pictures; with a tolerance once a call.
        disable: hide the progress bar.
        settings: a Settings.
        mask: broadcasts to x, 1 where the picture is painted and 0 where the model's wrapper holds it to a known picture,
            or between. Fits and norms look at the painted part only; kept pixels go straight to what the model says there.
        report: a dict that takes in, while the run goes on, "calls" and "rejected": [B] numbers, how many model calls each
            picture took, and how many of its steps were done again. With the solver "trajectory" a call is one picture at one
            level, however many go into one call of the model, and "rounds" is how often it was waited for.

    Returns:
        x at the last sigma, in the shape, dtype and on the device of x.

    Raises:
        ValueError: x, sigmas, settings or a mask that make no sense; the message says what, what was given, what to do.
        RuntimeError: the model returned NaN or infinity; the message names the step and the sigma. Another model answers
            amid a run of the solver "trajectory".

    Exceptions of the model or the callback pass through. No step waits for the device, but with a tolerance every call does,
    and every round of the solver "trajectory".
    Theory page, sections 2 to 5; 11 for the solvers "srk3" to "srk5", 12 for tolerances, 13 for "trajectory".
    """
    return solve_ode(model, x, sigmas, extra_args, callback, disable, settings, mask, smallest_sigma(model), report)


def solve_ode(model, x, sigmas, extra_args, callback, disable, settings, mask, low, report=None):
    """`sample_isdo`, with the model's smallest noise level ``low``, down to which calls are placed and the last step foresees.

    0: no call goes below the schedule's, and the last step ends on what D says.
    """
    settings = Settings() if settings is None else settings
    if not isinstance(settings, Settings):
        raise ValueError(f"settings is a {type(settings).__name__}: give isdo.Settings(...)")
    check_x(x)
    path = detect_path(model) if settings.path == "auto" else PATHS[settings.path]
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
        self.spectrum, self.state = Spectrum(*x.shape[-2:], x.device, settings.basis), x.to(self.dtype, copy=True)
        self.mask = None if mask is None else check_mask(mask, x).to(x.device, self.dtype)
        self.calls, self.inner = 0, None

    def window(self, part=ALL):
        """Return the Whole or Masked of some of the pictures."""
        mask = self.mask
        return Whole() if mask is None else Masked(self.spectrum, mask[part].shape, mask[part])

    def solver(self, part=ALL, settings=None):
        """Return a solver for some of the pictures."""
        like, settings = self.given.new_empty(0, dtype=self.dtype), settings or self.settings
        return self.row.make(self.path, self.spectrum, settings, like, self.window(part), self.low)

    def ask(self, state, level, sigma):
        """Return (what the model was asked, denoised, whether another model answers than before) at the levels (B,).

        ``sigma`` is a number for messages.
        """
        return self.answer(state, level, sigma, lambda asked, level: self.model(asked, level, **self.extra_args))

    def answer(self, state, level, sigma, model):
        """Return what ``ask`` does, of ``model(asked, level)``; None if that returns None."""
        asked = state.to(self.given.dtype)
        self.answers.look()
        if (denoised := model(asked, level)) is None:
            return None
        self.answers.take(denoised, asked, sigma)
        before, self.inner = self.inner, Identity(self.model)
        self.calls += 1
        return asked, denoised, before is not None and before != self.inner

    def begin_answers(self, most, unit="call"):
        """Look at the answers of so many calls at most."""
        self.answers = Answers(self.given.device, most, unit)

    def by_schedule(self, given, callback, disable):
        """Go from level to level of a schedule, bent as the settings say; return x at its end."""
        levels = bent(given, self.settings.placement, self.low, self.path)
        calls, whole = self.row.calls(len(levels) - 1, levels[-1] == 0), self.row.calls_a_step == 1
        self.begin_answers(calls, "step" if whole else "call")
        solver, state, modes, sigma = self.solver(), self.state, self.spectrum.forward(self.state), levels[0]
        for i in trange(len(levels) - 1, disable=disable):
            end, told, amid, arrived = levels[i + 1], None, False, False
            while not arrived:
                level = torch.full((len(state),), sigma, dtype=self.dtype, device=state.device)
                asked, denoised, anew = self.ask(state, level, sigma)
                self.report |= {"calls": [self.calls] * len(state), "rejected": [0] * len(state)}
                if anew:  # a refiner took over: what the other model said is no history of this one
                    solver.reset()
                    amid = False
                if told is None and callback is not None:
                    scheduled = torch.full_like(level[0], given[i])
                    told = {"x": asked, "i": i, "sigma": scheduled, "sigma_hat": level[0], "denoised": denoised}
                    if whole:
                        callback(told)
                if arrived := not (amid or end < sigma):
                    continue  # a level that is there twice
                solver.observe(sigma, modes, self.spectrum.forward(denoised.to(self.dtype)))
                sigma, modes, arrived = solver.predict(end)
                state, amid = self.spectrum.inverse(modes, self.given.shape), not arrived
            if callback is not None and not whole:
                callback(told)
        self.answers.settle()
        return state.to(self.given.dtype)

    def by_tolerance(self, given, callback, disable):
        """Go from the first to the last level of a schedule in steps that each picture needs; return x at 0."""
        way, most = Way(self.path, *self.ends(given)), self.settings.max_calls
        self.begin_answers(most)
        modes = self.spectrum.forward(self.state)
        walks = [self.walk(way, slice(i, i + 1), modes) for i in range(len(modes))]

        def ask(modes, sigmas, running):
            state = self.spectrum.inverse(modes, self.given.shape) if self.calls else self.state
            largest = max(sigma for sigma, on in zip(sigmas, running, strict=True) if on)
            levels = constants(sigmas, state)
            asked, denoised, anew = self.ask(state, levels, largest)
            self.report |= {"calls": [each.calls + on for each, on in zip(walks, running, strict=True)]}
            if callback is not None:
                now = torch.full_like(levels[0], largest)
                callback({"x": asked, "i": self.calls - 1, "sigma": now, "sigma_hat": levels, "denoised": denoised})
            return self.spectrum.forward(denoised.to(self.dtype)), anew

        self.report["rejected"] = [0] * len(walks)
        for _ in tqdm(walk(walks, ask, most), disable=disable, unit="call"):
            self.report["rejected"] = [each.rejected for each in walks]
        self.answers.settle()
        return self.spectrum.inverse(torch.cat([each.result for each in walks]), self.given.shape).to(self.given.dtype)

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
            raise ValueError(f"with a tolerance the schedule must end in 0, and it ends at {given[-1]:g}: append a 0, or set 0")
        if not (self.row.estimate or self.row.sweeps):
            able = ", ".join(name for name, row in SOLVERS.items() if row.estimate or row.sweeps)
            raise ValueError(f"the solver {settings.solver} cannot say how far off a step is: with a tolerance take {able}")
        if settings.solver == "multistep" and settings.corrector == 0:
            raise ValueError("corrector is 0, and a tolerance is kept by what corrections change: set corrector to 1")
        if settings.tolerance < (least := ROUNDINGS * torch.finfo(dtype).eps):
            raise ValueError(f"tolerance is {settings.tolerance:g} and x is {dtype}: give 0, or {least:.1g} or more")
