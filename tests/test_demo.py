"""The first command of the README: what `python -m isdo demo` writes is what it says."""

import contextlib
import io
from functools import partial

import pytest
import torch
from commandline import cli, run
from PIL import Image

from isdo import gallery, models
from isdo.bench import demo, pictures
from isdo.bench.baselines import BASELINES
from isdo.bench.problems import by_runge_kutta, rms
from isdo.refinement import refine
from isdo.sampling import sample_isdo
from isdo.schedules import karras
from isdo.zoo.net import CLASSES

COUNT, BUDGETS, FACES, ANIMALS, DRAWN = 2, (6, 8), 1, 1, 3
FILES = [
    "demo-6-calls.png", "demo-8-calls.png", "demo-pictures.png", "demo-work-precision.png", "demo-refine.png"
]  # fmt: skip
OWN = """
class Gaussian:
    path, sigma_min, sigma_max, shape = "ve", 0.03, 15.0, (3, 16, 24)

    def __call__(self, x, sigma, labels=None):
        variance = 0.25 / (1 + labels[:, None, None, None])
        return x * variance / (variance + sigma[:, None, None, None] ** 2)

def load():
    return Gaussian()
"""
ASKED = ("--model", "gaussians:load", "--label", "0", "8", "--title", "two Gaussians")


