"""The rooms of the multistep core, each by what it promises."""

import copy
import math
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
import runs
import torch

from isdo.fit import COHERENT, Change, measure_of
from isdo.multistep import TUNED, Multistep, Tuned
from isdo.multistep.ending import agreement, foresee, held
from isdo.multistep.evidence import Rules, answered, misses, mixture, weights
from isdo.multistep.history import History, is_twin
from isdo.multistep.steepness import NORMAL, Steepness, falling
from isdo.multistep.step import advance, mixed, ratios, shares
from isdo.multistep.tuned import table as tuned_table
from isdo.path import FLOW, PATHS, VE
from isdo.quadrature import TAUS, power_tau
from isdo.settings import Settings
from isdo.spectrum import Spectrum
from isdo.window import Masked, Whole


@pytest.mark.parametrize("name", runs.RUNS)
def test_runs_are_what_they_were(name):
    """To 1e-5: a rewrite changes nothing. A rule that is changed on purpose writes them anew."""
    expected, found = runs.stored()[name], runs.solve(name)
    miss = (found - expected).square().mean((1, 2, 3)) / expected.square().mean((1, 2, 3))
    assert miss.max().sqrt() < 1e-5


# ------------------------------------------------------------------------------------ tuned numbers


def test_there_are_twelve_tuned_numbers_at_most_and_each_says_what_it_is_for():
    rows = tuned_table()
    assert len(rows) == len(fields(Tuned)) <= 12
    for name, value, without, says, chosen in rows:
        assert value == getattr(TUNED, name) != without and says and chosen


# ------------------------------------------------------------------------------------------ history


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_the_history_knows_the_last_evaluations_and_how_they_changed(depth, path, normal):
    path, history = PATHS[path], None
    sigmas = [0.9, 0.7, 0.5, 0.3, 0.25, 0.2, 0.1]
    known = []
    for sigma in sigmas:
        state, denoised = normal(2, 3, 10), normal(2, 3, 10)
        history = history or History(state, depth, 0.05)
        signal = path.signal(sigma)
        assert history.add(sigma, signal, state, denoised) is False
        known = [(sigma, denoised, signal * (state - signal * denoised) / sigma**2), *known]
        nodes = len(history.sigmas)
        assert nodes == min(len(known), depth + 1)
        assert history.sigmas == tuple(s for s, _, _ in known[:nodes])
        torch.testing.assert_close(history.last, torch.stack(known[0][1:], 1))
        for j in range(nodes - 1):
            change = torch.stack(known[j][1:], 1) - torch.stack(known[j + 1][1:], 1)
            torch.testing.assert_close(history.change(j), change)
        for j in range(nodes):
            torch.testing.assert_close(history.denoised(j), known[j][1])


@pytest.mark.parametrize("count", range(1, 8))
def test_residuals_lie_where_the_slots_say(count, normal):
    power = normal(2, 3, 5, 1).square()
    history = None
    for i in range(count):
        state = normal(2, 3, 10)
        history = history or History(state, 4, 0.05)
        history.add(0.5**i, 1.0, state, normal(2, 3, 10))
    found, everywhere = history.residuals(power), power.expand(-1, -1, -1, 2).flatten(-2)
    newest = history.last[:, 0] - everywhere * history.last[:, 1]
    torch.testing.assert_close(found[:, history.slots[0]], newest)
    for j in range(len(history.sigmas) - 1):
        change = history.change(j)
        expected = change[:, 0] - everywhere * change[:, 1]
        torch.testing.assert_close(found[:, history.slots[1 + j]], expected)
    assert sorted(history.slots) == list(range(5))
    torch.testing.assert_close(history.residuals(None)[:, history.slots[0]], history.last[:, 0])


def test_of_twins_the_newer_one_counts_and_nothing_is_lost(normal):
    """The history with a twin is that without the first of the two."""
    said = [(14.0, normal(1, 2, 6), normal(1, 2, 6)) for _ in range(4)]
    levels = [14.0, 7.0, 3.5, 3.49]
    twice, once = (History(said[0][1], 3, 0.05) for _ in range(2))
    for (_, state, denoised), sigma in zip(said, levels, strict=True):
        again = twice.add(sigma, 1.0, state, denoised)
        assert again == (sigma == 3.49)
        if sigma != 3.5:
            once.add(sigma, 1.0, state, denoised)
    assert twice.sigmas == once.sigmas
    for j in range(2):
        torch.testing.assert_close(twice.change(j), once.change(j))
    torch.testing.assert_close(twice.last, once.last)


@pytest.mark.parametrize(
    ("sigmas", "share", "expected"),
    [
        ([1.0], 0.05, False),
        ([1.0, 2.0], 0.05, False),
        ([1.0, 1.0], 0.05, True),
        ([1.0, 1.0 + 1e-6, 2.0], 0.0, True),
        ([1.0, math.exp(0.049), math.exp(1.049)], 0.05, True),
        ([1.0, math.exp(0.051), math.exp(1.051)], 0.05, False),
    ],
)
def test_a_step_far_shorter_than_the_one_before_it_is_none(sigmas, share, expected):
    assert is_twin(sigmas, share) is expected


def test_a_copy_of_the_history_is_its_own(normal):
    history = History(normal(1, 2, 6), 2, 0.05)
    history.add(2.0, 1.0, normal(1, 2, 6), normal(1, 2, 6))
    twin, before = history.copy(), history.last.clone()
    twin.add(1.0, 1.0, normal(1, 2, 6), normal(1, 2, 6))
    assert history.sigmas == (2.0,) and torch.equal(history.last, before)


