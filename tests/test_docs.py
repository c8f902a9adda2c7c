"""The README's comparison is what the bench has written into its pages, and what the guide tells
people to type runs."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from isdo.__main__ import make_parser
from isdo.bench.baselines import BASELINES
from isdo.commands.bench import with_suite
from isdo.commands.docs import PAGES as WRITTEN

ROOT = Path(__file__).parents[1]
SUITES = ("analytic", "zoo")


def rows(text, columns):
    """Return the first cell and the others of each line of the markdown tables that have so many
    others."""
    cells = (
        [cell.strip() for cell in line.strip("|\n").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    )
    return {first: rest for first, *rest in cells if len(rest) == columns}


def page(name):
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def standing(name):
    """Return the ratio to the best baseline of each cell."""
    return float(re.search(r"best baseline of each cell: \*\*([\d.]+)\*\*", page(name))[1])


README = (ROOT / "README.md").read_text(encoding="utf-8")
COMPARED = rows(README, columns=2)
LENGTH = 150  # lines of the first page: whoever reads it has half a minute


def test_the_readme_compares_as_the_pages_do():
    """Each row of its table names the page that its two numbers are from."""
    told = {
        found[1]: cells
        for label, cells in COMPARED.items()
        if (found := re.search(r"<!-- number: docs/([\w-]+)\.md -->", label))
    }
    assert set(told) >= set(SUITES)
    for name, (one, best) in told.items():
        assert one == rows(page(name), columns=1)["dpmpp_2m"][0], name
        assert float(best) == pytest.approx(standing(name), abs=0.0051), name


def test_the_readme_says_of_how_many_samplers_the_best_is_meant():
    assert len(BASELINES) == 9 and "best of nine" in README


def test_every_number_of_the_readme_names_its_page():
    """What was measured is marked, so that whoever measures anew finds it."""
    prose = re.sub(r"```.*?```|<!--.*?-->|\]\([^)]*\)", "", README, flags=re.S)
    assert re.findall(r"\d %|\b0\.\d", prose) == [
        number for line in README.splitlines() if "<!-- number: " in line
        for number in re.findall(r"\b0\.\d", line)
    ]  # fmt: skip


def test_the_readme_is_short():
    assert len(README.splitlines()) <= LENGTH


def commands(path):
    """Return the command lines that a page tells people to type, without `python -m isdo`."""
    text = path.read_text(encoding="utf-8").replace("SUITE", "zoo")
    return re.findall(r"^ *python -m isdo (.+?)(?: +#.*)?$", text, re.M)


@pytest.mark.parametrize("name", ("python", "models"))
def test_the_guide_s_commands_are_commands(name):
    found = commands(ROOT / "docs" / f"{name}.md")
    assert len(found) > 4
    for each in found:
        assert callable(make_parser().parse_args(with_suite(shlex.split(each))).run), each


def test_the_guide_s_python_runs():
    """The blocks of a page one after the other, with fewer pictures and calls than they say."""
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    code = "".join(re.findall(r"```python\n(.*?)```", text, re.S))
    for long, short in (("karras(12,", "karras(4,"), ("(16,", "(2,")):
        assert long in code
        code = code.replace(long, short)
    names = {}
    exec(code, names)
    drawn, back = names["pictures"], names["again"]
    assert drawn.shape == names["better"].shape == back.shape == (2, 3, 32, 32)
    assert all(torch.isfinite(names[key]).all() for key in ("pictures", "better", "again"))


def test_the_readme_s_python_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert "karras(12," in code
    names = {}
    exec(code.replace("karras(12,", "karras(3,"), names)
    assert names["pictures"].shape == (4, 3, 32, 32) and names["pictures"].abs().max() < 2


@pytest.mark.parametrize(
    "name", [name for name in WRITTEN if (ROOT / "docs" / f"{name}.md").exists()]
)
def test_a_page_names_the_command_that_writes_it(name):
    """As `isdo docs` runs it, but for the models and the number of pictures, which are the person's."""
    line = re.search(r"python -m isdo bench[^`\n]*", page(name))[0]
    told = shlex.split(line.removeprefix("python -m isdo bench").replace("--suite ", "", 1))
    flags = shlex.split(WRITTEN[name].flags)
    assert told[0] == flags[0] and (
        "--doc" not in told or told[told.index("--doc") + 1] == f"docs/{name}.md"
    )
    untold = {"--all", "--into", "docs/experiments.md"}
    assert WRITTEN[name].needs or set(flags) - set(told) <= untold


def test_no_page_of_evidence_has_text_of_a_person():
    for name in WRITTEN:
        path = ROOT / "docs" / f"{name}.md"
        assert not path.exists() or "by hand" not in path.read_text(encoding="utf-8"), name
