"""One ISDO step: fit the power, correct, predict; one model call each."""

import itertools
import math
from dataclasses import dataclass

import torch

from .quadrature import BETWEEN, TAUS, extrapolation_weights, step_shares, step_total

# Shares of explained variance from which a fit is believed; trust grows linearly from there to one. What falls short is
# stepped with S = 0 and ends on D itself, as every host expects: on trained nets a half-believed fit costs accuracy.
BAND_COHERENT = 0.9
# One number a mode explains half of anything, so a fit of each mode by itself has to be all but perfect.
MODE_COHERENT = 0.95
# Signal-to-noise ratio a/s below which the model has seen nothing of the picture: what it said there is so far from what it
# says next that the steps from there are done again as long as it is among the nodes.
BLIND = 0.02
# A step that was so much longer than the next one is not done again: the slope between later nodes would be stretched over
# it, and from zero terminal SNR (sigma 4518) a schedule may go to 15 at once.
STRETCH = 8
# The variables of interpolation that "auto" lets compete: cautious in long first steps and under guidance, and bold.
AUTO = (TAUS["sigma"], TAUS["log1p"])
# A run that begins where noise outweighs the picture less than NEAR times (img2img) has these instead, and begins with the
# second, guided or not.
NEAR_AUTO, NEAR = (TAUS["sigma"], TAUS["log"]), 3.0
# While noise outweighs the picture (a/s below DIM), how strongly D follows it tells plain models from strongly guided ones,
# which overshoot. Below GENTLE the first prediction is bold; around STEEP corrections begin to be taken in part, down to
# LEAST of them, but for steps shorter than SHORT in log r, so that the order of convergence stays.
DIM, GENTLE, STEEP, LEAST, SHORT = 0.5, 0.25, 0.6, 0.3, 0.1
# The end is foreseen over so many times the last step at most: of the line in sigma, and of the detail out of the noise in log
# sigma; so much of the noise that is left may become detail.
REACH, DETAIL_REACH, DETAIL = 2.0, 3.0, 0.15
# The response is learned from that many evaluations back, against a prior worth that many steps.
MEMORY, PRIOR = 3, 8.0
# A step in log sigma that is shorter than this share of the one before it, or than this, is none: see `is_twin`.
TWIN_SHARE, TWIN_STEP = 0.05, 1e-5


@dataclass
class Evaluation:
    """One call of the model, in modes (B, channels, K).

    ``state`` is where the model was called (the predicted x), ``denoised`` what it said, ``noise`` = minus the score there;
    ``corrected`` is the best x known for this sigma by now. ``early`` marks the first two calls of a run;
    ``settled`` is the trust (B, 1, K) with which it was corrected last.
    """

    sigma: float
    signal: float
    state: torch.Tensor
    denoised: torch.Tensor
    noise: torch.Tensor
    corrected: torch.Tensor
    early: bool
    settled: torch.Tensor | None = None


def trust(coherence, threshold):
    """Return 0 below the threshold, rising to 1 where everything is explained."""
    return ((coherence - threshold) / (1 - threshold)).clamp(0, 1)


@dataclass(frozen=True)
class Change:
    """What is new since the last call, the painted part: dD and de in modes (B, channels, K), and per image and band
    (B, bands) the products dD dD, de de and de dD."""

    denoised: torch.Tensor
    noise: torch.Tensor
    size: torch.Tensor
    noise_size: torch.Tensor
    both: torch.Tensor

    @classmethod
    def between(cls, new, old, window, spectrum):
        """Return the Change from one Evaluation to the next."""
        denoised, noise = (window.painted(v) for v in (new.denoised - old.denoised, new.noise - old.noise))
        pairs = (denoised, denoised), (noise, noise), (noise, denoised)
        return cls(denoised, noise, *(spectrum.inner(*pair) for pair in pairs))


def fit_bands(change):
    """Fit S >= 0 by least squares of dD = S de, per image and band; theory page, section 3.

    Returns:
        power (B, bands) and coherence (B, bands), the share of dD that the fit explains, 1 for a Gaussian.
    """
    tiny = torch.finfo(change.size.dtype).tiny
    power = change.both.clamp(min=0) / change.noise_size.clamp(min=tiny)
    return power, power * (change.both.clamp(min=0) / change.size.clamp(min=tiny))


