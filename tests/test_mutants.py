"""The table of mutants cannot rot: every change that it makes can be made, and is one."""

import ast

import mutants
import pytest

ROWS = [(part, row) for part in mutants.PARTS for row in part.rows]


@pytest.mark.parametrize("part, row", ROWS, ids=[f"{p.name}: {r.breaks}" for p, r in ROWS])
def test_a_change_is_made_once_and_leaves_a_program(part, row):
    assert row.old != row.new
    ast.parse(mutants.changed(part, row))
    assert all(
        (mutants.ROOT / test.partition("::")[0]).is_file() for test in row.tests or part.tests
    )


def test_no_change_is_there_twice():
    changes = [(part.file, row.old, row.new) for part, row in ROWS]
    assert len(set(changes)) == len(changes) >= 40


def test_a_text_that_is_gone_is_an_error():
    part = mutants.PARTS[0]
    with pytest.raises(ValueError, match="is there 0 times"):
        mutants.changed(part, mutants.Row("no such text", "", ""))
