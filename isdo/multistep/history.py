"""What the model has said on the way: the newest evaluation, and the changes that led to it."""

import math

import torch

# A shorter step in log sigma is rounding.
LEAST_STEP = 1e-5


def is_twin(sigmas, share):
    """Say whether the newest of the sigmas (newest first) is so close to the next that both are one
    node.

    What a call said carries the error of the step before it. Over a far shorter step that error, or
    mere rounding, would be taken for a slope and extrapolated: it grows as the quotient of the
    steps.
    """
    steps = [abs(math.log(old / new)) for new, old in zip(sigmas, sigmas[1:3], strict=False)]
    return bool(steps) and steps[0] < max([LEAST_STEP, *(share * step for step in steps[1:])])


class History:
    """D and e = a (x - a D)/s^2 of the newest call, and their changes from call to call.

    Both lie in one tensor: a slot at either end for the newest evaluation and the one before it,
    which take turns, and between them a ring of changes. So a step writes what is new and moves
    nothing, and the residuals of all nodes are one operation over a slice.

    Args:
        like: modes (B, channels, K) of the state.
        depth: how many changes are kept.
        twin: as for `is_twin`.

    Attributes:
        sigmas, signals: s and a of the nodes, newest first, at most depth + 1.
        blind: whether nothing of the picture shows at the oldest of them.
    """

    def __init__(self, like, depth, twin):
        self.values = like.new_zeros(len(like), 2, depth + 2, *like.shape[1:])
        self.depth, self.twin = depth, twin
        self.sigmas, self.signals, self.side, self.newest = (), (), 0, -1
        self.offered = None

    def copy(self):
        """Return a history of its own."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__, values=self.values.clone())
        return twin

    @property
    def last(self):
        """The newest evaluation, D and e (B, 2, channels, K)."""
        return self.values[:, :, self.side * (self.depth + 1)]

    @property
    def next(self):
        """Where the next evaluation is to be written."""
        return self.values[:, :, (1 - self.side) * (self.depth + 1)]

    def offer(self):
        """Return where D of the next call may be written (B, channels, K), which saves a copy."""
        self.offered = self.next[:, 0]
        return self.offered

    def change(self, j=0):
        """Return change j (B, 2, channels, K), 0 the newest: from node j + 1 to node j."""
        return self.values[:, :, 1 + (self.newest - j) % self.depth]

    @property
    def slots(self):
        """Where `residuals` has the newest evaluation, and then the changes, newest first."""
        changes = [(self.newest - j) % self.depth for j in range(self.depth)]
        return (self.depth, *changes) if self.side else (0, *(1 + j for j in changes))

    @property
    def blind(self):
        return self.signals[-1] == 0

    def add(self, sigma, signal, state, denoised):
        """Take in a call of the model at ``state``; one so close to the last stands in its place.

        Args:
            sigma, signal: s and a, floats.
            state, denoised: modes (B, channels, K).

        Returns:
            whether it stands in the place of the last.
        """
        before, new = self.last if self.sigmas else None, self.next
        self.side = 1 - self.side
        if denoised is not self.offered:
            new[:, 0].copy_(denoised)
        self.offered = None
        torch.sub(state, denoised, alpha=signal, out=new[:, 1]).mul_(signal / sigma**2)
        if is_twin([sigma, *self.sigmas], self.twin):
            self.sigmas = (sigma, *self.sigmas[1:])
            self.signals = (signal, *self.signals[1:])
            if len(self.sigmas) > 1:
                self.change().add_(new - before)
            return True
        if before is not None:
            self.newest = (self.newest + 1) % self.depth
            torch.sub(new, before, out=self.change())
        self.sigmas = (sigma, *self.sigmas[: self.depth])
        self.signals = (signal, *self.signals[: self.depth])
        return False

    def denoised(self, j):
        """Return what the model said at node j, 0 the newest."""
        said = self.last[:, 0]
        for i in range(j):
            said = said - self.change(i)[:, 0]
        return said

    def residuals(self, power):
        """Return m = D - S e of the newest node and its changes (B, depth + 1, channels, K), at
        ``slots``.

        Args:
            power: S, broadcasts to (B, channels, modes, 1); None: 0.
        """
        begin = self.side
        both = self.values[:, :, begin : begin + self.depth + 1]
        if power is None:
            return both[:, 0]
        parts = both.unflatten(-1, (power.shape[-2], -1))
        return torch.addcmul(parts[:, 0], power[:, None], parts[:, 1], value=-1).flatten(-2)
