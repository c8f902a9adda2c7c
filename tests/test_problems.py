import json
from dataclasses import replace

import pytest
import torch

from isdo.bench import problems, report, work_precision
from isdo.bench.baselines import BASELINES, FURTHER
from isdo.bench.problems import GAUSSIAN, SUITES, Problem, hartley, problem, rms
from isdo.bench.work_precision import (
    HEADLINE,
    SAMPLERS,
    bent_schedules,
    limited,
    measure,
    run,
    summary,
)
from isdo.path import PATHS

pytestmark = pytest.mark.usefixtures("no_grad")

FAST = [name for name in problems.ANALYTIC if name != "data set"]
both_paths = pytest.mark.parametrize("path", PATHS)


def at(problem, sigma):
    return problem.x.new_full((len(problem.x),), sigma)


@both_paths
def test_reference_of_the_gaussian_is_its_closed_form(path):
    p = problem(GAUSSIAN, path)
    mean, power, start = p.model.means[0], p.model.powers[0], p.sigma_max
    signal = PATHS[path].signal(start)
    # every mode only shrinks, in proportion to its standard deviation
    shrink = (power / (signal**2 * power + start**2)).sqrt()
    exact = hartley(mean + shrink * (hartley(p.x) - signal * mean))
    assert rms(p.reference() - exact).max() < 1e-8
    assert p.uncertainty().max() < 1e-7 and p.reference() is p.reference()


def test_hartley_is_its_own_inverse_and_orthonormal():
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(hartley(hartley(x)), x)
    torch.testing.assert_close(hartley(x).norm(), x.norm())


