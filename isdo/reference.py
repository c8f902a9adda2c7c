"""The textbook's samplers in a few lines each: DDPM, DDIM, Runge-Kutta, EDM, the reverse SDE,
Langevin of any rate.

They have k-diffusion's call shape and are for reading, and to compare with; theory page, section
10. Each step is written in the methods of a Process: t is its time, x its state.

Arguments of all:
    model: ``model(x, sigma (B,), **extra_args) -> denoised``, on its path.
    x: (B, C, H, W) or (B, C, T, H, W), noise included, at sigmas[0]; it is not modified.
    sigmas: falling noise levels (N + 1,) of the path, usually ending in 0, where x becomes D.
    extra_args: keyword arguments handed to the model as they are.
    callback: called once a step with {"x", "i", "sigma", "sigma_hat", "denoised"}: x and sigma_hat
        are what the model was asked first.
    disable: accepted as k-diffusion's samplers do; there is no bar.
    seeds: of fresh noise: None for torch's own generator, or the first picture's seed, or one for
        each picture.
    process: a name in isdo.process.PROCESSES, or a Process, whose state x is (on the way in and
        out); left out, the path's own, "edm" on `ve` and "flow" on `flow`. Sigmas stay those of the
        path.
    noise: ``noise(x) -> normal noise shaped like x``, once a step, in place of the seeds.

All return x at the last sigma, in the shape, dtype and on the device of x.

Raises:
    ValueError: x, sigmas, seeds or a process that make no sense; the message says what, what was
        given, what to do.
    RuntimeError: the model returned NaN or infinity, or no picture like x.
"""

import inspect
import math
from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from .answers import Checked
from .device import wide
from .inputs import check_sigmas, check_x
from .noise import source
from .path import FLOW, VE, detect_path
from .process import PROCESSES, Process
from .process import process as find_process
from .protocols import Callback, ExtraArgs, Model, NoiseSource, Seeds, Sigmas
from .tableau import EULER, HEUN, RK4

OWN = {VE: PROCESSES["edm"], FLOW: PROCESSES["flow"]}  # the process whose time is the path's sigma
METHODS = {row.name: row for row in (EULER, HEUN, RK4)}


def _as_it_is(x: Tensor, t: float, sigma: float) -> tuple[Tensor, float]:
    return x, t


class Walk:
    """One run: what the steps of all samplers share. Times, levels and coefficients are floats,
    float64."""

    def __init__(
        self,
        model: Model,
        x: Tensor,
        sigmas: Sigmas,
        extra_args: ExtraArgs | None,
        callback: Callback | None,
        seeds: Seeds | None,
        process: str | Process | None,
        noise: NoiseSource | None,
    ) -> None:
        check_x(x)
        self.process = find_process(OWN[detect_path(model)] if process is None else process)
        if detect_path(model) is FLOW is not self.process.path:
            raise ValueError(
                f"the model is on the path flow and the process {self.process.name!r} is not: give 'flow'"
            )
        self.model, self.extra, self.callback = model, extra_args or {}, callback
        self.given, self.dtype = x, x.dtype if x.dtype == torch.float64 else torch.float32
        self.levels = check_sigmas(sigmas, self.process.path)
        self.fresh = source(seeds, x) if noise is None else noise
        self.report: Callback | None = None

    def time(self, sigma: float) -> float:
        """Return the process's time of a level of the path."""
        if self.process is OWN[self.process.path]:
            return sigma
        return self.process.time(float(self.process.path.noise_to_signal(wide(sigma))))

    def denoised(self, x: Tensor, t: float) -> Tensor:
        """Return D at the process's state x, by the model on its path; the first call of a step is
        reported."""
        state, level = self.process.to_path(x, t)
        state = state.to(self.given.dtype)
        found = self.model(state, x.new_full((len(x),), level), **self.extra)
        if self.report is not None:
            self.report({"x": state, "sigma_hat": x.new_tensor(level), "denoised": found})
            self.report = None
        return found.to(self.dtype)

    def run(
        self,
        step: "Step",
        before: Callable[[Tensor, float, float], tuple[Tensor, float]] = _as_it_is,
        calls: int = 1,
    ) -> Tensor:
        """Return x at the end by ``step(walk, x, t, u) -> x at u``, of so many calls; the step to 0
        is D, whatever the sampler.

        ``before(x, t, sigma) -> (x, t)`` may go back up first.
        """
        x = self.given.to(self.dtype, copy=True)
        self.model = Checked(self.model, x.device, calls * (len(self.levels) - 2) + 1)
        for i, (sigma, after) in enumerate(pairwise(self.levels)):
            if self.callback is not None:
                now = x.new_tensor(sigma)
                self.report = lambda call, i=i, now=now: self.callback(
                    call | {"i": i, "sigma": now}
                )
            x, t = before(x, self.time(sigma), sigma)
            x = step(self, x, t, self.time(after)) if after > 0 else self.denoised(x, t)
        self.model.answers.settle()
        return x.to(self.given.dtype)


