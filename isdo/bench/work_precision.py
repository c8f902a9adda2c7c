"""Error against model calls: every sampler from the same noise, on the same schedules, to a converged
reference."""

import itertools
import logging
import math
from collections import defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from ..denoiser import CallCounter
from ..files import replacing
from ..path import PATHS, smallest_sigma
from ..protocols import guidance_of
from ..sampling import sample_isdo
from ..schedules import reposition
from ..settings import Settings
from .baselines import BASELINES, FURTHER, Baseline
from .kept import by_key, key_of
from .problems import Problem, name_of, rms, suite
from .sources import version

CALLS = (5, 6, 8, 10, 12, 15, 20, 30)
HEADLINE = (6, 8, 10, 15, 20)  # the calls over which the geometric mean of the requirement is taken
LARGEST = 1e6  # stands for NaN and infinity, so that medians and JSON stay ordinary numbers
SMALLEST = 1e-6  # below it, and below the reference's own uncertainty, errors count as equal
CELL = ("suite", "problem", "path", "grid", "calls", "seed")
KEY = (*CELL, "sampler", "images", "fingerprint")
BENT = ", bent"  # ends the name of a schedule whose levels are those that ISDO makes of it
log = logging.getLogger(__name__)


def run_isdo(settings, model, x, sigmas, extra_args=None, callback=None, disable=None):
    """Run ISDO with these settings; without them it has the call shape of a Baseline's run."""
    return sample_isdo(model, x, sigmas, extra_args, callback, disable, settings=settings)


ISDO = Baseline("ISDO", partial(run_isdo, Settings()), "this package, default settings")
# each call exactly where the schedule says, as the baselines make theirs
SCHEDULED = Baseline(
    "ISDO, as scheduled", partial(run_isdo, Settings(placement=0)), "this package, placement 0"
)
SAMPLERS = {"isdo": ISDO, "isdo_scheduled": SCHEDULED, **BASELINES}


def run(
    suite_name,
    samplers=None,
    calls=CALLS,
    progress=True,
    seed=0,
    limit=None,
    *,
    only="",
    reuse=(),
    cache=None,
    device="cpu",
    bend=False,
    further=False,
    models=None,
    schedules=None,
    wanted=None,
    save=None,
):
    """Measure every sampler on every problem and schedule of a suite.

    Args:
        suite_name: "analytic", "zoo" or "img2img".
        samplers: name -> Baseline, or a function of its call shape; None for ISDO and all baselines.
        calls: model calls that each may make; Heun takes the steps that they pay for.
        progress: show a bar.
        seed: of problems and noise; tune on some, judge on others.
        limit: at most this many pictures of each problem.

    Rarely needed:
        only: part of the name of the problems wanted.
        reuse: rows of an earlier run; what they hold of the same problems (weights, seed, pictures)
            is not run again, if the sources are the same or the first picture still is.
        cache: folder in which references are kept between runs.
        device: where the zoo's networks run.
        bend: give every sampler the levels that ISDO makes of each schedule.
        further: with samplers None, also the baselines in FURTHER.
        models: of the suites zoo and img2img, as for `problems.learned`; None: the zoo's.
        schedules: ``schedules(problem) -> name -> (steps -> sigmas)``; None: `Problem.schedules`,
            or with ``bend`` `bent_schedules`.
        wanted: pairs (calls, sampler's name); None: each sampler with all ``calls``.
        save: called with all rows so far after each schedule.

    Returns:
        One dict for each sampler, problem, schedule and number of calls: the median, quartiles and
            maximum over pictures of
        the RMS error, and the uncertainty of the reference.

    Raises:
        RuntimeError: a sampler that makes more calls than it was given.
        ValueError: an unknown suite.
    """
    if samplers is None:
        samplers = (
            {"isdo": SCHEDULED, **BASELINES} if bend else SAMPLERS
        )  # what is bent already is not bent again
        samplers = samplers | (FURTHER if further else {})
    samplers = {name: _row(name, sampler) for name, sampler in samplers.items()}
    known = by_key(reuse, KEY)
    schedules = schedules or (bent_schedules if bend else Problem.schedules)
    wanted = list(itertools.product(calls, samplers) if wanted is None else wanted)
    rows = []
    for make in _bar(suite(suite_name, seed, device=device, models=models), progress):
        problem = limited(make(), limit)
        if only not in problem.name:
            continue
        if cache is not None:
            problem = replace(problem, solve=partial(_stored, problem.solve, Path(cache)))
        for schedule, sigmas in schedules(problem).items():
            for n, name in wanted:
                labels = _labels(suite_name, problem, schedule, n, name, seed)
                row = _held(known.get(key_of(labels, KEY)), problem, samplers[name], sigmas, n)
                rows.append(row or labels | measure(problem, samplers[name], sigmas, n))
            if save is not None:
                save(rows)
        log.info("%s (%s): done", problem.name, problem.path)
    return rows


