"""The table of predictions: denoised and target undo each other, and the loss weights are what is
measured."""

import copy

import pytest
import torch

from isdo.bench.problems import hartley, problem
from isdo.denoiser import (
    PRECONDITIONINGS,
    PREDICTIONS,
    CallCounter,
    classifier_guided,
    guide,
    guided,
)
from isdo.distribution import DISTRIBUTIONS
from isdo.path import PATHS, VE
from isdo.process import PROCESSES

ROWS = list(PREDICTIONS.values())
SIGMAS = torch.tensor([1e-3, 0.03, 0.5, 0.999, 1.0, 3.0, 80.0, 4518.8], dtype=torch.float64)


def levels(row):
    return SIGMAS[SIGMAS <= row.path.sigma_limit, None]


def test_the_table_has_every_type_of_the_edm_framework():
    assert set(PREDICTIONS) == {"x0", "eps", "v", "flow", "score", "edm"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_denoised_and_target_are_inverse(row, normal):
    sigma = levels(row)
    x0, x, output = normal(3, len(sigma), 16)
    skip, out = row.c_skip(sigma), row.c_out(sigma)
    lost = (row.denoised(x, sigma, row.target(x0, x, sigma)) - x0).abs()
    assert (
        lost < 1e-15 * (x0.abs() + (skip * x).abs())
    ).all()  # a sum loses an ulp of its largest term, none below it
    lost = (row.target(row.denoised(x, sigma, output), x, sigma) - output).abs()
    assert (lost < 1e-15 * (output.abs() + (skip * x / out).abs())).all()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_weight_is_the_measured_ratio_of_losses(row):
    sigma = levels(row)
    x0, x, output = torch.randn(3, len(sigma), 1000, dtype=torch.float64)
    plain = (output - row.target(x0, x, sigma)).square().mean(1)
    ratio = plain / (row.denoised(x, sigma, output) - x0).square().mean(1)
    torch.testing.assert_close(ratio, row.weight(sigma)[:, 0], rtol=1e-7, atol=0)


@pytest.mark.parametrize("row, known", [
    ("x0", lambda s: 1 + 0 * s),  # the signal's own error
    ("eps", lambda s: s**-2),  # Ho et al. 2020: 1 / SNR
    ("v", lambda s: (1 + s**2) / s**2),  # Salimans and Ho 2022: SNR + 1, for the variance-exploding sigma
    ("score", lambda s: s**-4),
    ("flow", lambda s: s**-2),
    ("edm", lambda s: (s**2 + 0.25) / (0.5 * s) ** 2),  # EDM, table 1
])  # fmt: skip
def test_weights_are_those_of_the_literature(row, known):
    sigma = levels(PREDICTIONS[row])
    torch.testing.assert_close(PREDICTIONS[row].weight(sigma), known(sigma), rtol=1e-13, atol=0)


@pytest.mark.parametrize("name, output", [
    ("x0", lambda x0, n, s: x0),
    ("eps", lambda x0, n, s: n),
    ("score", lambda x0, n, s: -n / s),
    ("v", lambda x0, n, s: (n - s * x0) / (1 + s**2).sqrt()),
    ("flow", lambda x0, n, s: n - x0),
])  # fmt: skip
def test_the_target_is_the_quantity_of_that_name(name, output):
    row = PREDICTIONS[name]
    sigma = levels(row)
    x0, n = torch.randn(2, len(sigma), 16, dtype=torch.float64)
    x = row.path.signal(sigma) * x0 + sigma * n
    torch.testing.assert_close(row.target(x0, x, sigma), output(x0, n, sigma), rtol=1e-9, atol=1e-9)


def test_guidance_is_the_line_through_both_predictions():
    c, u = torch.randn(2, 3, 4, 5, 6)
    assert torch.equal(guide(c, u, 0.0), u)
    torch.testing.assert_close(guide(c, u, 1.0), c)
    torch.testing.assert_close(
        guide(c, u, torch.tensor([1.0, 2.0, 7.0]))[2], u[2] + 7 * (c[2] - u[2])
    )


def test_guided_composes_models_and_costs_nothing_at_scale_one():
    c, u = CallCounter(lambda x, sigma: x), CallCounter(lambda x, sigma: 0 * x)
    x = torch.randn(2, 1, 2, 2)
    assert torch.equal(guided(c, u, 3.0)(x, 1.0), 3 * x)
    assert guided(c, u, 1.0) is c
    assert (c.calls, u.calls) == (1, 1)


def test_the_counter_counts_and_is_otherwise_the_model():
    class Model:
        path = "its path"

        def __call__(self, x, sigma, shift=0):
            return x + shift

    counter = CallCounter(Model())
    assert [counter(1, 2), counter(1, 2, shift=3), counter.calls, counter.path] == [
        1,
        4,
        2,
        "its path",
    ]
    assert copy.copy(counter).calls == 2
    with pytest.raises(AttributeError):
        _ = counter.nothing


def test_preconditionings_are_those_of_edm_table_1():
    sigma = torch.tensor([0.003, 0.5, 3.0, 80.0], dtype=torch.float64)
    vp, ve, edm = (PRECONDITIONINGS[name] for name in ("vp", "ve", "edm"))
    one, root = torch.ones_like(sigma), (sigma**2 + 0.25).sqrt()
    for row, skip, out, scale, noise in (
        (vp, one, -sigma, (sigma**2 + 1) ** -0.5, 999 * PROCESSES["vp linear"].time(sigma)),
        (ve, one, sigma, one, (sigma / 2).log()),
        (edm, 0.25 / root**2, sigma / 2 / root, 1 / root, sigma.log() / 4),
    ):
        for found, want in (
            (row.c_skip, skip),
            (row.c_out, out),
            (row.c_in, scale),
            (row.c_noise, noise),
        ):
            torch.testing.assert_close(found(sigma), want, rtol=1e-13, atol=0)
        assert row.c_noise(0.5) == pytest.approx(row.c_noise(sigma)[1].item()) and row.path is VE
    for row, weight in (
        (vp, sigma**-2),
        (ve, sigma**-2),
        (edm, (sigma**2 + 0.25) / (sigma / 2) ** 2),
    ):
        torch.testing.assert_close(row.weight(sigma), weight, rtol=1e-13, atol=0)
    assert [row.trained_on for row in (vp, ve, edm)] == [
        DISTRIBUTIONS[name] for name in ("vp", "ve", "edm")
    ]


@pytest.mark.parametrize("row", PRECONDITIONINGS.values(), ids=PRECONDITIONINGS)
def test_preconditioned_networks_see_and_give_unit_variance_where_edm_says_so(row, normal):
    """EDM, equations 114 and 117: with data of variance 1/4 the inputs and targets of "edm" have
    variance 1."""
    sigma = torch.tensor([0.01, 1.0, 30.0], dtype=torch.float64)[:, None]
    x0, n = normal(2, 3, 40_000)
    x0 = x0 / 2
    x = x0 + sigma * n
    inputs, target = (row.c_in(sigma) * x).var(1), row.target(x0, x, sigma).var(1)
    held = (inputs - 1).abs().max() < 0.03 and (target - 1).abs().max() < 0.03
    assert held == (row.name == "edm")


@pytest.fixture(params=PATHS)
def mixture(request):
    """A guided mixture of three classes, noisy pictures, their labels, and the exact log p(y | x;
    sigma)."""
    p = problem("stationary", request.param, seed=2)
    model, labels = p.model, torch.arange(16) % 3

    def log_prob(x, sigma):
        level = sigma.view(-1, 1, 1, 1, 1)
        odds = model.component_log_odds(hartley(x), model.path.signal(level), level)
        of_class = odds.masked_fill(labels[:, None] != model.classes, -torch.inf)
        return of_class.logsumexp(1) - odds.logsumexp(1)

    def conditional(x, sigma):
        return model(x, sigma, labels)

    conditional.path = model.path
    return model, conditional, log_prob, p.x / p.sigma_max


@pytest.mark.parametrize(
    "scale",
    [1.0, 5.0, torch.linspace(0, 7, 16, dtype=torch.float64)],
    ids=["1", "5", "each its own"],
)
def test_classifier_guidance_is_classifier_free_guidance_where_the_classifier_is_exact(
    mixture, scale
):
    model, conditional, log_prob, noise = mixture
    free = guided(conditional, model, scale)
    by_classifier = classifier_guided(model, log_prob, scale)
    assert by_classifier.path is free.path is model.path
    for level in (0.02, 0.3, 0.9):
        sigma = noise.new_full((16,), level)
        x = level * noise + model.path.signal(level) * noise.flip(0)
        with torch.no_grad():
            torch.testing.assert_close(by_classifier(x, sigma), free(x, sigma), rtol=0, atol=1e-9)


def test_classifier_guidance_is_a_number_at_pure_noise():
    p = problem("stationary", "flow", seed=2)
    labels = torch.zeros(16, dtype=torch.long)
    model = p.model

    def log_prob(x, sigma):
        level = sigma.view(-1, 1, 1, 1, 1)
        odds = model.component_log_odds(hartley(x), model.path.signal(level), level)
        return odds.masked_fill(labels[:, None] != model.classes, -torch.inf).logsumexp(
            1
        ) - odds.logsumexp(1)

    with torch.inference_mode():  # some hosts sample in it
        out = classifier_guided(model, log_prob, 3.0)(p.x, torch.ones(16, dtype=torch.float64))
    want = model(p.x, torch.ones(16, dtype=torch.float64), labels, 3.0)
    torch.testing.assert_close(
        out, want, rtol=0, atol=5e-4
    )  # of D about 10; 0 x infinity otherwise


def test_classifier_guidance_keeps_dtypes_and_costs_nothing_at_scale_zero():
    def model(x, sigma, shift=0.0):
        return x / 2 + shift

    assert classifier_guided(model, None, 0.0) is model
    seen = []

    def log_prob(x, sigma):
        seen.append((x.dtype, sigma.shape))
        return x.flatten(1).sum(1)

    x = torch.ones(2, 1, 2, 2, dtype=torch.float16)
    with torch.no_grad():
        out = classifier_guided(model, log_prob, 0.5)(x, torch.tensor(2.0), shift=1.0)
    assert (
        out.dtype == torch.float16 and torch.equal(out, 1.5 * x + 0.5 * 4) and not x.requires_grad
    )
    assert seen == [(torch.float32, (2,))]
