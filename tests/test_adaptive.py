"""The bench of solvers that find their own steps: how calls to an error are told, what is measured,
what the page says."""

from functools import partial

import pytest
import torch

from isdo.bench import adaptive, report
from isdo.bench.kept import merged
from isdo.bench.problems import GAUSSIAN, problem, rms
from isdo.bench.work_precision import limited

pytestmark = pytest.mark.usefixtures("no_grad")
SMALL = [lambda path=path: adaptive.lowered(problem(GAUSSIAN, path)) for path in ("ve", "flow")]


@pytest.fixture(scope="module")
def rows():
    with torch.no_grad():
        return adaptive.run(makers=SMALL, limit=1)


LINE = [(10, 0.1), (20, 0.01), (40, 0.02), (80, 0.001)]


@pytest.mark.parametrize(
    "target, calls",
    [(0.2, 10), (0.1, 10), (0.01, 20), (0.001, 80), (1e-4, None), (0.1**1.5, 200**0.5)],
)
def test_calls_to_an_error_lie_between_what_was_measured(target, calls):
    found = adaptive.calls_to(LINE, target)
    assert found is calls is None or found == pytest.approx(calls)


def test_a_promise_is_told_by_its_median():
    pairs = [(0.1, 0.02), (0.01, 0.002), (0.1, 0.1), (0.1, 0.001), (0.01, 0.1)]
    assert adaptive.promise(pairs) == pytest.approx((0.2, 0.6, 0.05, 50))


def test_every_solver_is_measured_at_every_tolerance_and_tighter_is_nearer(rows):
    assert len(rows) == 2 * sum(len(sampler.tolerances) for sampler in adaptive.SAMPLERS.values())
    for lines in adaptive.curves(rows).values():
        for name in adaptive.BASELINES:
            assert (
                lines[name][-1][1] < 0.1 * lines[name][0][1]
            )  # what they are measured by is theirs to keep
    assert all(len(row["errors"]) == len(row["calls"]) == len(row["rejected"]) == 1 for row in rows)
    assert all(ratio < 0.6 for ratio in adaptive.ratios(adaptive.standing(rows)).values())


def test_calls_are_those_of_the_model():
    p, model = limited(SMALL[0](), 2), []

    def counted(x, sigma):
        model.append(len(x))
        return p.model(x, sigma)

    for name, sampler in adaptive.SAMPLERS.items():
        model.clear()
        held = partial(counted)
        held.path, held.sigmas = p.model.path, p.model.sigmas
        x, calls, _ = sampler.run(adaptive.replace(p, model=held), 0.03)
        assert rms(x - p.reference()).max() < 0.5
        assert len(model) == (sum(calls) if name in adaptive.BASELINES else max(calls)), name


def test_rows_of_an_earlier_run_are_not_measured_again(rows, monkeypatch):
    monkeypatch.setattr(adaptive, "measure", None)
    saved = []
    assert (
        adaptive.run(makers=SMALL, limit=1, reuse=rows, save=saved.append) == rows
        and len(saved) == 2
    )
    assert merged(rows, rows[:3], adaptive.KEY) == rows[3:] + rows[:3]


def test_the_page_and_the_plot_show_all(rows, tmp_path):
    text = adaptive.page(rows)
    assert (
        "gaussian (ve)" in text and "**" in text and "nan" not in text and "the aim was 0.6" in text
    )
    adaptive.plot(rows, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000
    report.write_json(rows, tmp_path / "a.json")
    assert report.read_json(tmp_path / "a.json") == rows
