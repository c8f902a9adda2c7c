"""Spectral curvature: how fast D turns along the path, band by band, as a function of the
noise-to-signal ratio."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .device import wide
from .path import Path

# All beyond counts as this, the pure-noise end of the flow path (r = infinity) and zero terminal
# SNR (4518) too: D hardly turns there and a step through it costs little, however many logarithms
# it is long. At 30 flow models miss a call where their picture begins; 1000 is no better.
RATIO_LIMIT = 100.0
FLOOR = 1e-3  # of the largest value: where D seemed to stand still in the probe, steps still grow no more than tenfold


def noise_to_signal(path: Path, sigma: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return r = s/a of sigmas (an array), at most RATIO_LIMIT."""
    return sigma / np.maximum(path.signal(sigma), sigma / RATIO_LIMIT)


@dataclass(frozen=True)
class Curvature:
    """A table of curvature: at each r = s/a, the RMS of |dD/d log r|, bands weighted as in
    `isdo.probe.measure_curvature`.

    On the ODE d2x/dsigma2 = -(dD/d log sigma)/sigma^2: this is the curvature of the trajectory,
    made scale-free. Between the entries log curvature is linear in log r. Below them it falls as r,
    above them as 1/r only: for Gaussian data it would as r^-2, but what is seen from far away may
    be of a larger scale than what was measured, and is so under guidance.

    Args:
        ratios: falling, positive, finite; at least two.
        values: positive, one for each.

    Raises:
        ValueError: tables that are not so.
    """

    ratios: tuple[float, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        r, k = (wide(v) for v in (self.ratios, self.values))
        if (
            len(r) < 2
            or r.shape != k.shape
            or not (r.diff() < 0).all()
            or not r[-1] > 0
            or not r[0].isfinite()
        ):
            raise ValueError(
                f"ratios must fall and be positive, one for each of {len(k)} values, not {self.ratios}"
            )
        if not (k > 0).all() or not k.isfinite().all():
            raise ValueError(
                f"curvature must be positive and finite, not {self.values}: did the model say the same?"
            )

    def at(self, log_ratio: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the curvature at log r (an array)."""
        r, k = (np.log(v)[::-1] for v in (self.ratios, self.values))
        inside = np.interp(log_ratio, r, k)
        below, above = np.minimum(log_ratio - r[0], 0), np.maximum(log_ratio - r[-1], 0)
        return np.exp(inside + below - above)
