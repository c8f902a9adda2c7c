"""Forward processes: closed forms against independent arithmetic, Bayes' rule, integration, samples
and misprints."""

import math
from dataclasses import replace

import mpmath
import numpy as np
import pytest
import torch

from isdo import zoo
from isdo.path import FLOW, VE, detect_path
from isdo.process import (
    PROCESSES,
    Process,
    cosine_betas,
    discrete,
    exploding,
    linear_betas,
    process,
    scaled_linear_betas,
    vp_cosine,
)

ROWS = list(PROCESSES.values())
ALL = pytest.mark.parametrize("p", ROWS, ids=lambda p: p.name)
CONTINUOUS = pytest.mark.parametrize(
    "p", [p for p in ROWS if p.betas is None], ids=lambda p: p.name
)
DISCRETE = pytest.mark.parametrize(
    "p", [p for p in ROWS if p.betas is not None], ids=lambda p: p.name
)


def times(p, count=7):
    """Return times within the published span, off its ends, where s, sigma and g are positive and
    finite."""
    first, last = p.span
    inner = torch.linspace(0.03, 0.97, count, dtype=torch.float64) * (last - first) + first
    return inner if p.betas is None else inner.round()


def test_the_table_has_every_process_of_the_source_documents():
    assert list(PROCESSES) == ["vp linear", "vp discrete", "ddpm", "vp cosine", "ve", "edm", "flow"]
    assert all(
        p.name == name and process(name) is p and process(p) is p for name, p in PROCESSES.items()
    )
    assert [name for name, p in PROCESSES.items() if p.path is FLOW] == ["flow"]
    assert all(p.path is VE for name, p in PROCESSES.items() if name != "flow")


# (s, sigma) as the documents write them, in 60 digits: cancellation does not show there
LITERAL = {
    "vp linear": lambda t: _preserved(mpmath.exp(-(mpmath.mpf("19.9") * t**2 / 4 + t / 20))),
    "vp cosine": lambda t: _preserved(_h(t) / _h(mpmath.mpf(0))),
    "ve": lambda t: (1, mpmath.mpf(1) / 50 * mpmath.mpf(5000) ** t),
    "edm": lambda t: (1, t),
    "flow": lambda t: (1 - t, t / (1 - t)),
}


def _h(t):
    return mpmath.cos((t + mpmath.mpf("0.008")) / mpmath.mpf("1.008") * mpmath.pi / 2)


def _preserved(s):
    return s, mpmath.sqrt(1 / s**2 - 1)


@CONTINUOUS
@pytest.mark.parametrize("t", [1e-12, 1e-5, 0.003, 0.4999, 0.5, 0.77, 1 - 1e-6, 1 - 1e-13])
def test_scale_sigma_and_noise_keep_their_digits_near_the_ends(p, t):
    with mpmath.workdps(60):
        s, sigma = LITERAL[p.name](mpmath.mpf(t))
        want = [float(s), float(sigma), float(s * sigma)]
    assert [p.scale(t), p.sigma(t), p.noise(t)] == pytest.approx(want, rel=1e-12)


@DISCRETE
def test_levels_are_the_products_of_the_betas(p):
    with mpmath.workdps(40):
        left, want = mpmath.mpf(1), []
        for beta in p.betas.tolist():
            left *= 1 - mpmath.mpf(beta)
            want.append([float(mpmath.sqrt(left)), float(mpmath.sqrt((1 - left) / left))])
    level, want = torch.arange(1000), torch.tensor(want, dtype=torch.float64)
    torch.testing.assert_close(p.scale(level), want[:, 0], rtol=1e-13, atol=0)
    torch.testing.assert_close(p.sigma(level), want[:, 1], rtol=1e-13, atol=0)


def test_the_betas_are_the_published_ones():
    ddpm, sd = PROCESSES["ddpm"], PROCESSES["vp discrete"]
    assert [ddpm.betas[0].item(), ddpm.betas[-1].item(), len(ddpm.betas)] == pytest.approx(
        [1e-4, 0.02, 1000]
    )
    assert [sd.betas[0].item(), sd.betas[-1].item()] == pytest.approx([0.00085, 0.012])
    assert [sd.sigma(0), sd.sigma(999)] == pytest.approx(
        [0.0292, 14.6146], abs=5e-5
    )  # as k-diffusion prints them
    assert torch.equal(ddpm.betas, linear_betas()) and torch.equal(sd.betas, scaled_linear_betas())


