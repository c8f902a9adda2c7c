"""Training on a folder of one's own pictures: whole batches in passes, resumed to the bit, and a
file that says what its net is."""

import json
from dataclasses import replace
from types import SimpleNamespace

import gratings
import pytest
import torch
from commandline import run
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import isdo
from isdo import models, zoo
from isdo.zoo import folder, train
from isdo.zoo.net import NULL, Architecture, Net, scaled_linear
from isdo.zoo.train import Passes, Trainer, own_config, train_own

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """20 pictures of two classes, 8 x 8."""
    return folder.read(gratings.write(tmp_path_factory.mktemp("own") / "waves", 10), 8)


@pytest.fixture(scope="module")
def unnamed(tmp_path_factory):
    """10 pictures without classes."""
    data = gratings.write(tmp_path_factory.mktemp("one") / "waves", 10, ["all"])
    return folder.read(data, 8)


def config_of(pictures, model="eps", **given):
    """A few steps of a narrow net; 19 pictures make four whole batches a pass."""
    given = {"steps": 6, "size": 8, "width": 32, "batch": 4} | given
    return replace(own_config(model, pictures, **given), warmup=2)


class Bar:
    """A progress bar that counts."""

    count = 0

    def update(self):
        self.count += 1


def everything(trainer):
    """All numbers of a training: weights, averages, the optimizer's."""
    states = [trainer.net, trainer.average]
    found = [v.flatten() for part in states for v in part.state_dict().values()]
    for state in trainer.optimizer.state_dict()["state"].values():
        found += [state[key].flatten() for key in ("exp_avg", "exp_avg_sq")]
    return torch.cat(found)


