"""The bench of refinement: equal calls, measures with known answers, Restart where its end is
known."""

from dataclasses import replace

import pytest
import torch

from isdo.bench import classifier, methods, refined
from isdo.bench import improvement as bench
from isdo.bench.kept import merged
from isdo.bench.sets import band_energy, name_of
from isdo.denoiser import CallCounter
from isdo.path import PATHS
from isdo.schedules import karras


def fine_energy(pictures):
    return float(band_energy(pictures)[:, -1].mean())


def job_of(model, x, sigmas):
    return methods.Job(model, torch.zeros_like(x), range(len(x)), {}, x, sigmas)


@pytest.mark.parametrize("path, top", [("ve", 20.0), ("flow", 0.999)])
def test_restart_on_a_gaussian_ends_in_the_gaussian(gaussian, path, top):
    """From one point: each restart leaves (S + low^2)/(S + level^2) of the variance that it found,
    the rest is its own."""
    model, count, level = gaussian(path, (1, 4, 4)), 600, 30.0
    x = (PATHS[path].signal(top) * model.mean).expand(count, 1, 4, 4)

    def sigmas(calls):
        return karras(calls, 0.03, top).double()

    found = methods.restart(job_of(model, x, sigmas), level, 12)
    spectrum = torch.fft.fft2(found - model.mean, norm="ortho").abs().square().mean(0)
    assert ((spectrum / model.power - 1).abs() < 6 * (2 / count) ** 0.5 + 0.03).all()


@pytest.mark.parametrize("name", methods.METHODS)
@pytest.mark.parametrize("calls", [3, 12])
def test_every_method_spends_all_it_may_and_no_more(pixel_mixture, normal, name, calls):
    model = CallCounter(pixel_mixture("ve"))
    x = 14 * normal(2, 1, 8, 8)
    method = methods.METHODS[name]
    pictures = method.run(job_of(model, x, lambda n: karras(n, 0.03, 14.0).double()), 1.0, calls)
    assert pictures.shape == x.shape
    assert model.calls == (
        0 if name == "nothing" else calls + (methods.BASE if method.redraws else 0)
    )


def test_a_method_that_cheats_is_caught(pixel_mixture, normal):
    greedy = methods.Method(
        "greedy",
        lambda job, level, calls: [job.model(job.pictures, torch.ones(2)) for _ in range(4)][0],
    )
    job = job_of(pixel_mixture("ve"), normal(2, 1, 4, 4), None)
    with pytest.raises(RuntimeError, match="greedy made 4 model calls where 3 were allowed"):
        methods.spend(greedy, job, 1.0, 3)


def test_batches_do_not_change_a_method(rational, normal):
    rational.path = PATHS["ve"]
    job = replace(
        job_of(rational, normal(3, 1, 6, 6), None), pictures=normal(3, 1, 6, 6), seeds=range(4, 7)
    )
    whole, parts = (methods.spend(methods.METHODS["small"], job, 0.5, batch=n) for n in (3, 2))
    assert torch.equal(whole, parts)


def test_between_knows_members_and_strangers():
    mixture = bench.make_small_mixture()
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(12, 1, 8, 8, generator=generator, dtype=torch.float64)
    members = bench.hartley(mixture.means + mixture.powers.sqrt() * noise)
    assert not bench.between(mixture, members).any()
    strangers = bench.hartley((mixture.means + mixture.means.roll(1, 0)) / 2)
    assert bench.between(mixture, strangers).all()


def test_damages_are_what_they_are_called(normal):
    pictures = normal(2, 3, 32, 32).float().clamp(-1, 1)
    found = bench.damages(pictures)
    assert list(found) == ["blurred", "jittered", "half erased"]
    flat = torch.full((1, 3, 32, 32), 0.3)
    torch.testing.assert_close(bench.damages(flat)["blurred"][0], flat)
    assert fine_energy(found["blurred"][0]) < 0.03 * fine_energy(pictures)
    rows = found["jittered"][0][0, :, 5]
    assert any(
        torch.equal(rows[:, 1:-1], pictures[0, :, 5].roll(by, -1)[:, 1:-1]) for by in (-1, 0, 1)
    )
    erased, mask = found["half erased"]
    assert torch.equal(erased[..., :16], pictures[..., :16]) and (erased[..., 16:] == 1).all()
    assert (mask[..., 16:] == 1).all() and not mask[..., :16].any()


