"""Which rule is to be believed: every order and variable of interpolation foretells the newest m,
and counts by how well it did."""

import functools
from dataclasses import dataclass

import torch

from ..device import table
from ..quadrature import TAUS, extrapolation_rises
from .step import shares

# Order 1, m stays as it is, counts by the fourth power of its miss, not the second: it makes the
# others smaller where nothing can be foretold, and is gone from short steps.
SECOND, FOURTH = 2.0, 4.0


@dataclass(frozen=True)
class Rules:
    """The rules that compete at a node: interpolation of some order in some variable.

    Args:
        taus: names of the variables.
        order: the highest.
        held: whether m as it is (order 1) is one of them; the first.
    """

    taus: tuple
    order: int
    held: bool

    @functools.cached_property
    def all(self):
        """(tau, order) of each, tau None where m is held."""
        return [(None, 1)] * self.held + [
            (tau, order) for tau in self.taus for order in range(2, self.order + 1)
        ]


@functools.lru_cache(maxsize=1024)
def misses_of(rules, sigmas):
    """Return what each rule makes of the changes before the newest, as numbers.

    Args:
        rules: Rules.
        sigmas: of the nodes, newest first.

    Returns:
        (factor of each earlier change by rule, how far each follows what the node before the newest
        is lifted by).
    """
    rows = {tau: extrapolation_rises(sigmas[1:], sigmas[0], TAUS[tau]) for tau in rules.taus}
    factors = [() if tau is None else tuple(rows[tau][order - 2]) for tau, order in rules.all]
    width = len(sigmas) - 2
    columns = tuple(tuple(row[j] if j < len(row) else 0.0 for row in factors) for j in range(width))
    return columns, tuple(1 + (row[0] if row else 0.0) for row in factors)


def misses(rules, sigmas, changes):
    """Return by how much each rule missed the newest m, (B, rules, channels, K).

    Args:
        rules, sigmas: as for `misses_of`.
        changes: of m, newest first, each (B, channels, K).
    """
    newest = changes[0][:, None]
    columns, _ = misses_of(rules, sigmas)
    found = newest.expand(-1, len(rules.all), -1, -1)
    for j, (column, change) in enumerate(zip(columns, changes[1:], strict=False)):
        factors = table(tuple(-f for f in column), newest)[:, None, None]
        if j == 0:
            found = torch.addcmul(found, factors, change[:, None])
        else:
            found.addcmul_(factors, change[:, None])
    return found


def weights(rules, sizes):
    """Return how much each rule counts (B, ..., rules), 1 for the best: by the inverse square of its
    miss.

    Args:
        rules: Rules.
        sizes: of the misses (B, ..., rules).
    """
    tiny = torch.finfo(sizes.dtype).tiny ** 0.75
    sizes = sizes + tiny
    powers = tuple(FOURTH if tau is None else SECOND for tau, _ in rules.all)
    best = sizes.amin(tuple(range(1, sizes.ndim)), keepdim=True)
    return (best / sizes).pow(table(powers, sizes))


def answered(found, rules, sigmas, unit, lift, gap):
    """Make the misses those of the rules if the model answered the last correction as it was taken
    to: in place.

    Args:
        found: (B, rules, channels, K).
        rules, sigmas: as for `misses_of`.
        unit, lift, gap: the answer, unit lift gap: a number, (B, 1, 1) or a number, and modes (B,
            channels, K).
    """
    follows = table(tuple(-f * unit for f in misses_of(rules, sigmas)[1]), gap)[:, None, None]
    factors = follows * (lift[:, None] if torch.is_tensor(lift) else lift)
    found.addcmul_(factors, gap[:, None])


@functools.lru_cache(maxsize=1024)
def mixture(rules, hypotheses, end, sigmas, slots, unit):
    """Return what each rule takes of each slot in the next step, as numbers, one row a result.

    Args:
        rules: Rules.
        hypotheses: 2 if the misses were found without and with the last answer, else 1.
        end: where the step leads; at 0 m is held.
        sigmas: of the nodes that are interpolated, newest first.
        slots: as for `step.shares`.
        unit: of the answer.

    Returns:
        rows, each with a number for every rule, once for each hypothesis: 1; the share of the
        answer that is believed, in halves; how far the mean follows what the newest m is lifted by,
        in units; and the share of each slot.
    """
    taken = []
    for tau, order in rules.all:
        if tau is None or end == 0:
            taken.append([float(slot == slots[0]) for slot in range(len(slots))])
        else:
            taken.append(shares(sigmas[0], end, sigmas[:order], TAUS[tau], slots)[-1])
    believed = [0.0] * len(taken) + [2.0] * len(taken) if hypotheses == 2 else [1.0] * len(taken)
    follows = [unit * (1.0 + row[slots[1]]) for row in taken]
    columns = [list(column) * hypotheses for column in zip(*taken, strict=True)]
    rows = [[1.0] * len(believed), believed, follows * hypotheses, *columns]
    return tuple(map(tuple, rows))
