"""Spectral curvature: how fast D turns along the path, band by band, as a function of the noise-to-signal ratio."""

from dataclasses import dataclass

import torch

from .path import detect_path
from .sampling import sample_isdo
from .spectrum import Spectrum

# All beyond counts as this, the pure-noise end of the flow path (r = infinity) and zero terminal SNR (4518) too: D hardly
# turns there and a step through it costs little, however many logarithms it is long. At 1000, five to eight calls lose a
# step or two to it; at 10 the ordinary start at 14.6 suffers.
RATIO_LIMIT = 30.0
FLOOR = 1e-3  # of the largest value: where D seemed to stand still in the probe, steps still grow no more than tenfold


def noise_to_signal(path, sigma):
    """Return r = s/a of a sigma (tensor), at most RATIO_LIMIT."""
    return sigma / torch.maximum(path.signal(sigma) + 0 * sigma, sigma / RATIO_LIMIT)


@dataclass(frozen=True)
class Curvature:
    """A table of curvature: at each r = s/a, the RMS of |dD/d log r|, bands weighted as in `measure_curvature`.

    On the ODE d2x/dsigma2 = -(dD/d log sigma)/sigma^2: this is the curvature of the trajectory, made scale-free.
    Between the entries log curvature is linear in log r; it falls as r below them and as r^-2 above, as for Gaussian
    data seen from far away.

    Args:
        ratios: falling, positive, finite; at least two.
        values: positive, one for each.

    Raises:
        ValueError: tables that are not so.
    """

    ratios: tuple
    values: tuple

    def __post_init__(self):
        r, k = (torch.tensor(v, dtype=torch.float64) for v in (self.ratios, self.values))
        if len(r) < 2 or r.shape != k.shape or not (r.diff() < 0).all() or not r[-1] > 0 or not r[0].isfinite():
            raise ValueError(f"ratios must fall and be positive, one for each of {len(k)} values, not {self.ratios}")
        if not (k > 0).all() or not k.isfinite().all():
            raise ValueError(f"curvature must be positive and finite, not {self.values}: did the model say the same?")

    def at(self, log_ratio):
        """Return the curvature at log r (float64 tensor)."""
        r, k = (torch.tensor(v, dtype=torch.float64).log().flip(0) for v in (self.ratios, self.values))
        inside = interpolate(log_ratio.clamp(r[0], r[-1]), r, k)
        return (inside + (log_ratio - r[0]).clamp(max=0) - 2 * (log_ratio - r[-1]).clamp(min=0)).exp()


def interpolate(at, knots, values):
    """Return the piecewise linear function through (knots, values), knots rising, at points within their range."""
    low = (torch.searchsorted(knots, at, right=True) - 1).clamp(0, len(knots) - 2)
    width = (knots[low + 1] - knots[low]).clamp(min=torch.finfo(knots.dtype).tiny)
    return torch.lerp(values[low], values[low + 1], (at - knots[low]) / width)


@torch.no_grad()
def measure_curvature(model, x, sigmas, extra_args=None):
    """Measure the spectral curvature in one run of ISDO.

    In the band b, the change of D counts by S_b/(S_b + r^2), S_b being the power of the final picture: the share of an
    error at r that reaches the end, exact for a Gaussian. Without it, wide ranges of sigma spend their steps where
    nothing is decided. Pictures are combined by the median.

    Args:
        model, x, extra_args: as for `sample_isdo`; a few pictures suffice.
        sigmas: a falling grid, 12 to 30 levels, the first where x is; a 0 at the end adds nothing.

    Returns:
        a Curvature, in units of x, between the levels of the grid.

    Raises:
        ValueError: fewer than three positive levels, or a model that always answers the same.
    """
    path, spectrum = detect_path(model), Spectrum(*x.shape[-2:], x.device)
    sigmas = torch.as_tensor(sigmas).double().cpu()
    sigmas = sigmas[sigmas > 0]
    log_ratio = noise_to_signal(path, sigmas).log()
    if len(log_ratio.unique()) < 3:
        raise ValueError(f"sigmas must hold 3 levels or more with s/a up to {RATIO_LIMIT:g}: take 12 to 30")
    answers = []

    def keep(step):
        answers.append(spectrum.forward(step["denoised"].to(torch.float32)))

    sample_isdo(model, x, torch.cat([sigmas, sigmas.new_zeros(1)]), extra_args, keep, disable=True)
    steps = -log_ratio.diff()
    mid = ((log_ratio[1:] + log_ratio[:-1]) / 2).exp()
    power = spectrum.inner(answers[-1], answers[-1]) / (answers[-1].shape[1] * spectrum.size)
    values = []
    for before, after, h, r in zip(answers[:-1], answers[1:], steps.tolist(), mid.tolist(), strict=True):
        if h == 0:
            continue  # both beyond RATIO_LIMIT
        change = spectrum.inner(after - before, after - before) * (power / (power + r**2).clamp(min=1e-30))
        values.append((change.sum(1) / x[0].numel()).sqrt().median() / h)
    values = torch.stack(values).cpu().double()
    return Curvature(tuple(mid[steps > 0].tolist()), tuple(values.clamp(min=FLOOR * values.max()).tolist()))
