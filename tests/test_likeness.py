"""Kernel distance, precision and recall, and their resamples, against direct formulas and sets
whose answer is known."""

import math

import pytest
import torch

from isdo.bench import kernel, likeness, neighbours
from isdo.bench.kernel import KernelDistance
from isdo.bench.likeness import Likeness, resamples
from isdo.bench.moments import Moments, frechet, frechet_from, moments
from isdo.bench.neighbours import covered, precision_recall, radii

pytestmark = pytest.mark.usefixtures("no_grad")


def features(count, size=6, seed=0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, size, generator=generator, dtype=torch.float64) + shift


def by_definition(drawn, real):
    """The unbiased estimate, pair by pair."""

    def k(a, b):
        return (sum(p * q for p, q in zip(a.tolist(), b.tolist(), strict=True)) / len(a) + 1) ** 3

    def within(x):
        pairs = [k(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j]
        return sum(pairs) / len(pairs)

    mixed = [k(a, b) for a in drawn for b in real]
    return 1000 * (within(drawn) + within(real) - 2 * sum(mixed) / len(mixed))


@pytest.fixture(params=[3, 10**6], ids=["in blocks", "at once"])
def blocks(request, monkeypatch):
    monkeypatch.setattr(kernel, "BLOCK", request.param)
    monkeypatch.setattr(neighbours, "BLOCK", request.param)


@pytest.mark.usefixtures("blocks")
def test_the_kernel_distance_is_the_direct_formula():
    drawn, real = features(8, seed=1, shift=0.3), features(11, seed=2)
    assert float(KernelDistance(real)(drawn)) == pytest.approx(
        by_definition(drawn, real), rel=1e-12
    )
    assert float(KernelDistance(drawn)(real)) == pytest.approx(
        by_definition(drawn, real), rel=1e-12
    )


def test_the_kernel_distance_of_a_set_from_itself_is_what_leaving_out_the_pairs_of_a_picture_with_itself_makes():
    x = features(9)
    gram = (x @ x.T / x.shape[1] + 1) ** 3
    own, pairs = gram.diagonal().mean(), gram.sum() / 9
    expected = 2 * (pairs - own) / 8 - 2 * pairs / 9
    assert float(KernelDistance(x)(x)) == pytest.approx(1000 * float(expected), rel=1e-12)


def test_the_kernel_distance_has_no_bias_and_sees_a_shift():
    distance = KernelDistance(features(4000, seed=0))
    small = torch.stack([distance(features(20, seed=seed)) for seed in range(1, 401)])
    assert abs(float(small.mean())) < 3 * float(small.std()) / 20 + 3 * 1000 / 4000
    shifted = distance(features(4000, seed=1, shift=0.5))
    # the kernel of two Gaussians in the mean, by the moments of x.y/D + 1
    exact = 1000 * sum(
        expected_kernel(*at) for at in ((0.5, 0.5), (0.0, 0.0))
    ) - 2000 * expected_kernel(0.5, 0.0)
    assert float(shifted) == pytest.approx(exact, rel=0.1)


def expected_kernel(a, b, size=6):
    """E (x.y/D + 1)^3 for x of mean a, y of mean b in every direction, covariance 1,
    independent."""
    # with z = x.y/D: E z, E z^2, E z^3 by the moments of one direction's product p = x y, all
    # independent
    first, second = a * b, (1 + a * a) * (1 + b * b)
    third = (a**3 + 3 * a) * (b**3 + 3 * b)
    mean = size * first
    square = size * second + size * (size - 1) * first**2
    cube = (
        size * third
        + 3 * size * (size - 1) * second * first
        + size * (size - 1) * (size - 2) * first**3
    )
    return cube / size**3 + 3 * square / size**2 + 3 * mean / size + 1


@pytest.mark.usefixtures("blocks")
def test_weights_are_resamples_without_pairs_of_a_picture_with_itself():
    drawn, real = features(5, seed=3), features(7, seed=4)
    weights = torch.tensor([[1.0, 1, 1, 1, 1], [2.0, 0, 1, 1, 1], [0.0, 3, 0, 0, 2]])
    found = KernelDistance(real)(drawn, weights)
    assert float(found[0]) == pytest.approx(float(KernelDistance(real)(drawn)), rel=1e-12)
    gram, cross = (drawn @ drawn.T / 6 + 1) ** 3, ((drawn @ real.T / 6 + 1) ** 3).mean(1)
    for row, value in zip(weights[1:], found[1:], strict=True):
        index = torch.repeat_interleave(torch.arange(5), row.long())
        pairs = [float(gram[i, j]) for i in index for j in index if i != j]
        expected = (
            sum(pairs) / len(pairs)
            + float(KernelDistance(real).within)
            - 2 * float(cross[index].mean())
        )
        assert float(value) == pytest.approx(1000 * expected, rel=1e-12)


@pytest.mark.usefixtures("blocks")
def test_precision_and_recall_of_the_same_set_and_of_far_sets():
    x = features(12)
    assert precision_recall(x, x) == (1.0, 1.0)
    assert precision_recall(x, features(9, seed=1, shift=100.0)) == (0.0, 0.0)


@pytest.mark.usefixtures("blocks")
def test_precision_and_recall_tell_lost_modes_from_foreign_pictures():
    one, other = features(20, seed=1), features(20, seed=2, shift=100.0)
    real = torch.cat([one, other])
    assert precision_recall(one, real) == (1.0, 0.5)  # half of the modes, nothing else
    assert precision_recall(real, one) == (0.5, 1.0)


@pytest.mark.usefixtures("blocks")
def test_radii_reach_to_the_third_neighbour_and_balls_are_closed():
    line = torch.tensor([0.0, 1.0, 3.0, 7.0, 8.0, 20.0])[:, None]
    assert radii(line).tolist() == [7, 6, 4, 6, 7, 17]
    assert radii(line, 1).tolist() == [1, 1, 2, 1, 1, 12]
    inside = covered(torch.tensor([[9.0], [9.001], [-1.0], [32.0], [5.1]]), line, radii(line, 1))
    assert inside.tolist() == [True, True, True, True, False]


def test_equal_pictures_are_neighbours():
    assert radii(torch.zeros(5, 2)).tolist() == [0] * 5
    assert precision_recall(torch.zeros(4, 2), torch.zeros(6, 2)) == (1.0, 1.0)


def test_too_few_pictures_have_no_neighbours():
    with pytest.raises(ValueError, match="3 features have no 3 neighbours each: give at least 4"):
        radii(torch.zeros(3, 2))


def test_a_shifted_gaussian_is_as_far_as_its_shift():
    x = features(500, seed=5)
    truth = moments(x)
    far = Likeness(truth, x).measure((x + 2.0).float())
    assert far["frechet"] == pytest.approx(6 * 4.0, rel=1e-5)
    assert Likeness(truth, x).measure(x)["frechet"] < 1e-9
    wide = Likeness(truth).measure(3 * (x - truth.mean) + truth.mean)
    assert wide["frechet"] == pytest.approx(4 * float(truth.covariance.trace()), rel=1e-9)
    assert {wide[key] for key in ("kid", "precision", "recall", "kid_draws")} == {None}


def test_the_root_taken_once_gives_the_same_distance():
    one, other = moments(features(40, seed=1)), moments(features(30, seed=2, shift=0.2))
    assert frechet_from(one)(other) == frechet(one, other) > 0


def test_resamples_spread_as_the_mean_does():
    """Of features whose Fréchet distance is the square of their mean's: its spread is known."""
    x = features(400, size=1, seed=6)
    x = (x - x.mean()) / x.std() + 5.0
    found = Likeness(Moments(torch.zeros(1), torch.ones(1, 1)), device="cpu").measure(x)
    assert found["frechet"] == pytest.approx(25.0, rel=1e-9)
    spread = torch.tensor(found["frechet_draws"]).std()
    assert float(spread) == pytest.approx(
        2 * 5 / math.sqrt(400), rel=0.35
    )  # 64 draws know it to a tenth


def test_resamples_are_the_same_for_all_sets_of_a_size_and_never_one_picture_alone():
    found = resamples(300)
    assert (
        torch.equal(found, resamples(300))
        and found.shape == (likeness.DRAWS, 300)
        and (found.sum(1) == 300).all()
    )
    assert float(found.var(0).mean()) == pytest.approx(1.0, abs=0.1)  # Poisson's
    assert ((resamples(2, draws=200) == 1).all(1)).all()  # of two pictures only both


def test_the_measure_takes_as_many_real_pictures_as_were_drawn():
    real = features(400, seed=7)
    known = Likeness(moments(real), real)
    drawn = features(100, seed=8)
    found = known.measure(drawn)
    assert (found["precision"], found["recall"]) == precision_recall(drawn, known.examples[:100])
    assert found["kid"] == pytest.approx(float(KernelDistance(real)(drawn)), rel=1e-9)
    ideal = known.ideal(200)
    assert ideal["precision"] > 0.8 and ideal["recall"] > 0.8
    assert known.ideal(201) == {"precision": None, "recall": None}
    assert found["kid_draws"] == pytest.approx(
        known.kernel(drawn, resamples(100)).tolist(), rel=1e-12
    )
