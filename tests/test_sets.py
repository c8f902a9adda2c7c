"""The Fréchet distance against closed forms, and the bench of sets on a model whose pictures are known."""

import math

import pytest
import torch

from isdo import __main__ as cli
from isdo import zoo
from isdo.bench import classifier, frechet
from isdo.bench.moments import Moments, moments, sampling_bias
from isdo.bench.moments import frechet as distance
from isdo.bench.peers import PEERS, STOCHASTIC
from isdo.bench.report import read_json
from isdo.path import VE
from isdo.zoo.data import Emoji
from isdo.zoo.net import CLASSES, scaled_linear

needs_weights = pytest.mark.skipif(not classifier.FILE.exists(), reason="the classifier is not trained yet")


def gaussian(size=5, seed=0):
    """Random Moments of full rank."""
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return Moments(torch.randn(size, generator=generator, dtype=torch.float64), factor @ factor.T + torch.eye(size))


def test_the_distance_of_commuting_gaussians_is_that_of_their_deviations():
    vectors = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    one, other = torch.tensor([1.0, 4.0, 0.0, 9.0]).double(), torch.tensor([4.0, 0.25, 2.0, 9.0]).double()
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
    turn = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(7)))[0]
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
    weighted, repeated = moments(features, torch.tensor([1, 2, 1, 3])), moments(features[[0, 1, 1, 2, 3, 3, 3]])
    torch.testing.assert_close(weighted.mean, repeated.mean)
    torch.testing.assert_close(weighted.covariance * (1 - 15 / 49), repeated.covariance * (1 - 1 / 7))
    plain = moments(features)
    torch.testing.assert_close(plain.covariance, features.T.cov())


