"""The bound against exact likelihoods: Gaussian data, where every term has a closed form."""

import math

import pytest
import torch
from scipy.stats import norm

from isdo.bench.problems import GAUSSIAN, problem
from isdo.elbo import discretised, elbo, gaussian, strata
from isdo.path import FLOW, VE

PATHS = pytest.mark.parametrize("path", [VE, FLOW], ids=["ve", "flow"])
POWER, LOW, HIGH = 0.7, 0.01, 200.0


class Wiener:
    """D of pixels N(0, POWER)."""

    def __init__(self, path, power=POWER):
        self.path, self.power = path, power

    def __call__(self, x, sigma):
        sigma = sigma.view(-1, 1, 1, 1)
        a = self.path.signal(sigma)
        return a * self.power / (a**2 * self.power + sigma**2) * x


def quadrature():
    """One picture and its noise, whose second moments are exactly those of the distributions: all
    terms are quadratic."""
    x0 = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64).view(1, 1, 2, 2) * math.sqrt(
        POWER
    )
    n = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64).view(1, 1, 2, 2)
    return x0, lambda x: n


def levels(path, count):
    ratio = torch.logspace(math.log10(HIGH), math.log10(LOW), count, dtype=torch.float64)
    return path.from_noise_to_signal(ratio)


EXACT = 4 * (math.log(2 * math.pi * POWER) / 2 + 1 / 2)  # the entropy of four pixels, in nats


@PATHS
def test_the_bound_tends_to_the_exact_likelihood_and_the_gap_halves(path):
    x0, noise = quadrature()
    gaps = []
    for count in (400, 800, 1600):
        bound = elbo(Wiener(path), x0, levels(path, count), noise=noise, decoder=gaussian)
        gaps.append(bound.total.item() - EXACT)
    assert min(gaps) > 0  # a bound from above, at every number of levels
    first, second = 2 * gaps[1] - gaps[0], 2 * gaps[2] - gaps[1]
    assert (4 * second - first) / 3 == pytest.approx(
        0, abs=3e-5
    )  # extrapolated to infinitely many levels: nothing is left
    assert (gaps[0] - gaps[1]) / (gaps[1] - gaps[2]) == pytest.approx(2, rel=0.02)


@PATHS
def test_each_term_is_its_closed_form(path):
    x0, noise = quadrature()
    sigmas = levels(path, 6)
    r = path.noise_to_signal(sigmas)
    bound = elbo(Wiener(path), x0, sigmas, noise=noise, decoder=gaussian)
    assert bound.prior.item() == pytest.approx(4 * POWER / (2 * HIGH**2), rel=1e-10)
    mmse = POWER * r**2 / (POWER + r**2)
    want = 4 * mmse[:-1] * (r[1:] ** -2 - r[:-1] ** -2) / 2
    torch.testing.assert_close(bound.steps[:, 0], want, rtol=1e-10, atol=0)
    last = 4 * (math.log(2 * math.pi * LOW**2) / 2 + mmse[-1] / LOW**2 / 2)
    assert bound.data.item() == pytest.approx(last.item(), rel=1e-9)
    assert bound.bits.item() == pytest.approx(bound.total.item() / (4 * math.log(2)))


def test_a_step_is_the_divergence_of_the_posterior_from_the_models_step():
    """L_(t-1) = KL of two Gaussians of the posterior's variance, on any process."""
    from isdo.process import PROCESSES

    for name in ("vp linear", "ddpm", "flow", "edm"):
        p = PROCESSES[name]
        u, t = (300, 400) if p.betas is not None else (0.3, 0.4)
        x0, denoised, x = 0.7, 0.2, 1.1
        (true, std), (model, _) = p.posterior(x, x0, t, u), p.posterior(x, denoised, t, u)
        divergence = (true - model) ** 2 / (2 * std**2)
        assert (x0 - denoised) ** 2 * (p.sigma(u) ** -2 - p.sigma(t) ** -2) / 2 == pytest.approx(
            divergence, rel=1e-9
        )


def test_the_last_term_is_of_x0_given_x1_and_not_of_x0():
    """The documents' bound with -log p(x_0) in the place of L_0 is above the likelihood by L_T +
    sum L_(t-1), however fine."""
    x0, noise = quadrature()
    bound = elbo(Wiener(VE), x0, levels(VE, 1600), noise=noise, decoder=gaussian)
    misprint = (bound.prior + bound.steps.sum(0)).item() + EXACT
    assert bound.total.item() - EXACT < 0.1 and misprint - EXACT > 10


