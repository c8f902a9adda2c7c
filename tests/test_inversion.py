"""Inversion: what it solves exactly, its orders, that a round trip comes back, and what it shares
with sampling."""

import math

import pytest
import torch
from test_convergence import slope_of

import isdo
from isdo import Settings, sample_isdo, schedules, zoo
from isdo.inversion import Ascent, calls_at_bottom, calls_of, rising
from isdo.path import PATHS
from isdo.solver import SOLVERS
from isdo.srk import Call

pytestmark = pytest.mark.usefixtures("no_grad")
both_paths = pytest.mark.parametrize("path", PATHS)
SEQUENTIAL = [name for name, row in SOLVERS.items() if not row.sweeps]
every_solver = pytest.mark.parametrize("solver", SEQUENTIAL)
TOPS = {"ve": 14.6, "flow": 1.0}
ZOO = ("eps", "v", "flow")


def invert(model, x, sigmas, settings=None, **kwargs):
    return isdo.invert(model, x, sigmas, disable=True, settings=settings, **kwargs)


def distance(found, picture):
    """Return the RMS of the difference over that of the picture (B,)."""
    return (
        (found - picture).square().flatten(1).mean(1) / picture.square().flatten(1).mean(1)
    ).sqrt()


# What it solves exactly


@both_paths
@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 5, 9), (3, 2, 7, 4)], ids=str)
@pytest.mark.parametrize("end", [0.0, 0.05])
def test_a_gaussian_of_unknown_mean_and_spectrum_is_inverted_exactly(
    end, shape, path, gaussian, normal
):
    model, top, x = gaussian(path, shape), TOPS[path], normal(3, *shape)
    sigmas = [top, 0.4 * top, 0.1, *([end] if end else [0.05, 0.0])]
    assert (invert(model, x, sigmas) - model.exact(x, end, top)).abs().max() < 1e-10 * top


@every_solver
@both_paths
def test_a_gaussian_comes_back_to_rounding(path, solver, gaussian, normal):
    """Also with solvers whose first step knows of no power: at the first level they know it from
    the bottom."""
    model, top, x = gaussian(path, (2, 6, 7)), 0.9 * TOPS[path], normal(2, 2, 6, 7)
    sigmas, settings = (
        [top, 0.4 * top, 0.1 * top, 0.05 * top, 0.0],
        Settings(solver=solver, placement=0),
    )
    noise = invert(model, x, sigmas, settings)
    # from the second step on every solver is exact: the first way up and the first way down are one
    # step each
    bound = 1e-9 if solver == "multistep" else 0.15
    assert (
        distance(sample_isdo(model, noise, sigmas, disable=True, settings=settings), x).max()
        < bound
    )


@both_paths
def test_a_gaussian_in_float32(path, gaussian, normal):
    model, top, x = gaussian(path, (3, 8, 8)), TOPS[path], normal(2, 3, 8, 8)
    found = invert(model, x.float(), [top, 0.4 * top, 0.1, 0.05, 0.0])
    assert found.dtype == torch.float32
    assert (found - model.exact(x, 0.0, top)).abs().max() < 1e-4 * top


# Orders


SETTINGS = {
    "multistep": (Settings(power="zero", order=3), 4),
    "srk3": (Settings(solver="srk3", power="zero"), 3),
    "srk4": (Settings(solver="srk4", power="zero"), 4),
    "srk5": (Settings(solver="srk5", power="zero"), 5),
}
# rising from short steps: a start of lower order does not show; the flow path up to where the
# picture is gone
RANGES = {"ve": (0.4, 2.0), "flow": (0.3, 1.0)}


@both_paths
@pytest.mark.parametrize("name", SETTINGS)
def test_order_of_convergence_upwards(name, path, pixel_mixture, solve, normal):
    model, (low, high), (settings, order) = pixel_mixture(path), RANGES[path], SETTINGS[name]
    x = normal(8, 2, 4, 4)
    exact, counts, errors = (
        solve(model, x, low, high),
        (32, 45, 64, 90) if name == "multistep" else (8, 11, 16, 23),
        [],
    )
    for count in counts:
        t = torch.linspace(0, 1, count + 1, dtype=torch.float64) ** 2
        sigmas = (low * (high / low) ** t).flip(0)
        sigmas[0], sigmas[-1] = high, low
        errors.append((invert(model, x, sigmas, settings) - exact).square().mean().sqrt())
    # two of the solvers fall faster in this range; none slower
    assert order - 0.25 < slope_of(errors, counts) < order + 2


