"""python -m isdo refine: pages and pictures in, PNG and GIF out, and one clear line for what is neither."""

import pytest
import torch
from commandline import needs_weights, run
from PIL import Image

from isdo import __main__ as cli
from isdo import gallery
from isdo.settings import REFINE_FIELDS, RefineSettings

QUICK = ("--iterations", "2", "--calls", "1")


@pytest.fixture
def page(tmp_path):
    """The file of a page as `sample` writes it: three pictures, zoom 2."""
    pictures = gallery.noise(range(3), (3, 32, 32)).clamp(-1, 1)
    text = "animals, food\nSteps: 2, Seed: 7, CFG scale: 1, Batch size: 3, Version: isdo 0"
    gallery.write_png(gallery.grid(pictures, zoom=2), tmp_path / "page.png", text)
    return tmp_path / "page.png", pictures


@pytest.mark.parametrize("count", [1, 2, 3, 5, 16])
@pytest.mark.parametrize("zoom", [1, 4])
def test_a_page_is_cut_into_its_pictures(count, zoom):
    pictures = gallery.noise(range(count), (3, 16, 16)).clamp(-1, 1)
    found, magnified = gallery.cut(gallery.grid(pictures, zoom=zoom), count, 16)
    assert magnified == zoom and torch.equal(gallery.to_bytes(found), gallery.to_bytes(pictures))


def test_a_page_of_another_size_is_refused():
    with pytest.raises(ValueError, match="no page of 2 pictures of 16 x 16"):
        gallery.cut(Image.new("RGB", (50, 41)), 2, 16)


def test_what_is_transparent_is_white():
    assert torch.equal(gallery.from_image(Image.new("RGBA", (3, 2), (9, 9, 9, 0))), torch.ones(3, 2, 3))


@needs_weights
def test_a_page_comes_out_as_a_page_with_an_animation(capsys, tmp_path, page):
    file, pictures = page
    out, steps = tmp_path / "out.png", tmp_path / "steps.gif"
    status, printed, error = run(capsys, "refine", file, "--out", out, "--animate", steps, *QUICK)
    assert (status, printed.split()) == (0, [str(out), str(steps)]), error
    refined = Image.open(out)
    words, pairs = refined.text["parameters"].split("\n")
    found = dict(pair.split(": ", 1) for pair in pairs.split(", "))
    assert words == "animals, food" and found["Refine seed"] == "7" and found["Refine calls"] == "2"
    assert {field.infotext for field in REFINE_FIELDS} <= set(found)
    animation = Image.open(steps)
    assert animation.n_frames == 3 and animation.size == refined.size == Image.open(file).size
    changed, zoom = gallery.cut(refined, 3, 32)
    assert zoom == 2 and (changed - pictures).abs().mean() > 0.1
    # the palette stays, but for what is clipped to the range of a PNG file
    assert (changed.mean((2, 3)) - pictures.mean((2, 3))).abs().max() < 0.1


@needs_weights
def test_any_picture_of_a_size_the_net_takes(capsys, tmp_path):
    file, out = tmp_path / "in.png", tmp_path / "out.png"
    Image.new("RGBA", (40, 24), "orange").save(file)
    assert run(capsys, "refine", file, "--out", out, *QUICK)[0] == 0
    assert Image.open(out).size == (40, 24)
    again = tmp_path / "again.png"
    assert run(capsys, "refine", file, "--out", again, "--seed", 0, *QUICK)[0] == 0
    assert Image.open(out).tobytes() == Image.open(again).tobytes()
    assert run(capsys, "refine", file, "--out", again, "--seed", 1, *QUICK)[0] == 0
    assert Image.open(out).tobytes() != Image.open(again).tobytes()


@pytest.mark.parametrize("arguments, says", [
    ("refine", "picture"),
    ("refine nowhere.png", "nowhere.png"),
    ("refine text.png", "text.png is no picture"),
    ("refine odd.png", "33 x 32: the models take sides that are multiples of 8"),
    ("refine huge.png", "up to 512"),
    ("refine good.png --out a.jpg", "must end in .png"),
    ("refine good.png --animate a.png", "must end in .gif"),
    ("refine good.png --noise 99", "noise is 99.0: give a number from 0.0 to 10.0"),
    ("refine good.png --generators spin", "spin"),
    ("refine good.png --iterations many", "many"),
])  # fmt: skip
def test_wrong_arguments_get_one_clear_line(capsys, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    for name, size in (("odd", (33, 32)), ("huge", (1024, 32)), ("good", (32, 32))):
        Image.new("RGB", size).save(f"{name}.png")
    (tmp_path / "text.png").write_text("no picture")
    before = sorted(tmp_path.iterdir())
    status, printed, error = run(capsys, *arguments.split())
    assert (status, printed) == (2, "")
    assert says in error and error.startswith("python -m isdo") and error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_every_setting_has_a_flag_that_reaches_it():
    parser = cli.make_parser()
    assert not any(hasattr(parser.parse_args(["refine", "a.png"]), field.key) for field in REFINE_FIELDS)
    for field in REFINE_FIELDS:
        if field.kind is bool:
            words = ["--no-" + field.key.replace("_", "-")]
        else:
            words = [f"{cli.flag(field.key)}={field.choices[-1] if field.choices else field.high}"]
        value = getattr(parser.parse_args(["refine", "a.png", *words]), field.key)
        assert RefineSettings(**{field.key: value}).changed() in ({field.key: value}, {})
        assert type(value) is field.kind and value != field.default or field.default == field.high


def test_info_names_the_settings_of_the_refinement(capsys):
    printed = run(capsys, "info")[1]
    assert all(cli.flag(field.key) in printed and field.help in printed for field in REFINE_FIELDS)
