"""The first command of the README: what `python -m isdo demo` writes is what it says."""

import contextlib
import io
from functools import partial

import pytest
import torch
from commandline import cli, run
from PIL import Image

from isdo import gallery
from isdo.bench import demo
from isdo.bench.baselines import BASELINES
from isdo.bench.problems import by_runge_kutta, rms
from isdo.refinement import refine
from isdo.sampling import sample_isdo
from isdo.schedules import karras
from isdo.zoo.net import CLASSES

COUNT, BUDGETS, FACES, ANIMALS, DRAWN = 2, (6, 8), 1, 1, 3
FILES = [
    "demo-6-calls.png", "demo-8-calls.png", "demo-work-precision.png", "demo-refine.png"
]  # fmt: skip


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

    def kept_plot(rows, path, schedule):
        seen["plots"].append(rows)
        return plot(rows, path, schedule)

    def kept_problem(name):
        seen["of"].append(problem(name, count=COUNT))
        return seen["of"][-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "BUDGETS", BUDGETS)
        patch.setattr(demo, "by_runge_kutta", converged)
        patch.setattr(demo, "make_problem", kept_problem)
        few = partial(demo.refined_page, faces=FACES, animals=ANIMALS, calls=DRAWN)
        patch.setattr(demo, "refined_page", few)
        patch.setattr(demo.gallery, "page", kept_page)
        patch.setattr(demo.report, "plot", kept_plot)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert cli.main(["demo", "--out", str(folder)]) == 0
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
    for row, pictures in enumerate(wanted):
        assert pictures_of(sheet, row, COUNT, 4, labelled=True) == bytes_of(pictures), row
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
    for row, pictures in enumerate((first, longer, better.x)):
        assert pictures_of(sheet, row, 2, 3, labelled=False) == bytes_of(pictures), row
    names = next(page for page in seen["pages"] if len(page) == 2)[1]
    assert names == (
        f"drawn\n{DRAWN} calls",
        f"drawn with\n{2 * DRAWN} calls",
        f"drawn, refined\n{DRAWN} + {better.calls} calls",
    )


def test_what_cannot_be_written_is_said_before_anything_is_drawn(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "make_problem", None)  # drawing would be a TypeError
    (tmp_path / "taken").write_text("a file")
    status, printed, error = run(capsys, "demo", "--out", tmp_path / "taken")
    assert (status, printed) == (2, "") and "taken" in error and error.count("\n") == 1