# Round trips


@pytest.fixture(scope="module")
def drawn():
    """drawn(name) -> (a model of the zoo, two of its pictures, what it is told)."""

    def make(name):
        model, generator = zoo.load(name), torch.Generator().manual_seed(3)
        told = {"labels": torch.tensor([0, 5]), "guidance": 1.0}
        sigmas = grid(model, 30)
        x = torch.randn(2, 3, 32, 32, generator=generator) * sigmas[0]
        return model, sample_isdo(model, x, sigmas, told, disable=True), told

    return make


def grid(model, steps):
    return schedules.schedule("flow" if model.path.fade else "karras", steps, model)


@pytest.mark.parametrize("name", ZOO)
def test_pictures_come_back_to_a_thousandth_in_50_and_50_calls(name, drawn):
    model, picture, told = drawn(name)
    sigmas, report = grid(model, 41 if model.path.fade else 42), {}
    noise = invert(model, picture, sigmas, extra_args=told, report=report)
    assert report["calls"] == [50, 50]
    assert distance(sample_isdo(model, noise, sigmas, told, disable=True), picture).mean() < 1.2e-3
    assert 0.8 < (noise / sigmas[0]).std() < 1.2  # and it is noise


@pytest.mark.parametrize("name", ZOO)
def test_in_few_calls_it_is_much_nearer_than_ddim(name, drawn):
    model, picture, told = drawn(name)
    sigmas = grid(model, 8)
    ours = sample_isdo(
        model, invert(model, picture, sigmas, extra_args=told), sigmas, told, disable=True
    )
    x, levels = picture, sigmas.tolist()
    low = model.sigma_min
    for start, end in zip(levels[::-1], levels[-2::-1], strict=False):
        x = x + (end - start) * (x - model(x, max(start, low), **told)) / max(start, low)
    for start, end in zip(levels, levels[1:], strict=False):
        x = x + (end - start) * (x - model(x, start, **told)) / start
    assert distance(ours, picture).mean() < 0.35 * distance(x, picture).mean()


@both_paths
def test_the_trajectory_comes_back_to_its_residual(path, solve, normal):
    """Where the schedule ends at the model's smallest level, below which sampling foresees
    nothing."""
    top, pixels = TOPS[path], normal(2, 2, 4, 4)

    def model(x, sigma):  # a D that bends and follows x
        sigma = sigma.reshape(-1, 1, 1, 1)
        a = PATHS[path].signal(sigma)
        return torch.tanh(a * x / (a**2 * 0.5 + sigma**2)) * 0.8 + 0.1 * x

    model.path, model.sigma_min = PATHS[path], 0.05
    sigmas = [*torch.linspace(top**0.25, 0.05**0.25, 24, dtype=torch.float64).pow(4).tolist(), 0.0]
    sigmas[0], sigmas[-2] = top, 0.05
    picture = sample_isdo(
        model, top * pixels, sigmas, disable=True, settings=Settings(solver="srk5", placement=0)
    )
    found = {}
    for solver in ("trajectory", "multistep"):
        settings = Settings(solver=solver, placement=0)
        noise = invert(model, picture, sigmas, settings)
        found[solver] = distance(
            sample_isdo(model, noise, sigmas, disable=True, settings=settings), picture
        ).max()
    assert found["trajectory"] < 3e-4 and found["multistep"] > 3e-3


# The way up


def test_at_the_bottom_the_model_says_the_picture(drawn):
    model, picture, told = drawn("eps")
    sigmas, seen = grid(model, 40), []
    invert(model, picture, sigmas, extra_args=told, callback=seen.append)
    bottom = [step for step in seen if step["sigma"] == seen[0]["sigma"]]
    misses = [distance(step["denoised"], picture).max().item() for step in bottom]
    assert len(misses) == calls_at_bottom(40) == 10
    assert (
        misses[0] > 5e-3
        and misses[:6] == sorted(misses[:6], reverse=True)
        and misses[-1] < 0.02 * misses[0]
    )


