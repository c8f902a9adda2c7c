"""Steps where the picture needs them: how far the next step goes, and whether the last one counts;
theory page, section 12."""

import copy
import math

import torch

from .curvature import RATIO_LIMIT
from .device import wide

# A step in log r that is as short as this counts whatever its estimate is: there is always
# progress.
SHORTEST = 1e-3
# The first step in log r: nobody knows yet what the model will say.
FIRST = 0.5
# What stands for an error that is no number.
HOPELESS = 1e9


class Controller:
    """A PI controller for the length of steps in log r, r = s/a; it knows nothing of solvers.

    Equation 12.3. Names and numbers are those of the literature: Hairer and Wanner, Solving
    Ordinary Differential Equations II, IV.2.

    Args:
        order: the power of a step's length with which its estimated error falls.
        length: of the first step.
    """

    integral, proportional, safety, smallest, largest = 0.7, 0.4, 0.9, 0.2, 5.0

    def __init__(self, order, length=FIRST):
        self.order, self.length, self.before, self.most = order, length, 1.0, self.largest

    def judge(self, error):
        """Say whether a step counts whose estimated error is so many tolerances, and set the length
        of the next one."""
        counts, error = error <= 1 or self.length <= SHORTEST, max(error, 1e-4)
        if counts:
            factor = error ** (-self.integral / self.order) * self.before ** (
                self.proportional / self.order
            )
            self.before, most, self.most = error, self.most, self.largest
        else:
            factor, most, self.most = (
                error ** (-1 / self.order),
                1.0,
                1.0,
            )  # nor is the next one longer
        self.length *= min(max(self.safety * factor, self.smallest), most)
        return counts


class Way:
    """The way from the first to the last level of a schedule, in the place -log(1/r +
    1/RATIO_LIMIT), r = s/a: equation 12.1.

    That is log r, but for levels where next to nothing shows: a step from pure noise (r infinite)
    has a length, too, and the shorter it is the less it does.
    """

    def __init__(self, path, first, last):
        self.path, self.first, self.last = path, first, last

    def place(self, sigma):
        """Return the place of a level."""
        return -math.log(self.path.signal(sigma) / sigma + 1 / RATIO_LIMIT)

    def level(self, place):
        """Return the level at a place."""
        return self.path.from_noise_to_signal(1 / (math.exp(-place) - 1 / RATIO_LIMIT))

    def next(self, sigma, length):
        """Return the level so far below ``sigma``; the last two steps share what is left, so that
        none is a mere rest."""
        here, end = self.place(sigma), self.place(self.last)
        if length >= here - end:
            return self.last
        return self.level(here - min(length, (here - end) / 2))


class Norm:
    """The size of an error of one picture, in tolerances: equation 12.2.

    Args:
        spectrum: a Spectrum.
        window: Whole or Masked, of the picture.
        path: a Path.
        tolerance: of the picture at the end, in its own units and relative to its size.
    """

    def __init__(self, spectrum, window, path, tolerance):
        self.spectrum, self.window, self.path, self.tolerance = spectrum, window, path, tolerance

    def __call__(self, gap, sigma, denoised):
        """Return the size (0-dim) of a gap in x at ``sigma``, where the model said ``denoised``;
        modes (1, channels, K)."""
        gap, denoised = self.window.painted(gap), self.window.painted(denoised)
        inner, count = self.spectrum.inner, denoised.shape[1] * self.spectrum.size
        energy = inner(denoised, denoised)
        power = energy / count
        share = power / (self.path.signal(sigma) ** 2 * power + sigma**2)
        wrong = (share * inner(gap, gap)).sum() / count.sum()
        return wrong.sqrt() / (self.tolerance * (1 + (energy.sum() / count.sum()).sqrt()))


class Walk:
    """One picture on its way: a solver, a controller, and where the model is to be asked next
    (``sigma``, ``modes``).

    Attributes:
        calls, rejected: how often the model was asked, and how many steps did not count.
        result: modes at sigma 0, once ``done``.
    """

    def __init__(self, solver, controller, way, norm, modes):
        self.kept = self.tried = solver
        self.controller, self.way, self.norm, self.sigma, self.modes = (
            controller,
            way,
            norm,
            way.first,
            modes,
        )
        self.here, self.arriving, self.result, self.calls, self.rejected = None, False, None, 0, 0

    @property
    def done(self):
        return self.result is not None

    def take(self, denoised, anew):
        """Take in what the model said; return the error of the step that this ends (0-dim, in
        tolerances), or None.

        Where another model answers, what it was asked is where a new run begins.
        """
        self.calls += 1
        if anew:
            self.tried.reset()
            self.here, self.arriving = None, False
        amid = self.here is not None and not self.arriving
        gap = self.tried.observe(self.sigma, self.modes, denoised)
        if amid:
            self.ask()
        elif gap is None:  # the first call, or a step that cannot be judged
            self.keep()
        else:
            return self.norm(gap, self.sigma, denoised)
        return None

    def settle(self, error):
        """Keep the step or go back, by its error; then set out for the next one."""
        if self.controller.judge(error if math.isfinite(error) else HOPELESS):
            self.keep()
        else:
            self.rejected += 1
            self.set_out()

    def keep(self):
        self.kept, self.here = self.tried, self.sigma
        if self.here <= self.way.last:
            self.finish()
        else:
            self.set_out()

    def set_out(self):
        self.end, self.tried = (
            self.way.next(self.here, self.controller.length),
            copy.copy(self.kept),
        )
        self.ask()

    def ask(self):
        self.sigma, self.modes, self.arriving = self.tried.predict(self.end)

    def finish(self):
        """Go to 0, without a further call, from the last step that counted."""
        self.result = copy.copy(self.kept).predict(0.0)[1]


def walk(walks, ask, most):
    """Let pictures walk side by side until all are done; yields after each round of model calls.

    Every picture goes its own way and those that are done wait, so that a batch changes nothing.
    The device is waited for once a round: somebody has to look at the errors.

    Args:
        walks: a Walk for each picture.
        ask: ``ask(modes (B, channels, K), sigmas, running) -> (denoised modes, whether another
            model answers than before)``; two lists: of levels, and of whether the picture still
            walks.
        most: rounds; a picture that is on its way then goes to 0 from the last step that counted,
            as if that were the last level: it ends on what the model said there.
    """
    for _ in range(most):
        running = [not each.done for each in walks]
        if not any(running):
            break
        denoised, anew = ask(
            torch.cat([each.modes for each in walks]), [each.sigma for each in walks], running
        )
        judged = []
        for i, each in enumerate(walks):
            if running[i] and (error := each.take(denoised[i : i + 1], anew)) is not None:
                judged.append((each, error))
        if judged:
            for (each, _), error in zip(
                judged, wide(torch.stack([error for _, error in judged])).tolist(), strict=True
            ):
                each.settle(error)
        yield
    for each in walks:
        if not each.done:
            each.finish()
