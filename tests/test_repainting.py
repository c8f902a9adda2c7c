"""Drawing with the first steps and repainting with the others: one counter, one schedule, nothing
lost."""

import math

import pytest
import torch

from isdo import gallery, refinement, schedules
from isdo.denoiser import CallCounter
from isdo.path import PATHS
from isdo.refinement import refine
from isdo.run import solve_ode
from isdo.sampling import REPAINT_OFFSET, sample_isdo
from isdo.settings import RefineSettings, Settings
from isdo.solver import SOLVERS, model_calls

EACH = RefineSettings().calls
FIRST = {"ve": 14.6, "flow": 1.0}


@pytest.fixture(params=["ve", "flow"])
def mixture(request, pixel_mixture):
    return pixel_mixture(request.param)


def schedule(model, steps):
    name = model.path.name
    if name == "flow":
        return schedules.flow(steps)
    return schedules.karras(steps, 0.03, FIRST[name])


def draw(model, x, steps, report=None, **options):
    asked = {
        key: options.pop(key) for key in ("mask", "seeds", "noise", "callback") if key in options
    }
    settings = Settings(**{"draw": 4, **options})
    return sample_isdo(
        model, x, schedule(model, steps), disable=True, settings=settings, report=report, **asked
    )


def start(model, normal, *shape):
    return normal(*shape) * FIRST[model.path.name]


@pytest.mark.parametrize("steps", [1, 4, 5, 6, 7, 8, 12, 13, 30])
def test_a_run_of_n_steps_is_n_calls_and_n_callbacks(mixture, normal, steps):
    model, seen, report = CallCounter(mixture), [], {}
    x = start(mixture, normal, 2, 3, 6, 7)
    draw(
        model,
        x,
        steps,
        report,
        callback=lambda state: seen.append((state["i"], float(state["sigma_hat"]))),
    )
    assert model.calls == steps and report["calls"] == [steps] * 2
    assert [i for i, _ in seen] == list(range(steps))
    rises = [i for (i, sigma), (_, before) in zip(seen[1:], seen, strict=False) if sigma > before]
    assert rises == list(range(4, steps - EACH + 1, 1))[: len(rises)] or all(i >= 4 for i in rises)
    assert len(rises) == max(steps - 4, 0) // EACH


@pytest.mark.parametrize("solver", [name for name, row in SOLVERS.items() if not row.sweeps])
@pytest.mark.parametrize("steps", [3, 9, 12])
def test_the_calls_of_every_solver_are_told_beforehand(mixture, normal, solver, steps):
    model, seen = CallCounter(mixture), []
    draw(
        model,
        start(mixture, normal, 1, 3, 6, 6),
        steps,
        solver=solver,
        callback=lambda state: seen.append(state["i"]),
    )
    assert model.calls == model_calls(Settings(solver=solver, draw=4), steps)
    assert seen == list(range(steps))
    mask = torch.ones(1, 1, 6, 6)
    masked = CallCounter(mixture)
    draw(masked, start(mixture, normal, 1, 3, 6, 6), steps, solver=solver, mask=mask)
    assert masked.calls == model_calls(Settings(solver=solver, draw=4), steps, masked=True)


def test_it_is_a_drawing_and_then_a_refinement(mixture, normal):
    x, path, settings = start(mixture, normal, 2, 3, 6, 6), mixture.path, Settings(draw=4)
    sigmas = schedule(mixture, 11)
    levels = schedules.rest(sigmas, sigmas[0], 4, 0.0, sigmas[0])
    first = solve_ode(mixture, x, levels, None, None, True, settings, None, 0.0)
    ways = refine(
        mixture, first, disable=True, settings=RefineSettings(noise=settings.repaint, lock=0),
        seeds=[5 + REPAINT_OFFSET, 6 + REPAINT_OFFSET], sampler=settings, shares=[4, 3],
    )  # fmt: skip
    assert path.noise_to_signal(sigmas[0]) > settings.repaint
    assert torch.equal(draw(mixture, x, 11, seeds=5), ways.x)


def test_a_picture_is_the_same_in_any_batch(rational, normal):
    x, sigmas = 14.6 * normal(3, 3, 6, 6), schedules.karras(12, 0.03, 14.6)

    def drawn(x, seeds=None):
        return sample_isdo(
            rational, x, sigmas, disable=True, settings=Settings(draw=4), seeds=seeds
        )

    kept, together, seeded = x.clone(), drawn(x), drawn(x, [7, 1, 4])
    for i, seed in enumerate([7, 1, 4]):
        assert torch.equal(drawn(x[i : i + 1])[0], together[i])
        assert torch.equal(drawn(x[i : i + 1], seed)[0], seeded[i])
    assert torch.equal(drawn(x.flip(0)), together.flip(0))
    assert (together - seeded).abs().max() > 1e-3  # other noise, other picture
    assert torch.equal(x, kept)


def test_a_noise_source_of_somebodys_own_is_asked_once_a_way_back(mixture, normal):
    asked, x = [], start(mixture, normal, 2, 3, 6, 6)

    def noise(like):
        asked.append(like.shape)
        return torch.zeros_like(like)

    draw(mixture, x, 4 + 3 * EACH, noise=noise)
    assert asked == [x.shape] * 3


