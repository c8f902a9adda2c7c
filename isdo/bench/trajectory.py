"""The whole trajectory at once: rounds and calls to an accuracy, against the field's parallel
samplers and sequential runs."""

import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch

from ..files import replacing
from ..path import PATHS, smallest_sigma
from ..reference import ddim
from ..run import Run
from ..sampling import sample_isdo
from ..settings import Settings
from ..sweeps import Sweeps
from ..trajectory import PICARD, Acceleration, chebyshev
from .kept import by_key, key_of
from .problems import rms, suite
from .report import PLAIN, markdown
from .work_precision import _stored, geometric_mean, limited

COUNT, MOST = 2, 24  # pictures of a problem; rounds of a parallel sampler at most
STEPS = (
    100  # of the sequential runs whose accuracy is to be reached, and of the baselines' equations
)
INTERVALS = 32  # between ISDO's nodes
SEQUENTIAL = (5, 10, 20, 30, 50, STEPS)
AIM, PARATAA = (
    5,
    7,
)  # rounds: our aim, and what ParaTAA's authors report for images of equal quality
SOLVED = 1e-6  # residual at which ISDO's nodes are solved; the baselines' stop at ``SETTLED`` in x beside its noise
SETTLED = 1e-4
# Of ParaTAA: how far back its equations reach (None: to the start; 8 and 20 steps took more
# rounds), and how many residuals are remembered (3 were no better).
ORDER, HISTORY, RIDGE = None, 2, 1e-6
SPARE, TINY = 1.1, 1e-9  # a tenth more error counts as equal; errors below count as that
SCHEDULES = {"ve": "karras", "flow": "flow shift 3"}
PROBLEMS = {
    "analytic": ("stationary", "anisotropic", "stationary, guidance 5", "data set"),
    "zoo": ("eps, guidance 1", "v, guidance 1", "flow, guidance 1", "eps, guidance 3"),
}
KEY = ("bench", "problem", "path", "method", "seed", "images", "fingerprint")


def levels(problem, steps=STEPS):
    """Return the noise levels of the sequential runs of a Problem, ending in 0, floats."""
    schedules = problem.schedules()
    name = SCHEDULES[problem.path]
    return schedules[name if name in schedules else "karras"](steps).tolist()


class Rows:
    """D of many (node, picture) pairs in one call: what the baselines ask of a Problem, counted by
    picture."""

    def __init__(self, problem):
        self.problem, self.calls = problem, 0

    def __call__(self, x, sigmas):
        """Return D at x (n, B, ...), sigmas n floats."""
        n, count = x.shape[:2]
        extra = {
            k: v.repeat(n) if torch.is_tensor(v) else v for k, v in self.problem.extra_args.items()
        }
        levels = x.new_tensor(sigmas).repeat_interleave(count)
        self.calls += n
        return self.problem.model(x.flatten(0, 1), levels, **extra).view_as(x)


def picard(problem, order=None, history=0):
    """Sweep over DDIM's equations of STEPS steps; yields (calls, pictures) after each round.

    Without history this is Picard's iteration, ParaDiGMS with all nodes in its window (Shih et al.
    2023, equation 8); with it ParaTAA (Tang et al. 2024): equations that reach ``order`` steps
    back, and triangular Anderson acceleration, in which the weights of a node are fitted to the
    residuals there and before it. Nodes that have settled are not asked again.

    Args:
        problem: a Problem.
        order: how many steps back the equations reach; None: to the start.
        history: residuals that are remembered.
    """
    path, ask = PATHS[problem.path], Rows(problem)
    sigmas = levels(problem)[:-1]
    signals, order = [path.signal(sigma) for sigma in sigmas], order or len(sigmas)
    scales = [math.hypot(signal, sigma) for signal, sigma in zip(signals, sigmas, strict=True)]
    x = torch.stack([problem.x * (sigma / sigmas[0]) for sigma in sigmas])
    denoised = ask(x[:1], sigmas[:1]).expand_as(x).clone()
    x, past, settled = integrated(x, denoised, sigmas, signals, order), [], 0
    yield ask.calls, denoised[-1]
    while settled < len(sigmas) - 1:
        denoised[settled + 1 :] = ask(x[settled + 1 :], sigmas[settled + 1 :])
        yield ask.calls, denoised[-1].clone()
        residual = integrated(x, denoised, sigmas, signals, order) - x
        moved, live = residual.clone(), slice(settled + 1, None)
        if past:
            earlier = [(old[live], gap[live]) for old, gap in past]
            moved[live] = anderson(x[live], residual[live], earlier, scales[live])
        past = [(x, residual), *past][:history]
        size = residual.flatten(2).square().mean(-1).sqrt().amax(1).tolist()
        x = x + moved
        while settled < len(sigmas) - 1 and size[settled + 1] <= SETTLED * sigmas[settled + 1]:
            settled += 1


