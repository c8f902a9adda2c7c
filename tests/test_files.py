"""Where a result is to be written is looked at before the work begins; what was there stays until
the new file is whole."""

import os
import shutil
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commandline import run
from PIL import Image

from isdo import files, gallery, zoo
from isdo.bench import demo, report
from isdo.commands import suites

Usage = namedtuple("Usage", "total used free")


def full(_):
    return Usage(10**12, 10**12 - 1000, 1000)


def folder(path):
    path.mkdir()


def read_only(path):
    path.write_bytes(b"old")
    path.chmod(0o444)


def device(path):
    path.symlink_to(os.devnull)


def nothing(_):
    pass


# what is wrong: (the target's folder, its name without the ending, what is made there, what is
# said)
WRONG = {
    "a folder": ("", "a", folder, "is a folder"),
    "read-only": ("", "a", read_only, "read-only"),
    "a device": ("", "a", device, "is a device"),
    "no folder": ("nowhere", "a", nothing, "does not exist"),
    "in a file": ("file", "a", nothing, "is no folder"),
    "a long name": ("", "a" * 300, nothing, "name another"),
    "no space": ("", "a", nothing, "left: make room"),
}
posix = pytest.mark.skipif(sys.platform == "win32", reason="files of POSIX")


def target(tmp_path, monkeypatch, kind, ending):
    """Return a target that is wrong in one way, and what is to be said of it."""
    where, name, make, says = WRONG[kind]
    (tmp_path / "file").write_text("a file")
    path = tmp_path / where / (name + ending)
    make(path)
    if kind == "no space":
        monkeypatch.setattr(shutil, "disk_usage", full)
    return path, says


def work(*_, **__):
    raise AssertionError("the work has begun")


@pytest.fixture
def idle(monkeypatch):
    """No command gets further than to its work."""
    monkeypatch.setattr(zoo, "load", work)
    monkeypatch.setattr(demo, "make_problem", work)
    monkeypatch.setattr(
        suites, "SUITES", {name: replace(row, run=work) for name, row in suites.SUITES.items()}
    )
    monkeypatch.setattr("isdo.zoo.train.train", work)
    monkeypatch.setattr("isdo.bench.classifier.train", work)


@posix
@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("arguments, ending", [
    ("sample --out", ".png"),
    ("refine {tmp}/good.png --out", ".png"),
    ("refine {tmp}/good.png --out {tmp}/out.png --animate", ".gif"),
    ("bench --json", ".json"),
    ("bench --doc", ".md"),
    ("bench --suite sweep --doc", ".md"),
    ("train --model eps --out", ".safetensors"),
    ("train --model eps --out {tmp}/b.safetensors --checkpoint", ".pt"),
    ("train --model classifier --out", ".safetensors"),
])  # fmt: skip
def test_a_target_that_cannot_be_written_is_noticed_first(
    capsys, tmp_path, monkeypatch, idle, arguments, ending, kind
):
    if kind == "no folder" and arguments.startswith("train"):
        pytest.skip("a training makes its folder")
    path, says = target(tmp_path, monkeypatch, kind, ending)
    Image.new("RGB", (32, 32)).save(tmp_path / "good.png")
    before = sorted(tmp_path.iterdir())
    words = [word.format(tmp=tmp_path) for word in arguments.split()]
    status, printed, error = run(capsys, *words, path)
    assert (status, printed, error.count("\n")) == (2, "", 1)
    assert says in error or kind == "in a file" and "name another" in error
    assert sorted(tmp_path.iterdir()) == before


@posix
def test_a_plot_that_cannot_be_written_is_noticed_first(capsys, tmp_path, idle):
    for path, says in (
        (tmp_path, "is a folder"),
        (tmp_path / "a.txt", "must end in"),
        (tmp_path / "plot", "must end in"),
    ):
        status, _, error = run(capsys, "bench", "--plot", path)
        assert status == 2 and says in error and error.count("\n") == 1


@posix
@pytest.mark.parametrize("kind", ["a folder", "read-only", "no space"])
@pytest.mark.parametrize("name", ["demo-6-calls", "demo-refine", "demo-work-precision"])
def test_the_demonstration_looks_at_each_of_its_files(
    capsys, tmp_path, monkeypatch, idle, name, kind
):
    monkeypatch.setitem(WRONG, kind, ("", name, *WRONG[kind][2:]))
    _, says = target(tmp_path, monkeypatch, kind, ".png")
    status, _, error = run(capsys, "demo", "--out", tmp_path)
    assert status == 2 and says in error and error.count("\n") == 1
    status, _, error = run(capsys, "demo", "--out", tmp_path / "file")
    assert status == 2 and "cannot be made" in error and error.count("\n") == 1


