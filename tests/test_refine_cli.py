"""python -m isdo refine: pages and pictures in, PNG and GIF out, and one clear line for what is
neither."""

import pytest
import torch
from commandline import run
from PIL import Image
from pixels import text

from isdo import __main__ as cli
from isdo import gallery, infotext
from isdo.commands.arguments import flag
from isdo.commands.pages import opened
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
    assert torch.equal(
        gallery.from_image(Image.new("RGBA", (3, 2), (9, 9, 9, 0))), torch.ones(3, 2, 3)
    )


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
    assert not any(
        hasattr(parser.parse_args(["refine", "a.png"]), field.key) for field in REFINE_FIELDS
    )
    for field in REFINE_FIELDS:
        if field.kind is bool:
            words = ["--no-" + field.key.replace("_", "-")]
        else:
            words = [f"{flag(field.key)}={field.choices[-1] if field.choices else field.high}"]
        value = getattr(parser.parse_args(["refine", "a.png", *words]), field.key)
        assert RefineSettings(**{field.key: value}).changed() in ({field.key: value}, {})
        assert type(value) is field.kind and value != field.default or field.default == field.high


def test_info_names_the_settings_of_the_refinement(capsys):
    printed = run(capsys, "info")[1]
    assert all(flag(field.key) in printed and field.help in printed for field in REFINE_FIELDS)


def test_a_refined_page_is_refined_again_picture_by_picture(capsys, tmp_path):
    """Nine pictures at zoom 4 make a sheet of 408 x 408, which the net would take for one
    picture."""
    pictures = gallery.noise(range(9), (3, 32, 32)).clamp(-1, 1)
    words = "animals, food\nSteps: 2, Sampler: isdo, CFG scale: 1.5, Seed: 7, Size: 32x32, Batch size: 9, Version: isdo 0"
    files = [tmp_path / f"{n}.png" for n in range(4)]
    gallery.write_png(gallery.grid(pictures), files[0], words)
    gap = torch.ones(3, gallery.GAP, 408)
    for n, options in enumerate([(), ("--seed", 5, "--guidance", 1, "--label", "flags"), ()]):
        status, _, error = run(
            capsys,
            "refine",
            files[n],
            "--out",
            files[n + 1],
            "--iterations",
            1,
            "--calls",
            1,
            *options,
        )
        assert status == 0, error
        sheet, (before, _, _), (after, zoom, _) = (
            Image.open(files[n + 1]),
            opened(files[n]),
            opened(files[n + 1]),
        )
        assert torch.equal(gallery.from_image(sheet)[:, : gallery.GAP], gap)
        assert (
            zoom == 4
            and after.shape == before.shape
            and all((after[i] - before[i]).abs().mean() > 0.01 for i in range(9))
        )
    first, second, third = (
        infotext.read(Image.open(file).text["parameters"]) for file in files[1:]
    )
    drawn = {
        "Steps": "2",
        "Sampler": "isdo",
        "CFG scale": "1.5",
        "Seed": "7",
        "Size": "32x32",
        "Batch size": "9",
    }
    for _, pairs in (first, second, third):
        assert (
            drawn.items() <= pairs.items()
            and pairs["Label"] == "animals / food"
            and pairs["Version"] == "isdo 0"
        )
        assert {field.infotext for field in REFINE_FIELDS} <= set(pairs) and list(pairs)[
            -1
        ] == "Version"
    assert [line for line, _ in (first, second, third)] == ["animals, food", "flags", "flags"]
    assert (first[1]["Refine seed"], first[1]["Refine CFG scale"], first[1]["Refine label"]) == (
        "7",
        "1.5",
        "animals / food",
    )
    assert (second[1]["Refine seed"], second[1]["Refine CFG scale"], second[1]["Refine label"]) == (
        "5",
        "1",
        "flags",
    )
    assert (third[1]["Refine seed"], third[1]["Refine CFG scale"]) == (
        "7",
        "1.5",
    )  # the file's, as the first time
    history = {
        key: third[1][key]
        for key in ("Refine 1 seed", "Refine 2 seed", "Refine 2 label", "ISDO refine 1 calls")
    }
    assert history == {
        "Refine 1 seed": "7",
        "Refine 2 seed": "5",
        "Refine 2 label": "flags",
        "ISDO refine 1 calls": "1",
    }
    assert "Refine 3 seed" not in third[1] and len(third[1]) == len(first[1]) + 2 * (
        len(first[1]) - len(drawn) - 2
    )


def test_a_second_refinement_is_that_of_the_pictures_alone(capsys, tmp_path, page):
    """What the first one writes changes nothing about the second but its history."""
    file, _ = page
    words = Image.open(file).text["parameters"]
    for name, source in (("first", file), ("second", tmp_path / "first.png")):
        assert run(capsys, "refine", source, "--out", tmp_path / f"{name}.png", *QUICK)[0] == 0
    gallery.write_png(Image.open(tmp_path / "first.png"), tmp_path / "drawn.png", words)
    assert (
        run(capsys, "refine", tmp_path / "drawn.png", "--out", tmp_path / "other.png", *QUICK)[0]
        == 0
    )
    assert (
        Image.open(tmp_path / "other.png").tobytes()
        == Image.open(tmp_path / "second.png").tobytes()
    )