def integrated(x, denoised, sigmas, signals, order):
    """Return x at all nodes by DDIM's steps from the node ``order`` before, D as given: in x/sigma
    they are sums."""
    inverse = [signal / sigma for signal, sigma in zip(signals, sigmas, strict=True)]
    steps = [
        (after - before) * d
        for (before, after), d in zip(pairwise(inverse), denoised[:-1], strict=True)
    ]
    sums = torch.cat([torch.zeros_like(x[:1]), torch.stack(steps).cumsum(0)])
    found = []
    for j, sigma in enumerate(sigmas):
        start = max(0, j - order)
        found.append(sigma * (x[start] / sigmas[start] + sums[j] - sums[start]))
    return torch.stack(found)


def anderson(x, residual, past, scales):
    """Return the accelerated change of x by triangular Anderson acceleration (Tang et al. 2024,
    section 3.2).

    Args:
        x, residual: (nodes, B, ...), nodes that have not settled.
        past: pairs of these in earlier rounds, newest first.
        scales: of x at the nodes, to the size of the variance-preserving process, in which the
            authors' are.
    """
    chain = [(x, residual), *past]
    moves = torch.stack([new[0] - old[0] for new, old in pairwise(chain)]).flatten(
        3
    )  # (history, nodes, B, numbers)
    changes = torch.stack([new[1] - old[1] for new, old in pairwise(chain)]).flatten(3)
    flat, weights = residual.flatten(2), x.new_tensor(scales)[:, None] ** -2
    gram = torch.einsum("hnbk,gnbk->nbhg", changes, changes) * weights[..., None, None]
    along = torch.einsum("hnbk,nbk->nbh", changes, flat) * weights[..., None]
    gram, along = gram.cumsum(0).double(), along.cumsum(0).double()  # of a node and those before it
    ridge = (
        RIDGE * gram.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None] + torch.finfo(x.dtype).tiny
    )
    gamma = torch.linalg.solve(
        gram + ridge * torch.eye(len(changes), dtype=gram.dtype, device=gram.device), along
    )
    gamma[0] = (
        0  # the first node takes the plain step: so one more node is right after each round, whatever happens
    )
    return (flat - torch.einsum("nbh,hnbk->nbk", gamma.to(x.dtype), moves + changes)).view_as(x)


def by_isdo(problem, nodes=INTERVALS, acceleration=None):
    """Solve the collocation equations between so many Chebyshev nodes; yields (calls, pictures)
    after each round."""
    path, low = PATHS[problem.path], smallest_sigma(problem.model)
    run = Run(
        problem.model,
        problem.x,
        problem.extra_args,
        Settings(solver="trajectory"),
        path,
        None,
        low,
        {},
    )
    sweeps = Sweeps(run)
    equations = sweeps.equations(chebyshev(path, problem.sigma_max, problem.sigma_min, nodes))
    run.begin_answers(0)
    sweeps.found = list(sweeps.begin(equations, SOLVED, 10**6, acceleration=acceleration).values())
    for _ in sweeps.rounds_of():
        yield sum(run.report["calls"]) / len(problem.x), sweeps.now()


@dataclass(frozen=True)
class Method:
    """A parallel sampler: ``rounds(problem)`` yields (calls a picture, pictures) after each
    round."""

    label: str
    rounds: Callable
    style: dict


METHODS = {
    "isdo": Method("ISDO trajectory", by_isdo, {"color": "#D55E00", "marker": "o", "linewidth": 3}),
    "isdo_no_anderson": Method(
        "ISDO, answers in bands alone", partial(by_isdo, acceleration=Acceleration(depth=0)),
        {"color": "#D55E00", "marker": "s", "linestyle": "--"},
    ),
    "isdo_picard": Method(
        "ISDO's nodes, Picard", partial(by_isdo, acceleration=PICARD), {"color": "#D55E00", "marker": "^", "linestyle": ":"},
    ),
    "paradigms": Method("ParaDiGMS, DDIM-100", picard, {"color": "#0072B2", "marker": "s"}),
    "parataa": Method(
        "ParaTAA, DDIM-100", partial(picard, order=ORDER, history=HISTORY), {"color": "#009E73", "marker": "^"},
    ),
}  # fmt: skip


