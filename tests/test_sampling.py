"""The contract of sample_isdo: what it calls, what it takes, what it refuses, what it leaves
alone."""

import itertools
import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from isdo import Settings, sample_isdo, schedules
from isdo.multistep import TUNED, Multistep
from isdo.path import PATHS
from isdo.solver import SOLVERS

pytestmark = pytest.mark.usefixtures("no_grad")

VARIANTS = [
    Settings(),
    Settings(power="zero", order=1, corrector=0),
    Settings(power="zero", tau="log", order=2, corrector=0),
    Settings(order=4, corrector=3, tau="root"),
    Settings(order=2, tau="cube root", modes=20),
    Settings(tau="log1p", basis="cosine", response=0.0),
]
AS_SCHEDULED = Settings(placement=0)  # each call exactly where the schedule says
SRK = [Settings(solver=name) for name, row in SOLVERS.items() if row.calls_a_step > 1]
SWEEPS = Settings(solver="trajectory")
every_solver = pytest.mark.parametrize(
    "settings", [Settings(), *SRK, SWEEPS], ids=lambda settings: settings.solver
)
all_variants = pytest.mark.parametrize(
    "settings", VARIANTS + SRK, ids=lambda settings: str(settings.changed() or "defaults")
)
as_scheduled = pytest.mark.parametrize(
    "settings",
    [replace(v, placement=0) for v in VARIANTS + SRK],
    ids=lambda settings: str(settings.changed()),
)
both_paths = pytest.mark.parametrize("path", PATHS)
SHAPES = [(3, 6, 10), (4, 7, 5), (1, 1, 1), (16, 4, 4), (1, 9, 2), (2, 3, 4, 5)]
all_shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
# what is left of a Gaussian's exact solution: D is rounded in each call, and the fit divides
# differences of it
PRECISION = {torch.float16: 0.05, torch.bfloat16: 0.4, torch.float32: 2e-4, torch.float64: 1e-9}


def grid(steps, start=3.0, last=0.05, end=(0.0,)):
    ramp = torch.linspace(start**0.5, last**0.5, steps, dtype=torch.float64) ** 2
    return torch.cat([ramp, torch.tensor(end, dtype=torch.float64)])


def run(model, x, sigmas, settings=None, **kwargs):
    return sample_isdo(model, x, sigmas, disable=True, settings=settings, **kwargs)


class Recorder:
    """A model and a callback that note what they are given, in order."""

    def __init__(self, model):
        self.model, self.seen = model, []
        self.path = getattr(model, "path", PATHS["ve"])

    def __call__(self, x, sigma, **extra_args):
        self.seen.append(("model", x, sigma, extra_args))
        return self.model(x, sigma)

    def callback(self, info):
        self.seen.append(("callback", info))


# Calls and callbacks


TABLE = torch.linspace(0.03, 14.6, 1000)
SCHEDULES = [
    lambda steps: schedules.karras(steps, 0.03, 14.6),
    lambda steps: schedules.exponential(steps, 0.002, 120.0),
    lambda steps: schedules.simple(steps, TABLE),
    lambda steps: schedules.flow(steps, shift=3.0),
    lambda steps: schedules.karras(steps + 1, 0.03, 14.6)[:-1],  # ends above 0
]


def check_calls(x, sigmas, model, settings):
    levels, seen = [], []

    def noting(x, sigma):
        levels.append(sigma[0].item())
        return model(x, sigma)

    out = run(noting, x, sigmas, settings, callback=lambda info: seen.append(info["i"]))
    assert len(levels) == len(sigmas) - 1 and seen == list(range(len(levels))) and 0 < min(levels)
    assert levels[0] == sigmas[0] and levels == sorted(set(levels), reverse=True)
    assert (levels == sigmas[:-1].tolist()) == (
        settings.placement == 0 or sigmas[-1] > 0 or len(levels) == 1
    )
    assert out.isfinite().all()


both_placements = pytest.mark.parametrize(
    "settings", [Settings(), AS_SCHEDULED], ids=["placed", "as scheduled"]
)


@both_placements
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6, 8, 20, 150])
def test_one_call_and_one_callback_a_step_and_never_at_zero(steps, settings, rational):
    for make in SCHEDULES[: 1 if steps > 20 else None]:
        check_calls(torch.ones(1, 1, 2, 2), make(steps), rational, settings)


@both_placements
def test_the_loop_makes_its_calls_for_every_number_of_steps(settings, monkeypatch):
    class Still:
        """A solver that costs nothing: what is counted is the loop's."""

        def __init__(self, *_):
            pass

        def reset(self):
            pass

        def observe(self, sigma, state, denoised, end=None):
            self.state = state

        def place(self):
            return None

        def predict(self, end):
            return end, self.state, True

    monkeypatch.setitem(SOLVERS, "multistep", replace(SOLVERS["multistep"], make=Still))
    for steps in range(1, 151):
        check_calls(
            torch.ones(1, 1, 1, 1), SCHEDULES[steps % 5](steps), lambda x, sigma: x, settings
        )


