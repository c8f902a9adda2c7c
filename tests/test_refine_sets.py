"""Sets of refined pictures, and damaged ones: of a model and a judge whose answers are known."""

import pytest
import torch

from isdo.bench import refinement as bench
from isdo.bench.judge import Judge
from isdo.bench.moments import frechet, moments
from isdo.models import Given, Own
from isdo.path import VE

pytestmark = pytest.mark.usefixtures("no_grad")
SHAPE, LEVELS = (3, 8, 8), (1.0,)
# of a model that knows one picture where it stands, moving it and back makes another
STILL = ("nothing", "steps", "restart", "img2img", "free", "refine", "bare")


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


def test_pictures_that_are_the_data_stay_it_whatever_a_method_does():
    """Everything ends on what the model says, and that is what the judge's real pictures are."""
    rows = bench.measure_sets(given(), 8, seed=2, levels=LEVELS, judge=Judge("looks", Looks()))
    assert {row["method"] for row in rows} == set(bench.METHODS)
    for row in rows:
        known = bench.METHODS[row["method"]]
        assert row["level"] == (1.0 if known.levels else None)
        assert (row["part"], row["model"], row["images"], row["seed"]) == ("sets", "known", 8, 2)
        if row["method"] not in STILL:
            assert row["change"] > 0.01
            continue
        assert row["accuracy"] == 1 and row["change"] == pytest.approx(0, abs=1e-5)
        assert row["frechet"] == pytest.approx(0, abs=1e-6)
        assert [row["detail"], row["saturation"]] == pytest.approx([1, 1], rel=1e-4)


def test_real_pictures_of_half_the_contrast_have_half_of_the_saturation_and_a_quarter_of_the_detail():
    rows = bench.measure_sets(
        given(), 8, seed=2, levels=LEVELS, judge=Judge("looks", Looks(scale=0.5))
    )
    for row in (row for row in rows if row["method"] in STILL):
        assert row["detail"] == pytest.approx(4, rel=1e-3)
        assert row["saturation"] == pytest.approx(2, rel=1e-3)
        # of the model D is the picture of the class, x the picture at hand: |D - x|^2 is 0 for what
        # was drawn, and a quarter of the picture's energy for the real ones
        assert row["loss"] == pytest.approx([0, 0, 0], abs=1e-6)


def test_the_distance_is_that_of_the_features_of_what_was_drawn():
    """Labels are drawn with the judge's odds, and the set is what the model makes of them."""
    judge = Judge("looks", Looks())
    rows = bench.measure_sets(given(), 6, seed=1, levels=LEVELS, judge=judge)
    labels = bench.labels_for(given(), judge, 6, 1)
    wanted = frechet(judge.real, moments(judge.features(of_class(labels))))
    assert sorted(labels.tolist()) != labels.tolist() or len(labels.unique()) == 2
    found = {row["method"]: row["frechet"] for row in rows}
    assert wanted > 1e-3
    assert [found[name] for name in STILL] == pytest.approx([wanted] * len(STILL), rel=1e-4)


def test_damaged_pictures_are_held_against_the_originals():
    judge = Judge("looks", Looks())
    rows = bench.measure_recovery(given(), 6, seed=2, levels=LEVELS, judge=judge)
    methods = {name for name, method in bench.METHODS.items() if not method.redraws}
    original, _ = judge.pictures(6, 2)
    assert {(row["damage"], row["method"]) for row in rows} == {
        (damage, method) for damage in bench.damages(original) for method in methods
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
        bench.measure_sets(given(), 4, levels=LEVELS, judge=Judge("large", Large()))
