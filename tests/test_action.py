"""The action of a trajectory: it is 0 on solutions, falls with twice a sampler's order, and is what
its definition says."""

import math

import numpy as np
import pytest
import torch

from isdo import Settings, sample_isdo
from isdo.action import SUBSTEPS, action
from isdo.denoiser import CallCounter
from isdo.path import PATHS
from isdo.reference import ode

pytestmark = pytest.mark.usefixtures("no_grad")
both_paths = pytest.mark.parametrize("path", PATHS)
RANGE = {"ve": (10.0, 0.1), "flow": (0.95, 0.1)}


def trajectory(model, x, sigmas, sampler):
    """Return (states, levels) of a run, as a callback sees it, and its result."""
    states, levels = [], []

    def keep(step):
        states.append(step["x"])
        levels.append(float(step["sigma_hat"]))

    if isinstance(sampler, str):
        x = ode(model, x, sigmas, callback=keep, method=sampler)
    else:
        x = sample_isdo(model, x, sigmas, callback=keep, disable=True, settings=sampler)
    return [*states, x], [*levels, float(sigmas[-1])]


def even(path, steps):
    return torch.logspace(*(math.log10(v) for v in RANGE[path]), steps + 1, dtype=torch.float64)


def slope(counts, values):
    return -np.polyfit(np.log(counts), np.log(values), 1)[0]


ISDO = {"power": "zero", "placement": 0}
ORDERS = [
    ("euler", 1, 1, 0.2), ("heun", 2, 1, 0.2), (Settings(solver="srk3", **ISDO), 3, 1, 0.3),
    (Settings(solver="srk4", **ISDO), 4, 1, 0.3), (Settings(solver="srk5", **ISDO), 5, 1, 0.6),
    (Settings(**ISDO, order=2, corrector=0, tau="log"), 2, 2, 0.3), (Settings(**ISDO, corrector=0, tau="sigma"), 4, 2, 1.0),
]  # fmt: skip


@both_paths
@pytest.mark.parametrize(
    ("sampler", "order", "part", "slack"),
    ORDERS,
    ids=lambda v: str(v) if isinstance(v, str) else "",
)
def test_it_falls_with_twice_the_order(sampler, order, part, slack, path, pixel_mixture, normal):
    """Of the multistep solver in the later half: it begins with a step of order one, see below."""
    model, x, counts, found = (
        pixel_mixture(path),
        RANGE[path][0] * normal(2, 2, 3, 4),
        (20, 40, 80),
        [],
    )
    for steps in counts:
        states, levels = trajectory(model, x, even(path, steps), sampler)
        first = 0 if part == 1 else steps // 2
        found.append(action(model, states[first:], levels[first:]))
    for i in range(len(x)):
        assert slope(counts, [float(v[i]) for v in found]) == pytest.approx(
            2 * order, abs=2 * slack
        )


@both_paths
def test_a_multistep_run_begins_with_a_step_of_order_one(path, pixel_mixture, normal):
    """Over that step, of length h, |x' - f|^2 is of order h^2: the action of the whole is of order
    3."""
    model, x, counts = pixel_mixture(path), RANGE[path][0] * normal(2, 2, 3, 4), (40, 80, 160)
    runs = [trajectory(model, x, even(path, steps), Settings(**ISDO)) for steps in counts]
    whole, first = ([float(action(model, s[:n], t[:n]).sum()) for s, t in runs] for n in (None, 3))
    assert slope(counts, whole) == pytest.approx(3, abs=0.3) and first[-1] > 0.5 * whole[-1]


@both_paths
def test_a_solution_has_none_however_far_apart_its_nodes_are(path, pixel_mixture, solve, normal):
    model, start = pixel_mixture(path), RANGE[path][0]
    levels = even(path, 4).tolist()
    states = [start * normal(2, 2, 3, 4)]
    for before, after in zip(levels, levels[1:], strict=False):
        states.append(solve(model, states[-1], before, after))
    exact = action(model, states, levels, substeps=16)
    (nodes, there) = trajectory(model, states[0], even(path, 4), "heun")
    assert (exact < 1e-10 * action(model, nodes, there)).all()


