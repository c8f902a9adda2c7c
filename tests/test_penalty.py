"""The curvature penalty: what is felt, which way it pushes and how far, how many calls it takes,
and that it keeps to rules."""

import math

import pytest
import torch

from isdo import Settings, sample_isdo
from isdo.device import precision
from isdo.path import PATHS
from isdo.penalty import CALLS, SHARE, Feeler, Penalty, apart, largest_curvature
from isdo.solver import SOLVERS
from isdo.spectrum import Spectrum
from isdo.window import Masked, Whole

both_paths = pytest.mark.parametrize("path", PATHS)
SHAPE, RATIO = (2, 3, 4), 0.5
STEPWISE = [name for name, row in SOLVERS.items() if not row.sweeps]
KINDS = [Settings(solver=name) for name in STEPWISE] + [
    Settings(tolerance=0.02),
    Settings(solver="srk3", tolerance=0.02),
]
every_kind = pytest.mark.parametrize(
    "settings", KINDS, ids=lambda settings: str(settings.changed() or "multistep")
)


class Blobs:
    """D of a mixture of Gaussians with a variance of its own in each number.

    Args:
        path: a Path.
        means, variances: (K, *shape).
    """

    def __init__(self, path, means, variances):
        self.path, self.means, self.variances = path, means, variances

    def __call__(self, x, sigma):
        sigma = torch.as_tensor(sigma).to(self.means).reshape(-1, *[1] * x.ndim)
        signal = self.path.signal(sigma)
        total = signal**2 * self.variances + sigma**2
        miss = x.to(self.means)[:, None] - signal * self.means
        odds = -(miss.square() / total + total.log()).flatten(2).sum(2) / 2
        own = self.means + signal * self.variances / total * miss
        weights = odds.softmax(1).view(*odds.shape, *[1] * (x.ndim - 1))
        return (weights * own).sum(1).to(x.dtype)


@pytest.fixture
def blobs(normal):
    """blobs(path, shape, count) -> a mixture and x (4, *shape) amid it, on its path, at RATIO."""

    def make(path, shape=SHAPE, count=3, size=1.0):
        path = PATHS[path]
        means, variances = (
            size * normal(count, *shape),
            size**2 * (0.01 + 0.1 * normal(count, *shape).square()),
        )
        x = means.mean(0) + 0.5 * size * RATIO * normal(4, *shape)
        sigma = path.from_noise_to_signal(size * RATIO)
        return Blobs(path, means, variances), path.signal(sigma) * x, sigma

    return make


def on_ve(model, sigma, shape):
    """Return D as a function of x/a (flat), and r."""
    signal = model.path.signal(sigma)
    return lambda y: model((signal * y).view(1, *shape), sigma).flatten()


def hessians(model, x, sigma, shape=SHAPE):
    """Return D' (B, n, n) of each picture on the path ve."""
    d = on_ve(model, sigma, shape)
    return [
        torch.autograd.functional.jacobian(d, y.flatten() / model.path.signal(sigma)) for y in x
    ]


def penalty_of(
    model, weight=1.0, shape=SHAPE, share=math.inf, dtype=torch.float64, window=None, modes=1000
):
    spectrum = Spectrum(*shape[-2:], "cpu")
    return Penalty(
        weight, model.path, spectrum, Whole() if window is None else window, dtype, modes, share
    )


def bent(penalty, model, x, sigma, times=1):
    """Return (penalised D, D) after so many turns of the direction."""
    level = x.new_full((len(x),), sigma)
    for _ in range(times):
        probe = penalty.probe(x, level)
        denoised = model(x, level)
        found = penalty.bend(x, level, denoised, model(x + probe, level), model(x - probe, level))
    return found, denoised


@pytest.fixture
def steep():
    """A denoiser of two answers for each number by itself, correctly rounded whatever the batch:
    undecided near 0."""

    def model(x, sigma):
        y = x / (1 + sigma.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1)))
        return 6 * y / (0.3 + y.abs())

    return model


# What is felt


@both_paths
def test_the_largest_curvature_is_that_of_the_full_jacobian(path, blobs):
    model, x, sigma = blobs(path)
    found = largest_curvature(model, x, sigma, modes=1000, iterations=100)
    grown = largest_curvature(model, x, sigma, modes=1000, iterations=60, expansion=True)
    tops = []
    for jacobian, norm, rate in zip(hessians(model, x, sigma), found, grown, strict=True):
        torch.testing.assert_close(
            jacobian, jacobian.T, rtol=1e-8, atol=1e-10
        )  # a denoiser's is symmetric, without -
        values = torch.linalg.eigvalsh(jacobian)
        assert values[0] > -1e-10
        assert norm.item() == pytest.approx(
            (values - 1).abs().max().item() / RATIO, rel=2e-3
        )  # + and - may be all but equal
        assert rate.item() == pytest.approx((values[-1].item() - 1) / RATIO, rel=1e-4)
        tops.append(values[-1].item())
    assert max(tops) > 2  # the two are told apart, and agree there
    assert all(
        n.item() == pytest.approx(r.item(), rel=1e-6)
        for n, r, top in zip(found, grown, tops, strict=True)
        if top > 2.1
    )


