"""The everyday stochastic samplers on both paths: k-diffusion's own steps, from each picture's own
noise."""

import math

import pytest
import torch

from isdo.bench.baselines import BASELINES, STOCHASTIC, k_diffusion
from isdo.denoiser import CallCounter
from isdo.noise import source
from isdo.path import FLOW, PATHS, VE
from isdo.schedules import karras

pytestmark = pytest.mark.usefixtures("no_grad")

THEIRS = {
    "euler_a": "sample_euler_ancestral", "dpmpp_2m_sde": "sample_dpmpp_2m_sde", "dpmpp_3m_sde": "sample_dpmpp_3m_sde",
}  # fmt: skip
NAMES = (*THEIRS, "restart")
SEEDS = (5, 9)


class Gaussian:
    """D of pixels of this mean and variance."""

    def __init__(self, path, mean=0.4, variance=0.25):
        self.path, self.mean, self.variance = path, mean, variance

    def __call__(self, x, sigma):
        sigma = sigma[:, None, None, None]
        a = self.path.signal(sigma)
        return self.mean + a * self.variance / (a**2 * self.variance + sigma**2) * (
            x - a * self.mean
        )


class Curved:
    """A D that no formula solves, in x/a and s/a: the same model on both paths."""

    def __init__(self, path):
        self.path = path

    def __call__(self, x, sigma):
        sigma = sigma[:, None, None, None]
        a = self.path.signal(sigma)
        if self.path is FLOW and (a == 0).all():
            return 0.3 * torch.sin(x)  # what is left of x/a where r is infinite
        y, r = x / a, sigma / a
        return 0.3 * torch.sin(y / (1 + r**2).sqrt())


def flow_levels(steps, top):
    return FLOW.from_noise_to_signal(karras(steps, 0.03, top).double())


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("end", [0.0, 0.1])
def test_on_ve_it_is_k_diffusions_bit_for_bit(name, end, normal):
    x, sigmas = 14.6 * normal(2, 3, 8, 8), karras(9, 0.1, 14.6).double()
    sigmas = sigmas if end == 0 else sigmas[:-1]
    fresh = source(SEEDS, x)
    run = getattr(k_diffusion("sampling"), THEIRS[name])
    theirs = run(Curved(VE), x, sigmas, disable=True, noise_sampler=lambda *_: fresh(x))
    assert torch.equal(
        STOCHASTIC[name].run(Curved(VE), x, sigmas, disable=True, seeds=SEEDS), theirs
    )


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("end", [0.0, 0.1])
def test_on_flow_it_is_the_same_run_seen_otherwise(name, end, normal):
    y, ratios = 20 * normal(2, 3, 8, 8), karras(9, 0.1, 20.0).double()
    ratios = ratios if end == 0 else ratios[:-1]
    expected = STOCHASTIC[name].run(Curved(VE), y, ratios, disable=True, seeds=SEEDS)
    sigmas = FLOW.from_noise_to_signal(ratios)
    seen, told = [], []

    def model(x, sigma):
        seen.append((x, sigma[0]))
        return Curved(FLOW)(x, sigma)

    model.path = FLOW
    found = STOCHASTIC[name].run(
        model, FLOW.signal(sigmas[0]) * y, sigmas, None, told.append, True, seeds=SEEDS
    )
    torch.testing.assert_close(found, FLOW.signal(sigmas[-1]) * expected, rtol=1e-10, atol=1e-10)
    assert [call["i"] for call in told] == list(range(len(sigmas) - 1))
    for call, sigma, (x, asked) in zip(told, sigmas, seen, strict=False):
        torch.testing.assert_close(call["x"], x, rtol=1e-10, atol=1e-10)
        assert float(call["sigma"]) == pytest.approx(float(sigma), rel=1e-12) and float(
            asked
        ) == pytest.approx(float(sigma))


