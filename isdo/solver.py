"""The solvers, as rows: what a run is made of, and how many model calls it takes.

A solver is one run, of one picture or a batch at one sigma. Whoever decides where it goes - a
schedule in `isdo.run`, a tolerance in `isdo.control` - knows three methods of it:

    observe(sigma, state, denoised)   takes in what the model said at ``state`` (modes); at the end of a step it may return
                                      an estimate of the step's error (modes of x)
    predict(end)                      returns where the model is to be asked next on the way to the sigma ``end``:
                                      (sigma, modes, whether that is the end of the step)
    reset()                           forgets all that was: the model is another one

and that a copy (``copy.copy``) is a run of its own from there on. A solver of the whole trajectory
goes no steps but the last one; what it does before is in `isdo.trajectory`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from .multistep import Multistep
from .penalty import calls_each
from .srk import Srk
from .tableau import BOGACKI_SHAMPINE, DORMAND_PRINCE, RK4
from .trajectory import WIDEST


@dataclass(frozen=True)
class Solver:
    """A row of SOLVERS.

    Args:
        make: ``make(path, spectrum, settings, like, window, low)`` -> a run of it.
        order: of convergence, where steps are short.
        estimate: the power of a step's length with which its estimate of the step's error falls; 0:
            it has none.
        calls_a_step: model calls.
        redoes: it does a step again once the model has answered at its end.
        sweeps: 0, or how often the nodes of a whole trajectory are asked at most
            (`isdo.trajectory`); then the order is that of the widest interpolation, and ``make``
            makes what goes the last step, from the trajectory's end to 0.
    """

    make: Callable
    order: int
    estimate: int = 0
    calls_a_step: int = 1
    redoes: bool = False
    sweeps: int = 0

    def calls(self, steps, to_zero=True):
        """Return how many model calls a run of so many steps of a schedule makes, at most; the step
        to 0 is one call."""
        if self.sweeps:
            return self.sweeps * max(steps - to_zero, 0) + (1 if steps > 0 else 0)
        return self.calls_a_step * max(steps - to_zero, 0) + (1 if to_zero and steps > 0 else 0)

    def most_calls(self, steps, tolerance):
        """Return how many model calls a host lets so many steps take: with a tolerance as many, or
        so many in each sweep."""
        return steps if tolerance and not self.sweeps else self.calls(steps)


def _tableau(row):
    estimate = row.low_order + 1 if row.low else 0
    return Solver(partial(Srk, row), row.order, estimate, calls_a_step=row.stages - row.fsal)


# By the names in `isdo.settings`.
SOLVERS = {
    # what a correction changes is what the prediction, one order lower, misses
    "multistep": Solver(Multistep, order=4, estimate=3, redoes=True),
    "srk3": _tableau(BOGACKI_SHAMPINE),
    "srk4": _tableau(RK4),
    "srk5": _tableau(DORMAND_PRINCE),
    "trajectory": Solver(Multistep, order=WIDEST - 1, sweeps=30),
}


def model_calls(settings, steps, masked=False):
    """Return how many model calls a run of so many steps of a schedule that ends in 0 makes,
    without a tolerance.

    Args:
        settings: a Settings.
        masked: whether it runs under a mask: each way back then ends at 0, where the last step is
            one call.
    """
    row, (drawing, ways) = SOLVERS[settings.solver], settings.shares(steps)
    back = sum(row.calls(each, masked or i + 1 == len(ways)) for i, each in enumerate(ways))
    return calls_each(settings.curvature_penalty) * (row.calls(drawing) + back)


def most_calls(settings, steps):
    """Return how many model calls a run makes at most whose schedule has so many steps, in a WebUI:
    they bound a tolerance."""
    if not settings.tolerance:
        return model_calls(settings, steps)
    each, most = (
        calls_each(settings.curvature_penalty),
        SOLVERS[settings.solver].most_calls(steps, settings.tolerance),
    )
    return max(most // each, 1) * each
