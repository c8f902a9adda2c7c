"""The ablation: a number that is left out is left out of the solver's run, its worth is counted
picture by picture, and what is known is not run again."""

from dataclasses import dataclass, field, fields, replace
from types import SimpleNamespace

import pytest
import torch
from commandline import run as command

from isdo import Settings, sample_isdo, solver
from isdo.bench import ablation, report, sweep
from isdo.bench.kept import merged
from isdo.bench.problems import problem, rms
from isdo.bench.work_precision import limited
from isdo.multistep import Multistep


def tuned(value, without, says, chosen):
    """Return a field of a table of numbers, as the core's has them."""
    return field(default=value, metadata={"without": without, "says": says, "chosen": chosen})


@dataclass(frozen=True)
class Numbers:
    """Three numbers that are settings of the solver, so that each one's absence is known."""

    order: int = tuned(4, (1, 2), "the highest order", "nothing")
    power: str = tuned("fitted", "zero", "the measured power", "the analytic problems")
    bounds: tuple = tuned((1.0, 2.0), (0.0, 0.5), "bounds of nothing", "seed 0")


NUMBERS, SOLVER = Numbers(), solver.SOLVERS["multistep"]


def made(path, spectrum, settings, like, window, low=0.0, tuned=NUMBERS):
    settings = replace(settings, order=tuned.order, power=tuned.power)
    return Multistep(path, spectrum, settings, like, window, low)


@pytest.fixture(autouse=True)
def core(monkeypatch):
    """A core whose solver takes the three numbers."""
    row = replace(SOLVER, make=made)
    monkeypatch.setitem(solver.SOLVERS, "multistep", row)
    monkeypatch.setattr(ablation, "defaults", lambda: NUMBERS)


@pytest.fixture(scope="module")
def cases():
    return [limited(problem("stationary", path, ablation.SEED), 2) for path in ("ve", "flow")]


@pytest.fixture
def problems(monkeypatch, cases):
    """The analytic problems are two small ones, solved once."""
    makers = [("analytic", lambda case=case: case) for case in cases]
    monkeypatch.setattr(sweep, "makers", lambda seed, models, guidance: makers)
    return cases


def test_every_number_is_left_out_in_each_of_its_ways():
    found = ablation.variants(NUMBERS)
    assert [(variant.name, variant.value) for variant in found] == [
        ("", None), ("order", 1), ("order", 2), ("power", "zero"), ("bounds", (0.0, 0.5)),
    ]  # fmt: skip
    assert found[0].tuned == NUMBERS
    for variant in found[1:]:
        others = [f.name for f in fields(NUMBERS) if f.name != variant.name]
        assert getattr(variant.tuned, variant.name) == variant.value
        assert all(getattr(variant.tuned, n) == getattr(NUMBERS, n) for n in others)
    assert len({variant.digest for variant in found}) == 5


def test_a_tuple_can_be_left_out_in_several_ways():
    @dataclass(frozen=True)
    class Pairs:
        pair: tuple = tuned((1.0, 2.0), ((0.0, 2.0), (1.0, 0.0)), "", "")

    assert ablation.alternatives(fields(Pairs)[0]) == ((0.0, 2.0), (1.0, 0.0))


@pytest.mark.parametrize("index, setting", [(0, {}), (1, {"order": 1}), (3, {"power": "zero"})])
def test_the_errors_are_those_of_the_solver_without_it(cases, monkeypatch, index, setting):
    case, variant = cases[0], ablation.variants(NUMBERS)[index]
    sigmas = case.schedules()["karras"](6)
    found = ablation.errors(case, variant, 6)
    monkeypatch.setitem(solver.SOLVERS, "multistep", SOLVER)
    x = sample_isdo(case.model, case.x, sigmas, disable=True, settings=Settings(**setting))
    assert found == rms(x - case.reference()).tolist()


