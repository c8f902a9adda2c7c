"""The refinement loop: fixed points, limits with exact answers, and what it must never touch."""

import dataclasses
import itertools
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from isdo import gallery, group, schedules, zoo
from isdo.denoiser import CallCounter
from isdo.path import FLOW, PATHS, VE, smallest_sigma
from isdo.refinement import Held, Lock, descent, plan, refine
from isdo.sampling import sample_isdo
from isdo.settings import FIELDS, HOST_FIELDS, REFINE_FIELDS, RefineSettings, Settings

ROOT = Path(__file__).parents[1]
MOVING = {"generators": "all", "strength": 1.0}
FREE = {"lock": 0, "detail": 1.0, "floor": 0.0}  # nothing is held, every iteration ends clean


def run(model, x, mask=None, seeds=0, **settings):
    return refine(
        model, x, disable=True, settings=RefineSettings(**settings), mask=mask, seeds=seeds
    )


@pytest.fixture
def mixture(pixel_mixture):
    """A model that keeps the path's name and changes every picture."""
    return pixel_mixture("ve")


# --- fixed points


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("undo", [True, False])
def test_no_noise_and_no_action_give_the_input_back_bit_by_bit(mixture, normal, dtype, undo):
    x = normal(2, 3, 6, 7).to(dtype)
    found = run(mixture, x, noise=0.0, strength=0.0, generators="all", undo=undo)
    assert torch.equal(found.x, x) and found.x is not x and found.x.data_ptr() != x.data_ptr()
    assert found.calls == 0 and not found.changes.any()


def test_an_action_without_noise_is_undone_to_the_bit_and_without_a_call(mixture, normal):
    x = normal(1, 2, 8, 9)
    found = run(mixture, x, noise=0.0, iterations=50, **MOVING)
    assert torch.equal(found.x, x) and found.calls == 0


def test_the_bare_form_wanders(mixture, normal):
    x = normal(1, 2, 8, 9)
    found = run(mixture, x, noise=0.0, iterations=3, undo=False, antithetic=False, **FREE, **MOVING)
    assert (found.x - x).abs().max() > 0.1


def test_no_iterations_are_no_calls(mixture, normal):
    x = normal(1, 2, 5, 5)
    found = run(mixture, x, iterations=0)
    assert torch.equal(found.x, x) and found.changes.shape == (0, 1) and not found.converged.any()


def test_the_input_is_not_modified(mixture, normal):
    x = normal(2, 2, 6, 6)
    before = x.clone()
    assert not torch.equal(run(mixture, x, **MOVING).x, x)
    assert torch.equal(x, before)


