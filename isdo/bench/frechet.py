"""Quality of sets of pictures: Fréchet distance to the real ones in the features of a small classifier."""

import itertools
from dataclasses import dataclass, replace

import torch

from .. import gallery
from ..denoiser import CallCounter
from ..device import wide
from ..models import Given, of_zoo, usual_schedule
from ..reference import seeded
from ..schedules import schedule
from . import classifier
from .judge import check, judged
from .moments import frechet, moments, sampling_bias
from .report import markdown
from .work_precision import SAMPLERS

CALLS, COUNT, BATCH = (6, 8, 10, 15), 2000, 50
PROBE = 4  # pictures by which a stored row is recognised as still true
CONVERGED = 64  # calls of Heun that stand for the exact solution: what is left is the model's own distance
SET = ("model", "guidance", "grid", "images", "seed", "judge")  # one table each
KEY = (*SET, "sampler", "calls")


@dataclass(frozen=True)
class Task:
    """What every sampler has to draw: ``count`` pictures of ``labels`` (count,) or None, picture i from the noise of seed
    ``seed + i``."""

    given: Given
    labels: torch.Tensor | None
    count: int
    grid: str
    seed: int

    def asked(self, part):
        """Return the labels of the pictures ``part`` (a slice), or None."""
        return None if self.labels is None else self.labels[part]

    def draw(self, sampler, calls, part):
        """Return (pictures, model calls made) of the pictures ``part`` (a slice), on the task's device."""
        given, seeds = self.given, range(self.seed, self.seed + self.count)[part]
        model, sigmas = CallCounter(given.model), schedule(self.grid, sampler.steps(calls), given.model)
        x = (sigmas[0] * gallery.noise(seeds, given.shape)).to(given.device)
        extra = given.extra_args(self.asked(part))
        with torch.no_grad():
            drawn = seeded(sampler.run, seeds)(model, x, sigmas.to(given.device), extra_args=extra, disable=True)
        if model.calls > calls:
            raise RuntimeError(f"{sampler.label} made {model.calls} model calls where {calls} were allowed")
        return drawn, model.calls


def make_labels(odds, count, seed=0):
    """Return labels (count,) whose shares are ``odds`` (K,) as nearly as can be, in random order."""
    edges = odds.double().cumsum(0) / odds.double().sum()
    labels = torch.searchsorted(edges, (torch.arange(count, device="cpu") + 0.5) / count).clamp(max=len(odds) - 1)
    return labels[torch.randperm(count, generator=torch.Generator("cpu").manual_seed(seed), device="cpu")]


def labels_for(given, judge, count, seed=0):
    """Return labels (count,) of what is to be drawn, or None: those given, in turn; else as often as the judge says.

    The embedded judge's classes are the zoo's: a model of somebody's own is not asked for them.
    """
    if given.labels:
        return given.classes(range(count))
    theirs = isinstance(judge, classifier.Judge)
    if judge.odds is None or given.own and (theirs or not given.model.takes("labels") or "labels" in given.extra):
        return None
    return make_labels(judge.odds, count, seed)


def measure(task, judge, sampler, calls, batch=BATCH):
    """Return the row of numbers of one sampler: Fréchet distance, and the share of pictures judged to be of the class
    asked for, None where nobody can tell; a picture that is not finite counts as grey."""
    features, right = [], []
    for start in range(0, task.count, batch):
        part = slice(start, start + batch)
        pictures, made = task.draw(sampler, calls, part)
        found, share = judged(judge, pictures.nan_to_num(nan=0.0), task.asked(part))
        features.append(found)
        right += [] if share is None else [share * len(pictures)]
    return {
        "label": sampler.label,
        "made": made,
        "frechet": frechet(judge.real, moments(torch.cat(features))),
        "accuracy": sum(right) / task.count if right else None,
    }


