"""The integrals of a step against mpmath, from steps of 1e-12 to e^50."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from mpmath import mp, mpf

from isdo.path import PATHS
from isdo.quadrature import (
    TAUS,
    depth,
    extrapolation_rises,
    power_tau,
    step_rises,
    step_shares,
    step_total,
)
from isdo.trajectory import chebyshev

STEPS = (1e-12, 1e-6, 1e-2, 0.5, 3.0, 10.0, 50.0)  # log(start / end)
POWERS = (0.0, 1e-8, 1.0, 100.0)
START = 0.6
LIMIT = 30.0
EVERY_TAU = TAUS | {"sigma^1.5": power_tau(1.5)}
EVERY_TAU |= {f"depth, {name}": depth(path, LIMIT) for name, path in PATHS.items()}
VARIABLES = {
    "sigma": lambda s: s,
    "root": mpmath.sqrt,
    "cube root": mpmath.cbrt,
    "log1p": lambda s: mpmath.log1p(2 * s),
    "log": mpmath.log,
    "sigma^1.5": lambda s: s ** mpf(1.5),
    "depth, ve": lambda s: -mpmath.log(1 / s + 1 / mpf(LIMIT)),
    "depth, flow": lambda s: -mpmath.log(1 / s - 1 + 1 / mpf(LIMIT)),
}
every_tau = pytest.mark.parametrize("name", EVERY_TAU)
both_paths = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
all_steps = pytest.mark.parametrize("h", STEPS)


@pytest.fixture(autouse=True)
def digits():
    with mpmath.workdps(40):
        yield


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def points_of(path, start, end):
    """Return points s and the weights of ds between the ends, in mpmath's numbers.

    Gauss-Legendre, 12 points on each piece of log s. The integrand's kinks are at s = +-i a
    sqrt(S): far from the real axis where a = 1, a tenth away near the pure-noise end of the flow
    path, so the pieces are short there.
    """
    top, bottom = mpmath.log(start), mpmath.log(end)
    edges = [top]
    while edges[-1] > bottom:
        edges.append(max(bottom, edges[-1] - (0.1 if path.fade and edges[-1] > -2 else 1.5)))
    points = []
    for high, low in itertools.pairwise(edges):
        for node, weight in GAUSS:
            s = mpmath.exp((high + low) / 2 + (high - low) / 2 * node)
            points.append((s, weight * (high - low) / 2 * s))
    return points


GAUSS = mpmath.calculus.quadrature.GaussLegendre(mp).get_nodes(-1, 1, degree=3, prec=140)


def measure_of(path, points, power=0.0):
    """Return the weights of du = s/psi^3 ds at the points."""
    return [
        weight * s / mpmath.sqrt(mpf(power) * path.signal(s) ** 2 + s**2) ** 3
        for s, weight in points
    ]


def shares_of(points, measure, nodes, variable):
    """Return the mean of each Lagrange polynomial over the nodes under a measure."""
    knots, at = [variable(mpf(node)) for node in nodes], [variable(s) for s, _ in points]
    found = []
    for own in knots:
        others = [knot for knot in knots if knot is not own]
        scale = mpmath.fprod(own - other for other in others)
        values = [mpmath.fprod(t - other for other in others) / scale for t in at]
        found.append(float(mpmath.fdot(measure, values) / mpmath.fsum(measure)))
    return found


def shares(start, end, nodes, tau):
    """Return what of the mean over a step falls to m at each node, from the share of each change."""
    rises = [sum(column) for column in zip(*step_rises(start, end, nodes, tau), strict=True)]
    return [own - before for own, before in zip([*rises, 0.0], [-1.0, *rises], strict=True)]


def ends_of(h):
    """Return START and the sigma e-folds below it, and what nodes a predictor and a corrector then
    have."""
    end = START * math.exp(-h)
    older = START * math.exp(min(h, 0.2))
    return end, {"predictor": [START, older, 1.0], "corrector": [end, START, older]}


@both_paths
@all_steps
def test_total_against_mpmath(path, h):
    end, _ = ends_of(h)
    ratios, totals = step_total(path, START, end, tensor(POWERS))
    points = points_of(path, START, end)
    for power, ratio, total in zip(POWERS, ratios.tolist(), totals.tolist(), strict=True):
        psi0, psi1 = (
            mpmath.sqrt(path.signal(mpf(s)) ** 2 * power + mpf(s) ** 2) for s in (START, end)
        )
        assert ratio == pytest.approx(float(psi1 / psi0), rel=1e-14)
        assert total == pytest.approx(
            float(psi1 * mpmath.fsum(measure_of(path, points, power))), rel=1e-14
        )  # nothing of a tiny step is lost


@both_paths
@all_steps
def test_shares_against_mpmath(path, h):
    """The measure is that of du for S = 0, d(a/s), which is d(1/sigma) on both paths."""
    end, sets = ends_of(h)
    # the rule has 41 points: to rounding where a step is short, to seven digits where it spans
    # everything
    tolerance = 1e-14 if h <= 0.5 else 1e-8 if h <= 3 else 1e-7
    points = points_of(path, START, end)
    measure = measure_of(path, points)
    for nodes in sets.values():
        for name, tau in EVERY_TAU.items():
            want = shares_of(points, measure, nodes, VARIABLES[name])
            close = pytest.approx(want, rel=0, abs=tolerance * max(map(abs, want)))
            assert shares(START, end, nodes, tau) == close, (nodes, name)
            assert step_shares(START, end, nodes, tau) == close, (nodes, name)


@every_tau
@all_steps
def test_the_mean_is_that_of_the_interval_whichever_way_it_is_gone(h, name):
    end, sets = ends_of(h)
    for nodes in sets.values():
        for mean in (step_rises, step_shares):
            up, down = (mean(*way, nodes, EVERY_TAU[name]) for way in ((end, START), (START, end)))
            assert up == down


@both_paths
@pytest.mark.parametrize("interval", [0, 11, 23])
def test_shares_of_many_nodes_against_mpmath(path, interval):
    """Chebyshev's nodes over three decades: divided differences of so many would be noise."""
    nodes = chebyshev(path, 0.99, 1e-3, 24)
    start, end = nodes[interval : interval + 2]
    points = points_of(path, start, end)
    name = f"depth, {path.name}"
    want = shares_of(points, measure_of(path, points), nodes, VARIABLES[name])
    found = step_shares(start, end, nodes, EVERY_TAU[name])
    assert found == pytest.approx(want, rel=0, abs=1e-12)
    assert sum(found) == pytest.approx(1, abs=1e-12)


