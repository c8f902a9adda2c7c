"""Grids side by side at few calls: the stored ones, the curvature schedule, and what search over
trajectories finds."""

import math
from collections import defaultdict
from dataclasses import replace
from functools import partial
from itertools import product

import torch

from ..device import wide
from ..path import PATHS
from ..probe import measure_curvature
from ..schedules import curvature_sigmas, karras
from ..spectrum import Spectrum
from .baselines import BASELINES
from .problems import by_runge_kutta, fine_levels, learned, rms
from .report import markdown
from .work_precision import SAMPLERS, SMALLEST, geometric_mean, measure

CALLS = (5, 6, 7, 8)
JUDGED = ("isdo_scheduled", "dpmpp_2m")  # a schedule is judged by calls where it has them
GUIDANCE = ("guidance 1", "guidance 3")
FINE = 36  # intervals of the teacher's schedule; every searched schedule is made of its nodes
PROBE = 20  # levels of the run that measures the curvature
SEED = 1000  # added to the seed: what is searched and measured on other pictures than those judged


def teacher(problem, intervals=FINE):
    """Return (sigmas (T,) float64, x (T, B, ...), D (T, B, ...)) of a fine Heun run, k-diffusion's
    own code."""
    seen = {}

    def keep(step):
        seen[float(step["sigma"])] = wide(step["x"]), wide(step["denoised"])

    levels = fine_levels(problem, intervals)
    sigmas = torch.cat([levels, levels.new_zeros(1)]).to(problem.x)
    BASELINES["heun"].run(problem.model, problem.x, sigmas, problem.extra_args, keep, disable=True)
    x, denoised = (torch.stack(parts) for parts in zip(*seen.values(), strict=True))
    return torch.tensor(list(seen), dtype=torch.float64, device="cpu"), x, denoised


def step_costs(sigmas, x, denoised):
    """Return (T, T), the mean squared error of the Euler step from each node of the teacher to each
    later (GITS)."""
    start, state = sigmas[:, None, None], x.flatten(1)[:, None]
    slope = (x - denoised).flatten(1)[:, None] / start
    landed = state + (sigmas[None, :, None] - start) * slope
    return (landed - x.flatten(1)[None]).square().mean(2)


def arriving_costs(sigmas, x, denoised, path):
    """Return ``step_costs``, each band's error counted by the share S/(S + r^2) that a Gaussian
    lets through.

    In units of x/a, in which the flow path is the other one.
    """
    spectrum = Spectrum(*x.shape[-2:], x.device)
    flat = [
        spectrum.forward(part.flatten(0, 1)).unflatten(0, part.shape[:2]) for part in (x, denoised)
    ]
    power = spectrum.inner(flat[1][-1], flat[1][-1]).mean(0) / (x.shape[2] * spectrum.size)
    costs = torch.zeros(len(sigmas), len(sigmas), dtype=torch.float64, device="cpu")
    for i, sigma in enumerate(sigmas[:-1]):
        state, slope = flat[0][i], (flat[0][i] - flat[1][i]) / sigma
        for j in range(i + 1, len(sigmas)):
            miss = state + (sigmas[j] - sigma) * slope - flat[0][j]
            share = power / (path.signal(sigmas[j]) ** 2 * power + sigmas[j] ** 2)
            costs[i, j] = (spectrum.inner(miss, miss).mean(0) * share).sum() / x[0, 0].numel()
    return costs


def cheapest(costs, last, nodes):
    """Return the indices of the cheapest way of ``nodes`` nodes from node 0, by dynamic
    programming.

    Args:
        costs: (T, T), of the step from i to j > i.
        last: (T,), of ending there.
        nodes: how many, the first included.
    """
    ahead = torch.ones_like(costs).triu(1).bool()
    costs = costs.masked_fill(~ahead, math.inf)
    total, came = torch.full_like(last, math.inf), []
    total[0] = 0
    for _ in range(nodes - 1):
        total, origin = (total[:, None] + costs).min(0)
        came.append(origin)
    way = [int((total + last).argmin())]
    for origin in reversed(came):
        way.append(int(origin[way[-1]]))
    return way[::-1]


def _levels(sigmas, way):
    return torch.cat([sigmas[way], sigmas.new_zeros(1)]).float()


def search(problem, reference, run, start, sweeps=2):
    """Move each sigma of a schedule but the first up and down, by less and less, while the error at the
    end falls.

    Not a schedule but a bound: what the best schedule for just this sampler, these pictures and these
    calls would give.
    """

    def error(sigmas):
        x = run(problem.model, problem.x, sigmas.to(problem.x), problem.extra_args, disable=True)
        return rms(x - reference).median().item()

    best, lowest = start, error(start)
    for sweep, i, sign in product(range(sweeps), range(1, len(start) - 1), (1, -1)):
        trial = best.clone()
        trial[i] *= math.exp(sign * 0.25 / 2**sweep)
        inside = trial[i - 1] > trial[i] > trial[i + 1] and trial[i] >= 0.99 * problem.sigma_min
        if inside and (value := error(trial)) < lowest:
            best, lowest = trial, value
    return best