# ---------------------------------------------------------------------------------------------- fit


def change_of(share, generator, shape=(1, 2, 16, 16)):
    """Return a Change of which one number a mode explains that share of dD, and the numbers."""
    spectrum = Spectrum(*shape[-2:], "cpu")
    noise, other = (
        spectrum.forward(torch.randn(shape, generator=generator, dtype=torch.float64))
        for _ in range(2)
    )
    power = torch.rand(noise[..., ::2].shape, generator=generator, dtype=torch.float64) + 0.5
    made = power.repeat_interleave(2, -1) * noise
    # what no number of a mode explains is across its parts: (p, q) -> (-q, p)
    across = torch.stack([-noise[..., 1::2], noise[..., ::2]], -1).flatten(-2)
    across = across * made.norm() / across.norm()
    denoised = share**0.5 * made + (1 - share) ** 0.5 * across
    return Change(torch.stack([denoised, noise], 1), spectrum), power * share**0.5


@pytest.mark.parametrize("share", [0.5, 0.94, 0.96, 0.98, 1.0])
def test_what_is_explained_is_believed_from_the_threshold_on(share, generator):
    change, power = change_of(share, generator)
    found = change.power(0.95)
    trust = min(1, max(0, (share - 0.95) / 0.05))
    assert found.trust.item() == pytest.approx(trust, abs=2e-2)
    torch.testing.assert_close(found.trust + found.doubt, torch.ones_like(found.trust))
    if trust == 1:
        seen = change.values[:, 1].unflatten(-1, (-1, 2)).norm(dim=-1) > 1e-6
        torch.testing.assert_close(found.modes[..., 0][seen], power[seen])


def test_a_change_against_the_noise_is_no_power(generator):
    change, _ = change_of(1.0, generator)
    turned = Change(change.values * torch.tensor([-1.0, 1.0])[:, None, None], change.spectrum)
    assert (turned.power(0.95).modes == 0).all()


# ---------------------------------------------------------------------------------------- steepness


@pytest.mark.parametrize("gain", [0.02, 0.3, 3.0])
def test_the_steepness_of_a_model_that_follows_the_noise(gain, normal):
    """|dD| / (r^2 |de|) where both are along each other, less what independent ones would show."""
    spectrum, noise = Spectrum(8, 8, "cpu"), normal(1, 4, 80)
    change = Change(torch.stack([gain * 4.0 * noise, noise], 1), spectrum)
    steepness = Steepness(TUNED)
    steepness.measure(change, 2.1, 1.0)
    expected = NORMAL * gain * 4.0 / 2.1**2
    assert steepness.value.item() == pytest.approx(expected, rel=1e-9)
    steepness.measure(Change(change.values * 0.5, spectrum), 2.1, 1.0)
    assert steepness.value.item() == pytest.approx(expected, rel=1e-9)  # of the same ratio
    half = torch.stack([change.values[:, 0] * 0.5, noise], 1)
    steepness.measure(Change(half, spectrum), 2.1, 1.0)
    assert steepness.value.item() == pytest.approx(expected, rel=1e-9)  # the largest stays


def test_independent_changes_show_the_quotient_of_their_sizes(generator):
    spectrum = Spectrum(64, 64, "cpu")
    values = torch.randn(1, 2, 4, 64 * 66, generator=generator, dtype=torch.float64)
    steepness = Steepness(TUNED)
    steepness.measure(Change(values * torch.tensor([3.0, 1.0])[:, None, None], spectrum), 4.0, 1.0)
    assert steepness.value.item() == pytest.approx(3.0 / 16, rel=0.02)


def test_where_the_picture_outweighs_the_noise_nothing_is_measured(normal):
    change = Change(normal(1, 2, 4, 80), Spectrum(8, 8, "cpu"))
    steepness = Steepness(TUNED)
    steepness.measure(change, 1.99, 1.0)
    assert steepness.value is None and steepness.damped(1.0) == 1.0
    steepness.measure(change, 2.01, 1.0)
    assert steepness.value is not None


@pytest.mark.parametrize(
    ("value", "length", "part"),
    [
        (0.1, 5.0, 1.0),
        (0.44, 5.0, 0.5),
        (0.44, 0.6, 0.5),
        (0.44, 0.3, 1.0),
        (0.5, 0.6, 0.2273),
        (9, 1, 0.2),
    ],
)
def test_corrections_of_steep_models_are_taken_in_part(value, length, part):
    steepness = Steepness(TUNED)
    steepness.value = torch.full((1, 1, 1), float(value), dtype=torch.float64)
    assert steepness.damped(length).item() == pytest.approx(part, abs=1e-4)


