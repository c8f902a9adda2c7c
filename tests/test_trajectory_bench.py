"""The suite trajectory: its baselines solve what they say, and its page says what was measured."""

import pytest
import torch

from isdo.bench import trajectory
from isdo.bench.problems import problem, rms
from isdo.bench.work_precision import limited
from isdo.reference import ddim


@pytest.fixture(scope="module", params=["ve", "flow"])
def case(request):
    return limited(problem("stationary", request.param), 1)


@pytest.mark.parametrize("history", [0, 2])
def test_the_baselines_end_on_ddims_own_solution(case, history):
    sigmas = case.x.new_tensor(trajectory.levels(case))
    exact = ddim(case.model, case.x, sigmas, case.extra_args, disable=True)
    *_, (calls, found) = trajectory.picard(case, history=history)
    assert rms(found - exact) < 2e-3 and calls > trajectory.STEPS


def test_each_round_of_picards_iteration_makes_a_node_right(case):
    """ParaDiGMS after k sweeps has the first k steps of DDIM exactly: with reach 1 these are
    Jacobi's sweeps."""
    walk = trajectory.picard(case, order=1)
    first, second = next(walk)[0], next(walk)[0]
    assert (first, second) == (1, trajectory.STEPS)  # one call, then all nodes but the first
    settled = [calls for calls, _ in zip((calls for calls, _ in walk), range(20), strict=False)]
    assert all(
        0 < after - before < trajectory.STEPS
        for before, after in zip(settled, settled[1:], strict=False)
    )


def test_anderson_solves_a_linear_system_of_few_directions_at_once():
    """Residuals in the span of the history vanish: x + change is the solution."""
    torch.manual_seed(0)
    solution, state = torch.randn(2, 3, 1, 1, 1, 4, dtype=torch.float64)[:, :, 0]
    pull = torch.tensor(
        [0.5, 0.5, 0.1, 0.1], dtype=torch.float64
    )  # two directions, and as many earlier rounds
    moved = [state, state + pull * (solution - state)]
    moved.append(moved[-1] + (solution - moved[-1]) * pull)
    past = [(x, pull * (solution - x)) for x in reversed(moved[:-1])]
    change = trajectory.anderson(moved[-1], pull * (solution - moved[-1]), past, [1.0] * 3)
    plain = pull * (solution - moved[-1])
    assert torch.equal(change[0], plain[0])  # the first node takes the plain step
    before, after = ((solution - moved[-1] - step)[1:].norm() for step in (plain, change))
    assert after < 0.01 * before


def test_rounds_and_calls_to_an_accuracy():
    row = {"rounds": [(1, 0.5), (20, 0.1), (39, 0.01)]}
    assert trajectory.rounds_to(row, 0.1) == (2, 20) and trajectory.rounds_to(row, 1e-3) is None
    line = {"rounds": [(10, 0.1), (100, 0.001)]}
    assert (
        trajectory.error_at(line, 10) == pytest.approx(0.1)
        and trajectory.error_at(line, 500) == 0.001
    )
    assert trajectory.error_at(line, 10**1.5) == pytest.approx(0.01)


def test_isdo_needs_fewer_rounds_and_the_page_says_so(case, tmp_path):
    rows = trajectory.run(makers=[lambda: case], limit=1)
    assert trajectory.run(makers=[lambda: case], limit=1, reuse=rows) == rows
    cell = trajectory.table(rows)[case.name, case.path]
    wanted = trajectory.targets(cell)["ddim"]
    isdo, picard, paradigms = (
        trajectory.rounds_to(cell[name], wanted)[0] for name in ("isdo", "isdo_picard", "paradigms")
    )
    assert isdo <= trajectory.AIM and isdo <= picard < paradigms
    text = trajectory.page(rows)
    assert f"| {case.name} ({case.path}) | {isdo} (" in text and "ParaTAA" in text
    trajectory.plot(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