@ALL
def test_time_is_the_inverse_of_sigma(p):
    t = times(p, 101)
    torch.testing.assert_close(p.time(p.sigma(t)), t, rtol=1e-12, atol=1e-12)
    assert p.time(p.sigma(p.span[0])) == pytest.approx(p.span[0], rel=1e-12, abs=1e-15)
    for t in (1e-9, 1e-5, 1 - 1e-9) if p.name != "ve" and p.betas is None else ():
        assert p.time(p.sigma(t)) == pytest.approx(t, rel=1e-12, abs=0)


def test_time_of_no_signal_is_the_end():
    assert PROCESSES["flow"].time(math.inf) == PROCESSES["vp cosine"].time(math.inf) == 1.0
    assert (
        PROCESSES["flow"].time(0)
        == PROCESSES["vp cosine"].time(0)
        == PROCESSES["vp linear"].time(0)
        == 0.0
    )


@ALL
def test_drift_and_diffusion_are_the_derivatives(p):
    t = times(p) + (0.25 if p.betas is not None else 0)  # between levels: at one there is a kink
    t.requires_grad_()
    (slope,) = torch.autograd.grad((p.scale(t).log() + 0 * t).sum(), t)
    (variance_slope,) = torch.autograd.grad(p.sigma(t).square().sum(), t)
    t = t.detach()
    torch.testing.assert_close(p.drift(t), slope, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(
        p.diffusion(t).square(), p.scale(t).square() * variance_slope, rtol=1e-11, atol=0
    )


@ALL
def test_integration_of_drift_and_diffusion_gives_scale_and_sigma_back(p):
    """s = exp(int f) and sigma^2 = int g^2/s^2, by Gauss-Legendre, between times off the ends."""
    first, last = (20.0, 60.0) if p.betas is not None else (0.05, 0.95)
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(20))
    edges = torch.linspace(
        first, last, 41, dtype=torch.float64
    )  # a level each, where there are levels
    middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    t, w = middle[:, None] + half[:, None] * nodes, half[:, None] * weights
    rise = (w * p.drift(t)).sum()
    gain = (w * (p.diffusion(t) / p.scale(t)).square()).sum()
    assert p.scale(first) * math.exp(rise) == pytest.approx(p.scale(last), rel=1e-10)
    assert math.sqrt(p.sigma(first) ** 2 + gain) == pytest.approx(p.sigma(last), rel=1e-10)


@ALL
def test_a_chain_of_transitions_is_the_marginal(p):
    t = times(p, 12).tolist()
    mean, std = p.marginal(0.7, t[0])
    for u, v in zip(t, t[1:], strict=False):
        factor, fresh = p.transition(u, v)
        mean, std = factor * mean, math.hypot(factor * std, fresh)
    assert (mean, std) == pytest.approx(p.marginal(0.7, t[-1]), rel=1e-12)


@DISCRETE
def test_one_step_between_levels_is_beta(p):
    t = torch.arange(1, 1000)
    factor, std = p.transition(t - 1, t)
    torch.testing.assert_close(factor, (1 - p.betas[1:]).sqrt(), rtol=1e-13, atol=0)
    torch.testing.assert_close(std, p.betas[1:].sqrt(), rtol=1e-11, atol=0)
    factor, std = p.transition(10, 20)
    assert factor == pytest.approx((1 - p.betas[11:21]).prod().sqrt().item(), rel=1e-13)
    assert factor**2 + std**2 == pytest.approx(1, rel=1e-14)


@ALL
def test_the_posterior_is_bayes_rule(p):
    x_t, x0 = 1.3, -0.4
    for u, t in zip(times(p, 9).tolist(), times(p, 9).tolist()[1:], strict=False):
        (prior, wide), (factor, std) = p.marginal(x0, u), p.transition(u, t)
        precision = wide**-2 + factor**2 * std**-2
        want = (prior * wide**-2 + factor * x_t * std**-2) / precision
        assert p.posterior(x_t, x0, t, u) == pytest.approx((want, precision**-0.5), rel=1e-11)


@ALL
def test_the_posterior_and_the_marginal_make_the_joint(p):
    """x_u drawn from the posterior of a marginal x_t has the marginal at u: means and variances add
    up."""
    u, t = times(p)[[1, 4]].tolist()
    mean, std = p.marginal(0.9, t)
    low, spread = p.posterior(mean, 0.9, t, u)
    slope = p.posterior(1.0, 0.0, t, u)[0]
    assert (low, math.hypot(slope * std, spread)) == pytest.approx(p.marginal(0.9, u), rel=1e-12)


