"""Solvers that find their own steps: calls to reach an error, against the field's, and what a
tolerance says."""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import torch

from ..denoiser import CallCounter
from ..files import replacing
from ..sampling import sample_isdo
from ..settings import Settings
from .baselines import k_diffusion
from .kept import by_key, key_of
from .problems import rms, suite
from .report import PLAIN, markdown
from .work_precision import LARGEST, _stored, geometric_mean, limited

COUNT, MOST = 2, 400  # pictures of a problem; model calls of one
# Analytic problems are solved down to so little noise, so that what ending there costs does not
# hide what is measured.
LOWEST = 0.002
TARGETS = (
    0.03,
    0.01,
    0.003,
)  # errors (RMS, pictures are of the size of one half) that are to be reached
WITHIN = 10.0  # error over tolerance is to lie within that factor of its median
EXACT = (
    "data set"  # its pictures come out exactly: an error of 0 is in no proportion to a tolerance
)
AIM, OFTEN = (
    0.6,
    0.9,
)  # of the better one's calls, in the geometric mean; in so many of the problems fewer
TICKS = (6, 10, 20, 40, 80)
KEY = ("bench", "problem", "path", "sampler", "tolerance", "seed", "images", "fingerprint")


def by_isdo(solver, problem, tolerance):
    """Return (x, calls, rejected steps of each picture)."""
    report, settings = {}, Settings(solver=solver, tolerance=tolerance, max_calls=MOST)
    levels = [problem.sigma_max, problem.sigma_min, 0.0]
    x = sample_isdo(
        problem.model,
        problem.x,
        levels,
        problem.extra_args,
        disable=True,
        settings=settings,
        report=report,
    )
    return x, report["calls"], report["rejected"]


def one_by_one(solve):
    """Make of ``solve(model, x, problem, tolerance) -> x at sigma_min``, which pools over a batch,
    one for each picture.

    The last call, from sigma_min to what the model says there, is counted.
    """

    def run(problem, tolerance):
        found, calls = [], []
        for i in range(len(problem.x)):
            extra = {
                key: v[i : i + 1] if torch.is_tensor(v) else v
                for key, v in problem.extra_args.items()
            }
            counted = CallCounter(problem.model)

            def model(x, sigma, counted=counted, extra=extra):
                return counted(x, sigma, **extra)

            x = solve(model, problem.x[i : i + 1], problem, tolerance)
            found.append(model(x, x.new_full((1,), problem.sigma_min)))
            calls.append(counted.calls)
        return torch.cat(found), calls, [0] * len(calls)

    return run


def dpm_adaptive(model, x, problem, tolerance):
    """k-diffusion's, of order 3, its two tolerances in the proportion of its defaults."""
    solve = k_diffusion("sampling").sample_dpm_adaptive
    ends = problem.sigma_min, problem.sigma_max
    return solve(model, x, *ends, disable=True, rtol=tolerance, atol=0.156 * tolerance).to(x.dtype)


def dopri5(model, x, problem, tolerance):
    """torchdiffeq's, in log sigma, in which it needs fewer calls than in sigma."""
    from torchdiffeq import odeint

    ends = torch.tensor(
        [problem.sigma_max, problem.sigma_min], dtype=x.dtype, device=x.device
    ).log()

    def slope(t, state):
        return state - model(state, t.exp().to(state.dtype).expand(1))

    return odeint(slope, x, ends, rtol=tolerance, atol=tolerance, method="dopri5")[-1]


@dataclass(frozen=True)
class Adaptive:
    """A solver that finds its own steps: ``run(problem, tolerance) -> (x, calls, rejected)``, both
    lists by picture."""

    label: str
    run: Callable
    tolerances: tuple
    style: dict


