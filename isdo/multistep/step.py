"""The step: from the best x known to the next level, m being interpolated."""

import functools

import torch

from ..device import table
from ..quadrature import step_rises


@functools.lru_cache(maxsize=1024)
def shares(start, end, sigmas, tau, slots):
    """Return the share of each slot in the mean of m over a step, as numbers.

    Args:
        start, end: sigma at either end of the step.
        sigmas: of the nodes that are interpolated, newest first.
        tau: a Tau.
        slots: where the newest m is, and where the changes that led to it, newest first.

    Returns:
        rows by order, from 1 on, of one number a slot.
    """
    rises = step_rises(start, end, sigmas, tau)
    rows = []
    for order in range(1, len(sigmas) + 1):
        row = [0.0] * len(slots)
        row[slots[0]] = 1.0
        for j in range(len(sigmas) - 1):
            row[slots[1 + j]] = sum(rises[k][j] for k in range(order - 1))
        rows.append(tuple(row))
    return tuple(rows)


def ratios(path, power, sigmas):
    """Return psi1/psi0, psi^2 = a^2 S + s^2, of the steps between sigmas, each to the one before it.

    Args:
        path: a Path.
        power: S (B, channels, modes, 1); None: 0.
        sigmas: where steps lead, and then where they begin.

    Returns:
        a list of numbers, or of tensors like the power.
    """
    if power is None:
        return [end / start for end, start in zip(sigmas, sigmas[1:], strict=False)]
    squares = torch.addcmul(
        table(tuple(s * s for s in sigmas), power)[:, None, None, None],
        table(tuple(path.signal(s) ** 2 for s in sigmas), power)[:, None, None, None],
        power[:, None],
    )
    return list((squares[:, :-1] / squares[:, 1:]).sqrt_().unbind(1))


def advance(path, x, mean, ratio, start, end):
    """Return x (modes) at ``end``, in the mean of m over the step: a1 m + ratio (x - a0 m).

    Args:
        path: a Path.
        x, mean: modes (B, channels, K), x at ``start``.
        ratio: psi1/psi0.
        start, end: sigma.
    """
    if torch.is_tensor(ratio):
        x, mean = (v.unflatten(-1, (ratio.shape[-2], -1)) for v in (x, mean))
    a0, a1 = path.signal(start), path.signal(end)
    if a0 == a1 == 1:
        moved = torch.lerp(mean, x, ratio)
    else:
        moved = torch.sub(x, mean, alpha=a0).mul_(ratio).add_(mean, alpha=a1)
    return moved.flatten(-2) if torch.is_tensor(ratio) else moved


def mixed(residuals, shares):
    """Return the mean of m (B, channels, K) over a step, out of the residuals of all slots.

    Args:
        residuals: (B, slots, channels, K).
        shares: (B or 1, slots).
    """
    return (residuals * shares[:, :, None, None]).sum(1)
