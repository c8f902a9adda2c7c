"""One ISDO step: fit the power, correct, predict; one model call each."""

import math
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement, pairwise

import torch

from .device import constants
from .fit import Change, measured, unknown
from .quadrature import BETWEEN, TAUS, extrapolation_rises, step_rises, step_total

# Signal-to-noise ratio a/s below which the model has seen nothing of the picture: what it said
# there is so far from what it says next that the steps from there are done again as long as it is
# among the nodes.
BLIND = 0.02
# A step that was so much longer than the next one is not done again: the slope between later nodes
# would be stretched over it, and from zero terminal SNR (sigma 4518) a schedule may go to 15 at
# once.
STRETCH = 8
# The variables of interpolation that "auto" lets compete: cautious in long first steps and under
# guidance, and bold.
AUTO = (TAUS["sigma"], TAUS["log1p"])
# A run that begins where noise outweighs the picture less than NEAR times (img2img) has these
# instead, and begins with the second, guided or not.
NEAR_AUTO, NEAR = (TAUS["sigma"], TAUS["log"]), 3.0
# While noise outweighs the picture (a/s below DIM), how strongly D follows it tells plain models
# from strongly guided ones, which overshoot. Below GENTLE the first prediction is bold, and the
# model is taken to answer the first correction.
DIM, GENTLE = 0.5, 0.25
# A step is stiff for such a model from that gain on, if it is as long as that in log r; shorter
# ones less, so that the order of convergence stays. Corrections are taken in part, down to LEAST of
# them, in steps that are STEEP and still more so in those that are STIFF, in which predictions fall
# back to order 2 in sigma besides.
STEEP, STIFF, LEAST = (0.6, 0.1), (0.44, 0.6), 0.2
# The end is foreseen over so many times the last step at most: of the line in sigma, and of the
# detail out of the noise in log sigma; so much of the noise that is left may become detail.
REACH, DETAIL_REACH, DETAIL = 2.0, 3.0, 0.15
# The response in the lowest and in the highest band, in multiples of the setting, while noise
# covers all and at the end; halfway at the noise-to-signal ratio SEEN. Where the picture is fainter
# in x than FAINT, it is taken to be so strong; of the answer to the first correction the part FIRST
# is taken.
EARLY, LATE, SEEN, FAINT, FIRST = (1.0, 0.25), (1.5, 0.6), 2.0, 0.3, 0.5
# The response is learned from that many evaluations back, against a prior worth so many steps like
# the newest; but where the answers are so many times as large (squared) as all that was not
# foretold, the evidence is clear and the prior gains no more.
MEMORY, PRIOR, CLEAR = 3, 8.0, 2.0
# Corrections interpolate through so many nodes at most, whatever order predicts: D was asked at
# predicted x, and a fifth node brings in more of that than it removes of the error.
BETWEEN_NODES = 4
# A step in log sigma that is shorter than this share of the one before it, or than this, is none:
# see `is_twin`.
TWIN_SHARE, TWIN_STEP = 0.05, 1e-5


@dataclass
class Evaluation:
    """One call of the model, in modes (B, channels, K).

    ``state`` is where the model was called (the predicted x), ``denoised`` what it said, ``noise``
    = minus the score there; ``moved`` leads from the state to the best x known for this sigma by
    now. ``early`` marks the first two calls of a run and so its first correction; ``settled`` is
    the trust (B, 1, K) with which it was corrected last.
    """

    sigma: float
    signal: float
    state: torch.Tensor
    denoised: torch.Tensor
    noise: torch.Tensor
    early: bool
    moved: torch.Tensor | None = None
    settled: torch.Tensor | None = None

    @property
    def corrected(self):
        """The best x known."""
        return self.state if self.moved is None else self.state + self.moved


@dataclass(frozen=True)
class Residuals:
    """m = D - S e at several sigmas, newest first, as the newest and how it came about: m_j -
    m_(j+1)."""

    sigmas: list
    newest: torch.Tensor
    changes: list

    def latest(self, count):
        """Return the ``count`` newest of them."""
        return Residuals(self.sigmas[:count], self.newest, self.changes[: count - 1])


def falling(value, half):
    """Return 1 at 0, a half at ``half``, and all but 0 from half as much again on."""
    return 1 / (1 + (value / half) ** 8)