def test_falling_is_1_then_a_line_then_the_least():
    value = torch.tensor([0.0, 0.74, 1.0, 1.26, 9.0], dtype=torch.float64)
    expected = torch.tensor([1, 1, 0.5, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(falling(value, 1.0), expected)
    assert falling(value, 1.0, 0.3).tolist() == pytest.approx([1, 1, 0.5, 0.3, 0.3])


# ----------------------------------------------------------------------------------------- evidence

RULES = Rules(("sigma", "log1p"), 4, True)


@pytest.mark.parametrize("tau", ["sigma", "log1p"])
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_a_rule_foretells_polynomials_below_its_order(tau, degree):
    sigmas, variable = (0.5, 0.8, 1.3, 2.0, 3.0), TAUS[tau]
    at = [variable.difference(0.5, s - 0.5) ** degree for s in sigmas]
    changes = [
        torch.full((1, 1, 1), a - b, dtype=torch.float64) for a, b in zip(at, at[1:], strict=False)
    ]
    found = misses(RULES, sigmas, changes).flatten()
    for (name, order), miss in zip(RULES.all, found, strict=True):
        if name == tau and order > degree or degree == 0:
            assert abs(miss) < 1e-12, (name, order)
        elif order <= degree and name == tau:
            assert abs(miss) > 1e-3, (name, order)


def test_a_lift_of_the_node_before_is_followed_by_what_a_rule_extrapolates(normal):
    """The misses are those of changes in which the node before the newest was lifted."""
    sigmas, gap, lift = (0.5, 0.8, 1.3, 2.0, 3.0), normal(2, 1, 6), normal(2, 1, 1)
    changes = [normal(2, 1, 6) for _ in range(4)]
    found = misses(RULES, sigmas, changes)
    answered(found, RULES, sigmas, 0.6, lift, gap)
    lifted = [changes[0] - 0.6 * lift * gap, changes[1] + 0.6 * lift * gap, *changes[2:]]
    torch.testing.assert_close(found, misses(RULES, sigmas, lifted))


def test_rules_count_by_the_inverse_square_of_their_miss_and_order_one_by_the_fourth():
    rules = Rules(("sigma", "log1p"), 2, True)
    sizes = torch.tensor([[[4.0, 2.0, 1.0]]], dtype=torch.float64)
    assert weights(rules, sizes).flatten().tolist() == pytest.approx([1 / 256, 1 / 4, 1])
    assert weights(rules, 7 * sizes).flatten().tolist() == pytest.approx([1 / 256, 1 / 4, 1])
    best = torch.tensor([[[1.0, 2.0, 4.0]]], dtype=torch.float64)
    assert weights(rules, best).flatten().tolist() == pytest.approx([1, 1 / 4, 1 / 16])
    assert weights(rules, 0 * sizes).flatten().tolist() == [1, 1, 1]


def test_one_variable_that_was_asked_for_has_no_order_one_beside_it():
    assert Rules(("log",), 3, False).all == [("log", 2), ("log", 3)]
    assert RULES.all[0] == (None, 1) and len(RULES.all) == 7


def test_the_mixture_of_rules_is_each_rule_where_it_alone_counts():
    sigmas, slots = (0.5, 0.8, 1.3, 2.0), (4, 1, 0, 3, 2)
    rows = mixture(RULES, 1, 0.3, sigmas, slots, 0.7)
    for i, (tau, order) in enumerate(RULES.all):
        found = [row[i] for row in rows]
        of = shares(0.5, 0.3, sigmas[:order], TAUS[tau], slots)[-1] if tau else [0, 0, 0, 0, 1.0]
        assert found[3:] == pytest.approx(list(of)) and found[0] == 1
        assert found[2] == pytest.approx(0.7 * (1 + of[1]))
    two = mixture(RULES, 2, 0.3, sigmas, slots, 0.7)
    assert two[1] == (0.0,) * 7 + (2.0,) * 7  # believed where as good with the answer as without
    assert two[4][:7] == two[4][7:] == rows[4]


# --------------------------------------------------------------------------------------------- step


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("end", [0.0, 1e-9, 0.3, 0.9])
def test_a_step_with_a_constant_m_is_exact(path, end, normal):
    """x/psi - u m is kept, psi^2 = a^2 S + s^2, u = a/psi; equation 2.4."""
    path, start = PATHS[path], 0.7
    x, m, power = normal(2, 3, 8), normal(2, 3, 8), normal(2, 3, 4, 1).square()
    (ratio,) = ratios(path, power, (end, start))
    found = advance(path, x, m, ratio, start, end)
    spread = power.expand(-1, -1, -1, 2).flatten(-2)
    a0, a1 = path.signal(start), path.signal(end)
    psi0, psi1 = ((a * a * spread + s * s).sqrt() for a, s in ((a0, start), (a1, end)))
    torch.testing.assert_close(
        found, psi1 * (x / psi0 + (a1 / psi1.clamp(min=1e-300) - a0 / psi0) * m)
    )
    (plain,) = ratios(path, None, (end, start))
    shrunk = end / start
    torch.testing.assert_close(
        advance(path, x, m, plain, start, end), shrunk * x + (a1 - a0 * shrunk) * m
    )


def test_a_step_to_0_without_power_ends_on_m(normal):
    x, m = normal(2, 3, 8), normal(2, 3, 8)
    for path in (VE, FLOW):
        assert torch.equal(advance(path, x, m, 0.0, 0.4, 0.0), m)


@pytest.mark.parametrize("tau", [*TAUS.values(), power_tau(1.5)], ids=lambda tau: tau.name)
def test_shares_are_the_mean_of_the_interpolation_over_a_step(tau):
    """For S = 0 the mean is that of d(1/sigma); by a fine rule."""
    sigmas, slots, start, end = (0.5, 0.8, 1.3, 2.0), (0, 1, 2, 3, 4), 0.5, 0.2
    values = torch.tensor([1.0, -0.4, 0.7, 0.1], dtype=torch.float64)
    changes = values[:-1] - values[1:]
    at = 1 / torch.linspace(1 / start, 1 / end, 20_001, dtype=torch.float64)
    knots = [tau.difference(0.5, s - 0.5) for s in sigmas]
    for order in (1, 2, 3, 4):
        value = torch.zeros_like(at)
        for i in range(order):
            value += values[i] * math.prod(
                (tau.difference(0.5, at - 0.5) - knots[j]) / (knots[i] - knots[j])
                for j in range(order)
                if j != i
            )
        mean = torch.trapezoid(value, 1 / at) / (1 / end - 1 / start)
        row = torch.tensor(shares(start, end, sigmas, tau, slots)[order - 1], dtype=torch.float64)
        assert (row[1:4] @ changes + row[0] * values[0]).item() == pytest.approx(
            mean.item(), abs=1e-7
        )


def test_a_mean_is_the_sum_of_the_slots_by_their_shares(normal):
    residuals, of = normal(2, 5, 3, 8), normal(2, 5)
    torch.testing.assert_close(mixed(residuals, of), torch.einsum("bsck,bs->bck", residuals, of))


# ------------------------------------------------------------------------------------------ the run


def solver(settings=None, path=VE, low=0.0, **changed):
    return Multistep(
        path,
        Spectrum(8, 8, "cpu"),
        settings or Settings(),
        None,
        Whole(),
        low,
        replace(TUNED, **changed),
    )


@pytest.mark.parametrize("setting", [0.0, 0.6, 0.8, 1.0])
@pytest.mark.parametrize("sigma", [8.0, 2.0, 0.1])
def test_the_response_rises_by_half_towards_the_end(setting, sigma, normal):
    run = solver(Settings(power="zero", response=setting))
    run.observe(sigma, normal(1, 3, 80), normal(1, 3, 80))
    late = 4 / (4 + sigma**2)
    assert run.response() == pytest.approx(min(1, setting * (1 + late / 2)))


@pytest.mark.parametrize(("steep", "part"), [(0.1, 1.0), (0.25, 0.5), (3.0, 0.0)])
def test_the_first_correction_is_answered_by_gentle_models_alone(steep, part, normal):
    run = solver(Settings(power="zero"))
    for sigma in (14.0, 7.0):
        run.observe(sigma, normal(1, 3, 80), normal(1, 3, 80))
    run.steepness.value = torch.full((1, 1, 1), steep, dtype=torch.float64)
    assert run.answer(1.0).item() == pytest.approx(part)
    run.observe(3.0, normal(1, 3, 80), normal(1, 3, 80))
    assert run.answer(1.0) == 1.0


def test_what_is_trusted_is_not_answered(gaussian, normal):
    """A Gaussian is solved after two calls: what its power implies leaves m as it is."""
    model, spectrum = gaussian("ve", (3, 8, 8)), Spectrum(8, 8, "cpu")
    run, x = solver(), 14.0 * normal(1, 3, 8, 8)
    modes, sigma = spectrum.forward(x), 14.0
    for end in (7.0, 3.0, 1.0):
        said = model(spectrum.inverse(modes, x.shape), torch.full((1,), sigma, dtype=x.dtype))
        run.observe(sigma, modes, spectrum.forward(said), end)
        sigma, modes, _ = run.predict(end)
    assert run.power.trust.item() == pytest.approx(1, abs=1e-6)
    assert abs(run.lift * run.gap).max() < 1e-6


def test_a_step_that_was_announced_is_the_step_that_was_not(normal):
    """``end`` in observe saves work and changes nothing."""
    said = [(s, normal(1, 3, 80), normal(1, 3, 80)) for s in (14.0, 7.0, 3.0, 1.0)]
    told, untold = solver(), solver()
    for (sigma, state, denoised), end in zip(said, (7.0, 3.0, 1.0, 0.5), strict=True):
        told.observe(sigma, state, denoised, end)
        untold.observe(sigma, state, denoised)
        assert torch.equal(told.predict(end)[1], untold.predict(end)[1])


def test_the_two_hypotheses_are_believed_by_what_the_model_said_next(normal):
    """Where D did move as it was taken to the answer is believed, and where it stayed it is not."""
    line, lift = normal(1, 3, 80), normal(1, 3, 80)
    follows = 1 + (7.0 - 5.0) / (10.0 - 7.0)  # of a straight line through the last two nodes
    for moved in (True, False):
        run = solver(Settings(power="zero", tau="sigma", order=2))
        for sigma in (14.0, 10.0, 7.0):
            run.observe(sigma, normal(1, 3, 80), -sigma * line)
        run.gap, run.lift, run.unit = lift, 1.0, 1.0
        run.observe(5.0, normal(1, 3, 80), -5.0 * line + follows * lift * moved)
        without, beside = run.weights[0, :, 0].tolist()
        assert (beside > 1e6 * without) if moved else (without > 1e6 * beside)


# ------------------------------------------------------------------------------------------- ending


def test_what_a_change_holds_of_the_noise(normal):
    noise, other = normal(2, 1, 3, 80), normal(2, 1, 3, 80)
    other = other - noise * (
        (other * noise).sum((2, 3), keepdim=True) / noise.square().sum((2, 3), keepdim=True)
    )
    assert held(0.3 * noise + other, noise, Whole()).flatten().tolist() == pytest.approx([0.3, 0.3])


# ------------------------------------------------------------------------------------------ mutants
# Rules that changes of a number or a sign had left unnoticed, or which stored runs alone had seen.


def called(run, said, end=None):
    """Have a run observe calls (sigma, state, denoised) and return it."""
    for sigma, state, denoised in said:
        run.observe(sigma, state, denoised, end)
    return run


def random_calls(normal, *sigmas):
    return [(sigma, normal(1, 3, 80), normal(1, 3, 80)) for sigma in sigmas]


PLAIN = Settings(power="zero", corrector=0)


def test_a_twin_is_measured_by_the_step_before_it_alone():
    assert is_twin([1.0, math.exp(0.5), math.exp(1.0), math.exp(20)], 0.05) is False


@pytest.mark.parametrize(("share", "nodes"), [(0.045, 2), (0.055, 3)])
def test_a_run_takes_levels_that_nearly_repeat_for_one(share, nodes, normal):
    run = called(solver(PLAIN), random_calls(normal, 14.0, 7.0, 7.0 * 0.5**share))
    assert run.nodes == nodes


def test_a_twin_has_its_own_signal(normal):
    history = History(normal(1, 3, 80), 4, 0.05)
    for sigma in (0.8, 0.4, 0.39):
        history.add(sigma, FLOW.signal(sigma), normal(1, 3, 80), normal(1, 3, 80))
    assert history.signals == (FLOW.signal(0.39), FLOW.signal(0.8))


def test_nothing_that_a_copy_does_reaches_the_history(normal):
    history = History(normal(1, 2, 6), 2, 0.05)
    for sigma in (4.0, 2.0):
        history.add(sigma, 1.0, normal(1, 2, 6), normal(1, 2, 6))
    before, twin = history.values.clone(), history.copy()
    for sigma in (1.0, 0.5):
        twin.add(sigma, 1.0, normal(1, 2, 6), normal(1, 2, 6))
    assert torch.equal(history.values, before)


def test_nothing_that_a_copy_does_reaches_the_run(normal):
    run = called(solver(), random_calls(normal, 14.0, 7.0))
    twin, steep, start = copy.copy(run), run.steepness.value.clone(), run.starts[0].clone()
    steeper = 1e3 * normal(1, 3, 80)
    called(twin, [(3.0, steeper, steeper)])
    assert torch.equal(run.steepness.value, steep) and torch.equal(run.starts[0], start)
    assert (twin.steepness.value > steep).all()


@pytest.mark.parametrize("corrector", [1, 2, 3])
def test_a_twin_takes_the_place_of_the_last(corrector, normal):
    """Its step is done again where the start of it is known, as if the other had not been."""
    said = random_calls(normal, 14.0, 7.0, 6.99)
    settings = Settings(power="zero", corrector=corrector)
    twice, once = called(solver(settings), said), called(solver(settings), [said[0], said[2]])
    if corrector == 1:
        assert twice.gap is None and torch.equal(twice.starts[0], said[2][1])
    else:
        torch.testing.assert_close(twice.gap, once.gap)
    called(twice, random_calls(normal, 3.0, 2.99, 1.0))
    assert twice.nodes == 4


def test_the_answer_to_a_correction_is_forgotten_with_its_node(normal):
    run = called(solver(), random_calls(normal, 14.0, 7.0, 3.0))
    assert run.weights.shape[1] == 2
    assert called(run, random_calls(normal, 2.99)).weights.shape[1] == 1


@pytest.mark.parametrize("sigma", [14.0, 2.01, 1.99, 0.1])
def test_runs_that_begin_near_the_picture_have_a_bold_variable_of_their_own(sigma, normal):
    run = called(solver(), random_calls(normal, sigma, sigma / 2))
    assert run.taus == (("sigma", "log1p") if sigma > 2 else ("sigma", "log"))
    if sigma < 2:
        assert run.weights.flatten().tolist() == [0, 1]


def test_as_many_steps_are_done_again_as_were_asked_for(normal):
    run = called(solver(Settings(order=1, corrector=3)), random_calls(normal, 9, 7, 5, 3, 2))
    assert run.nodes == 4


def test_a_correction_goes_through_four_nodes(normal):
    """The fifth says nothing to it."""
    said, start = random_calls(normal, 14.0, 10.0, 7.0, 4.0, 2.0), normal(1, 3, 80)
    gaps = []
    for changed in range(3):
        run = solver(Settings(power="zero"))
        for i, (sigma, state, denoised) in enumerate(said):
            if i == 4:
                run.starts = [start]
            run.observe(sigma, state, denoised * (2 if i == changed - 1 else 1))
        gaps.append(run.gap)
    torch.testing.assert_close(gaps[1], gaps[0])
    assert (gaps[2] - gaps[0]).abs().max() > 1e-3


def test_a_correction_is_of_one_order_more_than_the_prediction(normal):
    said, start = random_calls(normal, 14.0, 10.0, 7.0), normal(1, 3, 80)
    gaps = []
    for times in (1, 2):
        run = called(solver(Settings(power="zero", order=2)), said[:2])
        run.history.values[:, 0, 1] *= times  # the change between the two: of the third node
        run.starts = [start]
        gaps.append(called(run, said[2:]).gap)
    assert (gaps[1] - gaps[0]).abs().max() > 1e-3


def test_which_rules_compete(normal):
    run, one = solver(PLAIN), solver(replace(PLAIN, tau="root", order=3))
    for nodes, call in enumerate(random_calls(normal, 14.0, 10.0, 7.0, 4.0, 2.0, 1.0), 1):
        called(run, [call]), called(one, [call])
        if nodes > 2:
            assert run.rules == Rules(("sigma", "log1p"), min(4, nodes - 1), True)
            assert one.rules == Rules(("root",), min(3, nodes - 1), False)


@pytest.mark.parametrize(("steep", "bold"), [(0.1, 1.0), (0.25, 0.5), (3.0, 0.0)])
def test_the_first_prediction_is_bold_for_gentle_models(steep, bold, normal):
    run = called(solver(), random_calls(normal, 14.0, 7.0))
    run.steepness.value = torch.full((1, 1, 1), steep, dtype=torch.float64)
    assert run.first_weights().flatten().tolist() == pytest.approx([1 - bold, bold])


def test_of_a_steep_model_s_correction_a_part_is_taken(normal):
    run, said = solver(Settings(power="zero")), random_calls(normal, 14.0, 7.0, 3.0)
    called(run, said[:2])
    run.steepness.value = torch.full((1, 1, 1), 1e9, dtype=torch.float64)
    called(run, said[2:])
    torch.testing.assert_close(run.starts[0], said[2][1] + 0.2 * run.gap)


def test_a_step_of_a_flow_model_is_as_long_as_its_noise_to_signal_ratio_falls(normal):
    run = called(solver(Settings(power="zero"), FLOW), random_calls(normal, 0.5, 0.4))
    assert run.unit == pytest.approx(run.response() / 0.6)
    run.steepness.value = torch.full((1, 1, 1), 0.7, dtype=torch.float64)
    part = 2.5 - 2 * 0.7 / (0.44 / (math.log(1.5) / 0.6))
    assert 0.2 < part == pytest.approx(run.taken().item())


@pytest.mark.parametrize("start", [1.0, 0.95])
def test_steps_since_pure_noise_are_all_done_again_while_it_is_known(start, normal):
    said = random_calls(normal, start, 0.8, 0.6, 0.45, 0.3)
    one, three = (solver(Settings(power="zero", corrector=c), FLOW) for c in (1, 3))
    for i, call in enumerate(said):
        called(one, [call]), called(three, [call])
        if i:
            alike = i == 1 or (start == 1 and i < 4)
            assert torch.allclose(one.gap, three.gap) is alike, i


@pytest.mark.parametrize(("first", "again"), [(16.0, True), (100.0, False)])
def test_a_step_far_longer_than_the_next_is_not_done_again(first, again, normal):
    said = random_calls(normal, first, 10.0, 8.0)
    one, two = (called(solver(Settings(power="zero", corrector=c)), said) for c in (1, 2))
    assert torch.allclose(one.gap, two.gap) is not again


def test_a_step_that_goes_elsewhere_than_was_announced(normal):
    said = random_calls(normal, 14.0, 7.0, 3.0)
    told, untold = called(solver(), said, 2.0), called(solver(), said)
    assert torch.equal(told.predict(1.0)[1], untold.predict(1.0)[1])


@pytest.mark.parametrize(
    ("settings", "low"),
    [
        (replace(PLAIN, order=1, corrector=3, response=0.0), 0.01),
        (PLAIN, 1.5),
        (PLAIN, 0.0),
    ],
)
def test_the_end_is_what_the_model_says_where_nothing_is_foreseen(settings, low, normal):
    said = random_calls(normal, 7.0, 3.0, 2.0, 1.0)
    run = called(solver(settings, low=low), said)
    torch.testing.assert_close(run.predict(0.0)[1], said[-1][2])
    foreseen = called(solver(PLAIN, low=0.01), said).predict(0.0)[1]
    assert (foreseen - said[-1][2]).abs().max() > 1e-3


@pytest.mark.parametrize("odds", [0.0, 1 / 3, 1.0, 3.0])
def test_how_far_an_answer_is_believed(odds, normal):
    """Where a call follows, in full from even odds on; at the end by its share of the evidence."""
    said, gap = random_calls(normal, 14.0, 7.0, 3.0), normal(1, 3, 80)
    found = {}
    for end in (0.0, 1.0):
        for each in (0.0, odds, 1.0):
            run = called(solver(Settings(power="zero", tau="sigma", order=2)), said)
            run.starts[0] = said[-1][1]
            run.weights = torch.tensor([[[1.0], [each]]], dtype=torch.float64)
            run.gap, run.lift, run.unit = gap, 1.0, 0.5
            found[end, each] = run.predict(end)[1]
    share = odds / (1 + odds)
    torch.testing.assert_close(found[0.0, odds] - found[0.0, 0.0], share * 0.5 * gap)
    full = found[1.0, 1.0] - found[1.0, 0.0]
    torch.testing.assert_close(found[1.0, odds] - found[1.0, 0.0], min(1, 2 * share) * full)
    assert full.abs().max() > 1e-2


def test_what_a_trusted_fit_says_is_taken_in_full(normal):
    run = called(solver(), random_calls(normal, 14.0, 7.0))
    for trust in (0.0, 0.6, 1.0):
        trusted = torch.full((1, 1, 1), trust, dtype=torch.float64)
        run.power = run.power._replace(trust=trusted)
        run.steepness.value = torch.full((1, 1, 1), 9.0, dtype=torch.float64)
        assert run.taken().item() == pytest.approx(max(0.2, trust))


def test_a_step_of_no_length_is_not_stiff():
    steepness = Steepness(TUNED)
    steepness.value = torch.full((1, 1, 1), 9.0, dtype=torch.float64)
    assert steepness.damped(0.0) == 1.0


def test_at_the_end_every_rule_holds_m():
    rows = mixture(RULES, 1, 0.0, (0.5, 0.8, 1.3, 2.0), (4, 1, 0, 3, 2), 0.7)
    assert rows[2:] == ((0.7,) * 7, *[(0.0,) * 7] * 4, (1.0,) * 7)


# what is fitted


def test_what_is_believed_in_part_is_power_in_part(generator):
    change, power = change_of(0.98, generator)
    found = change.power(0.95)
    trust = found.trust.item()
    assert 0.3 < trust < 0.9
    seen = change.values[:, 1].unflatten(-1, (-1, 2)).norm(dim=-1) > 1e-6
    torch.testing.assert_close(found.modes[..., 0][seen], trust * power[seen])


def test_of_the_modes_that_are_not_fitted_nothing_is_known(generator):
    """They neither have a power nor count against the others' trust."""
    change, power = change_of(1.0, generator)
    fitted = change.spectrum.among_lowest(40)
    values = change.values.clone()
    values[:, 0] = torch.where(fitted > 0, values[:, 0], values[:, 0].flip(-1))
    found = Change(values, change.spectrum).power(0.95, fitted)
    assert found.trust.item() == pytest.approx(1)
    torch.testing.assert_close(found.doubt, (1 - fitted).expand_as(found.doubt))
    assert (found.modes[..., 0][:, :, fitted[::2] == 0] == 0).all()
    seen = change.values[:, 1].unflatten(-1, (-1, 2)).norm(dim=-1) > 1e-6
    seen = seen & (fitted[::2] > 0)
    torch.testing.assert_close(found.modes[..., 0][seen], power[seen])


def test_where_nothing_is_measured():
    spectrum, settings = Spectrum(8, 8, "cpu"), Settings()
    assert measure_of(spectrum, settings) is not None
    assert measure_of(spectrum, replace(settings, power="zero")) is None
    assert measure_of(spectrum, settings, math.inf) is None
    assert measure_of(spectrum, settings, 1.0) is None
    assert measure_of(Spectrum(8, 8, "cpu", "cosine"), settings) is None
    assert measure_of(Spectrum(2, 2, "cpu"), settings) is None


@pytest.mark.parametrize("settled", [COHERENT, TUNED.coherent], ids=["by default", "in a run"])
def test_a_number_a_mode_that_explains_all_but_a_fiftieth_is_not_believed(settled, generator):
    assert change_of(0.98, generator)[0].power(settled).trust.item() == 0
    assert change_of(1.0, generator)[0].power(settled).trust.item() == pytest.approx(1)


@pytest.mark.parametrize("modes", [10, 64])
def test_as_many_modes_are_fitted_as_were_asked_for(modes, generator):
    change, _ = change_of(1.0, generator)
    found = measure_of(change.spectrum, Settings(modes=modes))(change)
    expected = change.spectrum.among_lowest(modes)
    assert torch.equal(found.doubt[0, 0] < 0.5, expected > 0)


# under a mask

LEFT = torch.ones(1, 1, 8, 8, dtype=torch.float64)
LEFT[..., :4] = 0
NAMES = ("denoised", "noise")


def test_what_the_host_does_to_kept_pixels_is_not_measured(normal):
    """The painted ones are Gaussian, each by itself, and the fit of a change sees them alone."""
    spectrum, run = Spectrum(8, 8, "cpu"), solver()
    run.window, power = Masked(spectrum, LEFT), 3.0
    for sigma in (14.0, 7.0):
        x, kept = normal(1, 3, 8, 8), normal(1, 3, 8, 8)
        said = torch.where(LEFT > 0, x * power / (power + sigma**2), 50 * kept)
        run.observe(sigma, spectrum.forward(x), spectrum.forward(said))
    assert run.power.trust.item() == pytest.approx(1)


def test_a_change_between_calls_is_that_of_the_painted_part(normal):
    spectrum = Spectrum(8, 8, "cpu")
    new, old = (
        SimpleNamespace(**{name: spectrum.forward(normal(1, 3, 8, 8)) for name in NAMES})
        for _ in range(2)
    )
    found = Change.between(new, old, Masked(spectrum, LEFT), spectrum).values
    for i, name in enumerate(NAMES):
        whole = spectrum.inverse(getattr(new, name) - getattr(old, name), (1, 3, 8, 8))
        torch.testing.assert_close(spectrum.inverse(found[:, i], (1, 3, 8, 8)), LEFT * whole)


def test_kept_pixels_go_where_a_constant_answer_leads(normal):
    """A step of Euler's, on the path flow: x = a D + s n with n as it was."""
    spectrum, run = Spectrum(8, 8, "cpu"), solver(PLAIN, FLOW)
    run.window = Masked(spectrum, LEFT)
    for sigma in (0.8, 0.6, 0.4):
        x, denoised = normal(1, 3, 8, 8), normal(1, 3, 8, 8)
        run.observe(sigma, spectrum.forward(x), spectrum.forward(denoised))
    found = spectrum.inverse(run.predict(0.3)[1], x.shape)
    euler = 0.7 * denoised + 0.3 * (x - 0.6 * denoised) / 0.4
    torch.testing.assert_close((found - euler)[..., :4], torch.zeros(1, 3, 8, 4).double())
    assert (found - euler)[..., 4:].abs().max() > 1e-3


def test_the_evidence_is_that_of_the_painted_part(normal):
    spectrum = Spectrum(8, 8, "cpu")
    said = [(sigma, normal(1, 3, 8, 8), normal(1, 3, 8, 8)) for sigma in (14.0, 7.0, 3.0, 1.0)]
    runs = []
    for kept in (0.0, 20.0):
        run = solver(replace(PLAIN, response=0.0))
        run.window = Masked(spectrum, LEFT)
        for sigma, x, denoised in said:
            changed = denoised + kept * (1 - LEFT) * x
            run.observe(sigma, spectrum.forward(x), spectrum.forward(changed))
        runs.append(run)
    assert runs[0].weights.std() > 1e-3
    torch.testing.assert_close(runs[0].weights, runs[1].weights)


# the end


def near_the_end(path, normal, sigmas, alike=None, quiet=False):
    """Return a History of three nodes and the noise left at each, newest first: modes of pictures.

    ``alike``: the oldest is so many times the one after it; ``quiet``: none is left.
    """
    spectrum, signals = Spectrum(8, 8, "cpu"), [path.signal(sigma) for sigma in sigmas]
    noises = [(not quiet) * spectrum.forward(normal(1, 3, 8, 8)) for _ in sigmas]
    if alike:
        noises[2] = alike * noises[1]
    history = History(noises[0], 2, 0.05)
    for sigma, signal, noise in reversed(list(zip(sigmas, signals, noises, strict=True))):
        denoised = spectrum.forward(normal(1, 3, 8, 8))
        history.add(sigma, signal, signal * denoised + sigma * noise, denoised)
    return history, noises


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("low", "ahead"), [(0.3, math.log(4 / 3)), (0.01, 3 * math.log(5 / 4))], ids=["model", "step"]
)
def test_detail_goes_on_growing_by_as_much_for_every_factor(path, low, ahead, normal):
    """Down to the model's smallest level, or three times as far as the last step; what else
    changed is across the noise here, and so foretold by nothing."""
    path = PATHS[path]
    history, (noise, noise1, noise2) = near_the_end(path, normal, (0.4, 0.5, 0.7), alike=2.0)
    newest, length, length1 = normal(1, 3, 80), math.log(5 / 4), math.log(7 / 5)
    window, spectrum = Whole(), Spectrum(8, 8, "cpu")
    across = torch.stack([-noise1[..., 1::2], noise1[..., ::2]], -1).flatten(-2)

    def foreseen(change, before):
        made = torch.stack([change, before + across], 1)
        return foresee(history, newest, made, low, TUNED, window, spectrum)

    grown = foreseen(0.05 * length * noise1, 0.05 * length1 * noise2)
    torch.testing.assert_close(grown, newest + 0.05 * ahead * noise)
    most = 0.15 * 0.4 / ahead  # 0.15 of the noise that is left
    grown = foreseen(9.0 * noise1, most * length1 * noise2)
    torch.testing.assert_close(grown, newest + most * ahead * noise)
    torch.testing.assert_close(foreseen(-0.05 * noise1, 0 * noise2), newest)  # no detail goes


@pytest.mark.parametrize(
    "window", [Whole(), Masked(Spectrum(8, 8, "cpu"), LEFT)], ids=["whole", "masked"]
)
def test_from_pure_noise_detail_was_seen_to_grow_in_the_last_step_alone(window, normal):
    history, (noise, noise1, _) = near_the_end(FLOW, normal, (0.4, 0.5, 1.0))
    newest, spectrum, kept = normal(1, 3, 80), Spectrum(8, 8, "cpu"), 0.0
    if isinstance(window, Masked):  # what changes there is not looked at
        kept = spectrum.forward((1 - LEFT) * normal(1, 3, 8, 8))
    made = torch.stack([0.05 * math.log(5 / 4) * noise1 + kept, normal(1, 3, 80)], 1)
    found = foresee(history, newest, made, 0.3, TUNED, window, spectrum)
    torch.testing.assert_close(found, newest + 0.05 * math.log(4 / 3) * noise)


@pytest.mark.parametrize(("low", "reach"), [(0.3, 1.0), (0.01, 3.0)], ids=["model", "step"])
@pytest.mark.parametrize("times", [-1.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("masked", [False, True])
def test_a_line_goes_on_as_far_as_it_was_foretold(times, low, reach, masked, normal):
    """``times``: the newest change over what the line before it foretold."""
    spectrum = Spectrum(8, 8, "cpu")
    window = Masked(spectrum, LEFT) if masked else Whole()
    history, _ = near_the_end(VE, normal, (0.4, 0.5, 0.7), quiet=True)
    newest, before, kept = (spectrum.forward(normal(1, 3, 8, 8)) for _ in range(3))
    made = times * 0.5 * before
    if masked:
        made = made + spectrum.forward((1 - LEFT) * spectrum.inverse(kept, (1, 3, 8, 8)))
    found = foresee(history, newest, torch.stack([made, before], 1), low, TUNED, window, spectrum)
    torch.testing.assert_close(found, newest + min(1, max(0, times)) * reach * made)


@pytest.mark.parametrize("times", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("angle", [0.0, 0.5, 1.2, 2.0])
def test_agreement_is_the_part_foretold_times_what_of_the_change_that_explains(
    times, angle, normal
):
    q, spectrum = normal(2, 3, 80), Spectrum(8, 8, "cpu")
    across = torch.stack([-q[..., 1::2], q[..., ::2]], -1).flatten(-2)
    p = times * 0.4 * (math.cos(angle) * q + math.sin(angle) * across)
    found = agreement(torch.stack([p, q], 1), 0.4, spectrum)
    along = max(0, math.cos(angle))
    torch.testing.assert_close(found, torch.full_like(found, min(1, times * along) * along**2))
