"""Forward processes x_t = s(t) x0 + s(t) sigma(t) n: what training does to a picture, and what
undoes it exactly.

Theory page, section 10. sigma(t) is the noise-to-signal ratio of that section on every process. The
path `flow` of isdo.path counts its noise levels otherwise: its own sigma is s(t) sigma(t) = t.
`Process.to_path` goes from the one to the other.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from numbers import Real
from typing import Any, TypeVar, overload

import torch
from torch import Tensor

from .device import beside, precision
from .device import wide as wide_table
from .path import FLOW, VE, Path
from .protocols import Number

Time = float | Tensor
T = TypeVar(
    "T", float, Tensor
)  # what comes back is of the kind of the times, unless pictures are tensors
Formula = Callable[[Tensor], Tensor]

SLACK = 1e-6  # by so much, relative, may a sigma lie outside: float32 tables are rounded ones


def per_image(value: Any, x: Tensor) -> Any:
    """Return ``value`` (float or (B,) or (1,)) so that it multiplies x (B, ...): trailing
    dimensions are added."""
    return value.reshape(-1, *[1] * (x.ndim - 1)) if isinstance(value, torch.Tensor) else value


@dataclass(frozen=True)
class Law:
    """s, s sigma, sigma, its inverse, f = s'/s, g = s sqrt(2 sigma sigma') and the pair of numbers
    (p, q) by which the probability-flow ODE is dx/dt = p x - q D, each a function of a float64
    tensor.

    They are seven and not two because each has a form of its own that loses no digits where s,
    sigma or 1/sigma vanishes.
    """

    scale: Formula
    noise: Formula
    sigma: Formula
    time: Formula
    drift: Formula
    diffusion: Formula
    ode: Callable[[Tensor], tuple[Tensor, Tensor]]


def preserving(exponent: Formula, rate: Formula, inverse: Formula) -> Law:
    """Return the Law with s^2 + (s sigma)^2 = 1 and s^2 = exp(-B), from B(t), beta = B' and the
    inverse of B."""

    def ode(t: Tensor) -> tuple[Tensor, Tensor]:
        b = exponent(t)
        pull = rate(t) / (-2 * (-b).expm1())
        return pull * (-b).exp(), pull * (-b / 2).exp()

    return Law(
        scale=lambda t: (-exponent(t) / 2).exp(),
        noise=lambda t: (-(-exponent(t)).expm1()).sqrt(),
        sigma=lambda t: exponent(t).expm1().sqrt(),
        time=lambda sigma: inverse(sigma.square().log1p()),
        drift=lambda t: -rate(t) / 2,
        diffusion=lambda t: rate(t).sqrt(),
        ode=ode,
    )


def exploding(sigma: Formula, rate: Formula, inverse: Formula) -> Law:
    """Return the Law with s = 1, from sigma(t), its derivative and its inverse."""
    return Law(
        scale=torch.ones_like,
        noise=sigma,
        sigma=sigma,
        time=inverse,
        drift=torch.zeros_like,
        diffusion=lambda t: (2 * sigma(t) * rate(t)).sqrt(),
        ode=lambda t: (rate(t) / sigma(t),) * 2,
    )


FADING = Law(  # the picture fades out as the noise fades in: s = 1 - t, s sigma = t
    scale=lambda t: 1 - t,
    noise=lambda t: t.clone(),
    sigma=lambda t: t / (1 - t),
    time=lambda sigma: 1 / (1 + 1 / sigma),  # right at 0 and at infinity, too
    drift=lambda t: -1 / (1 - t),
    diffusion=lambda t: (2 * t / (1 - t)).sqrt(),
    ode=lambda t: (1 / t,) * 2,  # finite at t = 1, where f is not
)


def linear_betas(levels: int = 1000, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """Return DDPM's betas (levels,) float64 (Ho et al. 2020, section 4)."""
    return torch.linspace(first, last, levels, dtype=torch.float64, device="cpu")


def scaled_linear_betas(levels: int = 1000, first: float = 0.00085, last: float = 0.012) -> Tensor:
    """Return Stable Diffusion's betas (levels,) float64: even in the square root (Rombach et al.
    2022)."""
    return torch.linspace(first**0.5, last**0.5, levels, dtype=torch.float64, device="cpu") ** 2


def cosine_betas(levels: int = 1000, limit: float = 0.999) -> Tensor:
    """Return the betas (levels,) float64 of the cosine schedule, none above ``limit`` (Nichol and
    Dhariwal 2021)."""
    exponent, _, _ = _cosine()
    ends = torch.arange(levels + 1, dtype=torch.float64, device="cpu") / levels
    return (-(-exponent(ends).diff()).expm1()).clamp(max=limit)


