"""x0, eps, score, v and velocity: what they are by name, back and forth, and as the table of
predictions has them."""

import itertools

import pytest
import torch

from isdo.denoiser import PREDICTIONS
from isdo.process import PROCESSES
from isdo.quantity import QUANTITIES, Quantity, convert

NAMES = list(QUANTITIES)
LEVELS = [(1.0, 1e-3), (1.0, 80.0), (0.3, 2.0), (0.0064, 157.4), (0.75, 1 / 3)]


def known(name, x0, n, s, sigma):
    """What the literature means by the name; v as in Salimans and Ho 2022 for s^2 + (s sigma)^2 =
    1."""
    a, b = (1 + sigma**2) ** -0.5, sigma * (1 + sigma**2) ** -0.5
    return {"x0": x0, "eps": n, "score": -n / (s * sigma), "v": a * n - b * x0, "velocity": n - x0}[
        name
    ]


def test_the_table_has_the_five():
    assert NAMES == ["x0", "eps", "score", "v", "velocity"]


@pytest.mark.parametrize("s, sigma", LEVELS)
@pytest.mark.parametrize("given, wanted", list(itertools.product(NAMES, NAMES)))
def test_each_goes_to_each(given, wanted, s, sigma, normal):
    x0, n = normal(2, 3, 2, 4, 4)
    x = s * x0 + s * sigma * n
    out = convert(known(given, x0, n, s, sigma), given, wanted, x, s, sigma)
    want = known(wanted, x0, n, s, sigma)
    # from noise alone the picture is known to the digits that noise leaves it, and the other way
    # round
    lost = 1e-14 * max(sigma, 1 / sigma) * want.abs().max()
    torch.testing.assert_close(out, want, rtol=1e-12, atol=10 * lost.item())


@pytest.mark.parametrize("name", ["x0", "eps", "score", "v"])
def test_on_ve_the_table_of_predictions_says_the_same(name, normal):
    x, value = normal(2, 5, 1, 2, 2)
    sigma = torch.tensor([1e-3, 0.3, 1.0, 14.6, 80.0], dtype=torch.float64).view(-1, 1, 1, 1)
    want = PREDICTIONS[name].denoised(x, sigma, value)
    torch.testing.assert_close(
        QUANTITIES[name].denoised(value, x, 1.0, sigma), want, rtol=1e-12, atol=1e-12
    )


def test_on_flow_velocity_is_what_flow_networks_predict(normal):
    p, t = PROCESSES["flow"], torch.tensor([0.1, 0.5, 0.99], dtype=torch.float64)
    x, value = normal(2, 3, 1, 2, 2)
    out = convert(value, "velocity", "x0", x, p.scale(t), p.sigma(t))
    torch.testing.assert_close(
        out, PREDICTIONS["flow"].denoised(x, t.view(-1, 1, 1, 1), value), rtol=1e-10, atol=1e-12
    )


def test_score_is_the_process_own(normal):
    p, t = PROCESSES["vp linear"], torch.tensor([0.1, 0.9], dtype=torch.float64)
    x, denoised = normal(2, 2, 1, 3, 3)
    torch.testing.assert_close(
        convert(denoised, "x0", "score", x, p.scale(t), p.sigma(t)), p.score(x, denoised, t)
    )


def test_velocity_of_the_flow_process_is_its_ode():
    p, x, denoised, t = PROCESSES["flow"], 1.2, 0.4, 0.3
    assert convert(denoised, "x0", "velocity", x, p.scale(t), p.sigma(t)) == pytest.approx(
        p.ode(x, denoised, t)
    )


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="no quantity 'noise': choose one of x0, eps"):
        convert(0.0, "noise", "x0", 0.0, 1.0, 1.0)
    for scale, sigma, name in (
        (0.0, 1.0, "scale"),
        (1.0, -1.0, "sigma"),
        (1.0, torch.tensor([1.0, 0.0]), "sigma"),
    ):
        with pytest.raises(ValueError, match=f"{name} is .* give a number above 0"):
            convert(0.0, "x0", "eps", 0.0, scale, sigma)
    assert isinstance(QUANTITIES["v"], Quantity)
