"""The curvature penalty: two more model calls say where the model is undecided, and the run keeps
away; theory, section 13."""

from typing import Any

import torch
from torch import Tensor

from .answers import check_kind
from .path import Path, detect_path
from .protocols import ExtraArgs, Model, Number
from .spectrum import Spectrum
from .window import Masked, Whole

# Model calls for one: at x, and on both sides of it.
CALLS = 3
# The direction lives in that many of the lowest modes of each channel, and so does what the penalty
# moves: what a picture is is decided there, and of the rounding of a network, which is spread over
# all modes, next to nothing lies there.
MODES = 64
# The two further calls lie so many sigma from x. A second difference errs by about (h/l)^2/12 in
# truncation, l being the length over which D turns (sigma/sqrt(lambda) on a mixture), and by eps
# |D|/h^2 in rounding. Their sum is least where h goes as the fourth root of eps, and the networks
# of the hosts compute in half precision, whatever the dtype of x: 2^-11 to the power of 1/4 is
# 0.15. In float64 2^-14 leaves 6 digits or 7.
APART, APART_IN_FLOAT64 = 0.15, 2.0**-14
# The correction is no larger than that share of what the step goes anyway in these modes, |D -
# x/a|.
SHARE = 0.5


def calls_each(weight: float) -> int:
    """Return how many model calls one of a solver's makes, with a penalty of that weight."""
    return CALLS if weight else 1


def apart(dtype: torch.dtype) -> float:
    """Return how far, in sigma, the two further calls lie from x whose state is of ``dtype``."""
    return APART_IN_FLOAT64 if dtype == torch.float64 else APART


class Feeler:
    """Feels how D changes along one direction of each picture, which turns to where it changes
    most: a power iteration.

    It works on the path ve, x/a at r = s/a, to which both paths lead: there D' = Cov[x0 | x]/r^2
    has no negative eigenvalue, the field f = (x/a - D)/r has grad f = (1 - D')/r, and lambda > 1 of
    D' is a direction in which what is apart comes still further apart on the way down. Equations
    13.3 and 13.4.

    Args:
        path: a Path.
        spectrum: a Spectrum.
        window: Whole or Masked; the direction stays within what is painted.
        modes: the direction lives in so many of the lowest, in each channel.
    """

    def __init__(
        self, path: Path, spectrum: Spectrum, window: Whole | Masked, modes: int = MODES
    ) -> None:
        self.path, self.spectrum, self.window = path, spectrum, window
        self.direction: Any = None  # before `aim`; then modes
        self.lowest = spectrum.lowest(modes)[None]
        self.numbers = int(
            (self.lowest * spectrum.size).sum()
        )  # of a channel; before the run, which never waits

    def low(self, modes: Tensor) -> Tensor:
        """Return the part of ``modes`` (B, channels, K) that lies in the lowest ones and within the
        mask."""
        return self.window.painted(self.spectrum.spread(self.lowest, modes) * modes)

    def count(self, modes: Tensor) -> int:
        """Return how many numbers of a picture lie in the lowest modes."""
        return modes.shape[1] * self.numbers

    def size(self, p: Tensor, q: Tensor) -> Tensor:
        """Return the inner product of each picture (B, 1, 1) in the precision of the
        coefficients."""
        return self.spectrum.inner(p, q).sum(1)[:, None, None]

    def aim(self, modes: Tensor) -> None:
        """Begin with the unit direction of x (modes) itself: noise, of which the first turn leaves
        what D' makes most of."""
        self.direction = self.turned(self.low(modes), torch.zeros_like(modes))

    def turned(self, towards: Tensor, else_: Tensor) -> Tensor:
        """Return the unit direction of ``towards``, or ``else_`` where that is nothing."""
        length = self.size(towards, towards).sqrt()
        return torch.where(
            length > 0, towards / length.clamp(min=tiny(length)).to(towards.dtype), else_
        )

    def feel(self, sigma: Number, plus: Tensor, minus: Tensor, width: float) -> Tensor:
        """Turn the direction v to D'v and return lambda = v D'v (B, 1, 1), by D (modes) at x + and
        - width sigma v."""
        seen = self.low(plus - minus) * (self.path.signal(sigma) / (2 * width * sigma))
        found = self.size(self.direction, seen)
        self.direction = self.turned(seen, self.direction)
        return found


def tiny(like: Tensor) -> float:
    """Return the smallest number of the dtype of ``like`` whose square is none of the subnormal
    ones."""
    return torch.finfo(like.dtype).tiny ** 0.5


