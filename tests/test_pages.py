"""The documentation holds together: links lead somewhere, the index has every page, and what the
package cites of the theory is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    path for path in (*ROOT.glob("*.md"), *DOCS.glob("*.md")) if "-part-" not in path.name
)
THEORY = (DOCS / "theory.md").read_text(encoding="utf-8")
WRAPPED = [
    *(DOCS / f"{name}.md" for name in ("theory", "experiments", "claims", "README")),
    *(DOCS / f"{name}.md" for name in ("webui", "settings", "api", "python", "models")),
    ROOT / "README.md",
]
PROSE = 100  # columns


def plain(text):
    """Return a page without its blocks of code."""
    return re.sub(r"```.*?```", "", text, flags=re.S)


def anchors(path):
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", plain(path.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", plain(page.read_text(encoding="utf-8"))):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file) if file else page
        assert path.is_file(), target
        assert not anchor or anchor in anchors(path), target


def test_the_index_has_every_page():
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    listed = {target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", index)}
    assert "../README.md" in listed and listed - {"../README.md"} == {
        path.name for path in PAGES if path.parent == DOCS and path.name != "README.md"
    }


def test_what_the_package_cites_of_the_theory_is_there():
    sections = set(re.findall(r"^## (\d+)\. ", THEORY, re.M))
    equations = set(re.findall(r"\((\d+\.\d+)\)$", THEORY, re.M))
    cited = 0
    for path in (ROOT / "isdo").rglob("*.py"):
        text = " ".join(path.read_text(encoding="utf-8").split())
        for end in (found.end() for found in re.finditer(r"[Tt]heory( page)?,", text)):
            said = re.match(
                r" (sections?|equations?) (\d+(?:\.\d+)?)(?: (?:to|and) (\d+(?:\.\d+)?))?",
                text[end:],
            )
            if said is None:
                continue
            known = sections if said[1].startswith("section") else equations
            assert {said[2], said[3] or said[2]} <= known, f"{path.name}: {said[0]}"
            cited += 1
    assert cited > 25 and len(sections) == 17


def test_equations_are_numbered_once_and_by_their_section():
    section, seen = None, []
    for line in THEORY.splitlines():
        section = (re.match(r"## (\d+)\.", line) or [None, section])[1]
        for number in re.findall(r"^    .* \((\d+\.\d+)\)$", line):
            assert number.split(".")[0] == section
            seen.append(number)
    assert len(seen) == len(set(seen)) > 60


def test_the_theory_has_no_measurements():
    assert "%" not in THEORY and "2 %" in (DOCS / "experiments.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", WRAPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_is_wrapped(page):
    """Tables may be longer, examples, and pictures with what stands for them."""
    lines = plain(page.read_text(encoding="utf-8")).splitlines()
    long = [
        line for line in lines if len(line) > PROSE and not line.startswith(("|", "    ", "!["))
    ]
    assert long == []


@pytest.mark.parametrize("page", WRAPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_tables_have_as_many_cells_in_each_row(page):
    text = plain(page.read_text(encoding="utf-8"))
    for table in re.findall(r"(?:^ *\|.*\n?)+", text, re.M):
        counts = {line.count("|") - line.count("\\|") for line in table.strip().splitlines()}
        assert len(counts) == 1, table[:200]
