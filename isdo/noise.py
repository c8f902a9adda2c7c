"""Where samplers take fresh noise from."""

import torch
from torch import Tensor

from .protocols import NoiseSource, Seeds
from .refinement import SeededNoise
from .refinement import each_seed as each


def source(seeds: Seeds | None, x: Tensor) -> NoiseSource:
    """Return noise(like) -> normal noise in the shape, dtype and on the device of ``like``.

    Args:
        seeds: None: torch's own generator, as k-diffusion; else each picture of x (B, ...) has a
            generator of its own, the same in any batch: the first picture's seed, or one for each.
        x: the pictures.

    Raises:
        ValueError: seeds that are none.
    """
    return torch.randn_like if seeds is None else SeededNoise(each(seeds, len(x)))
