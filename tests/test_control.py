"""Steps where the picture needs them: the promise, the calls, neighbours in the batch, what is
refused."""

import itertools
import math
from pathlib import Path

import pytest
import torch

from isdo import Settings, sample_isdo
from isdo.bench.problems import rms
from isdo.control import HOPELESS, SHORTEST, Controller, Norm, Walk, Way
from isdo.curvature import RATIO_LIMIT
from isdo.path import PATHS
from isdo.solver import SOLVERS
from isdo.spectrum import Spectrum
from isdo.window import Whole

pytestmark = pytest.mark.usefixtures("no_grad")
both_paths = pytest.mark.parametrize("path", PATHS)
ABLE = [name for name, row in SOLVERS.items() if row.estimate]
able = pytest.mark.parametrize("solver", ABLE)
LEVELS = {"ve": [14.6, 3.0, 0.03, 0.0], "flow": [1.0, 0.5, 0.02, 0.0]}


def run(model, x, sigmas, settings, **kwargs):
    return sample_isdo(model, x, sigmas, disable=True, settings=settings, **kwargs)


# The promise


@both_paths
@able
def test_the_error_follows_the_tolerance(solver, path, solved):
    start, calls = {"ve": 4.0, "flow": 1.0}[path], []
    model, x, exact = solved(path, start, 1e-6)
    for tolerance in (0.1, 0.01, 0.001):
        report, settings = {}, Settings(solver=solver, tolerance=tolerance)
        out = run(model, x, [start, 0.01, 0.0], settings, report=report)
        assert rms(out - exact).max() < 6 * tolerance
        calls.append(sum(report["calls"]))
    assert calls == sorted(calls) and calls[0] < calls[-1]


@both_paths
def test_a_gaussian_takes_few_calls_and_is_exact(path, gaussian, normal):
    model, start, report = gaussian(path, (2, 6, 7)), LEVELS[path][0], {}
    x = start * normal(3, 2, 6, 7)
    out = run(model, x, LEVELS[path], Settings(tolerance=1e-3), report=report)
    assert (out - model.exact(x, start, 0.0)).abs().max() < 1e-6 and max(report["calls"]) < 16


# Calls


class Walks:
    """A model that notes where it is asked."""

    def __init__(self, model, path="ve"):
        self.model, self.asked, self.told, self.path = model, [], [], PATHS[path]

    def __call__(self, x, sigma, **_):
        assert sigma.shape == (len(x),)
        self.asked.append((x, sigma))
        return self.model(x, sigma)


@able
@both_paths
def test_one_call_and_one_callback_a_round_with_each_pictures_own_sigma(
    path, solver, pixel_mixture, normal
):
    model, report = Walks(pixel_mixture(path), path), {}
    x = LEVELS[path][0] * normal(3, 2, 5, 4) * torch.tensor([1.0, 0.3, 1.1]).view(-1, 1, 1, 1)
    run(
        model,
        x,
        LEVELS[path],
        Settings(solver=solver, tolerance=3e-3),
        report=report,
        callback=model.told.append,
    )
    assert len(model.asked) == len(model.told) == max(report["calls"])
    apart = any(len(set(sigma.tolist())) > 1 for _, sigma in model.asked)
    assert apart or solver == "srk5"  # so good is it here that all steps are as long as they may be
    assert [info["i"] for info in model.told] == list(range(len(model.told)))
    for n, ((state, sigma), info) in enumerate(zip(model.asked, model.told, strict=True)):
        walking = [i for i in range(3) if report["calls"][i] > n]
        assert set(info) == {"x", "i", "sigma", "sigma_hat", "denoised"} and info["sigma"].ndim == 0
        assert torch.equal(info["x"], state) and torch.equal(info["sigma_hat"], sigma)
        assert info["sigma"] == sigma[walking].max()
    assert torch.equal(model.asked[0][0], x) and (model.asked[0][1] == LEVELS[path][0]).all()
    for i, calls in enumerate(report["calls"]):
        levels = [sigma[i].item() for _, sigma in model.asked[:calls]]
        assert min(levels) == pytest.approx(LEVELS[path][2])
        # a call higher up than the one before is a step that did not count: once for each
        back = sum(after > before for before, after in itertools.pairwise(levels))
        assert back <= report["rejected"][i] <= calls


