"""The table of predictions: denoised and target undo each other, and the loss weights are what is measured."""

import copy

import pytest
import torch

from isdo.denoiser import PREDICTIONS, CallCounter, guide, guided

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
    assert (lost < 1e-15 * (x0.abs() + (skip * x).abs())).all()  # a sum loses an ulp of its largest term, none below it
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
    torch.testing.assert_close(guide(c, u, torch.tensor([1.0, 2.0, 7.0]))[2], u[2] + 7 * (c[2] - u[2]))


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
    assert [counter(1, 2), counter(1, 2, shift=3), counter.calls, counter.path] == [1, 4, 2, "its path"]
    assert copy.copy(counter).calls == 2
    with pytest.raises(AttributeError):
        _ = counter.nothing