OURS = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
SAMPLERS = {
    name: Adaptive(f"ISDO {name}", partial(by_isdo, name), OURS, {"color": "#D55E00", **style})
    for name, style in (
        ("multistep", {"marker": "o", "linewidth": 3}),
        ("srk3", {"marker": "s", "linestyle": "--"}),
        ("srk5", {"marker": "^", "linestyle": ":"}),
    )
} | {
    "dpm_adaptive": Adaptive(
        "k-diffusion dpm_adaptive", one_by_one(dpm_adaptive), (0.5, 0.15, 0.05, 0.015, 0.005, 0.0015),
        {"color": "#0072B2", "marker": "s"},
    ),
    "dopri5": Adaptive(
        "torchdiffeq dopri5", one_by_one(dopri5), (0.1, 0.02, 0.004, 0.0008, 0.00016, 3e-5),
        {"color": "#009E73", "marker": "^"},
    ),
}  # fmt: skip
BASELINES = ("dpm_adaptive", "dopri5")


def problems(seed=0, device="cpu"):
    """Return the makers of all problems, analytic ones first."""
    analytic = [lambda make=make: lowered(make()) for make in suite("analytic", seed)]
    return analytic + suite("zoo", seed, count=COUNT, device=device)


def lowered(problem):
    """Return an analytic Problem down to LOWEST."""
    table = torch.cat([problem.table.new_tensor([LOWEST]), problem.table[problem.table > LOWEST]])
    problem.model.sigmas = table
    return replace(problem, table=table)


def run(
    progress=iter,
    *,
    makers=None,
    seed=0,
    limit=None,
    only="",
    reuse=(),
    save=None,
    cache=None,
    device="cpu",
):
    """Measure every adaptive solver on every problem at each of its tolerances.

    Args:
        progress: wraps the list of problems, such as tqdm.
        makers: of Problems; those of `problems` if left out.
        seed: of problems and noise.
        limit: pictures of each problem at most, COUNT if left out.
        only: part of the name of the problems wanted.
        reuse: rows of an earlier run, which are not measured again.
        save: called with all rows so far after each problem.
        cache: folder in which references are kept.
        device: where the networks run.

    Returns:
        rows: the labels in KEY, and by picture "calls", "rejected", "errors", "uncertainty".
    """
    known, rows = by_key(reuse, KEY), []
    for make in progress(problems(seed, device) if makers is None else makers):
        problem = limited(make(), limit or COUNT)
        if only not in problem.name:
            continue
        if cache is not None:
            problem = replace(problem, solve=partial(_stored, problem.solve, Path(cache)))
        for name, sampler in SAMPLERS.items():
            for tolerance in sampler.tolerances:
                values = (
                    "adaptive",
                    problem.name,
                    problem.path,
                    name,
                    tolerance,
                    seed,
                    len(problem.x),
                    problem.fingerprint,
                )
                labels = dict(zip(KEY, values, strict=True))
                rows.append(
                    known.get(key_of(labels, KEY)) or labels | measure(problem, sampler, tolerance)
                )
        if save is not None:
            save(rows)
    return rows


def measure(problem, sampler, tolerance):
    """Return the numbers of one row."""
    with torch.no_grad():
        x, calls, rejected = sampler.run(problem, tolerance)
    errors = (
        rms(x - problem.reference())
        .nan_to_num(nan=LARGEST, posinf=LARGEST)
        .clamp(max=LARGEST)
        .tolist()
    )
    return {
        "calls": calls,
        "rejected": rejected,
        "errors": errors,
        "uncertainty": problem.uncertainty().tolist(),
    }


def curves(rows):
    """Return {(problem, path): {sampler: [(calls, error), ...]}}, means over pictures (of errors:
    geometric), calls rising."""
    found = defaultdict(lambda: defaultdict(list))
    for row in rows:
        point = sum(row["calls"]) / len(row["calls"]), _error(row)
        found[row["problem"], row["path"]][row["sampler"]].append(point)
    return {
        case: {name: sorted(line) for name, line in lines.items()} for case, lines in found.items()
    }