@pytest.mark.parametrize("most", [1, 2, 5, 9])
@able
def test_no_run_takes_more_calls_than_it_may(solver, most, pixel_mixture, normal):
    model, report = Walks(pixel_mixture("ve")), {}
    settings = Settings(solver=solver, tolerance=1e-5, max_calls=most)
    out = run(model, 14.6 * normal(2, 2, 4, 4), LEVELS["ve"], settings, report=report)
    assert len(model.asked) == most and report["calls"] == [most] * 2 and out.isfinite().all()
    if most == 1:
        torch.testing.assert_close(out, model.model(*model.asked[0]), rtol=0, atol=1e-12)


def test_a_jump_in_the_model_costs_steps_and_is_crossed(normal):
    """There is no way past a jump with an error that falls, and the run ends all the same."""
    before, after, report = normal(1, 2, 4, 4), normal(1, 2, 4, 4), {}
    model = Walks(lambda x, sigma: torch.where(sigma.view(-1, 1, 1, 1) > 1, before, after))
    out = run(
        model,
        14.6 * normal(1, 2, 4, 4),
        LEVELS["ve"],
        Settings(tolerance=1e-4, power="zero"),
        report=report,
    )
    assert report["rejected"][0] > 3 and len(model.asked) < 100
    torch.testing.assert_close(out, after, rtol=0, atol=0.02)


@pytest.mark.parametrize("low, last", [(0.0, 0.03), (0.01, 0.01), (0.1, 0.03)])
def test_the_way_ends_at_the_last_level_or_the_models_smallest(low, last, pixel_mixture, normal):
    model = Walks(pixel_mixture("ve"))
    model.sigma_min = low
    run(model, 14.6 * normal(1, 2, 4, 4), LEVELS["ve"], Settings(tolerance=0.01))
    assert min(sigma.item() for _, sigma in model.asked) == pytest.approx(last)


def test_one_level_is_one_call(rational):
    report, x = {}, torch.randn(2, 1, 4, 4)
    out = run(rational, x, [2.0, 0.0], Settings(tolerance=0.01), report=report)
    assert report["calls"] == [1, 1]
    torch.testing.assert_close(out, rational(x, torch.full((2,), 2.0)), rtol=1e-5, atol=1e-6)
    assert torch.equal(run(None, x, [0.0], Settings(tolerance=0.01)), x)


# Neighbours, kinds, masks, models that change


