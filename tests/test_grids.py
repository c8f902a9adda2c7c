"""The searched grids: dynamic programming against trying everything, costs against formulas, search
never worse."""

from itertools import combinations

import pytest
import torch

from isdo.bench import grids
from isdo.bench.problems import Problem, own_problem
from isdo.models import Given
from isdo.path import FLOW, PATHS, VE
from isdo.schedules import karras

POWER = 2.0


@pytest.mark.parametrize("nodes", [2, 3, 5])
def test_dynamic_programming_finds_what_trying_everything_finds(nodes):
    generator = torch.Generator().manual_seed(nodes)
    costs, last = torch.rand(9, 9, generator=generator), torch.rand(9, generator=generator)

    def total(way):
        return sum(costs[i, j] for i, j in zip(way, way[1:], strict=False)) + last[way[-1]]

    ways = [(0, *rest) for rest in combinations(range(1, 9), nodes - 1)]
    assert grids.cheapest(costs, last, nodes) == list(min(ways, key=total))


def trajectory(path):
    """The exact one of a white Gaussian: x/psi stands still, D = a S/psi^2 x."""
    sigmas = torch.linspace(0.99, 0.02, 12, dtype=torch.float64)
    a, psi = path.signal(sigmas), (path.signal(sigmas) ** 2 * POWER + sigmas**2).sqrt()
    noise = torch.randn(4, 2, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = psi[:, None, None, None, None] * noise
    return sigmas, x, (a * POWER / psi**2)[:, None, None, None, None] * x, noise


@pytest.mark.parametrize("path", [VE, FLOW])
def test_costs_are_those_of_the_euler_step(path):
    sigmas, x, denoised, noise = trajectory(path)
    plain = grids.step_costs(sigmas, x, denoised)
    for i, j in [(0, 1), (3, 9)]:
        landed = x[i] + (sigmas[j] - sigmas[i]) * (x[i] - denoised[i]) / sigmas[i]
        assert plain[i, j] == pytest.approx((landed - x[j]).square().mean().item())
    arriving = grids.arriving_costs(sigmas, x, denoised, path)
    share = denoised[-1].square().mean()  # the power of the last picture stands for S
    share = share / (path.signal(sigmas) ** 2 * share + sigmas**2)
    ratio = (arriving / plain / share)[torch.ones(12, 12).triu(1).bool()]
    assert (
        (ratio > 0.5) & (ratio < 2)
    ).all()  # band by band the power of a few pictures is not quite white


@pytest.mark.parametrize("name", PATHS)
def test_the_teacher_follows_the_exact_trajectory(name):
    path = PATHS[name]

    def model(x, sigma):
        sigma = sigma[:, None, None, None]
        a = path.signal(sigma)
        return a * POWER / (a**2 * POWER + sigma**2) * x

    table = torch.linspace(0.02, 0.99, 50, dtype=torch.float64)
    *_, noise = trajectory(path)
    x = noise * (path.signal(table[-1]) ** 2 * POWER + table[-1] ** 2).sqrt()
    problem = Problem("white", name, model, x, table, solve=None)
    sigmas, states, denoised = grids.teacher(problem)
    psi = (path.signal(sigmas) ** 2 * POWER + sigmas**2).sqrt()
    assert (
        len(sigmas) == grids.FINE + 1
        and sigmas[0] == pytest.approx(0.99)
        and sigmas[-1] == pytest.approx(0.02)
    )
    torch.testing.assert_close(states, psi[:, None, None, None, None] * noise, rtol=2e-3, atol=2e-3)

    start, run = karras(5, 0.02, 0.99), grids.SAMPLERS["dpmpp_2m"].run

    def error(grid):
        return grids.rms(run(model, x, grid.double(), disable=True) - denoised[-1]).median()

    found = grids.search(problem, denoised[-1], run, start)
    assert found[0] == start[0] and found[-1] == 0 and (found.diff() < 0).all()
    assert error(found) < 0.9 * error(start)


def test_the_page_holds_each_grid_against_karras():
    base = {"suite": "grids", "path": "ve", "seed": 0, "images": 2}
    rows = [
        base
        | {
            "problem": problem,
            "grid": grid,
            "calls": calls,
            "sampler": "isdo_scheduled",
            "median": error * calls,
        }
        for problem, errors in {
            "a": {"karras": 0.2, "other": 0.1},
            "b": {"karras": 0.1, "other": 0.2, "third": 0.3},
        }.items()
        for grid, error in errors.items()
        for calls in (5, 8)
    ]
    page = grids.text(rows)
    assert "| ISDO, as scheduled | other | 0.7071 | 1.1314 | 1.00 |" in page
    assert (
        "| ISDO, as scheduled | a | 1.00 | 0.50 |  |" in page
        and "| ISDO, as scheduled | b | 1.00 | 2.00 | 3.00 |" in page
    )


@pytest.fixture
def given(pixel_mixture):
    """A model of a few pixels, so that the bench is quick."""
    model = pixel_mixture("ve")
    model.sigma_min, model.sigma_max = 0.05, 8.0
    return Given("pixels", model, shape=(1, 4, 6))


def test_a_run_holds_every_grid_against_each_sampler_and_searches_on_other_pictures(given):
    rows, page = grids.run(seed=5, limit=3, calls=(4,), models=(given,))
    by = {(row["grid"], row["sampler"]): row for row in rows}
    names = [
        "karras", "exponential", "curvature, stored", "curvature, probe", "DP, GITS",
        "DP, arriving", "searched",
    ]  # fmt: skip
    assert set(by) == {(name, sampler) for name in names for sampler in grids.JUDGED}
    assert len(rows) == len(by) and {row["seed"] for row in rows} == {5}
    assert {row["problem"] for row in rows} == {"pixels"}
    problem, other = own_problem(given, 5, 3), own_problem(given, 5 + grids.SEED, 3)
    for (name, sampler), row in by.items():
        levels = row["sigmas"]
        assert len(levels) == 5 and levels[0] == pytest.approx(8.0) and levels[-1] == 0, name
        assert levels == sorted(levels, reverse=True) and row["made"] == row["calls"] == 4
        run = grids.SAMPLERS[sampler].run
        x = run(problem.model, problem.x, torch.tensor(levels), disable=True)
        error = grids.rms(x - problem.reference()).median().item()
        assert row["median"] == pytest.approx(error, rel=0.02, abs=1e-5)
    fine, _, _ = grids.teacher(other)
    for name in ("DP, GITS", "DP, arriving"):
        levels = by[name, "dpmpp_2m"]["sigmas"][:-1]
        assert all((fine / level - 1).abs().min() < 1e-5 for level in levels)
    # what was searched is no worse than where it began, on the pictures that it was searched on
    start, found = (torch.tensor(by[name, "dpmpp_2m"]["sigmas"]) for name in names[3::3])
    run, wanted = grids.SAMPLERS["dpmpp_2m"].run, grids.teacher(other)[2][-1]
    before, after = (
        grids.rms(run(other.model, other.x, levels, disable=True) - wanted).median()
        for levels in (start, found)
    )
    assert after < before and not torch.equal(start, found)
    assert (
        f"| {grids.SAMPLERS['dpmpp_2m'].label} | karras |" in page and page.count("| 1.00 |") >= 2
    )


def test_a_run_of_no_problem_says_which_there_are(given):
    with pytest.raises(ValueError, match="no problem has 'emoji' in its name: there are pixels"):
        grids.run(only="emoji", models=(given,))


def test_a_model_that_every_sampler_draws_exactly_has_a_page():
    """One that always says the same, say: errors of 0 are all alike."""
    rows = [
        {
            "problem": "flat",
            "grid": grid,
            "calls": 5,
            "sampler": sampler,
            "median": 0.0,
            "images": 2,
        }
        for grid in ("karras", "other")
        for sampler in grids.JUDGED
    ]
    page = grids.text(rows)
    assert "| flat | 1.00 | 1.00 |" in page and "--suite grids --limit 2 " in page