@DISCRETE
def test_the_posterior_is_the_textbooks_mu_and_beta_tilde(p):
    abar, beta, t = (1 - p.betas).cumprod(0), p.betas, 400
    x_t, x0 = torch.randn(2, 3, 1, 4, 4, dtype=torch.float64)
    mean, std = p.posterior(x_t, x0, t, t - 1)
    mu = (
        abar[t - 1].sqrt() * beta[t] / (1 - abar[t]) * x0
        + (1 - beta[t]).sqrt() * (1 - abar[t - 1]) / (1 - abar[t]) * x_t
    )
    torch.testing.assert_close(mean, mu, rtol=1e-11, atol=1e-12)
    assert std**2 == pytest.approx(((1 - abar[t - 1]) / (1 - abar[t]) * beta[t]).item(), rel=1e-10)


@pytest.mark.parametrize(
    "t, u, variance",
    [(487, 486, 0.00979), (999, 998, 0.02), (420, 400, 0.14771), (980, 960, 0.32460)],
)
def test_the_posterior_has_the_variances_that_diffusers_publishes(t, u, variance):
    """huggingface/diffusers, tests/schedulers: test_variance of DDPM and DDIM, within their
    1e-5."""
    assert PROCESSES["ddpm"].posterior(0.0, 0.0, t, u)[1] ** 2 == pytest.approx(variance, abs=1e-5)
    assert PROCESSES["ddpm"].posterior(0.0, 0.0, u, u) == (0.0, 0.0)  # their variance(0, 0) = 0


@ALL
def test_samples_have_the_moments(p):
    """20,000 chains: means and variances within 5 standard errors."""
    count, (u, v, t) = 20_000, times(p)[[1, 3, 5]].tolist()
    noise = torch.randn(3, count, dtype=torch.float64)
    mean, std = p.marginal(0.8, u)
    x = mean + std * noise[0]
    for early, late, n in ((u, v, noise[1]), (v, t, noise[2])):
        factor, fresh = p.transition(early, late)
        x = factor * x + fresh * n
    mean, std = p.marginal(0.8, t)
    assert x.mean().item() == pytest.approx(mean, abs=5 * std / count**0.5)
    assert x.var().item() == pytest.approx(std**2, rel=5 * (2 / count) ** 0.5)
    back, spread = p.posterior(x, torch.full_like(x, 0.8), t, u)
    x = back + spread * noise[0].flip(0)
    mean, std = p.marginal(0.8, u)
    assert x.mean().item() == pytest.approx(mean, abs=5 * std / count**0.5)
    assert x.var().item() == pytest.approx(std**2, rel=5 * (2 / count) ** 0.5)


@ALL
def test_the_ends_of_time_are_numbers(p):
    last = p.span[1]
    low = p.domain[0]
    assert p.marginal(0.5, last)[1] > 0.99 and p.transition(low, last)[1] <= p.noise(last)
    for t in (low, last):
        assert p.transition(t, t) == (1.0, 0.0) and p.posterior(0.3, 0.5, t, t) == pytest.approx(
            (0.3, 0.0)
        )
    mean, std = p.posterior(2.0, 0.5, last, low)
    assert mean == pytest.approx(p.scale(low) * 0.5, abs=2e-3) and std == pytest.approx(
        p.noise(low), rel=1e-3, abs=1e-12
    )


def gaussian(p, power, mean, x, t):
    """Return D(x_t) for x0 ~ N(mean, power), and the variance of x_t."""
    s, variance = p.scale(t), p.noise(t) ** 2
    total = s**2 * power + variance
    return mean + s * power / total * (x - s * mean), total


@ALL
def test_score_and_slopes_are_those_of_a_gaussian(p):
    power, mean, x, t = 0.6, 0.3, 1.1, times(p)[3].item()
    denoised, total = gaussian(p, power, mean, x, t)
    assert p.score(x, denoised, t) == pytest.approx(-(x - p.scale(t) * mean) / total, rel=1e-11)
    f, g, score = p.drift(t), p.diffusion(t), p.score(x, denoised, t)
    assert p.ode(x, denoised, t) == pytest.approx(f * x - g**2 * score / 2, rel=1e-11)
    assert p.reverse_drift(x, denoised, t) == pytest.approx(f * x - g**2 * score, rel=1e-11)
    rate = p.diffusion(t) ** 2 / (
        2 * p.noise(t) ** 2
    )  # sigma'/sigma: the form of numerics, section 1
    assert p.ode(x, denoised, t) == pytest.approx(
        (rate + f) * x - rate * p.scale(t) * denoised, rel=1e-11
    )