@both_paths
@pytest.mark.parametrize("name", FAST)
def test_denoised_is_the_posterior_mean_by_tweedie(name, path):
    """The score of the mixture's density, by autograd, gives D: a D = x + sigma^2 grad log p."""
    p = problem(name, path, seed=3)
    sigma = torch.tensor([0.3], dtype=torch.float64)
    signal, x = PATHS[path].signal(sigma), p.x[:1] * 0.3 / p.sigma_max
    with torch.enable_grad():
        x.requires_grad_(True)
        odds = p.model.component_log_odds(
            hartley(x), signal.view(1, 1, 1, 1, 1), sigma.view(1, 1, 1, 1, 1)
        )
        (score,) = torch.autograd.grad(odds.logsumexp(1).sum(), x)
    want = (x + sigma**2 * score) / signal
    torch.testing.assert_close(p.model(x.detach(), sigma), want.detach(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["stationary, guidance 5", "anisotropic, guidance 7.5"])
def test_guidance_extrapolates_from_no_class_to_the_class(name):
    p = problem(name, "ve")
    x, sigma, labels, scale = p.x / 10, at(p, 1.4), p.extra_args["labels"], p.extra_args["guidance"]
    plain, within = p.model(x, sigma), p.model(x, sigma, labels, 1.0)
    torch.testing.assert_close(p.model(x, sigma, **p.extra_args), plain + scale * (within - plain))
    only = problems.Mixture(
        p.model.path, p.model.means[::3], p.model.powers[::3], p.model.classes[::3]
    )
    torch.testing.assert_close(within[labels == 0], only(x, sigma)[labels == 0])


def test_powers_are_those_of_real_fields():
    """Only spectra even in k make the Hartley modes of a stationary field independent."""
    for make in (problems.radial_powers, problems.directed_powers):
        power = make(4, torch.Generator().manual_seed(0))
        torch.testing.assert_close(power, power.flip(2, 3).roll((1, 1), (2, 3)))
        assert power.min() > 0


@both_paths
def test_data_set_denoiser_goes_from_the_mean_to_the_nearest_picture(path):
    p = problem("data set", path)
    pictures = p.model.flat.view(-1, *p.x.shape[1:])
    if path == "flow":
        torch.testing.assert_close(p.model(p.x, at(p, 1.0)), pictures.mean(0).expand_as(p.x))
    low = at(p, 1e-4)
    torch.testing.assert_close(
        p.model(pictures[:16] * PATHS[path].signal(1e-4), low), pictures[:16], atol=1e-9, rtol=0
    )
    assert pictures.abs().max() <= 1 and len(pictures) >= 2000


@both_paths
@pytest.mark.parametrize("name", ["stationary, guidance 5", "data set"])
def test_denoised_of_a_picture_does_not_depend_on_its_neighbours_or_their_sigma(name, path):
    p = problem(name, path)
    args = {key: v[:1] if isinstance(v, torch.Tensor) else v for key, v in p.extra_args.items()}
    mixed = torch.linspace(0.5, 0.1, len(p.x), dtype=torch.float64)
    alone = p.model(p.x[:1], mixed[:1], **args)
    torch.testing.assert_close(p.model(p.x, mixed, **p.extra_args)[:1], alone)


@both_paths
def test_seeds_make_other_problems_and_the_same_seed_the_same(path):
    first, same, other = (problem("anisotropic", path, seed) for seed in (0, 0, 1))
    assert (
        torch.equal(first.x, same.x) and first.fingerprint == same.fingerprint != other.fingerprint
    )
    assert not torch.equal(first.model.means, other.model.means)


@both_paths
def test_grids_descend_from_the_start_to_zero(path):
    p = problem("stationary", path)
    for make in p.schedules().values():
        sigmas = make(10)
        assert (
            sigmas.dtype == p.x.dtype
            and len(sigmas) == 11
            and sigmas[-1] == 0
            and (sigmas.diff() < 0).all()
        )
        assert sigmas[0].item() == pytest.approx(p.sigma_max, rel=1e-6)


@both_paths
def test_the_learned_nets_integrator_converges_to_the_closed_form(path):
    p = problem(GAUSSIAN, path)
    x, uncertainty = problems.by_runge_kutta(p)
    mean, power = p.model.means[0], p.model.powers[0]
    high, low = PATHS[path].signal(p.sigma_max), PATHS[path].signal(p.sigma_min)
    inner, outer = low**2 * power + p.sigma_min**2, high**2 * power + p.sigma_max**2
    state = (inner / outer).sqrt() * (hartley(p.x) - high * mean)  # of x - a mean, at sigma_min
    exact = hartley(mean + low * power / inner * state)  # the last step is D
    error = rms(x - exact)
    assert (error < uncertainty).all() and uncertainty.max() < 1e-4


def test_the_reference_of_the_flow_net_is_converged():
    """Steps that are even in a power of sigma pass over what the net does just below sigma = 1 and
    are off by .3."""
    p = problems.zoo_problem("flow", "no class", count=1)
    assert problems.by_runge_kutta(p, steps=60)[1].max() < 1e-3


@both_paths
def test_a_problem_that_begins_in_the_middle_ends_where_the_whole_one_ends(path):
    whole = replace(problem(GAUSSIAN, path), solve=problems.by_runge_kutta)
    p = problems.begun(whole, 0.8)
    assert PATHS[path].noise_to_signal(p.sigma_max) == pytest.approx(0.8)
    assert rms(p.reference() - whole.reference()).max() < 1e-4 and p.name == "gaussian, from 0.8"
    assert set(p.schedules()) == set(whole.schedules())
    for name, make in p.schedules().items():
        sigmas, pace = make(7), whole.schedules()[name](problems.PACE)
        assert (
            len(sigmas) == 8
            and sigmas[0].item() == pytest.approx(p.sigma_max, rel=1e-6)
            and sigmas[-1] == 0
        )
        assert sigmas[-2] == pytest.approx(pace[-2].item(), rel=1e-6) and (sigmas.diff() < 0).all()


def test_the_suite_img2img_begins_where_noise_does_not_hide_the_picture():
    makers = SUITES["img2img"](count=1)
    p = makers[1]()
    assert (
        len(makers) == 12
        and p.name == "eps, guidance 1, from 2.5"
        and len(p.x) == 1
        and p.sigma_max == 2.5
    )
    assert (
        p.table[-1] == 2.5
        and (p.table.diff() > 0).all()
        and p.fingerprint != makers[0]().fingerprint
    )


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="no problem 'nothing'"):
        problem("nothing", "ve")
    with pytest.raises(ValueError, match="no suite 'nothing'"):
        problems.suite("nothing")


