"""Where samplers take fresh noise from."""

from collections.abc import Sequence

import torch

from .refinement import SeededNoise


def each(seeds, x):
    """Return a list with one seed for each picture of x (B, ...), from the first's (the next has the next) or from all.

    Raises:
        ValueError: seeds that are none.
    """
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        seeds = range(seeds, seeds + len(x))
    if isinstance(seeds, str) or not isinstance(seeds, Sequence) or len(seeds) != len(x):
        raise ValueError(f"seeds is {seeds!r}: give the first picture's seed, or {len(x)}, one for each picture")
    return [int(seed) for seed in seeds]


def source(seeds, x):
    """Return noise(like) -> normal noise in the shape, dtype and on the device of ``like``.

    Args:
        seeds: None: torch's own generator, as k-diffusion; else each picture of x (B, ...) has a generator of its own, the
            same in any batch: the first picture's seed, or one for each.
        x: the pictures.

    Raises:
        ValueError: seeds that are none.
    """
    return torch.randn_like if seeds is None else SeededNoise(each(seeds, x))