def _linear(first: float, last: float) -> tuple[Formula, Formula, Formula]:
    """B, beta and the inverse of B where beta = first + (last - first) t."""
    slope = last - first
    return (
        lambda t: t * (first + slope / 2 * t),
        lambda t: first + slope * t,
        lambda b: (
            2 * b / (first + (first**2 + 2 * slope * b).sqrt())
        ),  # the root that does not cancel
    )


def _cosine(offset: float = 0.008) -> tuple[Formula, Formula, Formula]:
    """B, beta and the inverse of B where exp(-B) = cos^2(a) / cos^2(a0), a = a0 + w t reaching pi/2
    at t = 1.

    Near t = 0 cos a / cos a0 is 1 less little, near t = 1 it is sin((1 - t) w) / cos a0: each half
    takes its own form.
    """
    w = math.pi / 2 / (1 + offset)
    a0 = offset * w
    sine, cosine = math.sin(a0), math.cos(a0)

    def exponent(t: Tensor) -> Tensor:
        lost = 2 * (w * t / 2).sin() ** 2 + (w * t).sin() * (sine / cosine)
        late = ((w * (1 - t)).sin() / cosine).log()
        return -2 * torch.where(t < 0.5, (-lost).log1p(), late)

    def rate(t: Tensor) -> Tensor:
        return 2 * w * torch.where(t < 0.5, (a0 + w * t).tan(), 1 / (w * (1 - t)).tan())

    def inverse(b: Tensor) -> Tensor:
        fallen, half = -(-b).expm1(), -(-b / 2).expm1()  # 1 - exp(-B), 1 - exp(-B/2)
        cos_a, sin_a = cosine * (1 - half), (sine**2 + cosine**2 * fallen).sqrt()
        # sin(a - a0) as a sum of positive terms, by sin a - sin a0 = (sin^2 a - sin^2 a0)/(sin a +
        # sin a0)
        rise = cosine**3 * fallen / (sin_a + sine) + sine * cosine * half
        return torch.atan2(rise, cos_a * cosine + sin_a * sine) / w

    return exponent, rate, inverse