def test_in_the_lowest_modes_it_is_that_of_the_jacobian_between_them(blobs):
    shape = (1, 6, 6)
    model, x, sigma = blobs("ve", shape)
    spectrum = Spectrum(6, 6, "cpu")
    low = Feeler(model.path, spectrum, Whole(), modes=9).lowest
    columns = torch.eye(36, dtype=torch.float64).view(36, *shape)
    kept = spectrum.spread(low, columns) * spectrum.forward(columns)
    projector = spectrum.inverse(kept, columns.shape).view(36, 36)
    assert 8 < projector.trace().round() < 36
    found = largest_curvature(model, x, sigma, modes=9, iterations=60, expansion=True)
    for jacobian, rate in zip(hessians(model, x, sigma, shape), found, strict=True):
        values = torch.linalg.eigvalsh(projector @ jacobian @ projector)
        assert rate.item() == pytest.approx((values[-1].item() - 1) / RATIO, rel=1e-4)


def test_a_carried_direction_finds_the_largest_over_the_calls_of_a_run(blobs):
    model, x, sigma = blobs("ve")
    penalty, level, felt = penalty_of(model), x.new_full((4,), sigma), []
    spectrum = penalty.spectrum
    for _ in range(12):
        probe = penalty.probe(x, level)
        sides = [spectrum.forward(model(x + side * probe, level)) for side in (1, -1)]
        felt.append(penalty.feeler.feel(sigma, *sides, penalty.width)[:, 0, 0])
        assert torch.allclose(
            spectrum.inner(*[penalty.feeler.direction] * 2).sum(1),
            torch.ones(4, dtype=torch.float64),
        )
    top = torch.stack([torch.linalg.eigvalsh(j)[-1] for j in hessians(model, x, sigma)])
    errors = [(top - now) / top for now in felt]
    assert (errors[0] > 0.1).any() and (errors[-1].abs() < 0.05).all()
    assert (
        torch.stack(felt[:-1]) < torch.stack(felt[1:]) + 1e-6
    ).all()  # of a symmetric matrix it never falls


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan])
def test_no_curvature_without_noise(sigma, rational):
    with pytest.raises(ValueError, match="sigma is"):
        largest_curvature(rational, torch.zeros(1, 1, 2, 2), sigma)


@pytest.mark.parametrize("iterations", [0, 1.5])
def test_no_curvature_without_an_iteration(iterations, rational):
    with pytest.raises(ValueError, match="iterations is"):
        largest_curvature(rational, torch.zeros(1, 1, 2, 2), 1.0, iterations=iterations)


# The penalty


@both_paths
@pytest.mark.parametrize("modes", [1000, 3])
def test_the_step_is_the_gradient_of_the_squared_curvature(path, modes, blobs):
    model, x, sigma = blobs(path)
    penalty = penalty_of(model, 0.3, modes=modes)
    found, denoised = bent(penalty, model, x, sigma, times=100)
    columns = torch.eye(24, dtype=torch.float64).view(24, *SHAPE)
    projector = penalty.spectrum.inverse(
        penalty.feeler.low(penalty.spectrum.forward(columns)), columns.shape
    ).view(24, 24)
    numbers, signal, pushed = round(projector.trace().item()), model.path.signal(sigma), 0
    assert numbers == 2 * penalty.feeler.numbers and (numbers == 24) == (modes == 1000)
    for i, y in enumerate(x):
        place = (y.flatten() / signal).requires_grad_()
        with torch.enable_grad():
            jacobian = torch.autograd.functional.jacobian(
                on_ve(model, sigma, SHAPE), place, create_graph=True
            )
            top = torch.linalg.eigvalsh(projector @ jacobian @ projector)[-1]
            curvature = ((top - 1).clamp(min=0) / RATIO).square()
            (gradient,) = torch.autograd.grad(curvature, place)
        want = -0.3 * numbers * RATIO**4 * (projector @ gradient)
        got = (found - denoised)[i].flatten()
        if top > 1:
            close = 1e-6 if top > 1.5 else 1e-5  # of lambda - 1 near 0 the difference takes a digit
            assert (got - want).norm() < close * want.norm()
            pushed += 1
        else:
            assert torch.equal(found[i], denoised[i])
    assert pushed > 1


