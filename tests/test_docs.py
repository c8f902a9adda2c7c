"""The README's comparison is what the bench has written into its pages."""

import re
from pathlib import Path

import pytest

from isdo.bench.baselines import BASELINES

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
    "suite", (*SUITES, "img2img", "analytic-bent", "zoo-bent", "adaptive", "penalty", "trajectory")
)
def test_a_page_names_the_command_that_writes_it(suite):
    command = next(
        line.strip()
        for line in page(suite).splitlines()
        if line.startswith("    python -m isdo bench")
    )
    assert command.removeprefix("python") in (ROOT / "Makefile").read_text(encoding="utf-8")
