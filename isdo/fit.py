"""How the power S is measured: least squares on what changed from one call of the model to the
next."""

from functools import partial
from typing import NamedTuple

import torch

from .device import table

# Share of the change of D that one number a mode has to explain before it is believed.
COHERENT = 0.99


def measure_of(spectrum, settings, coherent=COHERENT):
    """Return what makes a Power of a Change, as the settings have it; None where nothing is
    measured: by choice, or where modes are single numbers, of which one number a mode explains all,
    in the cosine basis and in pictures of 2 by 2.
    """
    single = spectrum.basis.parts == 1 or max(spectrum.height, spectrum.width) <= 2
    if settings.power != "fitted" or single or coherent >= 1:
        return None
    return partial(Change.power, coherent=coherent, fitted=spectrum.among_lowest(settings.modes))


class Power(NamedTuple):
    """What is known of the power S of a picture's modes.

    Attributes:
        modes: S (B, channels, modes, 1), to be broadcast over the parts of each mode.
        trust: (B, 1, 1), 1 where the data have proved Gaussian, else 0, or between.
        doubt: 1 - trust, (B, 1, 1), or (B, 1, K) where some modes are not measured: 1 there.
    """

    modes: torch.Tensor
    trust: torch.Tensor
    doubt: torch.Tensor

    def numbers(self, parts):
        """Return S at every number, (B, channels, K)."""
        return self.modes.expand(*self.modes.shape[:-1], parts).flatten(-2)


class Change:
    """What is new since the last call, by its products: of dD and of de with de.

    Args:
        values: dD and de (B, 2, channels, K), of the painted part.
        spectrum: a Spectrum.
    """

    def __init__(self, values, spectrum):
        self.values, self.spectrum = values, spectrum
        self.with_noise = values * values[:, 1:]
        tiny, parts = torch.finfo(values.dtype).tiny, spectrum.basis.parts
        # of dD, squared, but for the mean, which is one number a channel that any S explains
        size = torch.linalg.vector_norm(values[:, 0, :, parts:], dim=(1, 2))
        self.size = size.square_().add_(tiny)

    @classmethod
    def between(cls, new, old, window, spectrum):
        """Return what is new in one evaluation (``denoised`` and ``noise``, modes) since another."""
        values = torch.stack([new.denoised - old.denoised, new.noise - old.noise], 1)
        return cls(window.painted(values), spectrum)

    def power(self, coherent=COHERENT, fitted=None):
        """Return the Power that the change shows; theory page, section 3.

        S >= 0 of every mode by itself is the least squares of dD = S de over its parts. One number
        a mode explains a half of anything: it is believed as far as it explains all but everything,
        which is where the data are Gaussian, of any spectrum. Else S is 0 and steps end on D
        itself, as every host expects.

        Args:
            coherent: the share that has to be explained; trust grows from there to 1.
            fitted: (K,) ones where S is measured, zeros elsewhere; None: everywhere.
        """
        if fitted is not None:
            fitted = fitted.to(self.values)
            found = Change(self.values * fitted, self.spectrum).power(coherent)
            return found._replace(doubt=1 - found.trust * fitted)
        tiny = torch.finfo(self.values.dtype).tiny
        products = self.spectrum.pooled(self.with_noise)
        both, noise = products.clamp_(min=table((0.0, tiny), products)[:, None, None]).unbind(1)
        power = both / noise
        explained = (power * both)[..., 1:].sum((1, 2)) / self.size
        # trust and doubt at once: two straight lines between 0 and 1, which is reached within
        # rounding
        most = 1 - 100 * torch.finfo(self.values.dtype).eps
        slope = 1 / (most - coherent)
        lines = torch.addcmul(
            table((-coherent * slope, most * slope), self.values),
            table((slope, -slope), self.values),
            explained[:, None],
        ).clamp_(0, 1)
        trust, doubt = lines[:, :, None, None].unbind(1)
        return Power((power * trust)[..., None], trust, doubt)