@pytest.mark.parametrize(
    "options",
    [
        {"draw": 0},
        {"draw": 20},
        {"draw": 12 - EACH + 1},
        {"repaint": 0.0},
        {"tolerance": 0.05},
        {"solver": "trajectory"},
    ],
    ids=str,
)
def test_where_nothing_goes_back_all_steps_draw(mixture, normal, options):
    x, report = start(mixture, normal, 1, 3, 6, 6), {}
    plain = {key: value for key, value in options.items() if key in ("tolerance", "solver")}
    expected = draw(mixture, x, 12, draw=0, **plain)
    assert (
        torch.equal(draw(mixture, x, 12, report, **options), expected) and "picture" not in report
    )


def test_a_schedule_that_ends_in_noise_only_draws(mixture, normal):
    x, sigmas = start(mixture, normal, 1, 3, 6, 6), schedule(mixture, 12)[:-1]
    found = sample_isdo(mixture, x, sigmas, disable=True, settings=Settings(draw=4))
    assert torch.equal(found, sample_isdo(mixture, x, sigmas, disable=True))


@pytest.mark.parametrize("first", [0.3, 0.9])
def test_no_way_back_goes_higher_than_the_run_began(mixture, normal, first):
    path, seen = mixture.path, []
    top = path.from_noise_to_signal(first)
    sigmas = schedules.rest(schedule(mixture, 12), top, 12)
    x = path.signal(top) * 0.1 * normal(1, 3, 6, 6) + top * normal(1, 3, 6, 6)

    def told(state):
        seen.append(float(state["sigma_hat"]))

    sample_isdo(mixture, x, sigmas, None, told, True, settings=Settings(draw=4))
    assert [sigma for sigma in seen[4:] if sigma > 0.99 * top] == pytest.approx(
        [top, top], rel=1e-6
    )
    assert max(seen) < top * (1 + 1e-6)


def test_who_interrupts_has_the_last_finished_picture(mixture, normal):
    x = start(mixture, normal, 2, 3, 6, 6)

    class Stop(BaseException):
        pass

    def stopped(after):
        model, report = CallCounter(mixture), {}

        def ask(x, sigma, **extra):
            if model.calls == after:
                raise Stop
            return model(x, sigma, **extra)

        ask.path = mixture.path
        with pytest.raises(Stop):
            sample_isdo(
                ask,
                x,
                schedule(mixture, 13),
                disable=True,
                settings=Settings(draw=4),
                report=report,
                seeds=3,
            )
        return report

    assert "picture" not in stopped(3)
    drawn = stopped(4)["picture"]
    assert torch.equal(drawn, stopped(6)["picture"]) and drawn.isfinite().all()
    once = stopped(7)["picture"]
    assert (once - drawn).abs().max() > 1e-3 and torch.equal(once, stopped(9)["picture"])
    assert stopped(12)["calls"] == [12, 12]


def test_what_a_mask_keeps_is_kept(mixture, normal):
    known, mask = normal(1, 3, 6, 6), torch.zeros(1, 1, 6, 6)
    mask[..., 3:] = 1

    class Held:
        path = mixture.path

        def __call__(self, x, sigma, **extra):
            return torch.where(mask > 0, mixture(x, sigma, **extra), known)

    x = start(mixture, normal, 1, 3, 6, 6)
    found, before = draw(Held(), x, 13, mask=mask, seeds=1), draw(Held(), x, 4, mask=mask, draw=0)
    torch.testing.assert_close(found[..., :3], known[..., :3], rtol=0, atol=1e-12)
    assert (found - before)[..., 3:].abs().max() > 1e-3


@pytest.mark.parametrize("path", PATHS)
def test_many_ways_back_keep_a_gaussian_a_gaussian(path):
    """The exact denoiser of N(0, S): whatever is drawn, 120 ways back neither fade nor grow."""
    variance, where = 0.25, PATHS[path]

    class Gaussian:
        path = where

        def __call__(self, x, sigma):
            a, s = where.signal(float(sigma[0])), float(sigma[0])
            return x * (a * variance / (a * a * variance + s * s))

    x = FIRST[path] * torch.randn(
        4, 3, 16, 16, generator=torch.Generator().manual_seed(0), device="cpu"
    )
    found = draw(Gaussian(), x, 4 + 120 * EACH, seeds=0)
    assert found.var().item() == pytest.approx(variance, rel=0.15)
    assert abs(found.mean().item()) < 4 * math.sqrt(variance / found.numel())


def test_half_precision_comes_back_as_it_came(mixture, normal):
    x = start(mixture, normal, 1, 3, 6, 6)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        report = {}
        found = draw(mixture, x.to(dtype), 10, report)
        assert found.dtype == report["picture"].dtype == dtype and found.isfinite().all()


def test_noise_of_another_kind_is_refused(mixture, normal):
    with pytest.raises(ValueError, match="seeds is 'a'"):
        draw(mixture, start(mixture, normal, 1, 3, 6, 6), 12, seeds="a")


def test_noise_of_the_ways_back_is_that_of_no_refinement_nor_drawing_of_the_seed(
    mixture, normal, monkeypatch
):
    """A refinement of the same seed may follow, and the picture was drawn from that seed's noise: to
    add either once more would not be independent."""
    shape, made, source = (1, 3, 6, 7), [], refinement.SeededNoise

    def kept(seeds):
        made.append(source(seeds)(torch.zeros(shape)))
        return source(seeds)

    monkeypatch.setattr(refinement, "SeededNoise", kept)
    x = start(mixture, normal, *shape)
    picture = draw(mixture, x, 12, seeds=5)
    refine(mixture, picture, disable=True, seeds=5)
    back, refined = made
    own = gallery.noise([5], shape[1:])
    for one, other in ((back, refined), (back, own), (refined, own)):
        assert (one - other).abs().max() > 1
