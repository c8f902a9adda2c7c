"""From what a network predicts to denoised = D(x; sigma): preconditioning, the weights that follow
from it, guidance."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .device import precision
from .distribution import DISTRIBUTIONS, Distribution
from .path import FLOW, VE, Path, detect_path
from .process import PROCESSES, per_image
from .protocols import Device, Model, Number

Coefficient = Callable[[Any], Any]  # of a level, a float or a tensor


@dataclass(frozen=True)
class Prediction:
    """One way of asking a network for the clean picture: denoised = c_skip x + c_out net(c_in x).

    The training target and the weight lambda(sigma) are deduced, not declared: the plain squared
    error of the network's output is lambda |denoised - x0|^2 with lambda = 1/c_out^2 (EDM, Karras
    et al. 2022, table 1 and equation 8).
    """

    name: str
    path: Path
    c_in: Coefficient
    c_skip: Coefficient
    c_out: Coefficient

    def denoised(self, x: Number, sigma: Any, output: Number) -> Number:
        """Return D(x; sigma) from the network's output at c_in x."""
        return self.c_skip(sigma) * x + self.c_out(sigma) * output

    def target(self, x0: Number, x: Number, sigma: Any) -> Number:
        """Return the output that would make denoised equal x0."""
        return (x0 - self.c_skip(sigma) * x) / self.c_out(sigma)

    def weight(self, sigma: Number) -> Number:
        """Return lambda(sigma), the weight of |denoised - x0|^2 in the plain squared error of the
        output."""
        return self.c_out(sigma) ** -2.0


def _vp(
    sigma: Number,
) -> Number:  # the input scale of a variance-preserving net that is handed x0 + sigma n
    return (1 + sigma**2) ** -0.5


def _one(sigma: Number) -> Number:
    return 1 + 0 * sigma


def edm_prediction(sigma_data: float) -> Prediction:
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
        Prediction(
            "v",
            VE,
            _vp,
            c_skip=lambda sigma: 1 / (1 + sigma**2),
            c_out=lambda sigma: -sigma * _vp(sigma),
        ),
        Prediction("flow", FLOW, _one, c_skip=_one, c_out=lambda sigma: -sigma),
        edm_prediction(0.5),
    )
}


@dataclass(frozen=True)
class Preconditioning(Prediction):
    """A Prediction with what the network is told of sigma, c_noise, and how often it saw which
    sigma in training."""

    c_noise: Coefficient
    trained_on: Distribution


def _log(sigma: Number) -> Number:
    return sigma.log() if isinstance(sigma, torch.Tensor) else math.log(sigma)


def _preconditioning(row: Prediction, name: str, c_noise: Coefficient) -> Preconditioning:
    return Preconditioning(
        name, row.path, row.c_in, row.c_skip, row.c_out, c_noise, DISTRIBUTIONS[name]
    )


# EDM, table 1. Their loss weights are those deduced: 1/sigma^2 for VP and VE, (sigma^2 +
# sigma_data^2)/(sigma sigma_data)^2 for EDM. VE's network predicts minus the noise, where VP's
# predicts the noise.
PRECONDITIONINGS = {
    row.name: row
    for row in (
        _preconditioning(
            PREDICTIONS["eps"], "vp", lambda sigma: 999 * PROCESSES["vp linear"].time(sigma)
        ),
        _preconditioning(
            Prediction("", VE, _one, _one, lambda sigma: sigma), "ve", lambda sigma: _log(sigma / 2)
        ),
        _preconditioning(PREDICTIONS["edm"], "edm", lambda sigma: _log(sigma) / 4),
    )
}


def guide(conditional: Tensor, unconditional: Tensor, scale: float | Tensor) -> Tensor:
    """Return the guided prediction u + scale (c - u) (Ho and Salimans 2022); ``scale`` a float or
    (B,)."""
    return unconditional + per_image(scale, unconditional) * (conditional - unconditional)


