"""The two paths along which samplers travel: x = a(sigma) x0 + s(sigma) n."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from .device import wide
from .protocols import Level
from .settings import Settings

# A table that was computed in float32 may end some roundings above the limit of its path: so much
# is none.
ROUNDING = 1e-5


@dataclass(frozen=True)
class Path:
    """A probability path whose ODE is dx/dsigma = (x - denoised)/sigma.

    Both paths have s = sigma; they differ in the signal a = 1 - fade * sigma. Theory page, section
    1.
    """

    name: Literal["ve", "flow"]
    fade: float  # 0: the signal stays whole (variance exploding); 1: it fades out linearly (flow)
    sigma_limit: float  # the largest sigma that has a meaning

    def signal(self, sigma: Level) -> Level:
        """Return a(sigma), of sigma's own kind (float or tensor)."""
        return 1 - self.fade * sigma

    def noise_to_signal(self, sigma: Level) -> Level:
        """Return r = s/a; infinity at the pure-noise end of the flow path."""
        return sigma / self.signal(sigma)

    def from_noise_to_signal(self, ratio: Level) -> Level:
        """Return the sigma at which s/a equals ``ratio``."""
        return ratio / (1 + self.fade * ratio)

    def settle(self, sigma: float) -> float:
        """Return the float sigma, or the limit itself where it is above that by no more than
        rounding."""
        return (
            self.sigma_limit
            if self.sigma_limit < sigma <= self.sigma_limit * (1 + ROUNDING)
            else sigma
        )


VE = Path("ve", fade=0.0, sigma_limit=float("inf"))
FLOW = Path("flow", fade=1.0, sigma_limit=1.0)
PATHS: dict[str, Path] = {path.name: path for path in (VE, FLOW)}


def noise_levels(model: Any) -> Tensor | None:
    """Return the table of noise levels that a model has, rising and without a 0 (float64, CPU), or
    None.

    Diffusers' schedulers keep theirs falling, with a 0 at the end; Forge's and k-diffusion's rise.
    """
    table = getattr(model, "sigmas", None)
    if table is None or callable(table) or not len(table):
        return None
    table = wide(table)
    return table[table > 0].sort().values if (table > 0).any() else None


def detect_path(model: Any) -> Path:
    """Return the Path of a denoiser, asked by capability: what it says, then what the WebUIs'
    wrappers carry.

    Never by ``parameterization`` (Stable Diffusion 3 says "eps") and never by the first sigma of a
    run. Theory page, section 1.
    """
    path = getattr(model, "path", None)
    if isinstance(path, Path):
        return path
    inner = getattr(model, "inner_model", None)
    prediction = getattr(getattr(inner, "predictor", None), "prediction_type", None)
    if prediction is not None:  # Forge and its descendants
        return FLOW if prediction == "const" else VE
    if hasattr(
        getattr(inner, "inner_model", None), "add_noise_to_latent"
    ):  # AUTOMATIC1111 with Stable Diffusion 3
        return FLOW
    table = noise_levels(inner)
    return FLOW if table is not None and FLOW.settle(float(table[-1])) <= FLOW.sigma_limit else VE


def path_of(settings: Settings, model: Any) -> Path:
    """Return the Path that ``settings`` name, that of the model where they leave it to "auto"."""
    return detect_path(model) if settings.path == "auto" else PATHS[settings.path]


def smallest_sigma(model: Any) -> float:
    """Return the smallest noise level that a model knows, 0 if it does not say: asked by
    capability.

    A table goes first: on Forge and Neo the wrapper has a ``sigma_min`` that raises TypeError.
    """
    for holder in (model, getattr(model, "inner_model", None)):
        if (table := noise_levels(holder)) is not None:
            return float(table[0])
        if (value := getattr(holder, "sigma_min", None)) is not None:
            return float(value)
    return 0.0