@both_paths
@pytest.mark.parametrize("q", [-1.0, 0.0, 0.5, 2])
def test_it_is_the_integral_of_a_small_known_defect(path, q, gaussian, normal):
    """Where D is a Gaussian's the defect of one step is in closed form; a band of k waves counts (1
    + k^2)^q."""
    model = gaussian(path, (2, 6, 7))
    before, after = 0.7, 0.6
    x, gap = 0.7 * normal(3, 2, 6, 7), 0.01 * normal(3, 2, 6, 7)
    found = action(
        model, [x, model.exact(x, before, after) + gap], [before, after], sobolev=q, substeps=8
    )
    waves = (
        torch.fft.fftfreq(6, dtype=torch.float64)[:, None].square()
        + torch.fft.fftfreq(7, dtype=torch.float64).square()
    )
    weight = (1 + (7 * waves.sqrt()).round() ** 2) ** q
    energy = (torch.fft.fft2(gap, norm="ortho").abs().square() * weight).flatten(1).sum(1)
    torch.testing.assert_close(found, energy / (2 * (before - after)), rtol=1e-5, atol=0)


def test_it_is_the_least_of_all_curves_through_the_nodes_as_steps_get_short(
    pixel_mixture, solve, normal
):
    """The Gramian of a step, by the linearised ODE, is the length of the step and a part of the
    order of its square."""
    model, ratios = pixel_mixture("ve"), []
    x, gap = 0.7 * normal(1, 1, 2, 2), 1e-3 * normal(1, 1, 2, 2)
    for h in (0.1, 0.05, 0.025):
        end = solve(model, x, 0.7, 0.7 - h)
        nodes, weights = np.polynomial.legendre.leggauss(4)
        gramian = torch.zeros(4, dtype=torch.float64)
        for node, weight in zip(0.7 - h * (nodes + 1) / 2, weights / 2, strict=True):
            here = solve(model, x, 0.7, node)
            moved = (
                solve(model, here + 1e-5, node, 0.7 - h) - solve(model, here - 1e-5, node, 0.7 - h)
            ) / 2e-5
            gramian += h * weight * moved.flatten() ** 2  # pixels are by themselves: it is diagonal
        least = (gap.flatten() ** 2 / (2 * gramian)).sum()
        ratios.append(
            float(action(model, [x, end + gap], [0.7, 0.7 - h], substeps=4)[0] / least - 1)
        )
    assert abs(ratios[-1]) < 0.06 and ratios[0] / ratios[1] == pytest.approx(2, abs=0.3)


def test_a_step_to_0_does_not_count_and_no_call_is_made_for_it(pixel_mixture, normal):
    model = CallCounter(pixel_mixture("ve"))
    states, levels = trajectory(
        model, 4 * normal(2, 2, 3, 4), torch.tensor([4.0, 2.0, 1.0, 0.5, 0.0]), "heun"
    )
    model.calls = 0
    whole = action(model, states, levels)
    assert model.calls == 3 * 6 * SUBSTEPS
    assert torch.equal(whole, action(model, states[:-1], levels[:-1]))
    assert torch.equal(whole, action(model, torch.stack(states), torch.tensor(levels)))
    assert torch.equal(whole, action(model, [*states[:-1], states[-1] + 5], levels))


@both_paths
def test_from_pure_noise_in_float32_of_any_shape(path, pixel_mixture, normal):
    model, start = pixel_mixture(path), {"ve": 14.6, "flow": 1.0}[path]
    x = (start * normal(2, 2, 2, 3, 4)).float()  # of a video
    grid = torch.tensor([start, 0.6, 0.3, 0.1, 0.0])
    states, levels = trajectory(model, x, grid, "euler")
    found = action(model, states, levels)
    wide = action(model, [s.double() for s in states], levels)
    assert found.shape == (2,) and found.dtype == torch.float64 and (found > 0).all()
    torch.testing.assert_close(found, wide, rtol=1e-3, atol=0)


