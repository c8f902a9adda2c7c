"""How steep the model is: how strongly D follows the noise, which tells plain models from strongly
guided ones, which overshoot."""

import math

import torch

from ..device import table

# |pq| of two normal numbers is so much of the product of their sizes in the mean.
NORMAL = 2 / math.pi


def falling(value, half, least=0.0):
    """Return 1 well below ``half``, ``least`` well above it, and a straight line through a half."""
    return torch.sub(table((2.5,), value), value, alpha=2 / half).clamp_(least, 1)


class Steepness:
    """The largest |dD| / (r^2 |de|) of any step so far, r = s/a, where D changes; theory page,
    section 4.

    It is 2 S/(pi r^2) on a Gaussian. Where the picture outweighs the noise, what D does is no sign
    of anything; a model that was steep before is still guided there.

    Attributes:
        value: (B, 1, 1), None before there is one.
    """

    def __init__(self, tuned):
        self.tuned, self.value = tuned, None

    def measure(self, change, sigma, signal):
        """Take in a `fit.Change` that ends at sigma."""
        if signal >= self.tuned.dim * sigma:
            return
        together = torch.linalg.vector_norm(change.with_noise[:, 0], 1, dim=(1, 2))
        size = torch.linalg.vector_norm(change.values[:, 0], dim=(1, 2))
        tiny = torch.finfo(together.dtype).tiny ** 0.5
        ratio = NORMAL * (signal / sigma) ** 2
        value = (size * size / together.add_(tiny)).mul_(ratio)[:, None, None]
        self.value = value if self.value is None else torch.maximum(self.value, value)

    def damped(self, length):
        """Return the part of a correction that is taken, (B, 1, 1) or the number 1, over a step of
        that length in log r.

        A strongly guided model pulls x back from wherever a full correction took it. Shorter steps
        are less stiff, so that the order of convergence stays.
        """
        tuned = self.tuned
        if self.value is None:
            return 1.0
        stiff = min(1.0, length / tuned.stiff_length) if tuned.stiff_length else 1.0
        if stiff == 0:
            return 1.0
        return falling(self.value, tuned.stiff / stiff, tuned.least)