@able
@pytest.mark.parametrize("shape", [(3, 6, 10), (1, 1, 1), (16, 4, 4), (2, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_picture_is_bit_equal_whatever_the_batch_holds(dtype, shape, solver, rational, normal):
    settings = Settings(solver=solver, tolerance=0.003)
    batch = (
        3 * normal(4, *shape) * torch.tensor([1.0, 1e-3, 1.0, 30.0]).view(-1, *[1] * len(shape))
    ).to(dtype)
    alone, report = {}, {}
    found = run(rational, batch[2:3], [3.0, 0.05, 0.0], settings, report=alone)
    for order in ([0, 1, 2, 3], [2, 3, 0, 1]):
        out = run(rational, batch[order], [3.0, 0.05, 0.0], settings, report=report)
        i = order.index(2)
        assert torch.equal(out[i : i + 1], found) and report["calls"][i] == alone["calls"][0]
    assert out.dtype == dtype and out.shape == batch.shape


def test_half_precision_comes_back_as_it_came(gaussian, normal):
    model, x = gaussian("ve", (3, 6, 9)), 3 * normal(2, 3, 6, 9)
    for dtype, near in ((torch.float16, 0.05), (torch.bfloat16, 0.4)):
        out, exact = (
            run(model, x.to(dtype), [3.0, 0.05, 0.0], Settings(tolerance=0.1)),
            model.exact(x, 3.0, 0.0),
        )
        assert out.dtype == dtype and (out.double() - exact).abs().max() < near * exact.abs().max()


@able
def test_the_kept_part_of_a_picture_is_not_judged(solver, normal):
    picture, painted, noise = (
        normal(2, 2, 8, 12),
        (torch.arange(12) < 7).double().expand(1, 1, 8, 12),
        normal(2, 2, 8, 12),
    )

    def hosts(wild):
        def model(x, sigma):
            own = 0.2 + 0.3 / (0.3 + sigma.view(-1, 1, 1, 1) ** 2) * (x - 0.2)
            return own * painted + (picture + wild * sigma.view(-1, 1, 1, 1).sin()) * (1 - painted)

        return model

    found = []
    for wild in (0.0, 3.0):  # a host that changes the kept part in every call
        report = {}
        out = run(hosts(wild), picture + 5 * noise, [5.0, 0.03, 0.0], Settings(solver=solver, tolerance=0.01), mask=painted,
                  report=report)  # fmt: skip
        found.append((report, out[..., :7]))
    assert found[0][0] == found[1][0]
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=1e-9)


@able
def test_another_inner_model_starts_anew(solver, gaussian, normal):
    parts = [gaussian("ve", (2, 4, 6)) for _ in range(2)]

    class Wrapper:
        inner_model, asked = parts[0], []

        def __call__(self, x, sigma):
            self.inner_model = parts[len(self.asked) >= 6]
            self.asked.append((x, sigma))
            return self.inner_model(x, sigma)

    wrapper, settings = Wrapper(), Settings(solver=solver, tolerance=1e-4)
    out = run(wrapper, 14.6 * normal(1, 2, 4, 6), LEVELS["ve"], settings)
    state, sigma = wrapper.asked[6]
    assert (out - parts[1].exact(state, sigma.item(), 0.0)).abs().max() < 5e-3


class Interrupted(BaseException):
    """As the WebUIs raise when one presses the button."""


@pytest.mark.parametrize("where", ["model", "callback"])
@pytest.mark.parametrize("when", [1, 2, 7])
def test_a_run_is_interrupted_at_any_call(when, where, rational):
    count, report, raised = itertools.count(1), {}, Interrupted("as it was")

    def stop(*_):
        if next(count) == when:
            raise raised

    def model(x, sigma):
        if where == "model":
            stop()
        return rational(x, sigma)

    with pytest.raises(Interrupted) as info:
        run(model, torch.randn(1, 1, 4, 4), [5.0, 0.03, 0.0], Settings(tolerance=1e-3), report=report,
            callback=stop if where == "callback" else None)  # fmt: skip
    assert info.value is raised and report.get("calls", [0])[0] == (
        when if where == "callback" else when - 1
    )


@pytest.mark.parametrize("bad", [1, 2, 5])
def test_nan_is_told_with_the_call(bad, rational):
    count = itertools.count(1)

    def model(x, sigma):
        return rational(x, sigma) * (float("nan") if next(count) == bad else 1)

    with pytest.raises(RuntimeError, match=f"NaN or infinity at call {bad} of 200, sigma"):
        run(model, torch.randn(2, 1, 4, 4), [5.0, 0.03, 0.0], Settings(tolerance=1e-4))


# What is refused


@pytest.mark.parametrize("given, sigmas, says", [
    ({"solver": "srk4"}, [3.0, 0.1, 0.0], "srk4 cannot say how far off a step is.*multistep, srk3, srk5"),
    ({}, [3.0, 0.1], "must end in 0, and it ends at 0.1"),
    ({"corrector": 0}, [3.0, 0.1, 0.0], "corrector is 0.*set corrector to 1"),
    ({"tolerance": 1e-7}, [3.0, 0.1, 0.0], r"tolerance is 1e-07 and x is torch.float32: give 0, or 1e-06 or more"),
])  # fmt: skip
def test_what_a_tolerance_cannot_be_kept_with_is_refused(given, sigmas, says):
    with pytest.raises(ValueError, match=says):
        run(None, torch.zeros(1, 1, 4, 4), sigmas, Settings(**{"tolerance": 0.01, **given}))


def test_settings_that_make_no_sense_are_refused():
    for wrong in ({"max_calls": 0}, {"tolerance": -0.1}, {"tolerance": float("nan")}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Settings(**wrong)


# The controller by itself: it knows nothing of solvers


@pytest.mark.parametrize("order", [2, 3, 5])
@pytest.mark.parametrize("constant", [1e-4, 1.0, 1e4])
def test_the_controller_finds_the_length_whose_error_is_safe(order, constant):
    controller = Controller(order)
    for _ in range(60):
        controller.judge(constant * controller.length**order)
    assert constant * controller.length**order == pytest.approx(
        controller.safety ** (order / 0.3), rel=0.02
    )


def test_a_step_changes_by_the_factors_at_most_and_does_not_grow_after_a_failure():
    controller = Controller(3, length=1.0)
    assert controller.judge(0.0) and controller.length == controller.largest
    assert not controller.judge(HOPELESS) and controller.length == pytest.approx(1.0)
    assert controller.judge(0.0) and controller.length == pytest.approx(1.0)
    assert controller.judge(0.0) and controller.length > 1.0


def test_the_shortest_step_counts_whatever_it_is():
    controller = Controller(3, length=1.0)
    tries = next(n for n in itertools.count(1) if controller.judge(HOPELESS))
    assert controller.length <= SHORTEST and tries < 10


@both_paths
def test_the_way_is_log_r_and_ends_where_it_should(path):
    path = PATHS[path]
    way = Way(path, path.from_noise_to_signal(14.6), path.from_noise_to_signal(0.03))
    for r in (0.05, 0.5, 2.0):
        sigma = path.from_noise_to_signal(r)
        assert way.level(way.place(sigma)) == pytest.approx(sigma)
        assert way.place(sigma) == pytest.approx(math.log(r), abs=2 * r / RATIO_LIMIT)
        assert way.next(sigma, 0.01) == pytest.approx(
            path.from_noise_to_signal(r * math.exp(-0.01)), rel=1e-3
        )
    assert way.next(path.from_noise_to_signal(0.04), 0.5) == way.last
    half = way.place(way.next(path.from_noise_to_signal(0.06), 0.6))
    assert half == pytest.approx((way.place(way.last) + math.log(0.06)) / 2, abs=1e-3)


@pytest.mark.parametrize("length", [1e-3, 0.1])
def test_a_step_from_pure_noise_is_as_short_as_it_says(length):
    way = Way(PATHS["flow"], 1.0, 0.02)
    assert way.next(1.0, length) == pytest.approx(1 / (1 + (math.exp(length) - 1) / RATIO_LIMIT))


def test_the_norm_is_the_error_that_reaches_the_end_of_a_gaussian(normal):
    """White data of variance S: the solution carries a gap from sigma to 0 as sqrt(S/(S +
    sigma^2))."""
    spectrum, power, sigma = Spectrum(32, 32, "cpu"), 0.49, 3.0
    denoised, gap = 0.7 * normal(1, 3, 32, 32), 0.01 * normal(1, 3, 32, 32)
    norm = Norm(spectrum, Whole(), PATHS["ve"], 0.1)
    found = norm(spectrum.forward(gap), sigma, spectrum.forward(denoised)).item()
    assert found == pytest.approx(
        0.01 * (power / (power + sigma**2)) ** 0.5 / (0.1 * 1.7), rel=0.05
    )


@pytest.mark.parametrize("order", [2, 3, 6])
def test_the_next_length_is_that_of_the_theory_page(order):
    """Equation 12.3, and what is said below it of a step that does not count."""
    errors, controller = (0.5, 0.9, 0.03, 0.6), Controller(order, length=0.4)
    length, before = 0.4, 1.0
    for error in errors:
        assert controller.judge(error)
        length *= min(5, max(0.2, 0.9 * error ** (-0.7 / order) * before ** (0.4 / order)))
        before = error
        assert controller.length == pytest.approx(length, rel=1e-12)
    assert not controller.judge(3.0)
    length *= max(0.2, 0.9 * 3.0 ** (-1 / order))
    assert controller.length == pytest.approx(length, rel=1e-12)
    text = (Path(__file__).parents[1] / "docs" / "theory.md").read_text(encoding="utf-8")
    assert "h <- h min(5, max(0.2, 0.9 E^(-0.7/k) E_before^(0.4/k)))" in text


def test_a_short_step_has_to_be_right_like_any_other():
    """Only a thousandth of a unit of log r counts whatever its estimate is."""
    assert not Controller(3, length=0.01).judge(1.5)
    assert not Controller(3, length=0.0011).judge(1.5)
    assert Controller(3, length=0.001).judge(HOPELESS)


class Steps:
    """A solver that goes nowhere."""

    asked = False

    def observe(self, sigma, modes, denoised):
        first, self.asked = not self.asked, True
        return None if first else torch.ones(())

    def predict(self, end):
        return end, torch.zeros(1), True


@pytest.mark.parametrize("error", [float("nan"), float("inf"), -float("inf")])
def test_an_error_that_is_no_number_is_a_step_that_does_not_count(error):
    way = Way(PATHS["ve"], 10.0, 0.1)
    walk = Walk(Steps(), Controller(3), way, lambda *_: torch.tensor(error), torch.zeros(1))
    walk.take(torch.zeros(1), False)
    length, sigma = walk.controller.length, walk.sigma
    told = walk.take(torch.zeros(1), False)
    walk.settle(float(told))
    assert walk.rejected == 1 and walk.here == 10.0
    assert walk.controller.length == pytest.approx(length / 5)  # as little as it may
    assert sigma < walk.sigma < 10.0 and math.isfinite(walk.sigma)