def calls_to(line, target):
    """Return how many calls a solver needs for an error: between measured tolerances interpolated
    in the logarithms.

    Where the loosest tolerance is better than that, its calls; None where none is as good.
    """
    before = None
    for calls, error in line:
        if error <= target:
            if before is None or before[1] <= error:
                return calls
            part = math.log(before[1] / target) / math.log(before[1] / error)
            return math.exp(math.log(before[0]) + part * math.log(calls / before[0]))
        before = calls, error
    return None


def standing(rows, sampler="multistep"):
    """Return {(problem, path): {target: (calls, calls of the better baseline)}} where both get
    there."""
    found = {}
    for case, lines in curves(rows).items():
        cells = {}
        for target in TARGETS:
            own = calls_to(lines.get(sampler, []), target)
            others = [
                calls for name in BASELINES if (calls := calls_to(lines.get(name, []), target))
            ]
            if own and others:
                cells[target] = own, min(others)
        if cells:
            found[case] = cells
    return found


def ratios(found):
    """Return {(problem, path): geometric mean over the targets of own calls / the better
    baseline's}."""
    return {
        case: geometric_mean(own / other for own, other in cells.values())
        for case, cells in found.items()
    }


def promises(rows, sampler="multistep"):
    """Return [(tolerance, error)] of every problem and tolerance, errors as in `curves`."""
    return [(row["tolerance"], _error(row)) for row in _promised_rows(rows, sampler)]


def _promised_rows(rows, sampler):
    return [row for row in rows if row["sampler"] == sampler and row["problem"] != EXACT]


def _error(row):
    return geometric_mean(max(error, 1e-9) for error in row["errors"])