# step(walk, x, t, u) -> x at the time u, from x at t
Step = Callable[[Walk, Tensor, float, float], Tensor]


def _renoised(walk: Walk, x: Tensor, t: float, u: float, kept: Callable[[float], float]) -> Tensor:
    """Return x_u = s_u (D + sigma_u (k eps + sqrt(1 - k^2) n)): of the old noise eps the share k =
    kept(sigma_u/sigma_t) stays, the rest is new. Theory page, equation 10.14."""
    p = walk.process
    denoised = walk.denoised(x, t)
    share = kept(_ratio(p, u, t))
    eps = (x - p.scale(t) * denoised) / p.noise(t)
    fresh = math.sqrt((1 - share) * (1 + share))
    old = p.scale(u) * denoised + p.noise(u) * share * eps
    return old + p.noise(u) * fresh * walk.fresh(x) if fresh else old


def _ratio(process: Process, u: float, t: float) -> float:
    return 1.0 if u == t else process.sigma(u) / process.sigma(t)


@torch.no_grad()
def ddpm(
    model: Model,
    x: Tensor,
    sigmas: Sigmas,
    extra_args: ExtraArgs | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    *,
    seeds: Seeds | None = None,
    process: str | Process | None = None,
    noise: NoiseSource | None = None,
) -> Tensor:
    """Ancestral sampling: the posterior with D in the place of x0 (Ho et al. 2020, algorithm 2;
    theory, equation 10.4)."""

    def step(walk: Walk, x: Tensor, t: float, u: float) -> Tensor:
        mean, std = walk.process.posterior(x, walk.denoised(x, t), t, u)
        return mean + std * walk.fresh(x)

    return Walk(model, x, sigmas, extra_args, callback, seeds, process, noise).run(step)


@torch.no_grad()
def ddim(
    model: Model,
    x: Tensor,
    sigmas: Sigmas,
    extra_args: ExtraArgs | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    *,
    eta: float = 0.0,
    seeds: Seeds | None = None,
    process: str | Process | None = None,
    noise: NoiseSource | None = None,
) -> Tensor:
    """Song et al. 2021 (DDIM), equation 12: ``eta`` times the noise of DDPM, 0 (none) to 1
    (DDPM)."""
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta!r}: give 0, no fresh noise, to 1, that of DDPM")
    step = partial(_renoised, kept=lambda q: math.sqrt(1 - eta**2 * (1 - q) * (1 + q)))
    return Walk(model, x, sigmas, extra_args, callback, seeds, process, noise).run(step)


@torch.no_grad()
def langevin(
    model: Model,
    x: Tensor,
    sigmas: Sigmas,
    extra_args: ExtraArgs | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    *,
    beta: float = 1.0,
    seeds: Seeds | None = None,
    process: str | Process | None = None,
    noise: NoiseSource | None = None,
) -> Tensor:
    """The ODE with a Langevin part of rate ``beta`` beside it (Karras et al. 2022, equation 8),
    exact where D is constant.

    The rate is per unit of log sigma: 0 is the ODE (DDIM), 1 the reverse SDE (this step is then
    DDPM's), more renews the noise more often. Theory page, equations 10.8 and 10.14.
    """
    if not 0 <= beta < math.inf:
        raise ValueError(f"beta is {beta!r}: give a rate of at least 0, per unit of log sigma")
    step = partial(_renoised, kept=lambda q: q**beta)
    return Walk(model, x, sigmas, extra_args, callback, seeds, process, noise).run(step)


