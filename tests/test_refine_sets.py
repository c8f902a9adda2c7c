"""Sets of refined pictures, and damaged ones: of a model and a judge whose answers are known."""

import pytest
import torch

from isdo.bench import improvement as bench
from isdo.bench import methods, refined, sets
from isdo.bench.judge import Judge
from isdo.bench.moments import frechet, moments
from isdo.denoiser import CallCounter
from isdo.models import Given, Own
from isdo.path import VE
from isdo.schedules import karras

pytestmark = pytest.mark.usefixtures("no_grad")
SHAPE, LEVELS = (3, 8, 8), (1.0,)
# of a model that knows one picture where it stands, moving it and back makes another
STILL = ("nothing", "steps", "restart", "img2img", "free", "refine", "unlocked", "loose", "bare")


def of_class(labels, seed=0):
    """One picture for each class: stripes of two colours, fine and saturated."""
    generator = torch.Generator().manual_seed(seed)
    known = torch.rand(2, *SHAPE, generator=generator) * 2 - 1
    return known[labels]


class Knows:
    """A model that always sees the picture of the class."""

    path, sigma_min, sigma_max, shape, sigmas = VE, 0.05, 10.0, SHAPE, None

    def __call__(self, x, sigma, labels):
        return of_class(labels).to(x)


class Looks:
    """A judge that sees the pixels of a corner, and knows both pictures."""

    odds = torch.tensor([0.25, 0.75])

    def __init__(self, scale=1.0):
        self.scale = scale
        self.real = self.features(of_class(torch.tensor([0, 1, 1, 1] * 2)))

    def features(self, pictures):
        return pictures[:, :, :2, 0].flatten(1).double()

    def accuracy(self, pictures, labels):
        return (pictures - of_class(labels)).abs().amax((1, 2, 3)).lt(1e-3).double().mean()

    def pictures(self, count, seed):
        labels = torch.tensor([0, 1, 1, 1] * count)[:count]
        return self.scale * of_class(labels), labels


def given():
    return Given("known", Own("known", Knows()), SHAPE, own=True)


def measured(count, scale=1.0, seed=2, **more):
    """Rows of all methods at one level."""
    judge = Judge("looks", Looks(scale=scale))
    return refined.run(
        given(),
        count,
        seed,
        methods=list(refined.lineup(LEVELS)),
        levels=LEVELS,
        judge=judge,
        **more,
    )


def test_pictures_that_are_the_data_stay_it_whatever_a_method_does():
    """Everything ends on what the model says, and that is what the judge's real pictures are."""
    rows = measured(8)
    assert {row["method"] for row in rows} == set(methods.METHODS)
    for row in rows:
        known = methods.METHODS[row["method"]]
        assert row["level"] == (1.0 if known.levels else None)
        assert (row["part"], row["model"], row["images"], row["seed"]) == ("sets", "known", 8, 2)
        assert row["made"] == (12 if row["method"] == "nothing" else 24)
        if row["method"] not in STILL:
            assert max(row["moved"]) > 0.01
            continue
        assert row["accuracy"] == 1 and row["moved"] == pytest.approx([0] * 4, abs=1e-3)
        assert row["frechet"] == pytest.approx(0, abs=1e-6)
        detail = row["energy"][-1] / row["real_energy"][-1]
        assert [detail, row["saturation"]] == pytest.approx([1, 1], rel=1e-4)


def test_real_pictures_of_half_the_contrast_have_half_of_the_saturation():
    for row in measured(8, scale=0.5):
        if row["method"] in STILL:
            assert row["saturation"] == pytest.approx(2, rel=1e-3)
            # of the model D is the picture of the class, x the picture at hand: |D - x|^2 is 0 for
            # what was drawn, and a quarter of the picture's energy for the real ones
            assert row["loss"] == pytest.approx([0, 0, 0], abs=1e-6)


def test_a_measure_that_the_real_pictures_have_nothing_of_is_none():
    """Of the model's own pictures the loss is 0: there is nothing to divide by."""
    row = measured(4)[0]
    assert row["loss"] == [None] * 3
    assert "| nothing (no calls) |" in refined.table([row])


def test_a_run_that_was_stopped_goes_on_and_holds_what_it_has(tmp_path):
    whole, kept = measured(8, batch=3), []

    def stop(rows):
        kept[:] = rows
        if len(rows) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(8, batch=3, cache=tmp_path, save=stop)
    assert kept == whole[:4]
    drawn = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.safetensors")}
    assert len(drawn) == 3 * len(whole)  # all were drawn before the first was judged
    assert measured(8, batch=3, cache=tmp_path, reuse=kept) == whole
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.safetensors")} == drawn


def test_all_methods_go_on_from_one_drawing():
    """It is made once a batch, and its calls count for each method."""
    model, x = CallCounter(Own("known", Knows())), 10 * torch.randn(2, *SHAPE)
    sigmas, extra = karras(6, 0.05, 10.0), {"labels": torch.tensor([0, 1])}
    lineup, made = refined.lineup(LEVELS), []
    for name in ("nothing", "free@1", "img2img@1"):
        counter = CallCounter(model)
        lineup[name].run(counter, x, sigmas, extra, disable=True, seeds=[0, 1])
        made.append((counter.calls, model.calls))
    assert made == [(6, 6), (12, 12), (12, 18)]
    drawn, others = refined.Drawn(), {"labels": torch.tensor([1, 1])}
    first = drawn(CallCounter(model), x, sigmas, extra)
    assert not torch.equal(drawn(CallCounter(model), x, sigmas, others), first)
    drawn(CallCounter(model), x, sigmas, others).zero_()  # what is handed out is nobody else's
    assert drawn(CallCounter(model), x, sigmas, others).abs().max() > 0.1


def test_the_distance_is_that_of_the_features_of_what_was_drawn():
    """Labels are drawn with the judge's odds, and the set is what the model makes of them."""
    judge = Judge("looks", Looks())
    rows = measured(6, seed=1)
    labels = sets.labels_for(given(), judge, 6, 1, sets.growing_labels)
    wanted = frechet(judge.real, moments(judge.features(of_class(labels))))
    assert sorted(labels.tolist()) != labels.tolist() or len(labels.unique()) == 2
    found = {row["method"]: row["frechet"] for row in rows}
    assert wanted > 1e-3
    assert [found[name] for name in STILL] == pytest.approx([wanted] * len(STILL), rel=1e-4)


def test_damaged_pictures_are_held_against_the_originals():
    judge = Judge("looks", Looks())
    rows = bench.measure_recovery(given(), 6, seed=2, levels=LEVELS, judge=judge)
    named = {name for name, method in methods.METHODS.items() if not method.redraws}
    original, _ = judge.pictures(6, 2)
    assert {(row["damage"], row["method"]) for row in rows} == {
        (damage, method) for damage in bench.damages(original) for method in named
    }
    for row in rows:
        broken, _ = bench.damages(original, 2)[row["damage"]]
        left = bench.rms(broken - original).mean().item()
        if row["method"] == "nothing":
            assert row["error"] == pytest.approx(left, rel=1e-5) and left > 0.1
        elif row["method"] == "free":  # what nothing holds ends on what the model knows
            assert row["error"] < 0.02 * left


def test_pictures_of_another_size_than_the_model_s_are_refused():
    class Large(Looks):
        def pictures(self, count, seed):
            return torch.zeros(count, 3, 16, 16), None

    with pytest.raises(ValueError, match=r"pictures are \(3, 16, 16\), and those of known"):
        refined.run(given(), 4, judge=Judge("large", Large()))
