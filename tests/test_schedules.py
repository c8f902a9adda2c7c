"""Schedules: the length law, the order of sigmas, and k-diffusion's own values."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from isdo import schedules
from isdo.bench.peers import k_diffusion
from isdo.zoo.net import scaled_linear, zero_terminal_snr


def table(zero_snr=False):
    alphas = zero_terminal_snr(scaled_linear()) if zero_snr else scaled_linear()
    return ((1 - alphas) / alphas).sqrt()


def model(sigmas):
    return SimpleNamespace(sigmas=sigmas, sigma_min=float(sigmas[0]), sigma_max=float(sigmas[-1]))


MODELS = {
    "eps": model(table()),
    "zero_snr": model(table(zero_snr=True)),
    "flow": model(torch.arange(1, 1001, dtype=torch.float64) / 1000),
    "edm": model(torch.logspace(np.log10(0.002), np.log10(120), 1000, dtype=torch.float64)),
}
CASES = [(m, s) for m in MODELS for s in schedules.SCHEDULES if s != "flow" or m == "flow"]


@pytest.mark.parametrize("of, name", CASES)
def test_the_length_law(of, name):
    for steps in range(1, 151):
        sigmas = schedules.schedule(name, steps, MODELS[of])
        assert sigmas.shape == (steps + 1,) and sigmas.dtype == torch.float32
        assert sigmas[-1] == 0 and (sigmas.diff() < 0).all()
        assert float(sigmas[0]) == pytest.approx(MODELS[of].sigma_max, rel=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 5, 30, 150])
@pytest.mark.parametrize("low, high", [(0.0292, 14.6146), (0.002, 120.0), (0.03, 4518.8)])
def test_karras_and_exponential_are_those_of_k_diffusion(steps, low, high):
    peer = k_diffusion("sampling")
    close = partial(torch.testing.assert_close, rtol=2e-5, atol=0)
    close(schedules.karras(steps, low, high), peer.get_sigmas_karras(steps, low, high))
    close(schedules.karras(steps, low, high, rho=3), peer.get_sigmas_karras(steps, low, high, rho=3))
    close(schedules.exponential(steps, low, high), peer.get_sigmas_exponential(steps, low, high))


@pytest.mark.parametrize("steps", [2, 7, 20, 1000])
def test_uniform_is_that_of_k_diffusion(steps):
    peer = k_diffusion("external").DiscreteSchedule(table(), quantize=False)
    torch.testing.assert_close(schedules.uniform(steps, table()), peer.get_sigmas(steps).float(), rtol=2e-4, atol=0)


def test_simple_takes_levels_of_the_table_and_all_of_them_at_full_length():
    levels = table()
    assert torch.equal(schedules.simple(1000, levels)[:-1], levels.flip(0).float())
    assert torch.equal(schedules.simple(4, levels)[:-1], levels[[999, 749, 499, 249]].float())


def test_sgm_uniform_is_uniform_with_one_step_more_but_its_last_level():
    longer = schedules.uniform(11, table())
    assert torch.equal(schedules.sgm_uniform(10, table())[:-1], longer[:-2])


def test_flow_shift_is_the_formula_and_its_own_inverse():
    even = schedules.flow(10)
    torch.testing.assert_close(even, torch.linspace(1, 0, 11))
    shifted = schedules.flow(10, shift=3.0).double()
    torch.testing.assert_close(shifted, 3 * even.double() / (1 + 2 * even.double()), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(shifted / (3 - 2 * shifted), even.double(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("call, says", [
    (lambda: schedules.karras(0, 0.1, 1), "at least 1, not 0"),
    (lambda: schedules.karras(2.5, 0.1, 1), "whole number, not 2.5"),
    (lambda: schedules.karras(5, 1, 0.1), "sigma_min < sigma_max, not 1 and 0.1"),
    (lambda: schedules.karras(5, 0, 1), "0 < sigma_min"),
    (lambda: schedules.karras(5, float("nan"), 1), "0 < sigma_min"),
    (lambda: schedules.exponential(5, 0.1, float("inf")), "0 < sigma_min"),
    (lambda: schedules.karras(5, 0.1, 1, rho=0), "rho must be positive"),
    (lambda: schedules.karras(150, 1, 1 + 1e-6), "150 steps are too many"),
    (lambda: schedules.simple(11, torch.arange(1, 11)), "at most 10"),
    (lambda: schedules.simple(3, table().flip(0)), "ascending table"),
    (lambda: schedules.uniform(3, [0.0, 1.0]), "ascending table"),
    (lambda: schedules.flow(3, shift=0), "shift must be positive"),
    (lambda: schedules.schedule("cosine", 3, MODELS["eps"]), "'cosine'.*karras"),
    (lambda: schedules.schedule("flow", 3, MODELS["eps"]), "start at sigma 1, not 14.6"),
])  # fmt: skip
def test_bad_input_is_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_counts_of_other_integer_types_are_counts():
    assert len(schedules.karras(np.int64(3), 0.1, 1.0)) == 4
