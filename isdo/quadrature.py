"""The integrals of a step: the one place where differences of nearly equal numbers are taken."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch


def _tanh_sinh(half, reach):
    """Return nodes c in (0, 1), 1 - c and weights of the tanh-sinh rule; weights sum to one.

    Its nodes crowd doubly exponentially towards both ends, so that neither the square root that sigma has at its zero
    nor the logarithm at a tiny last sigma needs a case of its own (Takahasi and Mori 1974).
    """
    t = torch.linspace(-reach, reach, 2 * half + 1, dtype=torch.float64)
    y = math.pi * t.sinh()
    weights = t.cosh() / (y / 2).cosh() ** 2
    return 1 / (1 + (-y).exp()), 1 / (1 + y.exp()), weights / weights.sum()


@functools.lru_cache(maxsize=8)
def _rule(device, dtype):
    return tuple(v.to(device, dtype) for v in _tanh_sinh(half=20, reach=3.1))


@dataclass(frozen=True)
class Tau:
    """A variable tau(sigma) in which the history is interpolated, as an accurate difference.

    ``difference(sigma, delta)`` returns tau(sigma + delta) - tau(sigma) without cancellation, for a float sigma and a
    tensor delta.
    """

    name: str
    difference: Callable
    finite_at_zero: bool = True


def _log_shifted(scale):
    def difference(sigma, delta):
        return (scale * delta / (1 + scale * sigma)).log1p()

    return difference


def _power(exponent):
    def difference(sigma, delta):
        if sigma == 0:
            return delta**exponent
        return sigma**exponent * (exponent * (delta / sigma).log1p()).expm1()

    return difference


TAUS = {
    tau.name: tau
    for tau in (
        Tau("sigma", lambda sigma, delta: delta),
        Tau("root", _power(0.5)),
        Tau("cube root", _power(1 / 3)),
        Tau("log1p", _log_shifted(2.0)),
        Tau("log", lambda sigma, delta: (delta / sigma).log1p(), finite_at_zero=False),
    )
}

# For corrections, which interpolate, whatever variable extrapolates best: D was asked at a predicted x, and of the done part of
# a step this variable leaves the newer, less certain answer a smaller share than log1p does.
BETWEEN = Tau("sigma^1.5", _power(1.5))


def step_total(path, start, end, power):
    """Return how one step of the ODE depends on its start and on a constant m: x(end) = ratio x(start) + total m.

    ratio = psi1/psi0 and total = a1 - a0 psi1/psi0 with psi^2 = a^2 S + s^2; the difference is factored,
    total = (s0 - s1)(a1 s0 + a0 s1) / (psi0 (a1 psi0 + a0 psi1)) on both paths, so that a short step loses nothing.
    Theory page, section 2.

    Args:
        path: a Path.
        start, end: sigma0 > sigma1 >= 0, floats.
        power: S >= 0, a tensor of any shape; units of x squared.

    Returns:
        ratio and total, of power's shape and dtype.
    """
    a0, a1 = path.signal(start), path.signal(end)
    psi0, psi1 = (a0**2 * power + start**2).sqrt(), (a1**2 * power + end**2).sqrt()
    return psi1 / psi0, (start - end) * (a1 * start + a0 * end) / (psi0 * (a1 * psi0 + a0 * psi1))


def step_shares(path, start, end, nodes, power, tau):
    """Return the share of the total that falls to m at each node: the mean of L_j(tau) over du, u = a/psi.

    All is written in the fraction c of the integral of du that is done, and every difference is factored as in
    `step_total`, r^2 - r1^2 for the noise-to-signal ratio r at c among them. So there is no threshold: the same lines
    serve a step of 1e-12 and one of e^50, S = 0, sigma = 1 of the flow path and the end sigma = 0.

    Args:
        path, start, end, power: as in `step_total`.
        nodes: distinct sigmas, floats, newest first.
        tau: a Tau. Where it is infinite at ``end``, the first node alone is used.

    Returns:
        shares (n, *power's shape); they sum to one.
    """
    if end == 0 and not tau.finite_at_zero:
        nodes = nodes[:1]
    if len(nodes) == 1:
        return torch.ones_like(power)[None]
    a1 = path.signal(end)
    node, co_node, weight = _rule(power.device, power.dtype)
    psi1 = (a1**2 * power + end**2).sqrt()[..., None]
    total = step_total(path, start, end, power)[1][..., None]
    done = a1 - co_node * total  # psi1 u at the node
    squares = psi1**2 * co_node * total * (a1 + done) / (done * a1) ** 2  # r^2 - r1^2
    r1 = end / a1
    r = (r1**2 + squares).sqrt()
    gap = squares / (r + r1).clamp(min=torch.finfo(power.dtype).tiny)  # r - r1
    gap = gap / ((1 + path.fade * r) * (1 + path.fade * r1))  # sigma - sigma1
    at = tau.difference(end, gap)
    knots = [tau.difference(end, torch.tensor(s - end, dtype=torch.float64)) for s in nodes]
    return torch.stack([(weight * basis).sum(-1) for basis in _lagrange(at, knots)])


def _lagrange(at, knots):
    """Yield each Lagrange polynomial over the knots (0-d tensors), at the points ``at``."""
    for j, own in enumerate(knots):
        basis = torch.ones_like(at)
        for k, other in enumerate(knots):
            if k != j:
                basis = basis * ((at - other) / (own - other))
        yield basis


def extrapolation_weights(nodes, sigma, tau):
    """Return the Lagrange weights (0-d tensors) that carry values at the nodes to ``sigma``, in tau."""
    at, *knots = (tau.difference(sigma, torch.tensor(s - sigma, dtype=torch.float64)) for s in (sigma, *nodes))
    return list(_lagrange(at, knots))
