"""Quality of sets of pictures: Fréchet distance to the real ones in the features of a small classifier."""

import itertools
from dataclasses import dataclass, replace

import torch

from .. import gallery, zoo
from ..denoiser import CallCounter
from ..device import wide
from ..reference import seeded
from ..schedules import schedule
from . import classifier
from .moments import frechet, moments, sampling_bias
from .report import markdown
from .work_precision import SAMPLERS

CALLS, COUNT, BATCH = (6, 8, 10, 15), 2000, 50
PROBE = 4  # pictures by which a stored row is recognised as still true
CONVERGED = 64  # calls of Heun that stand for the exact solution: what is left is the model's own distance
SHAPE = (3, 32, 32)
GRIDS = {"ve": "karras", "flow": "flow"}  # by path: what a person would take
SET = ("model", "guidance", "grid", "images", "seed", "judge")  # one table each
KEY = (*SET, "sampler", "calls")


@dataclass(frozen=True)
class Task:
    """What every sampler has to draw: pictures of ``labels`` (N,), picture i from the noise of seed ``seed + i``."""

    model: object
    labels: torch.Tensor
    guidance: float
    grid: str
    seed: int
    device: str = "cpu"

    def draw(self, sampler, calls, part):
        """Return (pictures, model calls made) of the pictures ``part`` (a slice), on the task's device."""
        model, seeds = CallCounter(self.model), range(self.seed, self.seed + len(self.labels))[part]
        sigmas = schedule(self.grid, sampler.steps(calls), self.model)
        x = (sigmas[0] * gallery.noise(seeds, SHAPE)).to(self.device)
        extra = {"labels": self.labels[part].to(self.device), "guidance": self.guidance}
        with torch.no_grad():
            drawn = seeded(sampler.run, seeds)(model, x, sigmas.to(self.device), extra_args=extra, disable=True)
        if model.calls > calls:
            raise RuntimeError(f"{sampler.label} made {model.calls} model calls where {calls} were allowed")
        return drawn, model.calls


def make_labels(odds, count, seed=0):
    """Return labels (count,) whose shares are ``odds`` (K,) as nearly as can be, in random order."""
    edges = odds.double().cumsum(0) / odds.double().sum()
    labels = torch.searchsorted(edges, (torch.arange(count, device="cpu") + 0.5) / count).clamp(max=len(odds) - 1)
    return labels[torch.randperm(count, generator=torch.Generator("cpu").manual_seed(seed), device="cpu")]


def measure(task, judge, sampler, calls, batch=BATCH):
    """Return the row of numbers of one sampler: Fréchet distance, and the share of pictures judged to be of the class
    asked for; a picture that is not finite counts as grey."""
    features, right = [], 0
    for start in range(0, len(task.labels), batch):
        part = slice(start, start + batch)
        pictures, made = task.draw(sampler, calls, part)
        found, classes = judge(pictures.nan_to_num(nan=0.0))
        features.append(found.cpu())
        right += int((classes.cpu() == task.labels[part]).sum())
    return {
        "label": sampler.label,
        "made": made,
        "frechet": frechet(judge.real, moments(torch.cat(features))),
        "accuracy": right / len(task.labels),
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
        model: a name of the zoo, or a model of its call shape with sigma_min, sigma_max, sigmas and path.
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
        judge: a classifier.Judge instead of the embedded one.

    Returns:
        One dict for each sampler and number of calls: ``frechet``, ``accuracy`` and what they were measured on.

    Raises:
        RuntimeError: a sampler that makes more calls than it was given.
        ValueError: no such model, no classifier, or fewer than two pictures.
    """
    if count < 2:
        raise ValueError(f"count is {count}: a set of pictures has at least 2")
    judge = (judge or classifier.load()).to(device)
    name, net = (model, zoo.load(model).to(device)) if isinstance(model, str) else (type(model).__name__, model)
    task = Task(net, make_labels(judge.odds, count, seed), float(guidance), GRIDS[net.path.name], seed, device)
    samplers = SAMPLERS if samplers is None else samplers
    jobs = [(sampler, samplers[sampler], n) for n, sampler in itertools.product(calls, samplers)]
    if converged:
        jobs.append(("converged", replace(SAMPLERS["heun"], label="converged"), converged))
    known, rows = {_key(row): row for row in reuse}, []
    labels = dict(zip(SET, (name, task.guidance, task.grid, count, seed, _name(judge.real.mean)), strict=True))
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


def page(rows, judge=None):
    """Return the page of the docs: what was measured, the tables, how to do it again."""
    judge = judge or classifier.load()
    return f"""# Quality of sets of pictures

This page is written by the bench; run it again with

    python -m isdo bench --suite frechet --model eps --json out/frechet.json --doc docs/frechet.md

which goes on from the rows in the file, so that models and guidance can be added one by one. A cell is the Fréchet
distance between the pictures drawn and the real ones, smaller is better, and in parentheses the share of pictures that
the classifier takes for the class asked for. All samplers start from the same noise and draw the classes as often as
the data have them. The features are the last layer but one ({classifier.FEATURES} numbers) of a small classifier that
knows {judge.about["accuracy"]:.0%} of the emoji held out from its training. Distances of sets of different sizes cannot
be compared: small sets have larger ones. Many calls do not bring the distance to zero either, since what is drawn then
is the model's own distribution.

{table(rows, judge)}"""


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
        f"- one half of the real pictures against the other: {judge.about['floor']:.3f}",
    ]
    title = f"{first['model']}, guidance {first['guidance']:g}, {first['grid']} grid, {first['images']} pictures"
    return "\n\n".join([f"## {title}", markdown(["model calls", *map(str, calls)], body), "\n".join(notes)])


def _cell(row):
    return f"{row['frechet']:.3f} ({row['accuracy']:.2f})" if row else ""


def _set(row):
    return tuple(row[name] for name in SET)


def _key(row):
    return tuple(row[name] for name in KEY)


def _name(tensor):
    """Return a number that tells one tensor from another and survives rounding, as text."""
    return f"{wide(tensor).square().mean().item():.4e}"
