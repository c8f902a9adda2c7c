"""sample_isdo: what hosts and people call."""

import hashlib
from collections.abc import Sequence
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .denoiser import CallCounter
from .inputs import check_settings, check_sigmas, check_x
from .path import Path, path_of, smallest_sigma
from .protocols import Callback, ExtraArgs, Model, NoiseSource, Seeds, Sigmas
from .refinement import each_seed, refine
from .run import solve_ode
from .schedules import rest
from .settings import RefineSettings, Settings

# A refinement of the same seed that follows must not add the same noise again.
REPAINT_OFFSET = 0x0D15_5E1D


@torch.no_grad()
def sample_isdo(
    model: Model,
    x: Tensor,
    sigmas: Sigmas,
    extra_args: ExtraArgs | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    *,
    settings: Settings | None = None,
    mask: Tensor | None = None,
    report: dict[str, Any] | None = None,
    seeds: Seeds | None = None,
    noise: NoiseSource | None = None,
) -> Tensor:
    """Solve the probability-flow ODE from sigmas[0] to sigmas[-1]; by default with one model call
    per step.

    With a curvature penalty it is another ODE, and each of the solver's calls makes three of the
    model.

    Args:
        model: ``model(x, sigma (B,), **extra_args) -> denoised``, as k-diffusion's wrappers.
        x: (B, C, H, W) or (B, C, T, H, W), noise included, at sigmas[0]; any floating dtype. It is
            not modified.
        sigmas: falling noise levels (N + 1,), usually ending in 0; on any device. The first zero is
            the end. If there is one, calls are made where `isdo.schedules.reposition` has them,
            with ``settings.placement``. With a tolerance the sigmas say where to begin and how far
            down to go: to the last above 0, or the model's smallest.
        extra_args: keyword arguments handed to the model as they are. A number among them by the
            name ``cond_scale`` or ``guidance`` is the scale of guidance, which says where calls
            are worth most.
        callback: called once a step, after its last call, with {"x", "i", "sigma", "sigma_hat",
            "denoised"} of its first: sigma and sigma_hat are where the model was called, at x. With
            a tolerance once a call: sigma is the largest of the levels (B,) in sigma_hat at which
            pictures are that are still on their way. Calls are here the
            solver's: with a curvature penalty denoised is what comes of three of the model. The
            solver "trajectory" calls it once a step, as soon as the step's noise level is solved
            for all pictures; with a tolerance once a call.
        disable: hide the progress bar.
        settings: a Settings.
        mask: broadcasts to x, 1 where the picture is painted and 0 where the model's wrapper holds
            it to a known picture, or between. Fits and norms look at the painted part only; kept
            pixels go straight to what the model says there.
        report: a dict that takes in, while the run goes on, "calls" and "rejected": [B] numbers,
            how many model calls each picture took, and how many of its steps were done again. With
            the solver "trajectory" a call is one picture at one level, however many go into one
            call of the model, and "rounds" is how often it was waited for. Where steps go back,
            "picture" is the last finished one, clean, for whoever interrupts.
        seeds: of the noise that steps which go back add (``settings.draw``): the first picture's
            (the next has the next), or one for each. Left out, each picture's x says it: the same x
            is the same picture in any batch.
        noise: ``noise(x) -> normal noise shaped like x``, called once a way back, in place of the
            seeds.

    Returns:
        x at the last sigma, in the shape, dtype and on the device of x.

    Raises:
        ValueError: x, sigmas, settings or a mask that make no sense; the message says what, what
            was given, what to do.
        RuntimeError: the model returned NaN or infinity; the message names the step and the sigma.
            Another model answers amid a run of the solver "trajectory".

    Exceptions of the model or the callback pass through. No step waits for the device, but with a
    tolerance every call does, and every round of the solver "trajectory". Theory page, sections 2
    to 5; 11 for the solvers "srk3" to "srk5", 12 for tolerances, 13 for the curvature penalty, 14
    for "trajectory", 16 for steps that go back.
    """
    settings, report, low = (
        check_settings(settings),
        {} if report is None else report,
        smallest_sigma(model),
    )
    solve = partial(solve_ode, extra_args=extra_args, mask=mask, low=low, report=report)
    if not settings.repaints:
        return solve(model, x, sigmas, callback=callback, disable=disable, settings=settings)
    check_x(x)
    path = path_of(settings, model)
    levels = check_sigmas(sigmas, path)
    steps, ways = settings.shares(len(levels) - 1) if levels[-1] == 0 else (len(levels) - 1, [])
    if not ways:
        return solve(model, x, levels, callback=callback, disable=disable, settings=settings)
    counter, number = CallCounter(model), count()

    def told(state: dict[str, Any]) -> None:
        bar.update()
        if callback is not None:
            callback({**state, "i": next(number)})

    def keep(state: dict[str, Any]) -> None:
        report["picture"] = state["x"]

    def told_back(state: dict[str, Any]) -> None:
        report["calls"] = [counter.calls] * len(x)
        told(state)

    drawing = rest(levels, levels[0], steps, low, levels[0])
    with tqdm(total=steps + sum(ways), disable=disable) as bar:
        report["picture"] = picture = solve(
            counter, x, drawing, callback=told, disable=True, settings=settings
        )
        return refine(
            counter, picture, extra_args, keep, True, settings=repainting(settings.repaint, levels[0], path), mask=mask,
            seeds=repaint_seeds(seeds, x), noise=noise, sampler=settings, call_callback=told_back, shares=ways,
        ).x  # fmt: skip


def repainting(noise: float, first: float, path: Path) -> RefineSettings:
    """Return the RefineSettings of the ways back; none goes higher than the level at which the run
    began.

    Nothing of the drawing is locked: locked means cost sets of photographs a tenth of what
    repainting gains.
    """
    return RefineSettings(
        noise=noise if path.from_noise_to_signal(noise) <= first else path.noise_to_signal(first),
        lock=0,
    )


def repaint_seeds(seeds: Seeds | None, x: Tensor) -> Sequence[int]:
    """Return the seed of each picture's fresh noise (B,): one made of x itself where there are no
    ``seeds``."""
    if seeds is not None:
        return [seed + REPAINT_OFFSET for seed in each_seed(seeds, len(x))]
    pictures = x.detach().cpu().float().numpy()
    return [
        int.from_bytes(hashlib.blake2b(picture.tobytes(), digest_size=8).digest(), "big")
        for picture in pictures
    ]
