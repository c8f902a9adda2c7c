"""Schedules: the length law, the order of sigmas, and k-diffusion's own values."""

import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from isdo import schedules
from isdo.bench.baselines import BASELINES, k_diffusion
from isdo.bench.problems import problem, rms
from isdo.curvature import RATIO_LIMIT, Curvature, noise_to_signal
from isdo.path import FLOW, PATHS, VE
from isdo.probe import measure_curvature
from isdo.zoo.curve import STORED, stored
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
    theirs = k_diffusion("sampling")
    close = partial(torch.testing.assert_close, rtol=2e-5, atol=0)
    close(schedules.karras(steps, low, high), theirs.get_sigmas_karras(steps, low, high))
    close(
        schedules.karras(steps, low, high, rho=3), theirs.get_sigmas_karras(steps, low, high, rho=3)
    )
    close(schedules.exponential(steps, low, high), theirs.get_sigmas_exponential(steps, low, high))


@pytest.mark.parametrize("steps", [2, 7, 20, 1000])
def test_uniform_is_that_of_k_diffusion(steps):
    theirs = k_diffusion("external").DiscreteSchedule(table(), quantize=False)
    torch.testing.assert_close(
        schedules.uniform(steps, table()), theirs.get_sigmas(steps).float(), rtol=2e-4, atol=0
    )


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
    torch.testing.assert_close(
        shifted, 3 * even.double() / (1 + 2 * even.double()), rtol=1e-6, atol=1e-7
    )
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


CONSTANT = Curvature((1e3, 1e-3), (2.0, 2.0))
CUBIC = Curvature((1e3, 1e-3), (1e9, 1e-9))  # k = r^3, so that k^(1/3) d log r = dr


@pytest.mark.parametrize("steps", [3, 6, 40])
@pytest.mark.parametrize("curvature, measure", [(CONSTANT, np.log), (CUBIC, lambda r: r)])
@pytest.mark.parametrize("path, low, high", [(VE, 0.03, 15.0), (FLOW, 0.01, 0.9)])
def test_steps_have_equal_shares_of_the_curvature(steps, curvature, measure, path, low, high):
    sigmas = schedules.curvature_sigmas(steps, low, high, curvature, path).double()
    shares = np.diff(measure(path.noise_to_signal(sigmas[:-1]).numpy()))
    np.testing.assert_allclose(shares, shares.mean(), rtol=2e-4)


def test_the_last_sigma_is_where_the_errors_of_stepping_and_of_ending_there_are_least():
    low, high, steps, kappa = 0.001, 25.0, 7, 2.0
    last = float(schedules.curvature_sigmas(steps, low, high, CONSTANT)[-2])
    grid = np.geomspace(low, high, 100_001)
    length = np.log(high / grid)
    step = (
        schedules.STEP_ERROR * kappa * (length / (steps - 1)) ** 3
    )  # of each of steps - 1, added in quadrature
    total = (steps - 1) * step**2 + (kappa * np.log(grid / low)) ** 2
    assert last == pytest.approx(grid[total.argmin()], rel=0.005)


def test_the_last_sigma_falls_to_the_lowest_as_steps_grow():
    last = [float(schedules.curvature_sigmas(n, 0.03, 15.0)[-2]) for n in (2, 3, 5, 8, 12, 20, 100)]
    assert last == sorted(last, reverse=True) and last[-1] == pytest.approx(0.03, rel=0.05)


def test_far_beyond_the_data_a_step_is_free():
    near, far = (schedules.curvature_sigmas(6, 0.03, high) for high in (RATIO_LIMIT, 4518.8))
    assert far[0] == torch.tensor(4518.8) and torch.equal(near[1:], far[1:])
    x = 4518.8 * torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    probe = measure_curvature(
        lambda x, sigma: x / (1 + sigma**2), x, schedules.karras(20, 0.03, 4518.8)
    )
    assert 10 < probe.ratios[0] < RATIO_LIMIT


