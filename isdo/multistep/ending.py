"""The end: the last step goes to 0, where no call can be, and what D has still to turn is
foreseen."""

import math

import torch

from ..device import table


def foresee(history, newest, changes, low, tuned, window, spectrum):
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
        changes: the last two of m.
        low: the smallest sigma of the model, below the newest.
        tuned: Tuned.
        window: Whole or Masked.
        spectrum: a Spectrum.
    """
    (sigma, sigma1, sigma2), (last, before) = history.sigmas[:3], changes
    noise, noise1, noise2 = noises(history)
    length, length1 = math.log(sigma1 / sigma), math.log(sigma2 / sigma1)
    ahead = min(tuned.reach * length, math.log(sigma / low))
    lengths = torch.stack([length * noise1, length1 * noise2], 1)
    seen = length + (length1 if history.signals[2] else 0.0)
    made = torch.stack([last, before], 1)
    grown = held(made, torch.stack([noise1, noise2], 1), window) / seen
    growth = grown.clamp(0, tuned.detail * sigma / ahead) if ahead else 0 * grown
    # what changed besides, and the line before it, carried on to where that was
    made = torch.addcmul(made, growth[:, None], lengths, value=-1)
    scale = (1.0, (sigma1 - sigma) / (sigma2 - sigma1))
    painted = window.painted(made) * table(scale, made)[:, None, None]
    made2, both, line2 = agreement(painted, spectrum)
    part = (both / line2).clamp(max=1) * (both / line2) * (both / made2)
    reach = min(tuned.reach, (sigma - low) / (sigma1 - sigma))
    carried = torch.addcmul(newest, spectrum.spread(part, newest), made[:, 0], value=reach)
    return torch.addcmul(carried, growth, noise, value=ahead)


def noises(history):
    """Return n = (x - a D)/s (modes) at the last three nodes; 0 where nothing but it shows."""
    e = history.last[:, 1]
    scales = [
        s / a if a else 0.0 for s, a in zip(history.sigmas[:3], history.signals, strict=False)
    ]
    e1 = e - history.change(0)[:, 1]
    return [
        each * scale
        for each, scale in zip((e, e1, e1 - history.change(1)[:, 1]), scales, strict=True)
    ]


def agreement(pair, spectrum):
    """Return |p|^2, <p, q> where that is above 0, and |q|^2 of p and q (B, 2, channels, K), by band
    (B, bands)."""
    products = spectrum.pooled(
        torch.stack([pair[:, 0] * pair[:, 0], pair[:, 0] * pair[:, 1], pair[:, 1] * pair[:, 1]], 1)
    )
    tiny = torch.finfo(spectrum.precision).tiny ** 0.25
    found = spectrum.per_band(products.sum(2))
    return found.clamp_(min=table((tiny, 0.0, tiny), found)[:, None]).unbind(1)


def held(changes, noises, window):
    """Return how much of some noises (B, n, channels, K) changes hold, over all painted modes, summed
    over them: (B, 1, 1)."""
    changes, noises = window.painted(changes), window.painted(noises)
    tiny = torch.finfo(noises.dtype).tiny ** 0.5
    both, size = ((v * noises).sum((2, 3)) for v in (changes, noises))
    return (both / size.add_(tiny)).sum(1)[:, None, None]
