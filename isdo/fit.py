"""How the power S is measured: least squares on what changed from one call of the model to the
next."""

from typing import NamedTuple

import torch

# Shares of explained variance from which a fit is believed; trust grows linearly from there to one.
# What falls short is stepped with S = 0 and ends on D itself, as every host expects: on trained
# nets a half-believed fit costs accuracy.
BAND_COHERENT = 0.9
# One number a mode explains half of anything, so a fit of each mode by itself has to be all but
# perfect.
MODE_COHERENT = 0.95


def trust(coherence, threshold):
    """Return 0 below the threshold, rising to 1 where everything is explained."""
    return ((coherence - threshold) / (1 - threshold)).clamp(0, 1)


class Change:
    """What is new since the last call, by its products: dD dD, de de and de dD, of the painted
    part.

    Attributes:
        size, noise_size, both: (B, bands).
        noise_modes, both_modes: de de and de dD of each channel and mode (B, channels, K / parts).
    """

    def __init__(self, new, old, window, spectrum):
        denoised, noise = (
            window.painted(v) for v in (new.denoised - old.denoised, new.noise - old.noise)
        )
        self.spectrum = spectrum
        self.noise_modes, self.both_modes = (
            spectrum.per_mode(noise, noise),
            spectrum.per_mode(noise, denoised),
        )
        self.size = spectrum.inner(denoised, denoised)
        self.noise_size, self.both = (
            spectrum.per_band(v.sum(1)) for v in (self.noise_modes, self.both_modes)
        )

    def fit_bands(self):
        """Fit S >= 0 by least squares of dD = S de, per image and band; theory page, section 3.

        Returns:
            power (B, bands) and the trust in it (B, bands), by the share of dD that the fit
                explains: 1 for a Gaussian.
        """
        tiny = torch.finfo(self.size.dtype).tiny
        both = self.both.clamp(min=0)
        power = both / self.noise_size.clamp(min=tiny)
        return power, trust(power * (both / self.size.clamp(min=tiny)), BAND_COHERENT)

    def fit_modes(self):
        """Fit S >= 0 for every channel and mode by itself: what a Gaussian of any spectrum needs,
        and noise for all else.

        Returns:
            power (B, channels, K / parts) and the trust in it (B, bands): 1 for a Gaussian, 0 where
                a half is explained, as
            of anything, and 0 in a basis whose modes are single numbers, where one parameter a mode
            would explain everything.
        """
        if self.spectrum.basis.parts == 1:
            return torch.zeros_like(self.both_modes), torch.zeros_like(self.size)
        both = self.both_modes.clamp(min=0)
        power = both / self.noise_modes.clamp(min=torch.finfo(both.dtype).tiny)
        missed = self.size - self.spectrum.per_band((power * both).sum(1))
        trusted = trust(
            1 - missed / self.size.clamp(min=torch.finfo(self.size.dtype).tiny), MODE_COHERENT
        )
        if (
            self.spectrum.count > 1
        ):  # the mean is one number a channel, which any S explains: its neighbours speak for it
            trusted = torch.cat([trusted[:, 1:2], trusted[:, 1:]], 1)
        return power, trusted


class Power(NamedTuple):
    """What is known of the power S: of bands (B, bands), at every number (B, channels or 1, K), and
    the trust in that."""

    bands: torch.Tensor
    modes: torch.Tensor
    trust: torch.Tensor


def unknown(state, spectrum):
    """Return the Power 0 that a run begins with, for modes like ``state``."""
    bands = state.new_zeros(len(state), spectrum.count, dtype=spectrum.precision)
    nothing = spectrum.spread(bands, state)
    return Power(bands, nothing, nothing)


def measured(change, fitted):
    """Return the Power that a Change shows, in the bands in which ``fitted`` (bands,) is 1; 0 in
    the others.

    Every band gets one number, pooled over its modes and channels; where each mode by itself
    explains all but everything, the data are Gaussian there and the modes get their own.
    """
    (power, band_trust), (own, mode_trust) = change.fit_bands(), change.fit_modes()
    spread = change.spectrum.spread
    bands = power * band_trust * fitted
    own = change.spectrum.to_parts(own)
    modes = torch.lerp(spread(bands, own), own, spread(mode_trust * fitted, own))
    return Power(bands, modes, spread(torch.maximum(band_trust, mode_trust) * fitted, own))
