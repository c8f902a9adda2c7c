"""How far a linear multistep method gets at all: its coefficients fitted to just this net, schedule and
number of calls."""

import math
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import torch

from ..device import wide
from .baselines import BASELINES, Baseline
from .problems import by_runge_kutta, learned, rms
from .report import markdown
from .work_precision import SAMPLERS, SCHEDULED, cells, geometric_mean, measure

CALLS, COUNT = (8,), 16
GUIDANCE = ("guidance 1", "guidance 3", "guidance 7")
SCHEDULES = {"ve": ("karras",), "flow": ("flow shift 3",)}
SEED = 1000  # added to the seed: pictures that the coefficients have not seen
NUDGE = 1e-2  # by which a coefficient is moved to see what that does
ROUNDS, STALLED, STIFFEST = 12, 2e-3, 1e4


@dataclass(frozen=True)
class Run:
    """States before each step and after the last, and what the model said in each step."""

    states: list
    denoised: list


def linear(model, x, sigmas, weights, extra_args=None, run=None, since=0):
    """Solve by the explicit linear method of these weights, one call a step.

    x(s1) = (s1/s0) x(s0) + (a1 - a0 s1/s0) sum_j w_ij D_j over all calls so far. DPM++ 2M, iPNDM,
    DEIS, UniPC with its corrector and every other rule of fixed order differ in w alone.

    Args:
        model, x, sigmas, extra_args: as for every sampler; sigmas (N + 1,).
        weights: (N, N), row i for step i, zeros after the diagonal; every row sums to 1.
        run: a Run whose steps before ``since`` had the same weights.

    Returns:
        a Run.
    """
    states, denoised = (
        ([x], []) if run is None else (run.states[: since + 1], run.denoised[: since + 1])
    )
    signal, ones, levels = model.path.signal, x.new_ones(len(x)), sigmas.tolist()
    for i in range(len(states) - 1, len(levels) - 1):
        if i == len(denoised):
            denoised.append(model(states[i], levels[i] * ones, **extra_args or {}))
        shrink = levels[i + 1] / levels[i]
        mean = sum(w * d for w, d in zip(weights[i].tolist(), denoised, strict=False) if w)
        states.append(
            shrink * states[i] + (signal(levels[i + 1]) - signal(levels[i]) * shrink) * mean
        )
    return Run(states, denoised)


def dpmpp_2m_weights(sigmas):
    """Return the weights (N, N) of DPM++ 2M, whose last step to 0 is of first order."""
    logs = [-math.log(s) for s in sigmas.tolist() if s > 0]
    weights = torch.eye(len(sigmas) - 1, dtype=torch.float64, device="cpu")
    for i, (before, last, ahead) in enumerate(zip(logs, logs[1:], logs[2:], strict=False), 1):
        part = (ahead - last) / (2 * (last - before))
        weights[i, i - 1], weights[i, i] = -part, 1 + part
    return weights


def fit(problem, sigmas, progress=iter):
    """Return the weights (N, N) that make the geometric mean of the pictures' errors smallest, as
    far as found.

    Gauss-Newton with Levenberg's damping from DPM++ 2M's weights on, every picture counted by the
    inverse square of its error: ends where a round gains less than STALLED, so it is never worse
    than DPM++ 2M on the pictures it is fitted to.

    scipy.optimize.least_squares has no such objective. Its loss is of each residual, and here it is
    the logarithm of a picture's mean square: with the pixels as residuals every round would be a
    run of its own, with weights of its own and the damping forgotten; with the pictures' errors as
    residuals the Jacobian has fewer rows (16) than there are weights (28), and what the pixels say
    of the curvature is lost.
    """
    reference, count = problem.reference(), len(sigmas) - 1
    free = [(i, j) for i in range(1, count) for j in range(i)]
    solve = partial(linear, problem.model, problem.x, sigmas, extra_args=problem.extra_args)

    def moved(weights, changes):
        weights = weights.clone()
        for (i, j), change in changes:
            weights[i, j] += change
            weights[i, i] -= change
        return weights

    def judge(run):
        error = rms(run.states[-1] - reference)
        return error, error.log().mean().item()

    weights, damping = dpmpp_2m_weights(sigmas), 1e-2
    run = solve(weights=weights)
    error, level = judge(run)
    for _ in progress(range(ROUNDS)):
        scale = 1 / error[:, None, None, None]

        def slope(i, j, weights=weights, run=run, scale=scale):
            nudged = solve(weights=moved(weights, [((i, j), NUDGE)]), run=run, since=i)
            return wide((nudged.states[-1] - run.states[-1]) * scale / NUDGE).flatten()

        jacobian = torch.stack([slope(i, j) for i, j in free], 1)
        normal, downhill = (
            jacobian.T @ jacobian,
            -jacobian.T @ wide((run.states[-1] - reference) * scale).flatten(),
        )
        tiny = 1e-12 * normal.diagonal().mean()
        before = level
        while damping < STIFFEST:
            step = torch.linalg.solve(
                normal + (damping * normal.diagonal() + tiny).diag(), downhill
            )
            trial = moved(weights, zip(free, step.tolist(), strict=True))
            attempt = solve(weights=trial)
            trial_error, trial_level = judge(attempt)
            if trial_level < level:
                weights, run, error, level, damping = (
                    trial,
                    attempt,
                    trial_error,
                    trial_level,
                    damping / 4,
                )
                break
            damping *= 4
        if before - level < STALLED:
            break
    return weights


