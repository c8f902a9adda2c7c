"""The judge of one's own pictures: a file of the training, by which sets of them are measured."""

import re
import shlex
from pathlib import Path

import gratings
import pytest
import torch
from commandline import run
from safetensors.torch import load_file, save_file

from isdo import models, zoo
from isdo.bench import classifier, judge, refined, sets
from isdo.bench.moments import frechet, moments
from isdo.bench.report import read_json
from isdo.zoo import folder
from isdo.zoo.net import Architecture
from isdo.zoo.train import make_net as net_of
from isdo.zoo.train import own_config, write_model

FEW = classifier.Config(steps=60, batch=16, warmup=10)


@pytest.fixture(scope="module")
def waves(tmp_path_factory):
    """Pictures of two classes, 16 x 16."""
    return folder.read(gratings.write(tmp_path_factory.mktemp("own") / "waves", 24), 16)


@pytest.fixture(scope="module")
def file(waves, tmp_path_factory):
    """The judge that is trained on them."""
    out = tmp_path_factory.mktemp("judge") / "classifier.safetensors"
    assert classifier.train_on(waves, FEW, out) == 1.0  # of held-out pictures
    return out


def written(out, classes, size=16):
    """Write a model of random weights as the training does; returns its name."""
    net = net_of("eps", Architecture(size, 32, classes, 0.5))
    for weight in net.parameters():
        weight.data.add_(0.02 * torch.randn_like(weight))
    write_model(out, net, own_config("eps", size=size, width=32, sigma_data=0.5), [0.5])
    return str(out)


def test_the_file_knows_its_pictures_one_by_one_and_as_a_whole(waves, file):
    found = judge.load(str(file))
    shown = waves.pictures[:, 0].float() / 127.5 - 1
    features = torch.cat([found.features(part) for part in shown.split(7)])
    torch.testing.assert_close(found.examples, features, rtol=1e-3, atol=1e-4)
    again = moments(found.examples)
    torch.testing.assert_close(found.real.mean, again.mean)
    torch.testing.assert_close(found.real.covariance, again.covariance)
    halves = (moments(part) for part in (found.examples[:24], found.examples[24:]))
    assert found.floor == pytest.approx(frechet(*halves), abs=1e-3)
    assert found.odds.tolist() == pytest.approx([0.5, 0.5]) and found.classes == ("across", "down")
    assert found.accuracy(shown, waves.labels) > 0.9 > 0.1 > found.accuracy(shown, 1 - waves.labels)
    assert found.pictures is None and found.judge.about["licence"] == waves.licence
    assert (found.name, found.judge.size) == (str(file), 16)


def test_without_classes_it_learns_how_far_a_picture_is_turned(tmp_path):
    """Brighter above: each turn has its own side."""
    (tmp_path / "sky").mkdir()
    for i in range(16):
        image = gratings.Image.new("RGB", (24, 24), (10 * i, 60, 60))
        image.paste((255, 255 - 9 * i, 200), (0, 0, 24, 8 + i % 5))
        image.save(tmp_path / "sky" / f"{i}.png")
    found, out = folder.read(tmp_path / "sky", 16), tmp_path / "classifier.safetensors"
    assert classifier.train_on(found, FEW, out) == 1.0
    blind = judge.load(str(out))
    assert blind.odds is blind.accuracy is None and blind.classes == ()
    assert blind.examples.shape == (16, classifier.FEATURES)
    assert blind.judge.about["accuracy_per_class"] == [1.0] * classifier.TURNS
    shown = found.pictures[:3, 0].float()
    for quarters in range(classifier.TURNS):
        turned = classifier.turned(shown, torch.full((3,), quarters))
        assert torch.equal(turned, shown.rot90(quarters, (2, 3)))
    mixed = classifier.turned(shown, torch.tensor([2, 0, 1]))
    assert torch.equal(mixed[0], shown[0].flip((1, 2))) and torch.equal(mixed[1], shown[1])


def test_what_comes_in_at_the_sides_of_a_photograph_is_its_mirror_picture():
    x = torch.arange(8.0).expand(64, 3, 8, 8)
    moved = classifier.augment(x, torch.Generator().manual_seed(0), flip=False, sides="reflect")
    rows = {tuple(row.tolist()) for row in moved[:, 0, 0]}
    assert rows == {
        (2, 1, 0, 1, 2, 3, 4, 5), (1, 0, 1, 2, 3, 4, 5, 6), tuple(range(8)), (1, 2, 3, 4, 5, 6, 7, 6),
        (2, 3, 4, 5, 6, 7, 6, 5),
    }  # fmt: skip


