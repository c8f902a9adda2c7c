"""The variational bound: how many nats, or bits per dimension, a picture costs under a denoiser."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .device import beside, wide
from .inputs import check_x
from .noise import each, source
from .path import Path, detect_path
from .process import per_image
from .protocols import ExtraArgs, Model, NoiseSource, Seeds, Sigmas

HALF_BIN = 1 / 255  # of the 256 levels in -1 .. 1
HIDDEN = 100.0  # noise-to-signal ratio from which on levels count as equally far up: nothing of the picture shows


@dataclass(frozen=True)
class Bound:
    """The terms of L = L_T + sum L_(t-1) + L_0 >= -log p(x0), in nats per picture, float64 on the
    CPU.

    Attributes:
        prior: L_T (B,).
        steps: L_(t-1), noise first (K, B): one row a step, or one a stratum.
        data: L_0 = -log p(x0 | x_1) (B,).
        dims: numbers in a picture.
    """

    prior: Tensor
    steps: Tensor
    data: Tensor
    dims: int

    @property
    def total(self) -> Tensor:
        """L (B,), in nats."""
        return self.prior + self.steps.sum(0) + self.data

    @property
    def bits(self) -> Tensor:
        """L in bits per dimension (B,)."""
        return self.total / (self.dims * math.log(2))


def _sums(x: Tensor) -> Tensor:
    """Return the sum over each picture (B,), float64 on the CPU, with bits that do not depend on
    the batch."""
    return torch.stack([picture.sum() for picture in wide(x)])


def _snr(path: Path, sigma: Tensor) -> Tensor:
    """Return (a/s)^2 of a float64 tensor of levels; 0 at the pure-noise end of `flow`."""
    return (path.signal(sigma) / sigma).square()


def gaussian(x0: Tensor, denoised: Tensor, ratio: float) -> Tensor:
    """Return -log N(x0; D, ratio^2) (B,): the decoder of pictures that are real numbers."""
    log_norm = math.log(2 * math.pi) / 2 + math.log(ratio)
    return _sums(((wide(x0) - wide(denoised)) / ratio).square() / 2 + log_norm)


def discretised(x0: Tensor, denoised: Tensor, ratio: float) -> Tensor:
    """Return -log of what N(D, ratio^2) gives to x0's own bin (B,), of 256 in -1 .. 1 (Ho et al.
    2020, equation 13).

    The outermost bins go on to infinity. No mass is too small: the logarithm is taken in the lower
    tail.
    """
    x0 = wide(x0)
    miss = x0 - wide(denoised)
    upper = torch.where(x0 > 1 - HALF_BIN, torch.inf, (miss + HALF_BIN) / ratio)
    lower = torch.where(x0 < HALF_BIN - 1, -torch.inf, (miss - HALF_BIN) / ratio)
    mirrored = lower + upper > 0
    upper, lower = torch.where(mirrored, -lower, upper), torch.where(mirrored, -upper, lower)
    log_upper, log_lower = torch.special.log_ndtr(upper), torch.special.log_ndtr(lower)
    return -_sums(log_upper + (-(log_lower - log_upper).expm1()).log())


def strata(path: Path, sigmas: Sigmas, count: int) -> list[int]:
    """Return how many steps of a falling schedule form each of at most ``count`` strata, about even
    in log r, r = s/a."""
    log_ratio = path.noise_to_signal(wide(sigmas)[:-1]).clamp(max=HIDDEN).log()
    down = (log_ratio[0] - log_ratio) / (log_ratio[0] - log_ratio[-1]).clamp(min=1e-9)
    return torch.unique_consecutive((down * count).long().clamp(max=count - 1), return_counts=True)[
        1
    ].tolist()


def _check(sigmas: Sigmas, path: Path) -> Tensor:
    levels = wide(sigmas).flatten()
    levels = (
        levels[levels != 0] if len(levels) and levels[-1] == 0 else levels
    )  # x0 itself is L_0's affair
    falls = len(levels) > 0 and (levels.diff() < 0).all() and levels[-1] > 0
    if not falls or not levels[0] < math.inf or levels[0] > path.sigma_limit:
        raise ValueError(
            f"sigmas must fall strictly from at most {path.sigma_limit:g} to above 0, the levels t = T .. 1 of the chain, and "
            f"are {[round(v, 6) for v in levels[:4].tolist()]}{' ...' if len(levels) > 4 else ''}"
        )
    return levels


@torch.no_grad()
def elbo(
    model: Model,
    x0: Tensor,
    sigmas: Sigmas,
    extra_args: ExtraArgs | None = None,
    *,
    seeds: Seeds = 0,
    noise: NoiseSource | None = None,
    decoder: Callable[[Tensor, Tensor, float], Tensor] = discretised,
    groups: Sequence[int] | None = None,
) -> Bound:
    """Return the Bound of pictures under a denoiser: theory, equations 10.10 to 10.12.

    The chain adds noise up to the level sigmas[0], where the prior N(0, s^2 I) takes over, and
    undoes it by steps with the posterior's variance whose mean has D in the place of x0 (Ho et al.
    2020, equations 5 to 8, without their reweighting). Each term is one draw of x_t.

    Args:
        model: ``model(x, sigma (B,), **extra_args) -> denoised``, on its path.
        x0: (B, C, H, W) or (B, C, T, H, W) pictures without noise; for the default decoder in -1 ..
            1.
        sigmas: (N,) falling levels t = T .. 1 on the model's path; a 0 at the end is left out.
        extra_args: keyword arguments handed to the model as they are.

    Rarely needed:
        seeds: of the noise: the first picture's (the next has the next), or one for each.
        noise: ``noise(x) -> normal noise shaped like x``, called once a term, in place of the
            seeds.
        decoder: ``decoder(x0, denoised, ratio) -> -log p(x0 | x_1)`` (B,): `discretised` or
            `gaussian`.
        groups: sizes of strata, see `strata`: each picture is asked about one step of each, drawn
            from its seed, which counts for all of them. Left out, about every step.

    Raises:
        ValueError: x0, sigmas, seeds or groups that make no sense.
    """
    check_x(x0)
    path, extra_args = detect_path(model), {} if extra_args is None else extra_args
    levels = _check(sigmas, path)
    groups = [1] * (len(levels) - 1) if groups is None else groups
    if sum(groups) != len(levels) - 1 or min(groups, default=1) < 1:
        raise ValueError(
            f"groups hold {sum(groups)} steps and the chain has {len(levels) - 1}: see isdo.elbo.strata"
        )
    seeds = each(seeds, len(x0))
    noise = source(seeds, x0) if noise is None else noise
    kind: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}
    drawn = [
        torch.rand(len(groups), generator=torch.Generator("cpu").manual_seed(seed), **kind)
        for seed in seeds
    ]
    snr, x0 = _snr(path, levels), x0 if x0.dtype == torch.float64 else x0.float()

    def miss(sigma: Tensor) -> Tensor:
        """Return x0 and D at one draw of x_t, sigma (B,)."""
        sigma = beside(sigma, x0)
        level = per_image(sigma, x0)
        return model(path.signal(level) * x0 + level * noise(x0), sigma, **extra_args).to(x0)

    steps, first = [], 0
    for k, size in enumerate(groups):
        t = first + torch.stack([(row[k] * size).long().clamp(max=size - 1) for row in drawn])
        gain = size * (snr[t + 1] - snr[t]) / 2
        steps.append(gain * _sums((x0 - miss(levels[t])).square()))
        first += size
    prior = snr[0] / 2 * _sums(x0.square())
    data = decoder(x0, miss(levels[-1:].expand(len(x0))), float(path.noise_to_signal(levels[-1])))
    terms = torch.stack(steps) if steps else prior.new_zeros(0, len(x0))
    return Bound(prior, terms, data, x0[0].numel())