# --- limits with exact answers


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("scale", [1.0, 1.05])
def test_on_a_gaussian_each_iteration_is_the_closed_form(gaussian, normal, path, scale):
    model, x, drawn = gaussian(path, (2, 8, 8)), normal(3, 2, 8, 8), normal(4, 3, 2, 8, 8)
    queue = iter(drawn)
    pace = {"iterations": 4, "calls": 3, "noise": 0.8, "noise_decay": 0.5, "noise_scale": scale}
    settings = RefineSettings(generators="none", **pace, **FREE)
    found = refine(model, x, disable=True, settings=settings, noise=lambda like: next(queue))
    for k, n in enumerate(drawn):
        ratio = 0.8 / (k + 1) ** 0.5
        sigma = float(descent(PATHS[path], ratio, 3, 0.0)[0])
        assert PATHS[path].noise_to_signal(sigma) == pytest.approx(ratio, rel=1e-6)
        x = model.exact(PATHS[path].signal(sigma) * x + sigma * scale * n, sigma, 0.0)
    # the first of an iteration's three calls has no history: the second redoes its step exactly
    torch.testing.assert_close(found.x, x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("path", PATHS)
def test_from_one_point_the_loop_reaches_the_gaussian_that_the_model_knows(gaussian, path):
    """Noise delta and the way back multiply a deviation from the mean by rho = S/(S + delta^2) in
    variance."""
    model, count = gaussian(path, (1, 4, 4)), 1000
    found = run(model, torch.zeros(count, 1, 4, 4, dtype=torch.float64), generators="none", **FREE,
                iterations=12, calls=2, noise=8.0, noise_decay=0.0)  # fmt: skip
    rho = (model.power / (model.power + 64)).max()
    assert rho**12 < 1e-2  # the start is forgotten
    spectrum = torch.fft.fft2(found.x - model.mean, norm="ortho").abs().square().mean(0)
    assert ((spectrum / model.power - 1).abs() < 6 * (2 / count) ** 0.5).all()
    deviation = (found.x.mean(0) - model.mean) / (model.power.mean() / count) ** 0.5
    assert deviation.abs().max() < 5


# --- what must not move


@pytest.mark.parametrize("shape", [(2, 3, 8, 12), (1, 2, 3, 7, 5)])
def test_locked_modes_do_not_move(mixture, normal, shape):
    x = normal(*shape)
    for lock in (1, 3):
        found = run(mixture, x, iterations=5, noise=1.0, lock=lock, **MOVING).x
        moved = Lock(16, None, x)
        low = (found - x) - Lock(lock, None, x)(found - x)
        assert low.abs().max() < 1e-14 and (found - x).abs().max() > 0.1
        assert ((found - x) - moved(found - x)).abs().max() > 0.01  # others do
        torch.testing.assert_close(found.mean((-2, -1)), x.mean((-2, -1)), rtol=0, atol=1e-14)


def test_what_is_locked_are_the_lowest_cosines(normal):
    x = normal(1, 1, 6, 9)
    lock = Lock(2, None, x)
    t = (torch.arange(9, dtype=torch.float64) + 0.5) / 9 * torch.pi
    u = (torch.arange(6, dtype=torch.float64) + 0.5) / 6 * torch.pi
    for order, stays in ((0, True), (1, True), (2, False)):
        wave = torch.cos(order * t).expand(1, 1, 6, 9)
        torch.testing.assert_close(
            lock(wave), torch.zeros_like(wave) if stays else wave, rtol=0, atol=1e-14
        )
    down = torch.cos(u)[:, None].expand(
        1, 1, 6, 9
    )  # 1 half wave on the shorter side is 1.5 on the longer
    torch.testing.assert_close(lock(down), torch.zeros_like(down), rtol=0, atol=1e-14)
    assert Lock(0, None, x)(x) is x


@pytest.mark.parametrize("mask", [None, torch.ones(1, 1, 8, 12)])
def test_the_lock_holds_under_autocast(mask, normal):
    change = normal(1, 3, 8, 12).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        left = Lock(3, mask, change)(change)
    assert torch.equal(left, Lock(3, mask, change)(change))


@pytest.mark.parametrize("soft", [False, True])
def test_unmasked_pixels_stay_and_the_lock_holds_under_a_mask(mixture, normal, soft):
    x = normal(2, 2, 9, 10)
    mask = torch.zeros(1, 1, 9, 10)
    mask[..., 2:7, 3:9] = 1
    if soft:
        mask[..., 4, :] = 0.5
    found = run(mixture, x, mask=mask, iterations=5, noise=1.0, lock=2, **MOVING).x
    kept = (mask == 0).expand(x.shape)
    assert torch.equal(found[kept], x[kept]) and (found - x)[~kept].abs().max() > 0.1
    torch.testing.assert_close(found.mean((-2, -1)), x.mean((-2, -1)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_mask_of_nothing_changes_nothing(mixture, normal, dtype):
    x = normal(2, 2, 5, 6).to(dtype)
    assert torch.equal(run(mixture, x, mask=torch.zeros(1, 1, 5, 6), **MOVING).x, x)


def test_the_model_is_held_to_the_picture_outside_the_mask(normal):
    """What the model says of a kept pixel must not reach the painted ones through the sampler."""
    x, mask = normal(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1

    def calm(x, sigma):
        return x / (1 + sigma**2)

    def wild(x, sigma):
        return torch.where(mask == 0, 1e3, calm(x, sigma))

    calm.path = wild.path = VE
    settings = {"iterations": 3, "generators": "none", **FREE}
    assert torch.equal(run(wild, x, mask=mask, **settings).x, run(calm, x, mask=mask, **settings).x)


def test_fifty_iterations_keep_palette_and_detail():
    model = zoo.load("eps")
    sigmas = schedules.schedule("karras", 12, model)
    labels = {"labels": torch.arange(3)}
    x = sample_isdo(
        model, sigmas[0] * gallery.noise(range(3), (3, 32, 32)), sigmas, labels, disable=True
    )
    found = refine(
        model, x, labels, disable=True, settings=RefineSettings(iterations=50, calls=2)
    ).x
    means = [picture.double().mean((-2, -1)) for picture in (x, found)]
    assert ((means[1] - means[0]).abs() <= 1e-3 * means[0].abs() + 1e-6).all()
    for waves in (7.5, 8, 8.5, 9, 10.5, 12, 14):  # wherever fine begins
        assert ((fine(found, waves) / fine(x, waves) - 1).abs() < 0.025).all(), waves
    for waves in (7.75, 8.25, 10.75):  # amid a band, the three together
        assert abs(float(fine(found, waves).sum() / fine(x, waves).sum()) - 1) < 0.05, waves
    free = refine(
        model, x, labels, disable=True, settings=RefineSettings(iterations=10, calls=2, detail=1.0)
    ).x
    assert ((fine(free) / fine(x) - 1).abs() > 0.05).any()  # it takes the leash


def fine(x, waves=7.5):
    """Return the energy (B,) of more than so many waves a picture; with 16 the highest along an
    axis."""
    ky, kx = (n * torch.fft.fftfreq(n) for n in x.shape[-2:])
    return (
        (torch.fft.fft2(x.double()).abs().square() * (torch.hypot(ky[:, None], kx) > waves))
        .flatten(1)
        .sum(1)
    )


# --- batch, seeds, noise


def test_a_picture_is_the_same_whatever_its_neighbours(rational, normal):
    rational.path = VE
    x, mask = normal(3, 2, 8, 9).float(), (normal(3, 1, 8, 9) > -0.5).float()
    settings = {
        "generators": "all",
        "strength": 0.5,
        "iterations": 8,
        "noise": 0.7,
        "tolerance": 0.05,
    }
    together = run(rational, x, mask=mask, seeds=5, **settings)
    for i in range(3):
        alone = run(rational, x[i : i + 1], mask=mask[i : i + 1], seeds=5 + i, **settings)
        assert torch.equal(alone.x, together.x[i : i + 1])
        assert (
            alone.iterations[0] == together.iterations[i]
            and alone.converged[0] == together.converged[i]
        )


def test_seeds_decide_the_noise(mixture, normal):
    x = normal(1, 2, 6, 6).expand(2, 2, 6, 6)
    first = run(mixture, x, seeds=[3, 4])
    assert torch.equal(first.x, run(mixture, x, seeds=3).x)
    assert not torch.allclose(first.x[0], first.x[1], atol=1e-2)
    assert torch.equal(
        run(mixture, x, seeds=[7, 7]).x.diff(dim=0), torch.zeros(1, 2, 6, 6, dtype=x.dtype)
    )


def test_the_noise_is_not_that_from_which_the_same_seed_draws(mixture):
    seen = []
    x = torch.zeros(1, 3, 8, 8)

    def model(state, sigma):
        seen.append(state / sigma[0])
        return torch.zeros_like(state)

    model.path = VE
    run(model, x, seeds=11, calls=1, iterations=2, generators="none")
    drawn = gallery.noise([11], (3, 8, 8))
    for noise in seen:
        correlation = float((noise * drawn).mean())
        assert abs(float(noise.std()) - 1) < 0.2 and abs(correlation) < 0.35
    assert not torch.equal(seen[0], seen[1])


# --- stopping


def test_the_tolerance_stops_each_picture_by_itself_and_says_so(normal):
    def model(x, sigma):  # knows the first picture and moves the second for ever
        return torch.stack([known, x[1] + 1.0])

    model.path, x = VE, normal(2, 2, 6, 6)
    known = x[0].clone()
    found = run(model, x, iterations=6, tolerance=1e-3, generators="none", **FREE)
    assert found.iterations.tolist() == [1, 6] and found.converged.tolist() == [True, False]
    assert (
        torch.allclose(found.x[0], known)
        and (found.changes[1:, 0] == 0).all()
        and (found.changes[:, 1] > 1e-3).all()
    )
    alone = refine(
        lambda x, sigma: known[None],
        x[:1],
        disable=True,
        settings=RefineSettings(tolerance=1e-3, iterations=6),
    )
    assert (
        alone.changes.shape == (1, 1) and alone.calls == RefineSettings().calls
    )  # nobody is left: the loop ends


def test_without_a_tolerance_nothing_counts_as_converged(normal):
    known = normal(1, 2, 6, 6)
    found = refine(
        lambda x, sigma: known,
        known,
        disable=True,
        settings=RefineSettings(iterations=3, tolerance=0.0),
    )
    assert not found.converged.any() and found.iterations.tolist() == [3]


def test_an_interrupt_passes_and_leaves_the_last_finished_picture(mixture, normal):
    x, kept = normal(1, 2, 6, 6), []

    class Interrupted(BaseException):
        pass

    def model(state, sigma):
        if len(kept) == 2:
            raise Interrupted
        return mixture(state, sigma)

    model.path = VE
    with pytest.raises(Interrupted):
        refine(
            model,
            x,
            None,
            kept.append,
            True,
            settings=RefineSettings(iterations=5, floor=0.0, **MOVING),
        )
    assert [state["i"] for state in kept] == [0, 1]
    assert torch.equal(kept[-1]["x"], run(mixture, x, iterations=2, floor=0.0, **MOVING).x)


@pytest.mark.parametrize("path", PATHS)
def test_iterations_turn_round_at_the_floor_and_show_a_clean_picture(gaussian, normal, path):
    """Noise up to delta with what the floor has left, down to the floor, at last to 0: in closed
    form on a Gaussian."""
    model, x, drawn, states = (
        gaussian(path, (2, 8, 8)),
        normal(2, 2, 8, 8),
        normal(3, 2, 2, 8, 8),
        [],
    )
    queue, here = iter(drawn), PATHS[path]
    settings = RefineSettings(
        generators="none",
        iterations=3,
        calls=3,
        noise=0.8,
        noise_decay=0.0,
        **{**FREE, "floor": 0.2},
    )
    found = refine(
        model, x, None, states.append, True, settings=settings, noise=lambda like: next(queue)
    )
    kept, state = 0.0, x
    start, floor = here.from_noise_to_signal(0.8), here.from_noise_to_signal(0.2)
    for k, n in enumerate(drawn):
        state = here.signal(start) * (state + (0.8**2 - kept**2) ** 0.5 * n)
        end = floor if k < 2 else 0.0
        # the last call is a third of the way in log sigma above the floor; what it said is the
        # picture so far
        last = start ** (1 / 3) * floor ** (2 / 3)
        if end:
            said = model(
                model.exact(state, start, last), torch.full((2,), last, dtype=torch.float64)
            )
            torch.testing.assert_close(states[k]["x"], said, rtol=0, atol=1e-7)
        state, kept = model.exact(state, start, end) / here.signal(end), 0.2
    torch.testing.assert_close(found.x, state, rtol=0, atol=1e-7)  # schedules are float32


def test_a_mask_or_a_tolerance_or_a_model_that_ends_above_has_no_floor(mixture, normal):
    x, seen = normal(1, 1, 6, 6), []

    def sampler(model, x, sigmas, extra_args=None, callback=None, disable=None):
        seen.append(float(sigmas[-1]))
        return model(x, sigmas[:1])

    base = {"iterations": 3, "calls": 2, "generators": "none", "floor": 0.1, "noise": 1.0}
    cases = (
        (0, None, 0.0, True),
        (0, x > 0, 0.0, False),
        (0, None, 0.01, False),
        (0.2, None, 0.0, False),
    )
    for low, mask, tolerance, turns in cases:
        mixture.sigma_min = low
        refine(
            mixture,
            x,
            disable=True,
            settings=RefineSettings(**base, tolerance=tolerance),
            mask=mask,
            sampler=sampler,
        )
        assert seen == pytest.approx([0.1, 0.1, 0.0] if turns else [0.0] * 3)
        seen.clear()


def test_callbacks_see_every_iteration_and_every_call(mixture, normal):
    x, iterations, calls = normal(2, 2, 6, 6), [], []
    model = CallCounter(mixture)
    settings = RefineSettings(iterations=4, calls=3, noise=0.5, noise_decay=0.5)
    found = refine(
        model, x, None, iterations.append, True, settings=settings, call_callback=calls.append
    )
    assert model.calls == found.calls == 12
    assert [state["i"] for state in calls] == list(range(12))
    assert [state["sigma"] for state in iterations] == pytest.approx(
        [0.5 / k**0.5 for k in (1, 2, 3, 4)]
    )
    assert torch.equal(iterations[-1]["x"], found.x)
    assert torch.equal(torch.stack([state["change"] for state in iterations]), found.changes)


def test_the_defaults_cost_no_more_calls_than_drawing_twelve_steps():
    settings = RefineSettings()
    assert settings.iterations * settings.calls <= 12


# --- the plan, the way back


def test_the_plan_anneals_and_pairs():
    pace = {"strength": 1.0, "strength_decay": 0.5, "noise": 0.8, "noise_decay": 1.0}
    actions = plan(RefineSettings(iterations=5, generators="shifts", **pace))
    assert [a.name for a in actions] == ["shift x", "shift x", "shift y", "shift y", "shift x"]
    third, fifth = 3**-0.5, 5**-0.5
    assert [a.pixels for a in actions] == pytest.approx([1, -1, third, -third, fifth])
    assert [a.ratio for a in actions] == pytest.approx([0.8 / k for k in (1, 2, 3, 4, 5)])
    single = plan(RefineSettings(iterations=3, strength=1.0, antithetic=False, generators="shifts"))
    assert [a.name for a in single] == ["shift x", "shift y", "shift x"]
    assert [a.pixels for a in single] == pytest.approx([1, 2**-0.5, 3**-0.5])
    assert {a.name for a in plan(RefineSettings(generators="none"))} == {None}


@pytest.mark.parametrize("path", [VE, FLOW])
@pytest.mark.parametrize("calls", [1, 2, 5, 20])
@pytest.mark.parametrize("ratio", [1e-4, 0.05, 0.5, 3.0])
@pytest.mark.parametrize("low", [0.0, 0.03])
def test_the_way_back_falls_from_the_noise_to_zero(path, calls, ratio, low):
    levels = descent(path, ratio, calls, low)
    assert levels[-1] == 0 and (levels.diff() < 0).all() and 2 <= len(levels) <= calls + 1
    assert float(levels[0]) == pytest.approx(max(path.from_noise_to_signal(ratio), low), rel=1e-6)
    assert (levels[:-1] >= low * (1 - 1e-6)).all()
    if low and path.from_noise_to_signal(ratio) > 1.1 * low:
        assert len(levels) == calls + 1


def test_the_way_back_keeps_the_pace_of_a_schedule():
    sigmas = schedules.karras(20, 0.03, 14.0)
    levels = descent(VE, 0.7, 4, 0.03, sigmas)
    torch.testing.assert_close(levels, schedules.rest(sigmas, 0.7, 4).double())
    assert float(levels[0]) == pytest.approx(0.7) and len(levels) == 5


def test_noise_that_the_model_does_not_know_is_raised_with_a_message(mixture, normal, caplog):
    mixture.sigma_min = 0.1
    begun = []
    with caplog.at_level(logging.WARNING):
        refine(mixture, normal(1, 1, 4, 4), None, lambda s: begun.append(s["sigma"]), True,
               settings=RefineSettings(iterations=4, noise=0.15, noise_decay=1.0))  # fmt: skip
    assert begun == pytest.approx([0.15, 0.1, 0.1, 0.1])
    assert len(caplog.records) == 1 and "3 of 4 iterations" in caplog.text and "0.1" in caplog.text
    caplog.clear()
    run(mixture, normal(1, 1, 4, 4), noise=0.0)
    assert not caplog.records  # none asked, none added


@pytest.mark.parametrize("mask", [None, 1.0])
def test_each_way_back_ends_on_what_the_model_said_last(mask, normal):
    """Also where the schedule ends above the smallest sigma that the model says, to which a drawn
    picture is carried on."""
    said = []

    def model(x, sigma):
        said.append(x.tanh() * 0.5)
        return said[-1]

    model.sigma_min = 1e-4
    x, settings = normal(2, 3, 8, 8), RefineSettings(iterations=1, calls=4, **FREE)
    mask = None if mask is None else torch.full((1, 1, 8, 8), mask, dtype=x.dtype)
    found = refine(
        model,
        x,
        disable=True,
        settings=settings,
        mask=mask,
        sampler=Settings(power="zero", response=0.0),
        sigmas=[2.0, 1.4, 1.0, 0.7, 0.5, 0.0],
    )
    torch.testing.assert_close(found.x, said[-1], rtol=1e-9, atol=1e-9)


def test_the_smallest_sigma_is_asked_by_capability():
    class Wrapped:
        sigmas = torch.tensor([0.02, 0.5, 14.0])

    class Wrapper:
        inner_model = Wrapped()

    assert (
        smallest_sigma(Wrapper()) == pytest.approx(0.02) and smallest_sigma(lambda x, sigma: x) == 0
    )
    assert smallest_sigma(zoo.load("flow")) == pytest.approx(1e-3)


def test_another_sampler_may_do_the_way_back(mixture, normal):
    x, seen = normal(1, 2, 6, 6), []

    def jump(model, x, sigmas, extra_args=None, callback=None, disable=None):
        seen.append(sigmas)
        return model(x, sigmas[:1], **(extra_args or {}))

    found = refine(
        mixture, x, disable=True, settings=RefineSettings(iterations=2, calls=3), sampler=jump
    )
    assert len(seen) == 2 and seen[0].dtype == x.dtype and len(seen[0]) == 4
    plain = refine(
        mixture,
        x,
        disable=True,
        settings=RefineSettings(iterations=2, calls=3),
        sampler=Settings(order=1),
    )
    assert not torch.allclose(found.x, plain.x, atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 2, 1, 9), (2, 4, 3, 8, 5)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_any_shape_and_dtype(mixture, normal, shape, dtype):
    x = normal(*shape).to(dtype)
    found = run(mixture, x, **MOVING).x
    assert found.shape == x.shape and found.dtype == dtype and found.isfinite().all()


# --- bad input, settings, names


@pytest.mark.parametrize("arguments, says", [
    ({"settings": Settings()}, "isdo.RefineSettings"),
    ({"seeds": [1, 2, 3]}, "one for each picture"),
    ({"seeds": "a"}, "one for each picture"),
    ({"noise": 3}, "noise is a int"),
    ({"mask": torch.ones(3, 3, 3, 3)}, "does not fit x"),
    ({"mask": torch.full((1, 1, 4, 4), 2.0)}, "between 0"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused_in_words(mixture, normal, arguments, says):
    with pytest.raises(ValueError, match=says):
        refine(mixture, normal(2, 1, 4, 4), disable=True, **arguments)


def test_pictures_without_an_axis_are_refused(mixture):
    with pytest.raises(ValueError, match="give \\(B, C, H, W\\)"):
        refine(mixture, torch.zeros(4, 4))


def test_a_model_that_returns_nan_is_named(mixture, normal):
    def model(x, sigma):
        return x * float("nan")

    model.path = VE
    with pytest.raises(RuntimeError, match="NaN or infinity"):
        run(model, normal(1, 1, 4, 4))


def test_settings_are_declared_once_and_told_apart():
    assert [field.key for field in REFINE_FIELDS] == [
        field.name for field in dataclasses.fields(RefineSettings)
    ]
    assert RefineSettings.from_dict({"noise": 0.4}).changed() == {"noise": 0.4}
    every = FIELDS + HOST_FIELDS + REFINE_FIELDS
    assert len({field.infotext for field in every}) == len(every)
    with pytest.raises(ValueError, match="unknown setting nois: there are iterations"):
        RefineSettings.from_dict({"nois": 1})


def test_the_public_name_stays_a_function_when_modules_are_imported():
    code = "import isdo.refinement, isdo; from isdo.refinement import refine; print(isdo.refine is refine is isdo.refine)"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert out.stdout.split() == ["True"]


@pytest.mark.parametrize("solver, calls", [("multistep", 3), ("srk3", 7), ("srk4", 9)])
def test_the_ways_back_of_any_solver_are_counted_and_take_the_loops_own_steps(
    solver, calls, rational
):
    count = itertools.count()

    def model(x, sigma):
        next(count)
        return rational(x, sigma)

    settings = RefineSettings(iterations=2, calls=3, floor=0.0)
    found = refine(
        model,
        torch.randn(1, 3, 8, 8),
        disable=True,
        settings=settings,
        sampler=Settings(solver=solver),
    )
    assert found.calls == next(count) == 2 * calls
    if solver != "srk4":  # a tolerance would choose steps of its own, and refuse an end above 0
        tight = Settings(solver=solver, tolerance=0.5)
        again = refine(
            rational,
            torch.randn(1, 3, 8, 8),
            disable=True,
            settings=RefineSettings(iterations=2),
            sampler=tight,
        )
        assert again.x.isfinite().all()


# --- one rule at a time


@pytest.mark.parametrize("name", ["rotation", "shift x", "scale"])
@pytest.mark.parametrize("pixels", [1.5, 0.6])
def test_what_has_changed_is_moved_back_by_the_inverse(normal, monkeypatch, name, pixels):
    """A model that knows one picture: the way back ends on it, and what it changed of the moved
    picture is moved back and added."""
    known, x = normal(2, 3, 8, 8), normal(2, 3, 8, 8)
    monkeypatch.setitem(group.SETS, "all", (name,))

    def model(x, sigma):
        return known.to(x)

    once = {"iterations": 1, "calls": 2, "noise": 0.5, "generators": "all", "strength": pixels}
    found = run(model, x, **once, **FREE)
    moved = group.exp(name, pixels, x)
    torch.testing.assert_close(found.x, x + group.exp(name, -pixels, known - moved))
    wrong = x + group.exp(name, pixels, known - moved)
    assert (found.x - wrong).abs().max() > 0.1
    torch.testing.assert_close(run(model, x, undo=False, **once, **FREE).x, known)


def test_an_iteration_turns_at_the_floor_only_if_the_next_one_goes_up_from_there():
    """Twice the floor at least, by this iteration's noise and the next one's."""
    pace = {"noise": 1.0, "noise_decay": 1.0, "generators": "none", "floor": 0.2}
    actions = plan(RefineSettings(iterations=4, **pace), clean=False)
    assert [a.ratio for a in actions] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    assert [a.end for a in actions] == [0.2, 0.0, 0.0, 0.0]
    assert [a.kept for a in actions] == [0.0, 0.2, 0.0, 0.0]
    assert {a.end for a in plan(RefineSettings(iterations=4, **pace))} == {0.0}


@pytest.mark.parametrize("placement", [0.0, 0.75, 1.0])
def test_the_ways_back_are_asked_at_the_loop_s_own_levels(mixture, normal, placement):
    asked = []

    def model(x, sigma):
        asked.append(float(sigma[0]))
        return mixture(x, sigma)

    model.path, model.sigma_min = VE, 0.03
    settings = RefineSettings(iterations=1, calls=4, noise=0.8, generators="none", **FREE)
    given = Settings(placement=placement)
    refine(model, normal(1, 2, 6, 6), disable=True, settings=settings, sampler=given)
    levels = descent(VE, 0.8, 4, 0.03)
    assert asked == pytest.approx(levels[:-1].tolist(), rel=1e-6)


def test_a_soft_mask_holds_what_the_model_says_in_part(normal):
    known, said = normal(1, 2, 4, 4), normal(1, 2, 4, 4)
    mask = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64).expand(1, 1, 4, 4)
    found = Held(lambda x, sigma: said, mask, known)(normal(1, 2, 4, 4), torch.ones(1))
    torch.testing.assert_close(found, (1 - mask) * known + mask * said, rtol=0, atol=1e-15)
    assert torch.equal(found[..., 0], known[..., 0]) and torch.equal(found[..., 3], said[..., 3])


def test_what_has_converged_is_left_as_it_was_while_others_go_on(normal):
    """The second picture is far from where the model takes it, the first is there already."""
    goal = normal(2, 2, 6, 6)
    x = torch.stack([goal[0], goal[1] + 3.0])
    shown, calls = [], []

    def model(x, sigma):
        calls.append(len(x))
        # towards the goal by a half, and never quite the same for the first one
        state = x / 2 + goal.to(x) / 2
        return torch.stack([goal[0].to(x) + 1e-6 * len(calls), state[1]])

    settings = RefineSettings(
        iterations=6,
        calls=1,
        noise=0.01,
        noise_decay=0.0,
        tolerance=1e-3,
        generators="none",
        **FREE,
    )
    found = refine(
        model, x, disable=True, settings=settings, callback=lambda call: shown.append(call["x"])
    )
    assert found.iterations.tolist()[0] == 1 < found.iterations.tolist()[1] == len(shown)
    assert found.converged.tolist()[0]
    assert all(torch.equal(picture[0], shown[0][0]) for picture in shown)
    assert not torch.equal(shown[0][1], shown[-1][1])