@pytest.mark.parametrize("placement", [0.0, 0.75])
@pytest.mark.parametrize("name", ["eps", "flow"])
def test_up_and_down_go_by_the_same_levels(name, placement, drawn):
    model, picture, told = drawn(name)
    up, down, settings = [], [], Settings(placement=placement)
    sigmas = grid(model, 10)
    noise = invert(model, picture, sigmas, settings, extra_args=told, callback=up.append)
    sample_isdo(model, noise, sigmas, told, down.append, True, settings=settings)
    levels, again = ([float(step["sigma_hat"]) for step in steps] for steps in (up, down))
    assert [step["i"] for step in up] == list(range(len(up)))
    # the top is asked for where there is nothing of the picture in x, else not
    assert sorted(set(levels), reverse=True) == pytest.approx(
        again if name == "flow" else again[1:]
    )


@pytest.mark.parametrize(
    "levels, low, path, want",
    [
        ([10.0, 1.0, 0.1, 0.0], 0.02, "ve", ([0.1, 1.0, 10.0], True)),
        ([10.0, 1.0, 0.1], 0.02, "ve", ([0.1, 1.0, 10.0], False)),
        ([10.0, 3.0, 0.0], 0.02, "ve", ([0.02, 3.0, 10.0], True)),
        ([10.0, 3.0, 0.0], 0.0, "ve", ([3.0, 10.0], True)),
        ([1.0, 0.0], 0.001, "flow", ([0.001, 1.0], True)),
        ([1.0, 0.25, 0.0], 0.001, "flow", ([0.25, 1.0], True)),
        ([1.0, 0.4, 0.0], 0.001, "flow", ([0.001, 0.4, 1.0], True)),
        ([2.0], 0.02, "ve", ([2.0], False)),
        ([0.0], 0.02, "ve", ([0.0], False)),
    ],
)
def test_the_levels_upwards(levels, low, path, want):
    assert rising(levels, PATHS[path], low) == want


@every_solver
@pytest.mark.parametrize("steps", [1, 2, 3, 8, 25])
@both_paths
def test_the_calls_are_those_that_are_counted(path, steps, solver, rational):
    class Counted:
        calls = 0
        path = PATHS["ve"]

        def __call__(self, x, sigma):
            self.calls += 1
            return rational(x, sigma)

    model, report, said = Counted(), {}, []
    model.path = PATHS[path]
    top = TOPS[path]
    sigmas = [*torch.linspace(top, 0.1, steps).tolist(), 0.0]
    x = torch.randn(2, 3, 4, 4)
    out = invert(model, x, sigmas, Settings(solver=solver), report=report, callback=said.append)
    row = SOLVERS[solver]
    top = 1 if solver == "multistep" and path == "flow" and steps > 1 else 0
    assert len(sigmas) == steps + 1
    assert (
        model.calls == calls_at_bottom(steps) + row.calls_a_step * (steps - 1) - (steps > 1) + top
    )
    assert (
        report["calls"] == [model.calls] * 2 and len(said) == model.calls and out.isfinite().all()
    )


def test_no_steps_are_the_picture(rational):
    x = torch.randn(2, 3, 4, 4)
    for sigmas in ([0.0], [3.0], [0.0, 0.0]):
        out = invert(rational, x, sigmas)
        assert torch.equal(out, x) and out.data_ptr() != x.data_ptr()


def test_a_level_that_is_there_twice_changes_nothing_but_the_calls(pixel_mixture, normal):
    model, x, settings = pixel_mixture("ve"), normal(2, 2, 4, 4), Settings(placement=0)
    once, twice = (
        invert(model, x, sigmas, settings)
        for sigmas in ([4.0, 2.0, 0.5, 0.1], [4.0, 2.0, 2.0, 0.5, 0.1, 0.1])
    )
    torch.testing.assert_close(once, twice, rtol=0, atol=1e-12)


@pytest.mark.parametrize("end", [0.0, 0.1])
def test_up_to_zero_terminal_snr(end, gaussian, normal):
    model, x = gaussian("ve", (2, 6, 7)), normal(2, 2, 6, 7)
    out = invert(model, x, [4518.0, 14.0, 2.0, 0.5, 0.1, *([] if end else [0.0])])
    assert (out - model.exact(x, end, 4518.0)).abs().max() < 1e-7 * 4518