def _held(row, problem, sampler, schedule, calls):
    """Return a row of an earlier run if it is still true, else None: of other sources it is when the
    sampler still draws the first picture as it did."""
    if row is None or row.get("version") == version():
        return row
    part = limited(problem, 1)
    with torch.no_grad():
        x = sampler.run(
            part.model, part.x, schedule(sampler.steps(calls)), part.extra_args, disable=True
        )
    return row | {"version": version()} if row.get("probe") == name_of(x[:1]) else None


def bent_schedules(problem):
    """Return the schedules of a Problem as ISDO's default settings bend them, name -> (steps ->
    sigmas)."""
    share, low, path = Settings().placement, smallest_sigma(problem.model), PATHS[problem.path]
    guidance = guidance_of(problem.extra_args)

    def bend(make):
        return lambda steps: problem.x.new_tensor(
            reposition(make(steps).tolist(), share, low, path, guidance=guidance)
        )

    return {name + BENT: bend(make) for name, make in problem.schedules().items()}


def measure(problem, sampler, schedule, calls):
    """Return the row of numbers of one sampler on ``schedule(steps) -> sigmas`` with at most ``calls``
    model calls."""
    model = CallCounter(problem.model)  # keeps the model's other faces: ISDO asks it for its path
    with torch.no_grad():
        x = sampler.run(
            model, problem.x, schedule(sampler.steps(calls)), problem.extra_args, disable=True
        )
    if model.calls > calls:
        raise RuntimeError(
            f"{sampler.label} made {model.calls} model calls where {calls} were allowed"
        )
    error = (
        rms(x - problem.reference())
        .nan_to_num(nan=LARGEST, posinf=LARGEST)
        .clamp(max=LARGEST)
        .cpu()
    )
    lower, median, upper = error.quantile(
        torch.tensor([0.25, 0.5, 0.75], dtype=error.dtype, device="cpu")
    ).tolist()
    return {
        "label": sampler.label,
        "made": model.calls,
        "median": median,
        "lower": lower,
        "upper": upper,
        "worst": error.max().item(),
        "uncertainty": problem.uncertainty().median().item(),
        "probe": name_of(x[:1]),
        "version": version(),
    }


