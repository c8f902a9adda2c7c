"""Tableaux: what they claim holds, what is wrong is refused, and a step is of the order that the
conditions say."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from isdo.bench.problems import hartley
from isdo.tableau import DORMAND_PRINCE, HEUN, RK4, TABLEAUX, Tableau, density, trees

ALL = pytest.mark.parametrize("row", TABLEAUX.values(), ids=TABLEAUX)


def test_the_table_has_what_the_solvers_need():
    assert {name: (row.order, row.stages, row.fsal, row.low_order) for name, row in TABLEAUX.items()} == {
        "euler": (1, 1, False, 0), "heun": (2, 2, False, 1), "rk4": (4, 4, False, 0),
        "bogacki_shampine": (3, 4, True, 2), "dormand_prince": (5, 7, True, 4),
    }  # fmt: skip


def test_rooted_trees_are_as_many_as_there_are():
    assert [len(trees(n)) for n in range(1, 8)] == [1, 1, 2, 4, 9, 20, 48]  # OEIS A000081
    assert sorted(density(tree) for tree in trees(4)) == [4, 8, 12, 24]


@ALL
def test_sums_are_exact(row):
    assert sum(row.b) == 1 and sum(row.errors) == 0 and all(isinstance(b, Fraction) for b in row.b)
    assert bool(row.errors) == bool(row.low)


@pytest.mark.parametrize("change, says", [
    ({"c": (Fraction(0), Fraction(1, 3), Fraction(1, 2), Fraction(1))}, "rows must sum to c"),
    ({"b": (Fraction(1, 6), Fraction(1, 3), Fraction(1, 3), Fraction(1, 3))}, "said to be of order 4 are of order 0"),
    ({"b": (Fraction(1, 4),) * 4}, "said to be of order 4 are of order 2"),
    ({"order": 3}, "said to be of order 3 are of order 4"),
    ({"b": RK4.b[:3]}, "3 weights want so many rows"),
    ({"low": RK4.b, "low_order": 3}, "said to be of order 3 are of order 4"),
])  # fmt: skip
def test_wrong_data_are_refused_at_birth(change, says):
    with pytest.raises(ValueError, match=says):
        replace(RK4, **change)


def slope(t, y):
    return math.cos(t) * y + math.sin(3 * t)


def solved(row, steps, weights="y"):
    y, t, h, first = 1.0, 0.0, 2.0 / steps, None
    for _ in range(steps):
        done = row.step(slope, t, y, h, first)
        y, t, first = done.y, t + h, done.slopes[-1] if row.fsal else None
    return y


@ALL
def test_the_slope_of_the_error_is_the_order(row):
    exact = solved(DORMAND_PRINCE, 2000)
    errors = [abs(solved(row, n) - exact) for n in (20, 40, 80)]
    assert math.log2(errors[1] / errors[2]) == pytest.approx(row.order, abs=0.3)


@pytest.mark.parametrize(
    "row", [row for row in TABLEAUX.values() if row.low], ids=lambda row: row.name
)
def test_the_embedded_estimate_shrinks_with_its_order(row):
    sizes = [abs(row.step(slope, 0.3, 1.0, h).error) for h in (0.1, 0.05)]
    assert math.log2(sizes[0] / sizes[1]) == pytest.approx(row.low_order + 1, abs=0.4)


@pytest.mark.parametrize(
    "row", [row for row in TABLEAUX.values() if row.fsal], ids=lambda row: row.name
)
def test_the_last_slope_is_that_of_the_end_to_the_last_bit(row):
    done = row.step(slope, 0.3, 1.0, 0.1)
    assert done.slopes[-1] == slope(0.3 + 0.1, done.y)
    calls = []
    again = row.step(lambda t, y: calls.append(t) or slope(t, y), 0.4, done.y, 0.1, done.slopes[-1])
    assert len(calls) == row.stages - 1 and again.y == row.step(slope, 0.4, done.y, 0.1).y


def test_without_an_embedded_method_there_is_no_error():
    assert (
        RK4.step(slope, 0.0, 1.0, 0.1).error is None
        and HEUN.step(slope, 0.0, 1.0, -0.1).error is not None
    )
    assert isinstance(HEUN, Tableau)


def test_runge_kutta_in_an_orthonormal_basis_is_the_pixel_space_method(normal):
    """The documents' "spectral RK cures aliasing": by itself the transform changes nothing, to
    rounding."""
    x = normal(2, 1, 16, 16)

    def pixels(t, y):
        return torch.tanh(y) * t - y

    def modes(t, y):
        return hartley(pixels(t, hartley(y)))

    for row in TABLEAUX.values():
        there = hartley(row.step(modes, 0.5, hartley(x), 0.3).y)
        torch.testing.assert_close(there, row.step(pixels, 0.5, x, 0.3).y, rtol=0, atol=1e-13)
