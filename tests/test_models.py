"""Models and judges of somebody's own: by name, by file, by module:callable, and what is wrong with
those that are none."""

import json
import sys

import pytest
import torch
from commandline import run
from PIL import Image

from isdo import entry, gallery, infotext, models, zoo
from isdo.bench import improvement, judge, problems, sets, sets_page, work_precision
from isdo.bench.classifier import load as embedded
from isdo.bench.report import read_json
from isdo.path import FLOW, VE, smallest_sigma
from isdo.zoo.net import CLASSES
from isdo.zoo.train import CONFIGS, make_net, write_model

MINE = '''
import torch

class Model:
    """A Gaussian of one variance; guidance makes it larger, a class brighter."""

    sigma_min, sigma_max, shape = 0.05, 10.0, (3, 8, 8)
    seen = []

    def __call__(self, x, sigma, strength=1.0, labels=None, guidance=1.0):
        self.seen.append((tuple(x.shape), tuple(sigma.shape), strength, labels, guidance))
        sigma = sigma[:, None, None, None]
        variance = 0.3 * strength * guidance
        mean = 0.0 if labels is None else labels.to(x)[:, None, None, None] / 10
        return mean + (x - mean) * variance / (variance + sigma**2)

class Flow(Model):
    path, sigma_min, sigma_max = "flow", 0.02, 1.0

    def __call__(self, x, sigma):
        sigma = sigma[:, None, None, None]
        return (1 - sigma) * 0.3 / ((1 - sigma) ** 2 * 0.3 + sigma**2) * x

class Deaf(Model):
    def __call__(self, x, sigma):
        return torch.zeros_like(x)

class Grey(Model):
    shape, classes = (1, 8, 12), ("cat", "dog")

class Latent(Model):
    shape = (4, 8, 8)

class Table(Model):
    sigma_min = sigma_max = None
    sigmas = torch.linspace(0.05, 10.0, 100).flip(0)

class Net(torch.nn.Module):
    sigma_min, sigma_max, shape = 0.05, 10.0, (3, 8, 8)

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, x, sigma, strength=1.0):
        return self.gain * x / (1 + sigma[:, None, None, None] ** 2)

class Holder:
    loader = staticmethod(Model)

def load(strength=None, sigma_max=10.0):
    model = Model()
    model.sigma_max = sigma_max
    return model

def needy(path):
    return Model()

def broken():
    return {}["weights"]

def three():
    return 3

def function():
    def model(x, sigma, **extra):
        return 0.5 * x
    model.sigma_min, model.sigma_max = 0.1, 1.0
    return model

def made(**faces):
    def load():
        model = Model()
        for name, value in faces.items():
            setattr(model, name, value)
        return model
    return load

silent = made(shape=None)
levelless = made(sigma_max=None)
backwards = made(sigma_min=20.0)
lost = made(path="sideways")
long = made(path="flow")
wordy = made(sigmas=["a", "b"])
flat = made(shape=(8, 8))

def failing():
    def model(x, sigma):
        return x @ torch.zeros(5, 5)
    model.sigma_min, model.sigma_max, model.shape = 0.1, 10.0, (3, 8, 8)
    return model

def wrong():
    def model(x, sigma):
        return x[:, :1]
    model.sigma_min, model.sigma_max, model.shape = 0.1, 10.0, (3, 8, 8)
    return model

class Judge:
    """Four numbers of a picture; the real ones are a Gaussian's."""

    def __init__(self):
        self.real = self.features(0.5 * torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0)))

    def features(self, pictures):
        quarters = pictures.unfold(2, 4, 4).unfold(3, 4, 4)
        return quarters.mean((1, 4, 5)).flatten(1).double()

class Rich(Judge):
    odds = torch.tensor([0.5, 0.5])

    def accuracy(self, pictures, labels):
        return 0.25

    def pictures(self, count, seed):
        generator = torch.Generator().manual_seed(seed)
        return 0.5 * torch.randn(count, 3, 8, 8, generator=generator), torch.arange(count) % 2

class Blind(Judge):
    features = None
    def __init__(self):
        pass

class Unreal(Judge):
    def __init__(self):
        self.real = [1, 2]

class Narrow(Judge):
    def features(self, pictures):
        return super().features(pictures)[:, :3] if len(pictures) == 1 else super().features(pictures)
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The current folder, which holds mine.py and some modules that cannot be imported."""
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "torn.py").write_text("x = 1\ny = {}['weights']\n")
    (tmp_path / "odd.py").write_text("def (:\n")
    (tmp_path / "poor.py").write_text("import no_such_package\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("mine", "torn", "odd", "poor"):
        sys.modules.pop(name, None)


def sample(capsys, *arguments):
    """Draw two pictures in two steps; return the page, and what it says."""
    status, _, error = run(
        capsys,
        "sample",
        "--steps",
        2,
        "--count",
        2,
        "--out",
        "a.png",
        "--device",
        "cpu",
        *arguments,
    )
    assert status == 0, error
    page = Image.open("a.png")
    return page, infotext.read(page.text["parameters"])[1]


# module:callable


@pytest.mark.parametrize("text, parts", [
    ("a:b", ("a", ("b",), (), ())),
    ("a.b:c.d", ("a.b", ("c", "d"), (), ())),
    ("a:b()", ("a", ("b",), (), ())),
    ("a:b.c(1, 'x:y', path='flow', sizes=[1, -2])", ("a", ("b", "c"), (1, "x:y"), (("path", "flow"), ("sizes", [1, -2])))),
])  # fmt: skip
def test_a_text_is_taken_apart(text, parts):
    found = entry.parse(text)
    assert (found.module, found.attributes, found.args, found.options) == parts


@pytest.mark.parametrize("text, says", [
    ("mine", "no colon"),
    ("mine:", "no callable's name"),
    (":load", "no name of a module"),
    ("my-module:load", "no name of a module"),
    ("mine.py:load", "write mine:load"),
    ("mine:load(", "no callable's name"),
    ("mine:load(x)", "no callable's name"),
    ("mine:load(**{})", "no callable's name"),
    ("mine:load()()", "no callable's name"),
    ("mine:[1]", "no callable's name"),
    ("mine:load; 1", "no callable's name"),
    ("absent:load", "no module 'absent'"),
    ("mine.inner:load", "no module 'mine.inner'"),
    ("torn:load", r"importing torn raised KeyError: 'weights' \(torn.py, line 2\)"),
    ("odd:load", "importing odd raised SyntaxError"),
    ("poor:load", r"importing poor raised ModuleNotFoundError: No module named 'no_such_package' \(poor.py, line 1\)"),
    ("mine:lod", "mine has no 'lod'"),
    ("mine:Holder.lod", "mine.Holder has no 'lod'"),
    ("mine:torch.pi", "is a float, which cannot be called"),
    ("mine:needy", "calling mine:needy raised TypeError: .*path"),
    ("mine:broken", r"calling mine:broken raised KeyError: 'weights' \(mine.py, line \d+\)"),
])  # fmt: skip
def test_what_names_nothing_is_told_in_words(mine, text, says):
    with pytest.raises(ValueError, match=says):
        entry.call(text)


def test_attributes_may_be_dotted_and_arguments_given(mine):
    assert entry.call("mine:Holder.loader").sigma_max == 10
    assert entry.call("mine:load(sigma_max=7)").sigma_max == 7


# models


def test_a_model_has_the_faces_that_the_package_asks_for(mine):
    given = models.load("mine:Model")
    model = given.model
    assert (given.shape, given.own, model.path, model.sigma_min, model.sigma_max) == (
        (3, 8, 8),
        True,
        VE,
        0.05,
        10,
    )
    assert model.sigmas is None and smallest_sigma(model) == 0.05
    assert models.load("mine:Flow").model.path is FLOW
    table = models.load("mine:Table").model
    assert (
        table.sigmas.diff().gt(0).all()
        and len(table.sigmas) == 100
        and table.sigma_min == pytest.approx(0.05)
    )


def test_a_path_that_is_not_said_follows_from_the_levels(mine):
    given = models.load("mine:function", shape=(2, 4, 4))
    assert given.model.path is FLOW and given.shape == (2, 4, 4)
    assert models.load("mine:load(sigma_max=0.9)").model.path is FLOW
    names = "mine:Flow", "mine:Model", "mine:load(sigma_max=0.9)"
    assert [models.usual_schedule(models.load(name).model) for name in names] == [
        "flow",
        "karras",
        "karras",
    ]


@pytest.mark.parametrize("sigma", [0.5, torch.tensor(0.5), torch.full((2,), 0.5)])
def test_sigma_is_always_one_for_each_picture(mine, sigma):
    model = models.load("mine:Model").model
    model(torch.zeros(2, 3, 8, 8), sigma)
    assert model.seen[-1][:2] == ((2, 3, 8, 8), (2,))


def test_a_network_is_moved_and_its_signature_is_that_of_forward(mine):
    given = models.load("mine:Net", device="cpu", extra=[("strength", 2)])
    assert (
        given.model.gain.device.type == "cpu"
        and given.model.takes("strength")
        and not given.model.takes("labels")
    )


@pytest.mark.parametrize("name, options, says", [
    ("mine:three", {}, "returned a int: it must return model"),
    ("mine:silent", {}, "give --shape 3,32,32"),
    ("mine:flat", {}, r"the shape \(8, 8\)"),
    ("mine:levelless", {}, "without noise levels"),
    ("mine:backwards", {}, "from 20 to 10"),
    ("mine:lost", {}, "path 'sideways': it must be one of ve, flow"),
    ("mine:long", {}, "path flow, which ends at 1, and sigma_max 10"),
    ("mine:wordy", {}, "no numbers"),
    ("mine:Deaf", {"extra": [("strength", 2)]}, "cannot be called as model.x, sigma, strength."),
    ("mine:Deaf", {"labels": ["1"]}, "--label is for models that take labels"),
    ("mine:Deaf", {"guidance": 2.0}, "--guidance is for models that take guidance"),
    ("mine:Model", {"extra": [("x", 2)]}, "cannot be called"),
    ("mine:Model", {"extra": [("strength", 1), ("strength", 2)]}, "strength=... is given twice"),
    ("mine:Model", {"extra": [("guidance", 1)], "guidance": 2.0}, "guidance is given twice"),
    ("mine:Model", {"extra": [("labels", 1)], "labels": ["2"]}, "labels is given twice"),
    ("mine:Model", {"labels": ["dragon"]}, "--label dragon: give the number of a class"),
    ("mine:Grey", {"labels": ["dragon"]}, "--label dragon: give one of cat, dog, or the number"),
    ("mine:Model", {"zero_terminal_snr": True}, "zoo's model v"),
    ("eps", {"extra": [("strength", 2)]}, "--extra is for a model of your own"),
    ("eps", {"shape": (3, 64, 64)}, "--shape is for a model of your own"),
    ("eps", {"labels": ["dragon"]}, "'dragon' is no class"),
    ("sdxl", {}, "no model 'sdxl' in the zoo, and it is no file here: choose one of eps, v, flow"),
])  # fmt: skip
def test_models_that_cannot_be_asked_so_are_refused_in_words(mine, name, options, says):
    with pytest.raises(ValueError, match=says):
        models.load(name, **options)


@pytest.mark.parametrize("name, says", [
    ("mine:failing", r"mine:failing raised RuntimeError: .* for x \(1, 3, 8, 8\) at 2"),
    ("mine:wrong", r"returned a tensor \(1, 1, 8, 8\) for x \(1, 3, 8, 8\) \(mine:wrong\)"),
])  # fmt: skip
def test_what_a_model_does_wrong_at_a_call_is_told_with_its_name(mine, name, says):
    with pytest.raises(RuntimeError, match=says):
        models.load(name).model(torch.zeros(1, 3, 8, 8), 2.0)


@pytest.mark.parametrize("text, value", [
    ("a=1", 1), ("a=-0.5", -0.5), ("a=true", True), ("a=False", False), ("a=none", None), ("a=cat", "cat"), ("a=", ""),
    ("a=[1, 2.5]", [1, 2.5]), ("a='3'", "3"), ("a=b=c", "b=c"),
])  # fmt: skip
def test_extra_arguments_are_read_as_python_reads_them(text, value):
    key, found = models.key_value(text)
    assert key == "a" and found == value and type(found) is type(value)


def test_labels_go_round_and_what_is_not_said_is_not_told(mine):
    given = models.load(
        "mine:Grey", labels=["dog", "0", "7"], guidance=2.0, extra=[("strength", 0.5)]
    )
    assert given.classes(range(1, 6)).tolist() == [0, 7, 1, 0, 7]
    told = given.extra_args(given.classes([0]))
    assert told == {"labels": torch.tensor([1]), "guidance": 2.0, "strength": 0.5}
    assert (
        models.load("mine:Grey").extra_args() == {}
        and models.load("mine:Grey").classes([0]) is None
    )
    assert given.title == "mine:Grey strength=0.5 label=[1,0,7] guidance=2.0"


# files of the training


@pytest.fixture
def trained(tmp_path):
    """A file as the training writes it."""
    write_model(tmp_path / "new.safetensors", make_net("v"), CONFIGS["v"], [0.5])
    return tmp_path / "new.safetensors"


def test_a_file_of_the_training_is_a_model_of_what_it_says(capsys, trained, monkeypatch):
    monkeypatch.chdir(trained.parent)
    assert zoo.load(trained).prediction.name == "v" and zoo.info(str(trained))["losses"] == [0.5]
    assert zoo.load(trained, zero_terminal_snr=True).sigma_max > 4000
    assert sample(capsys, "--model", trained, "--label", "animals")[1]["Model"] == str(trained)
    names = [make().name for make in problems.suite("zoo", count=1, models=(str(trained),))]
    assert names == [f"{trained}, {scale}" for scale in problems.ZOO_GUIDANCE]


def metadata(file):
    with zoo.safe_open(file, "pt") as opened:
        return opened.metadata()


@pytest.mark.parametrize("tensors, change, says", [
    (None, {}, "is no safetensors file"),
    ({}, {"prediction": None}, "does not say its prediction"),
    ({}, {"prediction": None, "config": None}, "does not say its config and prediction"),
    ({}, {"prediction": "x0"}, "predicts 'x0': it must be one of eps, v, flow"),
    ({"inlet.weight": torch.zeros(2, 2)}, {}, "another architecture"),
])  # fmt: skip
def test_other_files_are_refused_in_words(trained, tensors, change, says):
    from safetensors.torch import save_file

    said = {key: value for key, value in (metadata(trained) | change).items() if value is not None}
    if tensors is None:
        trained.write_bytes(b"no model at all")
    else:
        save_file({"a": torch.zeros(1)} | tensors, trained, said)
    with pytest.raises(ValueError, match=says):
        zoo.load(trained)


def test_a_file_without_metadata_and_a_folder_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="does not say"):
        zoo.load(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="is a folder"):
        zoo.load(tmp_path)


# commands


def test_sample_draws_with_it_and_says_so(capsys, mine):
    page, said = sample(
        capsys, "--model", "mine:load(sigma_max=9)", "--extra", "strength=0.5", "--zoom", 2
    )
    assert page.size == gallery.grid_size(2, 8, 2)
    assert (
        said["Model"] == "mine:load(sigma_max=9)"
        and said["Extra"] == "strength=0.5"
        and "CFG scale" not in said
    )
    assert sys.modules["mine"].Model.seen[-1][2:] == (0.5, None, 1.0)
    _, said = sample(capsys, "--model", "mine:Model", "--label", 3, 4, "--guidance", 2)
    assert said["CFG scale"] == "2" and sys.modules["mine"].Model.seen[-1][3].tolist() == [3, 4]


@pytest.mark.parametrize("name", ["mine:Flow", "mine:Table", "mine:Net"])
@pytest.mark.parametrize("sampler", ["isdo", "dpmpp_2m", "ddim"])
def test_every_kind_of_model_is_drawn_with(capsys, mine, name, sampler):
    page, said = sample(capsys, "--model", name, "--sampler", sampler)
    assert page.size == gallery.grid_size(2, 8, 16) and said["Schedule type"] == (
        "flow" if name == "mine:Flow" else "karras"
    )


def test_grey_pictures_of_any_size_are_shown_and_refined(capsys, mine):
    page, said = sample(capsys, "--model", "mine:Grey", "--label", "dog", "cat", "--zoom", 3)
    assert (
        page.size == (gallery.GAP + 2 * (36 + gallery.GAP), gallery.GAP + 24 + gallery.GAP)
        and said["Size"] == "12x8"
    )
    red, green, _ = page.split()
    assert red.tobytes() == green.tobytes() and len(red.getcolors()) > 10
    options = ("--model", "mine:Grey", "--iterations", 1, "--calls", 2, "--device", "cpu")
    status, _, error = run(capsys, "refine", "a.png", "--out", "b.png", *options)
    assert status == 0, error
    again = Image.open("b.png")
    assert (
        again.size == page.size
        and infotext.read(again.text["parameters"])[1]["Refine model"] == "mine:Grey"
    )
    Image.new("RGB", (12, 8), "red").save("c.png")
    assert run(capsys, "refine", "c.png", "--out", "d.png", *options)[0] == 0
    Image.new("RGB", (8, 8)).save("e.png")
    assert (
        "the model takes pictures of 12 x 8"
        in run(capsys, "refine", "e.png", "--out", "d.png", *options)[2]
    )


@pytest.mark.parametrize("command, says", [
    ("sample --model mine:Latent", "4 channels are no picture"),
    ("sample --model mine:Model --schedule simple", "range of noise levels and no table"),
    ("sample --model mine:Model --extra strength", "must be key=value"),
    ("sample --model mine:Model --extra strength=[1", "must be a number, true, false, text or a list"),
    ("sample --model mine:silent --shape 32,32", "must be channels,height,width"),
    ("sample --model mine:absent", "mine has no 'absent'"),
    ("sample --model mine:Deaf --label 1", "--label is for models that take labels"),
    ("refine nothing.png --model mine:Latent", "4 channels are no picture"),
    ("probe --model sdxl", "'sdxl'"),
    ("probe --model mine:Deaf", "did the model say the same"),
    ("probe --steps 2", "at least 3"),
    ("bench --suite analytic --model eps", "bench analytic: unrecognized arguments: --model eps"),
    ("bench --suite zoo --model mine:three", "it must return model"),
    ("bench --suite zoo --judge mine:Judge", "bench zoo: unrecognized arguments: --judge mine:Judge"),
    ("bench --suite zoo --extra a=1", "for a model of your own"),
    ("bench --suite zoo --label 1", "for a model of your own"),
    ("bench --suite grids --guidance 2", "--guidance is for"),
    ("bench --suite frechet --model mine:Model --judge mine:Blind", "without features"),
    ("bench --suite frechet --model mine:Model --judge mine:Unreal", "real is list"),
    ("bench --suite frechet --model mine:Model --judge mine:absent", "mine has no 'absent'"),
    ("bench --suite frechet --model mine:Model", "the embedded judge knows pictures"),
])  # fmt: skip
def test_wrong_arguments_get_one_clear_line(capsys, mine, command, says):
    before = sorted(mine.glob("*.*"))
    status, printed, error = run(capsys, *command.split())
    assert (status, printed) == (2, "") and says in error and error.count("\n") == 1, error
    assert sorted(mine.glob("*.*")) == before


def test_a_model_that_fails_as_it_is_called_is_a_failed_run(capsys, mine):
    status, _, error = run(capsys, "sample", "--model", "mine:failing", "--out", "a.png")
    assert (
        status == 1
        and "failed: mine:failing raised RuntimeError" in error
        and not (mine / "a.png").exists()
    )


def test_the_probe_prints_and_writes_the_curvature_and_its_levels(capsys, mine):
    options = ("--steps", 6, "--count", 2, "--calls", 4, 5, "--json", "p.json", "--device", "cpu")
    status, printed, error = run(capsys, "probe", "--model", "mine:Model", *options)
    assert status == 0, error
    found = json.loads((mine / "p.json").read_text())
    assert len(found["ratios"]) == len(found["values"]) == 5 and found["model"] == "mine:Model"
    for n in (4, 5):
        levels = found["levels"][str(n)]
        assert (
            len(levels) == n + 1
            and levels[0] == 10
            and levels[-1] == 0
            and sorted(levels, reverse=True) == levels
        )
        assert f"{n} calls: 10, " in printed


# bench


@pytest.mark.parametrize("suite", ["zoo", "img2img"])
@pytest.mark.parametrize("name", ["mine:Model", "mine:Flow", "mine:Table"])
def test_the_suites_measure_on_it(capsys, mine, suite, name):
    """D is linear: the converged solution shrinks every number alike."""
    command = (
        "bench",
        "--suite",
        suite,
        "--model",
        name,
        "--limit",
        2,
        "--calls",
        6,
        "--json",
        "rows.json",
        "--device",
        "cpu",
    )
    status, printed, error = run(capsys, *command)
    assert status == 0, error
    rows = read_json("rows.json")
    assert {row["problem"].split(", ")[0] for row in rows} == {name} and {
        row["images"] for row in rows
    } == {2}
    assert ("simple" in {row["grid"] for row in rows}) == (name == "mine:Table")
    assert {row["path"] for row in rows} == {"flow" if name == "mine:Flow" else "ve"}
    assert all(row["uncertainty"] < 1e-3 for row in rows)
    assert all(row["median"] < 0.05 for row in rows if row["sampler"] == "isdo")
    assert (
        f"bench --suite {suite} --model {name} --calls 6 --limit 2 --doc docs/PAGE.md" in printed
        and "three trained" not in printed
    )


def test_several_guidances_and_models_come_onto_one_page(capsys, mine, monkeypatch):
    """Each run adds its rows to the file, says its own flags, and measures nothing twice."""
    common = (
        "--limit",
        1,
        "--calls",
        6,
        "--json",
        "a.json",
        "--doc",
        "a.md",
        "--plot",
        "a.png",
        "--device",
        "cpu",
    )
    first = ("bench", "zoo", "--model", "mine:Model", "--guidance", 1, 2, *common)
    assert run(capsys, *first)[0] == 0
    rows = read_json("a.json")
    assert {row["problem"] for row in rows} == {f"mine:Model guidance={g}" for g in (1.0, 2.0)}
    assert {"curvature", "karras"} <= {row["grid"] for row in rows}
    assert run(capsys, "bench", "zoo", "--model", "mine:Flow", *common)[0] == 0
    both = read_json("a.json")
    assert [row for row in both if row["path"] == "ve"] == rows and len(both) > len(rows)
    page = (mine / "a.md").read_text()
    for flags in ("--model mine:Model --guidance 1 2", "--model mine:Flow"):
        assert f"bench --suite zoo {flags} --calls 6 --limit 1 --doc docs/a.md\n" in page
    assert "| mine:Flow (flow, flow shift 3) |" in page
    assert (mine / "a.png").read_bytes().startswith(b"\x89PNG")

    def never(*_):
        raise AssertionError("this was known")

    monkeypatch.setattr(work_precision, "measure", never)
    assert run(capsys, *first)[0] == 0 and len(read_json("a.json")) == len(both)


def test_the_user_s_choice_of_it(capsys, mine):
    """It is a Gaussian, which ISDO solves whatever the schedule: the first of them is its best."""
    command = (
        "bench",
        "choice",
        "--model",
        "mine:Table",
        "--limit",
        1,
        "--calls",
        6,
        "--json",
        "a.json",
    )
    status, printed, error = run(capsys, *command, "--plot", "a.png", "--device", "cpu")
    assert status == 0, error
    assert "--suite choice --model mine:Table --calls 6 --limit 1" in printed
    assert "## mine:Table (ve)" in printed and (mine / "a.png").exists()
    assert {"normal", "simple", "sgm_uniform"} <= {row["grid"] for row in read_json("a.json")}


def test_the_reference_of_a_model_is_its_exact_solution(mine):
    given = models.load("mine:Model")
    problem = problems.own_problem(given, seed=3, count=2)
    shrink = ((0.3 + 0.05**2) / (0.3 + 10.0**2)) ** 0.5 * 0.3 / (0.3 + 0.05**2)
    torch.testing.assert_close(problem.reference(), shrink * problem.x, rtol=1e-4, atol=1e-5)
    assert problem.name == "mine:Model" and problem.extra_args == {}


def test_labels_and_extra_arguments_reach_the_problem(mine):
    given = models.load("mine:Model", labels=["4", "5"], extra=[("strength", 2)])
    problem = problems.own_problem(given, count=3)
    assert (
        problem.extra_args["labels"].tolist() == [4, 5, 4] and problem.extra_args["strength"] == 2
    )


@pytest.mark.parametrize(
    "suite, key",
    [("grids", "grid"), ("sweep", "sampler"), ("ceiling", "weights"), ("speed", "ms_model")],
)
def test_the_other_suites_measure_on_it(capsys, mine, monkeypatch, suite, key):
    from isdo.bench import ceiling, grids, speed, sweep
    from isdo.settings import Settings

    monkeypatch.setattr(sweep, "variants", lambda: {"defaults": Settings()})
    monkeypatch.setattr(ceiling.run, "__defaults__", (0, None, "", "cpu", (3,), iter, None))
    monkeypatch.setattr(grids.run, "__defaults__", (0, None, "", "cpu", (5,), None))
    monkeypatch.setattr(speed.run_with, "__defaults__", (1,))
    monkeypatch.setattr(speed, "THREADS", 1)
    limit = () if suite == "speed" else ("--limit", 2)
    options = ("--json", "rows.json", "--device", "cpu", *limit)
    status, printed, error = run(
        capsys, "bench", "--suite", suite, "--model", "mine:Model", *options
    )
    assert status == 0, error
    rows = read_json("rows.json")
    assert any(key in row for row in rows) and "mine:Model" in printed
    assert {row.get("problem", row.get("model")) for row in rows} == {"mine:Model"}


def test_a_judge_of_ones_own_judges_sets(mine):
    found = judge.load("mine:Judge")
    assert (
        found.real.mean.shape == (4,)
        and found.floor > 0
        and found.odds is found.accuracy is found.pictures is None
    )
    some = {"isdo": sets.SAMPLERS["isdo"]}
    rows = sets.run(models.load("mine:Model"), (3,), 8, some, judge=found, converged=4)
    assert (
        {row["accuracy"] for row in rows} == {None}
        and rows[0]["guidance"] is None
        and rows[0]["frechet"] > 0
    )
    page = sets_page.page(rows, found, "--model mine:Model --judge mine:Judge")
    assert (
        "## mine:Model, karras schedule, 8 pictures" in page
        and "those of the judge mine:Judge" in page
    )
    assert f"| {rows[0]['frechet']:.3f} |" in page and "one half of the real pictures" in page


SETS = [
    ("frechet", ("--calls", 2), "## mine:Model strength=2"), ("sets", ("--calls", 2), "## mine:Model strength=2"),
    ("refine", ("--calls", 8, "--samplers", "refine@1"), "## mine:Model strength=2"),
]  # fmt: skip


@pytest.mark.parametrize("suite, calls, says", SETS)
def test_the_suites_of_sets_take_both_from_the_command_line(
    capsys, mine, monkeypatch, suite, calls, says
):
    named = ("--model", "mine:Model", "--judge", "mine:Rich", "--extra", "strength=2")
    options = ("--limit", 4, "--json", "a.json", "--device", "cpu", *calls)
    status, printed, error = run(capsys, "bench", "--suite", suite, *named, *options)
    assert status == 0, error
    assert says in printed and f"--suite {suite} {' '.join(named)}" in printed
    assert all(row["bench"] == suite for row in read_json("a.json"))


def test_classes_are_those_asked_for_else_those_that_the_judge_knows(mine):
    rich, own, deaf = judge.load("mine:Rich"), models.load("mine:Model"), models.load("mine:Deaf")
    assert torch.bincount(sets.labels_for(own, rich, 8)).tolist() == [4, 4]
    assert sets.labels_for(models.load("mine:Model", labels=["3"]), rich, 2).tolist() == [3, 3]
    assert (
        sets.labels_for(deaf, rich, 8) is sets.labels_for(own, judge.load("mine:Judge"), 8) is None
    )
    assert sets.labels_for(own, embedded(), 8) is None  # its classes are the zoo's
    assert len(sets.labels_for(models.load("eps"), embedded(), 20).unique()) == len(CLASSES)
    row = sets.run(own, (2,), 4, {"isdo": sets.SAMPLERS["isdo"]}, judge=rich, converged=0)[0]
    assert row["accuracy"] == 0.25


def test_a_judge_that_answers_something_else_is_told_with_its_name(mine):
    with pytest.raises(
        RuntimeError, match=r"mine:Narrow: features are \(1, 3\), and must be \(1, 4\)"
    ):
        sets.run(models.load("mine:Model"), (2,), 4, judge=judge.load("mine:Narrow"))


@pytest.mark.parametrize("name", ["mine:Judge", "mine:Rich"])
def test_refinement_is_measured_on_it(mine, name):
    found, given = judge.load(name), models.load("mine:Model")
    rows = improvement.run(given, 4, levels=(1.0,), judge=found)
    measured = [row for row in rows if row["part"] == "sets"]
    rich = name == "mine:Rich"
    assert [row["sampler"] for row in measured] == [
        "nothing", "steps", "refine@1", "unlocked@1", "loose@1"
    ]  # fmt: skip
    assert all(
        ("saturation" in row) == (row["real_energy"] is not None) == rich for row in measured
    )
    assert any(row["part"] == "recovery" for row in rows) == rich
    assert not any(row["part"] == "mixture" for row in rows)  # which is none of this model's
    page = improvement.page(rows, "--model mine:Model", found)
    assert (
        ("## Recovery" in page) == rich
        and f"the judge {name}" in page
        and "--suite refine --model mine:Model" in page
    )


def test_the_page_of_the_documentation_works(capsys, mine):
    """Its first block is a model, and the commands below it run."""
    text = (zoo.FOLDER.parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    (mine / "mine.py").write_text(code)
    assert len([line for line in code.splitlines() if line.strip()]) == 8
    for line in [
        line.strip()
        for line in text.splitlines()
        if line.startswith("    python -m isdo") and "frechet" not in line
    ]:
        if "bench" not in line:
            status, _, error = run(
                capsys,
                *line.removeprefix("python -m isdo ").split(),
                "--count",
                2,
                "--device",
                "cpu",
            )
            assert status == 0, error
