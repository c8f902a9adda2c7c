"""Shifts, rotations and scale of pictures, and the generators whose exponentials they are.

A shift is a phase ramp in Fourier space, a rotation three shears, each a phase ramp per row or
column, and a scale the exponential of a skew-symmetric matrix: all keep the energy, so that a
transform followed by its inverse is the identity to rounding, and a hundred of them blur nothing.
That is exact on the picture as it is, which for Fourier is periodic; what leaves at one side comes
in at the other. ``mirrored`` continues the picture by its mirror image, faded out to its mean, and
cuts the result out: nothing comes round, and the edge, a pixel or two of it, is no longer exactly
undone. So undo a transform by turning back what has *changed* since (`isdo.refinement`): no change
is then no error, at the edge neither.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .device import beside, full_precision, has_complex_fft, wide

Amount = float | Tensor
# act(picture, its centre (rows, columns)) -> the picture moved
Act = Callable[[Tensor, tuple[float, float]], Tensor]
LARGEST_TURN = (
    math.pi / 2
)  # three shears need tan(angle/2); further on they would throw pixels beyond the mirror image


def shift(x: Tensor, dy: Amount, dx: Amount, mirrored: bool = False) -> Tensor:
    """Return f(y + dy, x + dx) of the picture f: the exponential of dy d/dy + dx d/dx.

    Args:
        x: (B, C, H, W) or (B, C, T, H, W), any floating dtype.
        dy, dx: pixels, a number or (B,) one for each picture. Fractions are band-limited
            interpolation.
        mirrored: continue the picture by its mirror image instead of periodically.

    A phase ramp exp(2 pi i k dx / n). Where n is even, the highest (Nyquist) component is left as
    it is: its phase is not known from a real signal, and any real answer but this one or its
    negative loses energy. So a whole-pixel shift is that of ``torch.roll`` but for this component.

    Raises:
        ValueError: amounts that fit neither one picture nor the batch.
    """
    rows, columns = _amounts(dy, x), _amounts(dx, x)
    return _acted(x, mirrored, lambda f, centre: _ramp(_ramp(f, -2, rows), -1, columns))


def rotate(x: Tensor, angle: Amount, mirrored: bool = False) -> Tensor:
    """Return f(R p) of the picture f, R the rotation by ``angle`` about the centre: exp(angle (x
    d/dy - y d/dx)).

    Args:
        x: (B, C, H, W) or (B, C, T, H, W), any floating dtype.
        angle: radians, a number or (B,), at most a quarter turn either way. With y downwards,
            positive angles turn the picture counterclockwise.
        mirrored: as for `shift`.

    Three shears, x by -tan(angle/2), y by sin(angle), x by -tan(angle/2), each a shift for every
    row or column (Paeth 1986; in Fourier space Unser, Thevenaz & Yaroslavsky 1995, Larkin, Oldfield
    & Klemm 1997). The rotation by -angle is the exact inverse. Two rotations are the rotation by
    the sum as far as the picture is smooth: what a shear pushes beyond the highest frequency, or
    out of the picture, comes round.

    Raises:
        ValueError: more than a quarter turn, or amounts that do not fit the batch.
    """
    turn = _amounts(angle, x)
    if not (turn.abs() <= LARGEST_TURN + 1e-9).all():
        raise ValueError(
            f"angle is up to {float(turn.abs().max()):g}: give at most pi/2, and whole quarter turns by rot90"
        )
    across, down = -(turn / 2).tan(), turn.sin()

    def act(f: Tensor, centre: tuple[float, float]) -> Tensor:
        y, x_ = (
            torch.arange(n, dtype=torch.float64, device="cpu") - c
            for n, c in zip(f.shape[-2:], centre, strict=True)
        )
        f = _ramp(f, -1, across * y[:, None])
        f = _ramp(f, -2, down * x_[None, :])
        return _ramp(f, -1, across * y[:, None])

    return _acted(x, mirrored, act)


def scale(x: Tensor, log_scale: Amount, mirrored: bool = False) -> Tensor:
    """Return f(e^s p) of the picture f about its centre: exp(s (x d/dx + y d/dy)); s > 0 makes
    things smaller.

    Args:
        x: (B, C, H, W) or (B, C, T, H, W), any floating dtype.
        log_scale: s, a number or (B,).
        mirrored: as for `shift`; without it the outermost pixels, where the scale runs against its
            own periodic continuation, are stirred (and restored by the inverse).

    Along one axis x d/dx = K - 1/2 with K = (x d/dx + d/dx x)/2, which is skew-symmetric with the
    spectral derivative: its exponential is orthogonal, and e^(-s/2) restores the brightness that it
    takes.
    """
    amount = _amounts(log_scale, x)

    def act(f: Tensor, centre: tuple[float, float]) -> Tensor:
        down, across = (
            _dilation(n, c, amount.flatten(), f) for n, c in zip(f.shape[-2:], centre, strict=True)
        )
        count = len(down)
        # one product a picture: a matrix library may block, and round, a larger one otherwise
        pairs = ((down[i % count], picture, across[i % count]) for i, picture in enumerate(f))
        with full_precision(f.device):
            return torch.stack([left @ (picture @ right.T) for left, picture, right in pairs])

    return _acted(x, mirrored, act)


def _amounts(amount: Amount, x: Tensor) -> Tensor:
    """Return the amount as float64 on the CPU, shaped to multiply (B, C, ..., H, W): (B or 1, 1,
    ..., 1)."""
    given = wide(amount)
    if given.shape not in ((), (1,), (len(x),)):
        raise ValueError(
            f"the amount has the shape {tuple(given.shape)}: give one number, or {len(x)}, one for each picture"
        )
    return given.reshape(-1, *[1] * (x.ndim - 1))


def _ramp(f: Tensor, axis: int, amount: Tensor) -> Tensor:
    """Shift f by ``amount`` (broadcasts to f, of size 1 along the axis) along one axis; keeps the
    energy."""
    size = f.shape[axis]
    frequency = torch.fft.rfftfreq(size, dtype=torch.float64, device="cpu")
    if size % 2 == 0:
        frequency[-1] = 0  # the Nyquist component stays
    phase = 2 * math.pi * amount * (frequency if axis == -1 else frequency[:, None])
    turn = torch.polar(torch.ones_like(phase), phase)
    turn = turn.to(torch.complex128 if f.dtype == torch.float64 else torch.complex64).to(f.device)
    return torch.fft.irfft(torch.fft.rfft(f, dim=axis) * turn, n=size, dim=axis)


@functools.lru_cache(maxsize=8)
def _dilation_modes(size: int, centre: float) -> tuple[Tensor, Tensor]:
    """Return eigenvalues and eigenvectors of i K, complex128 (size,), (size, size)."""
    frequency = torch.fft.fftfreq(size, dtype=torch.float64, device="cpu")
    if size % 2 == 0:
        frequency[size // 2] = 0
    eye = torch.eye(size, dtype=torch.complex128, device="cpu")
    derivative = torch.fft.ifft(
        2j * math.pi * frequency[:, None] * torch.fft.fft(eye, dim=0), dim=0
    ).real
    x = torch.arange(size, dtype=torch.float64, device="cpu") - centre
    skew = (x[:, None] * derivative + derivative * x) / 2
    return torch.linalg.eigh(1j * (skew - skew.T) / 2)


def _dilation(size: int, centre: float, amounts: Tensor, like: Tensor) -> Tensor:
    """Return the matrices (len(amounts), size, size) of exp(s x d/dx) about ``centre`` along one
    axis."""
    if (
        size == 1
    ):  # a line of one pixel has no size, and no edge that could take up what e^(-s/2) removes
        return torch.ones(len(amounts), 1, 1, dtype=like.dtype, device=like.device)
    values, vectors = _dilation_modes(size, centre)
    turns = torch.polar(
        torch.exp(-amounts / 2)[:, None].expand(-1, size), -amounts[:, None] * values
    )
    return beside(((vectors * turns[:, None]) @ vectors.mH).real, like)


def _mirror(size: int) -> tuple[Tensor, Tensor, int]:
    """Return how a line is continued by its mirror image to twice its length: index and fade (2
    size,), where it begins.

    The fade is 1 on the line and as far again as half of what is added, then falls to 0 as a
    squared cosine. Without it a rotation would leave a step where the continuation meets itself,
    whose ringing (1/distance) reaches the picture.
    """
    before, place = size // 2, torch.arange(2 * size, dtype=torch.float64, device="cpu") - size // 2
    beyond = torch.maximum(-place, place - (size - 1)).clamp(min=0) / (size / 2)
    fade = torch.cos(math.pi / 2 * (2 * beyond - 1).clamp(0, 1)) ** 2
    index = place.long() % (2 * size)
    return torch.where(index < size, index, 2 * size - 1 - index), fade, before


def _acted(x: Tensor, mirrored: bool, act: Act) -> Tensor:
    """Apply ``act(f, centre)`` in a dtype and on a device that can, on the picture or on its
    mirrored continuation."""
    (height, width), home = x.shape[-2:], x.device
    # once an iteration, and small beside a model call: devices without complex FFT leave it to the
    # CPU
    f = x.to(
        home if has_complex_fft(home) else "cpu",
        x.dtype if x.dtype == torch.float64 else torch.float32,
    )
    if not mirrored:
        return act(f, ((height - 1) / 2, (width - 1) / 2)).to(home, x.dtype)
    (rows, down, top), (columns, across, left) = _mirror(height), _mirror(width)
    # a picture at a time: a mean that is shared out among threads may round otherwise
    mean = torch.stack([picture.mean((-2, -1), keepdim=True) for picture in f])
    f = (f - mean)[..., rows.to(f.device)[:, None], columns.to(f.device)] * beside(
        down[:, None] * across, f
    )
    f = act(f, (top + (height - 1) / 2, left + (width - 1) / 2))
    return (f[..., top : top + height, left : left + width] + mean).to(home, x.dtype)


def _one_pixel(height: int, width: int) -> float:
    return 1.0


def _radius(height: int, width: int) -> float:
    """Return the root mean square distance of pixels from the centre."""
    return math.sqrt((height**2 + width**2 - 2) / 12)


@dataclass(frozen=True)
class Generator:
    """One direction of the group.

    ``act(x, amount, mirrored)`` is exp(amount g) x; ``reach(height, width)`` says how many pixels
    amount 1 moves a pixel, as a root mean square over the picture.
    """

    name: str
    formula: str
    act: Callable[..., Tensor]
    reach: Callable[[int, int], float]


GENERATORS = {
    row.name: row
    for row in (
        Generator("rotation", "x d/dy - y d/dx", rotate, _radius),
        Generator(
            "shift x",
            "d/dx",
            lambda x, amount, mirrored=False: shift(x, 0.0, amount, mirrored),
            _one_pixel,
        ),
        Generator(
            "shift y",
            "d/dy",
            lambda x, amount, mirrored=False: shift(x, amount, 0.0, mirrored),
            _one_pixel,
        ),
        Generator("scale", "x d/dx + y d/dy", scale, _radius),
    )
}
# What a person chooses from; every choice of the setting "generators" is here.
SETS: dict[str, tuple[str, ...]] = {
    "none": (),
    "rotation": ("rotation",),
    "shifts": ("shift x", "shift y"),
    "rotation and shifts": ("rotation", "shift x", "shift y"),
    "scale": ("scale",),
    "all": tuple(GENERATORS),
}
LARGEST_AMOUNT = 0.5  # radians, or log scale: a picture of a few pixels is not to be spun


def exp(name: str, pixels: float, x: Tensor, mirrored: bool = True) -> Tensor:
    """Return exp(eps g) x for the generator ``name``, eps such that pixels move by ``pixels`` on
    (quadratic) average.

    Args:
        name: a key of GENERATORS.
        pixels: a number, of either sign.
        x: (B, C, H, W) or (B, C, T, H, W).
        mirrored: as for `shift`.

    The exponential of a generator is the flow along its vector field (Lie; for d/dx Taylor's
    theorem, f(x + eps)): each row of GENERATORS names the transform that is this flow in closed
    form. ``exp(name, -pixels, ...)`` is the inverse; without ``mirrored`` exactly so.

    Raises:
        ValueError: no such generator.
    """
    if name not in GENERATORS:
        raise ValueError(f"no generator {name!r}: choose one of {', '.join(GENERATORS)}")
    generator = GENERATORS[name]
    reach = generator.reach(*x.shape[-2:])
    if reach == 0:  # one pixel has no angle and no size
        return x.clone()
    amount = pixels / reach
    if generator.reach is _radius:
        amount = math.copysign(min(abs(amount), LARGEST_AMOUNT), amount)
    return generator.act(x, amount, mirrored)
