"""The transforms and their bands: orthonormal, of any size, none pooled over the batch."""

import math

import pytest
import torch

from isdo import Settings, sample_isdo, spectrum
from isdo.spectrum import BASES, Spectrum

SIZES = [(8, 8), (6, 9), (9, 6), (5, 7), (1, 1), (1, 6), (7, 1), (2, 2), (2, 3), (16, 4)]
all_bases = pytest.mark.parametrize("basis", BASES)
all_sizes = pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))


def make(size, basis):
    return Spectrum(*size, "cpu", basis)


@all_bases
@all_sizes
def test_there_and_back_is_the_identity(basis, size, normal):
    for shape in ((2, 3, *size), (2, 3, 4, *size)):
        x, bands = normal(*shape), make(size, basis)
        modes = bands.forward(x)
        assert modes.shape[:2] == (2, math.prod(shape[1:-2])) and not modes.is_complex()
        torch.testing.assert_close(bands.inverse(modes, shape), x, rtol=0, atol=1e-13)


@all_bases
@all_sizes
def test_inner_products_are_those_of_the_pictures(basis, size, normal):
    """Parseval, with the multiplicity of each mode; the bands share it out."""
    bands = make(size, basis)
    x, y = normal(2, 3, 3, *size)
    p, q = bands.forward(x), bands.forward(y)
    per_band = bands.inner(p, q)
    assert per_band.shape == (3, bands.count) and per_band.dtype == torch.float64
    torch.testing.assert_close(per_band.sum(1), (x * y).sum((1, 2, 3)), rtol=0, atol=1e-12)
    assert (bands.inner(p, p) >= 0).all()


@all_bases
@all_sizes
def test_bands_hold_every_degree_of_freedom_once(basis, size):
    """The expectation of a band's squared norm under white noise is its size."""
    bands, pixels = make(size, basis), math.prod(size)
    assert bands.size.sum() == pixels and (bands.size >= 0).all()
    every_pixel = torch.eye(pixels, dtype=torch.float64).view(pixels, 1, *size)
    modes = bands.forward(every_pixel)
    torch.testing.assert_close(bands.inner(modes, modes).sum(0), bands.size, rtol=0, atol=1e-12)


@all_bases
@all_sizes
def test_a_wave_lies_in_one_band_and_a_shorter_one_not_below(basis, size):
    bands, width, last = make(size, basis), size[1], 0
    step = torch.arange(width, dtype=torch.float64) + (0.5 if basis == "cosine" else 0)
    for cycles in range(width // 2 + 1 if basis == "fourier" else (width + 1) // 2):
        wave = torch.cos(2 * math.pi * cycles / width * step).expand(1, 1, *size)
        modes = bands.forward(wave)
        share = bands.inner(modes, modes)[0] / wave.square().sum()
        at = int(share.argmax())
        assert share[at] == pytest.approx(1) and (at == 0 if cycles == 0 else at >= last)
        last = at


@all_bases
def test_radius_means_the_same_for_wide_and_square_pictures(basis):
    square, wide = make((8, 12), basis), make((12, 12), basis)
    assert square.count == wide.count


@all_bases
def test_lowest_counts_modes(basis):
    bands = make((8, 6), basis)
    assert bands.lowest(0).sum() == 0 and bands.lowest(1).sum() == 1
    assert bands.lowest(48).sum() == bands.count == bands.lowest(2**31).sum()
    for modes in range(1, 49):
        kept = bands.lowest(modes)
        held = (kept * bands.size).sum()
        assert (kept.diff() <= 0).all()  # the lowest ones
        assert (
            held - bands.size[int(kept.sum()) - 1] < modes <= held
        )  # as many bands as it takes, and no more


@all_bases
def test_modes_of_a_picture_do_not_depend_on_its_neighbours(basis, normal):
    for size in SIZES:
        for dtype in (torch.float32, torch.float64):
            x, bands = normal(5, 3, *size).to(dtype), make(size, basis)
            modes = bands.forward(x)
            pooled, back = bands.inner(modes, modes), bands.inverse(modes, x.shape)
            for i in range(5):
                alone = bands.forward(x[i : i + 1])
                assert torch.equal(alone[0], modes[i])
                assert torch.equal(bands.inner(alone, alone)[0], pooled[i])
                assert torch.equal(bands.inverse(alone, x[:1].shape)[0], back[i])


@all_bases
def test_spread_puts_a_number_a_band_at_every_mode(basis, normal):
    bands = make((6, 9), basis)
    modes = bands.forward(normal(2, 3, 6, 9))
    numbers = torch.arange(2 * bands.count, dtype=torch.float64).view(2, -1)
    spread = bands.spread(numbers, modes.float())
    assert spread.shape == (2, 1, modes.shape[-1]) and spread.dtype == torch.float32
    assert torch.equal(spread[1, 0] - spread[0, 0], torch.full_like(spread[0, 0], bands.count))
    want = bands.inner(modes, modes) * numbers
    torch.testing.assert_close(bands.inner(modes, spread.double() * modes), want)


def without_complex_fft(*args, **kwargs):
    raise RuntimeError("the FFT of complex numbers is not implemented on this device")


@pytest.fixture
def no_complex_fft(monkeypatch):
    """A device whose FFT fails; what is known of devices is forgotten before and after."""
    monkeypatch.setattr(torch.fft, "rfft2", without_complex_fft)
    monkeypatch.setattr(torch.fft, "irfft2", without_complex_fft)
    spectrum.has_complex_fft.cache_clear()
    yield
    spectrum.has_complex_fft.cache_clear()


def test_basis_is_chosen_by_capability(no_complex_fft):
    assert make((4, 6), "auto").basis is BASES["cosine"]


def test_basis_is_fourier_where_it_works_and_the_setting_decides():
    assert make((4, 6), "auto").basis is BASES["fourier"]
    assert make((4, 6), "cosine").basis is BASES["cosine"]


def test_a_device_without_complex_fft_samples_with_cosines(no_complex_fft, rational, normal):
    x = normal(2, 3, 4, 6)
    out = sample_isdo(rational, x, [1.0, 0.5, 0.2, 0.0], disable=True)
    assert torch.equal(
        out,
        sample_isdo(
            rational, x, [1.0, 0.5, 0.2, 0.0], disable=True, settings=Settings(basis="cosine")
        ),
    )
    with pytest.raises(RuntimeError, match="not implemented"):
        sample_isdo(rational, x, [1.0, 0.0], disable=True, settings=Settings(basis="fourier"))


@pytest.mark.parametrize("halves", [False, True], ids=["whole bands", "half bands"])
def test_a_wave_lies_in_the_band_of_its_number_of_waves(halves):
    """Rounded to the nearest; of halves band k goes from above k/2 to (k + 1)/2 waves."""
    size, bands = 16, Spectrum(16, 16, "cpu", "fourier", halves)
    y, x = torch.meshgrid(*[torch.arange(size, dtype=torch.float64)] * 2, indexing="ij")
    for ky in range(size // 2):
        for kx in range(size // 2):
            wave = torch.cos(2 * math.pi * (ky * y + kx * x) / size)
            energy = bands.inner(*[bands.forward(wave[None, None])] * 2)[0]
            waves = math.hypot(ky, kx)
            band = max(0, math.ceil(2 * waves - 1e-6) - 1) if halves else round(waves)
            assert int(energy.argmax()) == band
            assert energy[band] == pytest.approx(energy.sum().item(), rel=1e-12)
