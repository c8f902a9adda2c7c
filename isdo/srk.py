"""Exponential Runge-Kutta: any tableau, with an integrating factor per band; several model calls a
step."""

import math
from typing import NamedTuple

import torch

from .fit import Change, measure_of
from .quadrature import step_total

# A step in log sigma that is shorter than this says nothing of the power: what changed over it is
# rounding.
SHORTEST = 1e-5


class Call(NamedTuple):
    """One call of the model, in modes (B, channels, K): where, what it said, and ``noise`` = e = a
    (x - a D)/s^2."""

    sigma: float
    state: torch.Tensor
    denoised: torch.Tensor
    noise: torch.Tensor


class Srk:
    """A Runge-Kutta method for what the integrating factor leaves over; theory page, section 11.

    The power is fixed over a step: 0 at first, then what the last step showed. ``predict`` says
    where each stage is to be asked, ``observe`` takes in the answer. Nothing is written into what
    it holds, so that a copy is a run of its own.

    Args:
        tableau: a Tableau.
        path: a Path.
        spectrum: a Spectrum.
        settings: Settings.
        like: a tensor of the state's dtype, on its device; not needed here.
        window: Whole or Masked.
        low: the smallest sigma that the model knows; not needed here, as nothing is foreseen.
    """

    def __init__(self, tableau, path, spectrum, settings, like, window, low=0.0):
        self.tableau, self.path, self.spectrum, self.window = tableau, path, spectrum, window
        self.power_of = measure_of(spectrum, settings)
        self.stages = (
            tableau.stages - tableau.fsal
        )  # the last stage of FSAL is the first of the next step
        self.reset()

    def reset(self):
        """Forget everything: the model is another one, or the run begins."""
        self.start = self.end = self.power = None
        self.slopes = ()

    def observe(self, sigma, state, denoised, end=None):
        """Take in a call of the model: a stage that ``predict`` asked for, or where a step starts.

        Args:
            sigma: float.
            state, denoised: modes (B, channels, K); denoised is D at state.
            end: where the next step leads, if that is known; not needed here.

        Returns:
            at the end of a step, the embedded estimate of its error (modes of x); None amid a step,
            at the first call, and of a tableau that has no estimate.
        """
        signal = self.path.signal(sigma)
        noise = torch.sub(state, denoised, alpha=signal).mul_(signal / sigma**2)
        call = Call(sigma, state, denoised, noise)
        if 0 < len(self.slopes) < self.stages:
            self.slopes = (*self.slopes, self.slope(call))
            return None
        error = self.error(call) if self.slopes and self.tableau.low else None
        if self.power is None:
            self.power = torch.zeros_like(state[:, :1])
        if self.slopes and self.power_of and abs(math.log(self.start.sigma / sigma)) > SHORTEST:
            change = Change.between(call, self.start, self.window, self.spectrum)
            self.power = self.power_of(change).numbers(self.spectrum.basis.parts)
        self.start, self.slopes = call, ()
        return error

    def place(self):
        """Return where D of the next call may be written: nowhere."""
        return None

    def predict(self, end):
        """Return where the model is to be asked next on the way to the sigma ``end``: (sigma,
        modes, whether that is the end).

        To 0 there is one way without a further call: m stays as it is, which is x = D where S = 0.
        """
        if end == 0:
            return 0.0, self.state(0.0), True
        if not self.slopes:
            self.end, self.slopes = (
                end,
                (None,),
            )  # of the first stage, which is what k1 is taken from
        stage = len(self.slopes)
        if stage == self.stages:
            return end, self.state(end, self.tableau.b), True
        sigma = self.level(self.tableau.c[stage])
        return sigma, self.state(sigma, self.tableau.a[stage]), False

    def level(self, part):
        """Return the sigma where that part of the step in tau = log sigma is done."""
        return (
            self.start.sigma ** (1 - float(part)) * self.end ** float(part)
            if part < 1
            else self.end
        )

    def residual(self, call):
        """Return m = D - S e of a call."""
        return torch.addcmul(call.denoised, self.power, call.noise, value=-1)

    def slope(self, call):
        """Return the slope psi0 (m - k1) du/dtau of dY at a stage; equations 11.1 and 11.2."""
        a0, a = self.path.signal(self.start.sigma), self.path.signal(call.sigma)
        square0, square = (
            a0**2 * self.power + self.start.sigma**2,
            a**2 * self.power + call.sigma**2,
        )
        pace = (square0 / square).sqrt_().div_(square).mul_(-(call.sigma**2))
        return (self.residual(call) - self.residual(self.start)).mul_(pace)

    def moved(self, weights, slopes):
        """Return dY (modes) with these weights of the slopes; equation 11.4."""
        h = math.log(self.end / self.start.sigma)
        terms = [
            (h * float(w), slope)
            for w, slope in zip(weights, slopes, strict=False)
            if w and slope is not None
        ]
        return sum(h * slope for h, slope in terms) if terms else 0 * self.start.state

    def state(self, sigma, weights=()):
        """Return x (modes) at ``sigma``, amid the step or at its end; equation 11.3."""
        start = self.start
        ratio, total = step_total(self.path, start.sigma, sigma, self.power)
        moved = start.state + self.moved(weights, self.slopes) if weights else start.state
        x = torch.addcmul(ratio * moved, total, self.residual(start))
        shrink = sigma / start.sigma
        rise = self.path.signal(sigma) - self.path.signal(start.sigma) * shrink
        return self.window.keep(x, start.state, lambda: start.denoised, shrink, rise)

    def error(self, call):
        """Return the embedded estimate (modes of x) at the end of a step, where FSAL makes ``call``
        a stage: equation 11.5."""
        slopes = (*self.slopes, self.slope(call)) if self.tableau.fsal else self.slopes
        ratio, _ = step_total(self.path, self.start.sigma, call.sigma, self.power)
        return ratio * self.moved(self.tableau.errors, slopes)