def is_twin(sigmas):
    """Say whether the newest of the sigmas (newest first) is so close to the next that both are one
    node.

    What a call said carries the error of the step before it. Over a far shorter step that error, or
    mere rounding, would be taken for a slope and extrapolated: it grows as the quotient of the
    steps.
    """
    steps = [abs(math.log(old / new)) for new, old in zip(sigmas, sigmas[1:3], strict=False)]
    return bool(steps) and steps[0] < max([TWIN_STEP, *(TWIN_SHARE * step for step in steps[1:])])


class Multistep:
    """Predictor and corrector with an integrating factor per band; theory page, sections 2 to 5.

    Args:
        path: a Path.
        spectrum: a Spectrum.
        settings: Settings.
        like: a tensor of the state's dtype, on its device.
        window: Whole or Masked.
        low: the smallest sigma that the model knows, 0 if it does not say.
    """

    def __init__(self, path, spectrum, settings, like, window, low=0.0):
        self.path, self.spectrum, self.settings, self.window, self.low = (
            path,
            spectrum,
            settings,
            window,
            low,
        )
        self.fitted = spectrum.lowest(settings.modes) if settings.power == "fitted" else None
        self.early, self.late = (
            spectrum.spread(
                (settings.response * (coarse + (fine - coarse) * spectrum.height_of)).clamp(max=1)[
                    None
                ],
                like,
            )
            for coarse, fine in (EARLY, LATE)
        )
        self.reset()

    def reset(self):
        """Forget everything: the model is another one, or the run begins."""
        self.taus = AUTO if self.settings.tau == "auto" else (TAUS[self.settings.tau],)
        self.history, self.residuals, self.answers, self.weights = [], [], [], None
        self.count, self.along, self.size = 0, 0.0, 0.0
        self.band_power = self.power = self.trust = self.doubt = self.gain = self.follow = None

    def __copy__(self):
        """Return a run of its own from here on: evaluations are corrected in place."""
        twin = object.__new__(type(self))
        twin.__dict__.update(
            self.__dict__, history=[replace(evaluation) for evaluation in self.history]
        )
        return twin

    @property
    def corrected(self):
        """The best x (modes) known where the model was asked last."""
        return self.history[0].corrected

    def observe(self, sigma, state, denoised):
        """Take in a call of the model: fit, then correct the last steps.

        Args:
            sigma: float.
            state, denoised: modes (B, channels, K); denoised is D at state.

        Returns:
            how far the last step, done again, is from the prediction, in modes of x; None where it
            is not done again.
        """
        signal = self.path.signal(sigma)
        noise = torch.sub(state, denoised, alpha=signal).mul_(signal / sigma**2)
        if is_twin([sigma, *(e.sigma for e in self.history)]):
            del self.history[0]
        self.history.insert(
            0, Evaluation(sigma, signal, state, denoised, noise, early=self.count < 2)
        )
        self.count += 1
        if self.power is None:
            self.band_power, self.power, self.trust = unknown(state, self.spectrum)
            self.follow = state.new_ones(len(state), 1, 1)
        if len(self.history) > 1:
            change = Change(*self.history[:2], self.window, self.spectrum)
            self.fit(change)
            self.measure_gain(change)
        self.residuals = [
            torch.addcmul(e.denoised, self.power, e.noise, value=-1) for e in self.history
        ]
        self.answers = [None]
        gap = self.correct() if len(self.history) > 1 else None
        del self.history[max(self.settings.order, self.settings.corrector, MEMORY) + 1 :]
        return gap

    def fit(self, change):
        """Measure the power from the change since the last evaluation."""
        if self.fitted is not None:
            self.band_power, self.power, self.trust = measured(change, self.fitted)

    def measure_gain(self, change):
        """Take the largest |dD| / (r^2 |de|) (B, 1) of any step so far, r = s/a, weighted to the
        bands where D changes.

        It is S/r^2 on a Gaussian. Where the picture outweighs the noise, what D does is no sign of
        anything; a model that was steep before is still guided there.
        """
        new = self.history[0]
        if new.signal >= DIM * new.sigma:
            return
        denoised, noise = change.size, change.noise_size
        tiny = torch.finfo(self.spectrum.precision).tiny ** 0.5
        scale = (new.signal / new.sigma) ** 2
        gain = (
            scale
            * denoised.sum(1, keepdim=True)
            / ((denoised * noise).sqrt().sum(1, keepdim=True) + tiny)
        )
        self.gain = gain if self.gain is None else torch.maximum(self.gain, gain)

    def ease(self, start, end, threshold):
        """Return how far the step from ``start`` to the sigma ``end`` is from STEEP or STIFF: (B,
        1), 1 to 0.

        A strongly guided model pulls x back from wherever a bold step or a full correction took it.
        """
        half, whole = threshold
        signal = self.path.signal(end)
        visible = start.signal > 0 and signal > 0
        length = abs(math.log(start.sigma * signal / (end * start.signal))) if visible else whole
        return falling(self.gain * min(1.0, length / whole), half)

    def take(self, x):
        """Return how far the newest state moves towards x: where D is steep, all the way would
        overshoot and swing back."""
        new, old = self.history[:2]
        if self.gain is None:
            return x - new.state
        ease = torch.minimum(
            *(self.ease(old, new.sigma, threshold) for threshold in (STEEP, STIFF))
        )
        part = LEAST + (1 - LEAST) * ease
        return (x - new.state).mul_(torch.maximum(part[:, :, None].to(x.dtype), self.trust))

    def answer(self, evaluation):
        """Return what the model is taken to add to m at the corrected x, if it follows in full:
        None without a correction.

        D at the corrected x is taken to be D + g (corrected - state) / a. The gain that S implies
        leaves m as it is; as far as the fit is not trusted the response is taken: the correction is
        picture-like, and the model follows it further than it follows the noise that S is measured
        on. The first correction of a run from noise is answered in part, and as far as D is gentle:
        under strong guidance it is so large that following it leaves the basin. Theory page,
        section 5.
        """
        if evaluation.moved is None:
            return None
        picture, noise = (SEEN * evaluation.signal) ** 2, evaluation.sigma**2
        response = torch.lerp(self.early, self.late, picture / (picture + noise))
        gain = self.doubt * response / max(evaluation.signal, FAINT)
        if evaluation.early and self.gain is not None:
            gain = gain * (FIRST * falling(self.gain, GENTLE))[:, :, None].to(gain.dtype)
        return gain * evaluation.moved

    def lifted(self, count):
        """Return the Residuals of the ``count`` newest evaluations at their corrected x."""
        nodes = [
            m if answer is None else torch.addcmul(m, self.follow, answer)
            for m, answer in zip(self.residuals[:count], self.answers, strict=False)
        ]
        return Residuals(
            [e.sigma for e in self.history[:count]],
            nodes[0],
            [new - old for new, old in pairwise(nodes)],
        )

    def learn_response(self):
        """Measure in the newest m how far the earlier answers should have been lifted: least
        squares, with a prior of 1.

        Where the model is sure of the picture - a data set once it has settled - it does not answer
        at all.
        """
        newest, *earlier = self.history[: MEMORY + 1]
        answers = self.answers[1:]
        if len(earlier) < 2 or all(answer is None for answer in answers[: len(earlier)]):
            return
        rises = extrapolation_rises([e.sigma for e in earlier], newest.sigma, self.taus[0])[-1]
        ends = [-1.0, *rises, 0.0]
        miss, lifted = self.residuals[0], 0.0
        for m, answer, before, after in zip(
            self.residuals[1:], answers, ends, ends[1:], strict=False
        ):
            miss = torch.sub(miss, m, alpha=after - before)
            lifted = lifted if answer is None else lifted + (after - before) * answer
        miss, lifted = self.window.painted(miss), self.window.painted(lifted)
        scale, along, size = (
            self.spectrum.inner(p, q).sum(1)
            for p, q in ((miss, miss), (miss, lifted), (lifted, lifted))
        )
        tiny = torch.finfo(self.spectrum.precision).tiny ** 0.5
        along, size = along / (scale + tiny), size / (scale + tiny)
        self.along, self.size = self.along + along, self.size + size
        prior = PRIOR * size.clamp(max=CLEAR)
        follow = (self.along + prior) / (self.size + prior + tiny)
        self.follow = follow.clamp(0, 1)[:, None, None].to(miss.dtype)

    def step(self, start, end, residuals, taus, weights=None):
        """Return x (modes) at sigma ``end`` from the corrected x of ``start``.

        ``weights`` (B, taus, n - 1) blend the interpolations of the residuals in each tau, degree
        by degree; None takes all.
        """
        ratio, total = step_total(self.path, start.sigma, end, self.power)
        mean = residuals.newest
        if residuals.changes:
            rises = step_rises(self.path, start.sigma, end, residuals.sigmas, self.band_power, taus)
            if weights is not None:
                rises = rises * weights.permute(1, 2, 0)[:, :, None, :, None]
            rises = sum(
                rises.flatten(0, 1)
            )  # one by one: the order of a reduction hangs on where in a vector an image lies
            for rise, change in zip(
                self.spectrum.spread(rises, mean), residuals.changes, strict=True
            ):
                mean = torch.addcmul(mean, rise, change)
        shrink = end / start.sigma
        x = ratio.mul(start.corrected).addcmul_(total, mean)
        return self.window.keep(x, start, shrink, self.path.signal(end) - start.signal * shrink)

    def correct(self):
        """Do the last steps again, oldest first, with the newest evaluation in the interpolation:
        one order more.

        Returns:
            how far that takes the newest state, in full; None without corrections.
        """
        self.doubt = 1 - self.trust
        self.answers = [self.answer(e) for e in self.history]
        self.learn_response()
        residuals = self.lifted(self.settings.order + 1)
        self.weights = self.weigh_rules(residuals)
        residuals = residuals.latest(BETWEEN_NODES)
        first, steps = self.history[-1], len(self.history) - 1
        blind = first.signal <= BLIND * first.sigma and steps <= len(
            residuals.changes
        )  # else the first node is none any more
        if self.settings.corrector == 0 or not blind:
            steps = min(steps, self.settings.corrector)
        lengths, gap = [abs(old.sigma - new.sigma) for new, old in pairwise(self.history)], None
        while steps > 1 and lengths[steps - 1] > STRETCH * lengths[steps - 2]:
            steps -= 1
        for i in range(steps, 0, -1):
            done = self.history[i - 1]
            x = self.step(self.history[i], done.sigma, residuals, (BETWEEN,))
            gap = x - done.state
            # what a trusted fit has settled stays: later fits of a large S, from changes of e that
            # vanish, are rounding
            done.moved = (
                self.take(x)
                if done.settled is None
                else torch.lerp(x - done.state, done.moved, done.settled)
            )
            done.settled = self.trust
            self.answers[i - 1] = self.answer(done)
        return gap

    def weigh_rules(self, residuals):
        """Return the weights (B, taus, degrees) of the next prediction, by how well each rule
        foretold the newest m.

        The first time there is nothing to foretell: order 2, in the bold tau as far as D is gentle
        or the run begins near. Later the orders and taus count by the inverse square of their miss
        in the last step, per image: long first steps and strong guidance make bold rules wild, and
        smooth stretches make them best. Order 1, which has no say in the weights but makes them
        smaller, counts by the fourth power where it is not the best, so that it is gone from short
        steps.
        """
        (sigma, *earlier), highest = residuals.sigmas, self.settings.order
        if len(earlier) < 2 or highest < 2:
            return self.first_weights()[:, :, : highest - 1]
        foretold = [
            row for tau in self.taus for row in extrapolation_rises(earlier[:highest], sigma, tau)
        ]
        changes = [self.window.painted(change) for change in residuals.changes[:highest]]
        pairs = list(combinations_with_replacement(range(len(changes)), 2))
        products = torch.stack(
            [self.spectrum.per_mode(changes[i], changes[j]).sum(1) for i, j in pairs], 1
        )
        products = self.spectrum.per_band(products).sum(
            -1
        )  # (B, pairs): every miss is a quadratic form in the changes
        forms = [
            [(1 + (i < j)) * v[i] * v[j] for i, j in pairs]
            for v in ([1.0, *(-c for c in row)] for row in foretold)
        ]
        misses = (products[:, None] * constants(forms, products)).sum(-1).clamp(min=0)
        tiny = torch.finfo(self.spectrum.precision).tiny ** 0.25
        trusts = 1 / (misses + tiny)
        total = trusts.sum(1, keepdim=True)
        if (
            len(self.taus) > 1
        ):  # a tau that was asked for by name keeps the exact weights of its order
            still = 1 / (
                products[:, :1] + tiny
            )  # order 1 foretells that m stays and misses by the newest change
            total = total + still * (still / trusts.amax(1, keepdim=True)).clamp(max=1)
        trusts = (trusts / total).unflatten(1, (len(self.taus), -1))
        # a degree serves its own order and the higher ones
        return torch.stack([trusts[..., degree:].sum(-1) for degree in range(trusts.shape[-1])], -1)

    def first_weights(self):
        """Return the weights (B, taus, 1) of the first prediction that has two nodes."""
        first, ones = self.history[1], self.band_power.new_ones(len(self.band_power), 1, 1)
        if len(self.taus) == 1:
            return ones
        if first.sigma <= NEAR * first.signal:
            self.taus = NEAR_AUTO
            bold = ones
        else:
            bold = 0 * ones if self.gain is None else falling(self.gain, GENTLE)[:, :, None]
        return torch.cat([1 - bold, bold], 1)

    def predict(self, end):
        """Return where the model is to be asked next on the way to the sigma ``end``: (sigma,
        modes, whether that is the end).

        It always is. In the step to 0 no m is extrapolated to where no call can be. In stiff steps
        no more than the slope is taken, in the cautious tau, and of that what the evidence gives to
        any order above the first.
        """
        if end == 0:
            residuals = Residuals([], self.foresee(self.lifted(3)), [])
        else:
            residuals = self.lifted(1 if self.weights is None else 1 + self.weights.shape[-1])
        weights = self.weights
        if end > 0 and residuals.changes and self.gain is not None:
            ease, slope = self.ease(self.history[0], end, STIFF), weights[:, :, 0].sum(1)
            weights = ease[:, :, None] * weights
            weights[:, 0, 0] += (1 - ease[:, 0]) * slope
        self.residuals, self.answers = [], []
        return end, self.step(self.history[0], end, residuals, self.taus, weights), True

    def foresee(self, residuals):
        """Return the newest m carried on to the smallest sigma of the model, where the picture is
        what D says.

        Schedules that end far above it ("simple" in few steps) leave detail undone. Pictures have
        detail at every scale, so along the noise n = (x - a D)/s that is left D grows by as much
        for every factor in sigma: that is carried on. Of what else changed, the straight line
        through the last two m, each band goes the part by which the line before it foretold the
        newest, and no further than that was right. Theory page, section 7.
        """
        if (
            len(residuals.changes) < 2
            or self.settings.order == 1
            or not 0 < self.low < residuals.sigmas[0]
        ):
            return residuals.newest
        (sigma, sigma1, sigma2), (last, before) = residuals.sigmas, residuals.changes
        noise, noise1, noise2 = (
            (e.state - e.signal * e.denoised) / e.sigma for e in self.history[:3]
        )
        length, length1 = math.log(sigma1 / sigma), math.log(sigma2 / sigma1)
        ahead = min(DETAIL_REACH * length, math.log(sigma / self.low))
        grown = self.held(last, noise1) + self.held(before, noise2)
        growth = (grown / (length + length1)).clamp(0, DETAIL * sigma / ahead)
        change = last - growth * length * noise1
        line = (before - growth * length1 * noise2) * ((sigma1 - sigma) / (sigma2 - sigma1))
        made, foretold = self.window.painted(change), self.window.painted(line)
        tiny = torch.finfo(self.spectrum.precision).tiny ** 0.25
        size, both = (
            self.spectrum.inner(foretold, foretold) + tiny,
            self.spectrum.inner(made, foretold).clamp(min=0),
        )
        explained = (both / size) * (both / (self.spectrum.inner(made, made) + tiny))
        part = (both / size).clamp(max=1) * explained**2
        reach = min(REACH, (sigma - self.low) / (sigma1 - sigma))
        carried = torch.addcmul(
            residuals.newest, self.spectrum.spread(part, noise), change, value=reach
        )
        return carried + growth * ahead * noise

    def held(self, change, noise):
        """Return how much of ``noise`` (B, channels, K) a change holds, over all painted modes: (B,
        1, 1)."""
        change, noise = self.window.painted(change), self.window.painted(noise)
        size = (
            self.spectrum.inner(noise, noise).sum(1)
            + torch.finfo(self.spectrum.precision).tiny ** 0.25
        )
        return (self.spectrum.inner(change, noise).sum(1) / size)[:, None, None].to(noise.dtype)
