"""A short run that measures how the spectral curvature of a model goes with the noise-to-signal
ratio."""

from typing import Any

import torch
from torch import Tensor

from .curvature import FLOOR, RATIO_LIMIT, Curvature, noise_to_signal
from .device import wide
from .path import detect_path
from .protocols import ExtraArgs, Model, Sigmas
from .sampling import sample_isdo
from .settings import Settings
from .spectrum import Spectrum


@torch.no_grad()
def measure_curvature(
    model: Model, x: Tensor, sigmas: Sigmas, extra_args: ExtraArgs | None = None
) -> Curvature:
    """Measure the spectral curvature in one run of ISDO.

    In the band b, the change of D counts by S_b/(S_b + r^2), S_b being the power of the final
    picture: the share of an error at r that reaches the end, exact for a Gaussian. Without it, wide
    ranges of sigma spend their steps where nothing is decided. Pictures are combined by the median.

    Args:
        model, x, extra_args: as for `sample_isdo`; a few pictures suffice.
        sigmas: a falling grid, 12 to 30 levels, the first where x is; a 0 at the end adds nothing.

    Returns:
        a Curvature, in units of x, between the levels of the grid.

    Raises:
        ValueError: fewer than three positive levels, or a model that always answers the same.
    """
    path, spectrum = detect_path(model), Spectrum(x.shape[-2], x.shape[-1], x.device)
    sigmas = wide(sigmas)
    sigmas = sigmas[sigmas > 0]
    log_ratio = wide(noise_to_signal(path, sigmas.numpy())).log()
    if len(log_ratio.unique()) < 3:
        raise ValueError(
            f"sigmas must hold 3 levels or more with s/a up to {RATIO_LIMIT:g}: take 12 to 30"
        )
    answers: list[Tensor] = []

    def keep(step: dict[str, Any]) -> None:
        answers.append(spectrum.forward(step["denoised"].to(torch.float32)))

    as_given, levels = Settings(placement=0), torch.cat([sigmas, sigmas.new_zeros(1)])
    sample_isdo(model, x, levels, extra_args, keep, disable=True, settings=as_given)
    steps = -log_ratio.diff()
    mid = ((log_ratio[1:] + log_ratio[:-1]) / 2).exp()
    power = spectrum.inner(answers[-1], answers[-1]) / (answers[-1].shape[1] * spectrum.size)
    changes = []
    for before, after, h, r in zip(
        answers[:-1], answers[1:], steps.tolist(), mid.tolist(), strict=True
    ):
        if h == 0:
            continue  # both beyond RATIO_LIMIT
        change = spectrum.inner(after - before, after - before) * (
            power / (power + r**2).clamp(min=1e-30)
        )
        changes.append((change.sum(1) / x[0].numel()).sqrt().median() / h)
    values = wide(torch.stack(changes))
    return Curvature(
        tuple(mid[steps > 0].tolist()), tuple(values.clamp(min=FLOOR * values.max()).tolist())
    )
