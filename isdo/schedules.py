"""Grids of noise levels: steps + 1 sigmas (float32), strictly descending, that end in 0.

All are computed in float64 and rounded once.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, Protocol, SupportsIndex

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .curvature import Curvature, noise_to_signal
from .device import wide
from .path import VE, Path, detect_path
from .protocols import Sigmas


def _count(given: SupportsIndex, least: int = 1) -> int:
    try:
        steps = operator.index(given)
    except TypeError:
        raise ValueError(f"steps must be a whole number, not {given!r}") from None
    if steps < least:
        raise ValueError(f"steps must be at least {least}, not {steps}")
    return steps


def _ramp(first: float | Tensor, last: float | Tensor, count: int) -> Tensor:
    return torch.linspace(first, last, count, dtype=torch.float64, device="cpu")


def _range(sigma_min: float, sigma_max: float) -> tuple[float, float]:
    low, high = float(sigma_min), float(sigma_max)
    if not 0 < low < high < float("inf"):
        raise ValueError(
            f"sigma_min and sigma_max must satisfy 0 < sigma_min < sigma_max, not {low:g} and {high:g}"
        )
    return low, high


def _table(sigmas: Sigmas | None) -> Tensor:
    if sigmas is None:
        raise ValueError(
            "the model has a range of noise levels and no table of them: take karras, exponential or curvature"
        )
    table = wide(sigmas)
    if (
        table.ndim != 1
        or len(table) < 2
        or not (table[0] > 0 and (table.diff() > 0).all() and table[-1].isfinite())
    ):
        raise ValueError(
            "sigmas must be an ascending table of at least 2 positive noise levels, such as model.sigmas"
        )
    return table


def _to_zero(sigmas: Tensor) -> Tensor:
    """Round to float32 and append the 0; grids so fine that two levels become one are refused."""
    sigmas = torch.cat([sigmas.float(), torch.zeros(1, device="cpu")])
    if not (sigmas.diff() < 0).all():
        raise ValueError(
            f"{len(sigmas) - 1} steps are too many for this range of sigma: take fewer, or widen the range"
        )
    return sigmas


def karras(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """Return sigmas evenly spaced in sigma^(1/rho) (Karras et al. 2022, equation 5).

    Args:
        steps: model calls, at least 1.
        sigma_min, sigma_max: the last sigma before 0, and the first.
        rho: 7 favours low noise; 1 is even in sigma.

    Raises:
        ValueError: a range that is empty or not positive, or rho not positive.
    """
    low, high = _range(sigma_min, sigma_max)
    if not rho > 0:
        raise ValueError(f"rho must be positive, not {rho!r}")
    return _to_zero(_ramp(high ** (1 / rho), low ** (1 / rho), _count(steps)) ** rho)


def exponential(steps: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Return sigmas evenly spaced in log sigma; arguments and errors as for ``karras``."""
    low, high = _range(sigma_min, sigma_max)
    return _to_zero(_ramp(math.log(high), math.log(low), _count(steps)).exp())