def test_curvature_beyond_its_table_falls():
    curvature = Curvature((10.0, 1.0, 0.1), (3.0, 5.0, 2.0))
    at = curvature.at(np.log([1000.0, 10.0, 10**0.5, 1.0, 0.1, 0.01]))
    np.testing.assert_allclose(at, [0.03, 3, 15**0.5, 5, 2, 0.2])


@pytest.mark.parametrize("path", PATHS)
def test_the_measured_curvature_of_a_gaussian_is_the_formula(path):
    path, power = PATHS[path], 4.0

    def gaussian(x, sigma):
        a, s = path.signal(sigma)[:, None, None, None], sigma[:, None, None, None]
        return a * power / (a**2 * power + s**2) * x

    gaussian.path = path
    ratios = torch.logspace(2, -2, 200, dtype=torch.float64)
    noise = torch.randn(
        4, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    sigmas, a = path.from_noise_to_signal(ratios), path.signal(path.from_noise_to_signal(ratios[0]))
    x = noise * (a**2 * power + sigmas[0] ** 2) ** 0.5
    measured = measure_curvature(gaussian, x, sigmas)
    r = np.array(measured.ratios)
    # D = S x / psi^2 and x/psi stands still: dD/dlog r = -S r^2/psi^3, and sqrt(S)/psi of it
    # reaches the end
    expected = power**1.5 * r**2 / (power + r**2) ** 2
    middle = expected > 0.05 * expected.max()
    np.testing.assert_allclose(np.array(measured.values)[middle], expected[middle], rtol=0.08)


def test_a_probe_of_the_model_beats_karras_for_dpmpp_2m():
    case, other = problem("stationary", "ve"), problem("stationary", "ve", seed=1)
    ends = case.sigma_min, case.sigma_max
    curvature = measure_curvature(case.model, other.x[:6], schedules.karras(16, *ends))
    error = {}
    for grid, sigmas in {
        "karras": schedules.karras(6, *ends), "curvature": schedules.curvature_sigmas(6, *ends, curvature),
    }.items():  # fmt: skip
        out = BASELINES["dpmpp_2m"].run(
            case.model, case.x, sigmas.double(), case.extra_args, disable=True
        )
        error[grid] = rms(out - case.reference()).median()
    assert error["curvature"] < 0.8 * error["karras"]


@pytest.mark.parametrize(
    "path, first, low", [(VE, 14.6, 0.03), (FLOW, 1.0, 0.02), (VE, 4518.8, 0.03), (VE, 0.4, 0.03)]
)
@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("steps", [2, 3, 8, 40])
def test_a_bent_schedule_falls_from_the_same_start_and_stays_above_the_model_s_smallest(
    path, first, low, share, steps
):
    karras = schedules.karras(steps, low, first).double().tolist()
    got = schedules.bent(karras, share, low, path)
    assert len(got) == steps + 1 and got[0] == karras[0] and got[-1] == 0
    assert all(after < before for before, after in zip(got, got[1:], strict=False))
    assert got[-2] >= low * (1 - 1e-6)


def test_bent_is_the_mean_in_the_logarithm_of_the_noise_to_signal_ratio():
    for path, given in (
        (VE, schedules.karras(7, 0.03, 14.6)),
        (FLOW, schedules.flow(7, shift=2.0)),
    ):
        curved = schedules.curvature_sigmas(7, 0.01, float(given[0]), path=path).double()
        got = torch.tensor(
            schedules.bent(given.double().tolist(), 0.3, 0.01, path), dtype=torch.float64
        )
        logs = [path.noise_to_signal(s[1:-1].double()).log() for s in (given, curved, got)]
        torch.testing.assert_close(logs[2], 0.7 * logs[0] + 0.3 * logs[1], rtol=0, atol=1e-5)
        assert schedules.bent(curved.tolist(), 1.0, 0.01, path) == pytest.approx(
            curved.tolist(), rel=1e-5
        )


def test_calls_at_repeated_levels_are_put_to_use_and_those_beyond_all_data_too():
    got = schedules.bent([14.6, 14.6, 3.0, 3.0, 0.5, 0.5, 0.0], 0.5, 0.03)
    assert all(after < 0.95 * before for before, after in zip(got, got[1:], strict=False))
    zero_terminal = schedules.karras(12, 0.03, 4518.8).double().tolist()
    assert (
        sum(s > 30 for s in zero_terminal) == 7
        and sum(s > 30 for s in schedules.bent(zero_terminal, 0.5, 0.03)) <= 4
    )


def test_the_last_call_goes_below_the_schedule_s_only_where_the_model_says_that_it_can():
    alphas = scaled_linear()
    simple = schedules.simple(8, ((1 - alphas) / alphas).sqrt()).tolist()
    assert simple[-2] > 0.3 and schedules.bent(simple, 1.0)[-2] >= simple[-2] * (1 - 1e-6)
    assert (
        0.03
        < schedules.bent(simple, 1.0, 0.03)[-2]
        < schedules.bent(simple, 0.5, 0.03)[-2]
        < 0.8 * simple[-2]
    )
    assert schedules.bent(simple, 1.0, 1e3)[-2] >= simple[-2] * (
        1 - 1e-6
    )  # the schedule knows better


@pytest.mark.parametrize(
    "sigmas",
    [[2.0, 1.0, 0.5], [2.0, 0.0], [0.0], [2.0], [2.0, 2.0, 0.0], [900.0, 500.0, 200.0, 0.0]],
)
def test_what_cannot_be_bent_stays(sigmas):
    assert schedules.reposition(sigmas) == sigmas
    assert schedules.worth(sigmas) == 0.0
    if len(sigmas) < 4:
        assert schedules.bent(sigmas, 0.5) == sigmas
    assert schedules.bent([3.0, 1.0, 0.2, 0.0], 0.0, 0.01) == [3.0, 1.0, 0.2, 0.0]


def spread(sigmas, path=VE):
    """Return log r of a schedule's positive levels, r at most RATIO_LIMIT."""
    return np.log(noise_to_signal(path, np.array(sigmas[:-1])))


def expected(sigmas, low, curvature, path=VE):
    """Return the squared error that equations 8.2 and 8.3 expect of a schedule, by quadrature on
    its own."""
    places = spread([*sigmas[:-1], low, 0.0], path)
    parts = [np.linspace(b, a, 4001) for a, b in zip(places, places[1:], strict=False)]
    kappa = [curvature.at(part) for part in parts]
    steps = [
        schedules.STEP_ERROR * np.trapezoid(k ** (1 / 3), part) ** 3
        for k, part in zip(kappa[:-1], parts[:-1], strict=True)
    ]
    return sum(step**2 for step in steps) + np.trapezoid(kappa[-1], parts[-1]) ** 2


def placed_cases():
    alphas = scaled_linear()
    table = ((1 - alphas) / alphas).sqrt()
    low, high = float(table[0]), float(table[-1])
    for steps in (2, 5, 8, 15, 40):
        yield "karras", VE, low, schedules.karras(steps, low, high)
        yield "exponential", VE, low, schedules.exponential(steps, low, high)
        yield "uniform", VE, low, schedules.uniform(steps, table)
        yield "simple", VE, low, schedules.simple(steps, table)
        yield "flow 1", FLOW, 1e-3, schedules.flow(steps)
        yield "flow 3", FLOW, 1e-3, schedules.flow(steps, 3.0)


def test_levels_go_the_share_of_the_way_that_the_expected_squared_error_says():
    for _, path, low, sigmas in placed_cases():
        given = sigmas.double().tolist()
        best = schedules.bent(given, 1.0, low, path)
        errors = [expected(v, low, schedules.TYPICAL, path) for v in (best, given)]
        share = max(0.0, 1 - errors[0] / errors[1])
        assert schedules.worth(given, low, path) == pytest.approx(share, abs=1e-3)
        for placement in (0.4, 1.0):
            want = schedules.bent(given, placement * share, low, path)
            got = schedules.reposition(given, placement, low, path)
            np.testing.assert_allclose(spread(got, path), spread(want, path), atol=2e-3)


def test_a_good_schedule_stays_and_a_poor_one_gives_way():
    def way(sigmas, low, path=VE):
        given = sigmas.double().tolist()
        here, there, got = (
            spread(v, path)[-1]
            for v in (
                given,
                schedules.bent(given, 1.0, low, path),
                schedules.reposition(given, 1.0, low, path),
            )
        )
        return (got - here) / (there - here)

    alphas = scaled_linear()
    table = ((1 - alphas) / alphas).sqrt()
    low, high = float(table[0]), float(table[-1])
    shares = {n: way(schedules.karras(n, low, high), low) for n in (5, 8, 15)}
    assert shares[15] < 0.15 < shares[8] < 0.4 < shares[5] < 0.8
    assert all(way(make(12, table), low) > 0.95 for make in (schedules.uniform, schedules.simple))
    curved = schedules.curvature_sigmas(9, low, high)
    np.testing.assert_allclose(schedules.reposition(curved.tolist(), 1.0, low), curved, rtol=1e-5)


def test_less_error_is_expected_of_the_levels_that_a_schedule_was_given():
    for name, path, low, sigmas in placed_cases():
        given = sigmas.double().tolist()
        got = schedules.reposition(given, 1.0, low, path)
        before, after = (expected(v, low, schedules.TYPICAL, path) for v in (given, got))
        assert after <= before * (1 + 1e-6), (name, len(given))


def test_placement_0_is_the_schedule_to_the_bit():
    given = [14.6, 3.1, 0.7, 0.0]
    assert schedules.reposition(given, 0.0, 0.03) == given
    assert schedules.reposition(given, 1.0, 0.03) != given


def test_levels_go_over_to_those_of_the_guided_curve_between_guidance_2_and_7():
    for steps in (6, 10, 20):
        given = schedules.karras(steps, 0.03, 14.6).double().tolist()
        free = schedules.reposition(given, 1.0, 0.03)
        strong = schedules.bent(given, 1.0, 0.03, curvature=schedules.GUIDED)
        for guidance, pull in ((None, 0), (1, 0), (2, 0), (3, 0.2), (4.5, 0.5), (7, 1), (30.0, 1)):
            got = schedules.reposition(given, 1.0, 0.03, guidance=guidance)
            want = (1 - pull) * spread(free) + pull * spread(strong)
            np.testing.assert_allclose(spread(got), want, atol=1e-9)
    half = schedules.reposition(given, 0.5, 0.03, guidance=7.0)
    np.testing.assert_allclose(spread(half), (spread(given) + spread(strong)) / 2, atol=1e-9)
    assert schedules.reposition(given, 0.0, 0.03, guidance=7.0) == given


def test_guidance_counts_where_its_curve_was_measured():
    given = schedules.flow(8).double().tolist()
    free = schedules.reposition(given, 1.0, 0.01, FLOW)
    assert schedules.reposition(given, 1.0, 0.01, FLOW, guidance=7.0) == free
    given = schedules.karras(8, 0.03, 14.6).double().tolist()
    own = schedules.reposition(given, 1.0, 0.03, curvature=schedules.TYPICAL)
    assert schedules.reposition(given, 1.0, 0.03, curvature=schedules.TYPICAL, guidance=7.0) == own
    assert schedules.reposition(given, 1.0, 0.03, guidance=math.nan) == own
    assert schedules.reposition([2.0, 1.0, 0.5], guidance=7.0) == [2.0, 1.0, 0.5]


@pytest.mark.parametrize("name", STORED)
def test_the_stored_curves_are_what_the_zoo_s_models_do(name):
    """`isdo probe --stored` prints them; another machine rounds otherwise."""
    found, held = stored(name), getattr(schedules, name)
    np.testing.assert_allclose(found.ratios, held.ratios, rtol=0.01)
    np.testing.assert_allclose(found.values, held.values, rtol=0.02)


def test_a_model_that_always_says_the_same_has_no_curvature():
    x = torch.randn(1, 3, 8, 8)
    with pytest.raises(ValueError, match="did the model say the same"):
        measure_curvature(lambda x, sigma: torch.ones_like(x), x, schedules.karras(12, 0.03, 10.0))
    with pytest.raises(ValueError, match="sigmas must hold 3 levels or more"):
        measure_curvature(lambda x, sigma: x, x, torch.tensor([1.0, 0.5, 0.0]))
    with pytest.raises(ValueError, match="ratios must fall"):
        Curvature((1.0, 2.0), (1.0, 1.0))


def test_counts_of_other_integer_types_are_counts():
    assert len(schedules.karras(np.int64(3), 0.1, 1.0)) == 4


@pytest.mark.parametrize("name", ["karras", "ends above 0", "two zeros"])
@pytest.mark.parametrize("steps", [1, 2, 7, 40])
def test_the_rest_of_a_schedule_starts_where_told_and_ends_where_it_ends(name, steps):
    karras = schedules.karras(20, 0.03, 14.6)
    whole = {
        "karras": karras,
        "ends above 0": karras[:-1],
        "two zeros": torch.cat([karras, torch.zeros(1)]),
    }[name]
    got = schedules.rest(whole, 3.0, steps)
    assert len(got) == steps + 1 and got[0] == 3 and got[-1] == whole[-1] and (got.diff() < 0).all()
    if steps > 1:
        assert got[-2] == karras[-2] if name != "ends above 0" else got[-2] > karras[-2]


def test_the_rest_keeps_the_schedule_s_own_levels_and_its_range():
    karras = schedules.karras(20, 0.03, 14.6)
    assert torch.allclose(schedules.rest(karras, karras[5], 15), karras[5:], rtol=1e-5)
    assert torch.equal(schedules.rest(karras, 99.0, 20), karras)
    assert schedules.rest(karras, 0.0, 1).tolist() == karras[-2:].tolist()
    with pytest.raises(ValueError, match="at least 1"):
        schedules.rest(karras, 1.0, 0)


GRIDS = {
    "flow, shift 3, 4 steps": (schedules.flow(4, 3.0), 0.001, 1.0),
    "flow, 10 steps": (schedules.flow(10), 0.001, 1.0),
    "karras, 20 steps": (schedules.karras(20, 0.0292, 14.6), 0.0292, 14.6),
    "karras, 1 step": (schedules.karras(1, 0.0292, 14.6), 0.0292, 14.6),
    "ends above 0": (schedules.karras(21, 0.0292, 14.6)[:-1], 0.0292, 14.6),
    "curvature, 2 steps": (schedules.curvature_sigmas(2, 0.03, 14.6), 0.0292, 14.6),
    "below what is asked": (torch.tensor([0.03, 0.0]), 0.0292, 14.6),
}


@pytest.mark.parametrize("known", [True, False], ids=["the model says its range", "it does not"])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 20, 60])
@pytest.mark.parametrize("name", GRIDS)
def test_the_rest_of_any_schedule_begins_at_the_level_asked(name, steps, known):
    sigmas, smallest, largest = GRIDS[name]
    low, high = (smallest, largest) if known else (0.0, 0.0)
    for start in (0.005, 0.02, smallest, 0.03, 0.05, 0.1, 0.27, 0.5, 0.9, 1.0, 3.0, 50.0):
        got = schedules.rest(sigmas, start, steps, low, high)
        begin = min(max(start, smallest), largest) if known else min(start, float(sigmas[0]))
        if name == "ends above 0" and not known and start < sigmas[-1]:
            begin = start
        assert got[0].item() == pytest.approx(begin, rel=1e-6)
        assert len(got) == steps + 1 and (got.diff() < 0).all() and got[-1] in (0, sigmas[-1])
        if known and start > 1.01 * smallest:
            assert got[got > 0].min() >= smallest * (1 - 1e-6)


