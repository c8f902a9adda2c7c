"""Types of what callers hand in: models, callbacks, noise levels, seeds, noise."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, Protocol, SupportsIndex, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Model(Protocol):
    """A denoiser: ``model(x, sigma (B,), **extra_args) -> denoised``, as k-diffusion's wrappers."""

    def __call__(self, x: Tensor, sigma: Tensor, /, *args: Any, **extra_args: Any) -> Tensor: ...


class Sampler(Protocol):
    """A sampler of k-diffusion's call shape, ``sampler(model, x, sigmas, extra_args, callback,
    disable) -> x``."""

    def __call__(
        self, model: Model, x: Tensor, sigmas: Tensor, /, *args: Any, **options: Any
    ) -> Tensor: ...


ExtraArgs = Mapping[str, Any]
# the scale of classifier-free guidance: k-diffusion's and the WebUIs' name for it, and the zoo's
SCALES = "cond_scale", "guidance"
# Of a sampler: called with {"x", "i", "sigma", "sigma_hat", "denoised"}; what it returns is nothing.
Callback = Callable[[dict[str, Any]], object]
Sigmas = Tensor | Sequence[float]
Seeds = SupportsIndex | Iterable[SupportsIndex]
NoiseSource = Callable[[Tensor], Tensor]  # noise(x) -> normal noise shaped like x
Device = torch.device | str
# A formula of numbers that is one of tensors, too: what goes in as a float comes out as one.
Number = TypeVar("Number", float, Tensor)
# and one of arrays
Level = TypeVar("Level", float, Tensor, NDArray[np.float64])


def guidance_of(extra_args: ExtraArgs | None) -> float | None:
    """Return the scale of classifier-free guidance that a model is handed, None if nothing says it.

    Args:
        extra_args: keyword arguments of the model; a number as one of SCALES.
    """
    found = (extra_args.get(name) for name in SCALES) if extra_args else ()
    return next((float(scale) for scale in found if isinstance(scale, Real)), None)
