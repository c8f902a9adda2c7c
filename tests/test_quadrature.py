"""The integrals of a step against mpmath, from steps of 1e-12 to e^50."""

import itertools
import math

import mpmath
import pytest
import torch
from mpmath import mp, mpf

from isdo.path import PATHS
from isdo.quadrature import TAUS, step_shares, step_total

STEPS = (1e-12, 1e-6, 1e-2, 0.5, 3.0, 10.0, 50.0)  # log(start / end)
POWERS = (0.0, 1e-8, 1.0, 100.0)
START = 0.6
VARIABLES = {
    "sigma": lambda s: s,
    "root": mpmath.sqrt,
    "cube root": mpmath.cbrt,
    "log1p": lambda s: mpmath.log1p(2 * s),
    "log": mpmath.log,
}
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

    Gauss-Legendre, 12 points on each piece of log s. The integrand's kinks are at s = +-i a sqrt(S): far from the real
    axis where a = 1, a tenth away near the pure-noise end of the flow path, so the pieces are short there.
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


def measures_of(path, points):
    """Return, for each power, the weights of du = s/psi^3 ds at the points."""
    rows = [(s * weight, path.signal(s) ** 2, s**2) for s, weight in points]
    return [[w / mpmath.sqrt(mpf(power) * square + s) ** 3 for w, square, s in rows] for power in POWERS]


def shares_of(points, measures, nodes, tau):
    """Return the mean of each Lagrange polynomial under each measure: a list of shares for each power."""
    knots, at = [tau(mpf(node)) for node in nodes], [tau(s) for s, _ in points]
    polynomials = []
    for own in knots:
        others = [knot for knot in knots if knot is not own]
        scale = mpmath.fprod(own - other for other in others)
        polynomials.append([mpmath.fprod(t - other for other in others) / scale for t in at])
    return [[float(mpmath.fdot(m, p) / mpmath.fsum(m)) for p in polynomials] for m in measures]


def ends_of(h):
    """Return START and the sigma e-folds below it, and what nodes a predictor and a corrector then have."""
    end = START * math.exp(-h)
    older = START * math.exp(min(h, 0.2))
    return end, {"predictor": [START, older, 1.0], "corrector": [end, START, older]}


@both_paths
@all_steps
def test_total_against_mpmath(path, h):
    end, _ = ends_of(h)
    ratios, totals = step_total(path, START, end, tensor(POWERS))
    measures = measures_of(path, points_of(path, START, end))
    for power, ratio, total, measure in zip(POWERS, ratios.tolist(), totals.tolist(), measures, strict=True):
        psi0, psi1 = (mpmath.sqrt(path.signal(mpf(s)) ** 2 * power + mpf(s) ** 2) for s in (START, end))
        assert ratio == pytest.approx(float(psi1 / psi0), rel=1e-14)
        assert total == pytest.approx(float(psi1 * mpmath.fsum(measure)), rel=1e-14)  # nothing of a tiny step is lost


@both_paths
@all_steps
def test_shares_against_mpmath(path, h):
    end, sets = ends_of(h)
    # the rule has 41 points: to rounding where a step is short, to seven digits where it spans everything
    tolerance = 1e-14 if h <= 0.5 else 1e-8 if h <= 3 else 1e-7
    points = points_of(path, START, end)
    measures = measures_of(path, points)
    for nodes, name in itertools.product(sets.values(), TAUS):
        got = step_shares(path, START, end, nodes, tensor(POWERS), TAUS[name]).T.tolist()
        for shares, want in zip(got, shares_of(points, measures, nodes, VARIABLES[name]), strict=True):
            assert shares == pytest.approx(want, rel=0, abs=tolerance * max(map(abs, want))), (nodes, name, want)


@both_paths
@pytest.mark.parametrize("tau", [tau for tau in TAUS.values() if tau.finite_at_zero], ids=lambda tau: tau.name)
def test_shares_of_the_step_to_zero(path, tau):
    nodes = [START, 0.8, 1.0]
    got = step_shares(path, START, 0.0, nodes, tensor(POWERS), tau).T.tolist()
    points = points_of(path, START, START * math.exp(-40))
    want = shares_of(points, measures_of(path, points), nodes, VARIABLES[tau.name])
    assert got[1:] == [pytest.approx(shares, rel=0, abs=1e-7 * max(map(abs, shares))) for shares in want[1:]]
    # S = 0: all of du lies at sigma = 0, and the polynomial is taken there
    (want,) = shares_of([(mpf(10) ** -60, mpf(1))], [[mpf(1)]], nodes, VARIABLES[tau.name])
    assert got[0] == pytest.approx(want, rel=1e-12)


@both_paths
def test_the_step_to_zero_uses_the_newest_alone_where_tau_is_infinite(path):
    shares = step_shares(path, START, 0.0, [START, 0.8, 1.0], tensor(POWERS), TAUS["log"])
    assert torch.equal(shares, torch.ones(1, len(POWERS), dtype=torch.float64))


def test_pure_noise_end_of_the_flow_path():
    """At sigma = 1 there is no signal: psi = 1 and the step from there is the plain integral."""
    flow = PATHS["flow"]
    ratio, total = step_total(flow, 1.0, 0.25, tensor(POWERS))
    torch.testing.assert_close(ratio, (0.75**2 * tensor(POWERS) + 0.25**2).sqrt(), rtol=1e-15, atol=0)
    torch.testing.assert_close(total, tensor([0.75] * len(POWERS)), rtol=1e-15, atol=0)
    points = points_of(flow, 1.0, 0.25)
    measures = measures_of(flow, points)
    for name, tau in TAUS.items():
        got = step_shares(flow, 1.0, 0.25, [0.25, 1.0], tensor(POWERS), tau).T.tolist()
        want = shares_of(points, measures, [0.25, 1.0], VARIABLES[name])
        assert got == [pytest.approx(shares, rel=0, abs=1e-8) for shares in want]


@both_paths
@all_steps
def test_shares_sum_to_one(path, h):
    """Whatever the rule's own error; also in float32, which devices without float64 compute in."""
    end, sets = ends_of(h)
    for nodes, tau in itertools.product(sets.values(), TAUS.values()):
        for dtype in (torch.float64, torch.float32) if h <= 10 else (torch.float64,):
            shares = step_shares(path, START, end, nodes, tensor(POWERS).to(dtype), tau)
            assert shares.shape == (3, len(POWERS)) and shares.dtype == dtype
            slack = 16 * torch.finfo(dtype).eps * shares.abs().sum(0).max()
            assert (shares.sum(0) - 1).abs().max() < slack


@pytest.mark.parametrize("tau", TAUS.values(), ids=lambda tau: tau.name)
@pytest.mark.parametrize("sigma", [1e-20, 1e-3, 1.0, 4518.0])
@pytest.mark.parametrize("relative", [-0.5, -1e-13, 1e-13, 1e-6, 1.0, 1e20])
def test_tau_difference_has_no_cancellation(tau, sigma, relative):
    delta = sigma * relative
    variable = VARIABLES[tau.name]
    want = variable(mpf(sigma) + mpf(delta)) - variable(mpf(sigma))
    assert tau.difference(sigma, tensor(delta)).item() == pytest.approx(float(want), rel=1e-13)
