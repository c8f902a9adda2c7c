"""python -m isdo invert: pictures in, noise out, the pictures drawn from it again, and one clear
line for what is neither."""

import pytest
import torch
from commandline import run
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import isdo
from isdo import gallery, latents, schedules, zoo
from isdo.zoo.net import CLASSES


@pytest.fixture
def page(capsys, tmp_path):
    """The file of a page of two pictures that `sample` drew."""
    file = tmp_path / "page.png"
    status, _, error = run(
        capsys,
        "sample",
        "--count",
        2,
        "--steps",
        14,
        "--label",
        "animals",
        "food",
        "--guidance",
        1,
        "--out",
        file,
    )
    assert status == 0, error
    return file


def pictures(file, count=2):
    return gallery.cut(Image.open(file), count, 32)[0]


def test_there_and_back(capsys, tmp_path, page):
    out, back = tmp_path / "noise.safetensors", tmp_path / "back.png"
    status, printed, error = run(capsys, "invert", page, "-o", out, "--back", back)
    assert status == 0, error
    lines = printed.splitlines()
    assert lines[0] == str(out) and lines[1] == "21 model calls a picture" and lines[2] == str(back)
    said = float(lines[3].partition("by ")[2].split()[0])
    assert said < 0.02 and lines[3].startswith("drawn again it differs by")
    gap = (pictures(back) - pictures(page)).square().mean((1, 2, 3)).sqrt()
    assert gap.max() < 0.02
    with safe_open(out, "pt") as file:
        about = file.metadata()
    assert about["Steps"] == "20" and about["Schedule type"] == "karras" and about["Model"] == "eps"


def test_sample_draws_from_it_with_what_the_file_says(capsys, tmp_path, page):
    out, again = tmp_path / "noise.safetensors", tmp_path / "again.png"
    assert run(capsys, "invert", page, "--out", out, "--steps", 25)[0] == 0
    status, _, error = run(capsys, "sample", "--noise", out, "--guidance", 1, "--out", again)
    assert status == 0, error
    words, pairs = Image.open(again).text["parameters"].split("\n")
    found = dict(pair.split(": ", 1) for pair in pairs.split(", "))
    assert (
        words == "animals, food"
        and found["Steps"] == "25"
        and found["Noise"] == "noise.safetensors"
    )
    assert found["Batch size"] == "2" and found["Schedule type"] == "karras"
    assert (pictures(again) - pictures(page)).square().mean().sqrt() < 0.02
    assert (
        run(capsys, "sample", "--noise", out, "--guidance", 1, "--label", "flags", "--out", again)[
            0
        ]
        == 0
    )
    assert (
        pictures(again) - pictures(page)
    ).square().mean().sqrt() > 0.05  # the same noise, another class


def test_the_noise_is_the_library_s(capsys, tmp_path, page):
    out = tmp_path / "noise.safetensors"
    assert (
        run(
            capsys,
            "invert",
            page,
            "--out",
            out,
            "--steps",
            6,
            "--solver",
            "srk3",
            "--label",
            "flags",
        )[0]
        == 0
    )
    model, settings = zoo.load("eps"), isdo.Settings(solver="srk3")
    sigmas = schedules.schedule("karras", 6, model)
    told = {"labels": torch.full((2,), CLASSES.index("flags")), "guidance": 1.0}
    want = isdo.invert(model, pictures(page), sigmas, told, disable=True, settings=settings)
    noise = latents.read(out)
    assert (
        torch.equal(noise.x, want) and noise.sigma == float(sigmas[0]) and noise.labels == ["flags"]
    )


def test_a_picture_of_another_size(capsys, tmp_path):
    file, out, back = tmp_path / "a.png", tmp_path / "n.safetensors", tmp_path / "b.png"
    gallery.picture(gallery.noise([1], (3, 40, 24))[0].clamp(-1, 1)).save(file)
    status, _, error = run(capsys, "invert", file, "--out", out, "--steps", 3, "--back", back)
    assert status == 0, error
    assert latents.read(out).x.shape == (1, 3, 40, 24) and Image.open(back).size == (24, 40)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--out", "noise.png"], "name it something.safetensors"),
        (["--tolerance", "0.01"], "set tolerance to 0"),
        (["--label", "nothing"], "no class of the zoo"),
        (["--schedule", "flow"], "start at sigma 1"),
        (["--steps", "0"], "at least 1"),
    ],
)
def test_what_makes_no_sense_is_one_line(capsys, page, words, message):
    status, printed, error = run(capsys, "invert", page, *words)
    assert status == 2 and message in error and len(error.splitlines()) == 1 and not printed


@pytest.mark.parametrize(
    "change, words, message",
    [
        (None, [], "is no file here"),
        ({"kind": "other"}, [], "holds no noise"),
        ({"sigma": "7.0"}, [], "is of the noise level 7 and the schedule starts at 14.6"),
        ({"Steps": "many"}, [], "holds no noise"),
        ({}, ["--count", "3"], "leave out --count"),
        ({}, ["--model", "flow", "--schedule", "flow"], "is of the noise level 14.6"),
    ],
)
def test_noise_that_does_not_fit_is_one_line(capsys, tmp_path, change, words, message):
    file = tmp_path / "n.safetensors"
    about = {
        "kind": latents.KIND,
        "sigma": repr(zoo.load("eps").sigma_max),
        "Steps": "2",
        "Schedule type": "karras",
    }
    if change is not None:
        save_file({"x": torch.randn(2, 3, 32, 32)}, file, about | {"labels": "[]"} | change)
    status, _, error = run(capsys, "sample", "--noise", file, "--out", tmp_path / "x.png", *words)
    assert status == 2 and message in error and len(error.splitlines()) == 1
    assert not (tmp_path / "x.png").exists()


def test_interrupted_it_leaves_nothing(capsys, tmp_path, page, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("isdo.commands.invert.invert", stop)
    status, printed, error = run(capsys, "invert", page, "--out", tmp_path / "n.safetensors")
    assert status == 130 and "interrupted" in error and not printed
    assert [file.name for file in tmp_path.iterdir()] == ["page.png"]
