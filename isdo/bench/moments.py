"""Mean and covariance of features, and the Fréchet distance between two of them."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Moments:
    """Mean (D,) and covariance (D, D) of features, float64.

    Raises:
        ValueError: shapes that do not fit, or numbers that are not finite.
    """

    mean: torch.Tensor
    covariance: torch.Tensor

    def __post_init__(self):
        size = len(self.mean)
        if self.mean.ndim != 1 or self.covariance.shape != (size, size):
            shapes = f"{tuple(self.mean.shape)} and {tuple(self.covariance.shape)}"
            raise ValueError(f"mean and covariance have the shapes {shapes}: give (D,) and (D, D)")
        if not (self.mean.isfinite().all() and self.covariance.isfinite().all()):
            raise ValueError("mean or covariance is not finite: look for NaN among the features")
        for name in ("mean", "covariance"):
            object.__setattr__(self, name, getattr(self, name).double())

    def sample(self, count, generator):
        """Draw (count, D) features from the Gaussian of these moments."""
        values, vectors = torch.linalg.eigh(self.covariance)
        noise = torch.randn(
            count, len(values), generator=generator, dtype=torch.float64, device="cpu"
        )
        return self.mean + noise * values.clamp(min=0).sqrt() @ vectors.T


def moments(features, weights=None):
    """Return the Moments of features (N, D), with weights (N,) that need not sum to 1; the
    covariance is unbiased.

    Raises:
        ValueError: fewer than two features.
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(
            f"features have the shape {tuple(features.shape)}: give (N, D) with at least two of them"
        )
    features = features.double()
    weights = features.new_ones(len(features)) if weights is None else weights.double()
    weights = weights / weights.sum()
    mean = weights @ features
    centred = features - mean
    return Moments(mean, (centred.T * weights) @ centred / (1 - weights.square().sum()))


def frechet(one, other):
    """Return |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2) as a float (Heusel et al. 2017,
    equation 6).

    The root is taken of the symmetric form, by eigenvalues: C1 C2, whose root has the same trace,
    is not symmetric, and a general matrix root turns complex where a covariance is singular, as it
    is for fewer pictures than features.
    """
    return frechet_from(one)(other)


def frechet_from(one):
    """Return the function of other Moments that is their Fréchet distance from ``one``, whose root
    is taken once."""
    values, vectors = torch.linalg.eigh(one.covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T

    def distance(other):
        middle = root @ other.covariance @ root
        cross = torch.linalg.eigvalsh((middle + middle.T) / 2).clamp(min=0).sqrt().sum()
        means = (one.mean - other.mean).square().sum()
        return max(
            0.0, float(means + one.covariance.trace() + other.covariance.trace() - 2 * cross)
        )

    return distance


def sampling_bias(truth, count, draws=4, seed=0):
    """Return the mean Fréchet distance to ``truth`` (Moments) of ``count`` features drawn from its
    own Gaussian.

    A perfect sampler would still show this much; it falls as 1/count.
    """
    generator, distance = torch.Generator("cpu").manual_seed(seed), frechet_from(truth)
    found = [distance(moments(truth.sample(count, generator))) for _ in range(draws)]
    return sum(found) / draws
