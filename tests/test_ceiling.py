"""The fitted linear methods: DPM++ 2M's weights against k-diffusion's code, exact fits where one is
possible."""

import pytest
import torch

from isdo.bench import ceiling
from isdo.bench.baselines import BASELINES
from isdo.bench.problems import Problem, problem, rms
from isdo.path import PATHS
from isdo.schedules import karras

POWER = 2.0


def gaussian(name):
    """White noise of power 2: x/psi stands still, so the end is sqrt(2)/psi x."""
    path = PATHS[name]

    def model(x, sigma):
        sigma = sigma[:, None, None, None]
        a = path.signal(sigma)
        return a * POWER / (a**2 * POWER + sigma**2) * x

    def solve(problem):
        end = (
            (path.signal(problem.sigma_max) ** 2 * POWER + problem.sigma_max**2) ** -0.5
            * POWER**0.5
            * problem.x
        )
        return end, torch.zeros(len(end))

    model.path = path
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Problem(
        "gaussian", name, model, x, torch.tensor([0.05, 0.95], dtype=torch.float64), solve, {}
    )


def grid(problem, calls):
    return karras(calls, problem.sigma_min, problem.sigma_max).double()


def test_weights_of_dpmpp_2m_are_those_of_k_diffusion():
    mixture = problem("stationary", "ve")
    sigmas = grid(mixture, 7)
    expected = BASELINES["dpmpp_2m"].run(
        mixture.model, mixture.x, sigmas, mixture.extra_args, disable=True
    )
    run = ceiling.linear(
        mixture.model, mixture.x, sigmas, ceiling.dpmpp_2m_weights(sigmas), mixture.extra_args
    )
    assert len(run.denoised) == 7
    torch.testing.assert_close(run.states[-1], expected, rtol=1e-9, atol=1e-9)


def test_a_run_goes_on_from_any_step_with_no_call_twice():
    calls = []
    base = gaussian("ve")

    def model(x, sigma):
        calls.append(sigma[0].item())
        return base.model(x, sigma)

    model.path = base.model.path
    sigmas = grid(base, 5)
    first, second = ceiling.dpmpp_2m_weights(sigmas), ceiling.dpmpp_2m_weights(sigmas)
    second[3, 0], second[3, 3] = second[3, 0] - 0.2, second[3, 3] + 0.2
    run = ceiling.linear(model, base.x, sigmas, first)
    calls.clear()
    resumed = ceiling.linear(model, base.x, sigmas, second, run=run, since=3)
    assert calls == pytest.approx(sigmas[4:5].tolist())
    whole = ceiling.linear(model, base.x, sigmas, second)
    assert torch.equal(resumed.states[-1], whole.states[-1])
    assert not torch.equal(resumed.states[-1], run.states[-1])


@pytest.mark.parametrize("name", PATHS)
def test_a_fit_finds_the_weights_that_solve_a_gaussian_exactly(name):
    """There every D is a multiple of x, so a single weight a step could already make all but the
    first step right."""
    base = gaussian(name)
    sigmas = grid(base, 5)
    weights = ceiling.fit(base, sigmas)
    torch.testing.assert_close(weights.sum(1), torch.ones(5, dtype=torch.float64))
    assert torch.equal(weights.triu(1), torch.zeros(5, 5, dtype=torch.float64))
    error = {
        label: rms(ceiling.linear(base.model, base.x, sigmas, w).states[-1] - base.reference())
        .max()
        .item()
        for label, w in (("fitted", weights), ("start", ceiling.dpmpp_2m_weights(sigmas)))
    }
    assert error["fitted"] < 1e-4 * error["start"]


def test_a_fit_to_a_mixture_is_far_ahead_of_where_it_began():
    mixture = problem("stationary", "ve")
    sigmas = grid(mixture, 5)
    error = {
        label: rms(
            ceiling.linear(mixture.model, mixture.x, sigmas, w, mixture.extra_args).states[-1] - mixture.reference()
        ).log().mean().item()
        for label, w in (("fitted", ceiling.fit(mixture, sigmas)), ("start", ceiling.dpmpp_2m_weights(sigmas)))
    }  # fmt: skip
    assert error["fitted"] < error["start"] - 1


def test_the_bench_sets_the_fits_beside_isdo_and_the_baselines():
    rows, text = ceiling.run(limit=2, only="v, guidance 1", calls=(4,))
    assert {row["grid"] for row in rows} == {"karras"}
    median = {row["sampler"]: row["median"] for row in rows}
    assert median["fitted"] < median["dpmpp_2m"]
    assert "| v, guidance 1 | karras | 4 |" in text
    with pytest.raises(ValueError, match="no problem has 'x' in its name"):
        ceiling.run(only="x")