def converged(problem, steps):
    return by_runge_kutta(problem, 12)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Run the command on a few pictures; return its folder, what it printed, what went into pages,
    plot and problem."""
    folder, seen = tmp_path_factory.mktemp("demo") / "made", {"pages": [], "plots": [], "of": []}
    page, plot, problem = gallery.page, demo.report.plot, demo.make_problem

    def kept_page(*arguments, **keywords):
        seen["pages"].append(arguments)
        return page(*arguments, **keywords)

    def kept_plot(rows, path):
        seen["plots"].append(rows)
        return plot(rows, path)

    def kept_problem():
        seen["of"].append(problem(count=COUNT))
        return seen["of"][-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "BUDGETS", BUDGETS)
        patch.setattr(demo, "by_runge_kutta", converged)
        patch.setattr(demo, "make_problem", kept_problem)
        patch.setattr(
            demo, "refined_page", partial(demo.refined_page, "eps", FACES, ANIMALS, calls=DRAWN)
        )
        patch.setattr(demo.gallery, "page", kept_page)
        patch.setattr(demo.report, "plot", kept_plot)
        (folder.parent / "gaussians.py").write_text(OWN)
        patch.syspath_prepend(folder.parent)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert cli.main(["demo", "--out", str(folder), *ASKED]) == 0
    return folder, printed.getvalue(), seen


def pictures_of(sheet, row, columns, zoom, labelled):
    """Return the pictures of a row of a page, cut out from its right edge, one pixel for each."""
    side = zoom * demo.SIDE
    top = gallery.FONT + 3 * gallery.GAP if labelled else gallery.GAP
    y = top + row * (side + gallery.GAP)
    lefts = [sheet.width - (columns - j) * (side + gallery.GAP) for j in range(columns)]
    cut = [sheet.crop((x, y, x + side, y + side)) for x in lefts]
    assert all(
        each.resize(each.size, Image.Resampling.NEAREST).tobytes()
        == each.resize((demo.SIDE,) * 2, Image.Resampling.NEAREST)
        .resize(each.size, Image.Resampling.NEAREST)
        .tobytes()
        for each in cut
    )
    return [each.resize((demo.SIDE,) * 2, Image.Resampling.NEAREST).tobytes() for each in cut]


def bytes_of(pictures):
    return [each.numpy().tobytes() for each in gallery.to_bytes(pictures)]


def test_it_names_every_file_that_it_writes_and_writes_no_other(shown):
    folder, printed, _ = shown
    assert printed.splitlines() == [str(folder / name) for name in FILES]
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    for name in FILES:
        with Image.open(folder / name) as image:
            image.verify()


@pytest.mark.parametrize("calls", BUDGETS)
def test_its_pages_show_what_the_samplers_drew_from_the_same_noise(shown, calls):
    folder, _, seen = shown
    (problem,), sheet = seen["of"], Image.open(folder / f"demo-{calls}-calls.png").convert("RGB")
    side = 4 * demo.SIDE + gallery.GAP
    assert sheet.height == gallery.FONT + 3 * gallery.GAP + (1 + len(demo.SHOWN)) * side
    wanted = [problem.reference()]
    for name in demo.SHOWN:
        draw = sample_isdo if name == "isdo" else BASELINES[name].run
        sigmas = karras(calls, problem.sigma_min, problem.sigma_max).to(problem.x)
        wanted.append(draw(problem.model, problem.x, sigmas, problem.extra_args, disable=True))
    for row, images in enumerate(wanted):
        assert pictures_of(sheet, row, COUNT, 4, labelled=True) == bytes_of(images), row
    errors = {
        name: rms(pictures - wanted[0]).quantile(0.5).item()
        for name, pictures in zip(demo.SHOWN, wanted[1:], strict=True)
    }
    assert all(0.001 < error < 1 for error in errors.values())
    _, labels, columns = next(
        page for page in seen["pages"] if len(page) == 3 and f"{calls} calls" in page[1][1]
    )
    said = {name: label.split("\n") for name, label in zip(demo.SHOWN, labels[1:], strict=True)}
    assert labels[0] == "converged" and tuple(columns) == CLASSES
    for name, (_, made, error) in said.items():
        assert made == f"{calls} calls" and error == f"error {errors[name]:.3f}"
    assert said["isdo"][0] == "ISDO"


def sheet_rows(group):
    """Return the rows that the page of both has of a group, as `gallery.page` gets them."""
    return pictures._rows(group, [[(name, calls) for name in pictures.SHOWN] for calls in BUDGETS])


def test_a_model_of_one_s_own_stands_before_the_emoji(shown):
    folder, _, seen = shown
    (problem,), sheet = seen["of"], Image.open(folder / "demo-pictures.png").convert("RGB")
    mine, emoji = [page for page in seen["pages"] if len(page) == 3 and page[2] != CLASSES]
    count, side = pictures.COUNT, pictures.HEIGHT
    assert mine[2] == ["", "", "two Gaussians, schedule karras", "", ""]
    assert emoji[2] == ["", "emoji, guidance 3, schedule karras"] and len(emoji[0][0]) == COUNT
    assert [row.shape for row in mine[0]] == 9 * [(count, 3, side, side * 3 // 2)]
    # each from its own seed, the classes in turn, converged: the closed form of a Gaussian
    x = 15 * gallery.noise(range(count), (3, 16, 24))
    variance = 0.25 / (1 + torch.tensor([0.0, 8, 0, 8, 0]))[:, None, None, None]
    ends = [variance + sigma**2 for sigma in (0.03, 15.0)]
    exact = x * (ends[0] / ends[1]).sqrt() * variance / ends[0]
    assert torch.allclose(mine[0][0], pictures.enlarged(exact), atol=2e-3)
    # what the page holds is what the groups do
    drawn = [problem.reference()]
    group = pictures.Group(
        "", drawn[0], {
            (name, calls): (sample_isdo if name == "isdo" else BASELINES[name].run)(
                problem.model, problem.x, karras(calls, problem.sigma_min, problem.sigma_max).to(problem.x),
                problem.extra_args, disable=True,
            ) for name in pictures.SHOWN for calls in BUDGETS
        },
    )  # fmt: skip
    for got, wanted in zip(emoji[0], sheet_rows(group), strict=True):
        assert torch.equal(got, wanted)
    second = mine[1][2].split("\n")
    assert second[0] == "DPM++ 2M, 6 calls" and second[1].startswith("error ")
    assert second[1].endswith(f", {group.error(('dpmpp_2m', 6)):.3f}")
    assert mine[1][3] == f"ISDO, 6 calls\ndifference x {pictures.MAGNIFIED}"
    assert sheet.height == gallery.FONT + 3 * gallery.GAP + 9 * (side + gallery.GAP)


def test_a_difference_is_magnified_around_grey_and_errors_are_medians():
    exact = torch.zeros(3, 3, 8, 8)
    drawn = exact + torch.tensor([0.0, 0.1, -0.04])[:, None, None, None]
    group = pictures.Group("g", exact, {("isdo", 6): drawn, ("dpmpp_2m", 6): exact + 0.3})
    assert group.error(("isdo", 6)) == pytest.approx(0.04)
    assert group.error(("dpmpp_2m", 6)) == pytest.approx(0.3)
    greys = gallery.to_bytes(group.difference(("isdo", 6)))[:, 0, 0, 0].tolist()
    assert greys == [128, 191, 102]  # 127.5 (1 + 5 d), to the nearest, halves to even
    alone = pictures.page([group], calls=(6,))
    assert alone.height == gallery.FONT + 3 * gallery.GAP + 5 * (pictures.HEIGHT + gallery.GAP)
    two = pictures.page([group, group], calls=(6,))
    assert two.crop((0, 0, alone.width, 40)).getpixel((alone.width - 1, 0)) == (255, 255, 255)
    across = 3 * (pictures.HEIGHT + gallery.GAP)
    assert two.width == alone.width + gallery.GAP + across


@pytest.mark.parametrize(
    "size, mode", [((32, 32), "whole"), ((192, 96), "area"), ((40, 20), "near")]
)
def test_pictures_of_any_size_become_one_height(size, mode):
    x = torch.rand(1, 3, *size)
    got = pictures.enlarged(x)
    assert got.shape[2:] == (96, 96 * size[1] // size[0])
    if mode == "whole":
        assert torch.equal(got, x.repeat_interleave(3, 2).repeat_interleave(3, 3))
    elif mode == "area":
        assert got.mean().item() == pytest.approx(x.mean().item(), abs=1e-6)
    else:
        assert set(got.flatten().tolist()) <= set(x.flatten().tolist())


def test_a_flow_model_is_drawn_on_the_schedule_of_flow_models():
    given = models.of_zoo("flow", labels=(0,))
    assert demo.usual(demo.make_own(given, count=1)) == "flow shift 1"
    assert demo.usual(demo.make_problem(count=1)) == "karras"


def test_its_plot_holds_every_sampler_and_number_of_calls(shown):
    folder, _, seen = shown
    (rows,) = seen["plots"]
    assert {(row["sampler"], row["calls"]) for row in rows} == {
        (name, calls) for name in demo.SHOWN for calls in BUDGETS
    }
    assert all(row["made"] <= row["calls"] and row["grid"] == "karras" for row in rows)
    with Image.open(folder / "demo-work-precision.png") as image:
        # lines of each sampler's own colour, not an empty frame
        assert len(image.convert("RGB").getcolors(2**24)) > 20 and min(image.size) > 200


def test_its_last_page_shows_pictures_drawn_drawn_longer_and_refined(shown):
    folder, _, seen = shown
    sheet = Image.open(folder / "demo-refine.png").convert("RGB")
    model = seen["of"][0].model
    labels = torch.tensor([CLASSES.index("faces")] * FACES + [CLASSES.index("animals")] * ANIMALS)
    extra = {"labels": labels, "guidance": 3.0}
    x = model.sigma_max * gallery.noise(range(FACES + ANIMALS), (3, demo.SIDE, demo.SIDE))
    first, longer = (
        sample_isdo(model, x, karras(steps, model.sigma_min, model.sigma_max), extra, disable=True)
        for steps in (DRAWN, 2 * DRAWN)
    )
    better = refine(model, first, extra, disable=True, seeds=range(FACES + ANIMALS))
    for row, images in enumerate((first, longer, better.x)):
        assert pictures_of(sheet, row, 2, 3, labelled=False) == bytes_of(images), row
    names = next(page for page in seen["pages"] if len(page) == 2)[1]
    assert names == (
        f"drawn\n{DRAWN} calls",
        f"drawn with\n{2 * DRAWN} calls",
        f"drawn, refined\n{DRAWN} + {better.calls} calls",
    )


@pytest.mark.parametrize(
    "flags", [("--label", "1"), ("--guidance", "0"), ("--title", "photographs")]
)
def test_what_is_said_of_no_model_is_refused(flags, capsys, monkeypatch):
    monkeypatch.setattr(demo, "make_problem", None)
    status, printed, error = run(capsys, "demo", *flags)
    assert (status, printed) == (2, "") and flags[0] in error and "--model" in error


def test_what_cannot_be_written_is_said_before_anything_is_drawn(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "make_problem", None)  # drawing would be a TypeError
    (tmp_path / "taken").write_text("a file")
    status, printed, error = run(capsys, "demo", "--out", tmp_path / "taken")
    assert (status, printed) == (2, "") and "taken" in error and error.count("\n") == 1
