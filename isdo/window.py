"""The part of the picture that is painted, and so is what measurements look at."""


class Whole:
    """The whole picture is painted: what is measured is all of it."""

    def painted(self, modes):
        """Return the part of a change that counts."""
        return modes

    def keep(self, stepped, start, shrink, rise):
        """Return the step."""
        return stepped


class Masked:
    """Part of the picture is painted; the host holds the rest to a picture that it knows.

    Args:
        spectrum: a Spectrum.
        shape: of the state x.
        mask: broadcasts to the shape, 1 where it is painted, 0 where it is kept, or between.
    """

    def __init__(self, spectrum, shape, mask):
        self.spectrum, self.shape, self.mask, self.kept = (
            spectrum,
            shape,
            mask,
            (mask == 0).to(mask.dtype),
        )

    def painted(self, modes):
        """Return the part of a change that counts: what the host does to the kept pixels says
        nothing of the model."""
        return self._times(self.mask, modes)

    def keep(self, stepped, start, shrink, rise):
        """Return the step; kept pixels, whose D is what the host says, go from ``start`` where a
        constant D leads."""
        return stepped + self._times(
            self.kept, shrink * start.corrected + rise * start.denoised - stepped
        )

    def _times(self, weight, modes):
        return self.spectrum.forward(weight * self.spectrum.inverse(modes, self.shape))