def test_below_the_last_level_steps_share_what_is_left():
    assert schedules.rest(schedules.flow(10), 0.06, 3, 0.001, 1.0).tolist() == pytest.approx(
        [0.06, 0.04, 0.02, 0]
    )
    assert schedules.rest(schedules.flow(10), 0.3, 3, 0.001, 1.0).tolist() == pytest.approx(
        [0.3, 0.2, 0.1, 0]
    )
    # a little above or below as many whole steps: all but the same levels
    near = [schedules.rest(schedules.flow(10), 0.3 + e, 3, 0.001, 1.0) for e in (-1e-4, 1e-4)]
    assert (near[0] - near[1]).abs().max() < 3e-4


def test_steps_by_the_thousand_and_none_at_all():
    assert len(schedules.curvature_sigmas(20_000, 0.002, 80.0)) == 20_001
    assert len(schedules.bent(schedules.karras(9_000, 0.03, 14.6).tolist(), 0.75, 0.03)) == 9_001
    assert schedules.curvature_sigmas(0, 0.03, 14.6).tolist() == [0.0]
    assert schedules.curvature_sigmas(0, 0.001, 1.0, path=FLOW).tolist() == [0.0]
    assert schedules.sgm_uniform(0, torch.linspace(0.001, 1, 1000)).tolist() == [0.0]


