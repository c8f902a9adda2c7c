"""The whole trajectory at once: collocation equations, their sweeps, and runs that are made of
them."""

import math

import pytest
import torch

from isdo import Settings, sample_isdo, sweeps
from isdo.batch import Batch
from isdo.fit import Power
from isdo.path import PATHS
from isdo.quadrature import step_shares, step_total
from isdo.schedules import reposition
from isdo.solver import SOLVERS
from isdo.spectrum import Spectrum
from isdo.trajectory import (
    LEBESGUE,
    PICARD,
    WIDEST,
    Acceleration,
    Answers,
    Equations,
    Trajectory,
    chebyshev,
    lebesgue,
    place,
    resampled,
    stencils,
    sweep,
)
from isdo.window import Whole

both_paths = pytest.mark.parametrize("path", PATHS)
ENDS = {"ve": (3.0, 0.1), "flow": (1.0, 0.1)}
SWEEPS = Settings(solver="trajectory")


def run(model, x, sigmas, settings=SWEEPS, **kwargs):
    return sample_isdo(model, x, sigmas, disable=True, settings=settings, **kwargs)


def grid(steps, start=3.0, last=0.05, end=(0.0,)):
    ramp = torch.linspace(start**0.5, last**0.5, steps, dtype=torch.float64) ** 2
    return torch.cat([ramp, torch.tensor(end, dtype=torch.float64)])


class Solved:
    """Trajectories of all pictures of x between nodes, swept until their residuals are below
    ``tolerance``."""

    def __init__(
        self,
        model,
        x,
        path,
        nodes,
        tolerance=1e-12,
        reach=WIDEST,
        most=10**6,
        rounds=None,
        guess=None,
        **options,
    ):
        self.spectrum = Spectrum(*x.shape[-2:], x.device)
        self.equations = Equations(PATHS[path], self.spectrum, nodes, x.new_zeros(0), reach)
        modes = self.spectrum.forward(x)

        def norm(gap, sigma, denoised):
            return (gap.square().mean() / tolerance**2).sqrt()

        self.pictures = [
            Trajectory(
                self.equations,
                modes[b : b + 1],
                norm,
                Whole(),
                reach,
                most=most,
                guess=guess,
                **options,
            )
            for b in range(len(x))
        ]
        self.rounds, self.held, self.asked = 0, 0, []

        def ask(asked):
            said = []
            self.asked.append(asked)
            for each, indices in zip(self.pictures, asked, strict=True):
                states = [self.spectrum.inverse(each.states[j], (1, *x.shape[1:])) for j in indices]
                found = [
                    model(s, x.new_full((1,), nodes[j]))
                    for s, j in zip(states, indices, strict=True)
                ]
                said.append([self.spectrum.forward(denoised) for denoised in found])
            self.held = max(
                self.held, *(len(store) for each in self.pictures for store in self.stores(each))
            )
            return said

        for _ in sweep(self.pictures, ask):
            self.rounds += 1
            if self.rounds == rounds:
                break
        last = max(self.pictures[0].states)
        self.x = torch.cat(
            [self.spectrum.inverse(each.states[last], (1, *x.shape[1:])) for each in self.pictures]
        )

    @staticmethod
    def stores(each):
        return each.states, each.denoised, each.raw, each.secants, each.intervals


# Nodes and weights


@both_paths
@pytest.mark.parametrize("rising", [False, True])
def test_chebyshev_nodes_lie_as_cosines_in_the_place(path, rising):
    first, last = ENDS[path][::-1] if rising else ENDS[path]
    nodes = chebyshev(PATHS[path], first, last, 12)
    places = [place(PATHS[path], sigma) for sigma in nodes]
    half, middle = (places[0] - places[-1]) / 2, (places[0] + places[-1]) / 2
    assert nodes[0] == first and nodes[-1] == last
    assert places == pytest.approx(
        [middle + half * math.cos(math.pi * k / 12) for k in range(13)], abs=1e-12
    )