@pytest.mark.parametrize("model", zoo.NAMES)
def test_a_run_that_was_stopped_goes_on_to_the_bit(pictures, tmp_path, model):
    """Across the end of a pass, and with v's choice of a schedule at each step."""
    config = config_of(pictures, model)
    whole = Trainer(config, pictures, tmp_path / "whole.pt")
    whole.run(tmp_path / "whole.safetensors", Bar())
    stopped = tmp_path / "stopped.pt", tmp_path / "stopped.safetensors"
    for step in (1, 2, 3):
        part = Trainer(config, pictures, stopped[0])
        part.run(stopped[1], Bar(), seconds=0)
        assert part.step == step
    last = Trainer(config, pictures, stopped[0])
    last.run(stopped[1], Bar())
    assert last.step == whole.step == config.steps
    assert torch.equal(everything(last), everything(whole))
    one, other = (load_file(tmp_path / f"{name}.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(one[key], other[key]) for key in one | other)


def test_a_batch_does_not_ask_which_device_is_the_default(pictures, tmp_path):
    def batch():
        return Trainer(config_of(pictures), pictures, tmp_path / "a.pt").batch()

    want = batch()
    with torch.device("meta"):
        got = batch()
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_a_pass_shows_whole_batches_of_other_pictures_each_in_an_order_of_its_own(pictures):
    source = Passes(pictures, config_of(pictures), 0, 1, CPU)
    passes = [torch.cat([source.rows(4 * turn + i) for i in range(4)]) for turn in range(3)]
    assert all(len(rows) == len(rows.unique()) == 16 for rows in passes)  # of 19: three are dropped
    assert len({tuple(rows.tolist()) for rows in passes}) == 3
    assert torch.equal(source.rows(5), passes[1][4:8])  # whatever was asked before
    left = {tuple(sorted(set(range(19)) - set(rows.tolist()))) for rows in passes}
    assert len(left) > 1
    other = Passes(pictures, config_of(pictures, seed=1), 0, 1, CPU)
    assert not torch.equal(other.rows(0), source.rows(0))


def test_processes_share_a_batch_and_a_folder_of_less_than_one_is_a_batch(pictures, unnamed):
    whole = Passes(pictures, config_of(pictures), 0, 1, CPU)
    shares = [Passes(pictures, config_of(pictures), rank, 2, CPU) for rank in (0, 1)]
    for step in (0, 3, 6):
        rows = torch.cat([share.rows(step) for share in shares])
        assert torch.equal(rows, whole.rows(step))
    few = Passes(unnamed, config_of(unnamed, batch=64), 0, 1, CPU)
    assert sorted(few.rows(0).tolist()) == list(range(9))
    with pytest.raises(ValueError, match="fewer --processes"):
        Passes(unnamed, config_of(unnamed, batch=4), 0, 5, CPU)


def test_a_batch_is_pictures_of_the_folder_mirrored_or_not_and_their_labels(pictures):
    def shown(**given):
        config = config_of(pictures, batch=16, **given)
        source = Passes(pictures, replace(config, label_dropout=0.25), 0, 1, CPU)
        net = train.make_net("eps", config.architecture(pictures.classes))
        tables = [net.alphas_cumprod]
        return source, [source.batch(step, net, tables) for step in range(40)]

    source, batches = shown(flip=False)
    for step, (seen, t, noise, labels) in enumerate(batches):
        rows = source.rows(step)
        assert torch.equal(seen, source.train.pictures[rows, 0].float() / 127.5 - 1)
        dropped = labels != source.train.labels[rows]
        assert set(labels[dropped].tolist()) <= {2} and labels.dtype == torch.long
        assert t.shape == (16,) and 0 <= t.min() and t.max() <= 999 and noise.shape == seen.shape
    null = torch.cat([labels for *_, labels in batches]) == 2
    assert null.double().mean() == pytest.approx(0.25, abs=0.07)  # four standard deviations
    source, batches = shown(flip=True)
    mirrored = []
    for step, (seen, *_) in enumerate(batches):
        plain = source.train.pictures[source.rows(step), 0].float() / 127.5 - 1
        same, other = ((seen == v).flatten(1).all(1) for v in (plain, plain.flip(3)))
        assert (same | other).all()
        mirrored.append(other & ~same)
    share = torch.cat(mirrored).double().mean()
    assert 0.2 < share < 0.55  # waves down are their own mirror pictures, nearly never to the bit


def test_without_classes_every_label_is_that_of_none(unnamed, tmp_path):
    trainer = Trainer(config_of(unnamed), unnamed, tmp_path / "a.pt")
    assert trainer.net.null == 0 and trainer.batch()[3].tolist() == [0] * 4
    trainer.run(tmp_path / "a.safetensors", Bar())
    model = zoo.load(tmp_path / "a.safetensors")
    assert model.classes == () and model.null_label == 0
    x = torch.randn(2, 3, 8, 8)
    assert model(x, 1.0).shape == x.shape
    with pytest.raises(ValueError, match="no class of .*: it knows none"):
        models.load(str(tmp_path / "a.safetensors"), labels=["across"])


def test_pictures_go_to_a_gpu_as_a_whole_if_they_take_half_of_what_is_free(monkeypatch):
    pixels, gpu = torch.empty(1000, dtype=torch.uint8), SimpleNamespace(type="cuda")
    assert train.fits(pixels, CPU)
    for free, fit in ((2000, True), (1999, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10**9))
        assert train.fits(pixels, gpu) is fit


def test_the_file_says_all_of_which_its_net_is_rebuilt(pictures, tmp_path):
    out = tmp_path / "mine.safetensors"
    trainer = Trainer(config_of(pictures, "v"), pictures, tmp_path / "mine.pt")
    trainer.run(out, Bar())
    model, about = zoo.load(out), zoo.info(out)
    assert (model.shape, model.classes, model.null_label) == ((3, 8, 8), ("across", "down"), 2)
    assert about["classes"] == ["across", "down"] and about["config"]["width"] == 32
    assert about["licence"] == "20 pictures of the folder waves" and len(about["losses"]) == 10
    built = zoo.architecture_of(out)
    assert built == Architecture(8, 32, ("across", "down"), pictures.rms())
    average = zoo.denoiser(trainer.average.eval())
    trainer.average.set_schedule(scaled_linear())
    x, labels = torch.randn(3, 3, 8, 8), torch.tensor([0, 1, 2])
    torch.testing.assert_close(model(x, 2.0, labels), average(x, 2.0, labels), rtol=1e-2, atol=1e-2)
    with pytest.raises(ValueError, match=r"0\.\.2"):
        model(x, 2.0, labels + 1)
    given = models.load(str(out), labels=["down"])
    assert given.shape == (3, 8, 8) and given.labels == (1,) and not given.own
    drawn = isdo.sample_isdo(model, 14.6 * x, isdo.schedules.karras(4, 0.03, 14.6), disable=True)
    assert drawn.shape == x.shape and drawn.isfinite().all()


def test_files_that_describe_no_net_are_refused_in_words(pictures, tmp_path):
    out = tmp_path / "mine.safetensors"
    Trainer(config_of(pictures, steps=1), pictures, tmp_path / "a.pt").run(out, Bar())
    with safe_open(out, "pt") as file:
        metadata = file.metadata()
    config = json.loads(metadata["config"])
    for change, says in (
        ({"config": json.dumps(config | {"width": 40})}, "width is 40: give a multiple of 32"),
        ({"config": json.dumps(config | {"size": "8"})}, "size is 8: give a multiple of 8"),
        ({"config": json.dumps(config | {"size": 2**20})}, "to 512"),
        ({"config": json.dumps(config | {"sigma_data": 0})}, "sigma_data is 0"),
        ({"config": "[1]"}, "describe no net"),
        ({"classes": "3"}, "describe no net"),
        ({"classes": json.dumps(["one"])}, "another architecture"),
        ({"config": json.dumps(config | {"width": 64})}, "another architecture"),
    ):
        save_file(load_file(out), tmp_path / "b.safetensors", metadata | change)
        with pytest.raises(ValueError, match=says):
            zoo.load(tmp_path / "b.safetensors")


def test_the_zoo_s_own_models_are_built_as_ever():
    net = Net("eps", scaled_linear())
    assert net.architecture == zoo.architecture_of("eps") == zoo.net.EMOJI and net.null == NULL
    assert net.architecture.channels == (64, 96, 128) and zoo.load("eps").shape == (3, 32, 32)


@pytest.mark.parametrize("size, width", [(8, 32), (24, 96), (40, 32)])
def test_any_size_of_eights_and_width_of_thirty_twos_is_a_net(size, width):
    net = Net("v", scaled_linear(), Architecture(size, width, ("a",)))
    x = torch.randn(2, 3, size, size)
    assert net(x, torch.tensor([3.0, 500.0]), torch.tensor([0, 1])).shape == x.shape


def test_state_of_another_training_is_refused_and_what_is_not_said_is_as_it_was(pictures, tmp_path):
    state, out = tmp_path / "a.pt", tmp_path / "a.safetensors"
    config = config_of(pictures, seed=3, flip=False)
    Trainer(config, pictures, state).run(out, Bar(), seconds=0)
    assert replace(own_config("eps", pictures, state), warmup=2) == config
    longer = own_config("eps", pictures, state, steps=9, half=True)
    assert longer.steps == 9 and longer.bfloat16 == 0
    assert Trainer(longer, pictures, state).step == 1
    for change in ({"width": 64}, {"flip": True}, {"batch": 8}, {"model": "v"}):
        (name,) = change
        with pytest.raises(ValueError, match=f"a training with {name} "):
            Trainer(replace(config, **change), pictures, state)
    with pytest.raises(ValueError, match="on other pictures"):
        Trainer(config, replace(pictures, key="of others"), state)
    state.write_bytes(b"nothing of that kind")
    with pytest.raises(ValueError, match="no state of a training"):
        own_config("eps", pictures, state)


def test_a_state_of_a_gpu_goes_on_without_one(pictures, tmp_path):
    state, config = tmp_path / "a.pt", config_of(pictures)
    Trainer(config, pictures, state).run(tmp_path / "a.safetensors", Bar(), seconds=0)
    of_gpu = torch.load(state, weights_only=True)
    for group in of_gpu["optimizer"]["param_groups"]:
        group["fused"] = True
    torch.save(of_gpu, state)
    assert not any(g["fused"] for g in Trainer(config, pictures, state).optimizer.param_groups)


def test_a_model_is_trained_on_and_one_of_another_kind_is_a_start(pictures, tmp_path):
    first = tmp_path / "first.safetensors"
    before = Trainer(config_of(pictures), pictures, tmp_path / "first.pt")
    before.run(first, Bar(), seconds=0)  # one step of six
    weights = load_file(first)

    def start(model, **given):
        config = own_config(model, pictures, after=first, **{"size": 8, "batch": 4} | given)
        after = None if config.start else first
        trainer = Trainer(config, pictures, tmp_path / "none.pt", after=after)
        begun = trainer.net.trunk.state_dict()
        assert all(torch.equal(begun[key], weights[key].float()) for key in weights)
        return trainer

    on = start("eps", steps=9)
    assert on.step == 1 and on.config.restarts == (1,) and on.config.width == 32
    assert start("flow", steps=9).step == 0
    with pytest.raises(ValueError, match="was trained for 1 steps: give --steps"):
        own_config("eps", pictures, after=first, steps=1)
    with pytest.raises(ValueError, match="another width or other classes"):
        Trainer(own_config("flow", pictures, after=first, width=64), pictures, tmp_path / "n.pt")


def test_model_and_state_are_written_every_so_many_minutes_and_the_pace_is_told(
    pictures, tmp_path, caplog
):
    trainer, bar = Trainer(config_of(pictures), pictures, tmp_path / "a.pt"), Bar()
    with caplog.at_level("INFO", logger="isdo.zoo.train"):
        rate = trainer.run(tmp_path / "a.safetensors", bar, every=10**9, minutes=0)
    assert [row[0] for row in trainer.history] == [1, 2, 3, 4, 5, 6] and bar.count == 6
    assert rate > 0 and caplog.text.count("images/s") == 6
    assert f"{rate:.0f} images/s" in caplog.messages[-1]
    other = Trainer(config_of(pictures), pictures, tmp_path / "b.pt")
    other.run(tmp_path / "b.safetensors", Bar(), every=10**9, minutes=60)
    assert [row[0] for row in other.history] == [6]
    assert torch.equal(everything(other), everything(trainer))  # to look changes nothing


def test_the_pace_counts_steps_and_not_what_lies_between(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(train.time, "monotonic", lambda: clock[0])
    pace = train.Pace(8)
    for loss, spent in ((1.0, 2.0), (3.0, 2.0)):
        clock[0] += spent
        pace.add(torch.tensor(loss))
    assert pace.stop() == 2.0 and pace.rate == 4.0
    clock[0] += 100
    pace.start()
    clock[0] += 2.0
    pace.add(torch.tensor(5.0))
    assert pace.stop() == 5.0 and pace.rate == pytest.approx(24 / 6)


def test_a_hundred_steps_learn(tmp_path):
    data = folder.read(gratings.write(tmp_path / "waves", 24), 16)
    config = config_of(data, steps=100, size=16, batch=8, flip=True)
    trainer = Trainer(replace(config, warmup=10), data, tmp_path / "a.pt")
    before = trainer.validate()
    trainer.run(tmp_path / "a.safetensors", Bar())
    after = trainer.validate()
    assert sum(after) < 0.75 * sum(before)
    assert all(a < b for a, b in zip(after, before, strict=True))


def test_two_processes_train_on_a_folder_together(pictures, tmp_path):
    config, out = config_of(pictures, steps=2), tmp_path / "a.safetensors"
    train_own(config, pictures, out, tmp_path / "a.pt", processes=2, device="cpu")
    assert train.saved(tmp_path / "a.pt")["step"] == 2 and zoo.load(out).classes == pictures.classes
    with pytest.raises(ValueError, match="a training with width 32, not 64"):  # before they start
        other = replace(config, width=64)
        train_own(other, pictures, out, tmp_path / "a.pt", processes=2, device="cpu")
    with pytest.raises(ValueError, match="--processes is for the CPU"):
        train_own(config, pictures, out, tmp_path / "b.pt", processes=2, device="meta")


@pytest.fixture
def waves(tmp_path, monkeypatch):
    """The current folder, with one of pictures in it."""
    gratings.write(tmp_path / "waves", 8)
    monkeypatch.chdir(tmp_path)
    return tmp_path


SMALL = ("--data", "waves", "--size", 8, "--width", 32, "--batch", 4, "--processes", 1, "--device", "cpu")  # fmt: skip


def test_the_command_trains_tells_and_goes_on(capsys, waves):
    status, printed, error = run(capsys, "train", *SMALL, "--steps", 3, "--seconds", 0)
    assert status == 0, error
    assert printed.splitlines()[0].startswith("16 pictures of waves, 8 x 8, 2 classes (across 8")
    assert printed.splitlines()[-1].endswith("eps.safetensors") and "images/s" in error
    assert train.saved("out/eps.pt")["step"] == 1
    assert run(capsys, "train", "--data", "waves", "--processes", 1, "--device", "cpu")[0] == 0
    state = train.saved("out/eps.pt")
    assert state["step"] == 3 and state["config"]["width"] == 32  # as it was said the first time
    more = (
        "--model",
        "v",
        "--after",
        "out/eps.safetensors",
        "--steps",
        1,
        "--no-flip",
        "--bfloat16",
    )
    status, _, error = run(capsys, "train", *SMALL, *more)
    assert status == 0, error
    config = train.saved("out/v.pt")["config"]
    assert config["flip"] is False and config["bfloat16"] == 0
    assert config["start"] == "out/eps.safetensors" and config["restarts"] == ()


@pytest.mark.parametrize("arguments, says", [
    ("--data nowhere", "nowhere is no folder"),
    ("--data waves --size 20", "the size is 20: give a multiple of 8 from 8 to 512"),
    ("--data waves --width 48", "the width is 48: give a multiple of 32"),
    ("--data waves --font a.ttf", "--font is for emoji: leave it out"),
    ("--model eps --size 32", "--size goes with --data"),
    ("--model eps --no-flip", "--flip goes with --data"),
    ("--steps 3", "give --model, one of eps, v, flow, classifier, or --data FOLDER"),
    ("--data waves --after nothing.safetensors", "no model 'nothing.safetensors'"),
    ("--data waves --model classifier --width 64", "--width is not for the classifier"),
    ("--data waves --model classifier --size 12", "the size is 12"),
    ("--data waves --model classifier --after a", "in one go"),
])  # fmt: skip
def test_wrong_arguments_get_one_clear_line(capsys, waves, arguments, says):
    status, printed, error = run(capsys, "train", *arguments.split())
    assert (status, printed) == (2, "") and says in error and error.count("\n") == 1, error
