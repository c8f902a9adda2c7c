"""Distributions of sigma in training: densities, quantiles and samples agree, and are those of
EDM's table 1."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest, lognorm, loguniform

from isdo.distribution import DISTRIBUTIONS, log_normal, uniform_time
from isdo.process import PROCESSES

ROWS = list(DISTRIBUTIONS.values())
ALL = pytest.mark.parametrize("row", ROWS, ids=DISTRIBUTIONS)


def test_the_table_has_those_of_edm():
    assert list(DISTRIBUTIONS) == ["vp", "ve", "edm"]


@ALL
def test_the_density_is_the_derivative_of_the_quantile(row):
    q = torch.linspace(0.01, 0.99, 50, dtype=torch.float64, requires_grad=True)
    sigma = row.quantile(q)
    (slope,) = torch.autograd.grad(sigma.sum(), q)
    torch.testing.assert_close(row.density(sigma.detach()), 1 / slope, rtol=1e-10, atol=0)


@ALL
def test_the_density_sums_to_one(row):
    edges = row.quantile(torch.tensor([1e-9, 1 - 1e-9], dtype=torch.float64)).log().tolist()
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(400))
    place = (edges[1] - edges[0]) / 2 * (nodes + 1) + edges[0]
    total = ((edges[1] - edges[0]) / 2 * weights * row.density(place.exp()) * place.exp()).sum()
    assert total.item() == pytest.approx(1, abs=1e-6)


def test_they_are_what_scipy_calls_them(generator):
    sigma = torch.tensor([0.05, 0.3, 2.0, 50.0], dtype=torch.float64)
    edm, even = lognorm(1.2, scale=math.exp(-1.2)), loguniform(0.02, 100)
    torch.testing.assert_close(
        DISTRIBUTIONS["edm"].density(sigma), torch.from_numpy(edm.pdf(sigma.numpy()))
    )
    torch.testing.assert_close(
        DISTRIBUTIONS["ve"].density(sigma), torch.from_numpy(even.pdf(sigma.numpy()))
    )
    for name, theirs in (("edm", edm), ("ve", even)):
        drawn = DISTRIBUTIONS[name].sample(generator, 4000)
        assert drawn.dtype == torch.float64 and kstest(drawn.numpy(), theirs.cdf).pvalue > 1e-3


def test_vp_is_uniform_in_time(generator):
    t = PROCESSES["vp linear"].time(DISTRIBUTIONS["vp"].sample(generator, 4000))
    assert kstest(t.numpy(), "uniform").pvalue > 1e-3 and t.min() >= 1e-5


def test_outside_its_range_a_density_is_zero():
    outside = torch.tensor([1e-4, 200.0], dtype=torch.float64)
    assert (
        DISTRIBUTIONS["vp"].density(outside).tolist()
        == DISTRIBUTIONS["ve"].density(outside).tolist()
        == [0, 0]
    )
    assert log_normal(0.0, 1.0).quantile(torch.tensor(0.5, dtype=torch.float64)) == 1
    assert uniform_time(PROCESSES["edm"], 1.0, 3.0).quantile(0.5) == 2.0


def test_a_seed_draws_the_same():
    first, second = (
        DISTRIBUTIONS["edm"].sample(torch.Generator().manual_seed(3), 2, 5) for _ in range(2)
    )
    assert torch.equal(first, second) and first.shape == (2, 5) and (first > 0).all()
