"""Kernel inception distance: how far two sets are apart in the mean of a cubic kernel, without bias
(Binkowski et al. 2018)."""

import torch

SCALE = 1000  # it is told in thousandths
BLOCK = 2048  # rows of a kernel matrix at a time


def kernel(x, y):
    """Return (x.y/D + 1)^3 for each pair of x (N, D) and y (M, D): (N, M)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


class KernelDistance:
    """The distance of sets from the set ``real`` (M, D), M at least 2, with what is known of
    ``real`` kept.

    With k the kernel it is the mean of k over pairs of different drawn features, plus that of pairs
    of different real ones, less twice that of mixed pairs: 0 in the mean over sets of the same
    distribution, at any size, and so at times below 0.
    """

    def __init__(self, real):
        self.real = real.double()
        own = (
            sum(kernel(part, self.real).sum() for part in self.real.split(BLOCK))
            - self._norms(self.real).sum()
        )
        self.within = own / (len(real) * (len(real) - 1))

    def __call__(self, drawn, weights=None):
        """Return SCALE times the distance of ``drawn`` (N, D), N at least 2, as a tensor: (), or
        (R,) for weights (R, N).

        A row of weights says how often each feature occurs in a resample; pairs of one feature with
        itself stay out, without which resamples would seem to be further off than the set.
        """
        drawn = drawn.double()
        mixed = torch.cat([kernel(part, self.real).mean(1) for part in drawn.split(BLOCK)])
        one, weights = (
            weights is None,
            (drawn.new_ones(1, len(drawn)) if weights is None else weights.to(drawn)).T,
        )
        products = torch.cat([kernel(part, drawn) @ weights for part in drawn.split(BLOCK)])
        count, same = weights.sum(0), weights.square()
        own = (weights * products - same * self._norms(drawn)[:, None]).sum(0) / (
            count.square() - same.sum(0)
        )
        found = SCALE * (own + self.within - 2 * (weights.T @ mixed) / count)
        return found[0] if one else found

    @staticmethod
    def _norms(x):
        """Return k of each feature with itself (N,)."""
        return (x.square().mean(1) + 1) ** 3
