"""How like the real pictures a set of pictures is, in a judge's features: Fréchet, kernel distance,
precision and recall."""

import torch

from ..device import precision
from .kernel import KernelDistance
from .moments import Moments, frechet_from, moments
from .neighbours import NEAREST, precision_recall

DRAWS = 64  # resamples: a standard deviation is known to a tenth
NOTHING = {"kid": None, "kid_draws": None, "precision": None, "recall": None}


def resamples(count, draws=DRAWS, seed=0):
    """Return how often each of ``count`` pictures occurs in each resample (draws, count), the same
    for all sets of a size.

    All sets start from the same noise, so that what is common to them cancels in differences
    between two sets' draws.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.stack([_resample(count, generator) for _ in range(draws)])


def _resample(count, generator):
    """Return how often each picture occurs (count,); drawn again where it is one picture alone,
    which spreads nowhere."""
    while True:
        times = torch.randint(count, (count,), generator=generator, device="cpu").bincount(
            minlength=count
        )
        if (times > 0).sum() > 1:
            return times.double()


class Likeness:
    """The real pictures, prepared so that many sets can be held against them.

    Args:
        truth: Moments of their features.
        examples: some of those features (M, D), or None, where only the moments are known: kernel
            distance, precision and recall then are None.
        device: where it is computed, if that has float64, else on the CPU.
    """

    def __init__(self, truth, examples=None, device="cpu"):
        self.device = device if precision(device) is torch.float64 else "cpu"
        self.frechet = frechet_from(
            Moments(*(part.to(self.device) for part in (truth.mean, truth.covariance)))
        )
        self.examples = self.kernel = None
        if examples is not None:
            order = torch.randperm(
                len(examples), generator=torch.Generator("cpu").manual_seed(0), device="cpu"
            )
            self.examples = examples.detach().cpu()[order].to(self.device).double()
            self.kernel = KernelDistance(self.examples)

    def measure(self, features):
        """Return the numbers of a set of features (N, D), N at least 2: ``*_draws`` are those of
        its resamples."""
        features, weights = (
            features.to(self.device).double(),
            resamples(len(features)).to(self.device),
        )
        found = {
            "frechet": self.frechet(moments(features)),
            "frechet_draws": [self.frechet(moments(features, row)) for row in weights],
        }
        if self.kernel is None:
            return found | NOTHING
        draws = self.kernel(features, weights).tolist()
        found |= {"kid": float(self.kernel(features)), "kid_draws": draws}
        return found | self._overlap(features, self.examples[: len(features)])

    def ideal(self, count):
        """Return precision and recall of ``count`` real pictures against as many others, None where
        there are not so many."""
        enough = self.examples is not None and len(self.examples) >= 2 * count
        return (
            self._overlap(self.examples[count : 2 * count], self.examples[:count])
            if enough
            else self._overlap((), ())
        )

    @staticmethod
    def _overlap(features, examples):
        """Return precision and recall by name; of fewer pictures than have neighbours, None."""
        few = min(len(features), len(examples)) <= NEAREST
        both = (None, None) if few else precision_recall(features, examples)
        return dict(zip(("precision", "recall"), both, strict=True))
