"""The samplers that ISDO is measured against: k-diffusion's own code where it has them, else the published formulas.

All have k-diffusion's call shape and never call the model at sigma 0. The exponential ones use t = -log(sigma) on both
paths: on `flow` d(x/sigma) = D d(1/sigma) holds as it does on `ve`, so only the variable in which D is interpolated is
a choice. log((1 - sigma)/sigma), the other candidate, is -inf at the sigma = 1 where flow runs start, so that its first
*two* steps fall to order one (RES 2M then errs 1.0 to 1.9 times as much on the analytic problems); k-diffusion's and
Forge's samplers take -log(sigma) there too.
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

import torch

ADAMS_BASHFORTH = (  # newest first, equal steps
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
_ALIAS = "_isdo_k_diffusion"


def k_diffusion(name):
    """Return k-diffusion's module ``name`` ("sampling", "external", ...) without running the package's __init__.

    That __init__ imports wandb, clip, kornia and more, none of which the samplers need: the files are loaded under a
    private package name. A copy that the process has loaded already (a WebUI) is used as it is.

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
    """Let `from torchvision.transforms import functional` succeed where there is no torchvision; no sampler uses it."""
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    try:
        import_module(names[-1])
        added = ()
    except (ImportError, RuntimeError):  # RuntimeError: its operators do not load beside another build of torch
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

    @property
    def d(self):
        return (self.x - self.denoised) / self.sigma


def multistep(order, predict, correct=None, lower_final=False, to_zero=False):
    """Make a sampler with one model call a step from ``predict(history, sigma)``, history newest first.

    The order grows from 1 with the history. ``correct(history, sigma, denoised)`` redoes the last step with the new
    evaluation. ``lower_final``: the order falls to 1 at the end. The step to sigma 0 is D itself, as in k-diffusion;
    with ``to_zero`` the formula is carried on to 0, which those that are polynomial in sigma can do.
    """

    @torch.no_grad()
    def sample(model, x, sigmas, extra_args=None, callback=None, disable=None):
        history, used, grid = [], 0, sigmas.tolist()
        for i, (sigma, sigma_next) in enumerate(pairwise(grid)):
            denoised = model(x, x.new_full((len(x),), sigma), **(extra_args or {}))
            if callback is not None:
                callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised})
            if sigma_next == 0 and not to_zero:
                return denoised
            if correct is not None and history:
                x = correct(history[:used], sigma, denoised)
            history = [Node(sigma, x, denoised), *history][:order]
            used = min(order, len(history), len(grid) - 1 - i if lower_final else order)
            x = predict(history[:used], sigma_next)
        return x

    return sample


def ipndm(history, sigma):
    """Adams-Bashforth with the weights of equal steps, whatever the grid (Zhang & Chen 2023, iPNDM)."""
    weights = ADAMS_BASHFORTH[len(history) - 1]
    return history[0].x + (sigma - history[0].sigma) * sum(w * node.d for w, node in zip(weights, history, strict=True))


def deis(history, sigma):
    """tAB-DEIS: eps interpolated in sigma and integrated exactly (Zhang & Chen 2023, equation 15).

    Simpson's rule is exact up to cubics, that is up to four nodes.
    """
    start, nodes = history[0].sigma, [node.sigma for node in history]
    points = ((start, 1 / 6), ((start + sigma) / 2, 4 / 6), (sigma, 1 / 6))

    def weight(j):
        others = nodes[:j] + nodes[j + 1 :]
        return sum(w * math.prod((s - o) / (nodes[j] - o) for o in others) for s, w in points)

    return history[0].x + (sigma - start) * sum(weight(j) * node.d for j, node in enumerate(history))


def phi(k, z):
    """Return phi_k(z) = sum z^n / (n + k)!, by the series for small z, where the recursion cancels."""
    if abs(z) < 1:
        return sum(z**n / math.factorial(n + k) for n in range(20))
    value = math.exp(z)
    for j in range(k):
        value = (value - 1 / math.factorial(j)) / z
    return value