def test_the_solver_is_as_it_was_afterwards():
    row = solver.SOLVERS["multistep"]
    with pytest.raises(KeyError), ablation.solving_with(NUMBERS):
        assert solver.SOLVERS["multistep"] is not row
        raise KeyError
    assert solver.SOLVERS["multistep"] is row


def test_an_error_that_is_no_number_is_a_large_one(cases):
    defaults = ablation.variants(NUMBERS)[0]
    broken = replace(cases[0], solve=lambda p: (p.x * torch.nan, torch.zeros(len(p.x))))
    assert ablation.errors(broken, defaults, 3) == [ablation.LARGEST] * 2
    mute = replace(cases[0], model=lambda x, sigma: x * torch.nan)
    assert ablation.errors(mute, defaults, 3) == [ablation.LARGEST] * 2


def row(variant, errors, suite="analytic", calls=6, problem="a"):
    return {
        "bench": "ablation", "suite": suite, "problem": problem, "path": "ve", "grid": "karras", "calls": calls,
        "seed": 11, "images": len(errors), "fingerprint": "1", "tuned": variant.digest, "errors": errors,
    }  # fmt: skip


def test_the_worth_is_of_each_picture_beside_itself_and_of_each_column_by_itself():
    defaults, first, second, *_ = ablation.variants(NUMBERS)
    rows = [
        row(defaults, [1.0, 2.0]), row(first, [2.0, 16.0]),  # 2 and 8: 4
        row(defaults, [1.0, 1.0], calls=10), row(first, [1.0, 1.0], calls=10),
        row(defaults, [0.0, 1.0], "zoo"), row(first, [ablation.SMALLEST / 2, 0.25], "zoo", problem="a"),
        row(second, [1.0, 1.0], "photographs"),  # no defaults beside it
    ]  # fmt: skip
    found = ablation.worth(rows, NUMBERS, first)
    assert found.means == pytest.approx({"analytic": 2.0, "zoo": 0.5})
    assert found.worst["ratio"] == pytest.approx(4) and found.worst["calls"] == 6
    assert not found.negligible
    assert ablation.worth(rows, NUMBERS, second) is None
    text = ablation.table(rows, NUMBERS)
    lines = [line.strip("| ").split(" | ") for line in text.splitlines()]
    assert lines[0] == [
        "number", "value", "what it does", "chosen on", "left out by", "analytic", "zoo", "photographs", "worst cell",
    ]  # fmt: skip
    assert lines[2][:7] == ["`order`", "4", "the highest order", "nothing", "1", "2.000", "0.500"]
    assert "4.00 (a (ve), 6 calls)" in text
    assert lines[5][:5] == ["`bounds`", "1, 2", "bounds of nothing", "seed 0", "0, 0.5"]


def test_a_number_is_idle_that_costs_next_to_nothing_in_every_column():
    defaults, first, second, power, bounds = ablation.variants(NUMBERS)
    rows = [row(defaults, [1.0], suite) for suite in ("analytic", "zoo")]
    cost = {first: (1.0, 1.02), second: (1.02, 1.02), power: (0.9, 1.009), bounds: (1.011, 0.5)}
    rows += [
        row(variant, [ratio], suite)
        for variant, pair in cost.items()
        for suite, ratio in zip(("analytic", "zoo"), pair, strict=True)
    ]
    assert ablation.idle(rows, NUMBERS) == ["power"]
    assert "less than 1% in every column that is measured: `power`." in ablation.page(
        rows, tuned=NUMBERS
    )


