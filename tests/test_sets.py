"""The Fréchet distance against closed forms, and the suites of sets on models whose pictures are
known."""

import math

import pytest
import torch

from isdo import __main__ as cli
from isdo.bench import classifier, sets, sets_page
from isdo.bench.baselines import BASELINES, STOCHASTIC
from isdo.bench.judge import Judge
from isdo.bench.kept import merged
from isdo.bench.moments import Moments, moments, sampling_bias
from isdo.bench.moments import frechet as distance
from isdo.bench.report import read_json
from isdo.models import Given, Own, usual_schedule
from isdo.path import PATHS, VE
from isdo.zoo.data import Emoji
from isdo.zoo.net import CLASSES, scaled_linear


def gaussian(size=5, seed=0):
    """Random Moments of full rank."""
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return Moments(
        torch.randn(size, generator=generator, dtype=torch.float64),
        factor @ factor.T + torch.eye(size),
    )


def test_the_distance_of_commuting_gaussians_is_that_of_their_deviations():
    vectors = torch.linalg.qr(
        torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    )[0]
    one, other = (
        torch.tensor([1.0, 4.0, 0.0, 9.0]).double(),
        torch.tensor([4.0, 0.25, 2.0, 9.0]).double(),
    )
    shift = torch.tensor([0.0, 3.0, 0.0, 4.0]).double()
    left = Moments(torch.zeros(4), vectors * one @ vectors.T)
    right = Moments(shift, vectors * other @ vectors.T)
    expected = 25 + float((one.sqrt() - other.sqrt()).square().sum())
    # the zero of `one` is rounded to 1e-16, whose root is 1e-8
    assert distance(left, right) == pytest.approx(expected, rel=1e-7)


def test_the_distance_in_two_dimensions_is_the_closed_form():
    one, other = gaussian(2, 1), gaussian(2, 2)
    # the root of a 2x2 matrix: tr M^1/2 = sqrt(tr M + 2 sqrt(det M))
    product = one.covariance @ other.covariance
    cross = math.sqrt(float(product.trace()) + 2 * math.sqrt(float(torch.linalg.det(product))))
    means = float((one.mean - other.mean).square().sum())
    expected = means + float(one.covariance.trace() + other.covariance.trace()) - 2 * cross
    assert distance(one, other) == pytest.approx(expected, rel=1e-12)


def test_the_distance_equals_scipys_matrix_root():
    linalg = pytest.importorskip("scipy.linalg")
    one, other = gaussian(16, 3), gaussian(16, 4)
    root = torch.from_numpy(linalg.sqrtm((one.covariance @ other.covariance).numpy()).real)
    covariance = (one.covariance + other.covariance - 2 * root).trace()
    expected = float((one.mean - other.mean).square().sum() + covariance)
    assert distance(one, other) == pytest.approx(expected, rel=1e-9)


def test_the_distance_is_zero_for_the_same_set_symmetric_and_blind_to_rotation():
    one, other = gaussian(8, 5), gaussian(8, 6)
    assert distance(one, one) < 1e-12 * float(one.covariance.trace())
    assert distance(one, other) == pytest.approx(distance(other, one), rel=1e-12)
    turn = torch.linalg.qr(
        torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    )[0]
    turned = [Moments(turn @ m.mean, turn @ m.covariance @ turn.T) for m in (one, other)]
    assert distance(*turned) == pytest.approx(distance(one, other), rel=1e-12)


def test_the_bias_of_small_sets_falls_as_one_over_their_size():
    truth = gaussian(16, 8)
    small, large = sampling_bias(truth, 500, draws=16), sampling_bias(truth, 4000, draws=16)
    assert 0 < large < small
    assert math.log(small / large) / math.log(8) == pytest.approx(1, abs=0.15)


def test_singular_sets_have_a_distance():
    few = moments(torch.randn(3, 16, generator=torch.Generator().manual_seed(9)))
    assert distance(few, few) < 1e-6
    assert math.isfinite(distance(few, gaussian(16, 10)))


def test_weights_count_as_repetitions():
    features = torch.randn(4, 3, generator=torch.Generator().manual_seed(11), dtype=torch.float64)
    weighted, repeated = (
        moments(features, torch.tensor([1, 2, 1, 3])),
        moments(features[[0, 1, 1, 2, 3, 3, 3]]),
    )
    torch.testing.assert_close(weighted.mean, repeated.mean)
    torch.testing.assert_close(
        weighted.covariance * (1 - 15 / 49), repeated.covariance * (1 - 1 / 7)
    )
    plain = moments(features)
    torch.testing.assert_close(plain.covariance, features.T.cov())


