"""The sweep: what it varies, that it counts as the bench does, and its page."""

from dataclasses import asdict

import pytest

from isdo import Settings
from isdo.bench import sweep
from isdo.bench.baselines import BASELINES
from isdo.bench.problems import problem
from isdo.bench.work_precision import ISDO, limited, measure
from isdo.settings import FIELDS

PROBLEM = "stationary"
VARIANTS, MAKERS = sweep.variants(), sweep.makers()  # before a fixture puts others in their place


@pytest.fixture(scope="module")
def problems():
    """One kind of problem on both paths, two pictures each, solved once."""
    return [limited(problem(PROBLEM, path, sweep.SEED), 2) for path in ("ve", "flow")]


@pytest.fixture(scope="module")
def sweep_again(problems):
    """The sweep of two variants with six calls on them; its arguments are `reuse` and the like."""
    with pytest.MonkeyPatch.context() as patch:
        settings = {"defaults": Settings(), "power zero": Settings(power="zero")}
        patch.setattr(sweep, "variants", lambda: settings)
        patch.setattr(
            sweep,
            "makers",
            lambda seed: [("analytic", lambda case=case: case) for case in problems],
        )
        yield lambda **options: sweep.run(calls=(6,), limit=None, **options)


@pytest.fixture(scope="module")
def rows(sweep_again):
    return sweep_again()


def test_the_defaults_stand_where_the_bench_sees_them(problems, rows):
    ratio = 1.0
    for case in problems:
        mine = [row for row in rows if row["path"] == case.path]
        best = min(row["median"] for row in mine if row["sampler"] in BASELINES)
        ratio *= measure(case, ISDO, case.schedules()[sweep.SCHEDULE], 6)["median"] / best
    found = sweep.standing(rows, "defaults")
    assert found.analytic == pytest.approx(ratio**0.5, rel=1e-9) == found.by_calls[6]
    assert found.zoo is None
    assert sweep.standing(rows, "power zero").analytic != found.analytic


def test_baselines_are_measured_once_and_variants_anew(rows, sweep_again):
    again = sweep_again(reuse=[row | {"median": 7.0} for row in rows])
    assert all((row["median"] == 7.0) == (row["sampler"] in BASELINES) for row in again)


def test_the_page_has_a_line_for_each_variant_and_says_how_to_run_it(rows):
    text = sweep.page(rows)
    assert "python -m isdo bench --suite sweep" in text and "| power zero | " in text
    assert f"- analytic: {PROBLEM} (flow); {PROBLEM} (ve)" in text
    line = next(line for line in sweep.table(rows).splitlines() if line.startswith("| defaults"))
    found = sweep.standing(rows, "defaults")
    assert line.split(" | ")[1:4] == [f"{found.analytic:.3f}", "", f"{found.by_calls[6]:.3f}"]


def test_each_variant_differs_in_the_one_setting_it_names():
    found = dict(VARIANTS)
    assert found.pop("defaults") == Settings()
    for name, settings in found.items():
        changed = settings.changed()
        assert len(changed) == 1 and name == " ".join(map(str, *changed.items()))
    tried = {next(iter(settings.changed())) for settings in found.values()}
    assert tried == {field.key for field in FIELDS} - set(sweep.FIXED)
    assert set(sweep.VALUES) <= set(asdict(Settings()))


def test_the_sweep_covers_both_paths_and_both_suites():
    names = [(suite, make.args) for suite, make in MAKERS]
    assert {args[1] for suite, args in names if suite == "analytic"} == {"ve", "flow"}
    assert {args[1] for suite, args in names if suite == "zoo"} <= set(sweep.GUIDANCE)