def run(seed=0, limit=None, only="", device="cpu", calls=CALLS, progress=iter, models=None):
    """Measure ISDO, the baselines and what a fit reaches, on the zoo's models or on others.

    Args:
        seed: of labels and noise.
        limit: pictures of each problem; 16 if left out.
        only: part of the name of the problems wanted.
        device: where the networks run.
        calls: model calls of each run.
        progress: wraps the list of cells.
        models: as for `problems.learned`; None: the zoo's.

    Returns:
        rows (one dict for each problem, schedule, sampler and number of calls, as in
        `work_precision.run`; "fitted" to the very pictures, "elsewhere" to others, both with their
        weights) and a text.

    Raises:
        ValueError: no problem left.
    """
    makers = learned(models, GUIDANCE, device)
    wanted = [maker for name, maker in makers.items() if only in name]
    if not wanted:
        raise ValueError(f"no problem has {only!r} in its name: there are {'; '.join(makers)}")
    rows = []
    for maker in progress(wanted):
        problem, other = (
            replace(maker(s, limit or COUNT), solve=partial(by_runge_kutta, steps=32))
            for s in (seed, seed + SEED)
        )
        with torch.no_grad():
            known = problem.schedules()
            schedules = [name for name in SCHEDULES[problem.path] if name in known] or ["karras"]
            for schedule, n in product(schedules, calls):
                make = known[schedule]
                fits = {"fitted": fit(problem, make(n)), "elsewhere": fit(other, make(n))}
                samplers = {"isdo_scheduled": SCHEDULED, **BASELINES} | {
                    key: as_baseline(weights) for key, weights in fits.items()
                }
                labels = {
                    "suite": "ceiling",
                    "problem": problem.name,
                    "path": problem.path,
                    "grid": schedule,
                }
                for key, baseline in samplers.items():
                    row = (
                        labels
                        | {"calls": n, "seed": seed, "sampler": key}
                        | measure(problem, baseline, make, n)
                    )
                    rows.append(row | ({"weights": fits[key].tolist()} if key in fits else {}))
    return rows, text(rows)


def as_baseline(weights):
    """Return the linear method of these weights as a Baseline."""

    def sample(model, x, sigmas, extra_args=None, callback=None, disable=None):
        return linear(model, x, sigmas, weights, extra_args).states[-1]

    return Baseline("fitted", sample, "coefficients by Gauss-Newton")


def text(rows):
    """Return the page of the docs: by cell, the errors of ISDO and of the fits over that of the
    best baseline."""
    ratios = {
        name: {_place(cell): cell for cell in cells(rows, name)}
        for name in ("isdo_scheduled", "fitted", "elsewhere")
    }
    body = [
        [
            cell["problem"],
            cell["grid"],
            str(cell["calls"]),
            f"{cell['best_error']:.3f} ({SAMPLERS[cell['best']].label})",
        ]
        + [f"{ratios[name][place]['ratio']:.2f}" for name in ratios]
        for place, cell in sorted(ratios["isdo_scheduled"].items())
    ]
    means = [geometric_mean(cell["ratio"] for cell in ratios[name].values()) for name in ratios]
    body.append(["geometric mean", "", "", "", *(f"{mean:.2f}" for mean in means)])
    fits = "fitted to these pictures", "fitted to others"
    head = ["problem", "schedule", "calls", "error of the best baseline", SCHEDULED.label, *fits]
    return f"""# How far a linear multistep method gets at all

Run it again with `python -m isdo bench --suite ceiling --json out/ceiling.json`. DPM++ 2M, iPNDM, DEIS, UniPC with its
corrector and every other rule of fixed order take, in each step, a weighted mean of all that the model has said so far;
they differ in the weights. Here the weights (28 numbers for 8 calls) are fitted by Gauss-Newton, from those of DPM++ 2M
on, to one net, guidance and schedule: to the very {COUNT} pictures that are judged, which no sampler can know, and to
as many others, which one could store for a single model, schedule, guidance and number of calls. Ratios of median RMS
errors to that of the best baseline of the cell, as far as the fit finds the way: it may end in a local minimum, and it
minimises the mean of the logarithms, not the median.

{markdown(head, body)}"""


def _place(cell):
    return cell["problem"], cell["grid"], cell["calls"]