@pytest.fixture
def tiny(monkeypatch):
    """A suite of one problem."""
    monkeypatch.setitem(SUITES, "tiny", lambda seed, **_: [lambda: problem(GAUSSIAN, "ve", seed)])


def test_run_measures_the_error_that_one_sees(tiny):
    rows = run("tiny", {"euler": BASELINES["euler"]}, calls=(6,), progress=False, limit=4)
    p = problem(GAUSSIAN, "ve")
    x = BASELINES["euler"].run(p.model, p.x[:4], p.schedules()["karras"](6), disable=True)
    row = next(row for row in rows if row["grid"] == "karras")
    assert row["median"] == pytest.approx(rms(x - p.reference()[:4]).quantile(0.5).item(), rel=1e-6)
    assert (
        row["lower"] <= row["median"] <= row["upper"] <= row["worst"]
        and row["images"] == 4
        and row["made"] == 6
    )


def test_rows_and_references_are_reused(tiny, tmp_path):
    samplers = {"euler": BASELINES["euler"]}
    first = run("tiny", samplers, calls=(5,), progress=False, limit=2, cache=tmp_path)
    report.write_json(first, tmp_path / "rows.json")
    rows = report.read_json(tmp_path / "rows.json")
    assert rows == first and len(list(tmp_path.glob("*.pt"))) == 1

    def never(*args, **kwargs):
        raise AssertionError("this was known")

    assert (
        run(
            "tiny",
            {"euler": never},
            calls=(5,),
            progress=False,
            limit=2,
            reuse=rows,
            cache=tmp_path,
        )
        == first
    )
    with pytest.raises(AssertionError):
        run("tiny", {"euler": never}, calls=(5,), progress=False, limit=2, seed=1, reuse=rows)


@both_paths
def test_bent_schedules_are_where_isdo_makes_its_calls(path):
    case = limited(problem("stationary", path), 2)
    for (name, plain), (bent_name, bend) in zip(
        case.schedules().items(), bent_schedules(case).items(), strict=True
    ):
        assert bent_name == f"{name}, bent" and not torch.equal(plain(7), bend(7))
        by_default = SAMPLERS["isdo"].run(case.model, case.x, plain(7), disable=True)
        there = SAMPLERS["isdo_scheduled"].run(case.model, case.x, bend(7), disable=True)
        torch.testing.assert_close(by_default, there, rtol=1e-9, atol=1e-9)


def test_where_all_are_bent_isdo_is_not_bent_twice(tiny):
    rows = run("tiny", calls=(6,), progress=False, limit=2, bend=True)
    assert {row["sampler"] for row in rows} == {"isdo", *BASELINES} and all(
        row["grid"].endswith(", bent") for row in rows
    )
    plain = run("tiny", {"isdo": SAMPLERS["isdo"]}, calls=(6,), progress=False, limit=2)
    found = {row["grid"]: row["median"] for row in rows if row["sampler"] == "isdo"}
    assert found == pytest.approx(
        {f"{row['grid']}, bent": row["median"] for row in plain}, rel=1e-6, abs=1e-9
    )
    page = report.page(rows)
    assert (
        "--bend --limit 2 --doc docs/tiny-bent.md" in page
        and "Every sampler makes its calls at the levels" in page
    )


def test_baselines_that_the_pages_do_not_have_yet_are_measured_where_asked_for(tiny):
    rows = run("tiny", calls=(6,), progress=False, limit=2, further=True)
    assert {row["sampler"] for row in rows} == {*SAMPLERS, *FURTHER}
    assert set(summary(rows)["by_baseline"]) == {*BASELINES, *FURTHER}


