"""The action of a trajectory: how far it is from a solution of the ODE, step by step; theory page,
section 13."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .answers import check_kind
from .device import wide
from .inputs import check_sigmas, check_x
from .path import Path, detect_path
from .protocols import ExtraArgs, Model, Sigmas
from .settings import Settings
from .solver import SOLVERS
from .spectrum import Spectrum
from .window import Whole

# Each step of the trajectory is solved again in so many steps of `srk5`. One would find no fault
# with srk5 itself; with two, a step that is nearly as good is still told from the solution, whose
# own error is 2^-5 of such a step's.
SUBSTEPS = 2


@torch.no_grad()
def action(
    model: Model,
    states: Tensor | Sequence[Tensor],
    sigmas: Sigmas,
    extra_args: ExtraArgs | None = None,
    sobolev: float = 0.0,
    *,
    substeps: int = SUBSTEPS,
) -> Tensor:
    """Return the action of a trajectory, the integral of |x' - f|^2 / 2 over sigma, f = (x -
    D)/sigma, on both paths.

    What a sampler leaves behind are nodes, and of all curves through them it is the least action
    that counts. Where steps are short that is sum |d_n|^2 / (2 h_n), h_n the length of a step and
    d_n what lies between its end and where the ODE leads from its start: equation 13.2. A solution
    has the action 0, a sampler of order p one that falls as h^(2p), and no interpolation between
    nodes has a share in either. d_n comes from solving the step anew with ``srk5``: 6 ``substeps``
    model calls a step.

    Args:
        model: as for `sample_isdo`.
        states: N + 1 tensors (B, C, H, W) or (B, C, T, H, W), or one tensor of all: x at the
            sigmas. A sampler's callback says where it was asked, "x" at "sigma_hat"; its result is
            the last.
        sigmas: falling noise levels (N + 1,). A step to 0 does not count: the ODE is singular there
            and no model says where it leads; samplers take D instead.
        extra_args: keyword arguments handed to the model as they are.
        sobolev: q: band k (k waves per longer side) counts (1 + k^2)^q times. 0: the plain norm;
            above 0 fine detail counts more, below 0 less.

    Rarely needed:
        substeps: steps of srk5 for each step; more where the trajectory is nearly as good as that.

    Returns:
        (B,), in units of x, float64 where the device has it: of each picture by itself. Infinite
            where a level is there twice
        and the picture is not the same.

    Raises:
        ValueError: states, sigmas, sobolev or substeps that make no sense.
        RuntimeError: the model answered with something else than a picture.

    Freidlin and Wentzell, Random Perturbations of Dynamical Systems, chapter 3.
    """
    path = detect_path(model)
    _check_number("sobolev", sobolev, -math.inf)
    _check_number("substeps", substeps, 1)
    states, levels = _check_states(states, sigmas, path)
    given = states[0]
    dtype = given.dtype if given.dtype == torch.float64 else torch.float32
    spectrum = Spectrum(given.shape[-2], given.shape[-1], given.device)
    waves = torch.arange(spectrum.count, dtype=spectrum.precision, device=given.device)
    weights = (1 + waves.square()) ** float(sobolev)

    def ask(modes: Tensor, sigma: float) -> Tensor:
        x = spectrum.inverse(modes, given.shape)
        denoised = model(x.to(given.dtype), x.new_full((len(x),), sigma), **extra_args or {})
        return spectrum.forward(check_kind(denoised, x, f" at sigma {sigma:g}").to(dtype))

    total = torch.zeros(len(given), dtype=spectrum.precision, device=given.device)
    start = spectrum.forward(states[0].to(dtype))
    for n in range(len(levels) - 1):
        end = spectrum.forward(states[n + 1].to(dtype))
        sigma, after = levels[n], levels[n + 1]
        defect = end - (
            start
            if after == sigma
            else leads_to(ask, path, spectrum, start, sigma, after, substeps)
        )
        cost = (spectrum.inner(defect, defect) * weights).sum(1)
        total = total + (
            cost / (2 * (sigma - after))
            if after < sigma
            else torch.where(cost > 0, math.inf, 0.0).to(cost)
        )
        start = end
    return total


def leads_to(
    ask: Callable[[Tensor, float], Tensor],
    path: Path,
    spectrum: Spectrum,
    modes: Tensor,
    start: float,
    end: float,
    substeps: int,
) -> Tensor:
    """Return where the ODE leads to (modes at the sigma ``end``) from ``modes`` at ``start``, in so
    many steps of srk5.

    Args:
        ask: ``ask(modes, sigma) -> denoised`` modes.
    """
    solver = SOLVERS["srk5"].make(path, spectrum, Settings(power="zero"), modes, Whole(), 0.0)
    sigma = start
    for k in range(1, substeps + 1):
        target, arrived = (
            (start ** (1 - k / substeps) * end ** (k / substeps) if k < substeps else end),
            False,
        )
        while not arrived:
            solver.observe(sigma, modes, ask(modes, sigma))
            sigma, modes, arrived = solver.predict(target)
    return modes


def _check_number(name: str, value: Any, low: float) -> None:
    kinds = (int,) if name == "substeps" else (int, float)
    if (
        isinstance(value, bool)
        or not isinstance(value, kinds)
        or not (low <= value and math.isfinite(value))
    ):
        raise ValueError(
            f"{name} is {value!r}: give a {'whole number of at least 1' if low == 1 else 'finite number'}"
        )


def _check_states(
    states: Tensor | Sequence[Tensor], sigmas: Sigmas, path: Path
) -> tuple[list[Tensor], list[float]]:
    """Return (list of states, list of levels above 0) of a trajectory."""
    if not isinstance(states, (list, tuple)) and not (torch.is_tensor(states) and states.ndim):
        raise ValueError(
            f"states is a {type(states).__name__}: give a list of x, one at each sigma, or a tensor of all"
        )
    states, count = list(states), wide(sigmas).numel()
    if len(states) != count:
        raise ValueError(
            f"there are {len(states)} states and {count} sigmas: give one x at each, the result at the last"
        )
    levels = check_sigmas(sigmas, path)
    for i, state in enumerate(states):
        check_x(state)
        first = states[0]
        if (state.shape, state.dtype, state.device) != (first.shape, first.dtype, first.device):
            raise ValueError(f"states[{i}] is {state.dtype} {tuple(state.shape)} and the first {first.dtype} "
                             f"{tuple(first.shape)}: give x of one run")  # fmt: skip
        if not state.isfinite().all():
            raise ValueError(f"states[{i}] holds NaN or infinity: look at the sampler that made it")
    levels = levels[:-1] if levels[-1] == 0 else levels
    if len(levels) < 2:
        raise ValueError(
            "there is no step between two levels above 0: give a trajectory of one or more"
        )
    return states, levels
