"""The multistep core: predictor and corrector with an integrating factor a mode, one model call a
step; theory page, sections 2 to 7.

A step goes through the rooms in this order: `history` takes the call in, `fit` measures the power,
`steepness` whether the model is strongly guided, `evidence` which rule foretold best what it said;
`step` does the last step again with what is known now, and then the next one; `ending` is the last.
"""

import copy
import math
from itertools import pairwise

import torch

from ..device import table
from ..fit import Change, measure_of
from ..quadrature import power_tau
from . import evidence
from .ending import foresee
from .evidence import Rules
from .history import History
from .steepness import Steepness, falling
from .step import advance, mixed, ratios, shares
from .tuned import TUNED, Tuned

__all__ = ["TUNED", "Multistep", "Tuned"]
# Corrections go through one node more than predictions, up to the highest order there is: D was
# asked at predicted x, and a fifth node brings in more of that than it removes of the error.
MOST = 4
# An older step so much longer than the one after it is not done again: the slope between later
# nodes would be stretched over it, and from zero terminal SNR (sigma 4518) a schedule may go to 15.
STRETCH = 8
# What competes by default: a variable that is cautious in long first steps and under guidance, and
# a bold one; in a run that begins near, another bold one.
FAR, NEAR = ("sigma", "log1p"), ("sigma", "log")


