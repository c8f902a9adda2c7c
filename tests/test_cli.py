"""The command line: what it writes, what it says when the arguments are wrong, and that Ctrl-C
leaves nothing."""

import inspect
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest
import torch
from commandline import run
from PIL import Image

from isdo import __main__ as cli
from isdo import gallery, models, zoo
from isdo.bench.baselines import BASELINES, FURTHER
from isdo.bench.report import read_json, write_json
from isdo.commands import batches, bench, suites
from isdo.commands.arguments import flag
from isdo.commands.sample import samplers
from isdo.reference import SAMPLERS
from isdo.schedules import schedule
from isdo.settings import FIELDS, Settings
from isdo.zoo.net import CLASSES

ROOT = Path(__file__).parents[1]


def sample(capsys, out, *arguments):
    status, printed, error = run(
        capsys, "sample", "--steps", 2, "--count", 2, "--out", out, *arguments
    )
    assert (status, printed.strip()) == (0, str(out)), error
    return Image.open(out)


def test_sample_writes_a_grid_that_says_how_it_was_made(capsys, tmp_path):
    image = sample(capsys, tmp_path / "a.png", "--label", "animals", "--seed", 7, "--zoom", 2)
    words, pairs = image.text["parameters"].split("\n")
    assert words == "animals"
    found = dict(pair.split(": ", 1) for pair in pairs.split(", "))
    assert (
        found["Seed"] == "7"
        and found["Steps"] == "2"
        and found["Model"] == "eps"
        and found["Sampler"] == "isdo"
    )
    assert {field.infotext for field in FIELDS} <= set(found)
    assert image.size == (2 * (64 + gallery.GAP) + gallery.GAP, 64 + 2 * gallery.GAP)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("sampler", ["isdo", "dpmpp_2m", "heun", "ddpm", "edm"])
