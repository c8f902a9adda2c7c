"""The part of the picture that is painted, and so is what measurements look at."""

import torch


class Whole:
    """The whole picture is painted: what is measured is all of it."""

    def painted(self, modes):
        """Return the part of a change that counts."""
        return modes

    def keep(self, stepped, x, denoised, shrink, rise):
        """Return the step."""
        return stepped


class Masked:
    """Part of the picture is painted; the host holds the rest to a picture that it knows.

    Args:
        spectrum: a Spectrum.
        mask: (B, ..., H, W), 1 where it is painted, 0 where it is kept, or between.
    """

    def __init__(self, spectrum, mask):
        self.spectrum = spectrum
        self.mask = mask.reshape(len(mask), -1, *mask.shape[-2:])
        self.kept = (self.mask == 0).to(mask.dtype)

    def painted(self, modes):
        """Return the part of changes (B, ..., channels, K) that counts: what the host does to the
        kept pixels says nothing of the model."""
        return self._times(self.mask, modes)

    def keep(self, stepped, x, denoised, shrink, rise):
        """Return the step; kept pixels, whose D is what the host says, go where a constant D leads.

        Args:
            stepped: modes (B, channels, K) at the end of the step.
            x: at its start.
            denoised: a function that returns D there.
            shrink, rise: x goes to shrink x + rise D.
        """
        led = torch.add(x * shrink, denoised(), alpha=rise).sub_(stepped)
        return stepped + self._times(self.kept, led)

    def _times(self, weight, modes):
        weight = weight.reshape(len(weight), *[1] * (modes.ndim - 3), *weight.shape[1:])
        pictures = self.spectrum.inverse(modes, (*modes.shape[:-1], *weight.shape[-2:]))
        return self.spectrum.forward(weight * pictures).view(modes.shape)
