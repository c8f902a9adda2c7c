"""The fit of the power: what it finds, and how far it is trusted, of changes whose explained share is
known."""

import math

import pytest
import torch

from isdo.fit import Change, measured, trust
from isdo.spectrum import Spectrum
from isdo.srk import Call
from isdo.window import Masked, Whole

SIZE, CHANNELS = (8, 8), 3


def change(spectrum, noise, denoised, window=None):
    nothing = torch.zeros_like(noise)
    old, new = (Call(1.0, nothing, d, e) for d, e in ((nothing, nothing), (denoised, noise)))
    return Change(new, old, window or Whole(), spectrum)


def turned(modes, angle):
    """Turn each Fourier coefficient by an angle; those without an imaginary part are left alone."""
    whole = torch.view_as_complex(modes.unflatten(-1, (-1, 2)))
    turn = torch.polar(torch.ones_like(angle), angle)
    return torch.view_as_real(whole * turn).flatten(-2)


def alone(spectrum):
    """Return which modes (K / 2,) are real numbers: their own mirror images."""
    rows, columns = spectrum.height, spectrum.width // 2 + 1
    found = torch.zeros(rows, columns, dtype=torch.bool)
    for y in (0, rows // 2):
        for x in (0, spectrum.width // 2):
            found[y, x] = True
    return found.flatten()


@pytest.mark.parametrize("explained, wanted", [(1.0, 1.0), (0.95, 0.5), (0.9, 0.0), (0.5, 0.0)])
def test_a_band_is_trusted_from_nine_tenths_explained_on(explained, wanted, normal):
    """dD = S de + what is orthogonal to it, band by band, of such a size; a mode of the cosine basis
    is one number and says nothing by itself."""
    spectrum, power = Spectrum(*SIZE, "cpu", "cosine"), 0.7
    noise, other = (spectrum.forward(normal(2, CHANNELS, *SIZE)) for _ in "ab")
    inner, spread = spectrum.inner, spectrum.spread
    other = other - spread(inner(other, noise) / inner(noise, noise), noise) * noise
    size = (inner(noise, noise) / inner(other, other)).sqrt()
    rest = power * math.sqrt(1 / explained - 1) * spread(size, noise) * other
    found = measured(change(spectrum, noise, power * noise + rest), torch.ones(spectrum.count))
    torch.testing.assert_close(
        found.bands, torch.full_like(found.bands, power * wanted), rtol=0, atol=1e-9
    )
    torch.testing.assert_close(
        found.modes, torch.full_like(found.modes, power * wanted), rtol=0, atol=1e-9
    )
    torch.testing.assert_close(found.trust, torch.full_like(found.trust, wanted), rtol=0, atol=1e-9)


@pytest.mark.parametrize("explained, wanted", [(1.0, 1.0), (0.975, 0.5), (0.95, 0.0), (0.5, 0.0)])
def test_modes_get_their_own_power_where_each_by_itself_explains_all_but_everything(
    explained, wanted, normal
):
    """Every coefficient of D is that of the noise times a power of its own, turned by one angle: its
    cosine squared is explained. No band has one power, so that none is believed for itself."""
    spectrum = Spectrum(*SIZE, "cpu", "fourier")
    noise = spectrum.forward(normal(2, CHANNELS, *SIZE))
    own = (2.5 * normal(2, CHANNELS, noise.shape[-1] // 2)).exp()
    angle = torch.full_like(own, math.acos(math.sqrt(explained)))
    angle[..., alone(spectrum)] = 0  # nothing to turn
    both = turned(noise, angle) * spectrum.to_parts(own)
    # a band that holds real numbers explains more: look at those that hold none
    mixed = torch.zeros(spectrum.count).index_fill(0, spectrum.band[alone(spectrum)].unique(), 1)
    found = change(spectrum, noise, both)
    power, sure = found.fit_modes()
    free = (mixed == 0).nonzero().flatten()
    torch.testing.assert_close(
        sure[:, free], torch.full_like(sure[:, free], wanted), rtol=0, atol=1e-9
    )
    torch.testing.assert_close(power, own * angle.cos(), rtol=1e-9, atol=0)
    of_bands = found.fit_bands()[1]
    assert (of_bands[:, free] < 1).all()
    known = measured(found, torch.ones(spectrum.count))
    at = torch.isin(spectrum.index, free)
    if wanted == 1:
        torch.testing.assert_close(
            known.modes[..., at], spectrum.to_parts(power)[..., at], rtol=1e-9, atol=0
        )
    torch.testing.assert_close(
        known.trust[:, 0, at], spectrum.spread(torch.maximum(of_bands, sure), noise)[:, 0, at]
    )


def test_the_mean_is_trusted_as_far_as_its_neighbours_are(normal):
    """It is one number a channel, which any power explains."""
    spectrum = Spectrum(*SIZE, "cpu", "fourier")
    noise, unlike = (spectrum.forward(normal(2, CHANNELS, *SIZE)) for _ in "ab")
    lowest, next_ = ((spectrum.index == band).to(noise) for band in (0, 1))
    # D of the next band has nothing to do with the noise there; all else is the noise itself
    _, sure = change(spectrum, noise, noise + next_ * (unlike - noise)).fit_modes()
    assert (sure[:, :2] == 0).all() and (sure[:, 2:] > 1 - 1e-12).all()
    # D of the mean has nothing to do with the noise, and its neighbours say that all is well
    _, sure = change(spectrum, noise, noise + lowest * (unlike - noise)).fit_modes()
    assert (sure > 1 - 1e-12).all()


def test_what_falls_where_the_noise_rises_has_no_power(normal):
    """The power is a variance: a slope below 0 is none."""
    for basis in ("fourier", "cosine"):
        spectrum = Spectrum(*SIZE, "cpu", basis)
        noise = spectrum.forward(normal(2, CHANNELS, *SIZE))
        found = change(spectrum, noise, -0.5 * noise)
        power, sure = found.fit_bands()
        assert (power == 0).all() and (sure == 0).all()
        assert (measured(found, torch.ones(spectrum.count)).modes == 0).all()


def test_bands_that_are_not_fitted_have_none_and_masked_parts_say_nothing(normal):
    spectrum = Spectrum(*SIZE, "cpu", "cosine")
    x = normal(2, CHANNELS, *SIZE)
    noise, fitted = spectrum.forward(x), spectrum.lowest(10)
    found = measured(change(spectrum, noise, 0.5 * noise), fitted)
    torch.testing.assert_close(found.bands, 0.5 * fitted.expand(2, -1), rtol=1e-12, atol=0)
    assert ((found.trust[:, 0] > 0) == (fitted[spectrum.index] == 1)).all()
    mask = torch.ones(2, CHANNELS, *SIZE, dtype=torch.float64)
    mask[..., 4:] = 0
    held = torch.where(mask == 1, 0.5 * x, 9.0)  # what a host holds it to
    window = Masked(spectrum, x.shape, mask)
    found = measured(change(spectrum, noise, spectrum.forward(held), window), fitted)
    torch.testing.assert_close(found.bands, 0.5 * fitted.expand(2, -1), rtol=1e-12, atol=0)


def test_no_change_at_all_is_no_power(normal):
    for basis in ("fourier", "cosine"):
        spectrum = Spectrum(*SIZE, "cpu", basis)
        nothing = torch.zeros_like(spectrum.forward(normal(1, CHANNELS, *SIZE)))
        found = measured(change(spectrum, nothing, nothing), torch.ones(spectrum.count))
        assert all((each == 0).all() for each in (found.bands, found.modes))
        assert all(each.isfinite().all() for each in found)


def test_trust_is_a_ramp():
    shares = torch.tensor([-1.0, 0.0, 0.8, 0.85, 0.9, 1.0, 1.1], dtype=torch.float64)
    torch.testing.assert_close(
        trust(shares, 0.8), torch.tensor([0, 0, 0, 0.25, 0.5, 1, 1], dtype=torch.float64)
    )