def promise(pairs):
    """Return (the median of error/tolerance, the share within WITHIN of it, the lowest and the
    highest over the median)."""
    found = sorted(error / tolerance for tolerance, error in pairs)
    median = found[len(found) // 2]
    share = sum(1 / WITHIN <= value / median <= WITHIN for value in found) / len(found)
    return median, share, found[0] / median, found[-1] / median


def _outside(rows, sampler="multistep"):
    median, *_ = promise(promises(rows, sampler))
    found = [
        f"{row['problem']} ({row['path']}) at {row['tolerance']:g}: {_error(row) / row['tolerance'] / median:.2g}"
        for row in _promised_rows(rows, sampler)
        if not 1 / WITHIN <= _error(row) / row["tolerance"] / median <= WITHIN
    ]
    return (
        f"Outside, over the median, of multistep: {'; '.join(found)}."
        if found
        else "None of multistep's lies outside."
    )


def page(rows):
    """Return the page of the docs."""
    found = standing(rows)
    by_case = ratios(found)
    mean, fewer = (
        geometric_mean(by_case.values()),
        sum(r < 1 for r in by_case.values()) / len(by_case),
    )
    cells = [[f"{calls:.0f} / {other:.0f}" for calls, other in (cells.get(t, (math.nan, math.nan)) for t in TARGETS)]
             for cells in found.values()]  # fmt: skip
    body = [
        [
            f"{name} ({path})",
            *(text.replace("nan", "-") for text in line),
            f"{by_case[name, path]:.2f}",
        ]
        for (name, path), line in zip(found, cells, strict=True)
    ]
    body.sort(key=lambda line: line[0])
    table = markdown(
        ["calls to reach an error, ISDO / better baseline", *map(str, TARGETS), "ratio"], body
    )
    others = [
        [SAMPLERS[name].label, f"{geometric_mean(ratios(standing(rows, name)).values()):.2f}"]
        for name in SAMPLERS if name not in BASELINES and ratios(standing(rows, name))
    ]  # fmt: skip
    kept = []
    for name in SAMPLERS:
        if name not in BASELINES and (pairs := promises(rows, name)):
            median, share, low, high = promise(pairs)
            kept.append(
                [
                    SAMPLERS[name].label,
                    f"{median:.2f}",
                    f"{100 * share:.0f} %",
                    f"{low:.2g}",
                    f"{high:.1f}",
                ]
            )
    outside = _outside(rows)
    worse = [f"{name} ({path})" for (name, path), ratio in by_case.items() if ratio >= 1]
    where = (
        f"Not fewer: {', '.join(sorted(worse))}."
        if worse
        else "There is no problem where it needs more."
    )
    seeds, images = (
        " or ".join(map(str, sorted({row[key] for row in rows}))) for key in ("seed", "images")
    )
    return f"""# Adaptive steps: calls to reach an error, and what a tolerance says

This page is written by the bench; run it again with

    python -m isdo bench --suite adaptive --doc docs/adaptive.md --plot docs/adaptive.png

{images} pictures a problem, seed {seeds}. Every solver goes from the problem's first to its last noise level in steps
of its own and then to what the model says there; the analytic problems go down to sigma {LOWEST}. Baselines see one picture
at a time, as ISDO's pictures go their own ways, too. Errors are RMS to the converged solution, geometric means over pictures;
between the tolerances that were run calls are interpolated, and "-" stands where not both get there. A solver that is better
than asked even at its loosest tolerance counts with the calls it takes there: dpm_adaptive, whose steps begin at 0.05, with
about 20. Photographs are a denoiser of CIFAR-10 that is not part of this repository.

Calls of ISDO (multistep) over those of the better of k-diffusion's dpm_adaptive and torchdiffeq's dopri5, geometric mean over
problems: **{mean:.2f}** (the aim was {AIM}); fewer in {100 * fewer:.0f} % of them (the aim was {100 * OFTEN:.0f} %). {where}

{table}

{markdown(["solver", "its calls / the better baseline's"], others)}

**What a tolerance says.** Error over tolerance, over all problems and the tolerances {", ".join(map(str, OURS))};
the aim was that all lie within a factor of {WITHIN:.0f} of the median. The data set is left out: at most tolerances its
pictures come out exactly.

{markdown(["solver", "median", f"within a factor of {WITHIN:.0f}", "lowest / median", "highest / median"], kept)}

{outside}

![error against calls, and against the tolerance](adaptive.png)"""


def plot(rows, path):
    """Draw error against calls, a panel for each problem, and before them error against tolerance
    over all problems."""
    from matplotlib.figure import Figure

    panels = curves(rows)
    columns = 6
    lines = math.ceil((len(panels) + 1) / columns)
    figure = Figure(figsize=(2.7 * columns, 2.4 * lines + 0.6), layout="constrained")
    first, *axes = figure.subplots(lines, columns, squeeze=False).flatten()
    _promised(first, rows)
    for axis, ((name, where), found) in zip(axes, panels.items(), strict=False):
        for sampler, line in found.items():
            style = PLAIN | SAMPLERS[sampler].style
            axis.plot(*zip(*line, strict=True), label=SAMPLERS[sampler].label, **style)
        axis.set(xscale="log", yscale="log")
        axis.set_xticks([], minor=True)
        axis.set_xticks(TICKS, TICKS)
        axis.set_title(f"{name} ({where})", fontsize=8)
        axis.grid(alpha=0.25)
    for axis in axes[len(panels) :]:
        axis.axis("off")
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=len(SAMPLERS),
        frameon=False,
    )
    figure.suptitle(
        "RMS error against model calls, each solver finding its own steps; first: against the tolerance"
    )
    with replacing(path) as part:
        figure.savefig(part, dpi=100, format=Path(path).suffix[1:].lower() or "png")


def _promised(axis, rows):
    pairs = promises(rows)
    median, *_ = promise(pairs)
    axis.scatter(*zip(*pairs, strict=True), s=8, color="#D55E00", alpha=0.5)
    ends = [min(t for t, _ in pairs), max(t for t, _ in pairs)]
    for factor, line in product((1 / WITHIN, 1, WITHIN), ("-",)):
        axis.plot(
            ends,
            [factor * median * t for t in ends],
            color="#777777",
            linestyle=line if factor == 1 else ":",
        )
    axis.set(xscale="log", yscale="log", xlabel="tolerance", ylabel="RMS error")
    axis.set_title("what a tolerance says (multistep)", fontsize=8)