def test_a_picture_takes_the_place_of_itself(capsys, tmp_path, page):
    file, _ = page
    assert run(capsys, "refine", file, "--out", tmp_path / "out.png", *QUICK)[0] == 0
    assert run(capsys, "refine", file, "--out", file, *QUICK)[0] == 0
    assert Image.open(file).tobytes() == Image.open(tmp_path / "out.png").tobytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.png", "page.png"]


def test_a_refined_picture_stays_one_picture_and_keeps_its_class(capsys, tmp_path):
    file = tmp_path / "a.png"
    Image.new("RGB", (40, 24), "orange").save(file)
    assert run(capsys, "refine", file, "--out", file, "--label", "food", *QUICK)[0] == 0
    assert run(capsys, "refine", file, "--out", file, *QUICK)[0] == 0
    line, pairs = infotext.read(Image.open(file).text["parameters"])
    assert line == "food" and pairs["Size"] == "40x24" and "Batch size" not in pairs
    assert pairs["Refine 1 label"] == pairs["Refine label"] == "food"


def told_page(tmp_path, words, count=3):
    file = tmp_path / "page.png"
    gallery.write_png(gallery.grid(torch.zeros(count, 3, 32, 32), zoom=2), file, words)
    return file


@pytest.mark.parametrize("words, says", [
    ("Batch size: 0", "at least 1, not 0"),
    ("Batch size: -3", "at least 1, not -3"),
    ("Batch size: 99999999", "at most"),
    ("Batch size: 9999999", "no page of 9999999 pictures"),
    (f"Batch size: {'9' * 5000}", "whole number"),
    ("Batch size: three", "'three', which must be a whole number"),
    ("Batch size: 3.0", "whole number"),
    ("Batch size: 3, Batch size: 5", "no page of 5 pictures"),
    ("Batch size: 3, Size: 64x64", "Size: '64x64'"),
    ("Batch size: 3, Size: \x1b[2J", "Size: '\\x1b[2J'"),
    ("Batch size: 3, Seed: abc", "'abc', which must be a whole number: give one with --seed"),
    (f"Batch size: 3, Seed: {2**64}", "at most"),
    ("Batch size: 3, Seed: -1", "at least 0"),
    ("Batch size: 3, CFG scale: x", "'x', which must be a number: give one with --guidance"),
    ("Batch size: 3, CFG scale: nan", "not nan"),
    ("Batch size: 3, CFG scale: inf", "not inf"),
], ids=lambda text: text[:40])  # fmt: skip
def test_a_text_that_makes_no_sense_is_refused_in_words(capsys, tmp_path, words, says):
    file = told_page(tmp_path, f"animals\nSteps: 2, {words}, Version: isdo 0")
    status, printed, error = run(capsys, "refine", file, "--out", tmp_path / "out.png", *QUICK)
    assert (status, printed, error.count("\n")) == (2, "", 1)
    assert says in error and "give" in error and len(error) < 500


@pytest.mark.parametrize("words", [
    "animals\nBatch size: 3, Batch size: 3, Version: isdo 0",
    "animals: big, small: \nBatch size: 3, a: b: c, , : , Version: isdo 0",
    "a\nb\n\nBatch size: 3, Version: isdo 0",
    "Batch size: 3, Version: isdo 0",
    "\u732b, animals\nBatch size: 3, Version: isdo 0",
])  # fmt: skip
def test_words_that_do_no_harm_are_passed_over(tmp_path, words):
    pictures, zoom, said = opened(told_page(tmp_path, words))
    assert (len(pictures), zoom) == (3, 2) and set(said["labels"]) <= {"animals"}


@pytest.mark.parametrize("words", [
    None, "", "animals", "a cat\nSteps: 20, Batch size: 3, Version: v1.10.1", "a\nBatch size: 3", "a\nVersion: isdo 0",
])  # fmt: skip
def test_a_sheet_without_our_text_is_one_picture(tmp_path, words):
    pictures, zoom, _ = opened(told_page(tmp_path, words, count=9))
    assert pictures.shape == (1, 3, 216, 216) and zoom is None
    with pytest.raises(
        ValueError, match="146 x 146: the models take sides that are multiples of 8"
    ):
        opened(told_page(tmp_path, words))


@pytest.mark.parametrize("count", [3, 9])
@pytest.mark.parametrize("ends", [b"", b"\0\0"])
def test_a_text_behind_the_pixels_counts_too(tmp_path, count, ends):
    file = told_page(tmp_path, None, count)
    data, words = file.read_bytes(), text(f"animals\nBatch size: {count}, Version: isdo 0")
    file.write_bytes(data[:-12] + words + (ends or data[-12:]))
    pictures, zoom, said = opened(file)
    assert (len(pictures), zoom, said["labels"]) == (count, 2, ["animals"])
