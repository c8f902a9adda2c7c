"""What may be done to a finished picture for some model calls: nothing, more steps, Restart, img2img,
and refinement in several ways."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from ..denoiser import CallCounter
from ..refinement import refine
from ..settings import RefineSettings
from .baselines import restarts
from .work_precision import ISDO, SCHEDULED

BATCH = 32
BASE, EXTRA = 12, 12  # model calls that drew a picture, and that each method may add
RESTARTS = 3
FREE = {"lock": 0, "detail": 1.0}


@dataclass(frozen=True)
class Job:
    """Pictures to make better: ``x`` is the noise they were drawn from (None: they were not), in
    ``base`` calls, ``sigmas(steps)`` their schedule."""

    model: object
    pictures: torch.Tensor
    seeds: range
    extra_args: dict = field(default_factory=dict)
    x: torch.Tensor | None = None
    sigmas: object = None
    mask: torch.Tensor | None = None
    base: int = BASE

    def part(self, chosen):
        """Return the job of a slice of the pictures."""
        cut = {
            name: value[chosen]
            for name in ("pictures", "seeds", "x", "mask")
            if (value := getattr(self, name)) is not None
        }
        extra = {
            key: value[chosen] if torch.is_tensor(value) else value
            for key, value in self.extra_args.items()
        }
        return replace(self, extra_args=extra, **cut)


@dataclass(frozen=True)
class Method:
    """One way to spend the calls: ``run(job, level, calls) -> pictures``. ``redraws``: it starts
    from the first noise; ``levels``: it knows a noise level, a noise-to-signal ratio."""

    label: str
    run: Callable
    redraws: bool = False
    levels: bool = True


# Restart turns at one of the schedule's levels and goes down others of its own: they stay as given.
_solve = partial(SCHEDULED.run, disable=True)


def _nothing(job, level, calls):
    return job.pictures


def _more_steps(job, level, calls):
    return ISDO.run(job.model, job.x, job.sigmas(job.base + calls), job.extra_args, disable=True)


def restart(job, level, calls):
    """Draw anew with Restart from ``level`` down again, RESTARTS times; ISDO solves every leg."""
    generators = [torch.Generator("cpu").manual_seed(10**6 + seed) for seed in job.seeds]

    def fresh(x):
        drawn = [
            torch.randn(x.shape[1:], generator=g, dtype=torch.float64, device="cpu")
            for g in generators
        ]
        return torch.stack(drawn).to(x)

    solve = partial(_solve, job.model, extra_args=job.extra_args)
    return restarts(
        solve,
        job.model.path,
        job.x,
        job.sigmas(job.base),
        calls // RESTARTS,
        fresh,
        RESTARTS,
        high=level,
    )


def by_refine(job, level, calls, once=False, **chosen):
    """Refine with settings that spend ``calls``: as many iterations as they pay for, or all calls
    ``once``."""
    settings = RefineSettings(**{**chosen, "noise": level})
    each = calls if once else min(settings.calls, calls)
    settings = replace(settings, calls=each, iterations=calls // each)
    return refine(
        job.model,
        job.pictures,
        job.extra_args,
        disable=True,
        settings=settings,
        mask=job.mask,
        seeds=list(job.seeds),
    ).x


METHODS = {
    "nothing": Method("nothing (no calls)", _nothing, levels=False),
    "steps": Method("more steps of ISDO", _more_steps, redraws=True, levels=False),
    "restart": Method("Restart", restart, redraws=True),
    "img2img": Method(
        "img2img, one pass", partial(by_refine, once=True, generators="none", **FREE)
    ),
    "free": Method(
        "refine, nothing held, no action", partial(by_refine, generators="none", **FREE)
    ),
    "refine": Method("refine, no action", partial(by_refine, generators="none")),
    "unlocked": Method("refine, lock 0", partial(by_refine, generators="none", lock=0)),
    "loose": Method("refine, detail 1", partial(by_refine, generators="none", detail=1.0)),
    "small": Method(
        "refine, rotation and shifts 0.25",
        partial(by_refine, generators="rotation and shifts", strength=0.25),
    ),
    "large": Method(
        "refine, rotation and shifts 1",
        partial(by_refine, generators="rotation and shifts", strength=1.0),
    ),
    "bare": Method(
        "refine, rotation and shifts 0.25, not undone",
        partial(by_refine, generators="rotation and shifts", strength=0.25, undo=False),
    ),
}


def spend(method, job, level, calls=EXTRA, batch=BATCH):
    """Return the pictures of a method, made in batches, where the job's are.

    Raises:
        RuntimeError: it made more model calls than it was given.
    """
    done, allowed = [], calls + (job.base if method.redraws else 0)
    for start in range(0, len(job.pictures), batch):
        model = CallCounter(job.model)
        with torch.no_grad():
            done.append(
                method.run(
                    replace(job.part(slice(start, start + batch)), model=model), level, calls
                )
            )
        if model.calls > allowed:
            raise RuntimeError(
                f"{method.label} made {model.calls} model calls where {allowed} were allowed"
            )
    return torch.cat(done)