@pytest.mark.parametrize("make, says", [
    (lambda: moments(torch.zeros(1, 3)), "at least two"),
    (lambda: Moments(torch.zeros(2), torch.zeros(3, 3)), r"\(D,\) and \(D, D\)"),
    (lambda: moments(torch.full((3, 2), math.nan)), "not finite"),
    (lambda: classifier.load("nowhere.safetensors"), "train --model classifier"),
    (lambda: frechet.run(count=1), "at least 2"),
])  # fmt: skip
def test_what_makes_no_sense_is_said(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_labels_have_the_shares_of_the_data():
    odds = torch.tensor([0.5, 0.25, 0.0, 0.25])
    labels = frechet.make_labels(odds, 40, seed=3)
    assert torch.bincount(labels, minlength=4).tolist() == [20, 10, 0, 10]
    assert not torch.equal(labels, labels.sort().values)
    assert torch.equal(labels, frechet.make_labels(odds, 40, seed=3))


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
    pictures = torch.where(labels[:, None, None, None, None] == 0, 40, 220).expand(count, 2, 3, 32, 32)
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

    path, sigma_min, sigma_max, sigmas = VE, 0.03, 14.6, ((1 - scaled_linear()) / scaled_linear()).sqrt()

    def __call__(self, x, sigma, labels, guidance):
        return torch.where(labels == 0, 40 / 127.5 - 1, 220 / 127.5 - 1)[:, None, None, None].expand_as(x)


@pytest.fixture(scope="module")
def judge():
    """A judge of random weights whose real pictures are those that Known draws."""
    torch.manual_seed(0)
    net = classifier.Classifier().eval().requires_grad_(False)
    real = classifier.features_of(net, emoji())
    odds = torch.zeros(len(CLASSES)).index_fill(0, torch.tensor([0, 1]), 0.5)
    return classifier.Judge(net, real, odds, {"floor": 0.1, "accuracy": 0.7})


SOME = {name: frechet.SAMPLERS[name] for name in ("isdo", "ipndm_3")}


def test_samplers_that_draw_the_data_have_no_distance(judge):
    rows = frechet.run(Known(), (3, 4), 24, SOME, judge=judge, converged=0, batch=7)
    assert [(row["sampler"], row["calls"]) for row in rows] == [(s, n) for n in (3, 4) for s in SOME]
    scale = float(judge.real.covariance.trace())
    assert all(row["frechet"] < 0.01 * scale and row["made"] == row["calls"] for row in rows)


def test_a_run_goes_on_where_it_stopped_and_notices_a_change(judge):
    saved = []
    run = dict(model=Known(), calls=(2,), count=6, samplers=SOME, judge=judge, converged=4)
    rows = frechet.run(**run, save=lambda rows: saved.append(len(rows)))
    assert saved == [1, 2, 3] and rows[-1]["sampler"] == "converged" and rows[-1]["made"] <= 4
    stored = [row | {"frechet": 7.0} for row in rows]
    assert [row["frechet"] for row in frechet.run(**run, reuse=stored)] == [7.0] * 3
    changed = SOME | {"isdo": PEERS["euler"]}
    changed["isdo"] = frechet.replace(changed["isdo"], run=lambda model, x, *_, **__: 0 * x)
    found = {row["sampler"]: row["frechet"] for row in frechet.run(**run | {"samplers": changed}, reuse=stored)}
    assert found["isdo"] != 7.0 and found["ipndm_3"] == 7.0
    other = [row | {"model": "other"} for row in rows]
    assert frechet.merged(other, rows) == other + rows and frechet.merged(rows, rows) == rows


def test_pictures_that_are_no_numbers_are_far_from_the_data(judge):
    broken = {"broken": frechet.replace(PEERS["euler"], run=lambda model, x, *_, **__: x * math.nan)}
    row = frechet.run(Known(), (2,), 6, broken, judge=judge, converged=0)[0]
    assert math.isfinite(row["frechet"]) and row["frechet"] > 0


def test_samplers_that_draw_noise_of_their_own_draw_the_same_again(judge):
    def deaf(*arguments, **keywords):
        raise AssertionError("this was known")

    torch.manual_seed(0)
    rows = frechet.run(Known(), (5,), 8, STOCHASTIC, judge=judge, converged=0)
    torch.manual_seed(1)
    again = frechet.run(Known(), (5,), 8, STOCHASTIC, judge=judge, converged=0, reuse=rows, save=deaf, batch=3)
    assert again == rows and [row["sampler"] for row in rows] == list(STOCHASTIC)


def test_a_sampler_that_calls_too_often_is_refused(judge):
    greedy = {"greedy": frechet.replace(PEERS["heun"], steps=lambda calls: calls)}
    with pytest.raises(RuntimeError, match="made 3 model calls where 2 were allowed"):
        frechet.run(Known(), (2,), 4, greedy, judge=judge)


def test_the_table_names_every_sampler_and_the_floors(judge):
    rows = frechet.run(Known(), (2, 3), 6, SOME, judge=judge, converged=4)
    text = frechet.table(rows, judge)
    head = next(line for line in text.splitlines() if line.startswith("| model calls"))
    assert head == "| model calls | 2 | 3 |"
    assert "| ISDO |" in text and "| iPNDM-3 |" in text and "Heun, 4 calls" in text and "0.100" in text
    assert text.count("## ") == 1
    assert text in frechet.page(rows, judge) and "python -m isdo bench --suite frechet" in frechet.page(rows, judge)


def test_the_command_goes_on_from_its_file_and_keeps_other_tasks(judge, monkeypatch, tmp_path, capsys):
    run, asked = frechet.run, []

    def small(model, **options):
        asked.append(len(options["reuse"]))
        return run(Known(), (2,), samplers=SOME, converged=0, judge=judge, **options)

    monkeypatch.setattr(frechet, "run", small)
    monkeypatch.setattr(frechet.classifier, "load", lambda: judge)
    rows, doc = tmp_path / "rows.json", tmp_path / "page.md"
    command = ["bench", "--suite", "frechet", "--device", "cpu", "--json", str(rows), "--doc", str(doc), "--limit"]
    for count in ("4", "4", "6"):
        assert cli.main([*command, count]) == 0
    assert asked == [0, 2, 2] and len(read_json(rows)) == 4
    assert [f"{count} pictures" in doc.read_text(encoding="utf-8") for count in (4, 6)] == [True, True]
    assert doc.read_text(encoding="utf-8") in capsys.readouterr().out


@needs_weights
@pytest.mark.skipif(not (zoo.FOLDER / "eps.safetensors").exists(), reason="eps is not trained yet")
def test_the_embedded_judge_and_model_fit_together():
    judge = classifier.load()
    assert len(judge.odds) == len(CLASSES) and float(judge.odds.sum()) == pytest.approx(1)
    assert judge.about["accuracy"] > 0.5 and classifier.FILE.stat().st_size < 2**19
    rows = frechet.run("eps", (4,), 4, {"isdo": frechet.SAMPLERS["isdo"]}, guidance=2.0, converged=0)
    assert rows[0]["made"] == 4 and rows[0]["frechet"] > 0