@dataclass(frozen=True)
class Guided:
    """Classifier-free guidance out of two models of the same path: a model with the call shape of
    its parts."""

    conditional: Model
    unconditional: Model
    scale: float | Tensor

    @property
    def path(self) -> Path:
        return detect_path(self.conditional)

    def __call__(self, x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
        return guide(
            self.conditional(x, sigma, **extra), self.unconditional(x, sigma, **extra), self.scale
        )


def guided(conditional: Model, unconditional: Model, scale: float | Tensor) -> Model:
    """Return a model that guides away from ``unconditional`` by ``scale``; ``conditional`` itself
    at scale 1."""
    return conditional if _is_one(scale) else Guided(conditional, unconditional, scale)


def _is_one(scale: float | Tensor) -> bool:
    """Say whether a guidance scale is the number 1; a tensor is not asked."""
    return not isinstance(scale, torch.Tensor) and scale == 1


@dataclass(frozen=True)
class ClassifierGuided:
    """A model whose D is moved by the gradient of log p(y | x; sigma): a model with the call shape
    of its part.

    Where x = a x0 + s n, D = (x + s^2 score)/a, and Bayes' rule adds the gradient to the score: D
    moves by scale s^2/a times the gradient. Theory page, equation 10.13.
    """

    model: Model
    log_prob: Callable[[Tensor, Tensor], Tensor]
    scale: float | Tensor

    @property
    def path(self) -> Path:
        return detect_path(self.model)

    def __call__(self, x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
        denoised, wide = (
            self.model(x, sigma, **extra),
            x.dtype if x.dtype == torch.float64 else torch.float32,
        )
        # the gradient fades with the signal: both are taken just below the end of the path. Nearer
        # to it the quotient loses more digits than the distance costs
        level = torch.as_tensor(sigma, dtype=wide, device=x.device).expand(len(x))
        if self.path.fade:
            level = level.clamp(max=1 - torch.finfo(wide).eps ** (1 / 3))
        step = self.scale * level**2 / self.path.signal(level)
        return denoised + (per_image(step, x) * self._gradient(x.to(wide), level)).to(
            denoised.dtype
        )

    def _gradient(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return d log p/dx of each picture; also where the sampler has switched gradients off."""
        with torch.inference_mode(False), torch.enable_grad():
            asked = x.detach().clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self.log_prob(asked, sigma.clone()).sum(), asked)
        return gradient


def classifier_guided(
    model: Model, log_prob: Callable[[Tensor, Tensor], Tensor], scale: float | Tensor
) -> Model:
    """Return a model guided by a classifier (Dhariwal and Nichol 2021, section 4.2); ``model``
    itself at the float 0.

    Args:
        model: ``model(x, sigma, **extra) -> denoised``, of no class; also of a class, to be pushed
            on.
        log_prob: ``log_prob(x, sigma) -> (B,)``, log p(y | x; sigma) of the class y that is wanted,
            differentiable in x (B, ...), which is noisy and on the model's path, float32 unless the
            sampler works in float64; sigma (B,).
        scale: a float or (B,). At 1 the guided D is that of the class y, as far as the classifier
            is exact; at any scale it is then what `guided` makes of the models with and without the
            class.
    """
    return (
        model
        if isinstance(scale, (int, float)) and scale == 0
        else ClassifierGuided(model, log_prob, scale)
    )


class CallCounter:
    """A model that counts its calls in ``calls``; everything else is the wrapped model's."""

    def __init__(self, model: Model) -> None:
        self.model, self.calls = model, 0

    def __call__(self, x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
        self.calls += 1
        return self.model(x, sigma, **extra)

    def __getattr__(self, name: str) -> Any:
        if name == "model":  # not set yet: a copy or an unpickled object asks before __init__ ran
            raise AttributeError(name)
        return getattr(self.model, name)


class Denoiser:
    """A network of any prediction type as ``model(x, sigma, labels=None, guidance=1.0) ->
    denoised``.

    Args:
        net: ``net(c_in x, t, labels) -> output``, a torch Module.
        prediction: the row of PREDICTIONS that says what the output means.
        sigmas: ascending table (L,) of the noise levels that the net knows.
        indexed: t is the index into ``sigmas``, fractions interpolated in log sigma and held at
            both ends, which is k-diffusion's ``DiscreteSchedule.sigma_to_t(quantize=False)``;
            otherwise t is sigma itself.
        null_label: the class that stands for no class.
        multiple: height and width must be multiples of this.
        shape: (C, H, W) of the pictures that the net was trained on, None where nobody says.
        classes: their names, in the order of the labels.
    """

    def __init__(
        self,
        net: torch.nn.Module,
        prediction: Prediction,
        sigmas: Tensor,
        indexed: bool,
        null_label: int,
        multiple: int = 1,
        shape: tuple[int, ...] | None = None,
        classes: tuple[str, ...] = (),
    ) -> None:
        self.net, self.prediction, self.indexed = net, prediction, indexed
        self.null_label, self.multiple = null_label, multiple
        self.shape, self.classes = shape, classes
        self.path = prediction.path
        self.sigma_min, self.sigma_max = float(sigmas[0]), float(sigmas[-1])
        self.sigmas, self.log_sigmas = sigmas, sigmas.log()

    def to(self, device: Device) -> "Denoiser":
        """Move the network and its tables to ``device``; returns self."""
        self.net.to(device)
        self.sigmas, self.log_sigmas = (
            v.to(precision(device)).to(device) for v in (self.sigmas, self.log_sigmas)
        )
        return self

    def time(self, sigma: Tensor) -> Tensor:
        """Return the t (float64 where the device has that) that the net is told at sigma (B,)."""
        sigma = sigma.to(precision(sigma.device))
        if not self.indexed:
            return sigma
        log_sigma, table = sigma.log(), self.log_sigmas
        low = (torch.searchsorted(table, log_sigma, right=True) - 1).clamp(0, len(table) - 2)
        return low + ((log_sigma - table[low]) / (table[low + 1] - table[low])).clamp(0, 1)

    def _check(self, x: Tensor, sigma: Any, labels: Any, guidance: Any) -> None:
        if (
            x.ndim != 4
            or not x.is_floating_point()
            or any(size % self.multiple or not size for size in x.shape[2:])
        ):
            raise ValueError(
                f"x must be floating-point pictures (B, C, H, W) with H and W multiples of {self.multiple}, "
                f"not {x.dtype} of shape {tuple(x.shape)}"
            )
        if isinstance(labels, torch.Tensor) and labels.is_floating_point():
            raise ValueError(f"labels must be integers, not {labels.dtype}")
        for name, value in (("sigma", sigma), ("labels", labels), ("guidance", guidance)):
            if isinstance(value, torch.Tensor) and value.shape not in ((len(x),), ()):
                raise ValueError(
                    f"{name} must be one number or {len(x)}, one for each picture, not {tuple(value.shape)}"
                )

    def __call__(
        self,
        x: Tensor,
        sigma: float | Tensor,
        labels: int | Tensor | None = None,
        guidance: float | Tensor = 1.0,
    ) -> Tensor:
        """Return D(x; sigma) in x's shape and dtype; the network itself runs in its own dtype.

        Args:
            x: (B, C, H, W), signal a x0 plus noise sigma n on the model's path.
            sigma: () or (B,), tensor or float.
            labels: () or (B,) integer tensor, or None for no class.
            guidance: classifier-free guidance scale, a float or (B,); anything but the float 1
                takes a second evaluation, in the same batch.

        Raises:
            ValueError: shapes that do not fit, or a label that the net does not know.
        """
        self._check(x, sigma, labels, guidance)
        state = x if x.dtype == torch.float64 else x.float()
        sigma = torch.as_tensor(sigma, dtype=state.dtype, device=x.device).expand(len(x))
        t, level = self.time(sigma), per_image(sigma, x)
        inputs = (state * self.prediction.c_in(level)).to(next(self.net.parameters()).dtype)
        null = torch.full((len(x),), self.null_label, device=x.device)
        labels = (
            null
            if labels is None
            else torch.as_tensor(labels, device=x.device).long().expand(len(x))
        )
        twice = labels is not null and not _is_one(guidance)
        if twice:
            inputs, t, labels = (
                torch.cat([inputs, inputs]),
                torch.cat([t, t]),
                torch.cat([labels, null]),
            )
        try:
            output = self.net(inputs, t, labels).to(state.dtype)
        except IndexError as error:
            raise ValueError(
                f"labels must lie in 0..{self.null_label} ({self.null_label}: no class)"
            ) from error
        if twice:  # denoised is affine in the output: guiding the one guides the other
            conditional, unconditional = output.chunk(2)
            output = guide(conditional, unconditional, guidance)
        return self.prediction.denoised(state, level, output).to(x.dtype)
