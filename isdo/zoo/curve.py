"""The curves that ISDO stores: what the embedded models do."""

import itertools

import numpy as np
import torch

from ..curvature import Curvature
from ..gallery import noise
from ..probe import measure_curvature
from ..schedules import karras
from . import load
from .net import CLASSES

# v and eps cover the same noise; the flow model's curve has its first entry at r = 100
MODELS = "eps", "v"
STORED = {"TYPICAL": (1.0, 3.0), "GUIDED": (7.0,)}  # of isdo.schedules, each at its guidance
COUNT, CALLS, SEED = 32, 20, 0  # pictures and calls of each probe, and the first picture's seed


def stored(name: str) -> Curvature:
    """Return the geometric mean of the curves of MODELS, which `isdo.schedules` holds to three
    digits.

    Args:
        name: a key of STORED.
    """
    found = []
    for model, guidance in itertools.product(MODELS, STORED[name]):
        net = load(model)
        sigmas = karras(CALLS, net.sigma_min, net.sigma_max)
        x = sigmas[0] * noise(range(SEED, SEED + COUNT), (3, 32, 32))
        labels = torch.arange(COUNT, device="cpu") % len(CLASSES)
        extra = {"labels": labels, "guidance": guidance}
        found.append(measure_curvature(net, x, sigmas, extra))
    values = np.exp(np.mean([np.log(each.values) for each in found], axis=0))
    return Curvature(found[0].ratios, tuple(values.tolist()))
