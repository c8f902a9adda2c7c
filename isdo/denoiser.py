"""From what a network predicts to denoised = D(x; sigma), and the loss weights that follow from it."""

from collections.abc import Callable
from dataclasses import dataclass

from .path import FLOW, VE, Path


@dataclass(frozen=True)
class Prediction:
    """One way of asking a network for the clean picture: denoised = c_skip x + c_out net(c_in x).

    The training target and the weight lambda(sigma) are deduced, not declared: the plain squared error of the network's
    output is lambda |denoised - x0|^2 with lambda = 1/c_out^2 (EDM, Karras et al. 2022, table 1 and equation 8).
    """

    name: str
    path: Path
    c_in: Callable
    c_skip: Callable
    c_out: Callable

    def denoised(self, x, sigma, output):
        """Return D(x; sigma) from the network's output at c_in x."""
        return self.c_skip(sigma) * x + self.c_out(sigma) * output

    def target(self, x0, x, sigma):
        """Return the output that would make denoised equal x0."""
        return (x0 - self.c_skip(sigma) * x) / self.c_out(sigma)

    def weight(self, sigma):
        """Return lambda(sigma), the weight of |denoised - x0|^2 in the plain squared error of the output."""
        return self.c_out(sigma) ** -2.0


def _vp(sigma):  # the input scale of a variance-preserving net that is handed x0 + sigma n
    return (1 + sigma**2) ** -0.5


def _one(sigma):
    return 1 + 0 * sigma


def edm_prediction(sigma_data):
    """Return the EDM row for data of standard deviation ``sigma_data`` (EDM, equation 7)."""
    return Prediction(
        "edm",
        VE,
        c_in=lambda sigma: (sigma**2 + sigma_data**2) ** -0.5,
        c_skip=lambda sigma: sigma_data**2 / (sigma**2 + sigma_data**2),
        c_out=lambda sigma: sigma * sigma_data * (sigma**2 + sigma_data**2) ** -0.5,
    )


PREDICTIONS = {
    row.name: row
    for row in (
        Prediction("x0", VE, _vp, c_skip=lambda sigma: 0 * sigma, c_out=_one),
        Prediction("eps", VE, _vp, c_skip=_one, c_out=lambda sigma: -sigma),
        Prediction("score", VE, _one, c_skip=_one, c_out=lambda sigma: sigma**2),
        Prediction("v", VE, _vp, c_skip=lambda sigma: 1 / (1 + sigma**2), c_out=lambda sigma: -sigma * _vp(sigma)),
        Prediction("flow", FLOW, _one, c_skip=_one, c_out=lambda sigma: -sigma),
        edm_prediction(0.5),
    )
}