def test_a_worse_denoiser_costs_more():
    x0, noise = quadrature()
    costs = [
        elbo(Wiener(VE, s), x0, levels(VE, 200), noise=noise, decoder=gaussian).total.item()
        for s in (POWER, 0.3, 2.0)
    ]
    assert costs[0] < min(costs[1:])


def test_bins_are_what_the_normal_distribution_gives_them():
    values = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    x0 = values.view(-1, 1, 1, 1)
    for mean, std in ((0.1, 0.2), (0.9, 0.02), (-0.3, 1e-3)):
        cost = discretised(x0, torch.full_like(x0, mean), std)
        edges = torch.cat(
            [torch.tensor([-math.inf]), (values[1:] + values[:-1]) / 2, torch.tensor([math.inf])]
        ).numpy()
        mass = norm.cdf(edges[1:], mean, std) - norm.cdf(edges[:-1], mean, std)
        assert (-cost).exp().sum().item() == pytest.approx(1, abs=1e-12)
        seen = mass > 1e-9
        torch.testing.assert_close(
            (-cost).exp()[seen], torch.from_numpy(mass)[seen], rtol=1e-5, atol=0
        )
        assert cost.isfinite().all()  # also 1,000 standard deviations off


def test_many_small_bins_are_a_density():
    x0 = torch.tensor([0.2, -0.5], dtype=torch.float64).view(2, 1, 1, 1)
    mean = torch.zeros_like(x0)
    torch.testing.assert_close(discretised(x0, mean, 3.0) - gaussian(x0, mean, 3.0), torch.full((2,), -math.log(2 / 255)),
                               rtol=1e-5, atol=0, check_dtype=False)  # fmt: skip


@PATHS
def test_a_picture_costs_the_same_in_any_batch(path):
    p = problem(GAUSSIAN, path.name)
    x0 = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    sigmas = levels(path, 12)
    many = elbo(p.model, x0, sigmas, seeds=5, decoder=gaussian, groups=[4, 4, 3])
    one = elbo(p.model, x0[2:], sigmas, seeds=7, decoder=gaussian, groups=[4, 4, 3])
    assert torch.equal(many.prior[2:], one.prior)
    torch.testing.assert_close(many.steps[:, 2:], one.steps, rtol=1e-12, atol=0)
    torch.testing.assert_close(many.total[2:], one.total, rtol=1e-12, atol=0)


def test_strata_estimate_the_whole_sum(generator):
    x0, n = torch.randn(2, 400, 1, 2, 2, generator=generator, dtype=torch.float64)
    sigmas = torch.logspace(1, -2, 101, dtype=torch.float64)
    groups = strata(VE, sigmas, 10)
    assert sum(groups) == 100 and set(groups) <= {9, 10, 11}
    whole, part = (
        elbo(Wiener(VE), x0, sigmas, decoder=gaussian, groups=g).steps.sum(0)
        for g in (None, groups)
    )
    error = (part.var() / len(x0) + whole.var() / len(x0)).sqrt()
    assert (whole.mean() - part.mean()).abs() < 4 * error
    assert len(strata(FLOW, torch.linspace(1, 1e-3, 1000), 20)) <= 20


def test_the_pure_noise_end_of_flow_is_no_special_case():
    bound = elbo(
        Wiener(FLOW), *[quadrature()[0], torch.tensor([1.0, 0.5, 0.1, 0.0])], noise=quadrature()[1]
    )
    assert bound.prior.item() == 0 and bound.total.isfinite().all() and bound.steps.shape == (2, 1)


def test_one_level_is_a_chain_without_steps():
    x0, noise = quadrature()
    bound = elbo(Wiener(VE), x0, [3.0, 0.0], noise=noise, decoder=gaussian)
    assert bound.steps.shape == (0, 1) and bound.total.item() == pytest.approx(
        (bound.prior + bound.data).item()
    )


@pytest.mark.parametrize("sigmas, options, says", [
    ([], {}, "sigmas must fall"),
    ([1.0, 2.0], {}, "sigmas must fall"),
    ([2.0, 1.0, -1.0], {}, "sigmas must fall"),
    ([2.0, 1.0], {"groups": [2]}, "groups hold 2 steps and the chain has 1"),
    ([2.0, 1.0], {"seeds": [1, 2]}, "give the first picture's seed, or 1"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(sigmas, options, says):
    with pytest.raises(ValueError, match=says):
        elbo(Wiener(VE), quadrature()[0], sigmas, **options)
    with pytest.raises(ValueError, match="at most 1 to"):
        elbo(Wiener(FLOW), quadrature()[0], [2.0, 1.0])