def problems(seed=0, device="cpu"):
    """Return the makers of all problems, analytic ones first."""
    return suite("analytic", seed) + suite("zoo", seed, count=COUNT, device=device)


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
    """Measure every parallel sampler on every problem, round by round, and sequential runs beside
    them.

    Args:
        progress: wraps the list of problems, such as tqdm.
        makers: of Problems; those of PROBLEMS if left out.
        seed: of problems and noise.
        limit: pictures of each problem at most, COUNT if left out.
        only: part of the name of the problems wanted.
        reuse: rows of an earlier run, which are not measured again.
        save: called with all rows so far after each problem.
        cache: folder in which references are kept.
        device: where the networks run.

    Returns:
        rows: the labels in KEY, "rounds": [(calls, error)] after each round, "seconds" of the CPU.
            Of the methods "ddim" and
        "multistep", which are sequential, "rounds" has one entry for each number of calls. Errors
        are RMS, means over pictures.
    """
    known, rows = by_key(reuse, KEY), []
    wanted = {name for names in PROBLEMS.values() for name in names}
    for make in progress(problems(seed, device) if makers is None else makers):
        problem = limited(make(), limit or COUNT)
        if only not in problem.name or (makers is None and problem.name not in wanted):
            continue
        if cache is not None:
            problem = replace(problem, solve=partial(_stored, problem.solve, Path(cache)))
        for name in (*METHODS, *SEQUENTIALS):
            values = (
                "trajectory",
                problem.name,
                problem.path,
                name,
                seed,
                len(problem.x),
                problem.fingerprint,
            )
            labels = dict(zip(KEY, values, strict=True))
            rows.append(known.get(key_of(labels, KEY)) or labels | measure(problem, name))
        if save is not None:
            save(rows)
    return rows


def measure(problem, name):
    """Return the numbers of one row."""
    found, reference, begun = [], problem.reference(), time.process_time()
    with torch.no_grad():
        for calls, pictures in (
            METHODS[name].rounds(problem) if name in METHODS else SEQUENTIALS[name](problem)
        ):
            found.append((calls, rms(pictures - reference).mean().item()))
            if name in METHODS and len(found) == MOST:
                break
    return {
        "rounds": found,
        "seconds": time.process_time() - begun,
        "uncertainty": problem.uncertainty().mean().item(),
    }


def sequentially(sampler, problem):
    """Yield (calls, pictures) of sequential runs."""
    for steps in SEQUENTIAL:
        sigmas = problem.x.new_tensor(levels(problem, steps))
        yield steps, sampler(problem.model, problem.x, sigmas, problem.extra_args, disable=True)


SEQUENTIALS = {"ddim": partial(sequentially, ddim), "multistep": partial(sequentially, sample_isdo)}


def error_at(row, calls):
    """Return the error of a sequential row at so many calls, interpolated in the logarithms."""
    points = sorted(row["rounds"])
    for (few, worse), (many, better) in pairwise(points):
        if few <= calls <= many:
            part = math.log(calls / few) / math.log(many / few)
            return math.exp(
                (1 - part) * math.log(max(worse, TINY)) + part * math.log(max(better, TINY))
            )
    return points[-1][1]


def rounds_to(row, target):
    """Return (rounds, calls a picture) until the error is at most ``target``; None: it never
    was."""
    return next(
        ((i, calls) for i, (calls, error) in enumerate(row["rounds"], 1) if error <= target), None
    )


def table(rows):
    """Return {(problem, path): {method: row}}."""
    found = defaultdict(dict)
    for row in rows:
        found[row["problem"], row["path"]][row["method"]] = row
    return dict(found)


def targets(cell):
    """Return {sequential method: the error to reach} of a problem: that of STEPS steps, with a
    tenth to spare."""
    return {
        name: SPARE * max(error_at(cell[name], STEPS), cell[name]["uncertainty"])
        for name in SEQUENTIALS
    }