# What was drawn with a seed is drawn again with it as long as these levels stay. Whoever changes a
# number behind them changes everybody's pictures: that belongs into the CHANGELOG.
STEPS, ENDS = 8, (0.0291675, 14.614642)
DRAWN_AT = {
    "curvature": (
        lambda: schedules.curvature_sigmas(STEPS, *ENDS),
        [14.6146, 7.67897, 4.2158, 2.25933, 1.12706, 0.509093, 0.196687, 0.0613107, 0],
    ),
    "curvature of a flow": (
        lambda: schedules.curvature_sigmas(STEPS, 0.001, 1.0, path=FLOW),
        [1, 0.963472, 0.913265, 0.832782, 0.698454, 0.492553, 0.255988, 0.0840674, 0],
    ),
    "karras, moved": (
        lambda: schedules.reposition(schedules.karras(STEPS, *ENDS).tolist(), 1.0, ENDS[0], VE),
        [14.6146, 7.83808, 4.08077, 2.00448, 0.905193, 0.366465, 0.127569, 0.0360893, 0],
    ),
    "flow, moved": (
        lambda: schedules.reposition(schedules.flow(STEPS, 3.0).tolist(), 1.0, 0.001, FLOW),
        [1, 0.960361, 0.908517, 0.832988, 0.718366, 0.549941, 0.338677, 0.140173, 0],
    ),
}