def res(history, sigma):
    """Exponential two-step with exact phi weights (Zhang et al. 2023, RES; Hochbruck & Ostermann 2010)."""
    new = history[0]
    h = math.log(new.sigma / sigma)
    x = math.exp(-h) * new.x + h * phi(1, -h) * new.denoised
    if len(history) == 1:
        return x
    c2 = math.log(new.sigma / history[1].sigma) / h
    return x + h * phi(2, -h) / c2 * (history[1].denoised - new.denoised)


def unipc(history, sigma, denoised=None):
    """UniPC, B2(h), data prediction: the predictor, or given D at ``sigma`` the corrector (Zhao et al. 2023).

    As in the authors' code, the systems of one unknown are replaced by their limit 1/2.
    """
    new, h = history[0], math.log(history[0].sigma / sigma)
    ratios = [math.log(new.sigma / node.sigma) / h for node in history[1:]]
    changes = [(node.denoised - new.denoised) / r for node, r in zip(history[1:], ratios, strict=True)]
    if denoised is not None:
        ratios, changes = [*ratios, 1.0], [*changes, denoised - new.denoised]
    x = math.exp(-h) * new.x - math.expm1(-h) * new.denoised
    if not changes:
        return x
    rows = torch.tensor([[r**k for r in ratios] for k in range(len(ratios))], dtype=torch.float64, device="cpu")
    moments = [-h * phi(k + 2, -h) * math.factorial(k + 1) / math.expm1(-h) for k in range(len(ratios))]
    weights = [0.5]
    if len(ratios) > 1:
        weights = torch.linalg.solve(rows, torch.tensor(moments, dtype=torch.float64, device="cpu")).tolist()
    return x - math.expm1(-h) * sum(w * change for w, change in zip(weights, changes, strict=True))


def _theirs(name):
    def sample(model, x, sigmas, extra_args=None, callback=None, disable=None):
        return getattr(k_diffusion("sampling"), name)(model, x, sigmas, extra_args, callback, disable)

    return sample


def _one_call_a_step(calls):
    return calls


@dataclass(frozen=True)
class Peer:
    """One sampler: ``run(model, x, sigmas, extra_args, callback, disable) -> x``; ``steps(calls)`` it can pay for."""

    label: str
    run: Callable
    citation: str
    steps: Callable[[int], int] = _one_call_a_step


PEERS = {
    "euler": Peer("Euler (DDIM)", _theirs("sample_euler"), "Karras et al. 2022; k-diffusion"),
    # two calls a step, one in the step to 0
    "heun": Peer("Heun", _theirs("sample_heun"), "Karras et al. 2022; k-diffusion", lambda calls: (calls + 1) // 2),
    "dpmpp_2m": Peer("DPM++ 2M", _theirs("sample_dpmpp_2m"), "Lu et al. 2022; k-diffusion"),
    # The next three could end with D instead; their own formula is the stronger choice: 0.66 to 1.08 times the error on
    # analytic problems, about 0.8 on the zoo's eps model with the simple grid, 1.0 to 1.15 with karras and exponential.
    "ipndm_3": Peer("iPNDM-3", multistep(3, ipndm, to_zero=True), "Liu et al. 2022; Zhang & Chen 2023"),
    "ipndm_4": Peer("iPNDM-4", multistep(4, ipndm, to_zero=True), "Liu et al. 2022; Zhang & Chen 2023"),
    "deis": Peer("DEIS tAB-3", multistep(3, deis, to_zero=True), "Zhang & Chen 2023"),
    "unipc_2": Peer("UniPC-2", multistep(2, unipc, unipc, lower_final=True), "Zhao et al. 2023, bh2"),
    "unipc_3": Peer("UniPC-3", multistep(3, unipc, unipc, lower_final=True), "Zhao et al. 2023, bh2"),
    "res_2m": Peer("RES 2M", multistep(2, res), "Zhang et al. 2023"),
}