@pytest.mark.parametrize("arguments", [
    ["sample", "--out"], ["refine", "good.png", "--out"], ["refine", "good.png", "--animate"], ["bench", "--json"],
    ["bench", "--doc"], ["bench", "--plot"], ["train", "--model", "eps", "--out"], ["demo", "--out"],
])  # fmt: skip
def test_an_empty_name_is_no_file(capsys, tmp_path, monkeypatch, idle, arguments):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (32, 32)).save("good.png")
    status, _, error = run(capsys, *arguments, "")
    assert status == 2 and "'' is no f" in error and error.count("\n") == 1


@pytest.mark.skipif(
    not Path("/proc/self").exists(), reason="a folder in which not even root makes files"
)
def test_what_permissions_do_not_tell_is_tried():
    with pytest.raises(ValueError, match="cannot be written"):
        files.check_target("/proc/a.json")


def test_a_good_target_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert files.check_target("a.json") == Path("a.json") and not list(tmp_path.iterdir())
    Path("a.json").write_text("old")
    assert files.check_target(tmp_path / "a.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_disk_that_does_not_know_its_size_is_trusted(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 0))
    files.check_target(tmp_path / "a.json")


def test_noise_takes_no_more_room_than_was_asked_for(tmp_path):
    size = gallery.grid_size(9, 32, 2)
    pages = [gallery.grid(gallery.noise(range(n, n + 9), (3, 32, 32)), zoom=2) for n in range(3)]
    gallery.write_png(pages[0], tmp_path / "a.png")
    gallery.write_gif(iter(pages), tmp_path / "a.gif")
    spare = files.ROOM
    assert (tmp_path / "a.png").stat().st_size < gallery.room(size) - spare
    assert (tmp_path / "a.gif").stat().st_size < gallery.room(size, 3) - spare


@pytest.mark.parametrize("arguments, says", [
    ("--zoom 0", "at least 1, not 0"),
    ("--zoom 65", "at most 64, not 65"),
    ("--zoom 1e3", "'1e3'"),
    ("--zoom 99999999999999999999", "at most 64"),
    ("--zoom 64 --count 16", "16 pictures at zoom 64 make a page of 8222 x 8222"),
    ("--count 99999", "take fewer, or a smaller zoom"),
    (f"--count {10**400}", "at most"),
    (f"--seed {2**63}", "at most"),
], ids=lambda text: text[:30])  # fmt: skip
def test_a_page_has_a_limit(capsys, tmp_path, monkeypatch, idle, arguments, says):
    monkeypatch.chdir(tmp_path)
    status, printed, error = run(capsys, "sample", *arguments.split())
    assert (status, printed, error.count("\n")) == (2, "", 1) and says in error


class Failing:
    """A picture or figure that fails when half of it is written."""

    def __init__(self, error):
        self.error = error

    def save(self, path, *_, **__):
        Path(path).write_bytes(b"half")
        raise self.error

    savefig = save


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=repr
)
def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path, monkeypatch, error):
    (tmp_path / "a.png").write_bytes(b"old")
    with pytest.raises(type(error)):
        gallery.write_png(Failing(error), tmp_path / "a.png")
    rows = [
        {
            "grid": "karras",
            "problem": "p",
            "path": "ve",
            "sampler": "isdo",
            "label": "ISDO",
            "calls": 5,
        }
    ]
    rows[0] |= {"median": 0.1, "lower": 0.1, "upper": 0.1}
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda _, path, **__: Failing(error).save(path)
    )
    with pytest.raises(type(error)):
        report.plot(rows, tmp_path / "a.png")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.png", b"old")]


@pytest.mark.parametrize("ending", ["png", "svg", "PDF"])
def test_a_plot_is_of_the_kind_that_its_ending_says(tmp_path, ending):
    row = {
        "grid": "karras",
        "problem": "p",
        "path": "ve",
        "sampler": "isdo",
        "label": "ISDO",
        "calls": 5,
    }
    file = report.check_plot(tmp_path / f"a.{ending}")
    report.plot([row | {"median": 0.1, "lower": 0.1, "upper": 0.1}], file)
    begins = {"png": b"\x89PNG", "svg": b"<?xml", "PDF": b"%PDF"}[ending]
    assert file.read_bytes().startswith(begins) and list(tmp_path.iterdir()) == [file]


def test_the_references_of_a_bench_are_whole_or_not_there(tmp_path, monkeypatch):
    from isdo.bench.problems import problem
    from isdo.bench.work_precision import _stored

    def save(_, path):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(KeyboardInterrupt):
        _stored(lambda p: (p.x, p.x), tmp_path, problem("stationary", "ve"))
    assert not list(tmp_path.iterdir())