# What it shares with sampling


@pytest.mark.parametrize(
    "solver, basis", [(name, "fourier") for name in SOLVERS] + [("multistep", "cosine")]
)
@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 2, 5, 9)], ids=str)
def test_a_picture_is_bit_equal_whatever_the_batch_holds(shape, solver, basis, rational, normal):
    batch = (
        normal(5, *shape) * torch.tensor([1.0, 1e-3, 1.0, 50.0, 0.0]).view(-1, *[1] * len(shape))
    ).float()
    sigmas, settings = (
        [*torch.linspace(14.6, 0.1, 8).tolist(), 0.0],
        Settings(solver=solver, basis=basis),
    )
    alone = invert(rational, batch[2:3], sigmas, settings)
    assert torch.equal(invert(rational, batch, sigmas, settings)[2:3], alone)
    assert torch.equal(invert(rational, batch.roll(2, 0), sigmas, settings)[4:5], alone)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)
@both_paths
def test_any_shape_and_dtype_comes_back_as_it_came(path, dtype, gaussian, normal):
    for shape in ((3, 6, 5), (2, 3, 4, 4)):
        model, x = gaussian(path, shape), normal(2, *shape).to(dtype)
        kept = x.clone()
        out = invert(model, x, [TOPS[path], 0.3, 0.1, 0.0])
        assert out.dtype == dtype and out.shape == x.shape and torch.equal(x, kept)
        wide = invert(model, x.double(), [TOPS[path], 0.3, 0.1, 0.0])
        torch.testing.assert_close(
            wide, model.exact(x, 0.0, TOPS[path]), rtol=0, atol=1e-9 * TOPS[path]
        )
        if torch.finfo(dtype).eps < 1e-5:
            assert (out - wide).abs().max() < 1e-4 * TOPS[path]
        else:  # nothing proves a Gaussian: the bottom is where D says the picture, as far as two calls come
            assert distance(out.double(), wide).max() < 0.6


@pytest.mark.parametrize("call", [0, 1, 3])
def test_nan_is_an_error_that_says_where(call, rational):
    levels = []

    def model(x, sigma):
        levels.append(float(sigma[0]))
        return rational(x, sigma) * (math.nan if len(levels) == call + 1 else 1)

    with pytest.raises(
        RuntimeError, match=rf"NaN or infinity at call {call + 1} of 6, sigma"
    ) as error:
        invert(model, torch.randn(1, 3, 4, 4), [8.0, 4.0, 2.0, 1.0, 0.5, 0.1, 0.0])
    assert f"sigma {levels[call]:g}" in str(error.value)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"sigmas": [1.0, 2.0]}, "sigmas must fall"),
        ({"sigmas": []}, "sigmas is empty"),
        ({"sigmas": [math.nan, 0.0]}, "finite"),
        ({"x": torch.zeros(3, 4)}, "shape"),
        ({"x": torch.zeros(1, 1, 4, 4, dtype=torch.long)}, "floating point"),
        ({"settings": {"solver": "srk4"}}, "isdo.Settings"),
        ({"settings": Settings(tolerance=0.01)}, "set tolerance to 0"),
        (
            {"settings": Settings(curvature_penalty=1.0)},
            "curvature_penalty is 1, and what it does is not undone",
        ),
        ({"settings": Settings(path="flow")}, "flow"),
    ],
)
def test_what_makes_no_sense_is_refused(change, message, rational):
    asked = {"x": torch.randn(1, 3, 4, 4), "sigmas": [3.0, 1.0, 0.0], "settings": None} | change
    with pytest.raises(ValueError, match=message):
        invert(rational, asked["x"], asked["sigmas"], asked["settings"])


def test_exceptions_of_the_model_pass_through():
    class Stop(BaseException):
        pass

    def model(x, sigma):
        raise Stop

    with pytest.raises(Stop):
        invert(model, torch.randn(1, 3, 4, 4), [3.0, 1.0, 0.0])


