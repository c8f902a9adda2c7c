"""The integrals of a step: the one place where differences of nearly equal numbers are taken."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch

from .curvature import RATIO_LIMIT
from .device import constants


def _tanh_sinh(half, reach):
    """Return nodes c in (0, 1), 1 - c and weights of the tanh-sinh rule; weights sum to one.

    Its nodes crowd doubly exponentially towards both ends, so that neither the square root that
    sigma has at its zero nor the logarithm at a tiny last sigma needs a case of its own (Takahasi
    and Mori 1974).
    """
    t = torch.linspace(-reach, reach, 2 * half + 1, dtype=torch.float64, device="cpu")
    y = math.pi * t.sinh()
    weights = t.cosh() / (y / 2).cosh() ** 2
    return 1 / (1 + (-y).exp()), 1 / (1 + y.exp()), weights / weights.sum()


# The outermost node lies e^-35 from the end; in single precision its square would leave the range,
# and e^-19 is near enough.
REACH = {torch.float64: 3.1, torch.float32: 2.5}


@functools.lru_cache(maxsize=8)
def _rule(device, dtype):
    return tuple(v.to(dtype).to(device) for v in _tanh_sinh(half=20, reach=REACH[dtype]))


def _log1p(value):
    return math.log1p(value) if isinstance(value, float) else value.log1p()


def _expm1(value):
    return math.expm1(value) if isinstance(value, float) else value.expm1()


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

    def difference(sigma, delta):
        return -_log1p(-delta / ((sigma + delta) * (path.signal(sigma) + sigma / limit)))

    return Tau("depth", difference)


# For corrections, which interpolate, whatever variable extrapolates best: D was asked at a
# predicted x, and of the done part of a step this variable leaves the newer, less certain answer a
# smaller share than log1p does.
BETWEEN = Tau("sigma^1.5", _power(1.5))


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


def step_rises(path, start, end, nodes, power, taus):
    """Return what the changes between nodes add to the m of the newest one in the mean over a step,
    du, u = a/psi.

    The interpolation polynomial is taken in Newton's form, m = m_0 + sum_k N_k [tau_0 ... tau_k] m,
    and the divided differences are written in the changes m_j - m_(j+1): its mean is m_0 + sum_k
    sum_j rise_kj (m_j - m_(j+1)), and a lower order is the same without the last k. All is written
    in the fraction c of the integral of du that is done, and every difference is factored as in
    `step_total`, r^2 - r1^2 for the noise-to-signal ratio r at c among them. So there is no
    threshold: the same lines serve a step of 1e-12 and one of e^50, S = 0 and sigma = 1 of the flow
    path.

    Args:
        path, start, power: as in `step_total`.
        end: sigma1 > 0, a float. The mean is that of the interval, whichever way it is gone
            through: all is measured from its lower end, so that a rising step may end where the
            picture is gone, as a falling one may start there.
        nodes: n distinct sigmas, floats, newest first.
        taus: of class Tau.

    Returns:
        rises (len(taus), n - 1, n - 1, *power's shape), by tau, degree k and change j.
    """
    start, end = max(start, end), min(start, end)
    gap, weight = _along(path, start, end, power)
    polynomials, tables = [], []
    for tau in taus:
        knots = [tau.difference(end, s - end) for s in nodes]
        polynomials += _newton(tau.difference(end, gap), knots)
        tables.append(_divided_differences(knots))
    means = (torch.stack(polynomials) * weight).sum(-1).unflatten(0, (len(taus), -1))
    table = constants(tables, power)
    return means[:, :, None] * table.view(*table.shape, *[1] * power.ndim)


def _along(path, start, end, power):
    """Return how far sigma is from ``end`` at points of a step, (*power's shape, points), and their
    weights in the mean, du."""
    a1 = path.signal(end)
    node, co_node, weight = _rule(power.device, power.dtype)
    psi1 = (a1**2 * power + end**2).sqrt()[..., None]
    ratio, total = (v[..., None] for v in step_total(path, start, end, power))
    rest, done = (
        co_node * total,
        path.signal(start) * ratio + node * total,
    )  # of psi1 u: what is to come, and what it is
    squares = psi1**2 * rest * (a1 + done) / (done * a1) ** 2  # r^2 - r1^2
    r1 = end / a1
    r = (r1**2 + squares).sqrt()
    return squares / ((r + r1) * ((1 + path.fade * r) * (1 + path.fade * r1))), weight


def step_shares(path, start, end, nodes, power, tau):
    """Return the share of each node's m in the mean over a step, du: means of Lagrange's
    polynomials.

    `step_rises` for many nodes, where divided differences would lose digits. The mean over a step
    does not depend on the direction in which it is gone.

    Args:
        path, start, end, power: as in `step_rises`.
        nodes: n distinct sigmas, floats, in any order.
        tau: of class Tau.

    Returns:
        (n, *power's shape); they sum to 1.
    """
    gap, weight = _along(path, start, end, power)
    at, knots = tau.difference(end, gap), [tau.difference(end, s - end) for s in nodes]
    factors = [at - knot for knot in knots]
    # the product of all factors but one: of those before it and those behind it
    before = list(accumulate(factors[:-1], torch.mul, initial=torch.ones_like(at)))
    behind = list(accumulate(factors[:0:-1], torch.mul, initial=torch.ones_like(at)))[::-1]
    scales = [
        math.prod(knot - other for j, other in enumerate(knots) if j != i)
        for i, knot in enumerate(knots)
    ]
    parts = zip(before, behind, scales, strict=True)
    return torch.stack([(one * other * weight).sum(-1) / scale for one, other, scale in parts])


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