def pair(path, width=1.0, spread=0.05):
    """Two small Gaussians at both sides of 0 along a diagonal, and the way between them."""
    way = torch.full((2, 1, 2), width / 2, dtype=torch.float64)
    return Blobs(
        PATHS[path],
        torch.stack([way, -way]),
        torch.full((2, 2, 1, 2), spread**2, dtype=torch.float64),
    ), way


@both_paths
@pytest.mark.parametrize("side", [1, -1])
def test_it_pushes_away_from_where_the_denoiser_is_undecided(path, side, normal):
    model, way = pair(path)
    sigma = model.path.from_noise_to_signal(0.4)
    x = model.path.signal(sigma) * (side * 0.05 * way + 0.01 * normal(3, 2, 1, 2))
    found, denoised = bent(penalty_of(model, 0.01, (2, 1, 2)), model, x, sigma, times=20)
    assert (side * ((found - denoised) * way).flatten(1).sum(1) > 0).all()
    at = torch.zeros_like(x[:1])  # on the fence it knows no side
    found, denoised = bent(
        penalty_of(model, 0.01, (2, 1, 2)), model, at + 0.001 * (way - way.flip(0)), sigma
    )
    torch.testing.assert_close(found, denoised, rtol=0, atol=1e-6)


@both_paths
def test_it_is_the_same_on_both_paths_and_in_other_units(path, blobs):
    model, x, sigma = blobs("ve")
    twin = Blobs(PATHS[path], 7 * model.means, 49 * model.variances)
    there = PATHS[path].from_noise_to_signal(7 * RATIO)
    found, denoised = bent(penalty_of(model, share=SHARE), model, x, sigma, 3)
    moved, said = bent(
        penalty_of(twin, share=SHARE), twin, 7 * x * PATHS[path].signal(there), there, 3
    )
    torch.testing.assert_close(7 * denoised, said, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(7 * (found - denoised), moved - said, rtol=1e-5, atol=1e-5)


@both_paths
def test_it_goes_no_further_than_a_share_of_what_the_step_goes(path, blobs):
    model, x, sigma = blobs(path)
    signal, shares = model.path.signal(sigma), []
    for weight in (1e-9, 1e-3, 1e6):
        found, denoised = bent(penalty_of(model, weight, share=SHARE), model, x, sigma, times=12)
        goes = (denoised - x / signal).flatten(1).norm(dim=1)
        shares.append((found - denoised).flatten(1).norm(dim=1) / goes)
    assert (torch.stack(shares) <= SHARE * (1 + 1e-9)).all() and (shares[0] < 1e-4).all()
    assert shares[-1].max() == pytest.approx(SHARE, rel=1e-4)


def test_half_precision_leaves_the_direction_of_the_push(blobs):
    (model, _, _), sigma = blobs("ve", (4, 16, 16), 2), 5.0
    x = (
        model.means.mean(0)
        + 0.02 * (model.means[:1] - model.means[1:])
        + 0.1 * torch.randn(4, 4, 16, 16).double()
    )

    def rounded(x, sigma):
        return model(x.half().double(), sigma).half().double()

    rounded.path = model.path
    exact, said = bent(penalty_of(model, 1e-3, (4, 16, 16), modes=64), model, x, sigma, times=10)
    wide = Penalty(1e-3, model.path, Spectrum(16, 16, "cpu"), Whole(), torch.float32, 64, math.inf)
    rough, roughly = bent(wide, rounded, x, sigma, times=10)
    got, want = (rough - roughly).flatten(1), (exact - said).flatten(1)
    assert (want.norm(dim=1) > 0).all()
    assert (torch.cosine_similarity(got, want) > 0.95).all()
    assert ((got.norm(dim=1) / want.norm(dim=1) - 1).abs() < 0.25).all()


def test_calls_lie_apart_by_what_the_dtype_can_tell():
    assert apart(torch.float64) < 1e-3 < apart(torch.float32) == apart(torch.float16) == 0.15


# Runs


def run(model, x, sigmas, settings=None, **kwargs):
    return sample_isdo(model, x, sigmas, disable=True, settings=settings, **kwargs)


def with_penalty(settings, weight=1.0):
    return Settings(**settings.changed() | {"curvature_penalty": weight})


LEVELS = {"ve": [4.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.0], "flow": [1.0, 0.8, 0.5, 0.3, 0.2, 0.1, 0.0]}


@every_kind
@both_paths
def test_where_nothing_comes_apart_it_changes_nothing_but_the_calls(
    settings, path, gaussian, normal
):
    model, reports = gaussian(path, (2, 6, 7)), ({}, {})
    x = LEVELS[path][0] * normal(3, 2, 6, 7)
    plain = run(model, x, LEVELS[path], settings, report=reports[0])
    found = run(model, x, LEVELS[path], with_penalty(settings), report=reports[1])
    assert torch.equal(found, plain)
    assert reports[1]["calls"] == [CALLS * calls for calls in reports[0]["calls"]]
    assert reports[1]["rejected"] == reports[0]["rejected"]


@every_kind
@both_paths
def test_of_a_network_that_smooths_fewer_samples_lie_between_two_modes(settings, path, normal):
    """D goes from one mode to the other over a stretch that no noise level makes shorter: the ODE
    itself ends amid it."""
    way = torch.full((2, 1, 2), 0.5, dtype=torch.float64)

    def model(x, sigma):
        signal = model.path.signal(sigma.to(x.dtype))[:, None].clamp(min=1e-9)
        along = (x * way).flatten(1).sum(1, keepdim=True) / signal
        return torch.erf(1.3 * along).view(-1, 1, 1, 1) * way

    model.path, shares = PATHS[path], []
    levels = LEVELS[path][2:]  # from a noise-to-signal ratio of 1 on
    x = levels[0] * normal(40 if settings.tolerance else 400, 2, 1, 2)
    for weight in (0.0, 1.0):
        along = (run(model, x, levels, with_penalty(settings, weight)) * way).flatten(1).sum(1)
        shares.append((along.abs() < 0.6).double().mean().item())
        assert 0.25 < (along > 0).double().mean() < 0.75
    assert shares[1] < 0.6 * shares[0], shares


@every_kind
def test_a_picture_is_bit_equal_whatever_the_batch_holds(settings, steep, normal):
    settings = with_penalty(settings)
    batch = (
        3 * normal(5, 3, 6, 10) * torch.tensor([1.0, 1e-3, 0.1, 50.0, 0.0]).view(-1, 1, 1, 1)
    ).float()
    alone = run(steep, batch[2:3], LEVELS["ve"], settings)
    assert not torch.equal(alone, run(steep, batch[2:3], LEVELS["ve"], with_penalty(settings, 0.0)))
    assert torch.equal(run(steep, batch, LEVELS["ve"], settings)[2:3], alone)
    assert torch.equal(run(steep, batch.roll(2, 0), LEVELS["ve"], settings)[4:5], alone)


@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 7, 5), (2, 3, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@both_paths
def test_any_shape_and_dtype(path, dtype, shape, steep, normal):
    def model(x, sigma):
        assert x.dtype == dtype
        return steep(x, sigma)

    x = (LEVELS[path][0] * normal(2, *shape)).to(dtype)
    for basis in ("fourier", "cosine"):
        out = run(model, x, LEVELS[path], Settings(path=path, curvature_penalty=2.0, basis=basis))
        assert out.shape == x.shape and out.dtype == dtype and out.isfinite().all()


@every_kind
def test_calls_are_counted_and_the_callback_comes_once_a_step(settings, rational, normal):
    report, asked, told, settings = {}, [], [], with_penalty(settings)

    def model(x, sigma, **extra):
        assert extra == {"label": 3}
        asked.append((x, sigma))
        return rational(2 * x, sigma)

    def callback(info):
        told.append((len(asked), info))

    x = 4 * normal(2, 2, 5, 4)
    out = sample_isdo(
        model, x, LEVELS["ve"], {"label": 3}, callback, True, settings=settings, report=report
    )
    assert len(asked) == max(report["calls"]) and out.isfinite().all()
    row, steps = SOLVERS[settings.solver], 6
    if settings.tolerance:
        assert len(told) * CALLS == len(asked) and [info["i"] for _, info in told] == [
            n - 1 for n, _ in told
        ]
    else:
        assert len(asked) == CALLS * row.calls(steps) and [info["i"] for _, info in told] == list(
            range(steps)
        )
    first = told[0][1]
    assert torch.equal(first["x"], asked[2][0]) and torch.equal(
        first["x"], x
    )  # at x last, on both sides before
    torch.testing.assert_close((asked[0][0] + asked[1][0]) / 2, x)
    gap = (asked[0][0] - asked[1][0]).flatten(1).norm(dim=1) / 2
    torch.testing.assert_close(gap, torch.full_like(gap, 4.0 * apart(torch.float64)))
    assert torch.equal(asked[0][1], asked[2][1])


def test_with_a_tolerance_all_calls_count_to_the_most(rational, normal):
    x, calls = 4 * normal(1, 2, 5, 4), []

    def model(x, sigma):
        calls.append(1)
        return rational(x, sigma)

    for most, made in ((3, 3), (8, 6), (11, 9)):
        calls.clear()
        settings, report = Settings(tolerance=1e-6, max_calls=most, curvature_penalty=1.0), {}
        run(model, x, LEVELS["ve"], settings, report=report)
        assert len(calls) == made == report["calls"][0]
    with pytest.raises(
        ValueError, match="max_calls is 2, and with a curvature penalty a step makes 3"
    ):
        run(model, x, LEVELS["ve"], Settings(tolerance=1e-3, max_calls=2, curvature_penalty=1.0))


def test_a_call_that_returns_no_numbers_is_named(rational, normal):
    calls = []

    def model(x, sigma):
        calls.append(1)
        return rational(x, sigma) * (math.nan if len(calls) == 5 else 1)

    with pytest.raises(RuntimeError, match="call 5 of 18, sigma 2"):
        run(
            model,
            4 * normal(1, 2, 5, 4),
            LEVELS["ve"],
            Settings(curvature_penalty=1.0, placement=0),
        )


@pytest.mark.parametrize("weight", [-1.0, math.nan, 11.0, "1", True])
def test_weights_that_make_no_sense_are_refused(weight):
    with pytest.raises(ValueError, match="curvature_penalty is"):
        Settings(curvature_penalty=weight)


# Masks


@both_paths
def test_under_a_mask_only_the_painted_part_is_asked_about_and_moved(path, blobs):
    shape = (2, 6, 6)
    model, x, sigma = blobs(path, shape)
    mask = (torch.arange(6) < 3).double().expand(4, *shape)
    window = Masked(Spectrum(6, 6, "cpu"), mask)
    penalty = penalty_of(model, 1.0, shape, share=SHARE, window=window)
    probe = penalty.probe(x, x.new_full((4,), sigma))
    assert probe[mask == 0].abs().max() < 1e-18 < probe[mask == 1].abs().max()
    found, denoised = bent(penalty, model, x, sigma, times=10)
    gap = found - denoised
    assert gap[mask == 0].abs().max() < 1e-14 < 1e-3 < gap[mask == 1].abs().max()
    goes = (mask * (denoised - x / model.path.signal(sigma))).flatten(1).norm(dim=1)
    assert (gap.flatten(1).norm(dim=1) <= SHARE * goes * (1 + 1e-9)).all()


@every_kind
def test_a_run_under_a_mask_keeps_what_is_kept(settings, steep, normal):
    model, shape = steep, (2, 6, 6)
    picture, painted = normal(1, *shape), (torch.arange(6) < 3).double().expand(1, *shape)

    def inpainting(x, sigma):
        return model(x, sigma) * painted + picture * (1 - painted)

    x = 0.3 * normal(2, *shape)
    out = run(inpainting, x, LEVELS["ve"], with_penalty(settings), mask=painted)
    torch.testing.assert_close(
        out * (1 - painted), (picture * (1 - painted)).expand_as(out), rtol=0, atol=1e-9
    )
    assert not torch.equal(out, run(inpainting, x, LEVELS["ve"], settings, mask=painted))
    alone = run(inpainting, x[1:], LEVELS["ve"], with_penalty(settings), mask=painted)
    assert torch.equal(out[1:], alone)
    whole = run(model, x, LEVELS["ve"], with_penalty(settings), mask=torch.ones(1))
    torch.testing.assert_close(
        whole, run(model, x, LEVELS["ve"], with_penalty(settings)), rtol=1e-5, atol=1e-5
    )


def test_coefficients_have_the_precision_of_the_device():
    assert Feeler(PATHS["ve"], Spectrum(4, 4, "cpu"), Whole()).lowest.dtype == precision(
        torch.device("cpu")
    )


@pytest.mark.parametrize("solver", [name for name, row in SOLVERS.items() if row.sweeps])
def test_a_solver_that_makes_many_calls_at_once_is_refused(solver, normal, pixel_mixture):
    x, sigmas = 10 * normal(1, 1, 4, 4), torch.tensor([10.0, 1.0, 0.0])
    settings = Settings(solver=solver, curvature_penalty=1.0)
    with pytest.raises(ValueError, match="set curvature_penalty to 0, or take another solver"):
        sample_isdo(pixel_mixture("ve"), x, sigmas, disable=True, settings=settings)