def fit_modes(change, spectrum):
    """Fit S >= 0 for every channel and mode by itself: what a Gaussian of any spectrum needs, and noise for all else.

    Returns:
        power (B, channels, K) and coherence (B, bands): 1 for a Gaussian, about a half where there is none; 0 in a basis
        whose modes are single numbers, where one parameter a mode would explain everything.
    """
    parts = spectrum.basis.parts
    if parts == 1:
        return torch.zeros_like(change.noise), torch.zeros_like(change.size)
    tiny = torch.finfo(change.noise.dtype).tiny
    noise, denoised = (v.unflatten(-1, (-1, parts)) for v in (change.noise, change.denoised))
    power = (noise * denoised).sum(-1, keepdim=True).clamp(min=0) / noise.square().sum(-1, keepdim=True).clamp(min=tiny)
    power = power.expand_as(noise).flatten(-2)
    miss = change.denoised - power * change.noise
    return power, 1 - spectrum.inner(miss, miss) / change.size.clamp(min=torch.finfo(change.size.dtype).tiny)


def falling(value, half):
    """Return 1 at 0, a half at ``half``, and all but 0 from half as much again on."""
    return 1 / (1 + (value / half) ** 8)


def is_twin(sigmas):
    """Say whether the newest of the sigmas (newest first) is so close to the next that both are one node.

    What a call said carries the error of the step before it. Over a far shorter step that error, or mere rounding, would
    be taken for a slope and extrapolated: it grows as the quotient of the steps.
    """
    steps = [math.log(old / new) for new, old in zip(sigmas, sigmas[1:3], strict=False)]
    return bool(steps) and steps[0] < max([TWIN_STEP, *(TWIN_SHARE * step for step in steps[1:])])


class Whole:
    """The whole picture is painted: what is measured is all of it."""

    def painted(self, modes):
        """Return the part of a change that counts."""
        return modes

    def keep(self, stepped, start, shrink, rise):
        """Return the step."""
        return stepped