def simple(steps: int, sigmas: Sigmas | None) -> Tensor:
    """Return every (L / steps)-th level of the model's own table, from its end (ComfyUI's
    "simple").

    Args:
        steps: model calls, 1 .. L.
        sigmas: the model's ascending table (L,).

    Raises:
        ValueError: a table that does not ascend, or more steps than levels.
    """
    steps, table = _count(steps), _table(sigmas)
    if steps > len(table):
        raise ValueError(
            f"steps must be at most {len(table)}, the levels of the table, not {steps}"
        )
    return _to_zero(table.flip(0)[torch.arange(steps, device="cpu") * len(table) // steps])


def _at(table: Tensor, index: Tensor) -> Tensor:
    """Interpolate the table at fractional indices in log sigma, as k-diffusion's t_to_sigma
    does."""
    low = index.long().clamp(max=len(table) - 2)
    return torch.lerp(table.log()[low], table.log()[low + 1], index - low).exp()


def uniform(steps: int, sigmas: Sigmas | None) -> Tensor:
    """Return levels evenly spaced in the table's index, both ends included (k-diffusion's
    ``get_sigmas``)."""
    table = _table(sigmas)
    return _to_zero(_at(table, _ramp(len(table) - 1, 0, _count(steps))))


def sgm_uniform(steps: int, sigmas: Sigmas | None) -> Tensor:
    """Return levels evenly spaced in the table's index, the lowest left out (the WebUIs' "SGM
    uniform").

    The last step to 0 is as long as the others. No steps at all are [0]: a WebUI's hires fix with
    strength 0 asks for that.
    """
    table, steps = _table(sigmas), _count(steps, least=0)
    return _to_zero(_at(table, _ramp(len(table) - 1, 0, steps + 1)[:-1]))


def flow(steps: int, shift: float = 1.0) -> Tensor:
    """Return sigmas of the flow path from 1 to 0, ``shift s / (1 + (shift - 1) s)`` of an even ramp
    s.

    Args:
        steps: model calls, at least 1.
        shift: 1 is even; 3 is Stable Diffusion 3's (Esser et al. 2024, equation 23), which dwells
            at high noise.

    Raises:
        ValueError: shift not positive.
    """
    if not 0 < shift < float("inf"):
        raise ValueError(f"shift must be positive, not {shift!r}")
    ramp = _ramp(1, 0, _count(steps) + 1)[:-1]
    return _to_zero(shift * ramp / (1 + (shift - 1) * ramp))


def rest(sigmas: Sigmas, start: float, steps: int, low: float = 0.0, high: float = 0.0) -> Tensor:
    """Return steps + 1 sigmas that go from ``start`` down to the end of a schedule in that
    schedule's own pace.

    The last level before 0 stays the schedule's while that has as many levels left as there are
    steps. Else the steps share what is left down to 0 evenly, as far as the model's smallest level
    leaves room for them.

    Args:
        sigmas: a falling schedule (N + 1,), which ends in 0 or above; what follows its first 0 is
            left out.
        start: the noise level to begin at: also where the schedule has none, up to ``high`` and
            down to ``low``.
        steps: model calls, at least 1.
        low, high: the smallest and the largest noise level of the model, 0: unknown, and then the
            schedule says how far up.
    """
    steps, levels = _count(steps), wide(sigmas)
    positive = levels[levels > 0]
    end = levels[len(positive) : len(positive) + 1]
    top, bottom = float(positive[0]), float(positive[-1])
    floor = min(low, bottom) or bottom
    start = min(max(float(start), floor if low > 0 or start <= 0 else 0.0), max(top, high))
    if start > LEAST_ROOM * top:
        positive = torch.cat([wide([start]), positive])
    if start <= bottom:  # a schedule that ends above 0 has no way from there on but the one to 0
        end = wide([0.0])
    falling, count = torch.cat([positive, end]), len(positive)
    index = torch.arange(len(falling), dtype=torch.float64, device="cpu")
    first = float(
        np.interp(min(start, float(positive[0])), falling.flip(0).numpy(), index.flip(0).numpy())
    )
    last = count - 1.0
    if len(end):
        last = max(last, count - (count - first) / steps)
        if floor < start / LEAST_ROOM:  # else there is no room above it for a second level
            last = min(last, count - floor / bottom)
    places = _ramp(first, last, steps + 1 - len(end)).numpy()
    inner = wide(np.interp(places, index.numpy(), falling.numpy()))
    inner[0] = start
    return torch.cat([inner, end]).float()


# The geometric mean of what the zoo's eps and v models do at guidance 1 and 3: `python -m isdo probe
# --stored` measures it, and a test measures it anew. Curves of other models have much the same
# shape, and their scale does not count; `bench --suite choice` says how the levels do.
TYPICAL = Curvature(
    ratios=(
        13.1, 10.5, 8.3, 6.54, 5.1, 3.95, 3.02, 2.29, 1.72, 1.27, 0.929,
        0.668, 0.473, 0.329, 0.224, 0.149, 0.0972, 0.0614, 0.0376,
    ),
    values=(
        0.0913, 0.118, 0.134, 0.142, 0.138, 0.131, 0.125, 0.109, 0.0935, 0.0761,
        0.0673, 0.0553, 0.0446, 0.0352, 0.0278, 0.0217, 0.0171, 0.0148, 0.0114,
    ),
)  # fmt: skip
# The same at guidance 7, which says where a strongly guided run turns: later, in the middle of the
# way. Between the scales the logarithm of a curve is even in the guidance, so that the mean of 1 and
# 3 is the curve of 2.
GUIDED = Curvature(
    ratios=TYPICAL.ratios,
    values=(
        0.659, 0.595, 0.739, 0.526, 0.477, 0.399, 0.397, 0.421, 0.397, 0.359,
        0.308, 0.232, 0.149, 0.114, 0.0827, 0.0561, 0.0396, 0.0298, 0.0196,
    ),
)  # fmt: skip
TYPICAL_SCALE, GUIDED_SCALE = 2.0, 7.0
# The order of the integrator that levels are placed for: multistep samplers of order 3 gain as much
# from it.
ORDER = 2
STEP_ERROR = 0.25  # error of a step of that order over curvature x (change of log sigma)^3
LEAST_ROOM = 1.01  # a way from less than so many times the model's smallest level has no room for a second one above it


class _Range:
    """What is expected of schedules between two levels: equations 8.2 and 8.3 of the theory page.

    Args:
        low, high: the ends, sigma.
        curvature: a Curvature.
        path: a Path.
    """

    def __init__(self, low: float, high: float, curvature: Curvature, path: Path) -> None:
        self.path, self.high = path, high
        first, last = np.log(noise_to_signal(path, np.array([high, low])))
        self.log_ratio = np.linspace(first, last, 4001)
        kappa, h = curvature.at(self.log_ratio), self.log_ratio[0] - self.log_ratio[1]
        density = kappa ** (1 / (ORDER + 1))
        self.done, self.turned = (
            np.append(0.0, np.cumsum((v[1:] + v[:-1]) / 2 * h)) for v in (density, kappa)
        )

    def levels(self, steps: int, left: float = 1.0) -> NDArray[np.float64]:
        """Return the ``steps`` positive levels, at least 1, of which least error is expected."""
        between = float(max(1, steps - 1))  # of a whole number the fifth power may be too large
        error = (STEP_ERROR * self.done ** (ORDER + 1)) ** 2 / between ** (2 * ORDER + 1)
        error += (left * (self.turned[-1] - self.turned)) ** 2
        end = self.done[max(1, int(error.argmin()))]
        shares = np.linspace(0, end, max(2, steps))[1:steps]
        inner = np.exp(np.interp(shares, self.done, self.log_ratio))
        return np.append(self.high, self.path.from_noise_to_signal(inner))

    def error(self, levels: NDArray[np.float64]) -> float:
        """Return the square of the error that is expected of falling positive levels."""
        places = -np.log(noise_to_signal(self.path, levels))
        done, turned = (np.interp(places, -self.log_ratio, v) for v in (self.done, self.turned))
        steps = STEP_ERROR * np.diff(done) ** (ORDER + 1)
        left = self.turned[-1] - turned[-1]
        return float(np.square(steps).sum() + left**2)

    def worth(self, levels: NDArray[np.float64]) -> float:
        """Return the share of that error which the best levels, as many, save."""
        expected, least = self.error(levels), self.error(self.levels(len(levels)))
        return max(0.0, 1 - least / expected) if expected else 0.0


def curvature_sigmas(
    steps: int,
    sigma_min: float,
    sigma_max: float,
    curvature: Curvature = TYPICAL,
    path: Path = VE,
    left: float = 1.0,
) -> Tensor:
    """Return sigmas between which the spectral curvature to the power 1/3 has equal shares.

    A step of order p over h in log r, r = s/a, errs by c k h^(p+1), k being the curvature; the sum
    of squares is smallest when each step has the same share of the integral of k^(1/(p+1)). The
    last sigma before 0 is free: ending on D there errs by what D has still to turn, the integral of
    k from there on, and it is put where both errors together are least.

    Args:
        steps: model calls; none at all are [0], which a WebUI's hires fix with strength 0 asks for.
        sigma_min, sigma_max: the lowest sigma allowed before 0, and the first.
        curvature: a Curvature, from `isdo.probe.measure_curvature` in a short run of the model at
            hand; left out, a stored one.
        path: a Path.
        left: the share of that last error which the sampler leaves; 1 if it ends on D.

    Raises:
        ValueError: a range that is empty or not positive.

    Source: theory page, section 8. The idea that grids follow the trajectory's curvature: Chen et
    al. 2024 (GITS), Sabour et al. 2024 (AYS).
    """
    steps, ends = _count(steps, least=0), _range(sigma_min, sigma_max)
    return _to_zero(wide(_Range(*ends, curvature, path).levels(steps, left)[:steps]))


def bent(
    sigmas: Sequence[float],
    share: float,
    sigma_min: float = 0.0,
    path: Path = VE,
    curvature: Curvature = TYPICAL,
) -> list[float]:
    """Return a schedule whose levels went a ``share`` of the way to where curvature has them, in
    log r, r = s/a.

    A mean of the two in the logarithm keeps a smooth schedule smooth, which multistep methods need:
    moving each level as far as some bound allows lets steps of unlike lengths meet, and was worse
    than either schedule.

    Args:
        sigmas: a falling schedule (N + 1,), floats; the first level stays, and one that does not
            end in 0 is left as it is.
        share: 0, the schedule, to 1, the curvature: `curvature_sigmas`.
        sigma_min: the smallest noise level that the model knows, 0 if it does not say; no level
            goes below that, or below the last of the schedule if that is lower or nothing is said.
        path: a Path.
        curvature: a Curvature, as for `curvature_sigmas`.

    Returns:
        a list of floats, float64 precision. Levels with r above 100 count as that, as in
        ``curvature_sigmas``.

    Source: theory page, section 8.
    """
    return _toward(sigmas, [(share, curvature)], sigma_min, path)


def worth(
    sigmas: Sequence[float],
    sigma_min: float = 0.0,
    path: Path = VE,
    curvature: Curvature = TYPICAL,
) -> float:
    """Return the share of a schedule's expected squared error that the curvature's levels save, 0
    to 1.

    Args:
        sigmas, sigma_min, path, curvature: as for `bent`; 0 where that leaves the schedule alone.

    Source: theory page, equations 8.3 and 8.5.
    """
    *given, end = sigmas
    between = _between(given, end, sigma_min, path, curvature)
    return between.worth(np.array(given)) if between else 0.0


def guided(guidance: float | None) -> float:
    """Return how far a run's levels are those of GUIDED: 0 up to guidance 2 and where it is not
    known, 1 from 7 on.

    Args:
        guidance: the scale of classifier-free guidance, or None.
    """
    if guidance is None or not guidance > TYPICAL_SCALE:
        return 0.0
    return min(1.0, (guidance - TYPICAL_SCALE) / (GUIDED_SCALE - TYPICAL_SCALE))


def reposition(
    sigmas: Sequence[float],
    placement: float = 1.0,
    sigma_min: float = 0.0,
    path: Path = VE,
    curvature: Curvature | None = None,
    guidance: float | None = None,
) -> list[float]:
    """Return a schedule whose levels went as far to where curvature has them as that is worth:
    little where the schedule is a good one, nearly all the way where it makes no calls at low
    noise.

    Args:
        sigmas, sigma_min, path: as for `bent`.
        placement: factor of the share of the way that is `worth` going, 0 (the schedule as it is)
            to 1.
        curvature: a Curvature of the model at hand; left out, the stored ones.
        guidance: the scale of classifier-free guidance if it is known. From 2 to 7 the levels go
            over to all the way to the stored curve of guidance 7; a curve of one's own is of the
            guidance that it was measured at, and the flow path has no stored one.

    Returns:
        as `bent`.

    Source: theory page, equations 8.5 and 8.6.
    """
    if not placement:
        return list(sigmas)
    pull = guided(guidance) if curvature is None and path is VE else 0.0
    curve = TYPICAL if curvature is None else curvature
    shares = [(pull * placement, GUIDED)]
    if pull < 1:
        share = worth(sigmas, sigma_min, path, curve)
        shares.append(((1 - pull) * placement * share, curve))
    return _toward(sigmas, shares, sigma_min, path)


def _toward(
    sigmas: Sequence[float], shares: list[tuple[float, Curvature]], sigma_min: float, path: Path
) -> list[float]:
    """Return a schedule whose levels went, in log r, a share of the way to those of each of some
    curves, one after another of the same schedule."""
    *given, end = sigmas
    moved = here = np.log(noise_to_signal(path, np.array(given[1:])))
    for share, curve in shares:
        if share and (between := _between(given, end, sigma_min, path, curve)):
            there = np.log(noise_to_signal(path, between.levels(len(given))[1:]))
            moved = moved + share * (there - here)
    if moved is here:
        return [*given, end]
    levels = path.from_noise_to_signal(np.exp(moved))
    return [given[0], *levels.tolist(), end]


@functools.lru_cache(maxsize=64)
def _range_of(low: float, high: float, curvature: Curvature, path: Path) -> _Range:
    return _Range(low, high, curvature, path)


def _between(
    given: list[float], end: float, sigma_min: float, path: Path, curvature: Curvature
) -> _Range | None:
    """Return what is expected of schedules between the levels of one; None where none of its levels
    can move."""
    low = (min(sigma_min, given[-1]) or given[-1]) if given else 0.0
    if end > 0 or len(given) < 2 or not low < given[0]:
        return None
    return _range_of(low, given[0], curvature, path)


class _Levels(Protocol):
    """A model that says what noise levels it knows."""

    sigma_min: float
    sigma_max: float
    sigmas: Any


def _flow_of(steps: int, model: _Levels) -> Tensor:
    if model.sigma_max != 1:
        raise ValueError(
            f"the schedule 'flow' is for models that start at sigma 1, not {model.sigma_max:g}: try karras"
        )
    return flow(steps)


# What every schedule needs is on the model (isdo.denoiser.Denoiser): its range, or its table.
SCHEDULES: dict[str, Callable[[int, Any], Tensor]] = {
    "karras": lambda steps, model: karras(steps, model.sigma_min, model.sigma_max),
    "exponential": lambda steps, model: exponential(steps, model.sigma_min, model.sigma_max),
    "simple": lambda steps, model: simple(steps, model.sigmas),
    "uniform": lambda steps, model: uniform(steps, model.sigmas),
    "sgm_uniform": lambda steps, model: sgm_uniform(steps, model.sigmas),
    "flow": _flow_of,
    "curvature": lambda steps, model: curvature_sigmas(
        steps, model.sigma_min, model.sigma_max, path=detect_path(model)
    ),
}


def schedule(name: str, steps: int, model: _Levels) -> Tensor:
    """Return the sigmas of the schedule ``name`` for a model that has sigma_min, sigma_max and
    sigmas.

    Raises:
        ValueError: an unknown name, or a schedule that does not suit the model.
    """
    if name not in SCHEDULES:
        raise ValueError(f"no schedule {name!r}: choose one of {', '.join(SCHEDULES)}")
    return SCHEDULES[name](steps, model)
