"""The whole trajectory at once: collocation equations between noise levels, solved by sweeps over
all of them.

Each round asks the model at all nodes that are in flight; a run takes fewer rounds than a
sequential one, and more calls. The levels may fall or rise: the equations are the same, and what is
unknown lies at the other end. Theory page, section 14.
"""

import math
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch

from .curvature import RATIO_LIMIT
from .device import constants, full_precision, wide
from .fit import Change
from .quadrature import depth, step_shares, step_total

# An interval's interpolation takes as many nodes as leave its Lebesgue constant below that: all of
# Chebyshev's, six where they are even and the interval is the first, more in the middle.
LEBESGUE = 4.0
WIDEST = 33  # nodes of an interpolation at most
# Before the model's answer to a change of x has been seen, so much of a Gaussian's is expected.
EXPECTED = 0.6
# Where the picture is fainter in x than that, the answer is not taken to be larger than where it is
# so strong.
FAINT = 0.3
# Of the changes that were seen, so many take part in foretelling an answer; ``RIDGE`` keeps two
# that are alike apart.
DEPTH, RIDGE = 2, 1e-3
# Patience ends where nothing became final, and no residual fell below that share of the best, for
# so many sweeps.
PATIENCE, FALLING = 4, 0.7
# Then so many tolerances are final. What is further off goes on by Picard's iteration, which is
# slow, and gets there: each round of it makes one more node right.
ROUNDED = 100.0
# An implicit answer over one interval amplifies no more than twofold; it is solved in so many
# iterations; no earlier change is stretched further than that.
MOST, INNER, STRETCH = 0.5, 2, 3.0
BEHIND = 2  # nodes behind the last final one that are kept for the step to 0


@dataclass(frozen=True)
class Acceleration:
    """How a sweep goes on from the residuals.

    Args:
        answers: the model's answer to a correction is foretold, in each band by what it last was;
            else D stays as it is, which is Picard's iteration.
        depth: how many of the last changes of x at a node, with the answers of D to them, take part
            besides: Anderson acceleration, node by node; 0 to 2.
    """

    answers: bool = True
    depth: int = DEPTH


PICARD = Acceleration(answers=False, depth=0)


def place(path, sigma, limit=RATIO_LIMIT):
    """Return where a noise level lies in the variable of interpolation, that of `depth`; equation
    14.2."""
    return -math.log(path.signal(sigma) / sigma + 1 / limit)


def chebyshev(path, first, last, intervals):
    """Return the intervals + 1 Chebyshev-Lobatto nodes from one noise level to another, both above
    0; either may be larger.

    Equation 14.3.
    """
    ends = place(path, first), place(path, last)
    parts = (math.sin(math.pi * k / (2 * intervals)) ** 2 for k in range(1, intervals))
    inner = (
        1 / (math.exp(-(ends[0] + part * (ends[1] - ends[0]))) - 1 / RATIO_LIMIT + path.fade)
        for part in parts
    )
    return [first, *inner, last]


class Interval(NamedTuple):
    """How x at one node follows from the one before: x1 = ratio x0 + total sum_i share_i m_i;
    equation 14.1.

    ``first`` is the node of the first share; ``final``: whether more nodes would change nothing.
    """

    ratio: object
    total: object
    shares: object
    first: int
    final: bool


