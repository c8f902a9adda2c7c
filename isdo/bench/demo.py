"""The demonstration: one trained model, or one of your own beside it, the same noise and number of
calls, and what each sampler makes of them; and what refinement makes of finished pictures where more calls of a sampler make
nothing."""

from dataclasses import replace
from functools import partial
from itertools import product

import torch

from .. import gallery
from ..files import check_target, make_folder
from ..refinement import refine
from ..sampling import sample_isdo
from ..schedules import karras
from ..zoo import load
from ..zoo.net import CLASSES
from . import pictures, report
from .problems import Problem, by_runge_kutta, own_problem
from .work_precision import SAMPLERS, measure

SHOWN = ("isdo", "dpmpp_2m", "ipndm_3", "unipc_2")
BUDGETS = (5, 6, 8, 10, 15, 20)  # model calls of the plot
SIDE = 32
GUIDANCE = 3.0
STEPS = 32  # of the reference: converged far below what an eye or the plot can see


def make_problem(name="eps", count=18, guidance=GUIDANCE, seed=0):
    """Return the Problem of drawing ``count`` pictures, the classes in turn, each from its own
    seed."""
    model = load(name)
    x = model.sigma_max * gallery.noise(range(seed, seed + count), (3, SIDE, SIDE))
    extra = {"labels": torch.arange(count, device="cpu") % len(CLASSES), "guidance": guidance}
    solve = partial(by_runge_kutta, steps=STEPS)
    return Problem(
        f"{name}, guidance {guidance:g}", model.path.name, model, x, model.sigmas, solve, extra
    )


def make_own(given, count=pictures.COUNT):
    """Return the Problem of drawing ``count`` pictures with a `models.Given`, its classes in turn,
    each from its own seed: 0, 1, 2, ..."""
    x = given.model.sigma_max * gallery.noise(range(count), given.shape)
    solve = partial(by_runge_kutta, steps=STEPS)
    return replace(own_problem(given, count=count), x=x.to(given.device), solve=solve)


def usual(problem):
    """Return the name of the schedule, one of the problem's own, that a person would take."""
    return "flow shift 1" if "flow shift 1" in problem.schedules() else "karras"


def run(problem, sampler, calls):
    """Return (pictures, row of numbers) of a sampler after ``calls`` model calls on the usual
    schedule."""
    baseline, kept, grid = SAMPLERS[sampler], [], usual(problem)

    def keep(*args, **options):
        kept.append(baseline.run(*args, **options))
        return kept[0]

    labels = {
        "problem": problem.name,
        "path": problem.path,
        "grid": grid,
        "calls": calls,
        "sampler": sampler,
    }
    row = measure(problem, replace(baseline, run=keep), problem.schedules()[grid], calls)
    return kept[0], labels | row


def page(problem, found, calls):
    """Return a page: the converged pictures, then those of every sampler after ``calls`` calls,
    with their error."""
    rows, names = [problem.reference()], ["converged"]
    for sampler in SHOWN:
        drawn, row = found[sampler, calls]
        rows.append(drawn)
        names.append(f"{row['label']}\n{calls} calls\nerror {row['median']:.3f}")
    return gallery.page([row[: len(CLASSES)] for row in rows], names, CLASSES)


def group(problem, found, title, guidance=None, count=pictures.COUNT):
    """Return a `pictures.Group`: the first pictures of what was found for a problem."""
    told = [title] + ([] if guidance is None else [f"guidance {guidance:g}"])
    return pictures.Group(
        ", ".join([*told, f"schedule {usual(problem)}"]),
        problem.reference()[:count].cpu(),
        {job: drawn[:count].cpu() for job, (drawn, _) in found.items()},
    )


def refined_page(name="eps", faces=6, animals=6, guidance=GUIDANCE, calls=12):
    """Return a page: pictures as drawn, with twice the calls, and refined by default settings;
    seeds 0, 1, 2, ..."""
    model, seeds = load(name), range(faces + animals)
    labels = torch.tensor(
        [CLASSES.index("faces")] * faces + [CLASSES.index("animals")] * animals, device="cpu"
    )
    extra = {"labels": labels, "guidance": guidance}
    x = model.sigma_max * gallery.noise(seeds, (3, SIDE, SIDE))

    def drawn(steps):
        return sample_isdo(
            model, x, karras(steps, model.sigma_min, model.sigma_max), extra, disable=True
        )

    first = drawn(calls)
    better = refine(model, first, extra, disable=True, seeds=list(seeds))
    names = (
        f"drawn\n{calls} calls",
        f"drawn with\n{2 * calls} calls",
        f"drawn, refined\n{calls} + {better.calls} calls",
    )
    return gallery.page([first, drawn(2 * calls), better.x], names, zoom=3)


def demo(folder="out", pages=(6, 8), progress=iter, given=None, title=None):
    """Draw with ISDO and other samplers from the same noise, and refine; returns the files written into
    ``folder``.

    Args:
        folder: made when missing.
        pages: the model calls, of BUDGETS, that get a page of pictures.
        progress: wraps the list of things to do, such as tqdm.
        given: a `models.Given` whose pictures stand before the emoji on the page of both; None: the
            emoji stand alone.
        title: what that page calls it; None: its name.

    Raises:
        ValueError: when the model is not there, or the files cannot be written.
    """
    folder = make_folder(folder)
    files = {calls: folder / f"demo-{calls}-calls.png" for calls in pages}
    refined, plot = folder / "demo-refine.png", folder / "demo-work-precision.png"
    both = folder / "demo-pictures.png"
    for file in (*files.values(), refined, plot, both):
        check_target(file)
    emoji, found = make_problem(), {}
    own, drawn = None if given is None else make_own(given), {}
    few = list(product(pictures.SHOWN, pictures.CALLS))
    jobs = [(problem, {}, ()) for problem in (emoji, own) if problem is not None]
    jobs += [(emoji, found, job) for job in product(SHOWN, BUDGETS)]
    jobs += [(own, drawn, job) for job in few] if own is not None else []
    for problem, into, job in progress([*jobs, (emoji, {}, refined)]):
        if job == refined:
            gallery.write_png(refined_page(), refined)
        elif job:
            into[job] = run(problem, *job)
        else:
            problem.reference()  # the longest job, counted like the others
    for calls, file in files.items():
        gallery.write_png(page(emoji, found, calls), file)
    groups = [] if own is None else [group(own, drawn, title or given.name, given.guidance)]
    groups.append(group(emoji, {job: found[job] for job in few}, "emoji", GUIDANCE))
    gallery.write_png(pictures.page(groups), both)
    report.plot([row for _, row in found.values()], plot)
    return [*files.values(), both, plot, refined]
