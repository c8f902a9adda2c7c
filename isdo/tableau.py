"""Runge-Kutta tableaux: frozen data that checks its own mathematics at birth."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property
from math import prod
from typing import Any, NamedTuple

Tree = tuple["Tree", ...]
Row = tuple[Fraction, ...]


@cache
def trees(order: int) -> tuple[Tree, ...]:
    """Return the rooted trees with ``order`` nodes; a tree is the sorted tuple of the trees that
    hang from its root."""
    if order == 1:
        return ((),)
    grafted = {
        tuple(sorted((branch, *rest)))
        for size in range(1, order)
        for branch in trees(size)
        for rest in trees(order - size)
    }
    return tuple(sorted(grafted))


def _nodes(tree: Tree) -> int:
    return 1 + sum(_nodes(branch) for branch in tree)


def density(tree: Tree) -> int:
    """Return gamma(tree): the order condition of a tree is sum b_i Phi_i = 1/gamma (Hairer,
    Norsett, Wanner, II.2)."""
    return _nodes(tree) * prod(density(branch) for branch in tree)


class Step(NamedTuple):
    """What one step gives: y at its end, the slopes of all stages, and the embedded estimate of y's
    error or None."""

    y: Any  # a tensor, or anything that adds and scales
    slopes: list[Any]
    error: Any


@dataclass(frozen=True)
class Tableau:
    """An explicit Runge-Kutta method, exact fractions throughout.

    At birth it is checked that rows sum to c, that b sums to 1, that every order condition holds up
    to ``order`` and not all of the next, and the same of the embedded weights. What can be deduced
    is not declared: stages, FSAL, the weights of the error estimate.

    Args:
        name: the key in TABLEAUX.
        order: of b.
        a: rows of the strictly lower triangle, the first empty.
        b: weights of the solution.
        c: fractions of the step.
        low: weights of the embedded solution, or () where there is none.
        low_order: of those.

    Raises:
        ValueError: a tableau whose mathematics does not hold.
    """

    name: str
    order: int
    a: tuple[Row, ...]
    b: Row
    c: Row
    low: Row = ()
    low_order: int = 0

    def __post_init__(self) -> None:
        if [len(row) for row in self.a] != list(range(len(self.b))) or len(self.c) != len(self.b):
            raise ValueError(
                f"tableau {self.name!r}: {len(self.b)} weights want so many rows of 0, 1, 2 .. and so many c"
            )
        if any(sum(row) != c for row, c in zip(self.a, self.c, strict=True)):
            raise ValueError(f"tableau {self.name!r}: its rows must sum to c")
        claims = [(self.b, self.order)] + ([(self.low, self.low_order)] if self.low else [])
        for weights, order in claims:
            if (found := self.order_of(weights)) != order:
                raise ValueError(
                    f"tableau {self.name!r}: weights said to be of order {order} are of order {found}"
                )

    def order_of(self, weights: Row) -> int:
        """Return the highest order whose conditions, and all below, the weights fulfil."""
        order = 0
        while all(self._holds(weights, tree) for tree in trees(order + 1)):
            order += 1
        return order

    def _holds(self, weights: Row, tree: Tree) -> bool:
        return sum(w * v for w, v in zip(weights, self._stages(tree), strict=True)) == Fraction(
            1, density(tree)
        )

    def _stages(self, tree: Tree) -> list[Fraction]:
        """Return Phi_i of a tree: the product over its branches of sum_j a_ij Phi_j."""
        branches = [self._stages(branch) for branch in tree]
        return [
            prod((_dot(row, values) for values in branches), start=Fraction(1)) for row in self.a
        ]

    @property
    def stages(self) -> int:
        return len(self.b)

    @property
    def fsal(self) -> bool:
        """Whether the last stage of a step is the first of the next."""
        return self.stages > 1 and self.c[-1] == 1 and (*self.a[-1], Fraction(0)) == self.b

    @cached_property
    def errors(self) -> Row:
        """Weights of y minus the embedded y; () where there is none."""
        return tuple(b - low for b, low in zip(self.b, self.low, strict=bool(self.low)))

    def step(
        self, slope: Callable[[float, Any], Any], t: float, y: Any, h: float, first: Any = None
    ) -> Step:
        """Make one step of dy/dt = slope(t, y) and return a Step.

        Args:
            slope: a function of a float and y; y may be a tensor, or anything that adds and scales.
            t, y: where the step begins.
            h: its length, of either sign.
            first: slope(t, y) if it is known already: the last slope of the step before, with FSAL.
        """
        slopes = [slope(t, y) if first is None else first]
        for c, row in zip(self.c[1:], self.a[1:], strict=True):
            slopes.append(slope(t + float(c) * h, y + h * _sum(row, slopes)))
        error = h * _sum(self.errors, slopes) if self.low else None
        return Step(y + h * _sum(self.b, slopes), slopes, error)


def _dot(row: Row, values: list[Fraction]) -> Fraction:
    return sum((a * v for a, v in zip(row, values, strict=False)), start=Fraction(0))


def _sum(weights: Row, slopes: Sequence[Any]) -> Any:
    """Return the weighted sum of the slopes; weights of 0 cost nothing."""
    return sum(float(w) * slope for w, slope in zip(weights, slopes, strict=True) if w)


def _row(text: str) -> Row:
    return tuple(Fraction(word) for word in text.split())


def _rows(text: str) -> tuple[Row, ...]:
    return tuple(_row(line) for line in text.split(";"))


EULER = Tableau("euler", 1, a=((),), b=_row("1"), c=_row("0"))
HEUN = Tableau(
    "heun", 2, a=_rows("; 1"), b=_row("1/2 1/2"), c=_row("0 1"), low=_row("1 0"), low_order=1
)
RK4 = Tableau(
    "rk4", 4, a=_rows("; 1/2; 0 1/2; 0 0 1"), b=_row("1/6 1/3 1/3 1/6"), c=_row("0 1/2 1/2 1")
)
BOGACKI_SHAMPINE = Tableau(  # Bogacki and Shampine 1989
    "bogacki_shampine", 3, a=_rows("; 1/2; 0 3/4; 2/9 1/3 4/9"), b=_row("2/9 1/3 4/9 0"), c=_row("0 1/2 3/4 1"),
    low=_row("7/24 1/4 1/3 1/8"), low_order=2,
)  # fmt: skip
DORMAND_PRINCE = Tableau(  # Dormand and Prince 1980
    "dormand_prince", 5,
    a=_rows("""; 1/5; 3/40 9/40; 44/45 -56/15 32/9; 19372/6561 -25360/2187 64448/6561 -212/729;
        9017/3168 -355/33 46732/5247 49/176 -5103/18656; 35/384 0 500/1113 125/192 -2187/6784 11/84"""),
    b=_row("35/384 0 500/1113 125/192 -2187/6784 11/84 0"), c=_row("0 1/5 3/10 4/5 8/9 1 1"),
    low=_row("5179/57600 0 7571/16695 393/640 -92097/339200 187/2100 1/40"), low_order=4,
)  # fmt: skip

TABLEAUX = {row.name: row for row in (EULER, HEUN, RK4, BOGACKI_SHAMPINE, DORMAND_PRINCE)}
