"""Exponential Runge-Kutta: what it solves exactly, what it is without a power, its orders, its
calls."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from test_convergence import from_small_steps, ramp_of_range, slope_of

from isdo import Settings, sample_isdo
from isdo.path import PATHS
from isdo.settings import FIELDS
from isdo.solver import SOLVERS
from isdo.spectrum import Spectrum
from isdo.srk import Srk
from isdo.tableau import BOGACKI_SHAMPINE, DORMAND_PRINCE, HEUN, RK4, TABLEAUX, Tableau
from isdo.window import Whole

pytestmark = pytest.mark.usefixtures("no_grad")
both_paths = pytest.mark.parametrize("path", PATHS)
TABLES = {name: row for name, row in SOLVERS.items() if name.startswith("srk")}
NAMES = list(TABLES)
every_solver = pytest.mark.parametrize("name", NAMES)
RANGES = {"ve": (2.0, 0.4), "flow": (1.0, 0.3)}


def run(model, x, sigmas, settings, **kwargs):
    return sample_isdo(model, x, sigmas, disable=True, settings=settings, **kwargs)


def test_each_name_of_the_setting_is_a_row_and_each_row_a_table():
    (field,) = [field for field in FIELDS if field.key == "solver"]
    assert field.choices == tuple(SOLVERS)
    found = {
        name: (row.order, row.calls_a_step, row.calls(10), row.calls(10, to_zero=False))
        for name, row in TABLES.items()
    }
    assert found == {"srk3": (3, 3, 28, 30), "srk4": (4, 4, 37, 40), "srk5": (5, 6, 55, 60)}
    assert all(row.calls(0) == 0 and row.calls(1) == 1 for row in SOLVERS.values())
    assert [name for name, row in TABLES.items() if not row.estimate] == ["srk4"]


# What it solves


@both_paths
@pytest.mark.parametrize("end", [0.3, 0.0])
@pytest.mark.parametrize("row", TABLEAUX.values(), ids=TABLEAUX)
def test_a_gaussian_of_known_spectrum_is_solved_exactly_in_one_step(
    row, end, path, gaussian, normal
):
    model, start, shape = gaussian(path, (2, 6, 7)), 1.0 if path == "flow" else 14.6, (3, 2, 6, 7)
    x, spectrum = start * normal(*shape), Spectrum(6, 7, "cpu")
    solver = Srk(row, model.path, spectrum, Settings(), x, Whole())
    sigma, modes, arrived, calls = start, spectrum.forward(x), False, 0
    while not arrived:
        state = spectrum.inverse(modes, shape)
        solver.observe(
            sigma, modes, spectrum.forward(model(state, torch.full((3,), sigma, dtype=x.dtype)))
        )
        if calls == 0:
            kept = model.power[:, :, : 7 // 2 + 1].flatten(1)
            solver.power = kept.repeat_interleave(2, -1)[None]  # both parts of a mode have it
        sigma, modes, arrived = solver.predict(end)
        calls += 1
    assert sigma == end and calls == (row.stages - row.fsal if end else 1)
    torch.testing.assert_close(
        spectrum.inverse(modes, shape), model.exact(x, start, end), rtol=0, atol=1e-12 * start
    )


@every_solver
@both_paths
@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 5, 9), (3, 2, 7, 4)], ids=str)
def test_from_the_second_step_on_a_gaussian_of_any_spectrum_is_solved_exactly(
    shape, path, name, gaussian, normal
):
    model, start, states = gaussian(path, shape), 0.97 if path == "flow" else 14.6, []
    x, sigmas = start * normal(2, *shape), [start, 0.1 * start, 0.05 * start, 0.02 * start, 0.0]
    out = run(
        model,
        x,
        sigmas,
        Settings(solver=name, placement=0),
        callback=lambda info: states.append(info["x"]),
    )
    for state, sigma in zip(states[1:], sigmas[1:-1], strict=True):
        torch.testing.assert_close(model.exact(state, sigma, 0.0), out, rtol=0, atol=1e-8)
    assert (model.exact(x, start, 0.0) - out).abs().max() > 1e-6  # the first step knows of no power


# What it is without a power


def classical(row, model, x, start, end):
    """One step of the tableau in t = log sigma for Y = x/sigma - k (u - u0), u = a/sigma; written
    down from the equation."""
    path, ones = model.path, x.new_ones(len(x))

    def u(sigma):
        return path.signal(sigma) / sigma

    k = model(x, start * ones)

    def slope(t, y):
        sigma = math.exp(t)
        state = sigma * (y + k * (u(sigma) - u(start)))
        return (
            (model(state, sigma * ones) - k) * -1 / sigma
        )  # du/dlog sigma = -1/sigma on both paths

    y = row.step(slope, math.log(start), x / start, math.log(end / start)).y
    return end * (y + k * (u(end) - u(start)))


@both_paths
@pytest.mark.parametrize(
    "row", [HEUN, RK4, BOGACKI_SHAMPINE, DORMAND_PRINCE], ids=lambda row: row.name
)
def test_without_power_it_is_the_classical_method_in_log_sigma(
    row, path, pixel_mixture, normal, monkeypatch
):
    model, start = pixel_mixture(path), 1.0 if path == "flow" else 3.0
    x = start * normal(3, 2, 5, 6)
    monkeypatch.setitem(
        SOLVERS, "srk4", replace(SOLVERS["srk4"], make=lambda *args: Srk(row, *args))
    )
    out = run(model, x, [start, 0.6, 0.35], Settings(solver="srk4", power="zero"))
    want = classical(row, model, classical(row, model, x, start, 0.6), 0.6, 0.35)
    torch.testing.assert_close(out, want, rtol=0, atol=1e-12)


@every_solver
@both_paths
def test_the_step_to_0_is_denoised_itself_where_there_is_no_power(
    path, name, pixel_mixture, normal
):
    model, seen = pixel_mixture(path), []
    out = run(model, normal(2, 2, 4, 4), [0.9, 0.4, 0.2, 0.0], Settings(solver=name, power="zero"),
              callback=lambda info: seen.append(info["denoised"]))  # fmt: skip
    torch.testing.assert_close(out, seen[-1], rtol=0, atol=1e-13)


# How fast it converges


@both_paths
@pytest.mark.parametrize("grid", [from_small_steps, ramp_of_range])
@pytest.mark.parametrize("power", ["zero", "fitted"])
@every_solver
def test_order_of_convergence(name, power, grid, path, solved):
    (model, x, exact), (first, last), counts = (
        solved(path, *RANGES[path]),
        RANGES[path],
        (12, 17, 24),
    )
    settings = Settings(solver=name, power=power)
    errors = [
        (run(model, x, grid(first, last, n), settings) - exact).square().mean().sqrt()
        for n in counts
    ]
    order = slope_of(errors, counts)
    # Dormand and Prince's leading coefficients are so small that the next order shows besides
    assert (
        order == pytest.approx(SOLVERS[name].order, abs=0.2)
        if name != "srk5"
        else 4.8 < order < 5.8
    )


@both_paths
@pytest.mark.parametrize("row", [HEUN, BOGACKI_SHAMPINE, DORMAND_PRINCE], ids=lambda row: row.name)
def test_the_estimate_shrinks_with_the_order_of_the_embedded_method(
    row, path, pixel_mixture, normal
):
    model, start, shape = pixel_mixture(path), 0.9, (4, 2, 4, 4)
    x, spectrum, sizes = start * normal(*shape), Spectrum(4, 4, "cpu"), []
    for ratio in (0.9, 0.95):
        solver = Srk(row, model.path, spectrum, Settings(), x, Whole())
        sigma, modes, error = start, spectrum.forward(x), None
        while error is None:
            state = spectrum.inverse(modes, shape)
            error = solver.observe(
                sigma, modes, spectrum.forward(model(state, torch.full((4,), sigma, dtype=x.dtype)))
            )
            sigma, modes, _ = solver.predict(ratio * start)
        sizes.append(error.norm())
    assert math.log(sizes[0] / sizes[1], math.log(0.9) / math.log(0.95)) == pytest.approx(
        row.low_order + 1, abs=0.2
    )


# Its calls


@every_solver
@pytest.mark.parametrize("end", [0.0, 0.05])
def test_calls_are_known_in_advance_and_there_is_one_callback_a_step(
    end, name, pixel_mixture, normal
):
    steps, seen, report, model = 5, [], {}, pixel_mixture("ve")
    sigmas = [*from_small_steps(2.0, 0.1, steps - 1).tolist(), end]

    def noting(x, sigma):
        seen.append(("call", x, sigma[0].item()))
        return model(x, sigma)

    run(noting, 2 * normal(2, 1, 4, 4), sigmas, Settings(solver=name, placement=0), report=report,
        callback=lambda info: seen.append(("callback", info["x"], info["sigma_hat"].item(), info["i"])))  # fmt: skip
    made = [i for i, (what, *_) in enumerate(seen) if what == "call"]
    told = [i for i, (what, *_) in enumerate(seen) if what == "callback"]
    calls = SOLVERS[name].calls(steps, to_zero=end == 0)
    assert len(made) == calls and report == {"calls": [calls] * 2, "rejected": [0, 0]}
    assert [seen[i][3] for i in told] == list(range(steps)) and [
        seen[i][2] for i in told
    ] == pytest.approx(sigmas[:-1])
    for n, i in enumerate(
        told
    ):  # after the last call of a step, of its first, which was asked there
        first = seen[told[n - 1] + 1 if n else 0]
        assert first[0] == "call" and torch.equal(first[1], seen[i][1]) and first[2] == seen[i][2]


def test_the_message_counts_calls_where_a_step_has_several(rational):
    def model(x, sigma):
        return rational(x, sigma) / (sigma < 1.9).logical_not()

    with pytest.raises(RuntimeError, match="NaN or infinity at call 2 of 9, sigma 1.41"):
        run(
            model,
            torch.randn(1, 1, 4, 4),
            [2.0, 1.0, 0.5, 0.0],
            Settings(solver="srk4", placement=0),
        )


@every_solver
def test_a_copy_is_a_run_of_its_own(name, pixel_mixture, normal):
    check_copy(name, pixel_mixture, normal)


def test_a_copy_of_the_multistep_solver_is_a_run_of_its_own(pixel_mixture, normal):
    check_copy("multistep", pixel_mixture, normal)


def check_copy(name, pixel_mixture, normal):
    """What is tried from a copy leaves the original as it was."""
    model, shape = pixel_mixture("ve"), (1, 2, 4, 4)
    x, spectrum = normal(*shape), Spectrum(4, 4, "cpu")

    def go(solver, sigma, modes, ends):
        for end in ends:
            arrived = False
            while not arrived:
                state = spectrum.inverse(modes, shape)
                solver.observe(
                    sigma, modes, spectrum.forward(model(state, x.new_full((1,), sigma)))
                )
                sigma, modes, arrived = solver.predict(end)
        return sigma, modes

    def fresh():
        return SOLVERS[name].make(model.path, spectrum, Settings(), x, Whole(), 0.0)

    solver = fresh()
    here = go(solver, 2.0, spectrum.forward(2 * x), (1.5, 1.0, 0.8))
    go(copy.copy(solver), *here, (0.2, 0.1))
    plain = go(fresh(), 2.0, spectrum.forward(2 * x), (1.5, 1.0, 0.8, 0.5, 0.0))
    assert torch.equal(go(solver, *here, (0.5, 0.0))[1], plain[1])


# The estimate and the power, one rule at a time


def stages(solver, model, sigma, state, end):
    """Make one step; return (x at its end, what is told of its error), in modes."""
    spectrum, arrived, modes = solver.spectrum, False, solver.spectrum.forward(state)
    while not arrived:
        x = spectrum.inverse(modes, state.shape)
        level = torch.full((len(x),), sigma, dtype=x.dtype)
        solver.observe(sigma, modes, spectrum.forward(model(x, level)))
        sigma, modes, arrived = solver.predict(end)
    x = spectrum.inverse(modes, state.shape)
    level = torch.full((len(x),), sigma, dtype=x.dtype)
    return modes, solver.observe(sigma, modes, spectrum.forward(model(x, level)))


@both_paths
@pytest.mark.parametrize("power", [0.0, 0.4])
@pytest.mark.parametrize("row", [HEUN, BOGACKI_SHAMPINE, DORMAND_PRINCE], ids=lambda row: row.name)
def test_the_estimate_is_what_the_embedded_method_leaves_to_the_solution(
    row, power, path, pixel_mixture, normal
):
    """Held against a run of the embedded weights as a method of their own."""
    model, x, spectrum = pixel_mixture(path), 0.9 * normal(2, 2, 4, 4), Spectrum(4, 4, "cpu")
    low = Tableau(f"{row.name}, embedded", row.low_order, row.a, row.low, row.c)
    solvers = [
        Srk(each, model.path, spectrum, Settings(power="zero"), x, Whole()) for each in (row, low)
    ]
    for solver in solvers:
        solver.power = torch.full_like(spectrum.forward(x), power)
    (end, error), (embedded, _) = (stages(each, model, 0.9, x, 0.5) for each in solvers)
    torch.testing.assert_close(error, end - embedded, rtol=0, atol=1e-12)
    assert error.norm() > 1e-6 * end.norm()


def test_over_a_step_of_mere_rounding_the_power_stays(gaussian, normal):
    """What changed over it says nothing: the power of the step before holds, and the next step of a
    Gaussian is exact."""
    model, spectrum = gaussian("ve", (2, 8, 8)), Spectrum(8, 8, "cpu")
    x = normal(2, 2, 8, 8)
    solver = Srk(BOGACKI_SHAMPINE, model.path, spectrum, Settings(modes=10**6), x, Whole())
    modes, _ = stages(solver, model, 2.0, 2 * x, 1.0)
    known = solver.power
    assert (known > 0).any()
    state = spectrum.inverse(modes, x.shape)
    shortly = 1.0 - 1e-13
    modes, _ = stages(solver, model, 1.0, state, shortly)
    assert torch.equal(solver.power, known)
    there = spectrum.inverse(modes, x.shape)
    modes, _ = stages(solver, model, shortly, there, 0.2)
    torch.testing.assert_close(
        spectrum.inverse(modes, x.shape), model.exact(there, shortly, 0.2), rtol=0, atol=1e-8
    )
