"""Precision and recall of a set of pictures, by nearest neighbours (Kynkaanniemi et al. 2019)."""

import torch

NEAREST = 3
BLOCK = 1024  # points at a time: memory is bounded by that times the size of the other set


def radii(features, nearest=NEAREST):
    """Return the distance (N,) of each of the features (N, D) to its ``nearest``-th neighbour among
    the others.

    Raises:
        ValueError: there are not so many others.
    """
    if len(features) <= nearest:
        raise ValueError(
            f"{len(features)} features have no {nearest} neighbours each: give at least {nearest + 1}"
        )
    # the nearest of all is the feature itself, or one that is equal to it
    found = [
        _distances(part, features).topk(nearest + 1, 1, largest=False).values[:, -1]
        for part in _parts(features)
    ]
    return torch.cat(found)


def covered(points, centres, radii):
    """Return which of the points (N, D) lie in the ball of any of the centres (M, D), which has
    radius radii (M,)."""
    return torch.cat([(_distances(part, centres) <= radii).any(1) for part in _parts(points)])


def precision_recall(drawn, real, nearest=NEAREST):
    """Return (the share of drawn features where real ones are, the share of real features where
    drawn ones are).

    "Where a set is" are the balls round its features that reach to their ``nearest``-th neighbour
    (equations 1 and 2). It depends on the sets' sizes: compare sets of one size, with as many real
    features as drawn ones.

    Raises:
        ValueError: a set with no more than ``nearest`` features.
    """
    drawn, real = drawn.double(), real.double()
    found = covered(drawn, real, radii(real, nearest)), covered(real, drawn, radii(drawn, nearest))
    return tuple(float(part.double().mean()) for part in found)


def _parts(features):
    return features.double().split(BLOCK)


def _distances(x, y):
    """Return |x - y| (N, M) by a matrix product: in float64 its rounding is far below what parts
    features of pictures."""
    return torch.cdist(x, y.double(), compute_mode="use_mm_for_euclid_dist")