def test_measures_have_known_answers():
    grey, red = (
        torch.zeros(2, 3, 32, 32),
        torch.tensor([1.0, -1.0, -1.0])[:, None, None].expand(2, 3, 32, 32),
    )
    assert refined.saturation(grey).tolist() == [0, 0]
    assert refined.saturation(red).tolist() == [2, 2]
    stripes = torch.tensor([1.0, -1.0]).repeat(16).expand(2, 3, 32, 32)
    assert fine_energy(red) < 1e-6 and fine_energy(stripes) == pytest.approx(3 * 32 * 32)

    def knows_nothing(x, sigma, labels=None):
        return torch.zeros_like(x)

    knows_nothing.path = PATHS["flow"]
    found = refined.losses(knows_nothing, red, {"labels": torch.zeros(2)}, [0, 1])
    wanted = torch.tensor([1 / ratio**2 for ratio in refined.LOSS_AT], dtype=torch.float64)
    torch.testing.assert_close(found, wanted.expand(2, 3))


def test_refinement_leads_to_the_modes_of_a_mixture():
    """Three calls a way back: a sampler that takes too much for granted ends outside every
    component."""
    shares = {
        row["method"]: row["between"] for row in bench.measure_mixture(count=128, levels=(2.0,))
    }
    assert shares["free"] < 0.05 < shares["refine"]  # which may not change what it holds


def test_the_mixture_is_measured_and_the_page_says_all():
    rows = bench.measure_mixture(count=20, levels=(1.0,))
    assert {row["method"] for row in rows} == set(methods.METHODS) and all(
        0 <= row["between"] <= 1 for row in rows
    )
    common = {"model": "eps", "images": 20, "seed": 0}
    rows += [set_row("nothing", None, 2.0), set_row("refine", 1.0, 1.5)]
    damaged = {"part": "recovery", "method": "free", "damage": "blurred", **common}
    rows += [{**damaged, "level": error, "error": error} for error in (0.5, 1.0)]
    text = bench.page(rows)
    assert all(methods.METHODS[name].label in text for name in methods.METHODS)
    assert "| nothing (no calls) |  | 2.000 ± 0.400 |  | 20.00 ± 4.00 |  | 0.50 |" in text
    assert (
        "| refine, no action | 1 | 1.500 ± 0.300 | -0.500 ± 0.100 | 15.00 ± 3.00 | -5.00 ± 1.00 | 0.50 |"
        " 2.00 | 1.00 | 1.10 | 1.20 | 1.30 | 0.25 | 0.10 | 0.20 | 0.30 | 0.40 |" in text
    )
    assert "two standard deviations of an accuracy of 0.50 are 0.224" in text
    assert (
        "| method, noise | 0.5 | 1 |" in text
        and "| refine, nothing held, no action | 0.5000 | 1.0000 |" in text
    )


def set_row(method, level, frechet):
    """A row of a set whose resamples are known: their deviation is a tenth of the measure."""
    draws = torch.tensor([-1.0, 0.0, 1.0]).double() * frechet / 10
    return {
        "part": "sets", "bench": "refine", "method": method, "level": level, "sampler": method, "calls": 24,
        "model": "eps", "guidance": 1.0, "grid": "karras", "images": 20, "seed": 0, "broken": 0,
        "judge": name_of(classifier.load().real.mean), "frechet": frechet, "kid": 10 * frechet,
        "frechet_draws": (frechet + draws).tolist(), "kid_draws": (10 * (frechet + draws)).tolist(),
        "accuracy": 0.5, "energy": [1.0, 1.0, 1.0, 3.0], "real_energy": [1.0, 1.0, 1.0, 1.5],
        "saturation": 1.0, "loss": [1.1, 1.2, 1.3], "moved_features": 0.25, "moved": [0.1, 0.2, 0.3, 0.4],
    }  # fmt: skip


def test_rows_that_are_measured_anew_replace_the_old_ones():
    old = [set_row("nothing", None, 2.0), set_row("refine", 1.0, 1.5)]
    new = [set_row("refine", 1.0, 1.0), set_row("refine", 1.0, 1.0) | {"guidance": 2.0}]
    assert merged(old, new, bench.KEY) == [old[0], *new]


def test_a_set_of_one_is_refused():
    with pytest.raises(ValueError, match="count is 1"):
        bench.run(count=1)