@torch.no_grad()
def ode(
    model: Model,
    x: Tensor,
    sigmas: Sigmas,
    extra_args: ExtraArgs | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    *,
    method: str = "heun",
    seeds: Seeds | None = None,
    process: str | Process | None = None,
    noise: NoiseSource | None = None,
) -> Tensor:
    """The probability-flow ODE in the process's own time by a Runge-Kutta ``method`` of METHODS
    (theory, equation 10.6).

    "euler" and "heun" are k-diffusion's on the path's own process. Nothing is drawn.
    """
    if method not in METHODS:
        raise ValueError(f"no method {method!r}: choose one of {', '.join(METHODS)}")

    def step(walk: Walk, x: Tensor, t: float, u: float) -> Tensor:
        return METHODS[method].step(partial(_slope, walk), t, x, u - t).y

    return Walk(model, x, sigmas, extra_args, callback, seeds, process, noise).run(
        step, calls=METHODS[method].stages
    )


def _slope(walk: Walk, t: float, x: Tensor) -> Tensor:
    return walk.process.ode(x, walk.denoised(x, t), t)


@torch.no_grad()
def edm(
    model: Model,
    x: Tensor,
    sigmas: Sigmas,
    extra_args: ExtraArgs | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
    seeds: Seeds | None = None,
    process: str | Process | None = None,
    noise: NoiseSource | None = None,
) -> Tensor:
    """Karras et al. 2022, algorithm 2: before each of Heun's steps noise is added, as k-diffusion's
    ``sample_heun``.

    Args:
        s_churn: over the number of steps, by what share sigma is raised in each; by sqrt(2) - 1 at
            most.
        s_tmin, s_tmax: the sigmas between which that is done.
        s_noise: factor on the noise that is added.
    """
    if not (s_churn >= 0 and s_noise >= 0):
        raise ValueError(
            f"s_churn is {s_churn!r} and s_noise {s_noise!r}: give numbers of at least 0"
        )
    walk = Walk(model, x, sigmas, extra_args, callback, seeds, process, noise)
    gamma = min(s_churn / max(1, len(walk.levels) - 1), math.sqrt(2) - 1)

    def churned(x: Tensor, t: float, sigma: float) -> tuple[Tensor, float]:
        """Return (x, t) with noise added."""
        fresh = walk.fresh(
            x
        )  # also where it is not used, so that k-diffusion's generator is at the same place
        if not s_tmin <= sigma <= s_tmax or math.isinf(walk.process.sigma(t)):
            return x, t
        most = walk.process.sigma(walk.process.domain[1])
        later = walk.process.time(min(walk.process.sigma(t) * (1 + gamma), most))
        factor, std = walk.process.transition(t, later)
        return factor * x + s_noise * std * fresh, later

    def step(walk: Walk, x: Tensor, t: float, u: float) -> Tensor:
        return HEUN.step(partial(_slope, walk), t, x, u - t).y

    return walk.run(step, churned if gamma else _as_it_is, calls=2)


@torch.no_grad()
def reverse_sde(
    model: Model,
    x: Tensor,
    sigmas: Sigmas,
    extra_args: ExtraArgs | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    *,
    seeds: Seeds | None = None,
    process: str | Process | None = None,
    noise: NoiseSource | None = None,
) -> Tensor:
    """The SDE from noise to picture by Euler and Maruyama in the process's own time (theory,
    equation 10.7).

    ``process="vp linear"`` is Song et al.'s VP, "ve" or the default their VE. Where its rate is
    infinite, at the pure-noise end of `flow`, the step is DDPM's.
    """

    def step(walk: Walk, x: Tensor, t: float, u: float) -> Tensor:
        p, denoised = walk.process, walk.denoised(x, t)
        rate, fresh = p.diffusion(t), walk.fresh(x)
        if math.isinf(rate):
            mean, std = p.posterior(x, denoised, t, u)
            return mean + std * fresh
        return x + p.reverse_drift(x, denoised, t) * (u - t) + rate * math.sqrt(t - u) * fresh

    return Walk(model, x, sigmas, extra_args, callback, seeds, process, noise).run(step)


SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "rk4": partial(ode, method="rk4"),
    # the paper's choice for ImageNet at 64 x 64, table 5
    "edm": partial(edm, s_churn=40, s_tmin=0.05, s_tmax=50, s_noise=1.003),
    "reverse_sde": reverse_sde,
    "langevin": partial(langevin, beta=2.0),  # at 1 it is DDPM
}


def seeded(run: Callable[..., Tensor], seeds: Iterable[int]) -> Callable[..., Tensor]:
    """Return the sampler with ``seeds``, if it draws noise of its own; any other as it is."""
    return partial(run, seeds=list(seeds)) if "seeds" in inspect.signature(run).parameters else run
