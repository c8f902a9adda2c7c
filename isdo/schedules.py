"""Grids of noise levels: steps + 1 sigmas (float32), strictly descending, that end in 0.

All are computed in float64 and rounded once.
"""

import math
import operator

import torch


def _count(steps):
    try:
        steps = operator.index(steps)
    except TypeError:
        raise ValueError(f"steps must be a whole number, not {steps!r}") from None
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    return steps


def _ramp(first, last, count):
    return torch.linspace(first, last, count, dtype=torch.float64)


def _range(sigma_min, sigma_max):
    low, high = float(sigma_min), float(sigma_max)
    if not 0 < low < high < float("inf"):
        raise ValueError(f"sigma_min and sigma_max must satisfy 0 < sigma_min < sigma_max, not {low:g} and {high:g}")
    return low, high


def _table(sigmas):
    table = torch.as_tensor(sigmas).double().cpu()
    if table.ndim != 1 or len(table) < 2 or not (table[0] > 0 and (table.diff() > 0).all() and table[-1].isfinite()):
        raise ValueError("sigmas must be an ascending table of at least 2 positive noise levels, such as model.sigmas")
    return table


def _to_zero(sigmas):
    """Round to float32 and append the 0; grids so fine that two levels become one are refused."""
    sigmas = torch.cat([sigmas.float(), torch.zeros(1)])
    if not (sigmas.diff() < 0).all():
        raise ValueError(
            f"{len(sigmas) - 1} steps are too many for this range of sigma: take fewer, or widen the range"
        )
    return sigmas


def karras(steps, sigma_min, sigma_max, rho=7.0):
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


def exponential(steps, sigma_min, sigma_max):
    """Return sigmas evenly spaced in log sigma; arguments and errors as for ``karras``."""
    low, high = _range(sigma_min, sigma_max)
    return _to_zero(_ramp(math.log(high), math.log(low), _count(steps)).exp())


def simple(steps, sigmas):
    """Return every (L / steps)-th level of the model's own table, from its end (ComfyUI's "simple").

    Args:
        steps: model calls, 1 .. L.
        sigmas: the model's ascending table (L,).

    Raises:
        ValueError: a table that does not ascend, or more steps than levels.
    """
    steps, table = _count(steps), _table(sigmas)
    if steps > len(table):
        raise ValueError(f"steps must be at most {len(table)}, the levels of the table, not {steps}")
    return _to_zero(table.flip(0)[torch.arange(steps) * len(table) // steps])


def _at(table, index):
    """Interpolate the table at fractional indices in log sigma, as k-diffusion's t_to_sigma does."""
    low = index.long().clamp(max=len(table) - 2)
    return torch.lerp(table.log()[low], table.log()[low + 1], index - low).exp()


def uniform(steps, sigmas):
    """Return levels evenly spaced in the table's index, both ends included (k-diffusion's ``get_sigmas``)."""
    table = _table(sigmas)
    return _to_zero(_at(table, _ramp(len(table) - 1, 0, _count(steps))))


def sgm_uniform(steps, sigmas):
    """Return levels evenly spaced in the table's index, the lowest left out (the WebUIs' "SGM uniform").

    The last step to 0 is as long as the others.
    """
    table, steps = _table(sigmas), _count(steps)
    return _to_zero(_at(table, _ramp(len(table) - 1, 0, steps + 1)[:-1]))


def flow(steps, shift=1.0):
    """Return sigmas of the flow path from 1 to 0, ``shift s / (1 + (shift - 1) s)`` of an even ramp s.

    Args:
        steps: model calls, at least 1.
        shift: 1 is even; 3 is Stable Diffusion 3's (Esser et al. 2024, equation 23), which dwells at high noise.

    Raises:
        ValueError: shift not positive.
    """
    if not 0 < shift < float("inf"):
        raise ValueError(f"shift must be positive, not {shift!r}")
    ramp = _ramp(1, 0, _count(steps) + 1)[:-1]
    return _to_zero(shift * ramp / (1 + (shift - 1) * ramp))


def _flow_of(steps, model):
    if model.sigma_max != 1:
        raise ValueError(
            f"the schedule 'flow' is for models that start at sigma 1, not {model.sigma_max:g}: try karras"
        )
    return flow(steps)


# What every schedule needs is on the model (isdo.denoiser.Denoiser): its range, or its table.
SCHEDULES = {
    "karras": lambda steps, model: karras(steps, model.sigma_min, model.sigma_max),
    "exponential": lambda steps, model: exponential(steps, model.sigma_min, model.sigma_max),
    "simple": lambda steps, model: simple(steps, model.sigmas),
    "uniform": lambda steps, model: uniform(steps, model.sigmas),
    "sgm_uniform": lambda steps, model: sgm_uniform(steps, model.sigmas),
    "flow": _flow_of,
}


def schedule(name, steps, model):
    """Return the sigmas of the schedule ``name`` for a model that has sigma_min, sigma_max and sigmas.

    Raises:
        ValueError: an unknown name, or a schedule that does not suit the model.
    """
    if name not in SCHEDULES:
        raise ValueError(f"no schedule {name!r}: choose one of {', '.join(SCHEDULES)}")
    return SCHEDULES[name](steps, model)
