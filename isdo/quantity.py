"""What a network may be asked for, x0, eps, score, v or velocity, and how to go from one to another
at any (s, sigma)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, overload

import torch
from torch import Tensor

from .process import per_image
from .protocols import Number

# A number for all pictures, or a tensor.
Scalar = float | Tensor
S = TypeVar("S", float, Tensor)  # of numbers come what scale and sigma are


@dataclass(frozen=True)
class Quantity:
    """p x0 + q n, where x = s x0 + s sigma n: the two coefficients say all there is to say.

    Solving the two equations for x0 gives denoised; setting x0 = D, n = (x/s - D)/sigma gives the
    quantity. Theory page, equation 10.9.

    Args:
        name: the key in QUANTITIES.
        of_picture, of_noise: p and q, functions of (s, sigma).
    """

    name: str
    of_picture: Callable[[Any, Any], Any]
    of_noise: Callable[[Any, Any], Any]

    @overload
    def denoised(self, value: Tensor, x: Tensor, scale: Scalar, sigma: Scalar) -> Tensor: ...

    @overload
    def denoised(self, value: float, x: float, scale: S, sigma: S) -> S: ...

    def denoised(self, value: Any, x: Any, scale: Any, sigma: Any) -> Any:
        """Return D from the quantity's ``value`` at x."""
        p, q = self.of_picture(scale, sigma), self.of_noise(scale, sigma)
        return (q * (x / scale) - sigma * value) / (q - p * sigma)

    @overload
    def value(self, denoised: Tensor, x: Tensor, scale: Scalar, sigma: Scalar) -> Tensor: ...

    @overload
    def value(self, denoised: float, x: float, scale: S, sigma: S) -> S: ...

    def value(self, denoised: Any, x: Any, scale: Any, sigma: Any) -> Any:
        """Return the quantity where D says ``denoised``; sigma > 0."""
        return (
            self.of_picture(scale, sigma) * denoised
            + self.of_noise(scale, sigma) * (x / scale - denoised) / sigma
        )


def _zero(scale: Any, sigma: Number) -> Number:
    return 0 * sigma


def _one(scale: Any, sigma: Number) -> Number:
    return 1 + 0 * sigma


QUANTITIES = {
    row.name: row
    for row in (
        Quantity("x0", _one, _zero),
        Quantity("eps", _zero, _one),
        # the gradient of log p(x), x as it is: scaled pictures have scaled gradients
        Quantity("score", _zero, lambda scale, sigma: -1 / (scale * sigma)),
        # Salimans and Ho 2022: the derivative by the angle whose tangent is sigma, so s does not
        # matter
        Quantity(
            "v",
            lambda scale, sigma: -sigma * (1 + sigma**2) ** -0.5,
            lambda scale, sigma: (1 + sigma**2) ** -0.5,
        ),
        # flow matching's n - x0, whatever the process; dx/dt of a process is
        # isdo.process.Process.ode
        Quantity("velocity", lambda scale, sigma: -_one(scale, sigma), _one),
    )
}


@overload
def convert(
    value: Tensor, given: str, wanted: str, x: Tensor, scale: Scalar, sigma: Scalar
) -> Tensor: ...


@overload
def convert(value: float, given: str, wanted: str, x: float, scale: S, sigma: S) -> S: ...


def convert(value: Any, given: str, wanted: str, x: Any, scale: Any, sigma: Any) -> Any:
    """Return the quantity ``wanted`` from the quantity ``given`` that has the ``value``, at x = s
    x0 + s sigma n.

    Args:
        value: (B, ...), shaped like x, or a number.
        given, wanted: keys of QUANTITIES.
        x: (B, ...), or a number.
        scale, sigma: s > 0 and the noise-to-signal ratio sigma > 0, floats or (B,); `Process.scale`
            and `Process.sigma`.

    Raises:
        ValueError: a quantity that there is not; s or sigma not positive.
    """
    for name in (given, wanted):
        if name not in QUANTITIES:
            raise ValueError(f"no quantity {name!r}: choose one of {', '.join(QUANTITIES)}")
    for name, number in (("scale", scale), ("sigma", sigma)):
        if not (number > 0).all() if torch.is_tensor(number) else not number > 0:
            raise ValueError(
                f"{name} is {number}: at 0 x0 and n do not both show in x, so give a number above 0"
            )
    scale, sigma = (
        per_image(v, x) if torch.is_tensor(v) and v.ndim == 1 and torch.is_tensor(x) else v
        for v in (scale, sigma)
    )
    return QUANTITIES[wanted].value(
        QUANTITIES[given].denoised(value, x, scale, sigma), x, scale, sigma
    )