def page(rows):
    """Return the page of the docs."""
    cells, heads = table(rows), [METHODS[name].label for name in METHODS]
    tables = [_reached(cells, heads, name) for name in SEQUENTIALS]
    counts = [
        got[0] for cell in cells.values() if (got := rounds_to(cell["isdo"], targets(cell)["ddim"]))
    ]
    others = [
        got[0]
        for cell in cells.values()
        if (got := rounds_to(cell["parataa"], targets(cell)["ddim"]))
    ]
    within = sum(count <= AIM for count in counts)
    ends = [
        [f"{name} ({path})", *(f"{error:.2g}" for error in _ends(cell))]
        for (name, path), cell in sorted(cells.items())
    ]  # fmt: skip
    seconds = [
        [METHODS[name].label, f"{geometric_mean(_seconds(cells, name)):.1f}",
         f"{geometric_mean(cell[name]['rounds'][-1][0] for cell in cells.values()):.0f}",
         f"{geometric_mean(len(cell[name]['rounds']) for cell in cells.values()):.1f}"]
        for name in METHODS
    ]  # fmt: skip
    seeds, images = (
        " or ".join(map(str, sorted({row[key] for row in rows}))) for key in ("seed", "images")
    )
    return f"""# The whole trajectory at once: rounds and calls to an accuracy

This page is written by the bench; run it again with

    python -m isdo bench --suite trajectory --doc docs/trajectory.md --plot docs/trajectory.png

{images} pictures a problem, seed {seeds}. A round is one call of the model for all noise levels and pictures that are in
flight; calls are those of one picture. Errors are RMS to the converged solution, means over pictures. The baselines solve the
equations of DDIM in {STEPS} steps with all nodes in their window: ParaDiGMS by Picard's iteration, ParaTAA by triangular
Anderson acceleration. ISDO solves collocation equations between {INTERVALS + 1} Chebyshev nodes and is shown with all that
it has, with the measured answers in bands alone, and as Picard's iteration. Its first guess is one call, counted as a round.

**What it is not for.** On one busy GPU a round of 20 nodes takes as long as 20 calls one after the other: there rounds buy no
time, and at equal calls the sequential run of ISDO is as a rule the better one (last column of the third table). It is for
exact inversion, for checks of references, and for small latents, which leave a GPU idle.

Rounds to the accuracy of DDIM in {STEPS} steps (a tenth more error counts as equal). At most {AIM} were the aim: ISDO takes
{_span(counts)}, {within} of {len(cells)} problems are within the aim. ParaTAA takes {_span(others)} here; its authors report
{PARATAA}, until images are of equal quality.

{tables[0]}

Rounds to the accuracy of {STEPS} steps of ISDO (multistep). "-": not in {MOST} rounds, or not by these equations at all.

{tables[1]}

Errors at the end of each parallel run, and of sequential ones in {STEPS} steps, which are fewer calls than any of the parallel
runs takes.

{markdown(["error", *heads, f"DDIM-{STEPS}", f"ISDO-{STEPS}"], ends)}

Until a run ends by itself, or after {MOST} rounds; geometric means over problems. Seconds are of one CPU core, on which rounds
buy nothing.

{markdown(["", "seconds", "calls", "rounds"], seconds)}

![error against rounds](trajectory.png)"""


def _ends(cell):
    """Return the errors at the end of the parallel runs, and of the sequential ones."""
    return [
        *(cell[name]["rounds"][-1][1] for name in METHODS),
        *(error_at(cell[name], STEPS) for name in SEQUENTIALS),
    ]


def _span(counts):
    return f"{min(counts)} to {max(counts)}" if counts else "more"


def _seconds(cells, name):
    return [max(cell[name]["seconds"], TINY) for cell in cells.values()]


def _reached(cells, heads, target):
    body = []
    for (name, path), cell in sorted(cells.items()):
        found = [rounds_to(cell[method], targets(cell)[target]) for method in METHODS]
        texts = [f"{found[0]} ({found[1]:.0f})" if found else "-" for found in found]
        body.append([f"{name} ({path})", *texts, f"{error_at(cell[target], STEPS):.2g}"])
    return markdown(["rounds (calls)", *heads, "error to reach"], body)


def plot(rows, path):
    """Draw error against rounds, a panel for each problem."""
    from matplotlib.figure import Figure

    cells, columns = table(rows), 4
    lines = math.ceil(len(cells) / columns)
    figure = Figure(figsize=(3.4 * columns, 2.6 * lines + 0.6), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for axis, ((name, where), cell) in zip(axes, sorted(cells.items()), strict=False):
        for method, row in cell.items():
            if method in METHODS:
                errors = [max(error, TINY) for _, error in row["rounds"]]
                axis.plot(
                    range(1, len(errors) + 1),
                    errors,
                    label=METHODS[method].label,
                    **PLAIN | METHODS[method].style,
                )
        for sequential, dash in (("ddim", "--"), ("multistep", ":")):
            axis.axhline(
                error_at(cell[sequential], STEPS), color="black", linewidth=0.8, linestyle=dash
            )
        axis.set(yscale="log", xlabel="rounds")
        axis.set_title(f"{name} ({where})", fontsize=8)
        axis.grid(alpha=0.25)
    for axis in axes[len(cells) :]:
        axis.axis("off")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False
    )
    figure.suptitle(
        f"RMS error against rounds; dashed DDIM, dotted ISDO, both in {STEPS} steps one after the other"
    )
    with replacing(path) as part:
        figure.savefig(part, dpi=110, format=Path(path).suffix[1:])