def run(
    model="eps",
    calls=CALLS,
    count=COUNT,
    samplers=None,
    guidance=1.0,
    progress=iter,
    *,
    seed=0,
    converged=CONVERGED,
    reuse=(),
    save=None,
    batch=BATCH,
    device="cpu",
    judge=None,
):
    """Measure how far from the real pictures each sampler's pictures are, as sets.

    Args:
        model: a name or file of the zoo; a model of its call shape with sigma_min, sigma_max, sigmas and path; or any, as
            `models.Given`, which brings its own guidance and device.
        calls: model calls that each may make.
        count: pictures; their classes occur as often as in the data, and all samplers start from the same noise.
        samplers: name -> Peer; None for ISDO and all peers.
        guidance: classifier-free guidance, 1: none. It doubles the work, and moves the set away from the data.
        progress: wraps the list of (sampler, calls), such as tqdm.

    Rarely needed:
        seed: of the first picture and of the order of the classes.
        converged: calls of Heun, in a row "converged"; 0 leaves it out.
        reuse: rows of an earlier run; those that hold are not run again. A row holds when it is of the same task and
            its sampler still draws the same first pictures, so that a change of sampler, net or schedule is noticed.
        save: called with all rows so far after each new one.
        batch: pictures in a network call.
        device: where the networks run.
        judge: another than the embedded classifier.Judge, with what `judge.Judge` says.

    Returns:
        One dict for each sampler and number of calls: ``frechet``, ``accuracy`` and what they were measured on.

    Raises:
        RuntimeError: a sampler that makes more calls than it was given.
        ValueError: no such model, no classifier, or fewer than two pictures.
    """
    if count < 2:
        raise ValueError(f"count is {count}: a set of pictures has at least 2")
    given, guidance = model, float(guidance)
    if isinstance(model, str):
        given = of_zoo(model, device, guidance=guidance)
    elif not isinstance(model, Given):
        given = Given(type(model).__name__, model, guidance=guidance, device=device)
    judge = (judge or classifier.load()).to(given.device)
    check(judge, given.shape, given.device)
    task = Task(given, labels_for(given, judge, count, seed), count, usual_schedule(given.model), seed)
    samplers = SAMPLERS if samplers is None else samplers
    jobs = [(sampler, samplers[sampler], n) for n, sampler in itertools.product(calls, samplers)]
    if converged:
        jobs.append(("converged", replace(SAMPLERS["heun"], label="converged"), converged))
    known, rows = {_key(row): row for row in reuse}, []
    labels = dict(zip(SET, (given.title, given.guidance, task.grid, count, seed, _name(judge.real.mean)), strict=True))
    for sampler, peer, n in progress(jobs):
        probe = _name(task.draw(peer, n, slice(PROBE))[0])
        row = {"bench": "frechet", **labels, "sampler": sampler, "calls": n, "probe": probe}
        if known.get(_key(row), {}).get("probe") == probe:
            rows.append(known[_key(row)])
            continue
        rows.append(row | measure(task, judge, peer, n, batch))
        if save is not None:
            save(rows)
    return rows


def merged(old, new):
    """Return the rows of ``new`` and those of ``old`` that they do not replace."""
    replaced = {_key(row) for row in new}
    return [row for row in old if _key(row) not in replaced] + list(new)


def table(rows, judge=None):
    """Return markdown: for each task the Fréchet distances and accuracies by sampler and calls, then what they can be
    held against."""
    judge = judge or classifier.load()
    tasks = itertools.groupby(sorted(rows, key=_set), key=_set)
    return "\n\n".join(_table(list(group), judge) for _, group in tasks)


def page(rows, judge=None, flags=None):
    """Return the page of the docs: what this judge measured, the tables, how to do it again with the ``flags``."""
    judge = judge or classifier.load()
    rows = [row for row in rows if row["judge"] == _name(judge.real.mean)]
    return f"""# Quality of sets of pictures

This page is written by the bench; run it again with

    python -m isdo bench --suite frechet {flags or "--model eps"} --json out/frechet.json --doc docs/frechet.md

which goes on from the rows in the file, so that models and guidance can be added one by one. A cell is the Fréchet
distance between the pictures drawn and the real ones, smaller is better, and in parentheses the share of pictures that
the classifier takes for the class asked for. All samplers start from the same noise and draw the classes as often as
the data have them. {_about(judge)} Distances of sets of different sizes cannot
be compared: small sets have larger ones. Many calls do not bring the distance to zero either, since what is drawn then
is the model's own distribution.

{table(rows, judge)}"""


def _about(judge):
    if not isinstance(judge, classifier.Judge):
        return f"The features ({len(judge.real.mean)} numbers) are those of the judge {judge.name}."
    return f"""The features are the last layer but one ({classifier.FEATURES} numbers) of a small classifier that
knows {judge.about["accuracy"]:.0%} of the emoji held out from its training."""


def _table(rows, judge):
    first, cells = rows[0], {(row["sampler"], row["calls"]): row for row in rows}
    samplers = {row["sampler"]: row["label"] for row in rows if row["sampler"] != "converged"}
    calls = sorted({row["calls"] for row in rows if row["sampler"] != "converged"})
    body = [
        [label, *(_cell(cells.get((sampler, n))) for n in calls)]
        for sampler, label in sorted(samplers.items(), key=lambda item: [*SAMPLERS, item[0]].index(item[0]))
    ]
    bias = sampling_bias(judge.real, first["images"])
    notes = [f"- Heun, {row['calls']} calls: {_cell(row)}" for row in rows if row["sampler"] == "converged"] + [
        f"- {first['images']} draws from the Gaussian of the real features, the bias of a set of that size: {bias:.3f}",
    ]
    if judge.floor is not None:
        notes.append(f"- one half of the real pictures against the other: {judge.floor:.3f}")
    guidance = "" if first["guidance"] is None else f", guidance {first['guidance']:g}"
    title = f"{first['model']}{guidance}, {first['grid']} grid, {first['images']} pictures"
    return "\n\n".join([f"## {title}", markdown(["model calls", *map(str, calls)], body), "\n".join(notes)])


def _cell(row):
    if not row:
        return ""
    return f"{row['frechet']:.3f}" + ("" if row["accuracy"] is None else f" ({row['accuracy']:.2f})")


def _set(row):
    return tuple((row[name] is not None, row[name]) for name in SET)  # None sorts before numbers


def _key(row):
    return tuple(row[name] for name in KEY)


def _name(tensor):
    """Return a number that tells one tensor from another and survives rounding, as text."""
    return f"{wide(tensor).square().mean().item():.4e}"
