"""The README's comparison is what the bench has written into its pages."""

import re
import shlex
from pathlib import Path

import pytest

from isdo.bench.baselines import BASELINES
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


README = rows((ROOT / "README.md").read_text(encoding="utf-8"), columns=2)
PAGES = {name: rows(page(name), columns=1) for name in SUITES}
BY_LABEL = {baseline.label.removesuffix(" tAB-3"): name for name, baseline in BASELINES.items()}


@pytest.mark.parametrize("column, suite", list(enumerate(SUITES)))
def test_the_readme_compares_as_the_pages_do(column, suite):
    told = {BY_LABEL[label]: cells[column] for label, cells in README.items() if label in BY_LABEL}
    assert len(told) == len(BASELINES) and told == {name: PAGES[suite][name][0] for name in told}
    assert float(README["whichever is best in each single cell"][column]) == pytest.approx(
        standing(suite), abs=0.0051
    )


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
