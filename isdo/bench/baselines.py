"""The samplers that ISDO is measured against: k-diffusion's own code where it has them, else the
published formulas.

All have k-diffusion's call shape and never call the model at sigma 0. The exponential ones use t =
-log(sigma) on both paths: on `flow` d(x/sigma) = D d(1/sigma) holds as it does on `ve`, so only the
variable in which D is interpolated is a choice. log((1 - sigma)/sigma), the other candidate, is
-inf at the sigma = 1 where flow runs start, so that its first *two* steps fall to order one (RES 2M
then errs 1.0 to 1.9 times as much on the analytic problems); k-diffusion's and Forge's samplers
take -log(sigma) there too.
"""

import math
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch

from ..device import beside, wide
from ..noise import source
from ..path import VE, Path, detect_path
from ..reference import SAMPLERS as REFERENCE

ADAMS_BASHFORTH = (  # newest first, equal steps
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
_ALIAS = "_isdo_k_diffusion"


def k_diffusion(name):
    """Return k-diffusion's module ``name`` ("sampling", "external", ...) without running the
    package's __init__.

    That __init__ imports wandb, clip, kornia and more, none of which the samplers need: the files
    are loaded under a private package name. A copy that the process has loaded already (a WebUI) is
    used as it is.

    Raises:
        ImportError: when k-diffusion or what its samplers need is not installed.
    """
    if loaded := sys.modules.get(f"k_diffusion.{name}"):
        return loaded
    if _ALIAS not in sys.modules:
        spec = find_spec("k_diffusion")
        if spec is None:
            raise ImportError(
                "the bench needs k-diffusion's samplers: pip install torchdiffeq torchsde, then "
                "pip install --no-deps k-diffusion==0.1.1.post1"
            )
        package = ModuleType(_ALIAS)
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules[_ALIAS] = package
    with _torchvision():
        return import_module(f"{_ALIAS}.{name}")


@contextmanager
def _torchvision():
    """Let `from torchvision.transforms import functional` succeed where there is no torchvision; no
    sampler uses it."""
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    try:
        import_module(names[-1])
        added = ()
    except (
        ImportError,
        RuntimeError,
    ):  # RuntimeError: its operators do not load beside another build of torch
        added = tuple(name for name in names if name not in sys.modules)
    for name in added:
        sys.modules[name] = ModuleType(name)
    for parent, child in pairwise(added):
        setattr(sys.modules[parent], child.rpartition(".")[2], sys.modules[child])
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


class Node(NamedTuple):
    """One evaluation: the state from which the next step starts, and D there."""

    sigma: float
    x: torch.Tensor
    denoised: torch.Tensor
    path: Path = VE

    @property
    def d(self):
        return (self.x - self.denoised) / self.sigma

    @property
    def eps(self):
        """The noise that the model sees."""
        return (self.x - self.path.signal(self.sigma) * self.denoised) / self.sigma

    @property
    def ratio(self):
        """Noise to signal, infinity at the pure-noise end of `flow`."""
        return _ratio(self.path, self.sigma)


def _ratio(path, sigma):
    signal = path.signal(sigma)
    return sigma / signal if signal else math.inf


def multistep(order, predict, correct=None, lower_final=False, to_zero=False):
    """Make a sampler with one model call a step from ``predict(history, sigma)``, history newest
    first.

    The order grows from 1 with the history. ``correct(history, sigma, denoised)`` redoes the last
    step with the new evaluation. ``lower_final``: the order falls to 1 at the end. The step to
    sigma 0 is D itself, as in k-diffusion; with ``to_zero`` the formula is carried on to 0, which
    those that are polynomial in sigma can do.
    """

    @torch.no_grad()
    def sample(model, x, sigmas, extra_args=None, callback=None, disable=None):
        history, used, schedule, path = [], 0, sigmas.tolist(), detect_path(model)
        for i, (sigma, sigma_next) in enumerate(pairwise(schedule)):
            denoised = model(x, x.new_full((len(x),), sigma), **(extra_args or {}))
            if callback is not None:
                callback(
                    {
                        "x": x,
                        "i": i,
                        "sigma": sigmas[i],
                        "sigma_hat": sigmas[i],
                        "denoised": denoised,
                    }
                )
            if sigma_next == 0 and not to_zero:
                return denoised
            if correct is not None and history:
                x = correct(history[:used], sigma, denoised)
            history = [Node(sigma, x, denoised, path), *history][:order]
            used = min(order, len(history), len(schedule) - 1 - i if lower_final else order)
            x = predict(history[:used], sigma_next)
        return x

    return sample


def ipndm(history, sigma):
    """Adams-Bashforth with the weights of equal steps, whatever the schedule (Zhang & Chen 2023,
    iPNDM)."""
    weights = ADAMS_BASHFORTH[len(history) - 1]
    return history[0].x + (sigma - history[0].sigma) * sum(
        w * node.d for w, node in zip(weights, history, strict=True)
    )


def means(nodes, end):
    """Return the means over nodes[0] .. end of the Lagrange polynomials of the nodes, four at most.

    Simpson's rule is exact up to cubics.
    """
    start = nodes[0]
    points = ((start, 1 / 6), ((start + end) / 2, 4 / 6), (end, 1 / 6))
    return [sum(w * lagrange(nodes, j, s) for s, w in points) for j in range(len(nodes))]


def lagrange(nodes, j, s):
    """Return the polynomial that is 1 at nodes[j] and 0 at the others, at s."""
    others = nodes[:j] + nodes[j + 1 :]
    return math.prod((s - o) / (nodes[j] - o) for o in others)


def deis(history, sigma):
    """tAB-DEIS: eps interpolated in sigma and integrated exactly (Zhang & Chen 2023, equation
    15)."""
    weights = means([node.sigma for node in history], sigma)
    return history[0].x + (sigma - history[0].sigma) * sum(
        w * node.d for w, node in zip(weights, history, strict=True)
    )


def cab(order, theta=0.9):
    """CAB (Roy & Nair 2026, arXiv:2605.16736): Adams-Bashforth of x/a in the noise-to-signal ratio,
    plus theta times the step times what linear extrapolation of the two eps before missed in the
    newest.

    As in the authors' code: Euler, then two-step Adams-Bashforth in sigma, then this; theta is the
    0.9 of their commands. On `ve` the ratio is sigma. The correction is of third order in the step,
    so that any theta but 0 has order 2.
    """

    def predict(history, sigma):
        if len(history) < 3:
            return deis(history, sigma)
        new, before, first = history
        end, ratios = _ratio(new.path, sigma), [node.ratio for node in history]
        nodes = [
            r for r in ratios[:order] if r < math.inf
        ]  # from infinitely far off a node has no say
        weights, h = means(nodes, end), end - new.ratio
        change = sum(w * (node.eps - new.eps) for w, node in zip(weights, history, strict=False))
        stretch = (new.ratio - before.ratio) / (before.ratio - first.ratio)
        miss = new.eps - before.eps - stretch * (before.eps - first.eps)
        signal = new.path.signal(sigma)
        return signal * new.denoised + sigma * new.eps + signal * h * (change + theta * miss)

    return predict


def forward_ddim(history, sigma, denoised=None):
    """F-DDIM (Jiao et al. 2025, arXiv:2512.24927): DDIM's step with D of its end in the place of D
    of its start.

    That D is asked at a look-ahead, DDIM's own step with the D at hand. From the abstract: the text
    of the paper was not at hand, and which of D and eps it holds constant over the step is our
    choice of D, as in DDIM's exponential form.
    """
    node = history[0]
    held = node.denoised if denoised is None else denoised
    return held + sigma / node.sigma * (node.x - held)


_LEGENDRE = tuple(zip(*(v.tolist() for v in np.polynomial.legendre.leggauss(16)), strict=True))


def reab(history, sigma):
    """REAB (azula, Rozet 2025; after DPM-Solver-v3, Zheng et al. 2023): with psi = sqrt(a^2 + s^2)
    the ODE is d(x/psi) = f dtheta, tan theta = s/a, and f = (a x/psi - psi D)/s is interpolated in
    log s/a.

    It is theory section 2 with S = 1 for every mode, interpolated otherwise. The factor sqrt(1 +
    e^(2 s)) before the sum is that of azula's formula; its code (0.11.1) takes the sigma of the
    step's start there.
    """
    new, path = history[0], history[0].path
    psi, psi_end = (
        math.hypot(path.signal(new.sigma), new.sigma),
        math.hypot(path.signal(sigma), sigma),
    )
    known = [node for node in history if node.ratio < math.inf] or [new]
    start, end = (math.atan2(s, path.signal(s)) for s in (new.sigma, sigma))
    places = [
        (math.log(math.tan((start + end + (end - start) * z) / 2)), w * (end - start) / 2)
        for z, w in _LEGENDRE
    ]
    logs = [math.log(node.ratio) for node in known] if len(known) > 1 else [0.0]
    weights = [sum(w * lagrange(logs, j, u) for u, w in places) for j in range(len(known))]
    return psi_end * (
        new.x / psi + sum(w * _residual(node) for w, node in zip(weights, known, strict=True))
    )


def _residual(node):
    signal = node.path.signal(node.sigma)
    psi = math.hypot(signal, node.sigma)
    return (signal / psi * node.x - psi * node.denoised) / node.sigma


def phi(k, z):
    """Return phi_k(z) = sum z^n / (n + k)!, by the series for small z, where the recursion
    cancels."""
    if abs(z) < 1:
        return sum(z**n / math.factorial(n + k) for n in range(20))
    value = math.exp(z)
    for j in range(k):
        value = (value - 1 / math.factorial(j)) / z
    return value


def res(history, sigma):
    """Exponential two-step with exact phi weights (Zhang et al. 2023, RES; Hochbruck & Ostermann
    2010)."""
    new = history[0]
    h = math.log(new.sigma / sigma)
    x = math.exp(-h) * new.x + h * phi(1, -h) * new.denoised
    if len(history) == 1:
        return x
    c2 = math.log(new.sigma / history[1].sigma) / h
    return x + h * phi(2, -h) / c2 * (history[1].denoised - new.denoised)


def unipc(history, sigma, denoised=None):
    """UniPC, B2(h), data prediction: the predictor, or given D at ``sigma`` the corrector (Zhao et
    al. 2023).

    As in the authors' code, the systems of one unknown are replaced by their limit 1/2.
    """
    new, h = history[0], math.log(history[0].sigma / sigma)
    ratios = [math.log(new.sigma / node.sigma) / h for node in history[1:]]
    changes = [
        (node.denoised - new.denoised) / r for node, r in zip(history[1:], ratios, strict=True)
    ]
    if denoised is not None:
        ratios, changes = [*ratios, 1.0], [*changes, denoised - new.denoised]
    x = math.exp(-h) * new.x - math.expm1(-h) * new.denoised
    if not changes:
        return x
    rows = torch.tensor(
        [[r**k for r in ratios] for k in range(len(ratios))], dtype=torch.float64, device="cpu"
    )
    moments = [
        -h * phi(k + 2, -h) * math.factorial(k + 1) / math.expm1(-h) for k in range(len(ratios))
    ]
    weights = [0.5]
    if len(ratios) > 1:
        weights = torch.linalg.solve(
            rows, torch.tensor(moments, dtype=torch.float64, device="cpu")
        ).tolist()
    return x - math.expm1(-h) * sum(w * change for w, change in zip(weights, changes, strict=True))


def _theirs(name):
    def sample(model, x, sigmas, extra_args=None, callback=None, disable=None):
        return getattr(k_diffusion("sampling"), name)(
            model, x, sigmas, extra_args, callback, disable
        )

    return sample


def _stochastic(name):
    """Return k-diffusion's sampler of that name with fresh noise from each picture's own seed, on
    both paths.

    Its step asks for one normal number a pixel and never for the same interval twice, so that
    independent draws are the increments of a Brownian path, which BrownianTree gives at a hundred
    times the price. The formulas are for x = x0 + sigma n. `flow` is seen as that: x/a has the
    noise-to-signal ratio s/a, exactly. At its pure-noise end that is infinite, where all of these
    steps have one limit, D with fresh noise, and weigh what they know from there with 0.
    """

    @torch.no_grad()
    def sample(model, x, sigmas, extra_args=None, callback=None, disable=None, *, seeds=None):
        path, fresh, extra = detect_path(model), source(seeds, x), extra_args or {}
        levels, done = wide(sigmas), 0

        def asked(x):
            """Return D at a level that is none of k-diffusion's business."""
            sigma = beside(levels[done], x)
            denoised = model(x, sigma.expand(len(x)), **extra)
            if callback is not None:
                callback(
                    {"x": x, "i": done, "sigma": sigma, "sigma_hat": sigma, "denoised": denoised}
                )
            return denoised

        def seen(y, ratio):
            shrink = (1 + path.fade * ratio).reshape(-1, *[1] * (y.ndim - 1))
            return model(y / shrink, path.from_noise_to_signal(ratio), **extra)

        def told(call):
            sigma = path.from_noise_to_signal(call["sigma"])
            callback(
                call
                | {
                    "x": path.signal(sigma) * call["x"],
                    "i": call["i"] + done,
                    "sigma": sigma,
                    "sigma_hat": sigma,
                }
            )

        if math.isinf(path.noise_to_signal(levels[0])) and levels[1]:
            later = levels[1].item()
            x, done = path.signal(later) * asked(x) + later * fresh(x), 1
        if levels[done + 1 :].tolist() == [0]:  # a single step is too few for two of these
            return asked(x)
        ratios = path.noise_to_signal(levels[done:])
        run, y = getattr(k_diffusion("sampling"), name), (1 + path.fade * ratios[0].item()) * x
        end = run(
            seen,
            y,
            beside(ratios, x),
            {},
            callback and told,
            disable,
            noise_sampler=lambda *_: fresh(y),
        )
        return end / (1 + path.fade * ratios[-1].item())

    return sample


RESTART_LOW, RESTART_HIGH, RESTARTS = (
    0.1,
    2.0,
    2,
)  # of the WebUIs' "Restart" from 36 steps on; noise-to-signal ratios


def restarts(
    run, path, x, sigmas, steps, fresh, times=RESTARTS, low=RESTART_LOW, high=RESTART_HIGH
):
    """Draw with Restart (Xu et al. 2023, algorithm 1): on reaching ``low`` go back up to ``high``
    with fresh noise, ``times``.

    Args:
        run: ``run(x, sigmas) -> x`` solves a leg.
        path: of x; the noise is what takes the one level to the other on it.
        sigmas: falling levels, 0 at the end; the one nearest to ``low`` is where it turns.
        steps: of each leg from ``high`` down, geometric.
        fresh: ``fresh(x)``, noise like x.
    """
    levels = wide(sigmas)
    i = int((path.noise_to_signal(levels[:-1]) - low).abs().argmin())
    bottom, top = float(levels[i]), path.from_noise_to_signal(high)
    leg = torch.linspace(
        math.log(top), math.log(bottom), steps + 1, dtype=torch.float64, device="cpu"
    ).exp()
    leg[0], leg[-1] = top, bottom
    x = run(x, sigmas[: i + 1])
    for _ in range(times if bottom < top else 0):
        fade = path.signal(top) / path.signal(bottom)
        x = run(fade * x + math.sqrt(top**2 - (fade * bottom) ** 2) * fresh(x), leg)
    return run(x, sigmas[i:])


@torch.no_grad()
def restart(model, x, sigmas, extra_args=None, callback=None, disable=None, *, seeds=None):
    """Restart with DPM++ 2M on every leg: half of the calls go down once, the others are two legs
    from 2 to 0.1.

    These are the proportions of the WebUIs' "Restart", which solves with Heun: two calls a step, so
    that 24 of them would leave it 12 steps, and it begins to restart at 20. One call a step is the
    stronger choice at equal calls.
    """
    solve = BASELINES["dpmpp_2m"].run

    def leg(x, levels):
        return solve(model, x, beside(levels, x), extra_args, callback, disable)

    steps = (len(sigmas) - 1) // 2
    return restarts(
        leg, detect_path(model), x, sigmas, steps, source(seeds, x), RESTARTS if steps else 0
    )


def _one_call_a_step(calls):
    return calls


@dataclass(frozen=True)
class Baseline:
    """One sampler: ``run(model, x, sigmas, extra_args, callback, disable) -> x``; ``steps(calls)``
    it can pay for."""

    label: str
    run: Callable
    citation: str
    steps: Callable[[int], int] = _one_call_a_step


BASELINES = {
    "euler": Baseline("Euler (DDIM)", _theirs("sample_euler"), "Karras et al. 2022; k-diffusion"),
    # two calls a step, one in the step to 0
    "heun": Baseline(
        "Heun",
        _theirs("sample_heun"),
        "Karras et al. 2022; k-diffusion",
        lambda calls: (calls + 1) // 2,
    ),
    "dpmpp_2m": Baseline("DPM++ 2M", _theirs("sample_dpmpp_2m"), "Lu et al. 2022; k-diffusion"),
    # The next three could end with D instead; their own formula is the stronger choice: 0.66 to
    # 1.08 times the error on analytic problems, about 0.8 on the zoo's eps model with the simple
    # schedule, 1.0 to 1.15 with karras and exponential.
    "ipndm_3": Baseline(
        "iPNDM-3", multistep(3, ipndm, to_zero=True), "Liu et al. 2022; Zhang & Chen 2023"
    ),
    "ipndm_4": Baseline(
        "iPNDM-4", multistep(4, ipndm, to_zero=True), "Liu et al. 2022; Zhang & Chen 2023"
    ),
    "deis": Baseline("DEIS tAB-3", multistep(3, deis, to_zero=True), "Zhang & Chen 2023"),
    "unipc_2": Baseline(
        "UniPC-2", multistep(2, unipc, unipc, lower_final=True), "Zhao et al. 2023, bh2"
    ),
    "unipc_3": Baseline(
        "UniPC-3", multistep(3, unipc, unipc, lower_final=True), "Zhao et al. 2023, bh2"
    ),
    "res_2m": Baseline("RES 2M", multistep(2, res), "Zhang et al. 2023"),
}

# Beside these, where asked for: what the pages of docs/ have not measured yet. They are baselines of
# the ODE's solution, too.
FURTHER = {
    # four calls a step, one in the step to 0
    "rk4": Baseline("RK4", REFERENCE["rk4"], "Kutta 1901", lambda calls: (calls + 3) // 4),
    "cab_2": Baseline("CAB-2", multistep(3, cab(2), to_zero=True), "Roy & Nair 2026"),
    "cab_3": Baseline("CAB-3", multistep(3, cab(3), to_zero=True), "Roy & Nair 2026"),
    "f_ddim": Baseline("F-DDIM", multistep(1, forward_ddim, forward_ddim), "Jiao et al. 2025"),
    "reab": Baseline("REAB-2", multistep(2, reab), "Rozet 2025; azula"),
}

# These draw noise of their own: for sets of pictures, where nobody asks for the ODE's solution.
STOCHASTIC = {
    "ddpm": Baseline("DDPM", REFERENCE["ddpm"], "Ho et al. 2020"),
    "edm": Baseline(
        "EDM, stochastic", REFERENCE["edm"], "Karras et al. 2022", BASELINES["heun"].steps
    ),
    "reverse_sde": Baseline("Reverse SDE", REFERENCE["reverse_sde"], "Song et al. 2021"),
    "langevin": Baseline("Langevin", REFERENCE["langevin"], "Karras et al. 2022"),
    "euler_a": Baseline("Euler a", _stochastic("sample_euler_ancestral"), "k-diffusion"),
    "dpmpp_2m_sde": Baseline(
        "DPM++ 2M SDE", _stochastic("sample_dpmpp_2m_sde"), "Lu et al. 2022; k-diffusion"
    ),
    "dpmpp_3m_sde": Baseline(
        "DPM++ 3M SDE", _stochastic("sample_dpmpp_3m_sde"), "Lu et al. 2022; k-diffusion"
    ),
    "restart": Baseline(
        "Restart (DPM++ 2M)", restart, "Xu et al. 2023", lambda calls: max(1, calls // 2)
    ),
}