@pytest.mark.parametrize("name", THEIRS)
def test_pure_noise_is_the_limit_of_much_noise(name, normal):
    """Of a model whose first D does not depend on x: then only the step itself is at its limit."""
    x, later = normal(2, 3, 8, 8), karras(8, 0.05, 9.0).double()

    def model(path):
        def denoised(x, sigma):
            a = path.signal(sigma[0])
            return Curved(path)(x, sigma) if sigma[0] < 10 * a else torch.full_like(x, 0.2)

        denoised.path = path
        return denoised

    def run(top):
        sigmas = FLOW.from_noise_to_signal(
            torch.cat([torch.tensor([top], dtype=torch.float64), later])
        )
        sigmas[0] = 1.0 if math.isinf(top) else sigmas[0]
        return STOCHASTIC[name].run(model(FLOW), x, sigmas, disable=True, seeds=SEEDS)

    tops = (1e5, 1e8, 1e12)
    gaps = [float((run(top) - run(math.inf)).abs().max()) for top in tops]
    if name == "euler_a":
        assert (
            gaps[0] / gaps[1] == pytest.approx(1e3, rel=0.1) and gaps[2] < 1e-6
        )  # what x still has a say in
    else:  # the slope of D over so long a step goes with one over its length in log r
        steps = [math.log(top / 9) for top in tops]
        assert (
            gaps[0] * steps[0]
            == pytest.approx(gaps[1] * steps[1], rel=0.1)
            == pytest.approx(gaps[2] * steps[2], rel=0.1)
        )


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", NAMES)
def test_samples_have_the_mean_and_the_variance_of_the_data(name, path):
    model, count = Gaussian(PATHS[path]), 40_000
    steps = 480 if name == "euler_a" else 120  # it is of first order
    sigmas = karras(steps, 0.01, 14.6).double()
    if path == "flow":
        sigmas = torch.cat([torch.ones(1, dtype=torch.float64), flow_levels(steps, 60.0)])
    x = sigmas[0] * torch.randn(
        1, 1, 200, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    found = STOCHASTIC[name].run(model, x, sigmas, disable=True, seeds=[3])
    assert float(found.mean()) == pytest.approx(model.mean, abs=4 * 0.5 / count**0.5 + 0.01)
    assert float(found.var()) == pytest.approx(model.variance, rel=4 * (2 / count) ** 0.5 + 0.02)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", NAMES)
def test_what_it_draws_is_fresh_and_the_seeds_own(name, path, normal):
    x, levels = (
        normal(2, 3, 8, 8),
        {"ve": karras(8, 0.05, 14.6).double(), "flow": flow_levels(8, 20.0)}[path],
    )
    run, model = STOCHASTIC[name].run, Curved(PATHS[path])
    both = run(model, x, levels, disable=True, seeds=SEEDS)
    apart = [
        run(model, x[i : i + 1], levels, disable=True, seeds=[seed]) for i, seed in enumerate(SEEDS)
    ]
    assert torch.equal(both, torch.cat(apart))
    assert not torch.equal(both, run(model, x, levels, disable=True, seeds=(5, 10)))
    torch.manual_seed(7)
    free = run(model, x, levels, disable=True)
    torch.manual_seed(7)
    assert torch.equal(free, run(model, x, levels, disable=True)) and not torch.equal(free, both)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("calls", [1, 2, 3, 4, 5, 12, 24, 30, 50])
def test_all_calls_are_made_but_for_one_or_two_that_do_not_come_out_even_in_restart(
    name, path, calls, normal
):
    baseline, model = STOCHASTIC[name], CallCounter(Curved(PATHS[path]))
    steps = baseline.steps(calls)
    levels = {
        "ve": karras(steps, 0.05, 14.6),
        "flow": torch.cat([torch.ones(1), flow_levels(steps, 30.0)[1:]]),
    }[path]
    found = baseline.run(model, normal(1, 3, 8, 8), levels.double(), disable=True, seeds=[0])
    assert found.isfinite().all()
    unspent = (0, 1, 1, 2)[calls % 4] if name == "restart" and calls > 1 else 0
    assert model.calls == calls - unspent


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("path", PATHS)
def test_a_single_step_is_what_the_model_says(name, path, normal):
    x, model, told = normal(2, 1, 4, 4), Curved(PATHS[path]), []
    levels = torch.tensor([1.0, 0.0], dtype=torch.float64)
    found = STOCHASTIC[name].run(model, x, levels, None, told.append, True, seeds=SEEDS)
    torch.testing.assert_close(found, model(x, x.new_ones(2)))
    assert [call["i"] for call in told] == [0]


def test_restart_goes_back_up_twice_and_down_as_far(normal):
    asked = []

    def model(x, sigma):
        asked.append(float(sigma[0]))
        return Curved(VE)(x, sigma)

    levels = karras(12, 0.03, 14.6).double()
    STOCHASTIC["restart"].run(model, 14.6 * normal(1, 3, 8, 8), levels, disable=True, seeds=[1])
    jumps = [i for i in range(1, len(asked)) if asked[i] > asked[i - 1]]
    assert len(asked) == 24 and len(jumps) == 2 and [asked[i] for i in jumps] == [2.0, 2.0]
    turn = float(levels[(levels[:-1] - 0.1).abs().argmin()])
    assert asked[jumps[0] - 1] > turn and asked[jumps[1] + 6] == pytest.approx(turn, rel=1e-6)
    assert BASELINES["dpmpp_2m"].steps(24) == 24 and STOCHASTIC["restart"].steps(24) == 12
