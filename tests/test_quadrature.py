"""The integrals of a step against mpmath, from steps of 1e-12 to e^50."""

import itertools
import math

import mpmath
import pytest
import torch
from mpmath import mp, mpf

from isdo.path import PATHS
from isdo.quadrature import TAUS, extrapolation_rises, step_rises, step_total

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


def measures_of(path, points):
    """Return, for each power, the weights of du = s/psi^3 ds at the points."""
    rows = [(s * weight, path.signal(s) ** 2, s**2) for s, weight in points]
    return [
        [w / mpmath.sqrt(mpf(power) * square + s) ** 3 for w, square, s in rows] for power in POWERS
    ]


def shares_of(points, measures, nodes, tau):
    """Return the mean of each Lagrange polynomial under each measure: a list of shares for each
    power."""
    knots, at = [tau(mpf(node)) for node in nodes], [tau(s) for s, _ in points]
    polynomials = []
    for own in knots:
        others = [knot for knot in knots if knot is not own]
        scale = mpmath.fprod(own - other for other in others)
        polynomials.append([mpmath.fprod(t - other for other in others) / scale for t in at])
    return [[float(mpmath.fdot(m, p) / mpmath.fsum(m)) for p in polynomials] for m in measures]


def shares(path, start, end, nodes, power, *taus):
    """Return, for each tau, what of the mean over a step falls to m at each node (n, powers), from
    the share of each change."""
    rises = step_rises(path, start, end, nodes, power, taus).sum(1)
    ends = torch.zeros_like(rises[:, :1])
    return torch.cat([rises, ends], 1) - torch.cat([ends - 1, rises], 1)


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
    measures = measures_of(path, points_of(path, START, end))
    for power, ratio, total, measure in zip(
        POWERS, ratios.tolist(), totals.tolist(), measures, strict=True
    ):
        psi0, psi1 = (
            mpmath.sqrt(path.signal(mpf(s)) ** 2 * power + mpf(s) ** 2) for s in (START, end)
        )
        assert ratio == pytest.approx(float(psi1 / psi0), rel=1e-14)
        assert total == pytest.approx(
            float(psi1 * mpmath.fsum(measure)), rel=1e-14
        )  # nothing of a tiny step is lost


@both_paths
@all_steps
def test_shares_against_mpmath(path, h):
    end, sets = ends_of(h)
    # the rule has 41 points: to rounding where a step is short, to seven digits where it spans
    # everything
    tolerance = 1e-14 if h <= 0.5 else 1e-8 if h <= 3 else 1e-7
    points = points_of(path, START, end)
    measures = measures_of(path, points)
    for nodes in sets.values():
        for name, found in zip(
            TAUS, shares(path, START, end, nodes, tensor(POWERS), *TAUS.values()), strict=True
        ):
            for got, want in zip(
                found.T.tolist(), shares_of(points, measures, nodes, VARIABLES[name]), strict=True
            ):
                assert got == pytest.approx(want, rel=0, abs=tolerance * max(map(abs, want))), (
                    nodes,
                    name,
                    want,
                )


@both_paths
def test_a_lower_order_is_the_same_without_the_last_degrees(path):
    nodes = [START, 0.7, 0.8, 1.0]
    whole = step_rises(path, START, 0.4, nodes, tensor(POWERS), TAUS.values())
    for n in (2, 3):
        part = step_rises(path, START, 0.4, nodes[:n], tensor(POWERS), TAUS.values())
        torch.testing.assert_close(whole[:, : n - 1, : n - 1], part, rtol=1e-13, atol=1e-15)
        assert (whole[:, : n - 1, n - 1 :] == 0).all()


@pytest.mark.parametrize("name", TAUS)
def test_extrapolation_is_exact_for_polynomials_of_its_order(name):
    nodes, sigma = [0.5, 0.7, 1.1, 2.0], 0.3
    tau = VARIABLES[name]
    rows = extrapolation_rises(nodes, sigma, TAUS[name])
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
    flow = PATHS["flow"]
    ratio, total = step_total(flow, 1.0, 0.25, tensor(POWERS))
    torch.testing.assert_close(
        ratio, (0.75**2 * tensor(POWERS) + 0.25**2).sqrt(), rtol=1e-15, atol=0
    )
    torch.testing.assert_close(total, tensor([0.75] * len(POWERS)), rtol=1e-15, atol=0)
    points = points_of(flow, 1.0, 0.25)
    measures = measures_of(flow, points)
    for name, found in zip(
        TAUS, shares(flow, 1.0, 0.25, [0.25, 1.0], tensor(POWERS), *TAUS.values()), strict=True
    ):
        want = shares_of(points, measures, [0.25, 1.0], VARIABLES[name])
        assert found.T.tolist() == [pytest.approx(row, rel=0, abs=1e-8) for row in want]


@both_paths
@pytest.mark.parametrize("h", [h for h in STEPS if h <= 10])
def test_single_precision(path, h):
    """Devices without float64 compute in float32: as good as their numbers, as long as sigma
    squared is one of them."""
    end, sets = ends_of(h)
    for nodes in sets.values():
        powers = tensor(POWERS), tensor(POWERS).float()
        exact, found = (
            step_rises(path, START, end, nodes, power, TAUS.values()) for power in powers
        )
        assert found.dtype == torch.float32 and found.shape == (len(TAUS), 2, 2, len(POWERS))
        assert (found - exact).abs().max() < 1e-5 * exact.abs().max()


@pytest.mark.parametrize("end", [0.99, 0.5, 0.05, 1e-3])
@pytest.mark.parametrize("power", [0.0, 1e-3, 1.0, 100.0])
def test_single_precision_at_the_pure_noise_end(end, power):
    nodes = [1.0] if end > 0.9 else [0.995, 1.0]
    exact, found = (
        step_rises(PATHS["flow"], 1.0, end, [end, *nodes], tensor([power]).to(dtype), TAUS.values())
        for dtype in (torch.float64, torch.float32)
    )
    assert found.isfinite().all() and (found - exact).abs().max() < 1e-4 * exact.abs().max()


@pytest.mark.parametrize("tau", TAUS.values(), ids=lambda tau: tau.name)
@pytest.mark.parametrize("sigma", [1e-20, 1e-3, 1.0, 4518.0])
@pytest.mark.parametrize("relative", [-0.5, -1e-13, 1e-13, 1e-6, 1.0, 1e20])
def test_tau_difference_has_no_cancellation(tau, sigma, relative):
    delta = sigma * relative
    variable = VARIABLES[tau.name]
    want = variable(mpf(sigma) + mpf(delta)) - variable(mpf(sigma))
    assert tau.difference(sigma, tensor(delta)).item() == pytest.approx(float(want), rel=1e-13)
    assert tau.difference(sigma, delta) == pytest.approx(float(want), rel=1e-13)