def test_a_picture_is_bit_equal_whatever_its_neighbours(rational, normal):
    states = [s * normal(5, 3, 6, 10) for s in (3.0, 2.0, 1.0)]
    together, levels = action(rational, states, [3.0, 2.0, 1.0], sobolev=1.0), [3.0, 2.0, 1.0]
    alone = action(rational, [s[2:3] for s in states], levels, sobolev=1.0)
    assert torch.equal(together[2:3], alone)
    assert torch.equal(
        action(rational, [s.roll(2, 0) for s in states], levels, sobolev=1.0)[4:5], alone
    )


def test_a_level_that_is_there_twice_counts_nothing_or_all(rational, normal):
    x, y = normal(2, 1, 4, 4), normal(2, 1, 4, 4)
    plain = action(rational, [x, y], [2.0, 1.0])
    assert torch.equal(action(rational, [x, x, y], [2.0, 2.0, 1.0]), plain)
    jumped = action(rational, [x, torch.cat([x[:1], y[1:]]), y], [2.0, 2.0, 1.0])
    assert jumped[0] == plain[0] and jumped[1] == math.inf


def test_arguments_of_the_model_go_through(normal):
    seen = []

    def model(x, sigma, label):
        seen.append((sigma.shape, label))
        return 0 * x

    found = action(model, [x := normal(2, 1, 4, 4), x / 2], [2.0, 1.0], {"label": 3})
    assert found.max() < 1e-28 and set(seen) == {((2,), 3)}  # D = 0: x/sigma is constant


X = torch.zeros(2, 1, 4, 4)


@pytest.mark.parametrize(
    ("states", "sigmas", "more", "message"),
    [
        ([X, X], [2.0, 1.0, 0.5], {}, "2 states and 3 sigmas"),
        (X[0, 0, 0, 0], [1.0], {}, "states is a Tensor"),
        (3, [1.0], {}, "states is a int"),
        ([X, X], [1.0, 2.0], {}, "sigmas must fall"),
        ([X, X], [1.0, 0.0], {}, "no step between two levels above 0"),
        ([X], [1.0], {}, "no step between"),
        ([X, X[:1]], [2.0, 1.0], {}, r"states\[1\] is torch.float32 \(1, 1, 4, 4\)"),
        ([X, X.double()], [2.0, 1.0], {}, r"states\[1\] is torch.float64"),
        ([X, X + math.nan], [2.0, 1.0], {}, r"states\[1\] holds NaN"),
        ([X[0], X[0]], [2.0, 1.0], {}, r"x has the shape \(1, 4, 4\)"),
        ([1, 2], [2.0, 1.0], {}, "x must be a tensor"),
        ([X, X], [2.0, 1.0], {"sobolev": math.inf}, "sobolev is inf"),
        ([X, X], [2.0, 1.0], {"sobolev": "1"}, "sobolev is '1'"),
        ([X, X], [2.0, 1.0], {"substeps": 0}, "substeps is 0"),
        ([X, X], [2.0, 1.0], {"substeps": 1.5}, "substeps is 1.5"),
    ],
)
def test_what_makes_no_sense_is_refused(states, sigmas, more, message, rational):
    with pytest.raises(ValueError, match=message):
        action(rational, states, sigmas, **more)


def test_flow_refuses_levels_of_the_other_path(pixel_mixture):
    with pytest.raises(ValueError, match="flow path ends at 1"):
        action(pixel_mixture("flow"), [X, X], [2.0, 1.0])


def test_a_model_that_answers_with_something_else_is_an_error():
    with pytest.raises(RuntimeError, match="returned a tensor"):
        action(lambda x, sigma: x[:1], [X, X], [2.0, 1.0])
