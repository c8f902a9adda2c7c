"""What comes in from outside - x, sigmas, a mask - looked at once, at the door."""

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .device import wide
from .path import Path
from .protocols import Sigmas
from .settings import Settings

# A level that is so small a part of the one before it, and of 1, is 0: of its noise nothing would
# be seen.
ALL_BUT_ZERO = 1e-4


def check_sigmas(sigmas: Sigmas, path: Path) -> list[float]:
    """Return the sigmas as floats, up to the first zero, or what is all but zero."""
    values = wide(sigmas).flatten().tolist()
    if not values:
        raise ValueError(
            "sigmas is empty: give a falling sequence, the first where x is and usually 0 at the end"
        )
    if not all(0 <= v < float("inf") for v in values):  # false for NaN too
        raise ValueError(
            f"sigmas must be finite and not negative, and are {_short(values)}: check the schedule"
        )
    if any(after > before for before, after in pairwise(values)):
        raise ValueError(f"sigmas must fall, and are {_short(values)}: sort them, largest first")
    values = [path.settle(v) for v in values]
    if values[0] > path.sigma_limit:
        raise ValueError(
            f"sigmas start at {values[0]:g} and the {path.name} path ends at {path.sigma_limit:g}: "
            "give a flow schedule, or the path 've'"
        )
    for i, (before, sigma) in enumerate(pairwise([math.inf, *values])):
        if sigma <= ALL_BUT_ZERO * min(before, 1) and (i > 0 or sigma == 0):
            return [*values[:i], 0.0]
    return values


def _short(values: list[float]) -> str:
    shown = [f"{v:g}" for v in values[:8]] + (["..."] if len(values) > 8 else [])
    return f"[{', '.join(shown)}]"


def check_x(x: Any) -> None:
    if not torch.is_tensor(x) or not x.is_floating_point():
        raise ValueError(
            f"x must be a tensor of floating point numbers, and is {getattr(x, 'dtype', type(x).__name__)}"
        )
    if x.ndim not in (4, 5) or 0 in x.shape:
        raise ValueError(
            f"x has the shape {tuple(x.shape)}: give (B, C, H, W) or (B, C, T, H, W), none of them 0"
        )


def check_mask(mask: Any, x: Tensor) -> Tensor:
    """Return the mask in the shape of x."""
    if not torch.is_tensor(mask):
        raise ValueError(f"mask must be a tensor, and is a {type(mask).__name__}")
    try:
        mask = mask.detach().expand(x.shape)
    except RuntimeError:
        raise ValueError(
            f"mask {tuple(mask.shape)} does not fit x {tuple(x.shape)}: give a shape that broadcasts"
        ) from None
    if not ((mask >= 0) & (mask <= 1)).all():  # false for NaN too
        raise ValueError("mask must lie between 0 (kept) and 1 (painted): scale it")
    return mask


def check_settings(settings: Settings | None) -> Settings:
    """Return the settings; the defaults for None."""
    settings = Settings() if settings is None else settings
    if not isinstance(settings, Settings):
        raise ValueError(f"settings is a {type(settings).__name__}: give isdo.Settings(...)")
    return settings