@every_tau
def test_a_lower_order_is_the_same_without_the_last_degrees(name):
    nodes, tau = [START, 0.7, 0.8, 1.0], EVERY_TAU[name]
    whole = step_rises(START, 0.4, nodes, tau)
    assert [len(row) for row in whole] == [3, 3, 3]
    for n in (2, 3):
        part = step_rises(START, 0.4, nodes[:n], tau)
        assert [row[: n - 1] for row in whole[: n - 1]] == part
        assert all(rise == 0 for row in whole[: n - 1] for rise in row[n - 1 :])
    assert step_rises(START, 0.4, nodes[:1], tau) == []


@every_tau
def test_extrapolation_is_exact_for_polynomials_of_its_order(name):
    nodes, sigma = [0.45, 0.5, 0.7, 0.95], 0.3
    tau = VARIABLES[name]
    rows = extrapolation_rises(nodes, sigma, EVERY_TAU[name])
    for order, row in enumerate(rows, 2):
        for degree in range(order):
            values = [float(tau(s) ** degree) for s in nodes]
            found = values[0] + sum(
                c * (a - b) for c, (a, b) in zip(row, itertools.pairwise(values), strict=True)
            )
            assert found == pytest.approx(float(tau(sigma) ** degree), rel=1e-11, abs=1e-12)
    assert len(rows) == 3 and all(len(row) == 3 for row in rows)


def test_pure_noise_end_of_the_flow_path():
    """At sigma = 1 there is no signal: psi = 1 and the step from there is the plain integral."""
    flow, end = PATHS["flow"], 0.25
    ratio, total = step_total(flow, 1.0, end, tensor(POWERS))
    torch.testing.assert_close(
        ratio, ((1 - end) ** 2 * tensor(POWERS) + end**2).sqrt(), rtol=1e-15, atol=0
    )
    torch.testing.assert_close(total, tensor([1 - end] * len(POWERS)), rtol=1e-15, atol=0)
    points = points_of(flow, 1.0, end)
    measure = measure_of(flow, points)
    for name, tau in EVERY_TAU.items():
        for nodes in ([end, 1.0], [1.0, end], [end, 0.995, 1.0]):
            want = shares_of(points, measure, nodes, VARIABLES[name])
            close = pytest.approx(want, rel=0, abs=1e-9 * max(map(abs, want)))
            assert shares(1.0, end, nodes, tau) == close, (nodes, name)
            assert step_shares(1.0, end, nodes, tau) == close, (nodes, name)
    # by hand: the means of s and of log s under d(1/s)
    log = math.log(end)
    for name, mean in (("sigma", -log / 3 - end), ("log", 1 + log / 3)):
        reach = {"sigma": 1 - end, "log": -log}[name]
        ((rise,),) = step_rises(1.0, end, [end, 1.0], TAUS[name])
        assert rise == pytest.approx(-mean / reach, rel=1e-9)


@pytest.mark.parametrize("end", [1 - 1e-12, 0.99, 0.5, 0.05, 1e-3, math.exp(-50)])
def test_the_way_from_pure_noise_is_finite_however_long(end):
    flow = PATHS["flow"]
    nodes = [end, 1.0] if end > 0.9 else [end, 0.995, 1.0]
    points = points_of(flow, 1.0, end)
    measure = measure_of(flow, points)
    for name, tau in EVERY_TAU.items():
        want = shares_of(points, measure, nodes, VARIABLES[name])
        # two nodes so near each other magnify what the rule leaves two hundredfold
        close = pytest.approx(want, rel=0, abs=1e-5 * max(map(abs, want)))
        assert shares(1.0, end, nodes, tau) == close, name
        assert step_shares(1.0, end, nodes, tau) == close, name


DIFFERENCES = [
    (name, sigma, relative)
    for name in EVERY_TAU
    for sigma in (1e-20, 1e-3, 1.0, 4518.0)
    for relative in (-0.5, -1e-13, 1e-13, 1e-6, 1.0, 1e20)
    if name != "depth, flow" or max(sigma, sigma * (1 + relative)) <= 1
]


@pytest.mark.parametrize("name, sigma, relative", DIFFERENCES)
def test_tau_difference_has_no_cancellation(name, sigma, relative):
    delta = sigma * relative
    variable, tau = VARIABLES[name], EVERY_TAU[name]
    want = float(variable(mpf(sigma) + mpf(delta)) - variable(mpf(sigma)))
    assert tau.difference(sigma, delta) == pytest.approx(want, rel=1e-13)
    assert tau.difference(sigma, tensor(delta)).item() == pytest.approx(want, rel=1e-13)
    (found,) = tau.difference(sigma, np.array([delta]))
    assert found == pytest.approx(want, rel=1e-13)
