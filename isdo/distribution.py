"""Distributions of sigma that networks are trained on."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .process import PROCESSES, Process


@dataclass(frozen=True)
class Distribution:
    """A distribution of noise-to-signal ratios: ``density(sigma)`` and ``quantile(q)``, q in 0 ..
    1, of float64 tensors."""

    name: str
    quantile: Callable[[Tensor], Tensor]
    density: Callable[[Tensor], Tensor]

    def sample(self, generator: torch.Generator, *shape: int) -> Tensor:
        """Draw sigmas, float64, from a torch Generator on the CPU."""
        drawn = torch.rand(*shape, generator=generator, dtype=torch.float64, device="cpu")
        return self.quantile(drawn.clamp(min=2.0**-54))  # half a grain: 0 has no logarithm


def uniform_time(
    process: Process, first: float | None = None, last: float | None = None
) -> Distribution:
    """Return the Distribution of sigma(t) for t uniform between ``first`` and ``last`` (the
    Process's span)."""
    first, last = (
        process.span[0] if first is None else first,
        process.span[1] if last is None else last,
    )
    low, high = process.sigma(first), process.sigma(last)

    def density(
        sigma: Tensor,
    ) -> Tensor:  # dt/dsigma / (last - first), sigma' from g^2 = 2 s^2 sigma sigma'
        inside = (sigma >= low) & (sigma <= high)
        t = process.time(sigma.clamp(low, high))
        pace = process.diffusion(t).square() / (2 * process.scale(t).square() * sigma)
        return torch.where(inside, 1 / (pace * (last - first)), 0.0)

    return Distribution(process.name, lambda q: process.sigma(first + (last - first) * q), density)


def log_normal(mean: float = -1.2, std: float = 1.2) -> Distribution:
    """Return the Distribution of sigma whose logarithm is normal (Karras et al. 2022, section
    5)."""

    def density(sigma: Tensor) -> Tensor:
        score = (sigma.log() - mean) / std
        return (-score.square() / 2).exp() / (sigma * std * math.sqrt(2 * math.pi))

    return Distribution("edm", lambda q: (mean + std * torch.special.ndtri(q)).exp(), density)


# EDM, table 1: uniform t of VP; uniform log sigma, which is uniform t, of VE; log-normal sigma of
# EDM
DISTRIBUTIONS = {
    row.name.removesuffix(" linear"): row
    for row in (uniform_time(PROCESSES["vp linear"]), uniform_time(PROCESSES["ve"]), log_normal())
}