def summary(rows, sampler="isdo", calls=HEADLINE):
    """Compare one sampler with the best baseline of each cell (problem, schedule, calls, seed), by median
    errors.

    Returns:
        dict: ``geometric_mean`` of error / error of the best baseline over the cells with ``calls``;
            ``worst`` cell;
        ``above`` the cells over 1.0 and over 1.1, ``unsure`` those where the reference itself may
        be wrong by more than a tenth of the smaller error; the geometric means ``by_problem``,
        ``by_schedule``, ``by_calls`` (all calls measured) and ``by_baseline`` (against that baseline alone);
        ``cells``: all of them, worst first.

    Raises:
        ValueError: rows without the sampler, or without baselines.
    """
    every = cells(rows, sampler)
    judged = [cell for cell in every if cell["calls"] in calls]
    if not judged:
        raise ValueError(
            f"nothing to compare: the rows need {sampler!r} and a baseline at one of the calls {calls}"
        )
    return {
        "sampler": sampler,
        "geometric_mean": geometric_mean(cell["ratio"] for cell in judged),
        "worst": judged[0],
        "above": {
            limit: [cell for cell in judged if cell["ratio"] > limit] for limit in (1.0, 1.1)
        },
        "unsure": [c for c in judged if c["uncertainty"] > 0.1 * min(c["error"], c["best_error"])],
        "by_problem": _means(judged, lambda cell: f"{cell['problem']} ({cell['path']})"),
        "by_schedule": _means(judged, lambda cell: cell["grid"]),
        "by_calls": _means(every, lambda cell: cell["calls"]),
        "by_baseline": {
            baseline: geometric_mean(
                cell["against"][baseline] for cell in judged if baseline in cell["against"]
            )
            for baseline in sorted({baseline for cell in judged for baseline in cell["against"]})
        },
        "cells": judged,
    }


def cells(rows, sampler="isdo"):
    """Return for each cell the ratio of ``sampler`` to the best baseline and ``against`` each baseline,
    worst first."""
    table = defaultdict(dict)
    for row in rows:
        table[tuple(row[name] for name in CELL)][row["sampler"]] = row
    found = []
    for key, entries in table.items():
        baselines = {
            name: row
            for name, row in entries.items()
            if name in BASELINES | FURTHER and name != sampler
        }
        if sampler not in entries or not baselines:
            continue
        own = entries[sampler]
        against = {name: _ratio(own, row) for name, row in baselines.items()}
        best = max(against, key=against.get)
        found.append(
            dict(zip(CELL, key, strict=True))
            | {
                "ratio": against[best],
                "best": best,
                "error": own["median"],
                "best_error": baselines[best]["median"],
            }
            | {"uncertainty": own["uncertainty"], "against": against}
        )
    return sorted(found, key=lambda cell: -cell["ratio"])


def _ratio(row, other):
    floor = max(SMALLEST, row["uncertainty"])
    return max(row["median"], floor) / max(other["median"], floor)


def geometric_mean(values):
    """Return the geometric mean of positive numbers."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


def _means(cells, key):
    groups = defaultdict(list)
    for cell in cells:
        groups[key(cell)].append(cell["ratio"])
    return {name: geometric_mean(ratios) for name, ratios in groups.items()}


def _row(name, sampler):
    return sampler if isinstance(sampler, Baseline) else Baseline(name, sampler, "")


def _labels(suite_name, problem, schedule, calls, sampler, seed):
    return {
        "suite": suite_name,
        "problem": problem.name,
        "path": problem.path,
        "grid": schedule,
        "calls": calls,
        "sampler": sampler,
        "seed": seed,
        "images": len(problem.x),
        "fingerprint": problem.fingerprint,
    }


def limited(problem, count):
    """Return the Problem with at most ``count`` pictures; None: all."""
    if count is None:
        return problem
    args = {
        key: v[:count] if isinstance(v, torch.Tensor) else v
        for key, v in problem.extra_args.items()
    }
    return replace(problem, x=problem.x[:count], extra_args=args)


def _stored(solve, folder, problem):
    """Solve once for each problem that the folder has not seen."""
    words = (
        problem.name,
        problem.path,
        len(problem.x),
        tuple(problem.x.shape),
        problem.fingerprint,
    )
    file = folder / ("".join(c if c.isalnum() or c in ".-+" else "_" for c in repr(words)) + ".pt")
    if file.exists():
        solution = torch.load(file, weights_only=True)
    else:
        solution = tuple(part.cpu() for part in solve(problem))
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(file) as part:
            torch.save(solution, part)
    return tuple(part.to(problem.x.device) for part in solution)


def _bar(items, show):
    from tqdm.auto import tqdm

    return tqdm(items, disable=not show, unit="problem")