def test_a_stencil_is_the_widest_that_is_stable():
    chebyshevs = [math.cos(math.pi * k / 24) for k in range(25)]
    assert stencils(chebyshevs, WIDEST) == [(0, 25)] * 24  # all of Chebyshev's nodes
    even = [float(k) for k in range(40)]
    for j, (first, end) in enumerate(stencils(even, WIDEST)):
        assert first <= j and j + 2 <= end and 0 <= first and end <= 40
        assert lebesgue(even[first:end], even[j], even[j + 1]) < LEBESGUE
        if end - first < WIDEST:
            first = min(max(0, j + 1 - (end - first + 1) // 2), 40 - (end - first + 1))
            assert (
                j not in (0, 38)
                or lebesgue(even[first : first + 7], even[j], even[j + 1]) > LEBESGUE
            )
    assert {end - first for first, end in stencils(even, 5)} == {5}
    assert stencils([0.0, 1.0], WIDEST) == [(0, 2)]


@both_paths
@pytest.mark.parametrize("rising", [False, True])
def test_shares_integrate_every_polynomial_of_their_degree(path, rising):
    """The mean over d(1/sigma) of powers of the place, against a fine rule in sigma."""
    route, (high, low) = PATHS[path], ENDS[path]
    nodes = chebyshev(route, *((low, high) if rising else (high, low)), 7)
    equations = Equations(route, None, nodes, torch.zeros(0))
    knots = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    for j in (0, 2, 6):
        start, end = nodes[j : j + 2]
        _, _, shares, first, final = equations.interval(j, 8)
        assert (first, len(shares), final) == (0, 8, True)
        sigmas = end + (start - end) * (knots[1:] + knots[:-1]) / 2
        pace = sigmas**-2
        places = -(route.signal(sigmas) / sigmas + 0.01).log()
        for degree in range(8):
            exact = (pace * places**degree).sum() / pace.sum()
            found = sum(
                share * place(route, node) ** degree
                for share, node in zip(shares, nodes, strict=True)
            )
            assert found == pytest.approx(exact.item(), rel=1e-6, abs=1e-7)


@both_paths
def test_a_power_changes_how_far_an_interval_goes_and_not_what_it_averages(path, normal):
    """psi1/psi0 and what a constant m adds, written out; the shares are those without a power."""
    route, nodes = PATHS[path], chebyshev(PATHS[path], *ENDS[path], 7)
    equations = Equations(route, None, nodes, torch.zeros(0))
    modes, one = normal(1, 2, 24).exp(), torch.ones(1, 1, 1, dtype=torch.float64)
    plain, found = (equations.interval(2, 8, power) for power in (None, Power(modes, one, 1 - one)))
    psi0, psi1 = ((route.signal(s) ** 2 * modes + s**2).sqrt() for s in nodes[2:4])
    torch.testing.assert_close(found.ratio, psi1 / psi0, rtol=1e-14, atol=0)
    total = route.signal(nodes[3]) - route.signal(nodes[2]) * psi1 / psi0
    torch.testing.assert_close(found.total, total, rtol=1e-12, atol=1e-14)
    assert plain.ratio == pytest.approx(nodes[3] / nodes[2], rel=1e-15)
    assert found[2:] == plain[2:]


def test_levels_that_turn_or_reach_zero_are_refused():
    for nodes in ([3.0, 1.0, 2.0], [1.0, 0.0], [1.0, 1.0]):
        with pytest.raises(ValueError, match="give levels above 0 that fall, or rise"):
            Equations(PATHS["ve"], None, nodes, torch.zeros(0))


# What the equations solve


@both_paths
@pytest.mark.parametrize("rising", [False, True])
def test_the_error_falls_faster_than_any_power_of_the_number_of_nodes(
    path, rising, pixel_mixture, solve, normal
):
    """Regressed in pieces, the slope of log error over log n steepens; over n it is a straight
    line."""
    model, (high, low) = pixel_mixture(path), (1.0, 0.25)
    if path == "flow":
        high = 0.9
    x = high * normal(1, 2, 3, 4)
    exact = solve(model, x, high, low)
    begin, end, start, wanted = (low, high, exact, x) if rising else (high, low, x, exact)
    counts, errors = (2, 4, 8, 16), []
    for n in counts:
        found = Solved(model, start, path, chebyshev(PATHS[path], begin, end, n)).x
        errors.append((found - wanted).abs().max().log().item())
    slopes = [(b - a) / math.log(2) for a, b in zip(errors, errors[1:], strict=False)]
    assert slopes[0] > slopes[1] > slopes[2] and slopes[-1] < -10
    per_node = [
        (b - a) / (m - n)
        for a, b, n, m in zip(errors, errors[1:], counts, counts[1:], strict=False)
    ]
    assert max(per_node) < 0.4 * min(per_node) < 0  # a geometric rate in n, within a factor of 2.5


@both_paths
def test_the_way_up_undoes_the_way_down(path, pixel_mixture, normal):
    """The equations are the same in both directions: with few nodes they are far from exact, and
    yet undone."""
    model, nodes = pixel_mixture(path), chebyshev(PATHS[path], 0.9, 0.05, 6)
    x = normal(1, 2, 3, 4)
    down = Solved(model, x, path, nodes)
    up = Solved(model, down.x, path, nodes[::-1])
    assert (up.x - x).abs().max() < 1e-9
    fine = Solved(model, x, path, chebyshev(PATHS[path], 0.9, 0.05, 24))
    assert (fine.x - down.x).abs().max() > 1e-5


@both_paths
def test_a_gaussian_of_known_spectrum_is_exact_after_one_sweep(path, gaussian, normal):
    model, (start, end) = gaussian(path, (2, 6, 8)), ENDS[path]
    x = start * normal(2, 2, 6, 8)
    kept = model.power[..., : 8 // 2 + 1].reshape(1, 2, -1)
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    power = Power(kept.repeat_interleave(2, -1), one, 1 - one)
    found = Solved(model, x, path, chebyshev(PATHS[path], start, end, 5), rounds=2, power=power)
    torch.testing.assert_close(found.x, model.exact(x, start, end), rtol=0, atol=1e-10)


def test_a_gaussian_of_unknown_spectrum_is_exact_in_three_rounds_of_a_run(gaussian, normal):
    """One call, one sweep that shows the power, one that is exact; the residuals of that are looked
    at by the next."""
    for path in PATHS:
        model, report, start = gaussian(path, (3, 6, 10)), {}, ENDS[path][0]
        x = start * normal(2, 3, 6, 10)
        out = run(model, x, grid(6, start), report=report)
        torch.testing.assert_close(out, model.exact(x, start, 0.0), rtol=0, atol=1e-9)
        assert report["rounds"] <= 4


# Sweeps


@both_paths
def test_without_acceleration_a_sweep_is_picards_iteration(path, rational, normal):
    """x_j = (s_j/s_0) x_0 + s_j int D du with D of the last sweep: written out with the exact
    shares of each interval."""
    route, (start, end) = PATHS[path], ENDS[path]
    nodes, x = chebyshev(route, start, end, 6), start * normal(1, 2, 4, 6)
    zero = torch.zeros((), dtype=torch.float64)
    tau = Equations(route, None, nodes, zero).tau
    states = [x]
    denoised = [rational(x, x.new_tensor([start]))] * 7
    for before, after in zip(nodes, nodes[1:], strict=False):
        ratio, total = step_total(route, before, after, zero)
        states.append(ratio * states[-1] + total * denoised[0])
    for count in range(1, 4):
        denoised = [
            rational(state, x.new_tensor([sigma]))
            for state, sigma in zip(states, nodes, strict=True)
        ]
        states = [x]
        for before, after in zip(nodes, nodes[1:], strict=False):
            ratio, total = step_total(route, before, after, zero)
            shares = step_shares(before, after, nodes, tau)
            mean = sum(share * each for share, each in zip(shares, denoised, strict=True))
            states.append(ratio * states[-1] + total * mean)
        found = Solved(
            rational, x, path, nodes, tolerance=1e-30, rounds=1 + count, acceleration=PICARD
        )
        torch.testing.assert_close(found.x, states[-1], rtol=0, atol=1e-12)


def test_each_acceleration_saves_rounds(pixel_mixture, normal):
    model, x = pixel_mixture("ve"), 10 * normal(2, 2, 6, 6)
    nodes = chebyshev(PATHS["ve"], 10.0, 0.05, 16)
    found = [
        Solved(model, x, "ve", nodes, 1e-8, acceleration=acceleration)
        for acceleration in (PICARD, Acceleration(depth=0), Acceleration())
    ]
    picard, bands, anderson = (each.rounds for each in found)
    assert picard > bands > anderson
    for each in found[1:]:
        torch.testing.assert_close(each.x, found[0].x, rtol=0, atol=1e-6)


def test_sweeps_end_when_all_residuals_are_below_the_tolerance(pixel_mixture, normal):
    model, x, nodes = (
        pixel_mixture("ve"),
        3 * normal(3, 2, 4, 4),
        chebyshev(PATHS["ve"], 3.0, 0.1, 10),
    )
    exact = Solved(model, x, "ve", nodes, 1e-13).x
    before, rounds = math.inf, 0
    for tolerance in (1e-2, 1e-4, 1e-6, 1e-8):
        found = Solved(model, x, "ve", nodes, tolerance)
        error = (found.x - exact).square().mean().sqrt().item()
        assert error < 3 * tolerance and error < before and found.rounds > rounds
        before, rounds = error, found.rounds


def test_the_window_slides_and_bounds_what_is_held(pixel_mixture, normal):
    model, x = pixel_mixture("ve"), 3 * normal(2, 2, 4, 4)
    whole = Solved(model, x, "ve", grid(30, 3.0, 0.05, ()).tolist(), 1e-6, reach=30)
    for reach in (6, 10):
        held = []
        for steps in (20, 30):
            nodes = grid(steps, 3.0, 0.05, ()).tolist()
            found = Solved(model, x, "ve", nodes, 1e-6, reach=reach)
            assert max(len(nodes) for asked in found.asked for nodes in asked) <= reach
            held.append(found.held)
        assert held[1] == held[0] <= 2 * reach  # whatever the number of nodes
        assert (found.x - whole.x).abs().max() < 1e-3  # narrower interpolations are other equations


def test_nodes_that_are_final_are_not_asked_again(pixel_mixture, normal):
    found = Solved(
        pixel_mixture("ve"),
        3 * normal(1, 2, 4, 4),
        "ve",
        chebyshev(PATHS["ve"], 3.0, 0.1, 12),
        1e-8,
    )
    firsts = [asked[0][0] for asked in found.asked]
    assert firsts == sorted(firsts) and firsts[0] == 0 and firsts[1] == 1 and firsts[-1] > 6
    assert (
        found.pictures[0].calls
        == sum(len(asked[0]) for asked in found.asked)
        < 12 * (found.rounds - 1)
    )


def test_what_gets_no_better_is_final(normal):
    """A model of so few digits that no residual can fall below the tolerance."""

    def rough(x, sigma):
        return (x / (1 + sigma.view(-1, 1, 1, 1) ** 2)).half().double()

    x = 3 * normal(1, 2, 4, 4)
    found = Solved(rough, x, "ve", chebyshev(PATHS["ve"], 3.0, 0.1, 8), 1e-12)
    exact = Solved(
        lambda x, s: x / (1 + s.view(-1, 1, 1, 1) ** 2),
        x,
        "ve",
        chebyshev(PATHS["ve"], 3.0, 0.1, 8),
        1e-12,
    )
    assert found.rounds < 80 and (found.x - exact.x).abs().max() < 5e-3


@both_paths
def test_resampled_states_are_nearly_those_of_the_finer_nodes(path, pixel_mixture, normal):
    model, (start, end) = pixel_mixture(path), ENDS[path]
    coarse, fine = (chebyshev(PATHS[path], start, end, n) for n in (12, 24))
    x = start * normal(1, 2, 4, 4)
    old = Solved(model, x, path, coarse)
    states = resampled(
        old.pictures[0].final,
        old.equations,
        Equations(PATHS[path], old.spectrum, fine, x.new_zeros(0)),
    )
    again, cold = (Solved(model, x, path, fine, 1e-7, guess=guess) for guess in (states, None))
    assert again.rounds <= cold.rounds - 3
    torch.testing.assert_close(again.x, cold.x, rtol=0, atol=1e-5)


# Runs


@both_paths
@pytest.mark.parametrize("steps, power, share", [
    (10, "zero", 1.1), (20, "zero", 1.4), (40, "zero", 0.6), (10, "fitted", 2.0), (20, "fitted", 2.0),
])  # fmt: skip
def test_the_more_nodes_the_nearer_to_the_solution_than_the_sequential_run_at_the_same(
    path, steps, power, share, pixel_mixture, solve, normal, monkeypatch
):
    """Ten nodes say hardly more than four; of forty the sweeps' tolerance is the smaller part."""
    monkeypatch.setattr(sweeps, "RESIDUAL", 1e-10)
    model, (start, end) = pixel_mixture(path), ENDS[path]
    x = start * normal(3, 2, 4, 4)
    exact, sigmas = solve(model, x, start, end), grid(steps + 1, start, end, ())
    swept, sequential = (
        (run(model, x, sigmas, Settings(solver=solver, placement=0, power=power)) - exact)
        .square()
        .mean()
        .sqrt()
        for solver in ("trajectory", "multistep")
    )
    assert swept < share * sequential
    if power == "zero" and steps == 40:
        assert swept < 1e-6 if path == "ve" else swept < 2e-8


class Rows:
    """A model with conditions for each picture, which notes how it is called."""

    def __init__(self, model, most=10**6):
        self.model, self.most, self.sizes, self.steps = model, most, [], []

    def __call__(self, x, sigma, shift, scale=1.0):
        if len(x) > self.most:
            raise RuntimeError("out of memory")
        self.sizes.append(len(x))
        return scale * self.model(x, sigma) + shift.to(x.dtype).view(-1, 1, 1, 1)

    def at_step(self, i):
        self.steps.append(i)


@pytest.mark.parametrize(
    "extra", [{}, {"scale": 0.5}, {"scale": torch.tensor(0.5)}, {"cond": None}]
)
def test_one_batched_call_a_round_gives_the_same_as_one_for_each_level(extra, rational, normal):
    x, shift = 3 * normal(3, 4, 6, 6).float(), torch.tensor([0.1, 0.2, 0.3])
    if "cond" in extra:  # a host's own conditions, of which nobody else can make more
        together, extra = Rows(rational), {}
        alone = Rows(lambda x, sigma: rational(x, sigma), most=3)
    else:
        together, alone = Rows(rational), Rows(rational, most=3)
    reports = {}, {}
    out = [
        run(model, x, grid(8), report=report, extra_args={"shift": shift, **extra})
        for model, report in zip((together, alone), reports, strict=True)
    ]
    assert torch.equal(*out)
    assert reports[0] == reports[1] and len(together.sizes) == reports[0]["rounds"]
    assert together.sizes[0] == 3 and sum(together.sizes) == sum(reports[0]["calls"])
    assert (
        set(alone.sizes) == {3}
        and len(alone.sizes) == len(alone.steps) + 1 > len(together.sizes)
        and not together.steps
    )
    assert sorted(set(alone.steps)) == list(
        range(1, 8)
    )  # the first call, all at one level, goes both ways


def test_conditions_that_cannot_be_repeated_are_asked_level_by_level(rational, normal):
    x, seen = 3 * normal(2, 4, 6, 6), []

    def model(x, sigma, cond):
        seen.append((len(x), cond["crossattn"]))
        return rational(x, sigma)

    cond = {"crossattn": torch.zeros(2, 3)}
    out = run(model, x, grid(6), extra_args={"cond": cond})
    assert torch.equal(out, run(rational, x, grid(6)))
    assert all(size == 2 and given is cond["crossattn"] for size, given in seen)


def test_a_selection_takes_rows_of_what_has_a_row_for_each_picture():
    seen = {}

    def model(x, sigma, **extra):
        seen.update(extra)
        return x

    extra = {
        "labels": torch.tensor([5, 6]),
        "one": torch.ones(1, 3),
        "number": torch.tensor(2.0),
        "guidance": 3.0,
    }
    Batch(model, extra, 2).at_once(torch.zeros(3, 1, 1, 1), torch.ones(3), [1, 0, 1])
    assert (
        seen["labels"].tolist() == [6, 5, 6]
        and seen["one"] is extra["one"]
        and seen["number"] is extra["number"]
    )
    assert (
        not Batch(model, {"three": torch.ones(3)}, 2).together
        and not Batch(model, {"cond": [1]}, 2).together
    )


@pytest.mark.parametrize(
    "settings",
    [
        SWEEPS,
        Settings(solver="trajectory", tolerance=1e-3),
        Settings(solver="trajectory", window=4),
    ],
)
def test_a_picture_is_bit_equal_whatever_the_batch_holds(settings, rational, normal):
    batch = 3 * normal(4, 2, 6, 8).float() * torch.tensor([1.0, 1e-3, 50.0, 0.0]).view(-1, 1, 1, 1)
    together = run(rational, batch, grid(7), settings)
    for i in range(4):
        assert torch.equal(run(rational, batch[i : i + 1], grid(7), settings), together[i : i + 1])
    assert torch.equal(run(rational, batch.flip(0), grid(7), settings), together.flip(0))


@pytest.mark.parametrize("window", [4, 33])
def test_the_callback_is_told_each_step_once_in_order_of_what_is_solved(
    window, pixel_mixture, normal
):
    model, x, told = pixel_mixture("ve"), 3 * normal(2, 2, 4, 4), []
    sigmas, report = grid(12), {}
    out = run(
        model,
        x,
        sigmas,
        Settings(solver="trajectory", window=window),
        callback=told.append,
        report=report,
    )
    levels = reposition(sigmas.tolist(), Settings().placement)
    assert [state["i"] for state in told] == list(range(12))
    for key in ("sigma", "sigma_hat"):
        assert [state[key].item() for state in told] == pytest.approx(levels[:-1])
    for state in told:  # what is told belongs together: D there is what the model says
        found = model(state["x"], state["sigma_hat"].expand(2))
        torch.testing.assert_close(state["denoised"], found, rtol=0, atol=1e-3)
    torch.testing.assert_close(told[-1]["denoised"], out, rtol=0, atol=0.05)
    assert report["rejected"] == [0, 0] and all(
        calls <= SOLVERS["trajectory"].calls(12) for calls in report["calls"]
    )


@both_paths
def test_the_error_follows_the_tolerance(path, solved):
    model, x, exact = solved(path, ENDS[path][0], 0.002)
    errors, calls = [], []
    model.sigma_min = 0.002
    for tolerance in (3e-2, 1e-3, 1e-4):
        report, settings = {}, Settings(solver="trajectory", tolerance=tolerance, max_calls=10_000)
        out = run(model, x, [ENDS[path][0], 0.002, 0.0], settings, report=report)
        errors.append(
            (out - model(exact, torch.full((len(x),), 0.002))).square().mean().sqrt().item()
        )
        calls.append(sum(report["calls"]))
        assert errors[-1] < 10 * tolerance
    assert errors[0] > errors[1] > errors[2] and calls[0] < calls[1] < calls[2]


@pytest.mark.parametrize("most", [1, 5, 30])
def test_no_run_takes_more_calls_than_it_may(most, pixel_mixture, normal):
    report, settings = {}, Settings(solver="trajectory", tolerance=1e-6, max_calls=most)
    out = run(pixel_mixture("ve"), 3 * normal(2, 2, 4, 4), [3.0, 0.1, 0.0], settings, report=report)
    assert out.isfinite().all() and max(report["calls"]) <= most
    if most == 1:  # it ends on what the first call says
        assert report["rounds"] == 1


def test_with_a_tolerance_each_call_is_told(pixel_mixture, normal):
    told, report, settings = [], {}, Settings(solver="trajectory", tolerance=1e-2)
    run(
        pixel_mixture("ve"),
        3 * normal(2, 2, 4, 4),
        [3.0, 0.1, 0.0],
        settings,
        callback=told.append,
        report=report,
    )
    assert [state["i"] for state in told] == list(range(report["rounds"]))
    assert all(state["x"].shape == state["denoised"].shape for state in told)
    assert all(state["sigma"] == state["sigma_hat"].max() for state in told)


@both_paths
def test_schedules_at_the_edges(path, pixel_mixture, normal):
    model, start = pixel_mixture(path), ENDS[path][0]
    x = start * normal(2, 2, 4, 4)
    sigma = torch.full((2,), start)
    assert torch.equal(run(model, x, [start]), x)
    torch.testing.assert_close(run(model, x, [start, 0.0]), model(x, sigma), rtol=0, atol=1e-12)
    doubled, plain = Settings(solver="trajectory", placement=0), []
    out = [
        run(model, x, levels, doubled, callback=plain.append)
        for levels in ([start, start, 0.5, 0.5, 0.1, 0.0], [start, 0.5, 0.1, 0.0])
    ]
    assert torch.equal(*out) and [state["i"] for state in plain] == [0, 1, 2, 3, 4, 0, 1, 2]
    assert torch.equal(run(model, x, [start, start], doubled), x)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)
@pytest.mark.parametrize("shape", [(4, 6, 6), (2, 3, 4, 6), (1, 1, 1)])
def test_any_shape_and_dtype_comes_back(dtype, shape, rational, normal):
    x = (3 * normal(2, *shape)).to(dtype)
    before = x.clone()
    out = run(rational, x, grid(6))
    assert (
        out.shape == x.shape
        and out.dtype == dtype
        and out.isfinite().all()
        and torch.equal(x, before)
    )


def test_under_a_mask_it_asks_level_by_level_and_keeps_the_picture(normal):
    picture, painted = normal(2, 4, 8, 8), torch.ones(1, 1, 8, 8).double()
    painted[..., :3] = 0
    sizes = []

    def model(x, sigma):
        sizes.append(len(x))
        level = sigma.view(-1, 1, 1, 1)
        return painted * (x / (1 + level**2)) + (1 - painted) * picture

    x = picture + 3 * normal(2, 4, 8, 8)
    out = run(model, x, grid(12), mask=painted)
    assert set(sizes) == {2}
    torch.testing.assert_close(out[..., :3], picture[..., :3], rtol=0, atol=1e-12)
    exact = x / 10**0.5  # D = x/(1 + sigma^2) is that of standard normal pixels
    assert (out - exact)[..., 3:].abs().max() < 2e-3


def test_a_refiner_is_refused(rational, normal):
    class Wrapper:
        def __init__(self):
            self.calls, self.inner_model = 0, torch.nn.Linear(2, 2)

        def __call__(self, x, sigma):
            self.calls += 1
            if self.calls == 3:
                self.inner_model = torch.nn.Linear(2, 2)
            return rational(x, sigma)

    with pytest.raises(
        RuntimeError, match="changed amid the run.*take another solver, or no refiner"
    ):
        run(Wrapper(), 3 * normal(1, 4, 6, 6), grid(6))


def test_nan_is_told_with_call_and_sigma(rational, normal):
    def model(x, sigma):
        return rational(x, sigma) / (sigma.view(-1, 1, 1, 1) > 0.2)

    with pytest.raises(RuntimeError, match="the model returned NaN or infinity at call 2 of"):
        run(model, 3 * normal(1, 4, 6, 6), grid(6))


def test_what_the_model_or_the_callback_raises_passes_through(rational, normal):
    class Interrupted(Exception):
        pass

    def stop(*_):
        raise Interrupted

    for arguments in ({"callback": stop}, {"model": stop}):
        with pytest.raises(Interrupted):
            run(**({"model": rational, "x": 3 * normal(1, 4, 6, 6), "sigmas": grid(6)} | arguments))


# One rule at a time, as the theory page has them


def held(path="ve", sigmas=(2.0, 1.0, 0.5, 0.25), window=None):
    """A trajectory of one picture, all of whose nodes are in flight, and its spectrum."""
    spectrum, window = Spectrum(4, 4, "cpu"), window or Whole()
    state = spectrum.forward(
        torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    )
    equations = Equations(PATHS[path], spectrum, list(sigmas), state)

    def norm(*_):
        return torch.ones((), dtype=torch.float64)

    return Trajectory(equations, state, norm, window, len(sigmas)), spectrum


def swept(trajectory, sizes):
    """Make one sweep, whose residuals are said to be of these sizes; the first one asks alone."""
    size = trajectory.take([0.1 * trajectory.states[j] for j in trajectory.asked])
    if size is not None:
        trajectory.settle([sizes] * len(size))
    return size is not None


def test_after_four_sweeps_without_progress_a_hundred_tolerances_are_final():
    for size, final in ((90.0, 3), (110.0, 0)):
        trajectory, _ = held()
        while not swept(trajectory, size):
            pass
        for _ in range(3):
            swept(trajectory, size)
            assert trajectory.low == 0 and trajectory.acceleration == Acceleration()
        swept(trajectory, size)
        assert trajectory.low == final and trajectory.done is (final == 3)
        assert (trajectory.acceleration == PICARD) is (final == 0)  # slow, and gets there


def test_progress_is_a_residual_that_falls_by_a_third_from_sweep_to_sweep():
    for factor, patient in ((0.65, True), (0.75, False)):
        trajectory, size = held()[0], 1e9
        while not swept(trajectory, size):
            pass
        for n in range(1, 13):
            size *= factor
            swept(trajectory, size)
            assert (trajectory.acceleration == PICARD) is (not patient and n >= 4)


@pytest.mark.parametrize(
    "path, sigmas",
    [("ve", (2.0, 1.0, 0.5)), ("flow", (0.95, 0.9, 0.5)), ("flow", (0.8, 0.6, 0.1))],
)
def test_answers_are_those_of_a_gaussian_in_part_then_what_was_seen_and_no_more(path, sigmas):
    trajectory, spectrum = held(path, sigmas)
    while not swept(trajectory, 1e9):
        pass
    signal, picture = PATHS[path].signal(sigmas[1]), trajectory.denoised[trajectory.known - 1]
    trajectory.secants.clear()
    trajectory.raw[trajectory.known - 1] = (trajectory.states[1], picture)
    power = spectrum.inner(picture, picture) / (2 * spectrum.size)
    wanted = 0.6 * signal * power / (signal**2 * power + sigmas[1] ** 2)
    found = trajectory.answers(1).gain
    torch.testing.assert_close(found, spectrum.spread(wanted, picture), rtol=1e-12, atol=0)
    shift = torch.randn(picture.shape, dtype=torch.float64)
    most = 1 / max(signal, 0.3)  # where the picture is fainter in x, no more than where it is so
    for seen, told in ((0.4, 0.4), (-0.4, 0.0), (50.0, most)):
        trajectory.secants[1] = [(shift, seen * shift)]
        found = trajectory.answers(1).gain
        torch.testing.assert_close(found, torch.full_like(found, told), rtol=1e-12, atol=0)


@pytest.mark.parametrize("times, told", [(2.0, 2.0), (10.0, 3.0), (-10.0, -3.0)])
def test_an_earlier_change_is_stretched_threefold_at_most(times, told, normal):
    """What D answered to a change of x is foretold of a multiple of it; far beyond it nobody knows."""
    spectrum = Spectrum(4, 4, "cpu")
    x, answer = (spectrum.forward(normal(1, 2, 4, 4)) for _ in "ab")
    found = Answers(torch.zeros(()), [(x, answer)], spectrum)(times * x)
    # a thousandth is held back, so that two changes that are alike stay apart
    torch.testing.assert_close(found, told * answer, rtol=2e-3, atol=0)
    gain = 0.25
    found = Answers(torch.full((), gain, dtype=x.dtype), [(x, answer)], spectrum)(times * x)
    wanted = gain * times * x + told * (answer - gain * x)
    torch.testing.assert_close(found, wanted, rtol=2e-3, atol=2e-3)


def test_a_node_is_not_final_as_long_as_nodes_to_come_will_change_its_equation():
    """However small its residual is: an interpolation that is to reach further has not got there."""
    spectrum, waited = Spectrum(4, 4, "cpu"), 0
    state = spectrum.forward(torch.randn(1, 2, 4, 4, dtype=torch.float64))
    equations = Equations(PATHS["ve"], spectrum, chebyshev(PATHS["ve"], 2.0, 0.05, 14), state)
    trajectory = Trajectory(equations, state, lambda *_: torch.zeros(()), Whole(), 5)
    while not trajectory.done:
        sizes = trajectory.take([0.1 * trajectory.states[j] for j in trajectory.asked])
        if sizes is None:
            continue
        before, final = trajectory.low, [each.final for each in trajectory.intervals.values()]
        trajectory.settle([0.0] * len(sizes))
        # those before the first that waits
        count = (final + [False]).index(False)
        waited += count < len(final)
        assert trajectory.low == before + count
        if waited > 3:
            break
    assert waited
