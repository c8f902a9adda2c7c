"""The user's choice: each sampler on its best schedule, on rows whose answers are known and on a
problem that is solved exactly."""

from functools import partial

import pytest

from isdo.bench import choice, problems, work_precision
from isdo.bench.problems import problem

LABELS = {"isdo": "ISDO", "dpmpp_2m": "DPM++ 2M", "deis": "DEIS", "euler": "Euler"}


def row(sampler, grid, calls, error, **more):
    about = {
        "problem": "p",
        "path": "ve",
        "seed": 0,
        "images": 4,
        "fingerprint": "f",
        "suite": "choice",
    }
    numbers = {"median": error, "uncertainty": 0.0, "label": LABELS[sampler]}
    return about | {"sampler": sampler, "grid": grid, "calls": calls} | numbers | more


ROWS = [
    row("isdo", "karras", 8, 0.04), row("isdo", "simple", 8, 0.02),
    row("dpmpp_2m", "karras", 8, 0.16), row("dpmpp_2m", "simple", 8, 0.32),
    row("deis", "karras", 8, 0.5), row("deis", "curvature", 8, 0.1),
    row("dpmpp_2m", "karras", 16, 0.01), row("dpmpp_2m", "simple", 16, 0.5),
]  # fmt: skip


def test_each_is_on_its_own_best_schedule():
    (found,) = choice.choices(ROWS)
    assert (found["own"]["grid"], found["peer"]["label"], found["peer"]["grid"]) == (
        "simple", "DEIS", "curvature",
    )  # fmt: skip
    assert found["ratio"] == pytest.approx(0.2)
    # 0.16 at 8, 0.01 at 16: of order four, so that 0.02 is reached at 8 * 8^(1/4)
    assert found["needs"] == pytest.approx(8 * 8**0.25)


@pytest.mark.parametrize("order", [1, 3])
def test_calls_are_found_exactly_where_the_error_is_a_power_of_them(order):
    curve = {n: n**-order for n in (5, 8, 20, 30)}
    for calls in (5.5, 8.0, 19.0, 30.0):
        assert choice.calls_needed(curve, calls**-order) == pytest.approx(calls, rel=1e-9)
    assert choice.calls_needed(curve, 4.0**-order) == 5  # fewer were not measured
    assert choice.calls_needed(curve, 31.0**-order) is None
    assert choice.calls_needed({}, 1.0) is None
    assert choice.calls_needed({5: 1.0, 6: 0.0}, 0.5) == 6


def test_an_error_that_rises_again_counts_where_it_was_reached_first():
    assert choice.calls_needed({5: 1.0, 10: 0.1, 20: 0.5, 30: 0.01}, 0.1) == pytest.approx(10)


def test_errors_below_what_the_reference_knows_are_ties():
    rows = [row(s, "karras", 8, e, uncertainty=0.2) for s, e in (("isdo", 0.01), ("euler", 0.1))]
    assert choice.choices(rows)[0]["ratio"] == 1


def test_the_page_says_all_of_it(tmp_path):
    harder = [
        one | {"problem": "q", "median": one["median"] * (4 if one["sampler"] == "isdo" else 1)}
        for one in ROWS
    ]
    never = [one | {"median": 0.6} for one in harder if one["sampler"] == "dpmpp_2m"]
    rows = [*ROWS, *(one for one in harder if one["sampler"] != "dpmpp_2m"), *never]
    page = choice.page(rows, None, "somewhere/own.md")
    assert (
        "## p (ve)" in page
        and "| 8 | 0.0200 | simple | DEIS | 0.1000 | curvature | 0.20 | 13.5 |" in page
    )
    assert (
        "## q (ve)" in page
        and "| 8 | 0.0800 | simple | DEIS | 0.1000 | curvature | 0.80 | >16 |" in page
    )
    assert (
        "Geometric mean over all: **0.40**" in page and "| geometric mean | 0.40 | 0.40 |" in page
    )
    assert (
        "--suite choice --calls 8 --limit 4 --json out/own.json --doc docs/own.md --plot docs/own.png"
        in page
    )
    assert "(own.png)" in page and "Schedules: karras, simple, curvature," in page
    choice.plot(rows, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="nothing to compare"):
        choice.page(ROWS[:2])


def test_a_run_has_every_schedule_that_there_is_and_goes_on_from_its_rows(monkeypatch):
    """Of a Gaussian ISDO knows the answer, on whatever schedule."""
    monkeypatch.setitem(
        problems.SUITES, "choice", lambda *_, **__: [partial(problem, "stationary", "ve")]
    )
    monkeypatch.setattr(choice, "WIDER", (6, 9))
    rows = choice.run((6,), limit=2, progress=False)
    assert {one["grid"] for one in rows} == set(problem("stationary", "ve").offered())
    assert {one["calls"] for one in rows if one["sampler"] == "dpmpp_2m"} == {6, 9}
    assert {one["calls"] for one in rows if one["sampler"] != "dpmpp_2m"} == {6}
    (found,) = choice.choices(rows)
    assert found["ratio"] < 0.5 and found["own"]["sampler"] == "isdo"
    wanted = min(one["median"] for one in rows if one["sampler"] == "isdo")
    assert found["own"]["median"] == wanted

    def never(*_):
        raise AssertionError("this was known")

    monkeypatch.setattr(work_precision, "measure", never)
    assert choice.run((6,), limit=2, progress=False, reuse=rows) == rows