@ALL
def test_both_ways_back_keep_the_marginal_and_the_misprinted_ones_do_not(p):
    """The variance V of x_t on a Gaussian: V' = 2 k V for the ODE x' = k x, V' = 2 k V - g^2 for
    the SDE run backwards."""
    power, t = 0.6, times(p)[3].item()
    V, s, f, g = gaussian(p, power, 0.0, 1.0, t)[1], p.scale(t), p.drift(t), p.diffusion(t)
    rise = (
        2 * f * s**2 * power + 2 * f * p.noise(t) ** 2 + g**2
    )  # of s^2 (power + sigma^2), by 10.2
    assert 2 * p.ode(1.0, gaussian(p, power, 0.0, 1.0, t)[0], t) * V == pytest.approx(
        rise, rel=1e-10
    )
    assert 2 * p.reverse_drift(
        1.0, gaussian(p, power, 0.0, 1.0, t)[0], t
    ) * V - g**2 == pytest.approx(rise, rel=1e-10)
    # the documents' first line for VP: half the score, and no drift at all
    misprint = -(g**2) * p.score(1.0, gaussian(p, power, 0.0, 1.0, t)[0], t) / 2
    assert abs(2 * misprint * V - g**2 - rise) > 0.05 * abs(rise)


def test_cosine_is_a_ratio_of_squared_cosines_and_not_the_misprint():
    """Documents: cos(pi t/2T + s)/(1 + s). It does not begin at 1, and leaves no noiseless
    picture."""
    p = PROCESSES["vp cosine"]
    assert p.scale(0.0) == 1.0 and p.scale(1.0) == 0.0

    def misprint(t):
        return math.cos(math.pi * t / 2 + 0.008) / 1.008

    assert misprint(0.0) < 0.993 and misprint(1.0) < 0  # a signal below nothing
    assert p.scale(0.5) ** 2 == pytest.approx(
        float(_h(mpmath.mpf(1) / 2) ** 2 / _h(mpmath.mpf(0)) ** 2), rel=1e-12
    )
    assert abs(p.scale(0.5) ** 2 - misprint(0.5)) > 0.1 and abs(p.scale(0.5) - misprint(0.5)) > 4e-3


def test_the_cosine_betas_are_clipped_and_follow_the_process():
    betas, p = cosine_betas(), vp_cosine()
    assert betas[-1] == 0.999 and (betas[:-1] < 0.999).all() and len(betas) == 1000
    chain = discrete("cosine", betas)
    for level in (0, 10, 500, 990):
        assert chain.scale(level) == pytest.approx(p.scale((level + 1) / 1000), rel=1e-10)
    assert chain.scale(999) > 0 == p.scale(1.0)


def test_noise_of_ve_and_vp_is_not_what_the_documents_print():
    """VE: "variance = 1 - alpha"; VP: "sigma^2 = 1 - exp(-int beta)". By samples, and by the
    definition of the ratio."""
    ve, vp, t = PROCESSES["ve"], PROCESSES["vp linear"], 0.8
    assert ve.marginal(0.0, t)[1] ** 2 == pytest.approx(ve.sigma(t) ** 2) and 1 - ve.scale(t) == 0
    integral = 0.1 * t + 19.9 * t**2 / 2
    misprint = -math.expm1(-integral)
    assert vp.sigma(t) ** 2 == pytest.approx(math.expm1(integral), rel=1e-12)
    assert vp.sigma(t) ** 2 > 100 * misprint
    assert (vp.scale(t) * vp.sigma(t)) ** 2 == pytest.approx(
        misprint, rel=1e-12
    )  # this is what they had


def test_the_reverse_step_of_ve_moves_towards_denoised_and_not_away():
    """Documents: x + (s_t^2 - s_u^2)/s_t eps, and x - (s_t^2 - s_u^2)/s_t^2 (D - x). Both signs are
    the other way round."""
    p, x, x0, t, u = PROCESSES["ve"], 3.0, 0.5, 0.7, 0.6
    mean, _ = p.posterior(x, x0, t, u)
    fall = p.sigma(t) ** 2 - p.sigma(u) ** 2
    eps = (x - x0) / p.sigma(t)
    assert mean == pytest.approx(x - fall / p.sigma(t) * eps, rel=1e-12)
    assert mean == pytest.approx(x + fall / p.sigma(t) ** 2 * (x0 - x), rel=1e-12)
    printed = x + fall / p.sigma(t) * eps, x - fall / p.sigma(t) ** 2 * (x0 - x)
    assert abs(mean - x0) < abs(x - x0) < min(abs(v - x0) for v in printed)