def test_a_seed_is_the_same_picture_in_any_batch(monkeypatch, sampler):
    monkeypatch.setattr(batches, "BATCH", 2)
    given = [
        models.load("eps", labels=labels, guidance=3.0) for labels in (CLASSES[:3], CLASSES[2:3])
    ]
    sigmas = schedule("karras", 3, given[0].model)
    many = batches.draw(samplers()[sampler], given[0], sigmas, range(5, 8))
    one = batches.draw(samplers()[sampler], given[1], sigmas, range(7, 8))
    assert many.shape == (3, 3, 32, 32)
    torch.testing.assert_close(many[2:], one, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(many[0], many[1], atol=0.1)


def test_a_preset_is_its_settings_and_a_flag_beside_it_wins(capsys, tmp_path):
    def drawn(*arguments):
        status, printed, error = run(
            capsys, "sample", "--steps", 9, "--count", 1, "--out", tmp_path / "a.png", *arguments
        )
        assert status == 0, error
        return Image.open(tmp_path / "a.png"), printed

    preset, _ = drawn("--preset", "Odyssey", "--draw", 4)
    assert (
        preset.tobytes()
        == drawn("--draw", 4)[0].tobytes()
        != drawn("--preset", "Fast")[0].tobytes()
    )
    assert (
        "ISDO draw: 4" in preset.text["parameters"] and "ISDO calls: 9" in preset.text["parameters"]
    )
    exact, printed = drawn("--preset", "Exact")
    assert "ISDO tolerance: 0.01" in exact.text["parameters"] and "model calls a picture" in printed


def test_every_sampler_can_be_named():
    assert set(samplers()) == {"isdo", *BASELINES, *FURTHER, *SAMPLERS}


def test_every_setting_has_a_flag_that_reaches_it():
    parser = cli.make_parser()
    assert not any(hasattr(parser.parse_args(["sample"]), field.key) for field in FIELDS)
    for field in FIELDS:
        if isinstance(field.default, bool):
            words = [flag(field.key)]
        else:
            words = [f"{flag(field.key)}={field.choices[-1] if field.choices else field.default}"]
        if field.default is not None:
            value = getattr(parser.parse_args(["sample", *words]), field.key)
            Settings(**{field.key: value})
            assert type(value) is type(field.default)


@pytest.mark.parametrize("arguments, says", [
    ("", "required"),
    ("paint", "invalid choice: 'paint'"),
    ("sample --model sdxl", "'sdxl'"),
    ("sample --label dragons", "'dragons'"),
    ("sample --steps 0", "at least 1, not 0"),
    ("sample --steps many", "'many'"),
    ("sample --guidance nan", "nan"),
    ("sample --seed -1", "at least 0, not -1"),
    ("sample --device abacus", "no device abacus here"),
    ("sample --out grid.jpg", "must end in .png"),
    ("sample --out nowhere/grid.png", "does not exist"),
    ("sample --colour red", "sample: unrecognized arguments: --colour red"),
    ("bench --suite none", "'none'"),
    ("bench none", "'none'"),
    ("bench --suite speed --plot a.png", "bench speed: unrecognized arguments: --plot a.png"),
    ("bench speed --limit 3", "bench speed: unrecognized arguments: --limit 3"),
    ("bench --bend --suite grids", "bench grids: unrecognized arguments: --bend"),
    ("bench --suite=sweep --calls 6", "bench sweep: unrecognized arguments: --calls 6"),
    ("bench --suite adaptive --model eps", "bench adaptive: unrecognized arguments: --model eps"),
    ("bench --suite", "bench analytic: unrecognized arguments: --suite"),
    ("bench --suite penalty --model eps", "has its own models"),
    ("bench --suite speed --all", "bench speed: unrecognized arguments: --all"),
    ("bench --calls 0", "at least 1, not 0"),
    ("bench --json nowhere/a.json", "does not exist"),
    ("bench --suite sweep --doc nowhere/a.md", "does not exist"),
    ("train", "--model"),
    ("train --model classifier --processes 2 --out {tmp}/a.safetensors", "in one go"),
    ("train --model eps --font nowhere.ttf --out {tmp}/a.safetensors", "nowhere.ttf is missing"),
])  # fmt: skip
def test_wrong_arguments_get_one_clear_line(capsys, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    status, printed, error = run(capsys, *arguments.format(tmp=tmp_path).split())
    assert (status, printed) == (2, "")
    assert says in error and error.startswith("python -m isdo") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


SUITE_NAMED = [
    ("", "analytic"),
    ("--calls 6 --limit 2", "analytic"),
    ("--suite zoo --calls 6", "zoo"),
    ("--calls 6 --suite zoo", "zoo"),
    ("--calls 6 --suite=zoo --limit 3", "zoo"),
    ("zoo --calls 6", "zoo"),
]


@pytest.mark.parametrize("words, suite", SUITE_NAMED)
def test_a_suite_is_named_first_or_by_its_flag_or_is_the_default(monkeypatch, words, suite):
    asked = []
    monkeypatch.setattr(bench, "check", asked.append)
    row = replace(suites.SUITES[suite], run=lambda args: ([], ""))
    monkeypatch.setitem(suites.SUITES, suite, row)
    assert cli.main(["bench", *words.split()]) == 0
    assert asked[0].suite == suite
    assert asked[0].calls == ([6] if "--calls" in words else None)
    assert asked[0].limit == next((n for n in (2, 3) if f"--limit {n}" in words), None)


@pytest.mark.parametrize("suite", suites.SUITES)
def test_every_suite_has_a_parser_with_its_own_flags_only(capsys, suite):
    row = suites.SUITES[suite]
    named = {"--model", "--extra", "--shape", "--label", "--guidance"}
    own = {f"--{name}" for name in bench.EVERY + row.flags} | ({"--plot"} if row.plot else set())
    status, printed, _ = run(capsys, "bench", "--suite", suite, "--help")
    shown = set(re.findall(r"^  (--[a-z]+)", printed, re.MULTILINE))
    assert status == 0 and shown == own | (named if row.model else set())
    assert printed.startswith(f"usage: python -m isdo bench {suite} ")
    assert run(capsys, "bench", suite, "--help")[1] == printed


def test_the_bench_lists_its_suites(capsys):
    status, printed, _ = run(capsys, "bench", "--help")
    assert status == 0 and all(
        row.summary in " ".join(printed.split()) for row in suites.SUITES.values()
    )


def test_the_command_line_can_be_called_without_arguments(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["isdo", "bench", "--calls", "0"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2 and "at least 1, not 0" in capsys.readouterr().err


@pytest.mark.parametrize("arguments, says", [
    ("--schedule flow", "sigma 1, not 14.6"),
    ("--zero-terminal-snr", "zero_terminal_snr"),
    (f"--sampler heun {flag(FIELDS[0].key)}={FIELDS[0].default}", "setting of the sampler isdo, not of heun"),
    ("--sampler heun --preset Odyssey", "--preset is a setting of the sampler isdo, not of heun"),
])  # fmt: skip
def test_what_the_library_refuses_is_one_clear_line(capsys, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    status, printed, error = run(capsys, "sample", *arguments.split())
    assert (status, printed) == (2, "")
    assert says in error and error.count("\n") == 1


def test_info_names_versions_models_and_settings(capsys):
    status, printed, _ = run(capsys, "info")
    assert status == 0
    for word in ("torch", "cpu", *zoo.NAMES, *CLASSES, *(flag(field.key) for field in FIELDS)):
        assert word in printed


class Interrupt:
    """An image whose writing is interrupted half-way."""

    def save(self, path, *_, **__):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt


def test_an_interrupted_write_leaves_the_old_file_whole(tmp_path):
    target = tmp_path / "a.png"
    gallery.write_png(Image.new("RGB", (2, 2)), target, "old")
    with pytest.raises(KeyboardInterrupt):
        gallery.write_png(Interrupt(), target, "new")
    assert Image.open(target).text["parameters"] == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_is_one_line_and_no_file(tmp_path):
    arguments = ["sample", "--steps", "150", "--count", "64", "--out", str(tmp_path / "a.png")]
    listen = partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # what a shell starts in the background is deaf to it
    command = [sys.executable, "-m", "isdo", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, cwd=ROOT, preexec_fn=listen)
    seen = b""
    while (
        b"it/s" not in seen and b"s/it" not in seen and process.poll() is None
    ):  # the bar moves: it draws
        seen += process.stderr.read1()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    last = rest.decode().replace("\r", "\n").strip().splitlines()[-1]
    assert last.strip() == "python -m isdo sample: interrupted" and b"Traceback" not in rest
    assert not list(tmp_path.iterdir())


def test_a_page_holds_the_pixels_where_they_belong():
    rows = [torch.full((2, 3, 8, 8), value) for value in (-1.0, 1.0)]
    rows[0][1] = 0.0
    sheet = gallery.page(rows, zoom=3)
    step = 24 + gallery.GAP
    assert sheet.size == (gallery.GAP + 2 * step, gallery.GAP + 2 * step)
    assert [sheet.getpixel((gallery.GAP + j * step, gallery.GAP)) for j in (0, 1)] == [
        (0, 0, 0),
        (128, 128, 128),
    ]
    assert sheet.getpixel((gallery.GAP + 23, gallery.GAP + 23)) == (0, 0, 0)
    labelled = gallery.page(rows, ["first", "second\nrow"], ["left", "right"], zoom=3)
    assert labelled.size[0] > sheet.size[0] and labelled.size[1] > sheet.size[1]


def test_noise_belongs_to_its_seed():
    together = gallery.noise([3, 4], (3, 4, 4))
    assert torch.equal(together[1:], gallery.noise([4], (3, 4, 4)))
    assert not torch.equal(together[0], together[1])


# What the command line hands to the rooms behind it. Those are replaced by their own signatures:
# an argument that one does not take is an error here, too.

ASKED = {"seed": 3, "limit": 2, "only": "mix"}
ROWS = [{"bench": "a suite", "task": "t", "number": 1.5}]
BENCHES = {
    # suite: module, which of ASKED its ``run`` takes by which name, whether it makes its own text
    "analytic": ("work_precision", {"suite_name": "analytic", **ASKED}, False),
    "zoo": ("work_precision", {"suite_name": "zoo", **ASKED}, False),
    "choice": ("choice", ASKED, False),
    "img2img": ("work_precision", {"suite_name": "img2img", **ASKED}, False),
    "adaptive": ("adaptive", ASKED, False),
    "trajectory": ("trajectory", ASKED, False),
    "inversion": ("inversion", ASKED, False),
    "penalty": ("penalty", ASKED, False),
    "ablation": ("ablation", ASKED, False),
    "sweep": ("sweep", ASKED, False),
    "grids": ("grids", ASKED, True),
    "ceiling": ("ceiling", ASKED, True),
    "speed": ("speed", {"devices": ("cpu",)}, False),
    "refine": ("improvement", {"seed": 3, "count": 2, "model": "eps"}, False),
    "sets": ("sets", {"seed": 3, "count": 2, "model": "eps", "suite": "sets"}, False),
    "frechet": ("sets", {"seed": 3, "count": 2, "model": "eps", "suite": "frechet"}, False),
}


def test_every_suite_is_held_against_its_room():
    assert set(BENCHES) == set(suites.SUITES)


@pytest.mark.parametrize("suite", BENCHES)
def test_a_suite_hands_on_what_was_asked_and_writes_what_it_gets(
    capsys, tmp_path, monkeypatch, suite
):
    name, wanted, own_text = BENCHES[suite]
    module, seen = import_module(f"isdo.bench.{name}"), {}
    signature = inspect.signature(module.run)

    def run_room(*arguments, **keywords):
        seen["run"] = signature.bind(*arguments, **keywords).arguments
        return (ROWS, "the page") if own_text else ROWS

    def paged(rows, *_):
        seen["paged"] = rows
        return "the page"

    def plotted(rows, file):
        seen["plotted"] = rows
        Path(file).write_bytes(b"a plot")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "run", run_room)
    for where in {"work_precision": ["report"], "sets": ["sets_page"]}.get(name, [name]):
        room = import_module(f"isdo.bench.{where}")
        monkeypatch.setattr(room, "page", paged, raising=False)
        monkeypatch.setattr(room, "plot", plotted, raising=False)
    monkeypatch.setattr(import_module("isdo.bench.report"), "table", lambda rows: "the table")
    monkeypatch.setattr(module, "KEY", ("n",), raising=False)
    row = suites.SUITES[suite]
    draws = row.plot is not None
    arguments = ["bench", "--suite", suite, "--json", "a.json", "--doc", "a.md", "--device", "cpu"]
    arguments += [word for key in ASKED if key in row.flags for word in (f"--{key}", ASKED[key])]
    arguments += ["--plot", "a.png"] * draws
    status, printed, error = run(capsys, *arguments)
    assert status == 0, error
    asked = {key: seen["run"][key] for key in wanted}
    assert asked == wanted and seen["run"].get("device", "cpu") == "cpu"
    assert read_json("a.json") == ROWS and "the page" in printed
    assert "the page" in Path("a.md").read_text()
    assert own_text or seen["paged"] == ROWS
    assert (seen.get("plotted") == ROWS) is draws is Path("a.png").exists()


@pytest.mark.parametrize(
    "suite", ["adaptive", "trajectory", "inversion", "penalty", "ablation", "sweep", "choice"]
)
def test_a_suite_that_goes_on_is_handed_the_rows_of_its_own_file(
    capsys, tmp_path, monkeypatch, suite
):
    module, seen = import_module(f"isdo.bench.{suite}"), {}

    def run_room(*arguments, save=None, reuse=(), **keywords):
        seen["reuse"] = list(reuse)
        if save is not None:
            save([{"bench": suite, "n": 2}])
            seen["saved"] = read_json("a.json")
        return [{"bench": suite, "n": 3}]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "run", run_room)
    monkeypatch.setattr(module, "page", lambda rows, *_: "the page")
    monkeypatch.setattr(module, "KEY", ("n",))
    old = [{"bench": suite, "n": 1}, {"bench": "another", "n": 0}]
    write_json(old, "a.json")
    assert run(capsys, "bench", "--suite", suite, "--json", "a.json")[0] == 0
    assert seen["reuse"] == old[:1]
    if suite != "sweep":  # which is over before it could be stopped, and keeps nothing on its way
        assert seen["saved"] == [old[0], {"bench": suite, "n": 2}]
        assert read_json("a.json") == [old[0], {"bench": suite, "n": 3}]


def trained(monkeypatch, module):
    """Replace a training by a look at what it is told."""
    told, signature = {}, inspect.signature(module.train)

    def train(*arguments, **keywords):
        told.update(signature.bind(*arguments, **keywords).arguments)

    monkeypatch.setattr(module, "train", train)
    return told


def test_training_of_the_zoo_is_told_what_was_asked(capsys, tmp_path, monkeypatch):
    module = import_module("isdo.zoo.train")
    told = trained(monkeypatch, module)
    out = tmp_path / "made" / "mine.safetensors"
    status, printed, error = run(capsys, "train", "--model", "v", "--out", out)
    assert (status, printed.strip()) == (0, str(out)), error
    assert told == {
        "config": module.CONFIGS["v"], "out": out, "checkpoint": out.with_suffix(".pt"),
        "processes": None, "seconds": float("inf"), "after": None,
    }  # fmt: skip
    assert out.parent.is_dir() and not list(out.parent.iterdir())
    told.clear()
    state = tmp_path / "states" / "a.pt"
    more = ("--steps", 7, "--processes", 2, "--seconds", 60, "--checkpoint", state)
    files = ("--after", "b.safetensors", "--font", "a.ttf", "--groups", "a.txt")
    assert run(capsys, "train", "--model", "eps", "--out", out, *more, *files)[0] == 0
    assert told == {
        "config": replace(module.CONFIGS["eps"], steps=7), "out": out, "checkpoint": state,
        "processes": 2, "seconds": 60, "after": "b.safetensors", "font": "a.ttf", "groups": "a.txt",
    }  # fmt: skip


def test_training_of_the_classifier_is_told_what_was_asked(capsys, tmp_path, monkeypatch):
    module = import_module("isdo.bench.classifier")
    told = trained(monkeypatch, module)
    out = tmp_path / "mine.safetensors"
    assert run(capsys, "train", "--model", "classifier", "--out", out)[0] == 0
    assert (told["config"], told["out"]) == (module.Config(), out)
    more = ("--steps", 7, "--font", "a.ttf")
    assert run(capsys, "train", "--model", "classifier", "--out", out, *more)[0] == 0
    assert told["config"] == module.Config(steps=7) and told["font"] == "a.ttf"


def test_pictures_are_for_the_bound_alone(capsys):
    status, printed, error = run(capsys, "info", "--pictures", "a.png")
    assert (status, printed) == (2, "") and "--pictures is for --elbo" in error
