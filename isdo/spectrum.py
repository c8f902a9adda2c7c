"""Orthonormal transforms over the last two axes, and the radial bands in which their modes are
grouped."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .device import beside, full_precision, has_complex_fft, precision
from .protocols import Device


def _fourier_modes(height: int, width: int) -> tuple[NDArray[np.float64], ...]:
    """Return |frequency| (cycles per pixel) and multiplicity of each real number of the real FFT,
    (K,) each."""
    ky, kx = np.fft.fftfreq(height), np.fft.rfftfreq(width)
    multiplicity = np.full((height, len(kx)), 2.0)
    multiplicity[:, 0] = 1
    if width % 2 == 0:
        multiplicity[:, -1] = 1
    radius = np.hypot(np.abs(ky)[:, None], kx[None])
    return tuple(np.repeat(v, 2) for v in (radius, multiplicity))


def _fourier_forward(x: Tensor) -> Tensor:
    return torch.view_as_real(torch.fft.rfft2(x, norm="ortho")).flatten(-3)


def _fourier_inverse(modes: Tensor, height: int, width: int) -> Tensor:
    spectrum = torch.view_as_complex(modes.unflatten(-1, (height, width // 2 + 1, 2)))
    alone = spectrum.shape[:-2].numel() == 1
    if alone:  # a library that rounds one transform otherwise than many would let a picture hang on its neighbours
        spectrum = torch.cat([spectrum, spectrum])
    inverse = torch.fft.irfft2(spectrum, s=(height, width), norm="ortho")
    return inverse[:1] if alone else inverse


def _cosine_modes(height: int, width: int) -> tuple[NDArray[np.float64], ...]:
    ky, kx = (np.arange(n) / (2 * n) for n in (height, width))
    radius = np.hypot(ky[:, None], kx[None]).flatten()
    return radius, np.ones_like(radius)


@functools.lru_cache(maxsize=16)
def _cosine_matrix(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the orthonormal DCT-II matrix (size, size), rows the basis functions."""
    n = torch.arange(size, dtype=torch.float64, device="cpu")
    matrix = (2 / size) ** 0.5 * torch.cos(math.pi / size * (n[None] + 0.5) * n[:, None])
    matrix[0] *= 0.5**0.5
    return matrix.to(dtype).to(device)


def _sandwich(left: Tensor, x: Tensor, right: Tensor) -> Tensor:
    """Return left @ x @ right over the last two axes, with bits that do not depend on the batch."""
    with full_precision(x.device):
        if x.device.type != "cpu":
            return left @ x @ right
        # one product an image: a matrix library may block a larger one otherwise
        return torch.stack([left @ (image @ right) for image in x.flatten(0, -3)]).view_as(x)


def _cosine_forward(x: Tensor) -> Tensor:
    rows, columns = (_cosine_matrix(n, x.dtype, x.device) for n in x.shape[-2:])
    return _sandwich(rows, x, columns.T).flatten(-2)


def _cosine_inverse(modes: Tensor, height: int, width: int) -> Tensor:
    rows, columns = (_cosine_matrix(n, modes.dtype, modes.device) for n in (height, width))
    return _sandwich(rows.T, modes.unflatten(-1, (height, width)), columns)


@dataclass(frozen=True)
class Basis:
    """An orthonormal real transform over the last two axes, as a row of functions.

    ``forward`` maps (..., H, W) to real numbers (..., K); times the root of the multiplicity that
    ``modes`` returns beside the frequency, their inner product is that of the pictures. ``parts``
    neighbours are one mode: the real and the imaginary part of a Fourier coefficient.
    """

    name: str
    parts: int
    modes: Callable[[int, int], tuple[NDArray[np.float64], ...]]
    forward: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor, int, int], Tensor]


BASES = {
    basis.name: basis
    for basis in (
        Basis("fourier", 2, _fourier_modes, _fourier_forward, _fourier_inverse),
        Basis("cosine", 1, _cosine_modes, _cosine_forward, _cosine_inverse),
    )
}