def test_a_sampler_that_takes_more_calls_than_allowed_is_caught():
    p = problem(GAUSSIAN, "ve")
    greedy = BASELINES["heun"].__class__("greedy", BASELINES["heun"].run, "")
    with pytest.raises(RuntimeError, match="greedy made 9 model calls where 5"):
        measure(p, greedy, p.schedules()["karras"], 5)


def test_a_sampler_that_blows_up_gets_a_large_number(tiny):
    (row, *_) = run(
        "tiny",
        {"bad": lambda model, x, *_, **__: x * torch.nan},
        calls=(5,),
        progress=False,
        limit=2,
    )
    assert row["median"] == 1e6 and json.loads(json.dumps(row)) == row


def rows_of(errors, **labels):
    base = {
        "suite": "s",
        "problem": "p",
        "path": "ve",
        "grid": "karras",
        "seed": 0,
        "uncertainty": 0.0,
        "made": 1,
    }
    base |= {"lower": 0.5, "upper": 1.0, "label": "L", "calls": 6} | labels
    return [base | {"sampler": name, "median": error} for name, error in errors.items()]


def test_rows_of_other_sources_hold_while_the_first_picture_does(tiny, monkeypatch):
    samplers, options = (
        {"euler": BASELINES["euler"]},
        {"calls": (5,), "progress": False, "limit": 2},
    )
    rows, measured = run("tiny", samplers, **options), []

    def counted(*arguments):
        measured.append(arguments)
        return measure(*arguments)

    monkeypatch.setattr(work_precision, "measure", counted)
    old = [row | {"version": "another"} for row in rows]
    assert run("tiny", samplers, **options, reuse=old) == rows and not measured
    changed = [row | {"version": "another", "probe": "1.0000e+00"} for row in rows]
    assert run("tiny", samplers, **options, reuse=changed) == rows and len(measured) == len(rows)


def test_a_run_tells_what_it_has_after_each_schedule(tiny):
    saved = []
    options = {"calls": (5,), "progress": False, "limit": 2}
    rows = run(
        "tiny", {"euler": BASELINES["euler"]}, **options, save=lambda r: saved.append(list(r))
    )
    assert saved[-1] == rows and [len(part) for part in saved] == list(range(1, len(rows) + 1))


@both_paths
def test_what_somebody_can_choose_begins_where_the_problem_does_and_ends_in_0(path):
    case = limited(problem(GAUSSIAN, path), 1)
    offered = case.offered()
    assert set(case.schedules()) <= set(offered) and "curvature" in offered
    assert {"simple", "normal", "sgm_uniform"} <= set(offered) or path == "flow"
    for make in offered.values():
        sigmas = make(7)
        assert sigmas[0] == pytest.approx(case.sigma_max, rel=1e-6) and sigmas[-1] == 0
        assert len(sigmas) == 8 and (sigmas.diff() < 0).all()


def test_a_range_that_ends_elsewhere_than_stable_diffusion_s_has_no_table():
    case = problem(GAUSSIAN, "ve")
    far = replace(case, table=torch.tensor([0.002, 80.0]))
    assert set(far.offered()) == {"karras", "exponential", "curvature"}
    near = replace(case, table=torch.tensor([0.1, 14.6146]))
    assert near.offered()["normal"](5)[-2] == pytest.approx(0.1, rel=1e-6)


def test_summary_is_against_the_best_baseline_of_each_cell():
    rows = rows_of({"isdo": 0.1, "euler": 0.4, "deis": 0.2}) + rows_of(
        {"isdo": 0.6, "euler": 0.3, "deis": 9}, calls=8
    )
    rows += rows_of({"isdo": 1.0, "euler": 0.1}, calls=5)  # outside the headline
    result = summary(rows)
    assert result["geometric_mean"] == pytest.approx((0.5 * 2) ** 0.5) and result["worst"][
        "ratio"
    ] == pytest.approx(2)
    assert [cell["calls"] for cell in result["above"][1.1]] == [8] and result["worst"][
        "best"
    ] == "euler"
    assert result["by_calls"] == pytest.approx({5: 10, 6: 0.5, 8: 2})
    assert result["by_baseline"] == pytest.approx(
        {"euler": (0.25 * 2) ** 0.5, "deis": (0.5 * 0.6 / 9) ** 0.5}
    )
    assert 5 not in HEADLINE and not result["unsure"]
    with pytest.raises(ValueError, match="nothing to compare"):
        summary(rows_of({"euler": 1.0}))