class Penalty:
    """Bends what a model says: D less weight n r^2 grad kappa^2, kappa = lambda - 1 where that is
    above 0; equation 13.6.

    Followed downwards it moves pictures away from where two answers are equally likely, to the side
    on which they are already.

    Args:
        weight: of the penalty, a pure number: the same of a picture in other units or of another
            size, and on both paths.
        path, spectrum, window: as of a Feeler.
        dtype: of the state.
        modes: see MODES.
        share: see SHARE; infinity limits nothing.
    """

    def __init__(
        self,
        weight: float,
        path: Path,
        spectrum: Spectrum,
        window: Whole | Masked,
        dtype: torch.dtype,
        modes: int = MODES,
        share: float = SHARE,
    ) -> None:
        self.weight, self.share, self.width = weight, share, apart(dtype)
        self.path, self.spectrum, self.feeler = (
            path,
            spectrum,
            Feeler(path, spectrum, window, modes),
        )

    def probe(self, state: Tensor, sigma: float | Tensor) -> Tensor:
        """Return the step (in x's shape) to one side of ``state`` where the model is to be asked,
        too.

        Args:
            state: x in its own dtype.
            sigma: (B,) or a float.
        """
        if self.feeler.direction is None:
            self.feeler.aim(self.spectrum.forward(state))
        return (
            self.spectrum.inverse(self.feeler.direction, state.shape)
            * self.width
            * _spread(sigma, state.ndim)
        )

    def bend(
        self,
        state: Tensor,
        sigma: Number,
        denoised: Tensor,
        plus: Tensor,
        minus: Tensor,
    ) -> Tensor:
        """Return the denoised of the penalised field, from D at ``state`` and on both sides of it,
        all in x's shape."""
        there, sigma = self.spectrum.forward(denoised), _spread(sigma, 3)
        found = self.correction(
            self.spectrum.forward(state), sigma, there, *map(self.spectrum.forward, (plus, minus))
        )
        # what is nothing leaves D as it is, bit for bit
        return denoised + self.spectrum.inverse(found, denoised.shape)

    def correction(
        self,
        modes: Tensor,
        sigma: Number,
        denoised: Tensor,
        plus: Tensor,
        minus: Tensor,
    ) -> Tensor:
        """Return what is added to D (modes); equations 13.5 to 13.7."""
        feeler, signal = self.feeler, self.path.signal(sigma)
        kappa = (feeler.feel(sigma, plus, minus, self.width) - 1).clamp(min=0).to(modes.dtype)
        second = feeler.low(plus - 2 * denoised + minus) / self.width**2
        found = second * (-2 * self.weight * feeler.count(modes) * kappa)
        if self.share == float("inf"):
            return found
        goes = self.share * feeler.size(*[feeler.low(signal * denoised - modes)] * 2).sqrt()
        wanted = signal * feeler.size(found, found).sqrt()
        return found * (goes / torch.hypot(goes, wanted).clamp(min=tiny(goes))).to(found.dtype)


def _spread(sigma: float | Tensor, ndim: int) -> Any:
    return sigma.reshape(-1, *[1] * (ndim - 1)) if torch.is_tensor(sigma) else sigma


@torch.no_grad()
def largest_curvature(
    model: Model,
    x: Tensor,
    sigma: float,
    extra_args: ExtraArgs | None = None,
    *,
    modes: int = MODES,
    iterations: int = 64,
    expansion: bool = False,
) -> Tensor:
    """Return |grad f| (B,), the largest that the field changes with x in the lowest modes, f = (x/a
    - D)/r on the path ve.

    By power iteration: two model calls each. It converges as the quotient of the two largest
    eigenvalues.

    Args:
        model, extra_args: as for `sample_isdo`.
        x: (B, C, H, W) or (B, C, T, H, W) on the model's own path at ``sigma``.
        sigma: a float above 0, below the pure-noise end of the path flow.
        modes: in each channel.
        expansion: return (lambda - 1)/r instead, lambda the largest eigenvalue of D': how fast what
            is apart comes further apart, below 0 where all comes nearer. The penalty acts on it; it
            is |grad f| where lambda is above 2.

    Raises:
        ValueError: a sigma where the field has no meaning, or no iteration.
    """
    path = detect_path(model)
    if not 0 < sigma < path.sigma_limit:
        raise ValueError(
            f"sigma is {sigma!r}: give one above 0 and below {path.sigma_limit:g}, where {path.name} ends"
        )
    if not isinstance(iterations, int) or iterations < 1:
        raise ValueError(f"iterations is {iterations!r}: give a whole number of at least 1")
    dtype = x.dtype if x.dtype == torch.float64 else torch.float32
    spectrum, width, state, ratio = (
        Spectrum(x.shape[-2], x.shape[-1], x.device),
        apart(dtype),
        x.to(dtype),
        path.noise_to_signal(sigma),
    )
    feeler, level = (
        Feeler(path, spectrum, Whole(), modes),
        x.new_full((len(x),), sigma, dtype=dtype),
    )
    feeler.aim(spectrum.forward(state))
    found = torch.zeros((), dtype=spectrum.precision, device=x.device).expand(len(x), 1, 1)
    for _ in range(iterations):
        before = feeler.direction
        step = width * sigma * spectrum.inverse(before, x.shape)
        asked = [(state + side * step).to(x.dtype) for side in (1, -1)]
        plus, minus = (
            spectrum.forward(check_kind(model(at, level, **extra_args or {}), at).to(dtype))
            for at in asked
        )
        found = feeler.feel(sigma, plus, minus, width) - 1
        if not expansion:
            turning = feeler.low(plus - minus) * (path.signal(sigma) / (2 * width * sigma)) - before
            feeler.direction = feeler.turned(turning, before)
    found = found[:, 0, 0] / ratio
    return found if expansion else found.abs()