@pytest.mark.parametrize("size, blocks", [(16, 3), (32, 3), (64, 4), (128, 5)])
def test_larger_pictures_have_more_blocks_down_to_the_same_few_pixels(size, blocks):
    net = classifier.Classifier(5, size)
    seen = []
    net.blocks[-1].register_forward_hook(lambda module, x, y: seen.append(y.shape[-1]))
    assert net(torch.zeros(1, 3, size, size)).shape == (1, 5) and len(net.blocks) == blocks
    assert seen == [min(4, size // 8)]


def test_a_set_is_measured_by_it_in_every_way(waves, file, tmp_path):
    name, found = written(tmp_path / "mine.safetensors", ("across", "down")), judge.load(str(file))
    labels = sets.labels_for(models.load(name), found, 12)
    assert torch.bincount(labels).tolist() == [6, 6]
    some = {"isdo": sets.SAMPLERS["isdo"]}
    (row,) = sets.run(name, (3,), 12, some, judge=found, converged=0)
    told = ("frechet", "kid", "precision", "recall", "accuracy")
    assert all(isinstance(row[key], float) for key in told) and row["model"] == name
    assert row["ideal"]["precision"] > 0.5


@pytest.mark.parametrize("kind", ["another judge", "the embedded judge", "a judge for the zoo"])
def test_a_judge_of_other_classes_does_not_judge(file, tmp_path, kind):
    name, found = written(tmp_path / "mine.safetensors", ("cats", "dogs")), judge.load(str(file))
    if kind == "the embedded judge":
        name, found = written(tmp_path / "large.safetensors", ("cats", "dogs"), 32), None
    if kind == "a judge for the zoo":
        name = "eps"
    found = found or classifier.load()
    with pytest.raises(
        ValueError, match="knows the classes .* and the judge .* on the same folder"
    ):
        sets.labels_for(models.load(name), found, 4)


def test_a_model_without_classes_is_not_asked_for_them(tmp_path):
    name = written(tmp_path / "mine.safetensors", ())
    assert sets.labels_for(models.load(name), judge.Judge("none", Blank()), 4) is None


class Blank:
    """A judge that says nothing of classes but their odds."""

    real, odds = torch.eye(5), torch.tensor([0.5, 0.5])

    def features(self, pictures):
        return pictures.flatten(1)[:, :5]


def test_refinement_is_measured_by_it(file, tmp_path):
    name, found = written(tmp_path / "mine.safetensors", ("across", "down")), judge.load(str(file))
    rows = refined.run(models.load(name), 4, calls=(8,), levels=(1.0,), judge=found)
    assert all(row["frechet"] > 0 and 0 <= row["accuracy"] <= 1 for row in rows)
    assert {row["kid"] is None for row in rows} == {False}


@pytest.mark.parametrize("change, says", [
    (None, "holds no classifier"), ({"real.mean": None}, "holds no classifier"),
    ({"outlet.weight": torch.zeros(3, 64)}, "holds no classifier"),
])  # fmt: skip
def test_other_files_are_refused_in_words(file, tmp_path, change, says):
    broken = tmp_path / "broken.safetensors"
    if change is None:
        broken.write_bytes(b"no judge at all")
    else:
        with zoo.safe_open(file, "pt") as opened:
            said = opened.metadata()
        tensors = load_file(file) | change
        save_file({k: v for k, v in tensors.items() if v is not None}, broken, said)
    with pytest.raises(ValueError, match=says):
        judge.load(str(broken))
    with pytest.raises(ValueError, match=r"is no file here: give module:callable, or a file"):
        judge.load("nothing.safetensors")


def test_pictures_of_another_size_are_refused(file):
    with pytest.raises(RuntimeError, match=r"knows pictures \(3, 16, 16\), not \(3, 32, 32\)"):
        judge.check(judge.load(str(file)), (3, 32, 32), "cpu")


COMMANDS = re.compile(r"^python -m isdo (.+)$", re.MULTILINE)


def test_the_commands_of_the_documentation_lead_from_a_folder_to_a_table(
    capsys, tmp_path, monkeypatch
):
    page = (Path(zoo.FOLDER).parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
    own = page.split("## Your own pictures")[1].split("\n## ")[0]
    commands = COMMANDS.findall(own.split("```sh")[1].split("```")[0])
    assert [command.split()[0] for command in commands] == ["train", "train", "sample", "bench"]
    monkeypatch.chdir(tmp_path)
    gratings.write(tmp_path / "photos", 12)
    smaller = {
        "train": "--size 16 --steps 20 --batch 8 --device cpu",
        "sample": "--steps 4 --count 2 --device cpu",
        "bench": "--limit 10 --calls 4 --samplers dpmpp_2m --json rows.json --device cpu",
    }
    for command in commands:
        words = shlex.split(command)
        more = smaller[words[0]] + (
            " --width 32 --processes 1" if words[0] == "train" and "classifier" not in words else ""
        )
        status, printed, error = run(capsys, *words, *more.split())
        assert status == 0, (command, error)
    rows = read_json("rows.json")
    assert all(row[key] is not None for row in rows for key in ("frechet", "kid", "precision"))
    assert "| precision | recall | accuracy |" in printed
