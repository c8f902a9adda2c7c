"""The integrals of a step: the one place where differences of nearly equal numbers are taken."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import torch

from .curvature import RATIO_LIMIT


@functools.cache
def _rule(half=20, reach=3.1):
    """Return nodes c in (0, 1), 1 - c and weights of the tanh-sinh rule; weights sum to one.

    Its nodes crowd doubly exponentially towards both ends, the outermost e^-35 from them, so that
    neither the square root that sigma has at its zero nor the logarithm at a tiny last sigma needs
    a case of its own (Takahasi and Mori 1974).
    """
    t = np.linspace(-reach, reach, 2 * half + 1)
    y = math.pi * np.sinh(t)
    weights = np.cosh(t) / np.cosh(y / 2) ** 2
    return 1 / (1 + np.exp(-y)), 1 / (1 + np.exp(y)), weights / weights.sum()


def _log1p(value):
    return value.log1p() if torch.is_tensor(value) else np.log1p(value)


def _expm1(value):
    return value.expm1() if torch.is_tensor(value) else np.expm1(value)


@dataclass(frozen=True)
class Tau:
    """A variable tau(sigma) in which the history is interpolated, as an accurate difference.

    ``difference(sigma, delta)`` returns tau(sigma + delta) - tau(sigma) without cancellation, for a
    float sigma > 0 and a delta that is a float or a tensor.
    """

    name: str
    difference: Callable


def _power(exponent):
    return lambda sigma, delta: sigma**exponent * _expm1(exponent * _log1p(delta / sigma))


TAUS = {
    tau.name: tau
    for tau in (
        Tau("sigma", lambda sigma, delta: delta),
        Tau("root", _power(0.5)),
        Tau("cube root", _power(1 / 3)),
        Tau("log1p", lambda sigma, delta: _log1p(2 * delta / (1 + 2 * sigma))),
        Tau("log", lambda sigma, delta: _log1p(delta / sigma)),
    )
}


def depth(path, limit=RATIO_LIMIT):
    """Return the Tau -log(1/r + 1/limit), r = s/a, of a path: log r, but finite and smooth where
    all is noise."""

    def difference(start, delta):
        sigma = start + delta
        return _log1p(delta / (start * (path.signal(sigma) + sigma / limit)))

    return Tau("depth", difference)


@functools.lru_cache(maxsize=64)
def power_tau(exponent):
    """Return the Tau that is sigma to a power."""
    return Tau(f"sigma^{exponent:g}", _power(exponent))


def step_total(path, start, end, power):
    """Return how one step of the ODE depends on its start and on a constant m: x(end) = ratio
    x(start) + total m.

    ratio = psi1/psi0 and total = a1 - a0 psi1/psi0 with psi^2 = a^2 S + s^2; the difference is
    factored, total = (s0 - s1)(a1 s0 + a0 s1) / (psi0^2 (a1 + a0 ratio)) on both paths, so that a
    short step loses nothing. Theory page, section 2.

    Args:
        path: a Path.
        start, end: sigma0 > 0 and sigma1 >= 0, floats; the step may fall or rise.
        power: S >= 0, a tensor of any shape; units of x squared.

    Returns:
        ratio and total, of power's shape and dtype.
    """
    a0, a1 = path.signal(start), path.signal(end)
    square0, square1 = (power * a0**2).add_(start**2), (power * a1**2).add_(end**2)
    ratio = square1.div_(square0).sqrt_()
    return ratio, (start - end) * (a1 * start + a0 * end) / (ratio * a0).add_(a1).mul_(square0)


def step_rises(start, end, nodes, tau):
    """Return what the changes between nodes add to the m of the newest one in the mean over a step,
    as numbers.

    The interpolation polynomial is taken in Newton's form, m = m_0 + sum_k N_k [tau_0 ... tau_k] m,
    and the divided differences are written in the changes m_j - m_(j+1): its mean is m_0 + sum_k
    sum_j rise_kj (m_j - m_(j+1)), and a lower order is the same without the last k.

    The mean is that of du, u = a/psi, for S = 0: on both paths that is d(1/sigma). Where the data
    have proved Gaussian m does not change, and the weight of its changes does not matter; where S is
    trusted in part it is of second order in the step. docs/experiments.md has what that costs.

    Args:
        start, end: sigma0 > 0 and sigma1 > 0, floats. The mean is that of the interval, whichever
            way it is gone through: all is measured from its lower end.
        nodes: n distinct sigmas, floats, newest first.
        tau: a Tau.

    Returns:
        n - 1 rows of n - 1 floats, by degree k and change j.
    """
    gap, low, weight = _along(start, end)
    knots = [tau.difference(low, s - low) for s in nodes]
    means = [float((p * weight).sum()) for p in _newton(tau.difference(low, gap), knots)]
    return [
        [float(mean * factor) for factor in row]
        for mean, row in zip(means, _divided_differences(knots), strict=True)
    ]


def _along(start, end):
    """Return how far sigma is from its lower end at points of a step, that end, and the points'
    weights in the mean, d(1/sigma)."""
    high, low = max(start, end), min(start, end)
    node, co_node, weight = _rule()
    return co_node * ((high - low) * low) / (low + node * (high - low)), low, weight


def step_shares(start, end, nodes, tau):
    """Return the share of each node's m in the mean over a step: means of Lagrange's polynomials.

    `step_rises` for many nodes, where divided differences would lose digits. The mean over a step
    does not depend on the direction in which it is gone.

    Args:
        start, end, nodes, tau: as for `step_rises`, but that the nodes are in any order.

    Returns:
        n floats; they sum to 1.
    """
    gap, low, weight = _along(start, end)
    at, knots = tau.difference(low, gap), [tau.difference(low, s - low) for s in nodes]
    factors = [at - knot for knot in knots]
    # the product of all factors but one: of those before it and those behind it
    before = list(accumulate(factors[:-1], np.multiply, initial=np.ones_like(at)))
    behind = list(accumulate(factors[:0:-1], np.multiply, initial=np.ones_like(at)))[::-1]
    scales = [
        math.prod(knot - other for j, other in enumerate(knots) if j != i)
        for i, knot in enumerate(knots)
    ]
    parts = zip(before, behind, scales, strict=True)
    return [float((one * other * weight).sum() / scale) for one, other, scale in parts]


def _newton(at, knots):
    """Return Newton's polynomials of degree 1 to n - 1 over the n knots, at ``at`` (float or
    tensor)."""
    return list(
        accumulate((at - knot for knot in knots[:-1]), lambda product, factor: product * factor)
    )


def _divided_differences(knots):
    """Return row k - 1: the divided difference over the first k + 1 knots, as a factor for each
    change m_j - m_(j+1)."""
    n = len(knots) - 1
    column = [
        [(i == j) / (new - old) for j in range(n)] for i, (new, old) in enumerate(pairwise(knots))
    ]
    rows = column[:1]
    for degree in range(2, n + 1):
        column = [
            [(a - b) / (knots[i] - knots[i + degree]) for a, b in zip(*pair, strict=True)]
            for i, pair in enumerate(pairwise(column))
        ]
        rows.append(column[0])
    return rows


def extrapolation_rises(nodes, sigma, tau):
    """Return rows, of order 2, 3 ...: what each change between nodes adds to the newest value,
    extrapolated to ``sigma``.

    ``nodes`` are sigmas, newest first; one number for each m_j - m_(j+1).
    """
    knots = [tau.difference(sigma, s - sigma) for s in nodes]
    terms = [
        [polynomial * factor for factor in row]
        for polynomial, row in zip(_newton(0.0, knots), _divided_differences(knots), strict=True)
    ]
    return list(
        accumulate(terms, lambda row, term: [a + b for a, b in zip(row, term, strict=True)])
    )