def test_a_run_has_a_row_for_each_variant_problem_and_number_of_calls(problems):
    saved = []
    rows = ablation.run(calls=(3, 4), save=lambda rows: saved.append(len(rows)))
    assert len(rows) == 2 * 5 * 2 and saved == list(range(1, 21))
    assert {(r["suite"], r["problem"], r["path"], r["seed"]) for r in rows} == {
        ("analytic", "stationary", path, 11) for path in ("ve", "flow")
    }
    defaults, first, *_ = (v.digest for v in ablation.variants(NUMBERS))
    by_tuned = {r["tuned"]: r["errors"] for r in rows if (r["path"], r["calls"]) == ("ve", 4)}
    assert by_tuned[first] == ablation.errors(problems[0], ablation.variants(NUMBERS)[1], 4)
    assert by_tuned[ablation.variants(NUMBERS)[4].digest] == by_tuned[defaults]  # bounds do nothing
    assert ablation.worth(rows, NUMBERS, ablation.variants(NUMBERS)[4]).means == {"analytic": 1.0}


def test_what_is_known_is_not_run_again_unless_a_number_has_changed(problems, monkeypatch):
    rows = ablation.run(calls=(3,))
    old = [r | {"errors": [7.0, 7.0]} for r in rows]
    assert ablation.run(calls=(3,), reuse=old) == old
    asked = []
    monkeypatch.setattr(ablation, "errors", lambda case, variant, n: asked.append(variant) or [1.0])
    other = replace(NUMBERS, bounds=(1.0, 3.0))
    found = ablation.run(calls=(3,), reuse=old, tuned=other)
    # only without the bounds are the numbers what they were
    assert [v.name for v in asked] == 2 * ["", "order", "order", "power"]
    assert sum(r["errors"] == [7.0, 7.0] for r in found) == 2
    assert merged(old, found, ablation.KEY)[: len(old) - 2] == [r for r in old if r not in found]
    assert len(merged(rows, rows, ablation.KEY)) == len(rows)


def test_a_model_of_ones_own_has_a_column_of_its_name(monkeypatch, cases):
    given = SimpleNamespace(title=cases[0].name)
    monkeypatch.setattr(sweep, "makers", lambda seed, models, guidance: [("zoo", lambda: cases[0])])
    for column, name in ((None, "stationary"), ("photographs", "photographs")):
        rows = ablation.run(calls=(3,), models=(given,), column=column)
        assert {r["suite"] for r in rows} == {name}
        assert ablation.columns(rows) == ["analytic", "zoo", name]
    assert {r["suite"] for r in ablation.run(calls=(3,), models=("eps",))} == {"zoo"}


def test_the_problems_are_those_of_the_sweep_with_three_guidances():
    found = [(suite, make.args) for suite, make in sweep.makers(11, None, ablation.GUIDANCE)]
    assert {args[1] for suite, args in found if suite == "zoo"} == set(ablation.GUIDANCE)
    assert {args[2] for _, args in found} == {11} and ablation.SEED != sweep.SEED


def test_the_command_goes_on_and_puts_the_table_between_its_marks(
    capsys, tmp_path, monkeypatch, problems
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ablation.run, "__defaults__", (iter, (3,)))
    page = f"# Experiments\n\n{ablation.MARK}\nold\n{ablation.MARK}\n\nBelow.\n"
    (tmp_path / "experiments.md").write_text(page)
    words = ["bench", "--suite", "ablation", "--json", "a.json", "--doc", "ablation.md"]
    status, printed, error = command(capsys, *words, "--into", "experiments.md")
    assert status == 0, error
    rows = report.read_json("a.json")
    table = ablation.table(rows, NUMBERS)
    assert (tmp_path / "experiments.md").read_text() == page.replace("old", f"\n{table}\n")
    assert table in printed and table in (tmp_path / "ablation.md").read_text()
    assert "    python -m isdo bench --suite ablation --json out/ablation.json --doc" in printed
    monkeypatch.setattr(ablation, "errors", lambda *_: pytest.fail("it is known"))
    assert command(capsys, *words)[0] == 0 and report.read_json("a.json") == rows
    (tmp_path / "experiments.md").write_text(ablation.MARK)
    status, _, error = command(capsys, *words, "--into", "experiments.md")
    assert status == 2 and "experiments.md has 1 lines <!-- ablation -->: write two" in error
