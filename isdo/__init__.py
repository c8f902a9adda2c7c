"""ISDO: a diffusion sampler that measures the spectrum of the picture while it draws it."""

from . import schedules, zoo

__version__ = "0.1.0"
__all__ = ["schedules", "zoo"]