@pytest.mark.parametrize("name", ["cond_scale", "guidance"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_levels_follow_the_guidance_that_the_model_is_handed(solver, name, rational):
    def asked(settings, **extra_args):
        seen = []

        def model(x, sigma, **given):
            assert given == extra_args
            seen.extend(sigma.tolist())
            return rational(x, sigma)

        run(model, torch.ones(1, 1, 2, 2), sigmas, settings, extra_args=extra_args)
        return sorted(set(seen))

    sigmas, settings = grid(7), Settings(solver=solver)
    free, strong = asked(settings, **{name: 1}), asked(settings, **{name: 7.0})
    levels = schedules.reposition(sigmas.tolist(), guidance=7.0)[:-1]
    assert free == asked(settings) != strong
    assert set(torch.tensor(levels).tolist()) <= set(strong)
    still = Settings(solver=solver, placement=0)
    assert asked(still, **{name: 7.0}) == asked(still)
    # what is no number says nothing, and is handed on
    for other in (None, torch.tensor(7.0), "7"):
        assert asked(settings, **{name: other}) == free


@pytest.mark.parametrize("placement", [0, 0.5, 1])
@all_variants
def test_each_call_is_followed_by_its_callback(settings, placement, rational):
    settings = replace(settings, placement=placement)
    x, recorder = torch.randn(3, 2, 5, 4), Recorder(rational)
    sigmas = grid(7)
    asked = torch.tensor(schedules.reposition(sigmas.tolist(), placement))
    out = run(recorder, x, sigmas, settings, callback=recorder.callback, extra_args={"cond": 1})
    further = ["model"] * (SOLVERS[settings.solver].calls_a_step - 1)
    assert [kind for kind, *_ in recorder.seen] == ["model", *further, "callback"] * 6 + [
        "model",
        "callback",
    ]
    each = len(further) + 2
    pairs = zip(
        recorder.seen[::each],
        [entry for entry in recorder.seen if entry[0] == "callback"],
        strict=True,
    )
    for i, ((_, state, sigma, extra_args), (_, info)) in enumerate(pairs):
        assert (
            set(info) == {"x", "i", "sigma", "sigma_hat", "denoised"}
            and info["i"] == i
            and extra_args == {"cond": 1}
        )
        assert sigma.shape == (3,) and (sigma == asked[i]).all()
        assert info["sigma"] == info["sigma_hat"] == asked[i] and info["sigma"].ndim == 0
        assert torch.equal(info["x"], state) and torch.equal(
            info["denoised"], rational(state, sigma)
        )
    assert torch.equal(recorder.seen[0][1], x) and out.shape == x.shape


@pytest.mark.parametrize("zeros", [1, 2, 3])
def test_the_first_zero_is_the_end(zeros, rational):
    x, recorder = torch.randn(1, 1, 3, 3), Recorder(rational)
    out = run(recorder, x, grid(5, end=(0.0,) * zeros), callback=recorder.callback)
    assert len(recorder.seen) == 2 * 5
    assert torch.equal(out, run(rational, x, grid(5)))


@pytest.mark.parametrize("sigmas", [[2.0], [0.0], [0.0, 0.0]])
def test_a_schedule_without_steps_gives_a_copy_of_x(sigmas):
    x = torch.randn(1, 1, 3, 3)
    out = run(None, x, sigmas)
    assert torch.equal(out, x) and out.data_ptr() != x.data_ptr()


@both_paths
def test_a_single_step_to_zero_is_denoised_itself(path, gaussian, normal):
    model, start = gaussian(path, (2, 3, 5)), 1.0 if path == "flow" else 4518.0
    x = start * normal(2, 2, 3, 5)
    denoised = model(x, torch.full((2,), start))
    torch.testing.assert_close(run(model, x, [start, 0.0]), denoised, rtol=0, atol=1e-11)


def test_sigmas_may_be_a_list_or_a_tensor_of_any_kind(rational):
    x = torch.randn(2, 1, 4, 4)
    want = run(rational, x, [2.0, 1.0, 0.5, 0.25, 0.0])
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert torch.equal(
            run(rational, x, torch.tensor([2.0, 1.0, 0.5, 0.25, 0.0], dtype=dtype)), want
        )


# Shapes and dtypes


@both_paths
@all_shapes
@every_solver
@pytest.mark.parametrize("dtype", PRECISION, ids=str)
def test_any_shape_and_dtype_comes_back_as_it_came_and_right(
    settings, path, shape, dtype, gaussian, normal
):
    model, start = gaussian(path, shape), 1.0 if path == "flow" else 3.0
    x = (start * normal(2, *shape)).to(dtype)
    dtypes = set()

    def noting(x, sigma):
        dtypes.add(x.dtype)
        return model(x, sigma)

    out = run(noting, x, grid(12, start), replace(settings, path=path))
    exact = model.exact(x, start, 0.0)
    assert out.shape == x.shape and out.dtype == dtype and dtypes == {dtype}
    # a Runge-Kutta method's first step knows of no power, and a picture of one number shows none
    late = settings.solver != "multistep" or max(shape[-2:]) <= 2
    precision = max(PRECISION[dtype], 2e-2 if late else 0)
    assert (out.double() - exact).abs().max() < precision * exact.abs().max()


@all_variants
def test_inputs_are_not_modified(settings, rational):
    for dtype in (torch.float16, torch.float32, torch.float64):
        x, sigmas, cond = torch.randn(2, 2, 4, 5).to(dtype), grid(6), torch.randn(2)
        extra_args = {"cond": cond}
        before = x.clone(), sigmas.clone(), cond.clone()
        out = run(
            lambda x, sigma, cond: rational(x, sigma), x, sigmas, settings, extra_args=extra_args
        )
        assert all(
            torch.equal(now, then) for now, then in zip((x, sigmas, cond), before, strict=True)
        )
        assert (
            extra_args == {"cond": cond}
            and extra_args["cond"] is cond
            and out.data_ptr() != x.data_ptr()
        )


def test_strided_pictures(rational):
    x = torch.randn(4, 10, 6, 2, dtype=torch.float64).permute(0, 3, 1, 2)
    assert torch.equal(run(rational, x, grid(5)), run(rational, x.contiguous(), grid(5)))


# Neighbours in the batch


@all_shapes
@every_solver
@pytest.mark.parametrize("basis", ["fourier", "cosine"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_picture_is_bit_equal_whatever_the_batch_holds(
    settings, shape, basis, dtype, rational, normal
):
    settings = replace(settings, basis=basis)
    batch = (
        3
        * normal(5, *shape)
        * torch.tensor([1.0, 1e-3, 1.0, 50.0, 0.0]).view(-1, *[1] * len(shape))
    ).to(dtype)
    alone = run(rational, batch[2:3], grid(8), settings)
    assert torch.equal(run(rational, batch, grid(8), settings)[2:3], alone)
    assert torch.equal(run(rational, batch.roll(2, 0), grid(8), settings)[4:5], alone)


def test_a_picture_of_one_channel_is_bit_equal_by_itself_too(rational, normal):
    batch = 3 * normal(7, 1, 8, 8).float()
    for i, picture in enumerate(run(rational, batch, grid(8), Settings())):
        assert torch.equal(run(rational, batch[i : i + 1], grid(8), Settings())[0], picture)


@pytest.mark.parametrize("basis", ["fourier", "cosine"])
def test_autocast_round_the_sampler_changes_nothing(basis, rational, normal):
    x, settings = 3 * normal(1, 4, 8, 12).float(), Settings(basis=basis)
    plain = run(rational, x, grid(6), settings)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(run(rational, x, grid(6), settings), plain)


@pytest.mark.parametrize(
    "settings", [Settings(), Settings(basis="cosine")], ids=["fourier", "cosine"]
)
def test_a_picture_is_bit_equal_where_threads_share_the_work(settings, rational, normal):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        batch = normal(3, 4, 64, 72).float()
        together = run(rational, batch, grid(4), settings)
        for i in range(3):
            assert torch.equal(
                run(rational, batch[i : i + 1], grid(4), settings), together[i : i + 1]
            )
    finally:
        torch.set_num_threads(threads)


def test_the_fit_of_a_picture_does_not_depend_on_its_neighbours(gaussian, normal):
    """Two Gaussians of other spectra in one batch are both solved exactly."""
    models = [gaussian("ve", (2, 4, 6)) for _ in range(2)]
    x = 3 * normal(4, 2, 4, 6)

    def model(x, sigma):
        return torch.cat([own(x[i::2], sigma[i::2]) for i, own in enumerate(models)])[[0, 2, 1, 3]]

    out = run(model, x, grid(4))
    for i, own in enumerate(models):
        torch.testing.assert_close(out[i::2], own.exact(x[i::2], 3.0, 0.0), rtol=0, atol=1e-10)


# Schedules at the edges


@pytest.mark.parametrize("start", [4518.0, 120.0, 14.6, 2.0, 0.3, 0.06])
@pytest.mark.parametrize("end", [0.0, 0.04])
def test_ve_from_zero_terminal_snr_to_the_weakest_img2img(start, end, gaussian, normal):
    model = gaussian("ve", (3, 6, 9))
    x = normal(3, 6, 9) + start * normal(2, 3, 6, 9)
    sigmas = schedules.karras(6, 0.05, start).double()
    sigmas[0], sigmas[-1] = start, end
    torch.testing.assert_close(run(model, x, sigmas), model.exact(x, start, end), rtol=0, atol=5e-9)


@pytest.mark.parametrize("start", [1.0, 0.999, 0.6, 0.1, 0.06])
@pytest.mark.parametrize("end", [0.0, 0.04])
def test_flow_from_pure_noise_to_the_weakest_img2img(start, end, gaussian, normal):
    model = gaussian("flow", (3, 6, 9))
    x = (1 - start) * normal(3, 6, 9) + start * normal(2, 3, 6, 9)
    sigmas = grid(6, start, end=(end,))
    sigmas[0] = start
    torch.testing.assert_close(run(model, x, sigmas), model.exact(x, start, end), rtol=0, atol=5e-9)


@every_solver
@both_paths
@pytest.mark.parametrize("end", [0.5, 0.1])
def test_a_schedule_that_ends_above_zero_ends_there(
    path, end, settings, pixel_mixture, solve, normal
):
    model, start = pixel_mixture(path), 1.0 if path == "flow" else 3.0
    x = start * normal(2, 2, 3, 4)
    exact = solve(model, x, start, end)
    sigmas = torch.linspace(start**0.5, end**0.5, 41, dtype=torch.float64) ** 2
    assert (run(model, x, sigmas, settings) - exact).abs().max() < 2e-3
    with_callback = Recorder(model)
    run(with_callback, x, sigmas, settings, callback=with_callback.callback)
    told = [said[1]["i"] for said in with_callback.seen if said[0] == "callback"]
    assert told == list(range(40))
    if settings.solver != "trajectory":  # its rounds: see test_trajectory
        assert len(with_callback.seen) == (SOLVERS[settings.solver].calls_a_step + 1) * 40


@as_scheduled
@both_paths
def test_repeated_sigmas_change_nothing_but_the_calls(settings, path, pixel_mixture, normal):
    model, sigmas = pixel_mixture(path), [0.9, 0.7, 0.4, 0.2, 0.0]
    x = normal(2, 2, 3, 4)
    want = run(model, x, sigmas, settings)
    for repeated in (
        [0.9, 0.9, 0.7, 0.4, 0.2, 0.0],
        [0.9, 0.7, 0.7, 0.7, 0.4, 0.4, 0.2, 0.2, 0.0, 0.0],
    ):
        recorder = Recorder(model)
        out = run(recorder, x, repeated, settings, callback=recorder.callback)
        torch.testing.assert_close(out, want, rtol=0, atol=1e-12)
        steps = repeated.index(0.0)
        assert [entry[1]["i"] for entry in recorder.seen if entry[0] == "callback"] == list(
            range(steps)
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("gap", [1e-16, 1e-6, 1e-3])
@all_variants
def test_levels_that_all_but_repeat_change_little(settings, gap, dtype, pixel_mixture, normal):
    """The error of a step, seen over a far shorter one, is no slope to be extrapolated."""
    mixture, x = pixel_mixture("ve"), 3 * normal(2, 2, 4, 4).to(dtype)
    want = run(mixture, x, [3, 2, 1.3, 0.9, 0.7, 0.4, 0.2, 0.0], settings)
    for level in (3, 0.9, 0.2):
        levels = [3, 2, 1.3, 0.9, 0.7, 0.4, 0.2]
        levels.insert(levels.index(level) + 1, level * (1 - gap))
        out = run(mixture, x, [*levels, 0.0], settings)
        assert (out - want).square().mean().sqrt() < 0.03


# Failures


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("bad", [0, 3, 5])
def test_a_model_that_returns_no_numbers_is_an_error_that_says_where(value, bad, rational):
    sigmas, count = [6.0, 5.0, 4.0, 3.0, 2.0, 1.5, 0.0], itertools.count()

    def model(x, sigma):
        out = rational(x, sigma)
        if next(count) == bad:
            out[1, 0, 2, 1] = value  # one number of one picture
        return out

    with pytest.raises(
        RuntimeError, match=rf"NaN or infinity at step {bad + 1} of 6, sigma {sigmas[bad]:g}:"
    ):
        run(model, torch.randn(2, 2, 4, 4), sigmas, AS_SCHEDULED)


def test_nan_at_a_repeated_sigma_is_found_too(rational):
    count = itertools.count()

    def model(x, sigma):
        return rational(x, sigma) * (float("nan") if next(count) == 1 else 1)

    with pytest.raises(RuntimeError, match="step 2 of 4, sigma 2"):
        run(model, torch.randn(1, 1, 2, 2), [2.0, 2.0, 2.0, 1.0, 0.0], AS_SCHEDULED)


@pytest.mark.parametrize(
    "sigmas, message",
    [
        ([], "empty.*falling"),
        ([1.0, 2.0, 0.0], r"must fall.*\[1, 2, 0\].*sort"),
        ([2.0, 1.0, 0.0, 0.5], r"must fall.*0\.5"),
        ([2.0, float("nan"), 0.0], r"finite.*\[2, nan, 0\]"),
        ([float("inf"), 1.0, 0.0], r"finite.*inf"),
        ([2.0, -1.0], r"not negative.*\[2, -1\]"),
        (list(range(20)), r"must fall.*\[0, 1, 2, 3, .*, \.\.\.\]"),
    ],
)
def test_sigmas_that_make_no_sense_are_refused(sigmas, message):
    for form in (sigmas, torch.tensor(sigmas)):
        with pytest.raises(ValueError, match=message):
            run(None, torch.zeros(1, 1, 2, 2), form)


def test_flow_ends_at_one(rational):
    for start in (1.0001, 14.6):
        with pytest.raises(
            ValueError, match=r"start at 1.*flow path ends at 1.*give a flow schedule"
        ):
            run(rational, torch.zeros(1, 1, 2, 2), [start, 0.5, 0.0], Settings(path="flow"))
    assert (
        run(rational, torch.zeros(1, 1, 2, 2), [1.0, 0.5, 0.0], Settings(path="flow"))
        .isfinite()
        .all()
    )


@pytest.mark.parametrize("shift", [1.32, 1.57, 2.14, 2.64, 4.03, 17.01])
def test_flow_tables_of_any_shift_end_at_pure_noise(shift, rational):
    """Computed in float32, as the hosts do, they may end a rounding above 1."""
    ramp = torch.arange(1, 1001) / 1000
    table = shift * ramp / (1 + (shift - 1) * ramp)
    x, sigmas = torch.randn(1, 2, 4, 4), torch.cat([table.flip(0)[::125], torch.zeros(1)])
    exact = torch.cat([torch.ones(1), sigmas[1:]])
    for settings in (Settings(path="flow"), Settings(path="flow", placement=0)):
        assert torch.equal(run(rational, x, sigmas, settings), run(rational, x, exact, settings))


def test_numbers_of_numpy_are_levels(rational):
    x, want = torch.randn(1, 2, 4, 4), grid(5)
    for form in (want.numpy(), list(want.numpy()), tuple(map(np.float64, want)), want.tolist()):
        assert torch.equal(run(rational, x, form), run(rational, x, want))


@pytest.mark.parametrize("end", [1e-6, 1e-8, 1e-12, 1e-30])
@pytest.mark.parametrize("after", [(), (0.0,), (1e-40, 0.0)])
def test_a_last_level_that_is_all_but_0_is_0(end, after, rational):
    x, calls = torch.randn(1, 2, 4, 4), []

    def model(x, sigma):
        calls.append(sigma.item())
        return rational(x, sigma)

    given = grid(5, end=(end, *after))
    assert (
        torch.equal(run(model, x, given), run(rational, x, grid(5)))
        and len(calls) == 5
        and min(calls) > 0.01
    )
    # what noise is meant to be left is left
    for start, left in ((0.05, 1e-3), (4518.8, 0.03), (3.0, 2e-4)):
        assert not torch.equal(run(rational, x, [start, left]), run(rational, x, [start, 0.0]))


@pytest.mark.parametrize(
    "shape", [(4,), (4, 4), (3, 4, 4), (1, 2, 3, 4, 5, 6), (0, 3, 4, 4), (1, 3, 0, 4)]
)
def test_x_of_a_wrong_rank_or_with_nothing_in_it_is_refused(shape):
    with pytest.raises(
        ValueError, match=r"x has the shape \(.*give \(B, C, H, W\) or \(B, C, T, H, W\)"
    ):
        run(None, torch.zeros(shape), [1.0, 0.0])


@pytest.mark.parametrize("x", [torch.zeros(1, 1, 2, 2, dtype=torch.long), [[1.0]], None])
def test_x_that_is_no_tensor_of_numbers_is_refused(x):
    with pytest.raises(ValueError, match="x must be a tensor of floating point numbers, and is"):
        run(None, x, [1.0, 0.0])


@pytest.mark.parametrize("settings", [{"order": 2}, "order=2", Settings])
def test_settings_of_another_kind_are_refused(settings):
    with pytest.raises(ValueError, match=r"settings is a \w+: give isdo.Settings"):
        run(None, torch.zeros(1, 1, 2, 2), [1.0, 0.0], settings)


@pytest.mark.parametrize(
    "settings", [{}, {"power": "zero"}, {"corrector": 3}, {"tau": "sigma"}, {"tau": "log"}], ids=str
)
def test_one_giant_step_out_of_the_dark_is_not_bent_by_what_follows(
    settings, pixel_mixture, solve, normal
):
    sigmas = [4518.8, 15.05, 9.14, 5.84, 3.708, 2.256, 1.342, 0.763, 0.406, 0.199, 0.088, 0.034]
    model, x = pixel_mixture("ve"), sigmas[0] * normal(2, 1, 4, 4)
    exact = solve(model, x, sigmas[0], sigmas[-1])
    error = (run(model, x, sigmas, Settings(**settings)) - exact).square().mean().sqrt()
    euler = x
    for before, after in itertools.pairwise(sigmas):
        denoised = model(euler, torch.full((2,), before, dtype=x.dtype))
        euler = denoised + after / before * (euler - denoised)
    assert error < (euler - exact).square().mean().sqrt()


class Interrupted(BaseException):
    """As the WebUIs raise when one presses the button."""


@pytest.mark.parametrize(
    "error", [Interrupted, KeyboardInterrupt, KeyError, RuntimeError, ValueError]
)
@pytest.mark.parametrize("where", ["model", "callback"])
def test_exceptions_of_the_host_pass_through_untouched(error, where, rational):
    raised = error("as it was")

    def stop(*_):
        raise raised

    with pytest.raises(error) as info:
        if where == "model":
            run(stop, torch.zeros(1, 1, 2, 2), grid(3))
        else:
            run(rational, torch.zeros(1, 1, 2, 2), grid(3), callback=stop)
    assert info.value is raised and raised.__cause__ is None and raised.__context__ is None


# The model changes under way


@as_scheduled
@pytest.mark.parametrize("step", [1, 3, 5])
def test_another_inner_model_starts_anew(settings, step, gaussian, normal):
    """From the swap on, the run is a fresh one from the x at which the new model was asked
    first."""
    parts = [gaussian("ve", (2, 4, 6)) for _ in range(2)]
    sigmas, states, swap = grid(7), [], step

    class Wrapper:
        inner_model = parts[0]

        def __call__(self, x, sigma):
            if len(states) == swap:  # the refiner of the WebUIs takes over inside the call
                self.inner_model = parts[1]
            states.append(x)
            return self.inner_model(x, sigma)

    swap *= SOLVERS[settings.solver].calls_a_step  # at the first call of a step
    out = run(Wrapper(), 3 * normal(2, 2, 4, 6), sigmas, settings)
    fresh = run(parts[1], states[swap], sigmas[step:], settings)
    torch.testing.assert_close(out, fresh, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    "settings", [replace(v, placement=0) for v in SRK], ids=lambda settings: settings.solver
)
@pytest.mark.parametrize("swap", range(1, 13))
def test_another_inner_model_amid_a_step_starts_anew_where_it_was_asked(
    settings, swap, gaussian, normal
):
    """A stage at the end of a step has nowhere to go: the next step asks there again."""
    parts = [gaussian("ve", (2, 4, 6)) for _ in range(2)]
    sigmas, states, levels = [3.0, 1.0, 0.5, 0.2, 0.1, 0.0], [], []

    class Wrapper:
        inner_model = parts[0]

        def __call__(self, x, sigma):
            if len(states) == swap:
                self.inner_model = parts[1]
            states.append(x)
            levels.append(sigma[0].item())
            return self.inner_model(x, sigma)

    out = run(Wrapper(), 3 * normal(2, 2, 4, 6), sigmas, settings)
    rest = [levels[swap], *(sigma for sigma in sigmas if sigma < levels[swap])]
    torch.testing.assert_close(out, run(parts[1], states[swap], rest, settings), rtol=0, atol=1e-9)


def test_a_model_that_stays_keeps_its_history(gaussian, normal):
    model = gaussian("ve", (2, 4, 6))
    holder = SimpleNamespace(inner_model=model)

    class Wrapper:
        inner_model = property(lambda self: holder.inner_model)

        def __call__(self, x, sigma):
            return model(x, sigma)

    x = 3 * normal(2, 2, 4, 6)
    assert torch.equal(run(Wrapper(), x, grid(5)), run(model, x, grid(5)))


# No waiting for the device

WAITING = (
    "item",
    "tolist",
    "cpu",
    "numpy",
    "nonzero",
    "__bool__",
    "__int__",
    "__float__",
    "__index__",
    "__array__",
)


@pytest.fixture
def waiting(monkeypatch):
    """waiting.forbid() makes everything raise that would wait for a GPU; waiting.allow() takes it
    back."""

    def refuse(*args, **kwargs):
        raise AssertionError("this waits for the device")

    def forbid():
        for name in WAITING:
            monkeypatch.setattr(torch.Tensor, name, refuse)
        for name in ("equal", "allclose", "is_nonzero", "nonzero"):
            monkeypatch.setattr(torch, name, refuse)

    return SimpleNamespace(forbid=forbid, allow=monkeypatch.undo)


def test_the_patches_bite(waiting):
    waiting.forbid()
    ways = (
        bool,
        int,
        float,
        torch.Tensor.item,
        torch.Tensor.tolist,
        lambda t: [0][t],
        lambda t: 1 if t > 0 else 0,
    )
    try:
        for way in ways:
            with pytest.raises(AssertionError, match="waits"):
                way(torch.tensor(1))
    finally:
        waiting.allow()


@pytest.mark.parametrize(
    "settings", [*VARIANTS, *SRK, Settings(curvature_penalty=1.0)], ids=lambda v: str(v.changed())
)
@both_paths
def test_no_step_waits_for_the_device(settings, path, waiting, rational, normal):
    settings = Settings(**settings.changed(), path=path)
    steps, calls = 8, itertools.count(1)

    def model(x, sigma):
        waiting.forbid()
        return rational(x, sigma)

    def callback(info):
        if next(calls) == steps:  # what follows the last step may look, once
            waiting.allow()

    x = normal(2, 3, 6, 5)
    out = run(model, x, grid(steps, start=1.0), settings, callback=callback)
    assert out.isfinite().all()


class Inpainting:
    """What the WebUIs wrap round a model: kept pixels are set to a known picture, in Forge with
    fresh noise each call.

    The model is the Gaussian N(mean, power) of every pixel by itself, so that the painted pixels
    have an exact answer.
    """

    def __init__(self, path, picture, painted, power=0.3, mean=0.2, fresh=False):
        self.path, self.picture, self.painted, self.power, self.mean = (
            path,
            picture,
            painted,
            power,
            mean,
        )
        self.noise = torch.Generator().manual_seed(5) if fresh else None

    def __call__(self, x, sigma):
        level = sigma.double()[:, None, None, None]
        signal = self.path.signal(level)
        if self.noise is not None:
            noise = torch.randn(x.shape, generator=self.noise, dtype=x.dtype)
            x = x * self.painted + (signal * self.picture + level * noise) * (1 - self.painted)
        own = self.mean + signal * self.power / (signal**2 * self.power + level**2) * (
            x - signal * self.mean
        )
        return own * self.painted + self.picture * (1 - self.painted)

    def exact(self, x, start, end):
        before, after = self.path.signal(start), self.path.signal(end)
        shrink = ((after**2 * self.power + end**2) / (before**2 * self.power + start**2)) ** 0.5
        return after * self.mean + shrink * (x - before * self.mean)


@pytest.fixture
def half(normal):
    """A known picture (1, 1, 12, 16) and a mask that is 1 in a part of it."""
    painted = torch.zeros(1, 1, 12, 16, dtype=torch.float64)
    painted[..., 3:9, 2:13] = 1
    return normal(2, 4, 12, 16), painted


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_under_a_mask_kept_pixels_are_the_known_picture_and_painted_ones_are_solved(
    path, solver, half, normal
):
    picture, painted = half
    model, settings = Inpainting(path, picture, painted), Settings(solver=solver, path=path.name)
    start, end, asked = 0.95, 0.05, []
    x = path.signal(start) * picture + start * normal(2, 4, 12, 16)
    inside, sigmas = painted.expand(x.shape) == 1, grid(9, start, end, end=())

    def noting(x, sigma):
        asked.append((sigma[0].item(), x))
        return model(x, sigma)

    found = run(noting, x, sigmas, settings, mask=painted)
    assert (found - model.exact(x, start, end))[inside].abs().max() < 1e-3
    for sigma, state in [*asked, (end, found)]:  # at stages, too
        kept = path.signal(sigma) * picture + sigma / start * (x - path.signal(start) * picture)
        torch.testing.assert_close(state[~inside], kept[~inside], rtol=0, atol=1e-12)


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_under_a_mask_only_painted_pixels_are_measured(path, fresh, half, normal):
    picture, painted = half
    model = Inpainting(path, picture, painted, fresh=fresh)
    start, end = 0.95, 0.05
    x = path.signal(start) * picture + start * normal(2, 4, 12, 16)
    sigmas = grid(6, start, end, end=())
    exact = model.exact(x, start, end)
    inside = painted.expand(x.shape) == 1
    found = run(model, x, sigmas, mask=painted)
    torch.testing.assert_close(found[inside], exact[inside], rtol=0, atol=1e-10)
    blind = run(model, x, sigmas)
    assert (blind - exact)[inside].abs().max() > 1e-3  # the kept pixels spoil the fit
    # the kept ones are the known picture at every level of noise, as after Euler's steps
    kept = path.signal(end) * picture + end / start * (x - path.signal(start) * picture)
    torch.testing.assert_close(found[~inside], kept[~inside], rtol=0, atol=1e-12)
    last = run(model, x, [*sigmas, 0.0], mask=painted)
    torch.testing.assert_close(last[~inside], picture[~inside], rtol=0, atol=1e-12)


def test_a_mask_of_ones_is_no_mask_and_soft_masks_are_finite(rational, normal):
    x, sigmas = 3 * normal(2, 4, 9, 12), grid(7)
    free = run(rational, x, sigmas)
    torch.testing.assert_close(
        run(rational, x, sigmas, mask=torch.ones(1)), free, rtol=1e-9, atol=1e-9
    )
    soft = run(rational, x, sigmas, mask=torch.linspace(0, 1, 12, dtype=torch.float64))
    assert soft.isfinite().all() and (soft - free).abs().mean() < 0.02 * free.abs().mean()
    alone = run(rational, x[1:], sigmas, mask=torch.linspace(0, 1, 12, dtype=torch.float64))
    assert torch.equal(soft[1:], alone)


@as_scheduled
def test_a_mask_of_zeros_is_euler(settings, rational, normal):
    x, sigmas = 3 * normal(1, 4, 8, 8), grid(5)
    euler = x
    for before, after in zip(sigmas, sigmas[1:], strict=False):
        denoised = rational(euler, torch.full((1,), before, dtype=x.dtype))
        euler = denoised + after / before * (euler - denoised)
    torch.testing.assert_close(
        run(rational, x, sigmas, settings, mask=torch.zeros(1)), euler, rtol=0, atol=1e-9
    )


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(1, 3, 8, 8), r"mask \(1, 3, 8, 8\) does not fit x \(1, 4, 8, 8\).*broadcasts"),
        (torch.tensor(1.5), "between 0 .kept. and 1 .painted."),
        (torch.tensor(float("nan")), "between 0"),
        (1, "mask must be a tensor, and is a int"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask, message, rational):
    with pytest.raises(ValueError, match=message):
        run(rational, torch.zeros(1, 4, 8, 8), grid(2), mask=mask)


@pytest.fixture
def tuned(monkeypatch):
    """tuned(detail=0.0): runs to come have that tuned number instead of the core's own."""

    def install(**changed):
        make = partial(Multistep, tuned=replace(TUNED, **changed))
        monkeypatch.setitem(SOLVERS, "multistep", replace(SOLVERS["multistep"], make=make))

    return install


PLAIN = Settings(power="zero", response=0.0, placement=0)


class Straight:
    """D is a straight line in sigma, of whatever slope each picture has, and of no x at all."""

    def __init__(self, start, slope, low):
        self.start, self.slope, self.sigma_min = start, slope, low

    def __call__(self, x, sigma):
        return self.start + self.slope * sigma[:, None, None, None]


@pytest.mark.parametrize(
    ("low", "end"), [(0.03, 0.03), (0.0, 0.2), (0.2, 0.2), (0.5, 0.2), (1e-9, 1e-9)]
)
def test_the_last_step_goes_to_the_smallest_sigma_that_the_model_says(low, end, normal):
    start, slope = normal(2, 4, 8, 8), normal(2, 4, 8, 8)
    model = Straight(start, slope, low)
    found = run(model, 3 * normal(2, 4, 8, 8), [2.0, 1.0, 0.6, 0.4, 0.2, 0.0], PLAIN)
    torch.testing.assert_close(found, start + slope * end, rtol=1e-9, atol=1e-9)


def test_what_the_line_before_did_not_foretell_is_not_carried_on(normal, tuned):
    tuned(detail=0.0)
    start, other = normal(1, 1, 8, 8), normal(1, 1, 8, 8)
    said = {
        0.6: start,
        0.4: start + other,
        0.2: start,
    }  # there and back: the line pointed the wrong way

    def model(x, sigma):
        return said.get(round(sigma[0].item(), 6), start)

    model.sigma_min = 0.03
    found = run(model, 3 * normal(1, 1, 8, 8), [2.0, 1.0, 0.6, 0.4, 0.2, 0.0], PLAIN)
    torch.testing.assert_close(found, start, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("start", [0.5, 1.9])
@pytest.mark.parametrize("path", PATHS)
def test_a_run_that_begins_near_is_bold(path, start, normal):
    """The second prediction is that of the rule which suits such a start; far away it is
    another."""
    path, noise = PATHS[path], normal(1, 2, 8, 8)

    def third(first, tau):
        sigmas = [path.from_noise_to_signal(first * r) for r in (1.0, 0.3, 0.1)]
        seen = []

        def model(x, sigma):
            seen.append(x)
            return x.tanh() + x.roll(1, -1) / 3

        model.path = path
        run(model, sigmas[0] * noise, [*sigmas, 0.0], Settings(power="zero", response=0.0, tau=tau))
        return seen[2]

    assert torch.equal(third(start, "auto"), third(start, "log"))
    assert not any(
        torch.equal(third(start, "auto"), third(start, other)) for other in ("sigma", "log1p")
    )
    assert not torch.equal(third(12.0, "auto"), third(12.0, "log"))


SLOW = [2.0, 1.4, 1.0, 0.7, 0.5, 0.35, 0.25, 0.0]


class Emerging:
    """Detail along ``noise`` comes out as sigma falls, as much for every factor of e."""

    def __init__(self, start, noise, growth, low):
        self.start, self.noise, self.growth, self.sigma_min = start, noise, growth, low

    def __call__(self, x, sigma):
        return self.start - self.growth * self.noise * sigma.log()[:, None, None, None]


def emerge(normal, growth, low):
    """Return what ISDO finds, less the start, as a multiple of the noise that the picture began
    with."""
    start, noise = normal(2, 4, 8, 8), normal(2, 4, 8, 8)
    found = run(Emerging(start, noise, growth, low), start + 2.0 * noise, SLOW, PLAIN) - start
    share = (found * noise).sum() / noise.square().sum()
    torch.testing.assert_close(found, share * noise, rtol=1e-9, atol=1e-9)
    return share.item()


@pytest.mark.parametrize("low", [0.2, 0.1])
def test_detail_comes_out_of_the_noise_down_to_the_smallest_sigma(low, normal):
    growth = 1e-3
    assert emerge(normal, growth, low) == pytest.approx(-growth * math.log(low), rel=0.02)
    assert emerge(normal, growth, 0.0) == pytest.approx(-growth * math.log(0.25), rel=1e-9)


def test_detail_goes_no_further_than_thrice_the_last_step(normal):
    assert emerge(normal, 1e-3, 1e-9) == pytest.approx(
        -1e-3 * (4 * math.log(0.25) - 3 * math.log(0.35)), rel=0.02
    )


def test_detail_is_at_most_a_share_of_the_noise(generator, normal, tuned):
    found = {}
    for share in (0.0, 1e-3, 1e9):
        tuned(detail=share)
        found[share] = emerge(normal, 0.05, 0.1)
        generator.manual_seed(0)
    assert 0 < found[1e-3] - found[0.0] < 1e-3 * 0.25 * 1.1 < found[1e9] - found[0.0]


def test_noise_that_denoised_turns_away_from_is_left_alone(tuned):
    start, noise = (
        torch.ones(1, 1, 4, 4, dtype=torch.float64),
        torch.eye(4, dtype=torch.float64)[None, None],
    )
    model = Emerging(start, noise, -1e-3, 0.1)
    found = run(model, start + 2.0 * noise, SLOW, PLAIN)
    tuned(detail=0.0)
    assert torch.equal(found, run(model, start + 2.0 * noise, SLOW, PLAIN))


def test_the_end_is_not_foreseen_further_than_thrice_the_last_step(normal, tuned):
    tuned(detail=0.0)
    start, slope = normal(1, 1, 8, 8), normal(1, 1, 8, 8)
    found = run(
        Straight(start, slope, 0.03), normal(1, 1, 8, 8), [14.0, 12.0, 11.0, 10.0, 0.0], PLAIN
    )
    torch.testing.assert_close(found, start + slope * (10.0 - 3 * 1.0), rtol=1e-9, atol=1e-9)