class Equations:
    """The collocation equations between noise levels; numbers of all pictures, states of none.

    Args:
        path: a Path.
        spectrum: a Spectrum.
        sigmas: falling or rising floats, all above 0.
        like: a tensor of the state's dtype, on its device.
        reach: the most nodes that one interpolation takes.
        limit: the noise-to-signal ratio above which the variable of interpolation no longer counts
            factors.

    Raises:
        ValueError: levels that neither fall nor rise, or that are not above 0.
    """

    def __init__(self, path, spectrum, sigmas, like, reach=WIDEST, limit=RATIO_LIMIT):
        steps = [after - before for before, after in pairwise(sigmas)]
        if not all(sigma > 0 for sigma in sigmas) or not (
            all(s < 0 for s in steps) or all(s > 0 for s in steps)
        ):
            raise ValueError(
                f"the nodes are {[float(f'{s:g}') for s in sigmas[:8]]}: give levels above 0 that fall, or rise"
            )
        self.path, self.spectrum, self.sigmas, self.like = path, spectrum, list(sigmas), like
        self.tau, self.limit = depth(path, limit), limit
        self.stencils = stencils(
            [place(path, sigma, limit) for sigma in sigmas], min(reach, WIDEST)
        )
        # the first node that any interval from here on takes
        self.needed = list(
            accumulate((first for first, _ in reversed([*self.stencils, (self.last, 0)])), min)
        )[::-1]
        self.plain = {}

    @property
    def last(self):
        """The index of the last node."""
        return len(self.sigmas) - 1

    def signal(self, j):
        """Return a at a node."""
        return self.path.signal(self.sigmas[j])

    def stencil(self, j, known):
        """Return (first, end, whether it is final) of the nodes whose m interval j interpolates,
        where ``known`` are known."""
        first, end = self.stencils[j]
        if end <= known:
            return first, end, True
        return max(0, first - (end - known)), known, False

    def interval(self, j, known, power=None):
        """Return the Interval from node j to the next.

        Args:
            known: the nodes before this one may be interpolated.
            power: Power of one picture; None: 0.
        """
        first, end, final = self.stencil(j, known)
        if power is None:
            if (j, first, end) not in self.plain:
                zero = torch.zeros((), dtype=torch.float64, device="cpu")
                ratio, total = step_total(self.path, *self.sigmas[j : j + 2], zero)
                shares = self._shares(j, first, end)
                self.plain[j, first, end] = Interval(
                    float(ratio), float(total), shares, first, final
                )
            return self.plain[j, first, end]
        ratio, total = step_total(self.path, *self.sigmas[j : j + 2], power.modes)
        return Interval(ratio, total, self._shares(j, first, end), first, final)

    def _shares(self, j, first, end):
        return step_shares(*self.sigmas[j : j + 2], self.sigmas[first:end], self.tau)


def stencils(places, widest):
    """Return (first, end) of the nodes that each interval interpolates.

    As many as leave the Lebesgue constant over the interval below LEBESGUE, as near to its middle
    as the ends allow.
    """
    return [_stencil(places, j, widest) for j in range(len(places) - 1)]