class Masked:
    """Part of the picture is painted; the host holds the rest to a picture that it knows.

    Args:
        spectrum: a Spectrum.
        shape: of the state x.
        mask: broadcasts to the shape, 1 where it is painted, 0 where it is kept, or between.
    """

    def __init__(self, spectrum, shape, mask):
        self.spectrum, self.shape, self.mask, self.kept = spectrum, shape, mask, (mask == 0).to(mask.dtype)

    def painted(self, modes):
        """Return the part of a change that counts: what the host does to the kept pixels says nothing of the model."""
        return self._times(self.mask, modes)

    def keep(self, stepped, start, shrink, rise):
        """Return the step; kept pixels, whose D is what the host says, go from ``start`` where a constant D leads."""
        return stepped + self._times(self.kept, shrink * start.corrected + rise * start.denoised - stepped)

    def _times(self, weight, modes):
        return self.spectrum.forward(weight * self.spectrum.inverse(modes, self.shape))


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
        self.path, self.spectrum, self.settings, self.window, self.low = path, spectrum, settings, window, low
        self.fitted = spectrum.lowest(settings.modes) if settings.power == "fitted" else None
        self.response = spectrum.spread((settings.response * (1 - 0.75 * spectrum.height_of))[None], like)
        self.reset()

    def reset(self):
        """Forget everything: the model is another one, or the run begins."""
        self.taus = AUTO if self.settings.tau == "auto" else (TAUS[self.settings.tau],)
        self.history, self.rules = [], {(1, self.taus[0]): 1}
        self.count, self.along, self.size, self.follow = 0, 0.0, 0.0, 1.0
        self.band_power = self.power = self.trust = self.gain = None

    def observe(self, sigma, state, denoised):
        """Take in a call of the model: fit, then correct the last steps.

        Args:
            sigma: float.
            state, denoised: modes (B, channels, K); denoised is D at state.
        """
        signal = self.path.signal(sigma)
        noise = (state - signal * denoised) * (signal / sigma**2)
        if is_twin([sigma, *(e.sigma for e in self.history)]):
            del self.history[0]
        self.history.insert(0, Evaluation(sigma, signal, state, denoised, noise, state, early=self.count < 2))
        self.count += 1
        if self.power is None:
            self.band_power = state.new_zeros(len(state), self.spectrum.count, dtype=self.spectrum.precision)
            self.power = self.trust = self.spectrum.spread(self.band_power, state)
        if len(self.history) > 1:
            new, old = self.history[:2]
            change = Change.between(new, old, self.window, self.spectrum)
            self.fit(change)
            self.measure_gain(change)
            self.correct()
        del self.history[max(self.settings.order, self.settings.corrector, MEMORY) + 1 :]

    def fit(self, change):
        """Measure the power from the change since the last evaluation.

        Every band gets one number, pooled over its modes and channels; where each mode by itself explains all but
        everything, the data are Gaussian there and the modes get their own.
        """
        if self.fitted is None:
            return
        (power, band_coherence), (own, mode_coherence) = fit_bands(change), fit_modes(change, self.spectrum)
        band_trust, mode_trust = trust(band_coherence, BAND_COHERENT), trust(mode_coherence, MODE_COHERENT)
        spread = self.spectrum.spread
        if self.spectrum.count > 1:  # the mean is one number a channel, which any S explains: its neighbours speak for it
            mode_trust = torch.cat([mode_trust[:, 1:2], mode_trust[:, 1:]], 1)
        self.band_power = power * band_trust * self.fitted
        self.power = torch.lerp(spread(self.band_power, own), own, spread(mode_trust * self.fitted, own))
        self.trust = spread(torch.maximum(band_trust, mode_trust) * self.fitted, own)

    def measure_gain(self, change):
        """Take the largest |dD| / (r^2 |de|) (B, 1) of any step so far, r = s/a, weighted to the bands where D changes.

        It is S/r^2 on a Gaussian. Where the picture outweighs the noise, what D does is no sign of anything; a model that was
        steep before is still guided there.
        """
        new = self.history[0]
        if new.signal >= DIM * new.sigma:
            return
        denoised, noise = change.size, change.noise_size
        tiny = torch.finfo(self.spectrum.precision).tiny ** 0.5
        scale = (new.signal / new.sigma) ** 2
        gain = scale * denoised.sum(1, keepdim=True) / ((denoised * noise).sqrt().sum(1, keepdim=True) + tiny)
        self.gain = gain if self.gain is None else torch.maximum(self.gain, gain)

    def take(self, evaluation, x):
        """Return the correction to x as far as it is taken: where D is steep, a full one would overshoot and swing back."""
        if self.gain is None:
            return x
        old = self.history[1]
        length = 1.0 if old.signal == 0 else math.log(old.sigma * evaluation.signal / (evaluation.sigma * old.signal))
        part = LEAST + (1 - LEAST) * falling(self.gain * min(1.0, length / SHORT), STEEP)
        return torch.lerp(evaluation.state, x, torch.maximum(part[:, :, None].to(x.dtype), self.trust))

    def residual(self, evaluation):
        """Return (m, lift): m = D - S e where the model was called, and what the correction of x since then adds to it.

        D at the corrected x is taken to be D + g (corrected - state). The gain that S implies leaves m as it is; where the
        fit is not trusted the response is taken if it is more: the correction is picture-like, and the model follows it
        further than it follows the noise that S is measured on. Not so in the first correction: under strong guidance it is
        so large that following it leaves the basin. Theory page, section 5.
        """
        m = torch.addcmul(evaluation.denoised, self.power, evaluation.noise, value=-1)
        if evaluation.early or evaluation.corrected is evaluation.state:
            return m, None
        slope = self.power * (evaluation.signal / evaluation.sigma**2)
        gain = (self.response * (1 + evaluation.signal * slope) - slope).clamp(min=0) * (1 - self.trust)
        return m, gain * (evaluation.corrected - evaluation.state)

    def lifted(self, evaluations, found):
        """Return [(sigma, m)] at the corrected x of the evaluations, of which ``found`` are the `residual` pairs."""
        return [
            (e.sigma, m if lift is None else m + self.follow * lift) for e, (m, lift) in zip(evaluations, found, strict=False)
        ]

    def learn_response(self, found):
        """Measure in the newest m how far the earlier answers should have been lifted: least squares, with a prior of 1.

        ``found`` are the `residual` pairs of the history. Where the model is sure of the picture - a data set once it has
        settled - it does not answer at all.
        """
        newest, *earlier = self.history[: MEMORY + 1]
        if len(earlier) < 2 or all(e.early for e in earlier):
            return
        weights = extrapolation_weights([e.sigma for e in earlier], newest.sigma, self.taus[0])
        miss, lifted = found[0][0], torch.zeros_like(newest.denoised)
        for weight, (m, lift) in zip(weights, found[1:], strict=False):
            miss = miss - weight * m
            lifted = lifted if lift is None else lifted + weight * lift
        tiny = torch.finfo(self.spectrum.precision).tiny ** 0.5
        miss, lifted = self.window.painted(miss), self.window.painted(lifted)
        scale = self.spectrum.inner(miss, miss).sum(1) + tiny
        along = self.spectrum.inner(miss, lifted).sum(1) / scale
        size = self.spectrum.inner(lifted, lifted).sum(1) / scale
        self.along, self.size = self.along + along, self.size + size
        follow = (self.along + PRIOR * size) / (self.size + PRIOR * size + tiny)
        self.follow = follow.clamp(0, 1)[:, None, None].to(miss.dtype)

    def step(self, start, end, residuals, rules):
        """Return x (modes) at sigma ``end`` from the corrected x of ``start``; residuals are (sigma, m), newest first.

        ``rules`` is {(number of nodes, tau): weight}, the interpolations that are blended; weights are (B, 1) or numbers and
        sum to one. How the total is shared among the nodes depends little on S: it is computed once a band.
        """
        ratio, total = step_total(self.path, start.sigma, end, self.power)
        nodes = [sigma for sigma, _ in residuals]
        shares = self.band_power.new_zeros(len(nodes), *self.band_power.shape)
        for (count, tau), weight in rules.items():
            some = step_shares(self.path, start.sigma, end, nodes[:count], self.band_power, tau)
            shares[: len(some)] += weight * some
        mean = sum(self.spectrum.spread(share, m) * m for share, (_, m) in zip(shares, residuals, strict=True))
        shrink = end / start.sigma
        x = ratio * start.corrected + total * mean
        return self.window.keep(x, start, shrink, self.path.signal(end) - start.signal * shrink)

    def correct(self):
        """Do the last steps again, oldest first, with the newest evaluation in the interpolation: one order more."""
        found = [self.residual(e) for e in self.history]
        self.learn_response(found)
        residuals = self.lifted(self.history[: self.settings.order + 1], found)
        self.rules, between = self.weigh_rules(residuals), {(len(residuals), BETWEEN): 1}
        first, steps = self.history[-1], len(self.history) - 1
        blind = first.signal <= BLIND * first.sigma and steps < len(residuals)  # else the first node is none any more
        if self.settings.corrector == 0 or not blind:
            steps = min(steps, self.settings.corrector)
        lengths = [old.sigma - new.sigma for new, old in itertools.pairwise(self.history)]
        while steps > 1 and lengths[steps - 1] > STRETCH * lengths[steps - 2]:
            steps -= 1
        for i in range(steps, 0, -1):
            done = self.history[i - 1]
            x = self.step(self.history[i], done.sigma, residuals, between)
            # what a trusted fit has settled stays: later fits of a large S, from changes of e that vanish, are rounding
            done.corrected = self.take(done, x) if done.settled is None else torch.lerp(x, done.corrected, done.settled)
            done.settled = self.trust

    def weigh_rules(self, residuals):
        """Return {(order, tau): weight (B, 1)} for the next prediction, by how well each rule foretold the newest m.

        The first time there is nothing to foretell: order 2, in the bold tau as far as D is gentle or the run begins near.
        Later they count by the inverse square of their miss in the last step, per image: long first steps and strong guidance
        make bold rules wild, and smooth stretches make them best.
        """
        (sigma, newest), earlier = residuals[0], residuals[1:]
        misses = {}
        for order in range(2, min(self.settings.order, len(earlier)) + 1):
            for tau in self.taus:
                weights = extrapolation_weights([node for node, _ in earlier[:order]], sigma, tau)
                miss = newest - sum(weight * m for weight, (_, m) in zip(weights, earlier, strict=False))
                miss = self.window.painted(miss)
                misses[order, tau] = self.spectrum.inner(miss, miss).sum(1, keepdim=True)
        if not misses:
            order, first = min(2, self.settings.order), self.history[1]
            if len(self.taus) > 1 and first.sigma <= NEAR * first.signal:
                self.taus = NEAR_AUTO
                return {(order, self.taus[1]): 1}
            bold = 0.0 if self.gain is None or len(self.taus) == 1 else falling(self.gain, GENTLE)
            return {(order, self.taus[0]): 1 - bold} | {(order, tau): bold for tau in self.taus[1:]}
        floor = torch.finfo(self.spectrum.precision).tiny ** 0.25
        trusts = {rule: (miss + floor) ** -2.0 for rule, miss in misses.items()}
        total = sum(trusts.values())
        return {rule: trust / total for rule, trust in trusts.items()}

    def predict(self, end):
        """Return x (modes) at the next sigma. In the step to 0 no m is extrapolated to where no call can be."""
        rules = self.rules if end > 0 else {(1, self.taus[0]): 1}
        rules = {(min(order, len(self.history)), tau): weight for (order, tau), weight in rules.items()}
        nodes = self.history[: max(order for order, _ in rules)] if end > 0 else self.history[:3]
        residuals = self.lifted(nodes, map(self.residual, nodes))
        if end == 0:
            residuals = [(residuals[0][0], self.foresee(residuals))]
        return self.step(self.history[0], end, residuals, rules)

    def foresee(self, residuals):
        """Return the newest m carried on to the smallest sigma of the model, where the picture is what D says.

        Schedules that end far above it ("simple" in few steps) leave detail undone. Pictures have detail at every scale, so
        along the noise n = (x - a D)/s that is left D grows by as much for every factor in sigma: that is carried on. Of what
        else changed, the straight line through the last two m, each band goes the part by which the line before it foretold
        the newest, and no further than that was right. Theory page, section 7.
        """
        if len(residuals) < 3 or self.settings.order == 1 or not 0 < self.low < residuals[0][0]:
            return residuals[0][1]
        (sigma, newest), (sigma1, m1), (sigma2, m2) = residuals
        noise, noise1, noise2 = ((e.state - e.signal * e.denoised) / e.sigma for e in self.history[:3])
        length, length1 = math.log(sigma1 / sigma), math.log(sigma2 / sigma1)
        ahead = min(DETAIL_REACH * length, math.log(sigma / self.low))
        grown = self.held(newest - m1, noise1) + self.held(m1 - m2, noise2)
        growth = (grown / (length + length1)).clamp(0, DETAIL * sigma / ahead)
        change = newest - m1 - growth * length * noise1
        line = (m1 - m2 - growth * length1 * noise2) * ((sigma1 - sigma) / (sigma2 - sigma1))
        made, foretold = self.window.painted(change), self.window.painted(line)
        tiny = torch.finfo(self.spectrum.precision).tiny ** 0.25
        size, both = self.spectrum.inner(foretold, foretold) + tiny, self.spectrum.inner(made, foretold).clamp(min=0)
        explained = (both / size) * (both / (self.spectrum.inner(made, made) + tiny))
        part = (both / size).clamp(max=1) * explained**2
        reach = min(REACH, (sigma - self.low) / (sigma1 - sigma))
        return torch.addcmul(newest, self.spectrum.spread(part, newest), change, value=reach) + growth * ahead * noise

    def held(self, change, noise):
        """Return how much of ``noise`` (B, channels, K) a change holds, over all painted modes: (B, 1, 1)."""
        change, noise = self.window.painted(change), self.window.painted(noise)
        size = self.spectrum.inner(noise, noise).sum(1) + torch.finfo(self.spectrum.precision).tiny ** 0.25
        return (self.spectrum.inner(change, noise).sum(1) / size)[:, None, None].to(noise.dtype)