def test_errors_below_the_uncertainty_of_the_reference_are_ties():
    rows = rows_of({"isdo": 1e-5, "euler": 1e-4}, uncertainty=1e-3)
    assert summary(rows)["geometric_mean"] == 1 and len(summary(rows)["unsure"]) == 1


def test_report_draws_and_tabulates(tmp_path):
    rows = rows_of({"isdo": 0.1, "euler": 0.4}) + rows_of({"isdo": 0.05, "euler": 0.3}, calls=8)
    report.plot(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert "| p (ve) | 0.25 | 0.17 | 0.20 | 0.25 (karras, 6 calls, euler) |" in report.table(rows)
    assert set(SAMPLERS) == set(report.STYLES)
    with pytest.raises(ValueError, match="no rows on the schedule 'none'"):
        report.plot(rows, tmp_path / "plot.png", schedule="none")


def test_a_page_says_where_isdo_stands(tmp_path):
    rows = rows_of({"isdo": 0.1, "euler": 0.4, "deis": 0.2}, suite="zoo", images=3)
    rows += rows_of({"isdo": 0.36, "euler": 0.3, "deis": 0.9}, suite="zoo", images=3, calls=8)
    page, file = report.page(rows), tmp_path / "page.md"
    assert "**0.775** (the aim was 0.75); cells above 1.0: 1, above 1.1: 1, of 2" in page
    assert "the worst is 1.20 (p (ve), karras, 8 calls)" in page
    assert (
        "bench --suite zoo --calls 6 8 --limit 3 --doc docs/zoo.md" in page
        and "No reference is unsure" in page
    )
    assert "| deis | 0.45 |" in page and "| 6 | 0.50 |\n| 8 | 1.20 |" in page
    assert "The 1 cells above 1.0" in page
    assert "| p (ve) | karras | 8 | 0.36 | 0.3 | euler | 1.20 |" in page
    for text in ("first", "second\n\n"):
        report.write_page(text, file)
        assert file.read_text() == f"{text.strip()}\n"  # and nothing of what was there


def test_a_page_of_models_of_one_s_own_says_how_each_is_measured_and_where_it_stands():
    rows = rows_of(
        {"isdo": 0.1, "euler": 0.2}, suite="zoo", images=3, asked="--model a:b", calls=12
    )
    rows += rows_of(
        {"isdo": 0.1, "euler": 0.8}, suite="zoo", images=3, asked="--model c:d --guidance 3", calls=12,
        problem="q", path="flow", grid="flow shift 3",
    )  # fmt: skip
    page = report.page(rows, "--model c:d --guidance 3", "docs/photographs.md")
    for asked in ("--model a:b", "--model c:d --guidance 3"):
        command = f"bench --suite zoo {asked} --calls 12 --limit 3 --doc docs/photographs.md\n"
        assert f"    python -m isdo {command}" in page
    assert "over 12 calls" in page and "each cell: **0.250**; cells above 1.0: 0" in page
    tables = report.table(rows)
    assert "| p (ve, karras) | 0.50 | 0.50 |" in tables
    assert "| q (flow, flow shift 3) | 0.13 | 0.13 |" in tables and "mean at 12 |" in tables


def test_problem_runs_its_solver_once():
    p = Problem(
        "n", "ve", None, torch.zeros(1), torch.ones(1), solve=lambda problem: (object(), None)
    )
    assert p.reference() is p.reference()