def _stencil(places, j, widest):
    for width in range(min(widest, len(places)), 2, -1):
        first = min(max(0, j + 1 - width // 2), len(places) - width)
        if lebesgue(places[first : first + width], places[j], places[j + 1]) < LEBESGUE:
            return first, first + width
    return j, j + 2


def lebesgue(knots, start, end):
    """Return the largest sum of |Lagrange polynomial| between ``start`` and ``end``, at five points
    within."""
    knots = wide(knots)
    at = start + (end - start) * torch.linspace(0.1, 0.9, 5, dtype=torch.float64, device="cpu")
    apart = torch.eye(len(knots), dtype=torch.bool, device="cpu")
    above = (at[:, None, None] - knots).masked_fill(apart, 1.0)
    below = (knots[:, None] - knots).masked_fill(apart, 1.0)
    return float((above / below).prod(-1).abs().sum(-1).max())


class Node(NamedTuple):
    """x and D at a node (modes of one picture), with e = a (x - a D)/s^2; what `fit` and `window`
    look at."""

    sigma: float
    state: torch.Tensor
    denoised: torch.Tensor
    noise: torch.Tensor

    @property
    def corrected(self):
        return self.state


class Final(NamedTuple):
    """A node that is done: x and D, modes of one picture."""

    node: int
    state: torch.Tensor
    denoised: torch.Tensor


class Trajectory:
    """One picture: x and D at the nodes that are in flight, from the first node on; theory page,
    section 14.

    A run asks the model at ``asked``, calls ``take`` with the answers and ``settle`` with the
    residuals, until ``done``. Nothing is written into a tensor that it holds.

    Args:
        equations: Equations.
        state: x at the first node, modes (1, channels, K).
        norm: ``norm(gap, sigma, denoised)`` -> the size of a gap in x, in tolerances (0-dim).
        window: Whole or Masked, of the picture.
        reach: how many nodes are in flight at most.

    Rarely needed:
        power: the Power of the data where it is known: if they are Gaussian, the first sweep is
            exact.
        power_of: what makes a Power of a Change over an interval (`fit.measure_of`); None: it is 0.
        acceleration: an Acceleration.
        guess: modes of x at all nodes, to begin with; None: m is held.
        most: model calls; when one more sweep would take more, it is left as it is.

    Attributes:
        asked: indices of the nodes where the model is to be asked next; empty once it is done.
        low: the last node that is final, -1 at first.
        final: Finals that were not fetched yet, in order.
        calls: how often the model was asked.
        first: the largest residual that the first sweep found, in tolerances.
        spent: whether it was left as it is for want of calls.
    """

    def __init__(
        self,
        equations,
        state,
        norm,
        window,
        reach,
        *,
        power=None,
        power_of=None,
        acceleration=None,
        guess=None,
        most=math.inf,
    ):
        self.equations, self.norm, self.window, self.reach = equations, norm, window, max(reach, 2)
        self.power, self.power_of, self.most, self.first, self.spent = (
            power,
            power_of,
            most,
            None,
            False,
        )
        self.acceleration = Acceleration() if acceleration is None else acceleration
        self.states, self.denoised, self.raw, self.secants, self.calls = {0: state}, {}, {}, {}, 0
        self.low, self.known, self.final, self.intervals = -1, 1, [], {}
        self.best, self.patience = math.inf, PATIENCE
        if guess is not None:
            self.known = min(self.reach, len(guess))
            self.states |= dict(enumerate(guess[1 : self.known], 1))
        self.asked = list(range(self.known))

    @property
    def done(self):
        return not self.asked

    def take(self, answers):
        """Take in what the model said at ``asked`` and correct these nodes.

        Args:
            answers: modes of D, in the order of ``asked``.

        Returns:
            residuals (n,) of the nodes behind the last final one, in tolerances; None after the
            first call, if that was alone.
        """
        self.calls += len(answers)
        for j, denoised in zip(self.asked, answers, strict=True):
            self.remember(j, denoised)
        if self.low < 0:
            self.finish(0)
        if self.known == 1:
            self.go_on()
            return None
        self.prepare()
        return self.correct()

    def remember(self, j, denoised):
        """Keep D at a node, and how x and D changed there since the last sweep."""
        if j in self.raw and self.acceleration.answers:
            state, before = self.raw[j]
            self.secants[j] = [
                (self.states[j] - state, denoised - before),
                *self.secants.get(j, []),
            ][: max(1, self.acceleration.depth)]
        self.raw[j], self.denoised[j] = (self.states[j], denoised), denoised

    def node(self, j):
        """Return the Node j as it is known."""
        sigma, signal, state, denoised = (
            self.equations.sigmas[j],
            self.equations.signal(j),
            self.states[j],
            self.denoised[j],
        )
        return Node(
            sigma, state, denoised, torch.sub(state, denoised, alpha=signal).mul_(signal / sigma**2)
        )

    def prepare(self):
        """Set the Intervals that are in flight, each with its power if that is measured and trusted
        anywhere."""
        span, powers = range(self.low, self.known - 1), {}
        if self.power is not None:
            powers = dict.fromkeys(span, self.power)
        elif self.power_of is not None:
            nodes, spectrum = (
                [self.node(j) for j in range(self.low, self.known)],
                self.equations.spectrum,
            )
            found = [
                self.measured(Change.between(new, old, self.window, spectrum))
                for old, new in pairwise(nodes)
            ]
            trusted = torch.stack([each.trust.amax() for each in found]).cpu().tolist()
            powers = {
                j: power for j, power, trust in zip(span, found, trusted, strict=True) if trust > 0
            }
        self.powers = powers
        self.intervals = {j: self.equations.interval(j, self.known, powers.get(j)) for j in span}

    def measured(self, change):
        """Return the Power that a Change shows, its modes at every number."""
        power = self.power_of(change)
        return power._replace(modes=power.numbers(change.spectrum.basis.parts))

    def residual(self, j, power):
        """Return m = D - S e at a node."""
        if power is None:
            return self.denoised[j]
        return torch.addcmul(self.denoised[j], power.modes, self.node(j).noise, value=-1)

    def advanced(self):
        """Return {j + 1: x there as the equation of interval j has it}, of all intervals in
        flight."""
        nodes = [self.node(j) for j in sorted(self.denoised)]
        first, denoised = min(self.denoised), torch.cat([node.denoised for node in nodes])
        plain, means = [j for j in self.intervals if j not in self.powers], {}
        if plain:
            rows = [[0.0] * len(nodes) for _ in plain]
            for row, interval in zip(rows, (self.intervals[j] for j in plain), strict=True):
                begin = interval.first - first
                row[begin : begin + len(interval.shares)] = interval.shares
            with full_precision(denoised.device):
                found = (constants(rows, denoised) @ denoised.flatten(1)).view(
                    len(plain), *denoised.shape[1:]
                )
            means = dict(zip(plain, found.split(1), strict=True))
        if self.powers:
            noise = torch.cat([node.noise for node in nodes])
        for j, power in self.powers.items():
            _, _, shares, begin, _ = self.intervals[j]
            part = slice(begin - first, begin - first + len(shares))
            means[j] = (
                torch.addcmul(denoised[part], power.modes, noise[part], value=-1)
                * constants(shares, denoised)[:, None, None]
            ).sum(0, keepdim=True)
        return {
            j + 1: self.kept(j, interval.ratio * self.states[j] + interval.total * means[j])
            for j, interval in self.intervals.items()
        }

    def kept(self, j, stepped):
        """Return x after interval j, kept pixels where a constant D leads."""
        start, end = (self.equations.sigmas[i] for i in (j, j + 1))
        shrink = end / start
        return self.window.keep(
            stepped,
            self.node(j),
            shrink,
            self.equations.signal(j + 1) - self.equations.signal(j) * shrink,
        )

    def correct(self):
        """Correct the nodes in flight; return the residuals of the equations there.

        The residual at a node is what Picard's iteration would change; what is changed is that and
        what D is foretold to answer, equation 14.5.
        """
        residual = shift = torch.zeros_like(self.states[self.low])
        answer, sizes, moved = shift, [], {}
        picture = self.denoised[
            self.known - 1
        ]  # the most that is known of it: early D hold less of it than an error brings
        advanced = self.advanced()
        for j, interval in self.intervals.items():
            defect = advanced[j + 1] - self.states[j + 1]
            residual = interval.ratio * residual + defect
            sizes.append(self.norm(residual, self.equations.sigmas[j + 1], picture))
            shift, answer = self.step(j, shift, answer, defect)
            moved[j + 1] = shift, answer
        for j, (shift, answer) in moved.items():
            self.states[j] = self.kept(j - 1, self.states[j] + shift)
            self.denoised[j] = self.denoised[j] + answer
        return torch.stack(sizes)

    def step(self, j, shift, answer, defect):
        """Return (the correction of x at node j + 1, the foretold answer of D), given those at node
        j: equation 14.5."""
        ratio, total, *_ = self.intervals[j]
        if not self.acceleration.answers:
            return ratio * shift + defect, torch.zeros_like(defect)
        half, foretell = total / 2, self.answers(j + 1)
        fixed = ratio * shift + half * self.lifted(j, j, shift, answer) + defect
        slope = self.lifted(j, j + 1, 1.0, foretell.gain)
        share = half * slope
        share = share.clamp(max=MOST) if torch.is_tensor(share) else min(share, MOST)
        shift = fixed / (1 - share)
        if foretell.changes:
            for _ in range(INNER):
                rest = half * self.lifted(j, j + 1, shift, foretell(shift)) - share * shift
                shift = (fixed + rest) / (1 - share)
        return shift, self.settled(j, shift, foretell(shift))

    def lifted(self, j, i, shift, answer):
        """Return the change of m at node i, by the power of interval j, where x changes by
        ``shift`` and D by ``answer``.

        None as far as the power is trusted: m of a Gaussian does not depend on x.
        """
        power = self.powers.get(j)
        if power is None:
            return answer
        signal, square = self.equations.signal(i), self.equations.sigmas[i] ** 2
        return (1 - power.trust) * (
            answer - power.modes * (signal / square) * (shift - signal * answer)
        )

    def settled(self, j, shift, answer):
        """Return the answer of D at node j + 1 to ``shift``: that of a Gaussian as far as its power
        is trusted."""
        power = self.powers.get(j)
        if power is not None:
            signal, square = self.equations.signal(j + 1), self.equations.sigmas[j + 1] ** 2
            gain = signal * power.modes / (signal**2 * power.modes + square)
            answer = torch.lerp(answer, gain * shift, power.trust)
        return self.window.painted(answer)

    def answers(self, j):
        """Return the Answers of the model at a node."""
        spectrum, signal, sigma = (
            self.equations.spectrum,
            self.equations.signal(j),
            self.equations.sigmas[j],
        )
        seen = self.secants.get(j)
        if not seen:
            denoised = self.window.painted(self.raw[self.known - 1][1])
            power = spectrum.inner(denoised, denoised) / (denoised.shape[1] * spectrum.size)
            gain = EXPECTED * signal * power / (signal**2 * power + sigma**2)
        else:
            (state, denoised), tiny = seen[0], torch.finfo(spectrum.precision).tiny ** 0.5
            gain = spectrum.inner(state, denoised) / (spectrum.inner(state, state) + tiny)
            gain = gain.clamp(0, 1 / max(signal, FAINT))
        gain = spectrum.spread(gain, self.states[j])
        return Answers(gain, (seen or [])[: self.acceleration.depth], spectrum)

    def settle(self, sizes):
        """Let what has converged be final, and say where to ask next.

        Args:
            sizes: the residuals that ``take`` returned, floats.
        """
        worst = max((size if math.isfinite(size) else math.inf) for size in sizes)
        self.first = worst if self.first is None else self.first
        count = self.leading(size <= 1 for size in sizes)
        self.patience = PATIENCE if count or worst < FALLING * self.best else self.patience - 1
        self.best = math.inf if count else min(self.best, worst)
        if self.patience == 0:
            # it does not get any better: by rounding, or because foretold answers drive it to and
            # fro
            count = self.leading(size <= ROUNDED for size in sizes)
            self.acceleration = self.acceleration if count else PICARD
            self.patience, self.best = PATIENCE, math.inf
        for j in range(self.low + 1, self.low + 1 + count):
            self.finish(j)
        self.go_on()

    def leading(self, converged):
        """Return how many nodes behind the last final one have converged, by equations that no
        further node changes."""
        count = 0
        for interval, good in zip(self.intervals.values(), converged, strict=True):
            if not (interval.final and good):
                break
            count += 1
        return count

    def finish(self, j):
        """Let node j be final."""
        self.low = j
        self.final.append(Final(j, self.states[j], self.denoised[j]))

    def go_on(self):
        """Drop what lies behind, take in further nodes, and say where to ask next."""
        last = self.equations.last
        needed = min(self.low - BEHIND, self.equations.needed[self.low])
        for store, first in (
            (self.states, needed), (self.denoised, needed), (self.raw, self.low + 1), (self.secants, self.low + 1)
        ):  # fmt: skip
            for j in [j for j in store if j < first]:
                del store[j]
        while self.known <= min(self.low + self.reach - 1, last):
            self.enter()
        self.asked = list(range(self.low + 1, self.known))

    def enter(self):
        """Take in one more node: x where m, as it is known before it, leads."""
        j = self.known - 1
        ratio, total = step_total(
            self.equations.path, *self.equations.sigmas[j : j + 2], self.held_power()
        )
        stepped = ratio * self.states[j] + total * self.residual(j, self.power)
        self.states[j + 1], self.denoised[j + 1] = self.kept(j, stepped), self.denoised[j]
        self.known += 1

    def held_power(self):
        """Return the power S of what is held from one node to the next."""
        return (
            self.power.modes
            if self.power is not None
            else self.states[self.known - 1].new_zeros(())
        )

    def give_up(self):
        """Let all nodes be final as they are: there are no more calls."""
        while self.low < self.equations.last:
            if self.low + 1 == self.known:
                self.enter()
            self.finish(self.low + 1)
        self.asked, self.spent = [], True


class Answers:
    """What the model is taken to answer to a correction of x at one node: in each band a gain, but
    for changes seen before.

    Args:
        gain: of D over x, at every number.
        changes: pairs of (change of x, change of D) there, newest first, 0 to 2.
        spectrum: a Spectrum.
    """

    def __init__(self, gain, changes, spectrum):
        self.gain, self.spectrum = gain, spectrum
        self.changes = [(x, denoised - gain * x) for x, denoised in changes]
        tiny = torch.finfo(spectrum.precision).tiny ** 0.25
        self.squares = [(1 + RIDGE) * self.product(x, x) + tiny for x, _ in self.changes]
        self.cross = self.product(*(x for x, _ in self.changes)) if len(self.changes) > 1 else None

    def product(self, p, q):
        """Return the inner product over all bands (1,)."""
        return self.spectrum.inner(p, q).sum(1)

    def parts(self, shift):
        """Return how much of each change ``shift`` holds: least squares, by Cramer's rule."""
        along = [self.product(x, shift) for x, _ in self.changes]
        if len(along) < 2:
            return [one / square for one, square in zip(along, self.squares, strict=True)]
        (one, other), (first, second), cross = along, self.squares, self.cross
        # scaled, so that the determinant neither overflows nor vanishes
        skew = cross / first * (cross / second)
        return [
            (one / first - cross / first * (other / second)) / (1 - skew),
            (other / second - cross / second * (one / first)) / (1 - skew),
        ]

    def __call__(self, shift):
        """Return the change of D."""
        answer = self.gain * shift
        for part, (_, denoised) in (
            zip(self.parts(shift), self.changes, strict=True) if self.changes else ()
        ):
            answer = (
                answer + part.clamp(-STRETCH, STRETCH)[:, None, None].to(answer.dtype) * denoised
            )
        return answer


def sweep(trajectories, ask):
    """Let trajectories sweep side by side until all are done; yields after each round of model
    calls.

    Every picture goes its own way, so that a batch changes nothing; one that is a whole window
    ahead waits for the others, so that no more than two windows of nodes are held. The device is
    waited for once a round: somebody has to look at the residuals.

    Args:
        trajectories: a Trajectory for each picture.
        ask: ``ask(asked) -> answers``: lists, by picture, of nodes and of D there (modes).
    """
    while True:
        for each in trajectories:
            if not each.done and each.calls + len(each.asked) > each.most:
                each.give_up()
        running = [each for each in trajectories if not each.done]
        if not running:
            return
        slowest = min(each.low for each in running)
        asked = [each.asked if each.low <= slowest + each.reach else [] for each in trajectories]
        judged = []
        for each, nodes, answers in zip(trajectories, asked, ask(asked), strict=True):
            if nodes and (sizes := each.take(answers)) is not None:
                judged.append((each, sizes))
        if judged:
            every = torch.cat([sizes for _, sizes in judged]).cpu().tolist()
            for each, sizes in judged:
                each.settle(every[: len(sizes)])
                del every[: len(sizes)]
        yield


def resampled(found, coarse, fine):
    """Return x (modes of one picture) at the nodes of ``fine``, by D interpolated between those of
    ``coarse``.

    Args:
        found: Finals at all nodes of ``coarse``.
        coarse, fine: Equations between the same ends.
    """
    knots, at = (
        [place(fine.path, sigma, coarse.limit) for sigma in each.sigmas] for each in (coarse, fine)
    )
    denoised, states = [], [found[0].state]
    for here in at:
        j = min(
            max(0, sum((here < knot) == (knots[0] > knots[-1]) for knot in knots) - 1),
            coarse.last - 1,
        )
        first, end = coarse.stencils[j]
        weights = lagrange(knots[first:end], here)
        denoised.append(
            sum(
                weight * each.denoised
                for weight, each in zip(weights, found[first:end], strict=True)
            )
        )
    for j in range(fine.last):
        ratio, total, shares, first, _ = fine.interval(j, len(at))
        mean = sum(
            share * each
            for share, each in zip(shares, denoised[first : first + len(shares)], strict=True)
        )
        states.append(ratio * states[-1] + total * mean)
    return states


def lagrange(knots, at):
    """Return the values of Lagrange's polynomials over the knots at one point."""
    return [
        math.prod((at - other) / (knot - other) for other in knots if other != knot)
        for knot in knots
    ]