@functools.lru_cache(maxsize=32)
def _radial_bands(
    basis: str, height: int, width: int, device: torch.device, halves: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[float, ...]]:
    """Return the radial band of every number (K,), the bands' size, and where to gather the modes
    of each band from (bands, longest), with 1 where there is one and 0 where there is none.

    A band is one step of the coarsest frequency that the longer side resolves, so pictures whose
    longer sides are equal share their bands: frequency is physical, in cycles per pixel.
    """
    radius, multiplicity = BASES[basis].modes(height, width)
    waves = radius * max(height, width)
    index = np.maximum(np.ceil(2 * waves - 1e-9) - 1, 0) if halves else np.round(waves)
    index = index.astype(np.int64)
    # a mode and its mirror image, or a real part and an imaginary part that is 0, are one degree of
    # freedom
    parts, count = BASES[basis].parts, int(index.max()) + 1
    size = np.bincount(index, multiplicity / parts, count)
    bands = index[::parts]
    order, lengths = np.argsort(bands, kind="stable"), np.bincount(bands, minlength=count)
    present = np.arange(lengths.max()) < lengths[:, None]
    gather = np.zeros(present.shape, np.int64)
    gather[present] = order
    like = torch.zeros(0, dtype=precision(device), device=device)
    return (
        torch.from_numpy(index).to(device),
        beside(torch.from_numpy(size), like),
        torch.from_numpy(gather).flatten().to(device),
        beside(torch.from_numpy(present), like),
        tuple((np.cumsum(size) - size).tolist()),
    )


@functools.lru_cache(maxsize=32)
def _scale(
    basis: str, height: int, width: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return by what each number (K,) is multiplied so that the basis is orthonormal: the root of
    its multiplicity; and by what it is divided again."""
    _, multiplicity = BASES[basis].modes(height, width)
    like, root = torch.zeros(0, dtype=dtype, device=device), np.sqrt(multiplicity)
    return beside(torch.from_numpy(root), like), beside(torch.from_numpy(1 / root), like)


class Spectrum:
    """Transform and radial bands for pictures of one size on one device.

    Attributes:
        count: number of bands.
        size: (bands,) real degrees of freedom of each.

    Band k lies round k waves per longer side; of ``halves`` each is half as wide, from above k/2 to
    (k + 1)/2 waves, so that whatever a person calls fine detail is a number of whole bands, or
    nearly.
    """

    def __init__(
        self, height: int, width: int, device: Device, basis: str = "auto", halves: bool = False
    ) -> None:
        device = torch.device(device)
        if basis == "auto":
            basis = "fourier" if has_complex_fft(device) else "cosine"
        self.basis, self.height, self.width, self.precision = (
            BASES[basis],
            height,
            width,
            precision(device),
        )
        self.index, self.size, self._gather, self._present, self._below = _radial_bands(
            basis, height, width, device, halves
        )
        self.count = len(self.size)

    def lowest(self, modes: int) -> Tensor:
        """Return (bands,) ones for the bands in which the ``modes`` lowest modes lie, zeros for the
        others."""
        below = self.size.cumsum(0) - self.size
        return (below < modes).to(self.precision)

    def among_lowest(self, modes: int) -> Tensor | None:
        """Return (K,) ones for the numbers in the bands of the ``modes`` lowest modes, zeros for the
        others; None where that is all of them."""
        return None if self._below[-1] < modes else self.lowest(modes)[self.index]

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Map x (B, ..., H, W) to modes (B, channels, K), channels being all axes between; written
        into ``out`` where that is given."""
        modes = self.basis.forward(x.reshape(len(x), -1, self.height, self.width))
        if self.basis.parts == 1:
            return modes if out is None else out.copy_(modes)
        return torch.mul(modes, self._scales(modes)[0], out=modes if out is None else out)

    def inverse(self, modes: Tensor, shape: Sequence[int]) -> Tensor:
        """Map modes (B, channels, K) back to a picture of ``shape``."""
        if self.basis.parts > 1:
            modes = modes * self._scales(modes)[1]
        return self.basis.inverse(modes, self.height, self.width).reshape(shape)

    def _scales(self, modes: Tensor) -> tuple[Tensor, Tensor]:
        return _scale(self.basis.name, self.height, self.width, modes.dtype, modes.device)

    def pooled(self, numbers: Tensor) -> Tensor:
        """Return numbers (..., K) summed over the parts of each mode: (..., K / parts)."""
        return numbers if self.basis.parts == 1 else numbers[..., ::2] + numbers[..., 1::2]

    def per_band(self, values: Tensor) -> Tensor:
        """Return values (..., K / parts) summed over each band: (..., bands)."""
        gathered = values.to(self.precision).index_select(-1, self._gather)
        return gathered.unflatten(-1, self._present.shape).mul_(self._present).sum(-1)

    def inner(self, p: Tensor, q: Tensor) -> Tensor:
        """Return the inner product of p and q, per image and band (B, bands): pooled over channels,
        never over the batch."""
        return self.per_band(self.pooled(p * q).sum(1))

    def spread(self, per_band: Tensor, like: Tensor) -> Tensor:
        """Return per_band (..., B, bands) at every number, (..., B, 1, K), in the dtype of
        ``like``."""
        index = self.index.expand(*per_band.shape[:-1], -1)
        return per_band.to(like.dtype).gather(-1, index).unsqueeze(-2)