@pytest.mark.parametrize("make, says", [
    (lambda: moments(torch.zeros(1, 3)), "at least two"),
    (lambda: Moments(torch.zeros(2), torch.zeros(3, 3)), r"\(D,\) and \(D, D\)"),
    (lambda: moments(torch.full((3, 2), math.nan)), "not finite"),
    (lambda: classifier.load("nowhere.safetensors"), "train --model classifier"),
    (lambda: sets.run(count=1), "at least 2"),
])  # fmt: skip
def test_what_makes_no_sense_is_said(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_labels_have_the_shares_of_the_data():
    odds = torch.tensor([0.5, 0.25, 0.0, 0.25])
    labels = sets.make_labels(odds, 40, seed=3)
    assert torch.bincount(labels, minlength=4).tolist() == [20, 10, 0, 10]
    assert not torch.equal(labels, labels.sort().values)
    assert torch.equal(labels, sets.make_labels(odds, 40, seed=3))


def test_augmentation_moves_and_flips_within_bounds():
    pictures = torch.full((64, 3, 8, 8), 1.0)
    pictures[:, :, 3, 2] = -1.0
    moved = classifier.augment(pictures, torch.Generator().manual_seed(0))
    assert moved.shape == pictures.shape
    dots = (moved[:, 0] == -1).nonzero()
    assert len(dots) == 64  # each dot is still there, once
    rows, columns = set(dots[:, 1].tolist()), set(dots[:, 2].tolist())
    assert rows == set(range(1, 6)) and columns == {0, 1, 2, 3, 4} | {3, 4, 5, 6, 7}


def emoji(count=24):
    """A stand-in for the data: each class is a grey of its own."""
    labels = torch.arange(count) % 2
    pictures = torch.where(labels[:, None, None, None, None] == 0, 40, 220).expand(
        count, 2, 3, 32, 32
    )
    return Emoji(pictures.to(torch.uint8), labels, torch.arange(count))


def test_training_learns_and_its_file_holds_all_that_the_bench_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(classifier.data, "load_emoji", lambda *_: emoji())
    out = tmp_path / "classifier.safetensors"
    config = classifier.Config(steps=12, batch=8, warmup=4)
    classifier.train(config, out)
    judge = classifier.load(out)
    assert judge.about["accuracy"] == 1 and "Open Font License" in judge.about["licence"]
    assert judge.odds.tolist() == pytest.approx([0.5, 0.5] + [0] * 7)
    pictures = classifier.data.to_unit(emoji().pictures[:2, 0])
    features, classes = judge(pictures)
    assert features.shape == (2, classifier.FEATURES) and classes.tolist() == [0, 1]
    again = moments(torch.cat([judge(pictures[i : i + 1])[0] for i in (0, 1)]), torch.ones(2))
    torch.testing.assert_close(judge.real.mean, again.mean, rtol=1e-3, atol=1e-4)
    assert out.stat().st_size < 2**19
    assert [p.name for p in tmp_path.iterdir()] == [out.name]


class Known:
    """A model that always sees the same grey picture of the label: every sampler must end on it."""

    path, sigma_min, sigma_max, sigmas = (
        VE,
        0.03,
        14.6,
        ((1 - scaled_linear()) / scaled_linear()).sqrt(),
    )

    def __call__(self, x, sigma, labels, guidance):
        return torch.where(labels == 0, 40 / 127.5 - 1, 220 / 127.5 - 1)[
            :, None, None, None
        ].expand_as(x)


@pytest.fixture(scope="module")
def judge():
    """A judge of random weights whose real pictures are those that Known draws."""
    torch.manual_seed(0)
    net = classifier.Classifier().eval().requires_grad_(False)
    real = classifier.features_of(net, emoji())
    odds = torch.zeros(len(CLASSES)).index_fill(0, torch.tensor([0, 1]), 0.5)
    return classifier.Judge(net, real, odds, {"floor": 0.1, "accuracy": 0.7})


class Means:
    """A judge whose features are the means of a picture's quarters; real pictures are grey and
    noise."""

    def __init__(self, **more):
        self.real = self.features(
            0.3 * torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        )
        self.odds = torch.tensor([0.5, 0.5])
        if more:
            del self.odds
            vars(self).update(more)

    def features(self, pictures):
        return pictures.unfold(2, 16, 16).unfold(3, 16, 16).mean((1, 4, 5)).flatten(1).double()


JUDGE = Judge("means", Means())
SOME = {name: sets.SAMPLERS[name] for name in ("isdo", "ipndm_3")}


def test_samplers_that_draw_the_data_have_no_distance(judge):
    rows = sets.run(Known(), (3, 4), 24, SOME, judge=judge, converged=0, batch=7)
    assert [(row["sampler"], row["calls"]) for row in rows] == [
        (s, n) for n in (3, 4) for s in SOME
    ]
    scale = float(judge.real.covariance.trace())
    assert all(row["frechet"] < 0.01 * scale and row["made"] == row["calls"] for row in rows)


def never(*arguments, **keywords):
    raise AssertionError("this was known")


def test_a_run_reuses_rows_and_notices_a_change():
    saved = []
    run = dict(model=Known(), calls=(2,), count=6, samplers=SOME, judge=JUDGE, converged=4)
    rows = sets.run(**run, save=lambda rows: saved.append(len(rows)))
    assert saved == [1, 2, 3] and rows[-1]["sampler"] == "converged" and rows[-1]["made"] <= 4
    stored = [row | {"frechet": 7.0} for row in rows]
    assert [row["frechet"] for row in sets.run(**run, reuse=stored)] == [7.0] * 3

    def changed(name):
        other = SOME | {name: sets.replace(SOME[name], run=lambda model, x, *_, **__: 0 * x)}
        return {
            row["sampler"]: row["frechet"] == 7.0
            for row in sets.run(**run | {"samplers": other}, reuse=stored)
        }

    assert changed("ipndm_3") == {"isdo": True, "ipndm_3": False, "converged": True}
    # how far the others are from ISDO's pictures is another number, too
    assert changed("isdo") == {"isdo": False, "ipndm_3": False, "converged": True}
    other = [row | {"model": "other"} for row in rows]
    assert merged(other, rows, sets.KEY) == other + rows and merged(rows, rows, sets.KEY) == rows


class Interrupted:
    """A bar that stops the run after so many batches."""

    def __init__(self, after):
        self.after, self.total, self.closed = after, [], 0

    def __call__(self, total):
        self.total.append(total)
        return self

    def update(self, n):
        if len(self.total) == 2:  # the first bar is that of the probes
            self.after -= 1
            if self.after < 0:
                raise KeyboardInterrupt

    def close(self):
        self.closed += 1


def noisy(judge=None):
    return dict(
        model=Known(), calls=(3,), count=10, samplers={name: sets.everyday()[name] for name in ("isdo", "euler_a", "restart")},
        judge=judge or JUDGE, converged=4, batch=4,
    )  # fmt: skip


@pytest.mark.parametrize("after", [0, 1, 5, 11])
def test_a_run_that_was_stopped_goes_on_at_the_batch_and_ends_in_the_same_bits(tmp_path, after):
    whole = sets.run(**noisy())
    bar = Interrupted(after)
    with pytest.raises(KeyboardInterrupt):
        sets.run(**noisy(), cache=tmp_path, progress=bar)
    assert bar.total == [3 + 3 + 3 + 4, 10 * (3 + 3 + 3 + 4)] and bar.closed == 2
    files = list(tmp_path.rglob("*.safetensors"))
    assert len(files) == after + 1  # the batch is kept before the bar moves
    before = {file: file.stat().st_mtime_ns for file in files}
    again = sets.run(**noisy(), cache=tmp_path)
    assert again == whole
    assert {file: file.stat().st_mtime_ns for file in files} == before
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4 * 3


def test_a_stopped_run_holds_sets_of_one_size_that_a_smaller_run_judges(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        sets.run(**noisy(), cache=tmp_path, progress=Interrupted(5))
    fewer = noisy() | {"count": 4}
    expected = sets.run(**fewer)
    monkeypatch.setattr(sets, "draw_batch", never)
    assert sets.run(**fewer, cache=tmp_path) == expected


def test_a_damaged_batch_is_drawn_again(tmp_path):
    rows = sets.run(**noisy(), cache=tmp_path)
    file = sorted(tmp_path.rglob("*.safetensors"))[5]
    file.write_bytes(file.read_bytes()[:50])
    assert sets.run(**noisy(), cache=tmp_path) == rows


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", [name for name in sets.everyday()])
def test_a_picture_does_not_depend_on_its_neighbours(pixel_mixture, path, name):
    baseline, model = sets.everyday()[name], pixel_mixture(path)
    model.sigma_min, model.sigma_max = (0.03, 14.6) if path == "ve" else (1e-3, 1.0)
    given = Given("mixture", model, shape=(3, 8, 8))
    task = sets.Task(given, None, 7, usual_schedule(model), 3)
    whole, made = task.draw(baseline, 12, slice(0, 7))
    apart = [task.draw(baseline, 12, part)[0] for part in (slice(0, 1), slice(1, 5), slice(5, 7))]
    assert torch.equal(whole, torch.cat(apart)) and made == 12
    assert whole.isfinite().all() and len(whole.flatten(1).unique(dim=0)) == 7


def test_bands_part_the_energy_and_the_last_is_fine_detail():
    pictures = torch.randn(3, 2, 12, 10, generator=torch.Generator().manual_seed(0))
    bands = sets.band_energy(pictures)
    assert bands.shape == (3, 4)
    torch.testing.assert_close(bands.sum(1), pictures.double().square().sum((1, 2, 3)))
    y = torch.arange(32.0)
    for k, band in (
        (0, 0),
        (2, 0),
        (3, 1),
        (4, 1),
        (5, 2),
        (8, 2),
        (9, 3),
        (16, 3),
    ):  # waves in 32 pixels
        wave = torch.cos(2 * math.pi * k * y / 32).expand(1, 1, 32, 32)
        assert float(sets.band_energy(wave)[0, band]) == pytest.approx(
            float(wave.square().sum()), rel=1e-6
        )


def test_what_moved_is_told_in_parts_of_pictures_that_have_nothing_to_do_with_each_other(judge):
    def other(model, x, *_, **__):
        return torch.randn(
            x.shape, generator=torch.Generator().manual_seed(int(x.flatten()[0].abs() * 1e5))
        )

    def first(model, x, *_, **__):
        return x / x.std((1, 2, 3), keepdim=True)

    samplers = {
        "isdo": sets.replace(BASELINES["euler"], run=first), "same": sets.replace(BASELINES["euler"], run=first),
        "mirror": sets.replace(BASELINES["euler"], run=lambda *a, **k: -first(*a)),
        "other": sets.replace(BASELINES["euler"], run=other),
    }  # fmt: skip
    rows = {
        row["sampler"]: row
        for row in sets.run(Known(), (2,), 40, samplers, judge=judge, converged=0)
    }
    assert (
        rows["isdo"]["moved"] == rows["same"]["moved"] == [0.0] * 4
        and rows["same"]["moved_features"] == 0
    )
    assert rows["mirror"]["moved"] == pytest.approx([2**0.5] * 4, rel=1e-3)
    assert (
        rows["other"]["moved"] == pytest.approx([1.0] * 4, abs=0.05)
        and rows["other"]["moved_features"] > 0
    )


def test_the_share_of_right_pictures_is_that_of_all_batches():
    class Reader(Means):
        def accuracy(self, pictures, labels):
            return ((pictures.mean((1, 2, 3)) > 0) == (labels == 1)).double().mean()

    odd = sets.replace(BASELINES["euler"], run=lambda model, x, *_, **__: torch.ones_like(x))
    row = sets.run(
        Known(), (2,), 7, {"isdo": odd}, judge=Judge("reader", Reader()), converged=0, batch=3
    )[0]
    labels = sets.growing_labels(torch.tensor([0.5, 0.5]), 7)
    assert row["accuracy"] == pytest.approx(float((labels == 1).double().mean()), rel=1e-12)


def test_odds_are_counted_from_the_labels_of_the_real_pictures():
    found = Judge("means", Means(labels=torch.tensor([0, 2, 2, 0, 2, 2] * 4)))
    assert found.odds.tolist() == pytest.approx([1 / 3, 0, 2 / 3])
    for wrong in (torch.zeros(5).long(), torch.zeros(24), torch.full((24,), -1)):
        with pytest.raises(ValueError, match="the class of each real picture"):
            Judge("means", Means(labels=wrong))


def test_growing_labels_have_the_shares_at_any_size_and_never_change():
    odds = torch.tensor([0.5, 0.2, 0.0, 0.3])
    long = sets.growing_labels(odds, 2000, seed=5)
    for count in (1, 10, 64, 333, 2000):
        labels = sets.growing_labels(odds, count, seed=5)
        assert torch.equal(labels, long[:count])
        assert (torch.bincount(labels, minlength=4) - count * odds).abs().max() < 1 + math.log2(
            count
        )
    assert not torch.equal(long, sets.growing_labels(odds, 2000, seed=6))
    assert all(len(part.unique()) == 3 for part in long.split(16))  # mixed, not in blocks


def test_a_shorter_dtype_is_said_and_what_comes_out_is_that_of_x():
    class Net(torch.nn.Module):
        path, sigma_min, sigma_max, shape = "ve", 0.03, 14.6, (3, 32, 32)

        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.seen = torch.nn.Conv2d(3, 3, 1), []

        def forward(self, x, sigma, labels=None, guidance=1.0):
            out = self.conv(x)
            self.seen.append(out.dtype)
            return out

    net = Net().requires_grad_(False)
    given = sets.shortened(Given("net", Own("net", net), own=True), "bfloat16")
    assert (
        given.title == "net (bfloat16)"
        and given.model.path is VE
        and not given.model.takes("nothing")
    )
    x = torch.randn(2, 3, 32, 32)
    found = given.model(x, x.new_ones(2))
    assert net.seen == [torch.bfloat16] and found.dtype == torch.float32
    torch.testing.assert_close(found, net(x, None), rtol=0.02, atol=0.02)
    row = sets.run(
        Net().requires_grad_(False),
        (2,),
        3,
        SOME,
        judge=JUDGE,
        converged=0,
        autocast="bfloat16",
        guidance=1.0,
    )
    assert all("(bfloat16)" in each["model"] for each in row)


def test_all_presets_without_a_tolerance_are_measured(monkeypatch):
    monkeypatch.setattr(
        sets, "PRESETS", {"Fast": {}, "Other": {"order": 2}, "Exact": {"tolerance": 0.1}}
    )
    found = sets.presets()
    assert {name: baseline.label for name, baseline in found.items()} == {
        "isdo": "ISDO",
        "isdo_other": "ISDO Other",
    }
    assert list(sets.everyday())[:2] == ["isdo", "isdo_other"] and "isdo_other" in sets.every()
    assert found["isdo_other"].run.keywords["settings"].order == 2


def test_pictures_that_are_no_numbers_are_far_from_the_data(judge):
    broken = {
        "broken": sets.replace(BASELINES["euler"], run=lambda model, x, *_, **__: x * math.nan)
    }
    row = sets.run(Known(), (2,), 6, broken, judge=judge, converged=0)[0]
    assert math.isfinite(row["frechet"]) and row["frechet"] > 0


def test_samplers_that_draw_noise_of_their_own_draw_the_same_again(judge):
    torch.manual_seed(0)
    rows = sets.run(Known(), (5,), 8, STOCHASTIC, judge=judge, converged=0)
    torch.manual_seed(1)
    again = sets.run(
        Known(), (5,), 8, STOCHASTIC, judge=judge, converged=0, reuse=rows, save=never, batch=3
    )
    assert again == rows and [row["sampler"] for row in rows] == list(STOCHASTIC)


def test_a_sampler_that_calls_too_often_is_refused(judge):
    greedy = {"greedy": sets.replace(BASELINES["heun"], steps=lambda calls: calls)}
    with pytest.raises(RuntimeError, match="made 3 model calls where 2 were allowed"):
        sets.run(Known(), (2,), 4, greedy, judge=judge)


def row_of(sampler, calls, kid, draws, **more):
    """A row of a set whose resamples are ``draws`` off the measure."""
    names = dict(
        zip(sets.SET, ("net", 2.0, "karras", 100, 0, sets.name_of(JUDGE.real.mean)), strict=True)
    )
    return {
        "bench": "sets", **names, "sampler": sampler, "label": sampler.upper(), "calls": calls, "made": calls, "broken": 0,
        "frechet": 2 * kid, "frechet_draws": [2 * (kid + d) for d in draws],
        "kid": kid, "kid_draws": [kid + d for d in draws],
        "precision": 0.75, "recall": 0.5, "accuracy": 0.9, "energy": [4.0, 3.0, 2.0, 1.0], "real_energy": [4.0, 3.0, 2.0, 2.0],
        "moved": [0.1, 0.2, 0.3, 0.4], "moved_features": 0.25, "ideal": {"precision": 0.8, "recall": 0.7}, **more,
    }  # fmt: skip


ROWS = [
    row_of("isdo", 8, 4.0, [-0.1, 0.0, 0.1]), row_of("deis", 8, 5.0, [-0.1, 0.0, 0.1]),
    row_of("isdo_odd", 8, 3.0, [-0.2, 0.0, 0.2]), row_of("isdo", 9, 0.1, [-1.0, 0.0, 1.0]),
    row_of("restart", 9, 0.3, [1.0, 0.0, -1.0], made=7, broken=3),
]  # fmt: skip


def cells(text, first):
    """Return the cells of each line of the tables that begins with ``first``."""
    lines = (line.strip("| ").split(" | ") for line in text.splitlines())
    return [rest for head, *rest in lines if head == first]


def test_the_page_compares_with_the_best_everyday_sampler_by_resamples_of_both(monkeypatch):
    monkeypatch.setattr(sets, "PRESETS", {"Fast": {}, "Odd": {"order": 2}})
    text = sets_page.table(ROWS, JUDGE)
    heads = [line for line in text.splitlines() if line.startswith("#")]
    assert heads == [
        "## net, guidance 2, karras schedule, 100 pictures", "### KID x 1000", "### Fréchet (accuracy)",
        "### KID x 1000 over that of the best everyday sampler", "### All measures, 8 calls", "### All measures, 9 calls",
    ]  # fmt: skip
    measures = [
        "8.000",
        "4.00",
        "0.75",
        "0.50",
        "0.90",
        "0.50",
        "0.25",
        "0.10",
        "0.20",
        "0.30",
        "0.40",
    ]
    assert cells(text, "ISDO")[:4] == [
        ["4.00 ± 0.20", "0.10 ± 2.00"], ["8.000 (0.90)", "0.200 (0.90)"], ["best", "best"], measures,
    ]  # fmt: skip
    # twice the deviation of the differences: 0 where both move alike, else of -0.1, 0, 0.1 and of
    # 2, 0, -2
    assert cells(text, "DEIS")[2][0] == "1.25 (+1.00 ± 0.00)"
    assert (
        cells(text, "ISDO_ODD")[2][0] == "0.75 (-1.00 ± 0.20)"
    )  # the preset is held against the others, not they against it
    assert (
        cells(text, "RESTART")[2][-1] == "- (+0.20 ± 4.00)"
    )  # the best one's own may be 0: no quotient
    assert (
        "- RESTART, 9 calls: its steps make 7 of them" in text
        and "3 pictures are not finite" in text
    )
    assert "precision 0.80, recall 0.70" in text and "an accuracy of 0.90 are 0.060" in text


def test_detail_is_held_against_real_pictures_else_against_many_calls():
    row = ROWS[0]
    assert sets_page.detail(row) == 0.5 and sets_page.detail(row | {"real_energy": None}) is None
    assert sets_page.detail(row | {"real_energy": None}, {"energy": [1.0, 1.0, 1.0, 0.8]}) == 1.25
    page = sets_page.page(ROWS, JUDGE, "--model net", "sets")
    assert (
        "over that of real pictures" in page
        and "Restart turns" in page
        and "fine above 1/4" in page
    )
    assert (
        "isdo bench --suite sets --model net --json out/sets.json --doc docs/sets.md --plot docs/sets.png"
        in page
    )
    other = sets_page.page([row | {"real_energy": None}], JUDGE)
    assert (
        "Heun's pictures" in other
        and "Restart turns" not in other
        and "--suite frechet --model eps --json" in other
    )


def test_sets_of_different_sizes_stand_in_tables_of_their_own(tmp_path):
    rows = [*ROWS, ROWS[0] | {"images": 50}]
    titles = [line for line in sets_page.table(rows, JUDGE).splitlines() if line.startswith("## ")]
    assert [title.split(", ")[-1] for title in titles] == ["50 pictures", "100 pictures"]
    sets_page.plot(rows, tmp_path / "sets.png")
    assert (tmp_path / "sets.png").stat().st_size > 10_000


def test_the_command_draws_keeps_plots_and_says_how_to_do_it_again(
    tmp_path, monkeypatch, capsys, caplog
):
    monkeypatch.setattr(sets.classifier, "load", lambda: JUDGE)
    monkeypatch.setattr(sets, "CONVERGED", 4)
    monkeypatch.setattr(
        sets, "of_zoo", lambda name, device, guidance: Given(name, Known(), guidance=guidance)
    )
    monkeypatch.chdir(tmp_path)
    command = [
        "bench",
        "--suite",
        "sets",
        "--device",
        "cpu",
        "--limit",
        "6",
        "--batch",
        "4",
        "--calls",
        "3",
    ]
    files = ["--json", "rows.json", "--doc", "page.md", "--plot", "sets.png"]
    assert cli.main([*command, *files, "--samplers", "euler_a", "dpmpp_2m_sde"]) == 0
    rows = read_json("rows.json")
    assert [(row["bench"], row["sampler"]) for row in rows] == [
        ("sets", n) for n in ("isdo", "euler_a", "dpmpp_2m_sde")
    ]
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert (
        "--suite sets --model eps --calls 3 --samplers euler_a dpmpp_2m_sde --limit 6 --json"
        in page
    )
    assert (tmp_path / "sets.png").exists() and len(
        list((tmp_path / "rows.batches").rglob("*.safetensors"))
    ) == 6
    asked = []
    monkeypatch.setattr(
        sets, "draw_batch", lambda task, judge, job, *_: asked.append(job.sampler) or stop()
    )
    assert cli.main([*command, *files, "--samplers", "euler_a"]) == 0 and not asked  # that is known
    assert cli.main([*command, *files, "--samplers", "ddpm", "converged"]) == 130 and asked == [
        "ddpm"
    ]
    assert "what is drawn is kept in rows.batches" in caplog.text
    assert cli.main([*command, "--samplers", "nobody"]) == 2
    assert "there is no such sampler: choose of isdo, " in capsys.readouterr().err


def stop():
    raise KeyboardInterrupt


def test_the_table_names_every_sampler_and_the_floors(judge):
    rows = sets.run(Known(), (2, 3), 6, SOME, judge=judge, converged=4)
    text = sets_page.table(rows, judge)
    head = next(line for line in text.splitlines() if line.startswith("| model calls"))
    assert head == "| model calls | 2 | 3 |"
    assert (
        "| ISDO |" in text and "| iPNDM-3 |" in text and "Heun, 4 calls" in text and "0.100" in text
    )
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## Known, guidance 1, karras schedule, 6 pictures"
    ]
    assert text in sets_page.page(
        rows, judge
    ) and "python -m isdo bench --suite frechet" in sets_page.page(rows, judge)


def test_the_command_goes_on_from_its_file_and_keeps_other_tasks(
    judge, monkeypatch, tmp_path, capsys
):
    run, asked = sets.run, []

    def small(model, **options):
        asked.append(len(options["reuse"]))
        return run(
            Known(), **options | {"calls": (2,), "samplers": SOME, "converged": 0, "judge": judge}
        )

    monkeypatch.setattr(sets, "run", small)
    monkeypatch.setattr(sets.classifier, "load", lambda: judge)
    rows, doc = tmp_path / "rows.json", tmp_path / "page.md"
    command = [
        "bench",
        "--suite",
        "frechet",
        "--device",
        "cpu",
        "--json",
        str(rows),
        "--doc",
        str(doc),
        "--limit",
    ]
    for count in ("4", "4", "6"):
        assert cli.main([*command, count]) == 0
    assert asked == [0, 2, 2] and len(read_json(rows)) == 4
    assert [f"{count} pictures" in doc.read_text(encoding="utf-8") for count in (4, 6)] == [
        True,
        True,
    ]
    assert doc.read_text(encoding="utf-8") in capsys.readouterr().out


def test_the_embedded_judge_and_model_fit_together():
    judge = classifier.load()
    assert len(judge.odds) == len(CLASSES) and float(judge.odds.sum()) == pytest.approx(1)
    assert judge.about["accuracy"] > 0.5 and classifier.FILE.stat().st_size < 2**19
    rows = sets.run("eps", (4,), 4, {"isdo": sets.SAMPLERS["isdo"]}, guidance=2.0, converged=0)
    assert rows[0]["made"] == 4 and rows[0]["frechet"] > 0