@ALL
def test_a_state_of_the_process_is_one_of_its_path(p):
    x0, n = torch.randn(2, 3, 1, 4, 4, dtype=torch.float64)
    t = times(p, 3)
    mean, std = p.marginal(x0, t)
    x = mean + std * n
    state, sigma = p.to_path(x, t)
    level = sigma.view(-1, 1, 1, 1)
    torch.testing.assert_close(state, p.path.signal(level) * x0 + level * n, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(p.path.noise_to_signal(sigma), p.sigma(t), rtol=1e-12, atol=0)
    torch.testing.assert_close(p.from_path(state, t), x, rtol=1e-12, atol=1e-12)


def test_the_level_of_flow_is_its_time_and_not_the_ratio():
    p = PROCESSES["flow"]
    assert p.to_path(0.3, 0.25) == (0.3, 0.25) and p.sigma(0.25) == pytest.approx(1 / 3)
    assert p.to_path(0.3, 1.0) == (0.3, 1.0) and p.to_path(0.3, 0.0) == (0.3, 0.0)


def test_the_zoo_counts_levels_as_the_process_does():
    p, model = PROCESSES["vp discrete"], zoo.load("eps")
    assert p.path is detect_path(model)
    torch.testing.assert_close(p.sigma(torch.arange(1000)), model.sigmas, rtol=1e-11, atol=0)
    sigma = torch.logspace(-1.5, 1.1, 40, dtype=torch.float64)
    torch.testing.assert_close(p.time(sigma), model.time(sigma), rtol=1e-9, atol=1e-8)


@ALL
def test_what_goes_in_comes_out(p):
    t = times(p)[2].item()
    for one in (t, np.float64(t), np.float32(t)):
        assert type(p.sigma(one)) is float and type(p.drift(one)) is float
        assert all(
            type(v) is float
            for v in (*p.transition(one, one), *p.marginal(1, one), *p.posterior(1, 1.0, one, one))
        )
    assert type(p.scale(0 if p.betas is None else 3)) is float
    for dtype in (torch.float32, torch.float64):
        several = times(p).to(dtype)
        for value in (
            p.scale(several),
            p.sigma(several),
            p.time(p.sigma(several)),
            *p.transition(several[0], several),
        ):
            assert value.dtype == dtype and value.shape == several.shape
        x = torch.randn(7, 2, 3, 3, dtype=dtype)
        mean, std = p.marginal(x, several)
        assert (
            mean.dtype == std.dtype == dtype
            and mean.shape == x.shape
            and (mean + std * x).shape == x.shape
        )
        for i in (0, 6):
            torch.testing.assert_close(
                mean[i], p.marginal(x[i], several[i].item())[0], rtol=1e-6, atol=0
            )
    assert p.sigma(times(p).long()).dtype == torch.float64
    half = torch.ones(2, 1, 2, 2, dtype=torch.float16)
    assert p.marginal(half, t)[0].dtype == torch.float16 and type(p.marginal(half, t)[1]) is float


@ALL
def test_bad_times_are_refused_in_words(p):
    first, last = p.domain
    beyond = [first - 0.1, math.nan, torch.tensor([first, -1.0])] + (
        [last + 0.1] if last < math.inf else []
    )
    for t in beyond:
        for method in (p.scale, p.sigma, p.drift, p.diffusion, p.noise):
            with pytest.raises(
                ValueError, match=f"the process '{p.name}' runs from .* give a time between"
            ):
                method(t)
    a, b = times(p)[[1, 2]].tolist()
    for call in (lambda: p.transition(b, a), lambda: p.posterior(0.0, 0.0, a, b)):
        with pytest.raises(ValueError, match="noise is added from u to t, so give u <= t"):
            call()
    with pytest.raises(ValueError, match="sigma is -1 and .* give a noise-to-signal ratio"):
        p.time(-1.0)
    with pytest.raises(ValueError, match="t is a str: give a number or a tensor"):
        p.scale("half")
    if p.sigma(last) < math.inf:
        with pytest.raises(ValueError, match="sigma is 1000 and"):
            p.time(1000.0)


def test_a_table_in_float32_may_round_beyond_the_end():
    p = PROCESSES["vp linear"]
    end = torch.tensor(p.sigma(1.0)).float()
    assert p.time(end * (1 + 1e-7)) == 1.0


def test_unknown_names_and_unsound_laws_are_refused():
    with pytest.raises(ValueError, match="no process 'vpsde': choose one of vp linear"):
        process("vpsde")
    for betas in ([0.1], [0.0, 0.1], [0.1, 1.0], [[0.1, 0.2]]):
        with pytest.raises(ValueError, match="betas must be a table"):
            discrete("mine", betas)
    unsound = exploding(torch.exp, torch.exp, torch.exp)
    with pytest.raises(ValueError, match="contradicts itself"):
        replace(PROCESSES["ve"], law=unsound)
    assert isinstance(discrete("mine", [0.1, 0.2]), Process)
