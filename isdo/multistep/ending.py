"""The end: the last step goes to 0, where no call can be, and what D has still to turn is
foreseen."""

import math

import torch

from ..device import table


def foresee(history, newest, made, low, tuned, window, spectrum):
    """Return m (modes) carried on to the smallest sigma of the model, where the picture is what D
    says; theory page, section 7.

    Schedules that end far above it ("simple" in few steps) leave detail undone. Pictures have
    detail at every scale, so along the noise n = (x - a D)/s that is left D grows by as much for
    every factor in sigma: that is carried on. Of what else changed, the straight line through the
    last two m, each band goes the part by which the line before it foretold the newest, and no
    further than that was right.

    Args:
        history: a History of three nodes at least.
        newest: m (B, channels, K).
        made: the last two changes of m (B, 2, channels, K).
        low: the smallest sigma of the model, below the newest.
        tuned: Tuned.
        window: Whole or Masked.
        spectrum: a Spectrum.
    """
    sigma, sigma1, sigma2 = history.sigmas[:3]
    length, length1 = math.log(sigma1 / sigma), math.log(sigma2 / sigma1)
    ahead = min(tuned.reach * length, math.log(sigma / low))
    seen = length + (length1 if history.signals[2] else 0.0)
    noise, older = noises(history)
    grown = held(made, older, window) / seen
    growth = grown.clamp(0, tuned.detail * sigma / ahead) if ahead else 0 * grown
    # what changed besides, and the line before it, carried on to where that was
    along = older.mul_(table((length, length1), older)[:, None, None])
    made = torch.addcmul(made, growth[:, None], along, value=-1)
    del older, along
    scale = (sigma1 - sigma) / (sigma2 - sigma1)
    part = agreement(window.painted(made), scale, spectrum)
    reach = min(tuned.reach, (sigma - low) / (sigma1 - sigma))
    carried = torch.addcmul(newest, spectrum.spread(part, newest), made[:, 0], value=reach)
    return carried.addcmul_(growth, noise, value=ahead)


def noises(history):
    """Return n = (x - a D)/s (modes) at the newest node and, stacked, at the two before it; 0 where
    nothing but it shows."""
    scales = [
        s / a if a else 0.0 for s, a in zip(history.sigmas[:3], history.signals, strict=False)
    ]
    e, de, de1 = history.last[:, 1], history.change(0)[:, 1], history.change(1)[:, 1]
    before = e - de
    older = torch.stack([before, before - de1], 1).mul_(table(tuple(scales[1:]), e)[:, None, None])
    return e * scales[0], older


def agreement(pair, scale, spectrum):
    """Return the part of p (B, bands) that its agreement with q lets be carried on: 1 where they
    are alike, 0 where they point away from each other; p and q (B, 2, channels, K), q times a
    scale."""
    p, q = pair.unbind(1)
    tiny = torch.finfo(spectrum.precision).tiny ** 0.25
    products = [spectrum.pooled(v * w).sum(1) for v, w in ((p, p), (p, q), (q, q))]
    found = spectrum.per_band(torch.stack(products, 1))
    scales = table((1.0, scale, scale**2), found)[:, None]
    size, both, line = (found * scales).unbind(1)
    both, line = both.clamp(min=0), line + tiny
    return (both / line).clamp(max=1) * (both / line) * (both / (size + tiny))


def held(changes, noises, window):
    """Return how much of some noises (B, n, channels, K) changes hold, over all painted modes, summed
    over them: (B, 1, 1)."""
    changes, noises = window.painted(changes), window.painted(noises)
    tiny = torch.finfo(noises.dtype).tiny ** 0.5
    both, size = ((v * noises).sum((2, 3)) for v in (changes, noises))
    return (both / size.add_(tiny)).sum(1)[:, None, None]