def test_where_another_model_takes_over_history_is_dropped(gaussian, normal):
    """Two Gaussians: the second is solved exactly from where it began, as by a run of its own."""

    class Wrapper:
        path, inner_model = PATHS["ve"], None

        def __init__(self, *models):
            self.models, self.states = models, []

        def __call__(self, x, sigma):
            self.inner_model = self.models[float(sigma[0]) > 1]
            self.states.append((float(sigma[0]), x))
            return self.inner_model(x, sigma)

    low, high = gaussian("ve", (2, 6, 7)), gaussian("ve", (2, 6, 7))
    x, sigmas, model = normal(2, 2, 6, 7), [9.0, 4.0, 2.0, 0.5, 0.2], Wrapper(low, high)
    out = invert(model, x, sigmas, Settings(placement=0))
    begun = next(state for sigma, state in model.states if sigma > 1)
    own = invert(high, begun, sigmas[:3], Settings(placement=0))
    torch.testing.assert_close(out, own, rtol=0, atol=1e-9)


@pytest.mark.parametrize("explained, sure", [(1.0, 1.0), (0.9995, 0.5), (0.998, 0.0), (0.99, 0.0)])
def test_the_bottom_is_solved_as_a_gaussian_as_far_as_one_is_all_but_proven(
    explained, sure, normal, rational
):
    """Of what D changed between the first two calls a power explains a share: from 0.99 on the fit
    is trusted in part, and from a trust of 0.9 on the division by what is left of x."""
    power, x = 0.7, normal(2, 3, 6, 6)
    run = Ascent(rational, x, None, Settings(), PATHS["ve"], None, 0.0, {})
    noise = run.spectrum.forward(normal(2, 3, 6, 6))
    # what no number of a mode explains lies across its parts
    across = torch.stack([-noise[..., 1::2], noise[..., ::2]], -1).flatten(-2)
    rest = power * math.sqrt(1 / explained - 1) * across
    start = torch.zeros_like(noise)
    calls = [
        Call(1.0, start, start, start), Call(1.0, start, power * noise + rest, noise)
    ]  # fmt: skip
    modes, trust = run.power_of(calls)
    fit = (explained - 0.99) / 0.01  # what the fit itself is trusted
    torch.testing.assert_close(trust, torch.full_like(trust, sure), rtol=0, atol=1e-9)
    torch.testing.assert_close(modes, torch.full_like(modes, power * fit * sure), rtol=0, atol=1e-9)


def test_in_half_precision_no_power_is_read_out_of_rounding(gaussian, normal):
    model, x = gaussian("ve", (2, 6, 6)), normal(2, 2, 6, 6)
    state = x.to(torch.float32)
    for dtype, found in ((torch.float32, True), (torch.bfloat16, False), (torch.float16, False)):
        run = Ascent(model, x.to(dtype), None, Settings(), model.path, None, 0.0, {})
        modes = [run.spectrum.forward(state * (1 + 0.1 * k)) for k in (0, 1)]
        calls = []
        for each in modes:
            said = model(run.spectrum.inverse(each, x.shape), torch.full((2,), 0.5))
            denoised = run.spectrum.forward(said)
            calls.append(Call(0.5, each, denoised, (each - denoised) / 0.25))
        power, trust = run.power_of(calls)
        assert bool((power > 0).any()) is bool((trust > 0).any()) is found


@pytest.mark.parametrize("path, top", [("flow", 1.0), ("ve", 200.0), ("flow", 0.9), ("ve", 14.6)])
@pytest.mark.parametrize("corrector", [0, 1])
@pytest.mark.parametrize("solver", ["multistep", "srk4"])
def test_pure_noise_is_asked_once_more_where_a_solver_does_its_steps_again(
    solver, corrector, path, top, pixel_mixture, normal
):
    """Where noise covers all, what D says there is news: the step up to it is done again with it."""
    model, asked = pixel_mixture(path), []

    def noting(x, sigma):
        asked.append(float(sigma[0]))
        return model(x, sigma)

    noting.path = PATHS[path]
    settings = Settings(solver=solver, corrector=corrector, placement=0)
    sigmas = [top, 0.5 * top, 0.1, 0.05, 0.0]
    invert(noting, normal(1, 2, 4, 4), sigmas, settings)
    assert len(asked) == calls_of(settings, torch.tensor(sigmas), PATHS[path], 0.0)
    blind = PATHS[path].signal(top) == 0 and corrector == 1
    # the last stage of a step of srk4 lies at its end, whatever covers it
    assert asked.count(pytest.approx(top)) == (1 if solver == "srk4" else blind)