def _table(betas: Tensor) -> tuple[Formula, Formula, Formula]:
    """B, beta and the inverse of B where exp(-B) at level i is prod(1 - beta_j), j = 0 .. i.

    Between levels log sigma is interpolated, as k-diffusion's ``t_to_sigma`` does.
    """
    logs = (-(-betas).log1p()).cumsum(0).expm1().log()  # of sigma^2

    def place(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        table, low = beside(logs, t), t.floor().clamp(0, len(logs) - 2).long()
        return table[low], table[low + 1], t - low

    def exponent(t: Tensor) -> Tensor:
        return torch.lerp(*place(t)).exp().log1p()

    def rate(t: Tensor) -> Tensor:
        low, high, part = place(t)
        return torch.lerp(low, high, part).sigmoid() * (high - low)

    def inverse(b: Tensor) -> Tensor:
        found, table = b.expm1().log(), beside(logs, b)
        low = (torch.searchsorted(table, found, right=True) - 1).clamp(0, len(table) - 2)
        return low + (found - table[low]) / (table[low + 1] - table[low])

    return exponent, rate, inverse


def _wide(value: Any, name: str) -> Tensor:
    """Return a number as a float64 tensor, or a tensor in float64 where its device has that."""
    if torch.is_tensor(value):
        return value.to(precision(value.device))
    if not isinstance(value, Real):
        raise ValueError(f"{name} is a {type(value).__name__}: give a number or a tensor")
    return torch.tensor(float(value), dtype=torch.float64, device="cpu")


def _restored(value: Tensor, *given: Any) -> Any:
    """Return ``value`` in the kind of what was given: a float, or a tensor in the dtype of the
    tensors there."""
    dtypes = [v.dtype for v in given if torch.is_tensor(v)]
    if not dtypes:
        return float(value)
    floating = [dtype for dtype in dtypes if dtype.is_floating_point]
    return value.to(reduce(torch.promote_types, floating)) if floating else value


def _times(coefficient: Tensor, x: Any) -> Tensor:
    """Return a float64 coefficient so that it multiplies x: a (B,) tensor gets trailing dimensions,
    one number is one."""
    if not torch.is_tensor(x):
        return coefficient
    coefficient = beside(coefficient, x)
    return per_image(coefficient, x) if coefficient.ndim == 1 and x.ndim else coefficient


def _ratio(law: Formula, t: Tensor, u: Tensor) -> Tensor:
    """Return law(t)/law(u), which is 1 where t = u: at the ends of time both may be 0, or
    infinite."""
    return torch.where(t == u, 1.0, law(t) / law(u))


@dataclass(frozen=True, eq=False)
class Process:
    """A Gaussian forward process in closed form; times are floats or tensors, and so is what comes
    back.

    Numbers (of Python or numpy) give floats; tensors give tensors of their own dtype, whole numbers
    float64 ones; all is computed in float64. Where pictures (B, ...) are involved, times may be
    (B,), one for each picture.

    A discrete process has levels 0 .. L - 1 for t. Its transitions between levels are exactly the
    products of its betas; between levels log sigma is interpolated, and drift and diffusion are
    those of the interpolated process.

    Args:
        name: the key in PROCESSES.
        law: a Law.
        path: the isdo.path.Path on which a denoiser of this process lives: x/s on `ve`, x itself on
            `flow`.
        domain: the times at which the process is defined, both ends included.
        span: the times of training and sampling, as published.
        betas: (L,) of a discrete process, else None.

    Raises (every method):
        ValueError: times that are no numbers, outside the domain, or in the wrong order; a sigma
            that the process has not.
    """

    name: str
    law: Law
    path: Path
    domain: tuple[float, float]
    span: tuple[float, float]
    betas: Tensor | None = None

    def __post_init__(self) -> None:
        t = torch.linspace(*self.span, 9, dtype=torch.float64, device="cpu")
        back, noise = self.law.time(self.law.sigma(t)), self.law.scale(t) * self.law.sigma(t)
        sound = t.isclose(back, rtol=1e-9, atol=1e-12) & (
            noise.isnan() | noise.isclose(self.law.noise(t), rtol=1e-9)
        )
        if not sound.all():
            raise ValueError(
                f"the law of {self.name!r} contradicts itself: its noise must be s sigma, its time undo sigma"
            )

    def _at(self, t: Time, name: str = "t") -> Tensor:
        """Return t as a float64 tensor within the domain."""
        wide, (first, last) = _wide(t, name), self.domain
        if not ((wide >= first) & (wide <= last)).all():  # false for NaN too
            raise ValueError(
                f"{name} is {_shown(wide)} and the process {self.name!r} runs from {first:g} to {last:g}: give a time between"
            )
        return wide

    def _ordered(self, u: Time, t: Time) -> tuple[Tensor, Tensor]:
        early, late = self._at(u, "u"), self._at(t)
        if not torch.is_tensor(u):  # a number goes where the other is
            early = beside(early, late)
        elif not torch.is_tensor(t):
            late = beside(late, early)
        if (early > late).any():
            raise ValueError(
                f"u is {_shown(early)} and t is {_shown(late)}: noise is added from u to t, so give u <= t, earlier first"
            )
        return early, late

    def scale(self, t: Number) -> Number:
        """Return s(t), what is left of the picture."""
        return _restored(self.law.scale(self._at(t)), t)

    def sigma(self, t: Number) -> Number:
        """Return sigma(t), the noise-to-signal ratio; infinity where nothing is left of the
        picture."""
        return _restored(self.law.sigma(self._at(t)), t)

    def noise(self, t: Number) -> Number:
        """Return s(t) sigma(t), the standard deviation of the noise in x_t."""
        return _restored(self.law.noise(self._at(t)), t)

    def time(self, sigma: Number) -> Number:
        """Return the t at which the noise-to-signal ratio is ``sigma``, the inverse of `sigma` in
        closed form."""
        wide, ends = _wide(sigma, "sigma"), self.law.sigma(wide_table(self.domain)).tolist()
        if not ((wide >= ends[0] * (1 - SLACK)) & (wide <= ends[1] * (1 + SLACK))).all():
            raise ValueError(
                f"sigma is {_shown(wide)} and that of the process {self.name!r} goes from {ends[0]:.6g} to {ends[1]:.6g}: "
                "give a noise-to-signal ratio between"
            )
        return _restored(self.law.time(wide).clamp(*self.domain), sigma)

    def drift(self, t: Number) -> Number:
        """Return f = s'/s of dx = f x dt + g dw (theory, equation 10.2)."""
        return _restored(self.law.drift(self._at(t)), t)

    def diffusion(self, t: Number) -> Number:
        """Return g = s sqrt(2 sigma sigma') of dx = f x dt + g dw (theory, equation 10.2)."""
        return _restored(self.law.diffusion(self._at(t)), t)

    @overload
    def marginal(self, x0: Tensor, t: T) -> tuple[Tensor, T]: ...

    @overload
    def marginal(self, x0: float, t: T) -> tuple[T, T]: ...

    def marginal(self, x0: Time, t: Time) -> tuple[Any, Any]:
        """Return (mean, std) of x_t given x0 (theory, equation 10.1); std broadcasts to x0."""
        wide = self._at(t)
        mean, std = self.law.scale(wide), self.law.noise(wide)
        return self._made(lambda x: _times(mean, x) * x, (x0,), t), self._std(std, x0, t)

    def transition(self, u: Number, t: Number) -> tuple[Number, Number]:
        """Return (factor, std) of one step x_t = factor x_u + std n, from u to the noisier t
        (theory, equation 10.3)."""
        early, late = self._ordered(u, t)
        left = _ratio(self.law.sigma, early, late)
        std = self.law.noise(late) * ((1 - left) * (1 + left)).sqrt()
        return _restored(_ratio(self.law.scale, late, early), u, t), _restored(std, u, t)

    @overload
    def posterior(self, x_t: Tensor, x0: Tensor, t: Time, u: Time) -> tuple[Tensor, Tensor]: ...

    @overload
    def posterior(self, x_t: float, x0: float, t: T, u: T) -> tuple[T, T]: ...

    def posterior(self, x_t: Time, x0: Time, t: Time, u: Time) -> tuple[Any, Any]:
        """Return (mean, std) of x_u given x_t and x0, u <= t (theory, equation 10.4); std
        broadcasts to x_t.

        On the variance-preserving processes these are mu-tilde and the root of beta-tilde of Ho et
        al. 2020, equation 7.
        """
        early, late = self._ordered(u, t)
        left = _ratio(self.law.sigma, early, late)
        fresh = (1 - left) * (1 + left)
        of_x, of_x0 = left * _ratio(self.law.noise, early, late), self.law.scale(early) * fresh
        mean = self._made(lambda x, y: _times(of_x, x) * x + _times(of_x0, y) * y, (x_t, x0), t, u)
        return mean, self._std(self.law.noise(early) * fresh.sqrt(), x_t, x0, t, u)

    @overload
    def score(self, x: Tensor, denoised: Tensor, t: Time) -> Tensor: ...

    @overload
    def score(self, x: float, denoised: float, t: T) -> T: ...

    def score(self, x: Time, denoised: Time, t: Time) -> Any:
        """Return the gradient of log p(x_t) where D says ``denoised`` (theory, equation 10.5);
        noise(t) > 0."""
        wide = self._at(t)
        scale, variance = self.law.scale(wide), self.law.noise(wide).square()
        return self._made(
            lambda x, d: (_times(scale, x) * d - x) / _times(variance, x), (x, denoised), t
        )

    @overload
    def ode(self, x: Tensor, denoised: Tensor, t: Time) -> Tensor: ...

    @overload
    def ode(self, x: float, denoised: float, t: T) -> T: ...

    def ode(self, x: Time, denoised: Time, t: Time) -> Any:
        """Return dx/dt of the probability-flow ODE, f x - g^2 score / 2 (theory, equation 10.6);
        noise(t) > 0."""
        of_x, of_d = self.law.ode(self._at(t))
        return self._made(lambda x, d: _times(of_x, x) * x - _times(of_d, x) * d, (x, denoised), t)

    @overload
    def reverse_drift(self, x: Tensor, denoised: Tensor, t: Time) -> Tensor: ...

    @overload
    def reverse_drift(self, x: float, denoised: float, t: T) -> T: ...

    def reverse_drift(self, x: Time, denoised: Time, t: Time) -> Any:
        """Return f x - g^2 score, the drift of the SDE that runs from noise to picture (theory,
        equation 10.7).

        At the end of `flow` it is infinite, as g is.
        """
        wide = self._at(t)
        drift, (of_x, of_d) = (
            self.law.drift(wide),
            self.law.ode(wide),
        )  # it is twice the ODE less f x
        return self._made(
            lambda x, d: _times(2 * of_x - drift, x) * x - _times(2 * of_d, x) * d, (x, denoised), t
        )

    @overload
    def to_path(self, x: Tensor, t: T) -> tuple[Tensor, T]: ...

    @overload
    def to_path(self, x: float, t: T) -> tuple[T, T]: ...

    def to_path(self, x: Time, t: Time) -> tuple[Any, Any]:
        """Return (x, sigma) of the path, ready for a denoiser there, from x_t (theory, equation
        10.8).

        On `ve` that is x/s at sigma(t); on `flow` x itself at sigma = t, since the path counts its
        noise as s sigma.
        """
        whole, level = self._whole(t)
        return self._made(lambda x: x / _times(whole, x), (x,), t), _restored(level, t)

    @overload
    def from_path(self, x: Tensor, t: Time) -> Tensor: ...

    @overload
    def from_path(self, x: float, t: T) -> T: ...

    def from_path(self, x: Time, t: Time) -> Any:
        """Return x_t from the path's x at the same time; undoes `to_path`."""
        whole, _ = self._whole(t)
        return self._made(lambda x: x * _times(whole, x), (x,), t)

    def _whole(self, t: Time) -> tuple[Tensor, Tensor]:
        """Return s/a, a the signal of the path where its noise-to-signal ratio is the same, and the
        path's sigma there."""
        wide = self._at(t)
        noise = self.law.noise(wide)
        whole = (
            self.law.scale(wide) + self.path.fade * noise
        )  # s (1 + fade sigma), and a = 1/(1 + fade sigma)
        return whole, noise / whole

    @staticmethod
    def _made(formula: Callable[..., Any], states: tuple[Any, ...], *times: Any) -> Any:
        """Return the formula of the states, a float if these and the times all are numbers."""
        if any(torch.is_tensor(v) for v in states):
            return formula(*states)
        return _restored(formula(*(float(v) for v in states)), *times)

    @staticmethod
    def _std(std: Tensor, x: Any, *others: Any) -> Any:
        return _times(std, x) if torch.is_tensor(x) and std.ndim else _restored(std, *others)


def _shown(t: Tensor) -> str:
    """Return a float64 tensor in words: the number, or from where to where its numbers go."""
    low, high = (float(v) for v in (t.min(), t.max()))
    return f"{low:g}" if low == high or math.isnan(low) else f"{low:g} to {high:g}"


def discrete(name: str, betas: Tensor | Sequence[float]) -> Process:
    """Return the variance-preserving Process whose level i has s^2 = prod(1 - beta_j), j = 0 .. i.

    Args:
        name: to call it by.
        betas: (L,), at least two, each between 0 and 1.

    Raises:
        ValueError: betas that make no process.
    """
    betas = wide_table(betas)
    if betas.ndim != 1 or len(betas) < 2 or not ((betas > 0) & (betas < 1)).all():
        raise ValueError(
            "betas must be a table of at least 2 numbers between 0 and 1, such as isdo.process.linear_betas()"
        )
    ends = (0.0, float(len(betas) - 1))
    return Process(name, preserving(*_table(betas)), VE, ends, ends, betas)


def vp_linear(first: float = 0.1, last: float = 20.0) -> Process:
    """Return Song et al.'s variance-preserving Process, beta from ``first`` to ``last`` in t = 0 ..
    1."""
    return Process("vp linear", preserving(*_linear(first, last)), VE, (0.0, 1.0), (1e-5, 1.0))


def vp_cosine() -> Process:
    """Return Nichol and Dhariwal's cosine schedule as a process in t = 0 .. 1 (their t/T).

    Nothing is clipped: s is 0 at t = 1. Their 1,000 levels, with beta at most 0.999, are
    ``discrete("vp cosine", cosine_betas())``.
    """
    return Process("vp cosine", preserving(*_cosine()), VE, (0.0, 1.0), (0.0, 1.0))


def ve(sigma_min: float = 0.02, sigma_max: float = 100.0) -> Process:
    """Return Song et al.'s variance-exploding Process, sigma from ``sigma_min`` to ``sigma_max`` in
    t = 0 .. 1."""
    pace = math.log(sigma_max / sigma_min)

    def sigma(t: Tensor) -> Tensor:
        return sigma_min * (pace * t).exp()

    law = exploding(
        sigma, lambda t: pace * sigma(t), lambda found: (found / sigma_min).log() / pace
    )
    return Process("ve", law, VE, (0.0, 1.0), (0.0, 1.0))


def edm() -> Process:
    """Return the Process of Karras et al. 2022, in which the time is the noise level; any t >= 0 is
    one."""
    law = exploding(torch.clone, torch.ones_like, torch.clone)
    return Process("edm", law, VE, (0.0, math.inf), (0.002, 80.0))


PROCESSES = {
    row.name: row
    for row in (
        vp_linear(),
        discrete("vp discrete", scaled_linear_betas()),
        discrete("ddpm", linear_betas()),
        vp_cosine(),
        ve(),
        edm(),
        Process("flow", FADING, FLOW, (0.0, 1.0), (0.0, 1.0)),
    )
}


def process(name: str | Process) -> Process:
    """Return PROCESSES[name]; a Process is returned as it is.

    Raises:
        ValueError: an unknown name.
    """
    if isinstance(name, Process):
        return name
    if name not in PROCESSES:
        raise ValueError(f"no process {name!r}: choose one of {', '.join(PROCESSES)}")
    return PROCESSES[name]