@pytest.mark.parametrize("name", DRAWN_AT)
def test_pictures_are_drawn_at_the_levels_at_which_they_were(name):
    make, levels = DRAWN_AT[name]
    np.testing.assert_allclose(torch.as_tensor(make()).tolist(), levels, rtol=2e-5)


def test_a_schedule_that_goes_below_the_model_s_smallest_level_keeps_its_own_end():
    """The schedule knows better: its curve ends where it does, not at the model's level."""
    given = schedules.karras(6, 0.01, 14.0).double()
    curved = schedules.curvature_sigmas(6, 0.01, 14.0).double()
    got = schedules.bent(given.tolist(), 0.5, 0.03)
    np.testing.assert_allclose(got[1:-1], (given * curved).sqrt()[1:-1], rtol=1e-5)


def test_levels_between_those_of_a_table_are_even_in_the_logarithm():
    coarse = torch.tensor([1.0, 4.0, 16.0, 256.0])
    got = schedules.uniform(7, coarse)
    np.testing.assert_allclose(got, [256, 64, 16, 8, 4, 2, 1, 0], rtol=1e-6)


def test_the_length_to_which_a_level_counts_is_that_at_which_nothing_shows_any_more():
    """At a noise-to-signal ratio of RATIO_LIMIT the picture is a hundredth of the noise: a model
    that draws a bright one may still see it, and beyond nobody does."""
    ratio = np.array([1.0, 50.0, 99.0, 101.0, 4518.8])
    for path in (VE, FLOW):
        found = noise_to_signal(path, path.from_noise_to_signal(ratio))
        np.testing.assert_allclose(found, [1, 50, 99, 100, 100], rtol=1e-12)
    assert noise_to_signal(FLOW, np.ones(1)) == 100