class Multistep:
    """A run of the solver.

    Args:
        path: a Path.
        spectrum: a Spectrum.
        settings: Settings.
        like: a tensor of the state's dtype, on its device; not needed here.
        window: Whole or Masked.
        low: the smallest sigma that the model knows, 0 if it does not say.
        tuned: Tuned.
    """

    def __init__(self, path, spectrum, settings, like, window, low=0.0, tuned=TUNED):
        self.path, self.spectrum, self.settings = path, spectrum, settings
        self.window, self.low, self.tuned = window, low, tuned
        self.between = power_tau(tuned.between)
        self.power_of = measure_of(spectrum, settings, tuned.coherent)
        self.reset()

    def reset(self):
        """Forget everything: the model is another one, or the run begins."""
        self.history, self.power, self.steepness = None, None, Steepness(self.tuned)
        self.calls, self.starts, self.unit = 0, [], 1.0
        # the residuals of all slots; what the newest correction lifts m by, as a factor of `gap`
        self.residuals = self.gap = self.lift = self.rules = self.weights = self.ahead = None

    def __copy__(self):
        """Return a run of its own from here on."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__, starts=list(self.starts))
        if self.history is not None:
            twin.history, twin.steepness = self.history.copy(), copy.copy(self.steepness)
        return twin

    @property
    def corrected(self):
        """The best x (modes) known where the model was asked last."""
        return self.starts[0]

    def observe(self, sigma, state, denoised, end=None):
        """Take in a call of the model: measure, and do the last step again.

        Args:
            sigma: float.
            state, denoised: modes (B, channels, K); denoised is D at state.
            end: where `predict` will be asked to go next, if that is known.

        Returns:
            how far the last step, done again, is from the prediction, in modes of x; None where it
            is not done again.
        """
        if self.history is None:
            depth = max(self.settings.order, self.settings.corrector)
            self.history = History(state, depth, self.tuned.twin)
        again = self.history.add(sigma, self.path.signal(sigma), state, denoised)
        del denoised  # which the history has, too
        self.starts, self.calls = [state, *self.starts[again:]], self.calls + 1
        if again:
            self.gap = None
        if self.nodes > 1:
            self.measure()
        self.residuals = self.history.residuals(self.power and self.power.modes)
        self.rules, self.weights = self.believed()
        return self.correct(end)

    def place(self):
        """Return where D of the next call may be written, (B, channels, K), which saves a copy; None
        before there is such a place."""
        return None if self.history is None else self.history.offer()

    @property
    def nodes(self):
        """How many evaluations are known."""
        return len(self.history.sigmas)

    def measure(self):
        """Measure the power and the steepness in the newest change."""
        change = Change(self.window.painted(self.history.change()), self.spectrum)
        if self.power_of is not None:
            self.power = self.power_of(change)
        self.steepness.measure(change, self.history.sigmas[0], self.history.signals[0])

    def believed(self):
        """Return the Rules of the next prediction, and how much each counts (B, hypotheses, rules).

        The first time there is nothing to foretell: the bold variable as far as D is gentle or the
        run begins near. Later each rule counts by its miss of the newest m; and so does, beside it,
        that the model answered the last correction as it was taken to, or that it did not.
        """
        order, nodes, state = self.settings.order, self.nodes, self.starts[0]
        if nodes == 1:
            self.taus = self.variables()
        if order == 1 or nodes == 1:
            return Rules((), 1, True), state.new_ones(1, 1, 1)
        if nodes == 2:
            return Rules(self.taus, 2, False), self.first_weights()
        rules = Rules(self.taus, min(order, nodes - 1), len(self.taus) > 1)
        residuals = self.window.painted(self.residuals)
        changes = [residuals[:, slot] for slot in self.history.slots[1 : rules.order + 1]]
        found = evidence.misses(rules, self.history.sigmas[: order + 1], changes)
        sizes = [torch.linalg.vector_norm(found, dim=(2, 3))]
        if self.gap is not None:
            known = self.history.sigmas[: order + 1]
            evidence.answered(found, rules, known, self.unit, self.lift, self.gap)
            sizes.append(torch.linalg.vector_norm(found, dim=(2, 3)))
        return rules, evidence.weights(rules, torch.stack(sizes, 1))

    def variables(self):
        """Return the names of the variables that compete in this run."""
        if self.settings.tau != "auto":
            return (self.settings.tau,)
        near = self.history.signals[0] >= self.tuned.dim * self.history.sigmas[0]
        return NEAR if near else FAR

    def first_weights(self):
        """Return how much each rule counts (1 or B, 1, rules) where two nodes are known."""
        steep, like = self.steepness.value, self.starts[0]
        if len(self.taus) == 1:
            return like.new_ones(1, 1, 1)
        if self.taus == NEAR or steep is None:
            return table(((0.0, 1.0) if self.taus == NEAR else (1.0, 0.0),), like)[None]
        bold = falling(steep, self.tuned.gentle)
        return torch.cat([1 - bold, bold], -1)

    def correct(self, end):
        """Do the last steps again, oldest first, with the newest evaluation in the interpolation:
        one order more.

        Returns:
            how far that takes the newest state, in full; None without corrections.
        """
        sigmas, known = self.history.sigmas, min(self.nodes, self.settings.order + 1, MOST)
        # one start less where a twin took the last one's place, whose step was done again with it
        steps = min(self.nodes - 1, self.settings.corrector, len(self.starts) - 1)
        if steps and self.history.blind and self.nodes <= known:
            steps = self.nodes - 1  # what was said in the dark is news to none of the later steps
        lengths = [abs(old - new) for new, old in pairwise(sigmas)]
        while steps > 1 and lengths[steps - 1] > STRETCH * lengths[steps - 2]:
            steps -= 1
        ways = [*([] if end is None else [end]), *sigmas[: steps + 1]]
        found = ratios(self.path, self.power and self.power.modes, ways)
        self.ahead = None if end is None else (end, found.pop(0))
        state, x = self.starts[0], self.starts[steps]
        for i in range(steps, 0, -1):
            part = shares(
                sigmas[i], sigmas[i - 1], sigmas[:known], self.between, self.history.slots
            )
            mean = mixed(self.residuals, table(part[-1:], x))
            x = self.starts[i - 1] = self.advance(x, mean, found[i - 1], i, sigmas[i - 1])
        del self.starts[max(self.settings.corrector, known * self.history.blind, 1) :]
        if not steps:
            self.gap = None
            return None
        self.gap = x - state
        taken = self.taken()
        if torch.is_tensor(taken):
            self.starts[0] = torch.addcmul(state, taken, self.gap)
        signal = self.history.signals[0]
        self.unit = self.response() / signal if signal else 0.0
        self.lift = self.answer(taken)
        return self.gap

    def taken(self):
        """Return the part of the newest correction that is taken, (B, 1, 1) or the number 1.

        What a trusted fit says is taken in full.
        """
        (sigma, old), (signal, before) = self.history.sigmas[:2], self.history.signals[:2]
        seen = signal > 0 and before > 0
        length = abs(math.log(old * signal / (sigma * before))) if seen else math.inf
        damped = self.steepness.damped(length)
        if self.power is None or not torch.is_tensor(damped):
            return damped
        return torch.maximum(damped, self.power.trust)

    def response(self):
        """Return how far D is taken to follow a correction: what was chosen, and more towards the
        end, where the picture outweighs the noise."""
        picture = (self.history.signals[0] / self.tuned.dim) ** 2
        seen = picture / (picture + self.history.sigmas[0] ** 2)
        return min(1.0, self.settings.response * (1 + (self.tuned.rise - 1) * seen))

    def answer(self, taken):
        """Return what m rises by at the corrected x, in units of `unit` times the correction in
        full: (B, 1, 1) or a number.

        D at the corrected x is taken to be D + response (corrected - state) / a. The gain that S
        implies leaves m as it is, so this counts as far as the fit is not trusted. The first
        correction of a run is answered as far as D is gentle: under strong guidance it is so large
        that following it leaves the basin. Theory page, section 5.
        """
        if self.calls == 2 and self.steepness.value is not None:
            taken = taken * falling(self.steepness.value, self.tuned.gentle)
        return taken if self.power is None else taken * self.power.doubt

    def predict(self, end):
        """Return where the model is to be asked next on the way to the sigma ``end``: (sigma,
        modes, whether that is the end); it always is.

        In the step to 0 no m is extrapolated to where no call can be.
        """
        sigma = self.history.sigmas[0]
        known, ratio = self.ahead or (None, None)
        if end != known:
            ratio = ratios(self.path, self.power and self.power.modes, [end, sigma])[0]
        x = self.advance(self.starts[0], self.mean(end), ratio, 0, end)
        self.residuals = self.ahead = None
        return end, x, True

    def mean(self, end):
        """Return the mean of m (modes) over the next step."""
        history, slots = self.history, self.history.slots
        order = min(self.rules.order, self.nodes)
        mixture = evidence.mixture(
            self.rules, self.weights.shape[1], end, history.sigmas[:order], slots, self.unit
        )
        sums = (self.weights.flatten(1)[:, None] * table(mixture, self.weights)).sum(-1)
        share, lifted, of = (sums[:, 1:] / sums[:, :1]).split([1, 1, len(slots)], 1)
        if self.gap is not None:
            # where a call follows it is believed unless the evidence is against it, and at the end
            # as far as the evidence is for it
            believed = share.clamp(max=1) if end > 0 else share / 2
            lift = believed[..., None] * self.lift
        if end > 0:
            mean = mixed(self.residuals, of)
            return (
                mean
                if self.gap is None
                else torch.addcmul(mean, lift * lifted[..., None], self.gap)
            )
        newest = self.residuals[:, slots[0]]
        made = torch.stack([self.residuals[:, slot] for slot in (*slots[1:3], slots[1])[:2]], 1)
        self.residuals = None  # whose memory is wanted now
        if self.gap is not None:
            newest = torch.addcmul(newest, lift * self.unit, self.gap)
            made[:, 0].addcmul_(lift * self.unit, self.gap)
        few = self.nodes < 3 or self.settings.order == 1
        if few or not 0 < self.low < history.sigmas[0]:
            return newest
        return foresee(history, newest, made, self.low, self.tuned, self.window, self.spectrum)

    def advance(self, x, mean, ratio, node, end):
        """Return x (modes) at ``end``, from x at a node; kept pixels go where a constant D leads."""
        history = self.history
        start, signal = history.sigmas[node], history.signals[node]
        moved, shrink = advance(self.path, x, mean, ratio, start, end), end / start
        rise = self.path.signal(end) - signal * shrink
        return self.window.keep(moved, x, lambda: history.denoised(node), shrink, rise)
