"""The demonstration: one trained model, the same noise and number of calls, and what each sampler
makes of them; and what refinement makes of finished pictures where more calls of a sampler make
nothing."""

from dataclasses import replace
from functools import partial
from itertools import product

import torch

from .. import gallery
from ..files import check_target, make_folder
from ..models import usual_schedule
from ..refinement import refine
from ..sampling import sample_isdo
from ..schedules import schedule
from ..zoo import load
from . import report
from .problems import Problem, by_runge_kutta
from .work_precision import SAMPLERS, measure

SHOWN = ("isdo", "dpmpp_2m", "ipndm_3", "unipc_2")
BUDGETS = (5, 6, 8, 10, 15, 20)  # model calls of the plot
REFINED = ("faces", "animals")
COLUMNS = 9  # of a page, at most
SIDE = 32  # of the zoo's pictures; larger ones are magnified less


def make_problem(name="eps", count=18, guidance=3.0, seed=0):
    """Return the Problem of drawing ``count`` pictures, the classes in turn, each from its own
    seed; of a model without classes, unguided."""
    model = load(name)
    x = model.sigma_max * gallery.noise(range(seed, seed + count), model.shape)
    extra, title = {}, name
    if model.classes:
        labels = torch.arange(count, device="cpu") % len(model.classes)
        extra, title = {"labels": labels, "guidance": guidance}, f"{name}, guidance {guidance:g}"
    solve = partial(by_runge_kutta, steps=32)  # converged far below what an eye or the plot can see
    return Problem(title, model.path.name, model, x, model.sigmas, solve, extra)


def run(problem, sampler, calls):
    """Return (pictures, row of numbers) of a sampler after ``calls`` model calls on the schedule
    that a person would take: Karras's, on flow models flow's."""
    baseline, kept, grid = SAMPLERS[sampler], [], usual_schedule(problem.model)

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

    def levels(steps):
        return schedule(grid, steps, problem.model).to(problem.x)

    row = measure(problem, replace(baseline, run=keep), levels, calls)
    return kept[0], labels | row


def page(problem, found, calls):
    """Return a page: the converged pictures, then those of every sampler after ``calls`` calls,
    with their error."""
    rows, names = [problem.reference()], ["converged"]
    for sampler in SHOWN:
        pictures, row = found[sampler, calls]
        rows.append(pictures)
        names.append(f"{row['label']}\n{calls} calls\nerror {row['median']:.3f}")
    classes = problem.model.classes[:COLUMNS]
    shown = len(classes) or COLUMNS
    zoom = zoom_of(problem.model, 4)
    return gallery.page([row[:shown] for row in rows], names, classes or None, zoom=zoom)


def zoom_of(model, most):
    """Return the zoom of a model's pictures on a page."""
    return max(1, most * SIDE // model.shape[-1])


def refined_page(name="eps", faces=6, animals=6, guidance=3.0, calls=12):
    """Return a page: pictures as drawn, with twice the calls, and refined by default settings;
    seeds 0, 1, 2, ... A model that does not know faces and animals draws its first two classes."""
    model, seeds, extra = load(name), range(faces + animals), {}
    if model.classes:
        known = REFINED if set(REFINED) <= set(model.classes) else model.classes[:2]
        one, other = (model.classes.index(label) for label in (known[0], known[-1]))
        labels = torch.tensor([one] * faces + [other] * animals, device="cpu")
        extra = {"labels": labels, "guidance": guidance}
    x = model.sigma_max * gallery.noise(seeds, model.shape)

    def drawn(steps):
        sigmas = schedule(usual_schedule(model), steps, model)
        return sample_isdo(model, x, sigmas, extra, disable=True)

    first = drawn(calls)
    better = refine(model, first, extra, disable=True, seeds=list(seeds))
    names = (
        f"drawn\n{calls} calls",
        f"drawn with\n{2 * calls} calls",
        f"drawn, refined\n{calls} + {better.calls} calls",
    )
    return gallery.page([first, drawn(2 * calls), better.x], names, zoom=zoom_of(model, 3))


def demo(folder="out", pages=(6, 8), progress=iter, name="eps"):
    """Draw with ISDO and other samplers from the same noise, and refine; returns the files written into
    ``folder``.

    Args:
        folder: made when missing.
        pages: the model calls, of BUDGETS, that get a page of pictures.
        progress: wraps the list of things to do, such as tqdm.
        name: of a model of the zoo, or its file.

    Raises:
        ValueError: when the model is not there, or the files cannot be written.
    """
    folder = make_folder(folder)
    files = {calls: folder / f"demo-{calls}-calls.png" for calls in pages}
    refined, plot = folder / "demo-refine.png", folder / "demo-work-precision.png"
    for file in (*files.values(), refined, plot):
        check_target(file)
    problem, found = make_problem(name), {}
    for job in progress([(), refined, *product(SHOWN, BUDGETS)]):
        if job == refined:
            gallery.write_png(refined_page(name), refined)
        elif job:
            found[job] = run(problem, *job)
        else:
            problem.reference()  # the longest job, counted like the others
    for calls, file in files.items():
        gallery.write_png(page(problem, found, calls), file)
    report.plot([row for _, row in found.values()], plot, usual_schedule(problem.model))
    return [*files.values(), plot, refined]