def make_schedules(problem, other):
    """Return {name: (sampler, calls) -> sigmas}; what has to be measured is measured on ``other``,
    of another seed."""
    path, schedules = PATHS[problem.path], problem.schedules()
    fine, x, denoised = teacher(other)
    plain, arriving = step_costs(fine, x, denoised), arriving_costs(fine, x, denoised, path)
    last = (denoised - denoised[-1]).square().flatten(1).mean(1)
    probe = karras(PROBE, other.sigma_min, other.sigma_max)
    curvature = measure_curvature(other.model, other.x, probe, other.extra_args)
    ends = problem.sigma_min, problem.sigma_max
    rows = {name: lambda _, calls, make=make: make(calls) for name, make in schedules.items()}
    rows["curvature, stored"] = lambda _, calls: curvature_sigmas(calls, *ends, path=path)
    rows["curvature, probe"] = lambda _, calls: curvature_sigmas(calls, *ends, curvature, path)
    rows["DP, GITS"] = lambda _, calls: _levels(fine, cheapest(plain.sqrt(), last.sqrt(), calls))
    rows["DP, arriving"] = lambda _, calls: _levels(fine, cheapest(arriving, last, calls))
    rows["searched"] = lambda sampler, calls: search(
        other,
        denoised[-1].to(other.x),
        SAMPLERS[sampler].run,
        rows["curvature, probe"](sampler, calls),
    )
    return rows


def run(seed=0, limit=None, only="", device="cpu", calls=CALLS, models=None):
    """Measure ISDO and DPM++ 2M on every schedule, on the zoo's models or on others.

    Args:
        seed: of labels and noise.
        limit: pictures of each problem; 8 if left out.
        only: part of the name of the problems wanted.
        device: where the networks run.
        calls: model calls of each run.
        models: as for `problems.learned`; None: the zoo's.

    Returns:
        rows (one dict for each problem, schedule, sampler and number of calls, as in
        `work_precision.run`) and a text.

    Raises:
        ValueError: a model that is not there, or no problem left.
    """
    rows, makers = [], learned(models, GUIDANCE, device)
    for name, maker in makers.items():
        if only not in name:
            continue
        problem, other = (
            replace(maker(s, limit or 8), solve=partial(by_runge_kutta, steps=32))
            for s in (seed, seed + SEED)
        )
        with torch.no_grad():
            schedules = make_schedules(problem, other)
            for (schedule, make), n, sampler in product(schedules.items(), calls, JUDGED):
                labels = {
                    "suite": "grids",
                    "problem": problem.name,
                    "path": problem.path,
                    "grid": schedule,
                }
                labels |= {"calls": n, "sampler": sampler, "seed": seed, "images": len(problem.x)}
                sigmas = make(sampler, n).to(problem.x)
                row = measure(problem, SAMPLERS[sampler], lambda steps, sigmas=sigmas: sigmas, n)
                rows.append(labels | row | {"sigmas": sigmas.tolist()})
    if not rows:
        raise ValueError(f"no problem has {only!r} in its name: there are {'; '.join(makers)}")
    return rows, text(rows)


def text(rows):
    """Return the page of the docs: median errors by schedule, and each schedule's error over that of
    Karras's by problem."""
    cells = {
        (r["problem"], r["grid"], r["calls"], r["sampler"]): max(r["median"], SMALLEST)
        for r in rows
    }
    errors, ratios = defaultdict(lambda: defaultdict(list)), defaultdict(lambda: defaultdict(list))
    for (problem, schedule, calls, sampler), error in cells.items():
        errors[sampler, schedule][calls].append(error)
        ratio = error / cells[problem, "karras", calls, sampler]
        errors[sampler, schedule]["ratio"].append(ratio)
        ratios[sampler, problem][schedule].append(ratio)
    columns = sorted({row["calls"] for row in rows})
    schedules = list(dict.fromkeys(row["grid"] for row in rows))
    body = [
        [
            SAMPLERS[sampler].label,
            schedule,
            *(_mean(line[n], ".4f") for n in columns),
            _mean(line["ratio"], ".2f"),
        ]
        for (sampler, schedule), line in sorted(
            errors.items(), key=lambda item: JUDGED.index(item[0][0])
        )
    ]
    detail = [
        [
            SAMPLERS[sampler].label,
            problem,
            *(_mean(line[schedule], ".2f") if line[schedule] else "" for schedule in schedules),
        ]
        for (sampler, problem), line in sorted(
            ratios.items(), key=lambda item: (JUDGED.index(item[0][0]), item[0][1])
        )
    ]
    return f"""# Schedules at few calls

Run it again with `python -m isdo bench --suite grids --limit {rows[0]["images"]} --doc docs/grids.md`. Median RMS errors to
the converged solution on the zoo, geometric means over its problems. "Curvature, stored" is the schedule `curvature`
as it comes; "probe" measures the model at hand, on other pictures. DP: dynamic programming over the nodes of a fine
trajectory, by the costs of GITS (Euler steps) and by the share of each error that arrives at the end. "Searched":
sigmas moved one by one while the error falls, for just this sampler and number of calls, on other pictures than those
judged: a ceiling, as far as schedules found on some pictures serve others. Flow schedules start at pure noise on the flow
model only.

{markdown(["sampler", "schedule", *map(str, columns), "to Karras"], body)}

Error over that on Karras's schedule, by problem:

{markdown(["sampler", "problem", *schedules], detail)}"""


def _mean(values, form):
    return format(geometric_mean(values), form)
