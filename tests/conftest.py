"""Denoisers in closed form, of any shape, and the exact solutions they have."""

import functools
import math

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn
from scipy.integrate import solve_ivp

from isdo.path import PATHS


def per_image(sigma, x):
    return sigma.double().reshape(-1, *[1] * (x.ndim - 1))


def dct(x):
    return torch.from_numpy(dctn(x.numpy(), axes=(-2, -1), norm="ortho"))


def idct(x):
    return torch.from_numpy(idctn(x.numpy(), axes=(-2, -1), norm="ortho"))


class Gaussian:
    """D of one Gaussian that is diagonal in a basis; every mode of x - a mean only shrinks on its
    way.

    Args:
        path: a Path.
        mean: (C, ..., H, W) pixels.
        power: (C, ..., H, W) variance of each mode; for ``fourier`` even in the frequency.
        basis: "fourier" or "cosine".
    """

    def __init__(self, path, mean, power, basis="fourier"):
        self.path, self.mean, self.power, self.basis = path, mean, power, basis

    def scaled(self, x, factor):
        """Multiply the modes of x by ``factor``."""
        if self.basis == "cosine":
            return idct(factor * dct(x))
        return torch.fft.ifft2(factor * torch.fft.fft2(x)).real

    def __call__(self, x, sigma):
        wide, sigma = x.double(), per_image(sigma, x)
        signal = self.path.signal(sigma)
        gain = signal * self.power / (signal**2 * self.power + sigma**2)
        return (self.mean + self.scaled(wide - signal * self.mean, gain)).to(x.dtype)

    def exact(self, x, start, end):
        """Return the solution of the ODE at ``end`` from x at ``start`` (float64)."""
        before, after = self.path.signal(start), self.path.signal(end)
        shrink = ((after**2 * self.power + end**2) / (before**2 * self.power + start**2)).sqrt()
        return after * self.mean + self.scaled(x.double() - before * self.mean, shrink)


@pytest.fixture(autouse=True)
def seeded():
    """Start every test from one state of torch's own generator: what fails, fails again."""
    torch.manual_seed(0)


@pytest.fixture
def no_grad():
    """Hold gradients off for one test: a module that switched them off for good would break the
    training's tests."""
    with torch.no_grad():
        yield


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def normal(generator):
    """normal(*shape) -> float64 noise, the same in every run."""
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.fixture
def gaussian(normal):
    """gaussian(path, (C, ..., H, W)) -> a Gaussian of any mean; its spectrum has no symmetry."""

    def make(path, shape, basis="fourier"):
        power = (1.5 * normal(*shape)).exp()
        if basis == "fourier":  # the mean over +-k keeps the field real
            power = (power + power.flip(-2, -1).roll((1, 1), (-2, -1))) / 2
        else:  # one number a band: a cosine mode is one number and has no direction to fit
            ky, kx = (torch.arange(n, dtype=torch.float64) / (2 * n) for n in shape[-2:])
            power = power.flatten()[(torch.hypot(ky[:, None], kx) * max(shape[-2:])).round().long()]
        return Gaussian(PATHS[path], normal(*shape), power.expand(shape), basis)

    return make


class PixelMixture:
    """D of pixels that are, each by itself, a mixture of two Gaussians."""

    means, variances = (-0.7, 0.9), (0.3, 0.6)

    def __init__(self, path):
        self.path = path

    def __call__(self, x, sigma):
        sigma = per_image(sigma, x)
        a = self.path.signal(sigma)
        rows = [
            (mean, v, a**2 * v + sigma**2, x - a * mean)
            for mean, v in zip(self.means, self.variances, strict=True)
        ]
        first, second = (
            -miss.square() / (2 * total) - total.log() / 2 for _, _, total, miss in rows
        )
        own, other = (mean + a * v / total * miss for mean, v, total, miss in rows)
        return (own + torch.sigmoid(second - first) * (other - own)).to(x.dtype)


def by_dop853(model, x, start, end, tolerance=1e-12):
    """Solve dx/dlog(sigma) = x - D with Dormand and Prince's order 8."""

    def slope(t, flat):
        state = torch.from_numpy(flat).view(x.shape)
        return (state - model(state, state.new_full((len(x),), math.exp(t)))).flatten().numpy()

    span = math.log(start), math.log(end)
    out = solve_ivp(slope, span, x.flatten().numpy(), "DOP853", rtol=tolerance, atol=tolerance)
    return torch.from_numpy(np.ascontiguousarray(out.y[:, -1])).view(x.shape)


@pytest.fixture
def pixel_mixture():
    """pixel_mixture(path) -> model."""
    return lambda path: PixelMixture(PATHS[path])


@pytest.fixture
def solve():
    """solve(model, x, start, end) -> x at ``end``, converged."""
    return by_dop853


@pytest.fixture(scope="session")
def solved():
    """solved(path, start, end) -> a mixture of pixels, an x at ``start``, the solution at ``end``:
    once for all who ask."""

    @functools.cache
    def make(path, start, end):
        model, generator = PixelMixture(PATHS[path]), torch.Generator().manual_seed(0)
        x = start * torch.randn(4, 2, 3, 4, generator=generator, dtype=torch.float64)
        return model, x, by_dop853(model, x, start, end)

    return make


@pytest.fixture
def rational():
    """A denoiser of +, -, *, / on each number by itself, correctly rounded whatever the batch."""

    def model(x, sigma):
        y = x / (1 + sigma.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1)))
        return 2 * y / (1 + y * y)

    return model


@pytest.fixture(scope="session")
def webui(tmp_path_factory):
    """A real WebUI with this checkout among its extensions; see livehost.py."""
    from livehost import Host  # live tests only

    host = Host(tmp_path_factory.mktemp("webui") / "data")
    yield host
    host.stop()
